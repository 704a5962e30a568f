"""Bundles by their address: those of a folder are used in place, those of an object store are copied here first."""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_runtime.files import appearing_folder, write_synced
from model_runtime.manifest import MANIFEST, BundleError, decode_manifest
from model_runtime.stores import StoreError, local_path, open_store


class FetchError(OSError):
    """The bundle's address does not answer, or there is no room for a copy. Worth another try later."""


def cached(uri: str, cache: Path) -> Path:
    """The folder of the bundle at `uri`. One of an object store is copied to `cache`, unless a copy is there.

    Nothing is verified here but what a copy needs; `Bundle.open` verifies.

    Raises:
        BundleError: there is no bundle at the address, or a file of it is missing.
        FetchError: the address does not answer, or the copy can't be written.
    """
    folder = local_path(uri)
    if folder is not None:
        return folder
    try:
        store = open_store(uri)
        manifest = store.get(MANIFEST)
        names = [*decode_manifest(manifest, f"{uri}/{MANIFEST}").files, MANIFEST]
        target = cache / hashlib.sha256(uri.encode() + manifest).hexdigest()[:32]
        if target.is_dir():
            return target
        with appearing_folder(target) as copy:
            for name in names:
                write_synced(copy / name, store.get(name))
    except FileExistsError:
        return target  # another process was faster
    except FileNotFoundError as error:
        raise BundleError(f"{error}: missing; publish the bundle again, or promote another version") from None
    except StoreError as error:
        raise FetchError(str(error)) from error
    except OSError as error:
        raise FetchError(f"no copy of {uri} could be written to {cache} ({error}); make room there") from error
    return target
