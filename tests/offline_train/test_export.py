import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxruntime  # noqa: E402
import tastes  # noqa: E402

from model_runtime.bundle import BundleError  # noqa: E402
from model_runtime.encoder import OUTPUTS  # noqa: E402
from model_runtime.ids import video_digest  # noqa: E402
from model_runtime.scorer import Request, Scorer  # noqa: E402
from offline_train.corpus import Corpus, choose_seen, final_states, temporal_split  # noqa: E402
from offline_train.export import encoder_onnx, export, with_metrics  # noqa: E402
from offline_train.finetuning import finetune  # noqa: E402
from offline_train.finetuning_config import FinetuneConfig  # noqa: E402
from offline_train.reference import CheckpointError, Reference, ReferenceRequest  # noqa: E402
from offline_train.sr import SRConfig, SREncoder  # noqa: E402
from offline_train.text import text_vectors  # noqa: E402
from streams.history import HistoryConfig  # noqa: E402

pytestmark = pytest.mark.train
DIM = 16
#: of `SREncoder.forward`, in its order
INPUTS = (
    *(f"video_{part}" for part in ("id", "title", "comment", "length")),
    *(f"comment_{part}" for part in ("id", "title", "text", "length")),
    "query",
)


@pytest.fixture(scope="module")
def data():
    log = tastes.log()
    corpus = Corpus.build(log, HistoryConfig(seen=choose_seen(log)))
    return corpus, temporal_split(corpus)


@pytest.fixture(scope="module")
def texts(data):
    return text_vectors(data[0].log, cutoff_ms=data[1].valid_ms)


@pytest.fixture(scope="module")
def finetuned(data, texts):
    config = FinetuneConfig(epochs=2, batch=64, threads=1)
    return finetune(*data, texts, config, SRConfig(len(data[0].log.video_ids), dim=DIM, feedforward=32))


@pytest.fixture(scope="module")
def bundle(finetuned, data, texts, tmp_path_factory):
    return export(finetuned, *data, texts, tmp_path_factory.mktemp("export") / "bundle")


