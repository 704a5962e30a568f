"""What the study adds to training: what RecBole is asked, live signals left out, figures over time, the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline_train.comparison import ORACLE
from offline_train.corpus import Corpus, temporal_split
from offline_train.evaluation import Result, evaluate
from offline_train.live_fitting import Lists
from offline_train.log import VIEW, Log
from offline_train.metrics import Ranks, summary
from offline_train.protocols import Protocols
from offline_train.sources.oracle import Oracle
from offline_train.sources.simulator import Simulator, SimulatorConfig
from offline_train.study import over_time, recbole, text_report, texts
from offline_train.study.live_ablation import Remembered, Silent, only
from offline_train.study.simulated import ORACLE_FILE, OracleScorer
from offline_train.study.texts import FULL, RAW

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated")
    Simulator(SimulatorConfig(users=200, videos=120, comments=600, days=10, interactions=4000)).write(out)
    return out


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus.build(Log.read(folder))


def test_recbole_learns_from_training_alone_and_is_asked_every_video_question_of_the_test(corpus: Corpus) -> None:
    split = temporal_split(corpus)
    task, events = recbole.export(corpus, split)
    samples = corpus.samples
    until = corpus.log.ts_ms[events[0]]
    assert until >= split.test_ms
    views = samples.take(split.test)
    assert events.tolist() == views.event_index[views.kind == VIEW].tolist()
    assert np.diff(task["train_offsets"]).min() >= 1
    assert np.diff(task["train_offsets"]).max() <= recbole.LENGTH
    learned = set(samples.target_video[split.train].tolist())
    assert set(task["train_target"].tolist()) | set(task["valid_target"].tolist()) <= learned
    # The last history is that of the last question, newest video last.
    last = int(np.flatnonzero(samples.event_index == events[-1])[0])
    newest = corpus.videos[corpus.video_offsets[samples.user[last]] : samples.video_end[last]][-recbole.LENGTH :]
    assert task["test_items"][task["test_offsets"][-2] :].tolist() == newest.tolist()


def test_what_one_seed_says_of_stage_1_is_not_said_to_be_beyond_a_spread(tmp_path: Path) -> None:
    def result(model: str, above: list[int]) -> Result:
        ranks = Ranks(np.array(above * 50), np.ones(len(above) * 50, np.int64))
        return Result("video", "as-of", "temporal", model, summary(ranks), {"ranked": len(ranks)}, 0.0, ranks=ranks)

    better, worse, between = [0, 0, 1], [5, 9, 30], [0, 0, 2]
    one = {FULL: [result(FULL, better)], RAW: [result(RAW, worse)]}
    assert text_report._pays("x", "video", "as-of", one).endswith("one seed, so without a spread of seeds.")
    two = {FULL: [result(FULL, better), result(FULL, between)], RAW: [result(RAW, worse), result(RAW, worse)]}
    said = text_report._pays("x", "video", "as-of", two)
    assert "lsvcr is above no-stage-1" in said
    assert "beyond the seeds' spread (0.0" in said
    # The seeds agree, and the targets do not: what may be no difference is not beyond anything.
    near, like = [0, 5] * 3 + [0], [5, 0] * 3 + [1]
    two = {FULL: [result(FULL, near), result(FULL, near)], RAW: [result(RAW, like), result(RAW, like)]}
    said = text_report._pays("x", "video", "as-of", two)
    assert "lsvcr is not told apart from no-stage-1 by targets (+0.0" in said
    assert "seeds" not in said

    alone = " (videos alone)"  # each stage 2 is compared with its like
    each = [result(FULL, worse), result(RAW, better), result(FULL + alone, better), result(RAW + alone, worse)]
    whole = text_report.section("x", "x", each, "How.", tmp_path)
    assert "- Videos, as-of: lsvcr is below no-stage-1 by targets" in whole
    assert "- Videos, as-of: lsvcr (videos alone) is above no-stage-1 (videos alone) by targets" in whole


def test_answers_belong_to_their_questions(corpus: Corpus) -> None:
    split = temporal_split(corpus)
    _, events = recbole.export(corpus, split)
    videos = len(corpus.log.video_ids)
    vectors = {
        "users": np.arange(len(events), dtype=np.float32)[:, None],
        "items": np.ones((videos, 1), np.float32),
        "known": np.arange(videos) > 0,
    }
    scorer = recbole.RecBoleScorer(vectors, events)
    rows = split.test[corpus.samples.kind[split.test] == VIEW]
    done = 0
    for queries, _ in Protocols(corpus.log).batches("video", corpus.samples, rows):
        scores = scorer.scores(queries)
        assert scores[:, 1].tolist() == list(range(done, done + len(queries)))
        assert np.isneginf(scores[:, 0]).all()
        done += len(queries)
    early = split.train[corpus.samples.kind[split.train] == VIEW]
    queries, _ = next(Protocols(corpus.log).batches("video", corpus.samples, early))
    with pytest.raises(ValueError, match="no answer"):
        scorer.scores(queries)


def test_the_oracle_ranks_better_than_chance_on_both_tasks(corpus: Corpus, folder: Path) -> None:
    oracle = Oracle.load(folder / ORACLE_FILE)
    scorers = [OracleScorer(task, corpus.log, oracle) for task in ("video", "comment")]
    results = evaluate(corpus.log, corpus, temporal_split(corpus), scorers, limit=150)
    ranked = {(r.task, r.protocol): r for r in results}
    assert {r.model for r in results} == {ORACLE}
    assert not ranked["video", "full"].values  # it only knows what there is at the moment
    for task in ("video", "comment"):
        result = ranked[task, "as-of"]
        chance = 10 / result.candidates
        assert result.values["recall@10"] > min(0.95, 1.3 * chance)
        assert len(result.when_ms) == len(result.ranks)
        assert (np.diff(result.when_ms) >= 0).all()


def test_tenths_are_of_the_time_and_the_last_moment_counts() -> None:
    assert over_time.tenth_of(np.array([0, 9, 10, 99, 100]), 0, 100).tolist() == [0, 0, 1, 9, 9]
    ranks = Ranks(np.array([0, 100, 0]), np.ones(3, np.int64))
    result = Result(
        "video", "as-of", "temporal", "m", summary(ranks), {}, 1.0, ranks=ranks, when_ms=np.array([0, 5, 95])
    )
    rows = over_time.rows("Data", [result, result], 0, 100)
    assert [(row.metric, row.mean, row.seeds) for row in rows] == [
        ("ndcg@10 tenth 1", 0.5, 2),
        ("ndcg@10 tenth 10", 1.0, 2),
    ]


def test_a_feature_left_out_is_gone_and_the_others_stay() -> None:
    features = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    lists = Lists(features, np.zeros((1, 4), np.float32), np.ones((1, 4), bool), np.array([0]), ("a", "b", "c"))
    left = only(lists, ["a", "c"])
    assert left.names == ("a", "c")
    assert left.features.tolist() == features[:, :, [0, 2]].tolist()


class Counting:
    task = "comment"
    asked = 0

    def scores(self, queries: object) -> np.ndarray:
        self.asked += 1
        return np.ones(3, np.float32)


def test_variants_ask_the_sr_once_a_batch(corpus: Corpus) -> None:
    sr = Counting()
    remembered = Remembered(sr)  # type: ignore[arg-type]
    rows = np.flatnonzero(corpus.samples.kind != VIEW)[:5]
    queries, _ = next(Protocols(corpus.log).batches("comment", corpus.samples, rows))
    for _ in range(3):
        remembered.scores(queries)
    assert sr.asked == 1
    assert not Silent(sr).scores(queries).any()  # type: ignore[arg-type]


def test_rows_of_texts_differ_and_later_seeds_have_the_main_two(corpus: Corpus, tmp_path: Path) -> None:
    split = temporal_split(corpus)
    first, second = (list(texts.variants(corpus, split, tmp_path, texts.ALIGN, seed)) for seed in (0, 1))
    for rows in (first, second):
        assert len({(row.key, row.task) for row in rows}) == len({row.name for row in rows}) == len(rows)
    main = ["no-stage-1", "lsvcr"]
    assert [row.name for row in second] == main
    tasks = {row.name: (row.task, row.kinds) for row in first if row.task != "joint"}
    assert tasks == {f"{name} ({task}s alone)": (task, (task,)) for task in ("video", "comment") for name in main}
    assert {f"lsvcr without {what}" for what in texts.ABLATIONS} < {row.name for row in first} - set(main)
    short = [row.name for row in texts.variants(corpus, split, tmp_path, texts.ALIGN, 0, ablations=False)]
    assert short == [*main, *tasks]
    assert [row.name for row in first if row.unknown_first] == [*main, *(f"{name} (videos alone)" for name in main)]
    assert first[1].key != second[1].key, "another seed is another run of stage 1"
    assert first[0].key == second[0].key, "where there is none, only stage 2 differs"
