import copy
import dataclasses
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import tastes  # noqa: E402
import tiny_llm  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from offline_train.alignment import align  # noqa: E402
from offline_train.alignment_config import AlignmentConfig  # noqa: E402
from offline_train.alignment_maps import TextMap  # noqa: E402
from offline_train.alignment_samples import AlignmentBatch, DrawConfig, Drawer  # noqa: E402
from offline_train.corpus import Corpus, temporal_split  # noqa: E402
from offline_train.embedding import CorpusTexts, PooledStore  # noqa: E402
from offline_train.llm import LLM, LoraSettings  # noqa: E402
from offline_train.log import VIEW  # noqa: E402
from offline_train.sr import SR  # noqa: E402

pytestmark = pytest.mark.train
QUICK = AlignmentConfig(
    samples=24,
    batch=8,
    head_samples=48,
    head_epochs=1,
    replay=1,
    z_samples=16,
    z_steps=20,
    text_tokens=6,
    micro_tokens=700,
    checkpoint_steps=1,
    threads=1,
    dropout=0.0,
    lora=LoraSettings(dropout=0.0),
    draw=DrawConfig(history=4, prompt_history=2),
)

LLM_ONLY = dataclasses.replace(QUICK, head_epochs=0, replay=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    corpus = Corpus.build(tastes.log())
    return corpus, temporal_split(corpus), tiny_llm.make(tmp_path_factory.mktemp("tiny"))


def run(data, folder, config=QUICK, progress=lambda done, steps, point: None, embedding=lambda done, total, rate: None):
    corpus, split, model = data
    llm = LLM.load(str(model))
    llm.compute_in_bf16_if_possible = lambda: False  # runs are compared to the fifth digit
    store = PooledStore(llm, folder / "cache", config.text_tokens)
    return align(corpus, split, llm, store, config, folder / "stage1", progress=progress, embedding=embedding)


def losses(aligned):
    return [dataclasses.replace(point, seconds=0.0) for point in aligned.curve]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("whole"))


def test_a_run_that_was_stopped_goes_on_to_the_same_result(data, whole, tmp_path):
    def stop(done, steps, point):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        run(data, tmp_path, progress=stop)
    steps = []
    again = run(data, tmp_path, progress=lambda done, steps_, point: steps.append(done))
    assert steps == [3]
    assert losses(again) == losses(whole)
    weights = whole.heads.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.heads.state_dict().items())


def test_the_gradient_cache_is_exact(data, whole, tmp_path):
    """One sample at a time gives what the whole batch at once gives."""
    at_once = run(data, tmp_path, dataclasses.replace(QUICK, micro_tokens=100_000))
    for a, b in zip(losses(at_once), losses(whole), strict=True):
        assert dataclasses.astuple(a) == pytest.approx(dataclasses.astuple(b), abs=2e-3)


def test_the_text_mlp_learns_as_fast_as_it_is_told(data, whole, tmp_path):
    still = run(data, tmp_path / "0", dataclasses.replace(QUICK, learning_rate=0.0, head_learning_rate=0.0))
    where = still.heads.state_dict()

    def moved(aligned, part):
        return max(
            (value - where[name]).abs().max().item()
            for name, value in aligned.heads.state_dict().items()
            if name.startswith(part)
        )

    held, slow = (run(data, tmp_path / f"{rate}", dataclasses.replace(QUICK, map_rate=rate)) for rate in (0.0, 0.01))
    assert moved(held, "maps.title.") == 0
    assert 0 < moved(slow, "maps.title.") < 0.1 * moved(whole, "maps.title.")
    for aligned in (held, slow, whole):
        assert moved(aligned, "text.") > 1e-4
        assert any(value.abs().sum() > 0 for name, value in aligned.llm.lora().items() if "lora_B" in name)


def test_texts_can_be_cut_earlier_in_prompts_than_where_their_vectors_are_read(data, tmp_path):
    plain = dataclasses.replace(QUICK, samples=8, head_epochs=0, z_samples=0, replay=0)
    at_all, short = (run(data, tmp_path / f"{n}", dataclasses.replace(plain, prompt_tokens=n)) for n in (0, 2))
    (before,), (after,) = at_all.curve, short.curve
    assert after.tokens < before.tokens
    assert abs(after.lm - before.lm) > 1e-3
    assert after.rec == pytest.approx(before.rec, abs=1e-5), "vectors of texts are the same"


def test_lora_learns_nothing_from_vectors_of_comments_that_are_read_as_they_came(data, tmp_path, monkeypatch):
    learned = []  # rows that are read with gradients, for their vectors
    pooled = LLM.pooled

    def spy(llm, rows):
        learned.extend(tuple(row) for row in rows if torch.is_grad_enabled())
        return pooled(llm, rows)

    monkeypatch.setattr(LLM, "pooled", spy)
    corpus, _, model = data
    llm, log = LLM.load(str(model)), corpus.log
    titles, comments = ({tuple(row) for row in llm.tokens(t, 6)} for t in (log.video_titles, log.comment_texts))
    for came in (False, True):
        learned.clear()
        run(data, tmp_path / f"{came}", dataclasses.replace(LLM_ONLY, z_samples=0, comments_as_came=came))
        assert set(learned) & titles
        assert bool(set(learned) & (comments - titles)) != came


