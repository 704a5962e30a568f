from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_model import make_model

from model_runtime.bundle import Bundle, BundleError, write_bundle
from model_runtime.files import UNFINISHED

MODEL = make_model(7, 9)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("bundle") / "b", metrics={"ndcg@10": 0.1}, sample=[]).path


@pytest.fixture
def copy(intact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "b")


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "bundle.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))


def replace(folder: Path, name: str, data: bytes) -> None:
    """Change a file and its checksum, so that only a look at the content can tell."""
    (folder / name).write_bytes(data)
    edit_manifest(folder, lambda m: m["files"].update({name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}}))


def replace_array(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / name, array)
    replace(folder, name, (folder / name).read_bytes())


def with_value(name: str, at: tuple[int, ...] | int, value: float) -> np.ndarray:
    array = MODEL.arrays[name].copy()
    array[at] = value
    return array


def test_what_is_written_is_what_opens(intact: Path) -> None:
    bundle = Bundle.open(intact)
    assert (bundle.version, bundle.dim, bundle.window) == ("20250101T000000Z-test", 8, 6)
    assert bundle.video_ids.tolist() == MODEL.video_ids
    assert bundle.comment_ids.tolist() == MODEL.comment_ids
    assert repr(bundle) == f"<Bundle 20250101T000000Z-test in {intact}: 7 videos, 9 comments>"
    for name, array in MODEL.arrays.items():
        np.testing.assert_array_equal(getattr(bundle, name), array)
        assert not getattr(bundle, name).flags.writeable
    assert bundle.manifest.history == {"window": 6, "drop": 2}
    assert bundle.manifest.metrics == {"ndcg@10": 0.1}
    assert bundle.manifest.counts.comments == 9
    assert bundle.sha256 == sha256((intact / "bundle.json").read_bytes()).hexdigest()
    assert set(bundle.manifest.files) == {p.name for p in intact.iterdir()} - {"bundle.json"}


def test_a_bundle_may_have_no_comments(tmp_path: Path) -> None:
    bundle = make_model(3, 0).write(tmp_path / "b")
    assert bundle.comment_vectors.shape == (0, 8)
    assert bundle.comment_ids.tolist() == []


