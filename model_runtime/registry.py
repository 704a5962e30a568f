"""A registry: the published bundles, and which of them each channel serves.

    root/bundles/VERSION/...        a bundle each, immutable
    root/channels/CHANNEL.json      a pointer

Both appear whole or not at all. Only this module knows the layout, so another store can stand behind the same calls.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from model_runtime.bundle import Bundle
from model_runtime.files import appearing_folder, copy_synced, replace_file, sha256_of
from model_runtime.manifest import MANIFEST, BundleError, Manifest, check_version, decode_manifest

_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,63}")


class RegistryError(ValueError):
    """What was asked of the registry can't be done; the message says what to do."""


class Channel(Struct, frozen=True):
    """A channel's pointer. `previous` is the version it served before, None at first: where to roll back to.

    `sha256` is that of the bundle's `bundle.json`, `promoted_ms` Unix time.
    """

    channel: str
    version: str
    sha256: str
    promoted_ms: int
    previous: str | None = None


class Registry:
    """A folder of bundles.

    registry = Registry("registry")
    version = registry.publish("build/bundle")
    registry.promote("stable", version)
    bundle = registry.open(registry.channel("stable"))
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise RegistryError(f"{root}: this version keeps registries in folders; give a path")
        self.root = Path(root)
        self._bundles = self.root / "bundles"
        self._channels = self.root / "channels"

    def publish(self, bundle_dir: str | Path) -> str:
        """Verify a bundle, copy it in under its own version, and return that version.

        Raises:
            BundleError: the folder is no valid bundle.
            RegistryError: the version is in the registry already.
        """
        bundle = Bundle.open(bundle_dir)
        try:
            with appearing_folder(self._bundles / bundle.version) as folder:
                # The files of the manifest and no others: what no checksum covers doesn't get in.
                for name in (*bundle.manifest.files, MANIFEST):
                    copy_synced(bundle.path / name, folder / name)
                Bundle.open(folder)
        except FileExistsError:
            raise RegistryError(
                f"version {bundle.version} is in {self.root} already; versions are immutable, export under a new one"
            ) from None
        return bundle.version

    def versions(self) -> list[str]:
        """The published versions, oldest name first (derived names sort by time)."""
        if not self._bundles.is_dir():
            return []
        return sorted(
            path.name
            for path in self._bundles.iterdir()
            if not path.name.startswith(".") and (path / MANIFEST).is_file()
        )

    def open(self, version: str) -> Bundle:
        """Open and verify a published bundle.

        Raises:
            RegistryError: the version is not in the registry.
            BundleError: it is, but damaged.
        """
        return Bundle.open(self.path(version))

    def manifest(self, version: str) -> Manifest:
        """What a bundle says of itself, without opening the rest of it.

        Raises:
            RegistryError, BundleError: as `open`.
        """
        file = self.path(version) / MANIFEST
        return decode_manifest(file.read_bytes(), str(file))

    def path(self, version: str) -> Path:
        """The folder of a published bundle.

        Raises:
            RegistryError: the version is not in the registry.
        """
        try:
            folder = self._bundles / check_version(version)
        except BundleError as error:
            raise RegistryError(str(error)) from None
        if not (folder / MANIFEST).is_file():
            known = self.versions()
            shown = f"newest: {', '.join(known[-3:])}" if known else "it holds none; publish a bundle first"
            raise RegistryError(f"no version {version} in {self.root}; {shown}")
        return folder

    def promote(self, channel: str, version: str) -> Channel:
        """Make `channel` serve `version` from now on. The last of two concurrent promotions wins.

        Raises:
            RegistryError: a bad channel name, or the version is not in the registry.
        """
        file = self._pointer_file(channel)
        digest = sha256_of(self.path(version) / MANIFEST)
        try:
            old = self.pointer(channel)
        except RegistryError:
            old = None  # none yet, or damaged: promoting is how to repair it
        # Promoting what is served already must not lose the version to roll back to.
        previous = old.previous if old and old.version == version else old.version if old else None
        pointer = Channel(channel, version, digest, int(time.time() * 1000), previous)
        self._channels.mkdir(parents=True, exist_ok=True)
        replace_file(file, msgspec.json.encode(pointer) + b"\n")
        return pointer

    def channel(self, name: str) -> str:
        """The version that a channel serves.

        Raises:
            RegistryError: the channel serves nothing yet.
        """
        return self.pointer(name).version

    def pointer(self, name: str) -> Channel:
        """As `channel`, with the checksum, the time and the version before."""
        file = self._pointer_file(name)
        try:
            return msgspec.json.decode(file.read_bytes(), type=Channel)
        except FileNotFoundError:
            known = self.versions()
            advice = f"promote one of: {', '.join(known)}" if known else "it is empty: `lsvcr train fit` makes one"
            raise RegistryError(f"channel {name} of the registry {self.root} serves no version; {advice}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryError(f"{file}: {error}; promote a version again") from None

    def channels(self) -> list[str]:
        """The channels that serve something."""
        return sorted(file.stem for file in self._channels.glob("[a-z]*.json"))

    def _pointer_file(self, channel: str) -> Path:
        if not _CHANNEL.fullmatch(channel):
            raise RegistryError(f"{channel!r} can't name a channel; use lower-case letters, digits and dashes")
        return self._channels / f"{channel}.json"