def test_the_map_to_z_begins_below_chance_and_the_rest_as_it_was(data, tmp_path):
    settings = dataclasses.replace(QUICK, z_samples=48, z_steps=150, head_epochs=0, learning_rate=0.0, replay=0)
    read = []
    aligned = run(data, tmp_path / "with", settings, embedding=lambda done, total, rate: read.append((done, total)))
    assert (48, 48) in read, "reading the prompts takes minutes, and is shown"
    plain = run(data, tmp_path / "without", dataclasses.replace(settings, z_samples=0))
    assert aligned.z_start < -0.3
    everything = run(data, tmp_path / "all", dataclasses.replace(settings, samples=0))
    assert np.isfinite(everything.z_start), "also where no sample is left over for it"
    assert plain.z_start is None
    assert aligned.curve[0].z < plain.curve[0].z
    for name, value in aligned.heads.state_dict().items():
        if "z" not in name.split(".")[0].split("_"):
            assert torch.equal(value, plain.heads.state_dict()[name]), name


def test_straightened_texts_point_where_they_did_and_lie_as_stage_2_expects(whole):
    heads = copy.deepcopy(whole.heads)
    pooled = torch.randn(300, heads.maps.title.down.in_features)
    before = heads.text(heads.maps.title(pooled))
    with torch.no_grad():
        heads.text.weight *= 500  # as long as texts get, where nothing but cosines to them is asked for
    heads.straighten(pooled)
    vectors = heads.maps.title(pooled)
    mapped = heads.text(vectors)
    assert torch.allclose(F.normalize(mapped, dim=-1), F.normalize(before, dim=-1), atol=1e-4)
    assert mapped.norm(dim=-1).mean().item() == pytest.approx(0.2, rel=1e-4)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(300), atol=1e-4)
    spread = vectors.square().mean(0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all()


@pytest.fixture(scope="module")
def apart(data, tmp_path_factory):
    """Titles' MLP learns, comments' stands still."""
    return run(data, tmp_path_factory.mktemp("apart"), dataclasses.replace(QUICK, comment_map_rate=0.0))


def test_comments_can_have_a_text_mlp_of_their_own(data, apart, tmp_path):
    config = dataclasses.replace(QUICK, comment_map_rate=0.0, learning_rate=0.0, head_learning_rate=0.0)
    where = run(data, tmp_path / "half", config).heads.state_dict()
    plain = run(data, tmp_path / "plain", dataclasses.replace(config, equalised=0.0)).heads.state_dict()
    assert plain["maps.title.up.weight"].equal(where["maps.title.up.weight"])
    assert not plain["maps.comment.up.weight"].equal(where["maps.comment.up.weight"]), "as align.equalised says"
    after = apart.heads.state_dict()
    assert where["maps.title.down.weight"].equal(where["maps.comment.down.weight"]), "both start from one analysis"
    assert after["maps.comment.up.weight"].equal(where["maps.comment.up.weight"])
    for learned in ("maps.title.up.weight", "text.weight", "comment_text"):
        assert not after[learned].equal(where[learned]), learned
    assert not after["text.weight"].equal(after["comment_text"])


def test_each_map_reads_its_own_kind_of_text(data, apart):
    corpus, split, _ = data
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), QUICK.draw, 0)
    drawn = [drawer.draw(int(row)) for row in drawer.choose(12)]
    batch = AlignmentBatch.of(drawn)
    pooled = torch.randn(len(batch.texts), apart.llm.dim)
    is_video = torch.tensor([d.kind == VIEW for d in drawn])
    assert is_video.any()
    assert not is_video.all()
    for changed, moves in (("title", is_video), ("comment", ~is_video)):
        heads = copy.deepcopy(apart.heads).eval()
        before = heads.preferences(batch, pooled)[2]
        with torch.no_grad():
            getattr(heads.maps, changed).up.bias += torch.randn(heads.text.in_features)
        after = heads.preferences(batch, pooled)[2]
        assert torch.equal((after - before).abs().amax(1) > 1e-4, moves), f"targets read by the map of {changed}s"