@pytest.fixture(scope="module")
def session():
    torch.manual_seed(0)
    config = SRConfig(videos=1, dim=DIM, feedforward=32)
    encoder = SREncoder(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return onnxruntime.InferenceSession(encoder_onnx(encoder, config)), encoder.eval()


@pytest.mark.parametrize(
    ("users", "videos", "comments"), [(1, 1, 1), (1, 50, 50), (64, 50, 1), (64, 1, 50), (5, 7, 30), (2, 2, 2)]
)
def test_the_graph_equals_the_model_for_every_shape(session, users, videos, comments):
    graph, encoder = session
    random = np.random.default_rng(users * videos)

    def noise(*shape):
        return random.normal(size=(users, *shape, DIM)).astype(np.float32)

    feed = dict(
        zip(
            INPUTS,
            [
                *(noise(videos) for _ in range(3)),
                random.integers(0, videos + 1, users),
                *(noise(comments) for _ in range(3)),
                random.integers(0, comments + 1, users),
                noise(),
            ],
            strict=True,
        )
    )
    with torch.inference_mode():
        expected = encoder(*map(torch.from_numpy, feed.values()))
    for found, wanted in zip(graph.run(list(OUTPUTS), feed), expected, strict=True):
        assert found.shape == (users, DIM)
        assert np.abs(found - wanted.numpy()).max() < 1e-4


def test_the_bundle_holds_the_whole_catalog(bundle, data):
    log = data[0].log
    assert bundle.video_ids.tolist() == log.video_ids
    assert bundle.comment_ids.tolist() == log.comment_ids
    assert np.array_equal(bundle.comment_video, log.comment_video)
    assert bundle.comment_vectors.any(axis=1).all()
    assert np.allclose(np.linalg.norm(bundle.video_vectors, axis=1), 1, atol=1e-4)


def test_what_training_did_not_know_has_a_zero_id(bundle, data):
    corpus, split = data
    known = np.zeros(len(corpus.log.video_ids), bool)
    known[corpus.samples.target_video[split.train]] = True
    assert np.array_equal(bundle.video_id_vectors.any(axis=1), known)


def test_the_manifest_says_how_it_was_made(bundle, data, finetuned):
    corpus, split = data
    manifest = bundle.manifest
    assert (manifest.dim, manifest.window) == (DIM, 50)
    assert msgspec.convert(manifest.history, HistoryConfig) == corpus.config
    assert manifest.training["split"] == "temporal"
    assert manifest.training["valid_ms"] == split.valid_ms
    assert manifest.training["best_epoch"] == finetuned.best_epoch
    assert manifest.metrics["validation"]["video_ndcg@5"] == finetuned.curve[finetuned.best_epoch].video_ndcg5


def test_serving_answers_the_sample_as_pytorch_does(bundle):
    assert len(bundle.sample) > 4
    assert Scorer(bundle).check_sample(tolerance=1e-4) == len(bundle.sample)


def test_serving_equals_the_reference_for_every_users_state(bundle, finetuned, data):
    corpus, _ = data
    states = final_states(corpus.log, corpus.config)
    reference = Reference.of(finetuned, corpus).score_users(states)
    requests = [
        Request(
            state.video.videos,
            state.comment.videos,
            state.comment.comments,
            state.newest.video_id,
            [*state.seen.videos, *state.hated.videos],
        )
        for state in states.values()
    ]
    for user, ranking in zip(states, Scorer(bundle).score(requests), strict=True):
        expected = reference[user]
        assert ranking.video_ids
        assert np.allclose(ranking.video_scores, [score for _, score in expected.videos], atol=1e-4)
        assert np.allclose(ranking.comment_scores, [score for _, score in expected.comments], atol=1e-4)
        assert dict(zip(ranking.video_ids, ranking.video_scores, strict=True)) == pytest.approx(
            dict(expected.videos), abs=1e-4
        )


def test_the_reference_leaves_out_what_serving_does(finetuned, data):
    corpus, _ = data
    reference = Reference.of(finetuned, corpus)
    request = ReferenceRequest(["v0"], ["v1"], ["v2-c0"], "v2", [video_digest("v3")])
    (ranking,) = reference.rank([request])
    assert {name for name, _ in ranking.videos} == set(corpus.log.video_ids) - {"v0", "v1", "v2", "v3"}
    assert {name for name, _ in ranking.comments} == {f"v2-c{j}" for j in range(1, 8)}
    scores = [score for _, score in ranking.videos]
    assert scores == sorted(scores, reverse=True)


def test_users_without_anything_get_what_the_prior_prefers(bundle, finetuned, data):
    (ranking,) = Reference.of(finetuned, data[0]).rank([ReferenceRequest()], top_videos=3)
    prior = torch.nn.functional.normalize(finetuned.model.encoder.video_prior.detach(), dim=0).numpy()
    expected = np.sort(bundle.video_vectors @ prior / finetuned.model.config.temperature)[::-1][:3]
    assert np.allclose([score for _, score in ranking.videos], expected, atol=1e-4)
    assert ranking.comments == []


def test_a_checkpoint_gives_the_same_scores(finetuned, data, tmp_path):
    reference = Reference.of(finetuned, data[0])
    again = Reference.load(reference.save(tmp_path / "sub" / "model.pt"))
    requests = [ReferenceRequest(["v0", "gone"], ["v1"], ["v1-c0"], "v2")]
    assert again.rank(requests) == reference.rank(requests)


def test_what_is_no_checkpoint_is_refused(tmp_path, finetuned, data):
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Reference.load(tmp_path / "noise.pt")
    path = Reference.of(finetuned, data[0]).save(tmp_path / "old.pt")
    torch.save(torch.load(path, weights_only=True) | {"checkpoint_version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        Reference.load(path)


def test_metrics_are_added_to_the_same_version(bundle, tmp_path):
    again = with_metrics(bundle, tmp_path / "again", {"test": {"video full": {"LSVCR": 0.5}}})
    assert again.version == bundle.version
    assert again.manifest.metrics["test"]["video full"]["LSVCR"] == 0.5
    assert again.manifest.metrics["validation"] == bundle.manifest.metrics["validation"]
    assert again.sample == bundle.sample
    with pytest.raises(BundleError, match="exists"):
        with_metrics(bundle, tmp_path / "again", {})
