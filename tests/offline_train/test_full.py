import dataclasses
import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import numpy as np
import tastes
import tiny_llm
import torch
from click.testing import CliRunner

from infra.cli import main
from model_runtime.registry import Registry
from model_runtime.scorer import Scorer
from offline_train import llm_texts
from offline_train.alignment_maps import TextMaps
from offline_train.corpus import Corpus, temporal_split
from offline_train.embedding import CorpusTexts, PooledStore
from offline_train.full import llm_vectors, load_reader, read_config
from offline_train.log import Log
from offline_train.text import text_vectors

pytestmark = pytest.mark.train
YAML = """
align: {samples: 16, batch: 8, head_epochs: 0, text_tokens: 6, micro_tokens: 700, threads: 1,
        draw: {history: 4, prompt_history: 2}}
finetune: {epochs: 1, batch: 64, threads: 1}
test: false
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    log = folder / "log"
    log.mkdir()
    tastes.write(log)
    model = tiny_llm.make(folder / "model")
    path = folder / "config.yaml"
    path.write_text(f"log: {log}\nregistry: {folder}/registry\ncache: {folder}/cache\nllm: {model}\n{YAML}")
    results = []
    for _ in range(2):
        result = CliRunner().invoke(main, ["train", "full", "--config", str(path), "--json"])
        assert result.exit_code == 0, result.output
        results.append((json.loads(result.stdout), result.stderr))
    return folder, path, results


def test_it_publishes_a_model_that_serves_and_a_report(ran):
    folder, _, [(summary, _), _] = ran
    assert Scorer(Registry(folder / "registry").open(summary["version"])).check_sample() > 0
    report = json.loads((folder / "registry" / "reports" / summary["version"] / "full.json").read_bytes())
    assert len(report["stage1"]["curve"]) == 2
    assert set(report["seconds"]) == {"stage 1", "embedding", "stage 2"}
    assert list((folder / "cache" / "stage1").glob("*/curves.png"))


def test_a_second_run_takes_up_what_is_there_and_ends_the_same(ran):
    _, _, [(first, _), (second, _)] = ran
    assert first["metrics"]["validation"] == second["metrics"]["validation"]


def test_the_vectors_come_by_the_door_of_the_others(ran):
    folder, _, _ = ran
    log = Log.read(folder / "log")
    (texts,) = (folder / "cache" / "texts").iterdir()
    vectors = text_vectors(log, f"llm:{texts}")
    assert vectors.video.shape == (24, 256)
    assert vectors.start is not None
    assert text_vectors(log, f"llm-text:{texts}").start is None
    known = CorpusTexts.of(log, temporal_split(Corpus.build(log)).valid_ms)
    rows = dict(zip((*log.video_titles, *log.comment_texts), (*vectors.video, *vectors.comment), strict=True))
    early = np.array([rows[text] for text, early in zip(known.distinct, known.early, strict=True) if early])
    assert np.linalg.norm(early, axis=1).mean() == pytest.approx(1, abs=1e-3), "as stage 2 expects them"
    same = [i for i, text in enumerate(log.comment_texts) if text == log.comment_texts[0]]
    assert (vectors.comment[same] == vectors.comment[0]).all()
    llm_texts.write(folder / "few", llm_texts.Part(["another text"], np.zeros((1, 256)), {}))
    with pytest.raises(ValueError, match="lacks vectors"):
        llm_texts.read(folder / "few", log)


def test_without_stage_1_texts_are_equalised_as_the_configuration_says(ran, tmp_path):
    folder, path, _ = ran
    corpus = Corpus.read(folder / "log")
    made = []
    for power in ("0", "0.5"):
        config = read_config(path, {"stage1": "false", "cache": str(tmp_path), "align.equalised": power})
        made.append(llm_vectors(config, corpus, temporal_split(corpus)).folder)
    plain, half = (text_vectors(corpus.log, f"llm:{where}").comment for where in made)
    first = [np.square(vectors[:, 0]).mean() for vectors in (plain, half)]
    assert first[0] > 1.2 * first[1], "the strongest component has more of a vector where it was not weakened"


@pytest.mark.parametrize("came", [False, True])
def test_comments_are_read_by_the_language_model_that_the_configuration_says(ran, tmp_path, came):
    folder, path, _ = ran
    corpus = Corpus.read(folder / "log")
    log = corpus.log
    config = read_config(path, {"cache": str(tmp_path), "align.comments_as_came": str(came).lower()})
    made = llm_vectors(config, corpus, temporal_split(corpus))
    unchanged, aligned = load_reader(config.llm, tmp_path, config.align), made.aligned.llm
    vectors = text_vectors(log, f"llm:{made.folder}")
    comments = np.isin(log.video_titles, log.comment_texts)  # titles that a comment says as well: read as that
    titles = [title for title, said in zip(log.video_titles, comments, strict=True) if not said]
    for texts, found, llm in (
        (titles, vectors.video[~comments], aligned),
        (log.comment_texts, vectors.comment, unchanged if came else aligned),
    ):
        store = PooledStore(llm, tmp_path / "other", config.align.text_tokens)
        expected = made.aligned.heads.maps.title.vectors(store.vectors(texts))
        assert np.allclose(found, expected, atol=1e-3)
    both = [PooledStore(llm, tmp_path / "other", 6).vectors(log.comment_texts) for llm in (unchanged, aligned)]
    by_either = [made.aligned.heads.maps.title.vectors(pooled) for pooled in both]
    assert not np.allclose(*by_either, atol=5e-3), "else this could not tell them apart"


def test_comments_whose_mlp_rests_are_read_by_components_of_the_aligned_model(ran, tmp_path):
    folder, path, _ = ran
    corpus = Corpus.read(folder / "log")
    split = temporal_split(corpus)
    config = read_config(path, {"cache": str(tmp_path), "align.comment_map_rate": "0"})
    made = llm_vectors(config, corpus, split)
    unchanged, aligned = load_reader(config.llm, tmp_path, config.align), made.aligned.llm
    known = CorpusTexts.of(corpus.log, split.valid_ms)
    early = known.some(known.early)
    kept = torch.load(made.folder / "comment_map.pt", weights_only=True)["standard.mean"].numpy()
    means = [PooledStore(llm, tmp_path / "other", 6).vectors(early).mean(0) for llm in (aligned, unchanged)]
    assert np.allclose(kept, means[0], atol=1e-4)
    assert not np.allclose(kept, means[1], atol=1e-3), "else this could not tell them apart"
    one = text_vectors(corpus.log, f"llm:{made.folder}")
    torch.manual_seed(12345)
    other = text_vectors(corpus.log, f"llm:{llm_vectors(config, corpus, split).folder}")  # the same folder, anew
    assert np.array_equal(one.comment, other.comment)


def test_titles_and_comments_can_have_vectors_of_their_own(ran, tmp_path):
    log = Log.read(ran[0] / "log")
    both = log.comment_texts[0]  # a text that is a title as well is read as what it stands for
    titles = [*log.video_titles[1:], both]
    log = dataclasses.replace(log, video_titles=titles)
    known = CorpusTexts.of(log, temporal_split(Corpus.build(log)).valid_ms)
    pooled = np.random.default_rng(0).normal(size=(len(known.distinct), 12)).astype(np.float32)
    maps = TextMaps(12, 8, apart=True)
    llm_texts.write(tmp_path / "texts", *maps.parts(pooled, known))
    video, comment = llm_texts.read(tmp_path / "texts", log)
    expected = maps.of_log(pooled, known, "x")
    assert np.array_equal(video, expected.video)
    assert np.array_equal(comment, expected.comment)
    assert not np.allclose(video[-1], comment[0], atol=1e-3)
    crossed = llm_texts.read_crossed(tmp_path / "texts", log)
    assert np.array_equal(crossed[0][-1], comment[0])
    assert np.array_equal(crossed[1][0], video[-1])
    (apart, together) = dataclasses.replace(
        text_vectors(log, f"llm:{tmp_path / 'texts'}"), start={"text.weight": 0, "encoder.pooling.up.bias": 0}
    ).alternatives()
    assert list(apart.start) == ["text.weight"], "of stage 1's SR only what brings texts to it"
    assert np.array_equal(together.video, crossed[0])
    assert np.array_equal(text_vectors(log, f"llm-text:{tmp_path / 'texts'}").video, crossed[0])


def test_a_mistyped_key_is_named(ran):
    _, path, _ = ran
    with pytest.raises(ValueError, match=r"unknown key align\.bach"):
        read_config(path, {"align.bach": "3"})
    result = CliRunner().invoke(main, ["train", "full", "--config", str(path), "--set", "align.batch=many"])
    assert result.exit_code == 1
    assert "align.batch" in result.output
    with pytest.raises(ValueError, match=r"<= 1.*align\.equalised"):
        read_config(path, {"align.equalised": "2"})


@pytest.mark.parametrize("name", ["paper", "rotten-tomatoes"])
def test_the_shipped_configurations_are_valid(name):
    assert read_config(f"infra/training/{name}.yaml").stage1