def test_no_text_is_read_as_what_it_is_not(data, apart):
    corpus, split, _ = data
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), QUICK.draw, 0)
    batch = AlignmentBatch.of([drawer.draw(int(row)) for row in drawer.choose(12)])
    at, pooled = batch.columns, torch.randn(len(batch.texts), apart.llm.dim)
    is_video = at["kind"] == VIEW
    kinds = {
        "title": (at["video_title"], at["comment_title"], at["query"], at["target"][is_video]),
        "comment": (at["video_comment"], at["comment_text"], at["target"][~is_video]),
    }
    for kind, columns in kinds.items():
        used = np.unique(np.concatenate([column.ravel() for column in columns]))
        poison = torch.full((len(pooled), 1), torch.nan)
        poison[torch.from_numpy(used[used < len(pooled)])] = 0
        assert poison.isnan().any()
        heads = copy.deepcopy(apart.heads).eval()
        getattr(heads.maps, kind).register_forward_hook(lambda module, given, out, poison=poison: out + poison)
        for vectors in heads.preferences(batch, pooled):
            assert vectors.isfinite().all(), kind


def test_comments_whose_mlp_did_not_learn_get_the_components_of_the_vectors_that_there_are(apart):
    heads = copy.deepcopy(apart.heads)
    rows = 3 + torch.randn(300, apart.llm.dim) * torch.linspace(1, 4, apart.llm.dim)
    fresh = TextMap(apart.llm.dim, heads.text.in_features)
    torch.nn.init.normal_(heads.comment_text)  # as if stage 1 had made something else of it
    for fit in (heads.comments_by_components, fresh.fit):
        torch.manual_seed(0)
        fit(rows, 0.5)
    heads.straighten(rows)
    vectors = heads.maps.comment(rows)
    assert torch.allclose(vectors @ vectors.T, fresh(rows) @ fresh(rows).T, atol=1e-4)
    mapped = F.linear(vectors, heads.comment_text)
    leading = F.normalize(vectors[:, : mapped.shape[1]], dim=-1)
    both = [rows @ rows.T for rows in (F.normalize(mapped, dim=-1), leading)]
    assert torch.allclose(*both, atol=0.05), "A takes the strongest"
    assert mapped.norm(dim=-1).mean().item() == pytest.approx(0.2, rel=1e-4)


def test_straightened_comments_point_where_they_did(apart):
    heads = copy.deepcopy(apart.heads)
    pooled = torch.randn(300, apart.llm.dim)
    before = F.linear(heads.maps.comment(pooled), heads.comment_text)
    heads.straighten(pooled)
    after = F.linear(heads.maps.comment(pooled), heads.comment_text)
    assert torch.allclose(F.normalize(after, dim=-1), F.normalize(before, dim=-1), atol=1e-4)
    assert after.norm(dim=-1).mean().item() == pytest.approx(0.2, rel=1e-4)
    start = heads.start()
    model = SR(dataclasses.replace(heads.config, videos=3))
    model.load_state_dict(start, strict=False)
    assert torch.allclose(model.comment_map(heads.maps.comment(pooled)), after, atol=1e-6)


def test_how_long_a_makes_texts_changes_nothing(data, whole):
    """Else training makes them so long that nothing but the profile is heard."""
    corpus, split, _ = data
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), QUICK.draw, 0)
    batch = AlignmentBatch.of([drawer.draw(int(row)) for row in drawer.choose(6)])
    heads = copy.deepcopy(whole.heads).eval()
    pooled = torch.randn(len(batch.texts), whole.llm.dim)
    before = heads.preferences(batch, pooled)
    with torch.no_grad():
        heads.text.weight *= 500
    for one, other in zip(before, heads.preferences(batch, pooled), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_it_refuses_a_checkpoint_of_another_configuration(data, tmp_path):
    run(data, tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        run(data, tmp_path, dataclasses.replace(QUICK, seed=1))


def test_two_processes_give_the_losses_of_one(data, tmp_path):
    one = run(data, tmp_path / "one", LLM_ONLY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, pathlib; sys.path[:0] = ['tests/offline_train']\n"
        "import test_alignment as t, tastes\n"
        "from offline_train.processes import join, place\n"
        "join(); corpus = t.Corpus.build(tastes.log())\n"
        "aligned = t.run((corpus, t.temporal_split(corpus), sys.argv[1]), pathlib.Path(sys.argv[2]), t.LLM_ONLY)\n"
        "if not place()[0]:\n"
        "    for p in t.losses(aligned): print('POINT', p.lm, p.rec, p.behaviour, p.z)\n"
    )
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(data[2]), str(tmp_path / "two")],
            env={**os.environ, "PYTHONPATH": os.getcwd(), **environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    output = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    points = [list(map(float, line.split()[1:])) for line in output[0].splitlines() if line.startswith("POINT")]
    expected = [[p.lm, p.rec, p.behaviour, p.z] for p in one.curve]
    assert points[0] == pytest.approx(expected[0], abs=1e-4)
    # Some gradients are zero but for rounding (of keys' biases, which softmax cancels), and Adam makes whole steps of
    # them: from the second step on, the order in which floats were added shows.
    assert np.array(points) == pytest.approx(np.array(expected), rel=1e-2)