def test_a_derived_version_sorts_by_time_and_tells_contents_apart(tmp_path: Path) -> None:
    def write(name: str, seed: int, created_ms: int) -> str:
        return make_model(3, 3, seed=seed).write(tmp_path / name, version=None, created_ms=created_ms).version

    first, other, later = write("a", 0, 1_735_689_600_000), write("b", 1, 1_735_689_600_000), write("c", 0, 2 * 10**12)
    assert first.startswith("20250101T000000Z-")
    assert first != other
    assert first.split("-")[1] == later.split("-")[1]
    assert max(first, other) < later


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing manifest": (lambda b: (b / "bundle.json").unlink(), r"bundle\.json: No such file"),
    "manifest is not JSON": (lambda b: (b / "bundle.json").write_text("{"), r"bundle\.json: .*truncated"),
    "manifest is not UTF-8": (lambda b: (b / "bundle.json").write_bytes(b'{"a":"\xff"}'), r"bundle\.json: "),
    "newer format": (
        lambda b: (b / "bundle.json").write_text('{"format_version": 2}'),
        r"bundle\.json: bundle format 2, .*reads 1; update this installation",
    ),
    "older format": (
        lambda b: edit_manifest(b, lambda m: m.update(format_version=0)),
        r"bundle format 0, .*export the model again",
    ),
    "manifest lacks a field": (lambda b: edit_manifest(b, lambda m: m.pop("counts")), r"bundle\.json: .*`counts`"),
    "no dim": (lambda b: edit_manifest(b, lambda m: m["model"].pop("dim")), r"model\.dim must be a positive integer"),
    "bad window": (lambda b: edit_manifest(b, lambda m: m["model"].update(window=0)), r"model\.window .*not 0"),
    "no videos": (lambda b: edit_manifest(b, lambda m: m["counts"].update(videos=0)), r"at least one video"),
    "bad version": (lambda b: edit_manifest(b, lambda m: m.update(version="../up")), r"'\.\./up' can't name a bundle"),
    "file outside": (
        lambda b: edit_manifest(b, lambda m: m["files"].update({"../x": {"sha256": "", "bytes": 0}})),
        r"'\.\./x' can't be the name of a file",
    ),
    "file not listed": (
        lambda b: edit_manifest(b, lambda m: m["files"].pop("video_vectors.npy")),
        r"bundle\.json: lists no video_vectors\.npy",
    ),
    "missing file": (lambda b: (b / "comment_vectors.npy").unlink(), r"comment_vectors\.npy: missing; copy"),
    "wrong size": (lambda b: (b / "encoder.onnx").open("ab").write(b"x"), r"encoder\.onnx: \d+ bytes, but .*copy"),
    "wrong hash": (
        lambda b: (b / "comment_ids.json").write_text(
            (b / "comment_ids.json").read_text().replace("c1", "c\N{LATIN SMALL LETTER A}")
        ),
        r"comment_ids\.json: its SHA-256 is not the one",
    ),
    "truncated table": (
        lambda b: replace(b, "video_id_vectors.npy", (b / "video_id_vectors.npy").read_bytes()[:-5]),
        r"video_id_vectors\.npy: .*export",
    ),
    "not a table": (lambda b: replace(b, "video_vectors.npy", b"not numpy"), r"video_vectors\.npy: .*export"),
    "empty table": (lambda b: replace(b, "video_vectors.npy", b""), r"video_vectors\.npy: .*export"),
    "pickled table": (
        lambda b: replace_array(b, "comment_video.npy", np.array([{}] * 9, dtype=object)),
        r"comment_video\.npy: ",
    ),
    "wrong shape": (
        lambda b: replace_array(b, "video_title_vectors.npy", np.zeros((7, 4), np.float32)),
        r"video_title_vectors\.npy: float32 \[7, 4\], but bundle\.json asks for float32 \[7, 8\]",
    ),
    "wrong type": (
        lambda b: replace_array(b, "comment_vectors.npy", np.zeros((9, 8))),
        r"comment_vectors\.npy: float64 .*asks for float32",
    ),
    "Fortran order": (
        lambda b: replace_array(b, "comment_vectors.npy", np.zeros((9, 8), np.float32, order="F")),
        r"comment_vectors\.npy: .*in C order",
    ),
    "NaN": (
        lambda b: replace_array(b, "video_comment_vectors.npy", with_value("video_comment_vectors", (3, 2), np.nan)),
        r"video_comment_vectors\.npy: row 3 is not finite",
    ),
    "infinite": (
        lambda b: replace_array(b, "comment_vectors.npy", with_value("comment_vectors", (8, 0), np.inf)),
        r"comment_vectors\.npy: row 8 is not finite",
    ),
    "not normalised": (
        lambda b: replace_array(b, "video_vectors.npy", MODEL.arrays["video_vectors"] * 2),
        r"video_vectors\.npy: row 0 has length 2\.0000; normalise",
    ),
    "comment of no video": (
        lambda b: replace_array(b, "comment_video.npy", with_value("comment_video", 0, 7)),
        r"comment_video\.npy: a video index is not in 0\.\.6",
    ),
    "negative video index": (
        lambda b: replace_array(b, "comment_video.npy", with_value("comment_video", 0, -1)),
        r"comment_video\.npy: a video index",
    ),
    "too few ids": (lambda b: replace(b, "video_ids.json", b'["a"]'), r"video_ids\.json: 1 ids, but .*says 7"),
    "ids repeat": (
        lambda b: replace(b, "video_ids.json", json.dumps(["a"] * 7).encode()),
        r"video_ids\.json: ids repeat",
    ),
    "an empty id": (
        lambda b: replace(b, "video_ids.json", json.dumps(["", *"abcdef"]).encode()),
        r"video_ids\.json: an id is empty",
    ),
    "ids are numbers": (lambda b: replace(b, "video_ids.json", b"[1,2,3,4,5,6,7]"), r"video_ids\.json: Expected `str`"),
    "bad sample": (lambda b: replace(b, "sample.json", b'[{"request": 1}]'), r"sample\.json: .*export"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_says_what_is_wrong(name: str, copy: Path) -> None:
    Bundle.open(copy)
    damage, message = BROKEN[name]
    damage(copy)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(copy)
    assert str(copy) in str(caught.value) or name == "bad version"


def test_files_that_the_manifest_does_not_list_are_ignored(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    assert Bundle.open(copy).version == "20250101T000000Z-test"


def test_an_invalid_bundle_is_never_written(tmp_path: Path) -> None:
    for changes, message in (
        ({"arrays": MODEL.arrays | {"video_vectors": MODEL.arrays["video_vectors"] * np.nan}}, "not finite"),
        ({"ids": {"video_ids": ["a"], "comment_ids": MODEL.comment_ids}}, r"asks for float32 \[1, 8\]"),
        ({"arrays": {"video_vectors": MODEL.arrays["video_vectors"]}}, "arrays must be exactly"),
        ({"version": "a/b"}, "can't name a bundle"),
    ):
        with pytest.raises(BundleError, match=message):
            MODEL.write(tmp_path / "b", **changes)
        assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_overwritten(copy: Path) -> None:
    with pytest.raises(BundleError, match="exists already"):
        MODEL.write(copy)
    assert Bundle.open(copy).manifest.metrics == {"ndcg@10": 0.1}


def test_a_bundle_is_hidden_until_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    open_bundle = Bundle.open

    def look(path: str | Path) -> Bundle:
        seen.append([p.name for p in tmp_path.iterdir()])
        return open_bundle(path)

    monkeypatch.setattr(Bundle, "open", look)
    MODEL.write(tmp_path / "b")
    before, after = seen
    assert [name.startswith(UNFINISHED) for name in before] == [True]
    assert after == ["b"]


def test_numbers_of_numpy_and_kinds_of_strings_become_plain_json(tmp_path: Path) -> None:
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    metrics = {"ndcg": np.float64(0.5), "loss": np.float32(0.25), "targets": np.int64(3)}
    manifest = MODEL.write(tmp_path / "b", metrics=metrics, training={"text": Name("svd")}).manifest
    assert manifest.metrics == {"ndcg": 0.5, "loss": 0.25, "targets": 3}
    assert manifest.training == {"text": "svd"}
    with pytest.raises(BundleError, match=r"bundle\.json: .* is a type; give plain"):
        MODEL.write(tmp_path / "c", training={"model": np.ndarray})
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_other_dtypes_are_converted_when_written(tmp_path: Path) -> None:
    arrays = {name: np.asfortranarray(array.astype(np.float64)) for name, array in MODEL.arrays.items()}
    bundle = write_bundle(
        tmp_path / "b",
        model={"dim": 8, "window": 6},
        history={},
        arrays=arrays,
        ids={"video_ids": MODEL.video_ids, "comment_ids": MODEL.comment_ids},
        encoder=b"graph",
    )
    np.testing.assert_array_equal(bundle.comment_video, MODEL.arrays["comment_video"])
    np.testing.assert_array_equal(bundle.video_vectors, MODEL.arrays["video_vectors"])
