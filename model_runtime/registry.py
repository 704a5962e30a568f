"""A registry: the published bundles, and which of them each channel serves.

    root/bundles/VERSION/...        a bundle each, immutable
    root/channels/CHANNEL.json      a pointer

Both appear whole or not at all. The root is a folder, or a prefix of an object store; there a bundle is complete once
its `bundle.json` is, which is written last. Only this module knows the layout.
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from model_runtime.bundle import Bundle
from model_runtime.fetching import FetchError, cached
from model_runtime.files import appearing_folder, copy_synced
from model_runtime.manifest import MANIFEST, BundleError, Manifest, check_version, decode_manifest
from model_runtime.stores import StoreError, local_path, open_store

_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,63}")


class RegistryError(ValueError):
    """What was asked of the registry can't be done; the message says what to do."""


class Channel(Struct, frozen=True, omit_defaults=True):
    """A channel's pointer. `previous` is the version it served before, None at first: where to roll back to.

    `sha256` is that of the bundle's `bundle.json`, `promoted_ms` Unix time. `percent` is the share of users that a
    canary serves; None for channels that serve everybody.
    """

    channel: str
    version: str
    sha256: str
    promoted_ms: int
    previous: str | None = None
    percent: float | None = None


class Registry:
    """A folder of bundles, or a prefix of an object store (`s3://bucket/registry`).

    registry = Registry("registry")
    version = registry.publish("build/bundle")
    registry.promote("stable", version)
    bundle = registry.open(registry.channel("stable"))
    """

    def __init__(self, root: str | Path, *, cache: Path | None = None) -> None:
        """`cache`: where bundles of an object store are kept while they are used; default `~/.cache/lsvcr/bundles`.

        Raises:
            RegistryError: the address is of a kind that nothing installed can open.
        """
        folder = local_path(root)
        self.root: Path | str = folder if folder is not None else str(root).rstrip("/")
        self._bundles = None if folder is None else folder / "bundles"
        self._cache = cache or Path.home() / ".cache" / "lsvcr" / "bundles"
        try:
            self._store = open_store(root)
        except StoreError as error:
            raise RegistryError(str(error)) from None

    def publish(self, bundle_dir: str | Path) -> str:
        """Verify a bundle, copy it in under its own version, and return that version.

        Raises:
            BundleError: the folder is no valid bundle.
            RegistryError: the version is in the registry already, or the registry can't be written.
        """
        bundle = Bundle.open(bundle_dir)
        taken = f"version {bundle.version} is in {self.root} already; versions are immutable, export under a new one"
        # The files of the manifest and no others: what no checksum covers doesn't get in.
        names = (*bundle.manifest.files, MANIFEST)
        try:
            if self._bundles is None:
                if bundle.version in self.versions():
                    raise RegistryError(taken)
                for name in names:  # bundle.json is the last
                    self._store.put(f"bundles/{bundle.version}/{name}", (bundle.path / name).read_bytes())
                return bundle.version
            with appearing_folder(self._bundles / bundle.version) as folder:
                for name in names:
                    copy_synced(bundle.path / name, folder / name)
                Bundle.open(folder)
        except FileExistsError:
            raise RegistryError(taken) from None
        except OSError as error:
            raise RegistryError(f"{self.root} can't be written: {error}") from error
        return bundle.version

    def versions(self) -> list[str]:
        """The published versions, oldest name first (derived names sort by time).

        Raises:
            RegistryError: the registry does not answer.
        """
        try:
            names = [name.split("/") for name in self._store.names("bundles")]
        except OSError as error:
            raise RegistryError(str(error)) from error
        return sorted(p[1] for p in names if len(p) == 3 and p[2] == MANIFEST and not p[1].startswith("."))

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
        return decode_manifest(self._manifest(version), self.uri(version))

    def sha256(self, version: str) -> str:
        """The checksum of a bundle's `bundle.json`, which covers all of the bundle. Raises RegistryError."""
        return hashlib.sha256(self._manifest(version)).hexdigest()

    def uri(self, version: str) -> str:
        """The address of a bundle, as releases name it: `file://...` or the object store's."""
        return self._store.uri_of(f"bundles/{version}")

    def path(self, version: str) -> Path:
        """The folder of a published bundle; one of an object store is fetched first, once.

        Raises:
            RegistryError: the version is not in the registry, or the registry does not answer.
        """
        self._manifest(version)
        if self._bundles is not None:
            return self._bundles / version
        try:
            return cached(self.uri(version), self._cache)
        except FetchError as error:
            raise RegistryError(str(error)) from error

    def promote(self, channel: str, version: str, percent: float | None = None) -> Channel:
        """Make `channel` serve `version` from now on. The last of two concurrent promotions wins.

        Raises:
            RegistryError: a bad channel name, or the version is not in the registry.
        """
        file = _pointer_file(channel)
        digest = self.sha256(version)
        try:
            old = self.pointer(channel)
        except RegistryError:
            old = None  # none yet, or damaged: promoting is how to repair it
        # Promoting what is served already must not lose the version to roll back to.
        previous = old.previous if old and old.version == version else old.version if old else None
        # The newer of two promotions is told by its time, also when a clock was set back.
        now_ms = max(int(time.time() * 1000), old.promoted_ms + 1 if old else 0)
        pointer = Channel(channel, version, digest, now_ms, previous, percent)
        try:
            self._store.put(file, msgspec.json.encode(pointer) + b"\n")
        except OSError as error:
            raise RegistryError(str(error)) from error
        return pointer

    def keep(self, name: str, data: bytes) -> None:
        """Keep a file beside the bundles, such as `checkpoints/VERSION.pt`. Raises RegistryError."""
        try:
            self._store.put(name, data)
        except OSError as error:
            raise RegistryError(str(error)) from error

    def kept(self, name: str) -> bytes:
        """What `keep` was given.

        Raises:
            FileNotFoundError: nothing of the name was kept.
            RegistryError: the registry does not answer.
        """
        try:
            return self._store.get(name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RegistryError(str(error)) from error

    def withdraw(self, channel: str) -> None:
        """The channel serves nothing any more; nothing happens if it did not."""
        try:
            self._store.delete(_pointer_file(channel))
        except OSError as error:
            raise RegistryError(str(error)) from error

    def channel(self, name: str) -> str:
        """The version that a channel serves.

        Raises:
            RegistryError: the channel serves nothing yet.
        """
        return self.pointer(name).version

    def pointer(self, name: str) -> Channel:
        """As `channel`, with the checksum, the time and the version before."""
        file = _pointer_file(name)
        try:
            return msgspec.json.decode(self._store.get(file), type=Channel)
        except FileNotFoundError:
            known = self.versions()
            advice = f"promote one of: {', '.join(known)}" if known else "it is empty: `lsvcr train fit` makes one"
            raise RegistryError(f"channel {name} of the registry {self.root} serves no version; {advice}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self._store.uri_of(file)}: {error}; promote a version again") from None
        except OSError as error:
            raise RegistryError(str(error)) from error

    def serves(self, name: str) -> str | None:
        """As `channel`, but None if it serves nothing. Raises RegistryError: the registry does not answer."""
        try:
            self._store.get(_pointer_file(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegistryError(str(error)) from error
        return self.channel(name)

    def channels(self) -> list[str]:
        """The channels that serve something."""
        try:
            names = [name.removeprefix("channels/") for name in self._store.names("channels")]
        except OSError as error:
            raise RegistryError(str(error)) from error
        return [name.removesuffix(".json") for name in names if name.endswith(".json") and name[:1].islower()]

    def _manifest(self, version: str) -> bytes:
        try:
            return self._store.get(f"bundles/{check_version(version)}/{MANIFEST}")
        except BundleError as error:
            raise RegistryError(str(error)) from None
        except FileNotFoundError:
            known = self.versions()
            shown = f"newest: {', '.join(known[-3:])}" if known else "it holds none; publish a bundle first"
            raise RegistryError(f"no version {version} in {self.root}; {shown}") from None
        except OSError as error:
            raise RegistryError(str(error)) from error


def _pointer_file(channel: str) -> str:
    if not _CHANNEL.fullmatch(channel):
        raise RegistryError(f"{channel!r} can't name a channel; use lower-case letters, digits and dashes")
    return f"channels/{channel}.json"
