from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from reference_model import make_model

from model_runtime.bundle import Bundle, BundleError
from model_runtime.files import UNFINISHED
from model_runtime.registry import Registry, RegistryError


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    root = tmp_path_factory.mktemp("built")
    return {
        version: make_model(4, 5, seed=seed).write(root / version, version=version)
        for seed, version in enumerate(("20250101T000000Z-aa", "20250102T000000Z-bb", "20250103T000000Z-cc"))
    }


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def run_and_kill(code: str, *arguments: object) -> None:
    """Run code that is to end by killing itself."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_published_bundle_opens_by_its_version(registry: Registry, bundles: dict[str, Bundle]) -> None:
    assert registry.versions() == []
    versions = [registry.publish(bundle.path) for bundle in reversed(bundles.values())]
    assert registry.versions() == sorted(versions) == list(bundles)
    for version, bundle in bundles.items():
        opened = registry.open(version)
        assert (opened.version, opened.sha256) == (version, bundle.sha256)
        assert opened.path == registry.path(version) != bundle.path
        assert registry.manifest(version) == bundle.manifest


def test_only_files_under_a_checksum_are_published(registry: Registry, tmp_path: Path) -> None:
    bundle = make_model(4, 5).write(tmp_path / "b")
    (bundle.path / "notes.txt").write_text("mine")
    folder = registry.path(registry.publish(bundle.path))
    assert {p.name for p in folder.iterdir()} == {*bundle.manifest.files, "bundle.json"}


def test_a_version_is_published_once(registry: Registry, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    version = registry.publish(bundles["20250101T000000Z-aa"].path)
    other = make_model(4, 5, seed=9).write(tmp_path / "other", version=version)
    with pytest.raises(RegistryError, match=f"version {version} is in .* already"):
        registry.publish(other.path)
    assert registry.open(version).sha256 == bundles[version].sha256


def test_of_two_who_publish_at_once_one_wins(registry: Registry, bundles: dict[str, Bundle]) -> None:
    bundle = bundles["20250101T000000Z-aa"]

    def publish(_: int) -> str:
        try:
            return registry.publish(bundle.path)
        except RegistryError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(publish, range(4)))
    assert outcomes == [bundle.version, *["refused"] * 3]
    assert [p.name for p in (registry.root / "bundles").iterdir()] == [bundle.version]


def test_a_broken_bundle_is_not_published(registry: Registry, tmp_path: Path) -> None:
    bundle = make_model(4, 5).write(tmp_path / "b")
    (bundle.path / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"encoder\.onnx"):
        registry.publish(bundle.path)
    assert registry.versions() == []


def test_a_publisher_killed_half_way_leaves_nothing_that_anyone_sees(
    registry: Registry, bundles: dict[str, Bundle]
) -> None:
    bundle = bundles["20250101T000000Z-aa"]
    run_and_kill(
        "import os, signal, sys\n"
        "from model_runtime import registry\n"
        "copy, done = registry.copy_synced, []\n"
        "def copy_some(source, target):\n"
        "    if len(done) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    copy(source, target); done.append(target)\n"
        "registry.copy_synced = copy_some\n"
        "registry.Registry(sys.argv[1]).publish(sys.argv[2])\n",
        registry.root,
        bundle.path,
    )
    (leftover,) = (registry.root / "bundles").iterdir()
    assert leftover.name.startswith(UNFINISHED)
    assert len(list(leftover.iterdir())) == 4
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="no version"):
        registry.open(bundle.version)
    assert registry.publish(bundle.path) == bundle.version
    assert registry.versions() == [bundle.version]


def test_a_promotion_killed_half_way_leaves_the_version_before(registry: Registry, bundles: dict[str, Bundle]) -> None:
    old, new, _ = (registry.publish(bundle.path) for bundle in bundles.values())
    registry.promote("stable", old)
    run_and_kill(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from model_runtime.registry import Registry\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Registry(sys.argv[1]).promote('stable', sys.argv[2])\n",
        registry.root,
        new,
    )
    assert len(list((registry.root / "channels").iterdir())) == 2  # the pointer, and one that was never put in place
    assert registry.channel("stable") == old
    assert registry.channels() == ["stable"]


def test_channels_point_to_versions_and_remember_the_one_before(registry: Registry, bundles: dict[str, Bundle]) -> None:
    first, second, third = (registry.publish(bundle.path) for bundle in bundles.values())
    assert registry.promote("stable", first).previous is None
    registry.promote("canary", third)
    registry.promote("stable", second)
    registry.promote("stable", second)
    pointer = registry.pointer("stable")
    assert (pointer.version, pointer.previous, pointer.sha256) == (second, first, bundles[second].sha256)
    assert registry.channel("canary") == third
    assert registry.channels() == ["canary", "stable"]
    assert Registry(registry.root).channel("stable") == second


def test_errors_say_what_to_do(registry: Registry, bundles: dict[str, Bundle]) -> None:
    with pytest.raises(RegistryError, match="it holds none; publish a bundle first"):
        registry.open("20250101T000000Z-aa")
    version = registry.publish(bundles["20250101T000000Z-aa"].path)
    with pytest.raises(RegistryError, match=f"no version nope in .*; newest: {version}"):
        registry.open("nope")
    with pytest.raises(RegistryError, match="can't name a bundle"):
        registry.open("../registry")
    with pytest.raises(RegistryError, match=f"channel stable .* serves no version; promote one of: {version}"):
        registry.channel("stable")
    with pytest.raises(RegistryError, match="no version nope"):
        registry.promote("stable", "nope")
    with pytest.raises(RegistryError, match=r"'\.\./x' can't name a channel"):
        registry.promote("../x", version)
    with pytest.raises(RegistryError, match="nosuch://bucket/registry can't be opened"):
        Registry("nosuch://bucket/registry")


def test_a_damaged_pointer_is_an_error_and_can_be_replaced(registry: Registry, bundles: dict[str, Bundle]) -> None:
    version = registry.publish(bundles["20250101T000000Z-aa"].path)
    registry.promote("stable", version)
    (registry.root / "channels" / "stable.json").write_text("{")
    with pytest.raises(RegistryError, match=r"stable\.json: .*promote a version again"):
        registry.channel("stable")
    registry.promote("stable", version)
    assert registry.channel("stable") == version


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Registry]:
    """A registry on an object store: fsspec's, in memory."""
    root = f"memory://{tmp_path.name}/registry"
    yield Registry(root, cache=tmp_path / "cache")
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_an_object_store_holds_the_same_registry(remote: Registry, bundles: dict[str, Bundle]) -> None:
    assert remote.versions() == remote.channels() == []
    for bundle in bundles.values():
        remote.publish(bundle.path)
    assert remote.versions() == list(bundles)
    first, second = list(bundles)[:2]
    remote.promote("stable", first)
    pointer = remote.promote("stable", second)
    assert (remote.channel("stable"), pointer.previous, remote.channels()) == (second, first, ["stable"])
    opened = remote.open(second)
    assert opened.sha256 == pointer.sha256 == bundles[second].sha256
    assert remote.path(second) == opened.path, "fetched once"
    with pytest.raises(RegistryError, match="already"):
        remote.publish(bundles[first].path)
    remote.withdraw("stable")
    with pytest.raises(RegistryError, match="serves no version"):
        remote.channel("stable")


def test_a_bundle_half_uploaded_is_not_there(remote: Registry, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    version, bundle = next(iter(bundles.items()))
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/{tmp_path.name}/registry/bundles/{version}/encoder.onnx", b"half of it")
    assert remote.versions() == []
    assert remote.publish(bundle.path) == version
    assert remote.open(version).sha256 == bundle.sha256


def test_a_file_missing_or_changed_on_the_object_store_is_found_out(
    remote: Registry, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    first, second = (remote.publish(bundle.path) for bundle in list(bundles.values())[:2])
    files, root = fsspec.filesystem("memory"), f"/{tmp_path.name}/registry/bundles"
    files.pipe_file(f"{root}/{first}/encoder.onnx", b"something else")
    with pytest.raises(BundleError, match="copy the bundle again"):
        remote.open(first)
    files.rm_file(f"{root}/{second}/video_ids.json")
    with pytest.raises(BundleError, match=r"video_ids\.json: missing"):
        remote.open(second)
    assert not [folder for folder in (tmp_path / "cache").iterdir() if folder.name.startswith(UNFINISHED)]
