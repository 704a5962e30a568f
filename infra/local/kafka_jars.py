"""Kafka's jars: fetched once from Maven Central by jgo (no Maven, no Java), then kept, so that starts need no network.

The cache is a folder, `$LSVCR_CACHE_DIR` or `~/.cache/lsvcr`. A release appears in it whole or not at all: the jars are
gathered in a temporary folder that is renamed at the end, and a lock lets only one process fetch at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from infra.local.errors import StackError
from infra.local.kafka_release import JARS, KAFKA_VERSION

MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
DOWNLOADS_AT_A_TIME = 4
TIMEOUT_S = 30

#: called with (what is being done, jars done, jars in all or None while that is not known)
Progress = Callable[[str, int, int | None], None]


def cache_dir() -> Path:
    """Where downloads are kept: `LSVCR_CACHE_DIR`, else `lsvcr` in the user's cache folder."""
    if given := os.environ.get("LSVCR_CACHE_DIR"):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsvcr"


def cached_jars(cache: Path | None = None) -> Path | None:
    """The folder of Kafka's jars if it is complete (each jar there, with its size), else None. No network."""
    folder = _folder(cache or cache_dir())
    try:
        manifest: dict[str, int] = json.loads((folder / "jars.json").read_text())
        expected = {f"{name}-{version}.jar" for _, name, version in (each.split(":") for each in JARS)}
        whole = all((folder / name).stat().st_size == size for name, size in manifest.items())
    except (OSError, ValueError, AttributeError):
        return None
    return folder if whole and manifest.keys() == expected else None


def fetch_jars(progress: Progress | None = None, cache: Path | None = None) -> Path:
    """The folder of Kafka's jars, downloaded if need be (48 jars, 47 MB). Safe to call from several processes at once.

    Raises:
        StackError: the download failed; the message says what to do.
    """
    cache = cache or cache_dir()
    if found := cached_jars(cache):
        return found
    tell = progress or (lambda what, done, total: None)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"can't make the cache folder {cache}: {error}; set LSVCR_CACHE_DIR to another") from None
    with _exclusive(cache / "fetch.lock", lambda: tell("waiting for another fetch", 0, None)):
        if found := cached_jars(cache):
            return found
        # jgo takes a half-written file of its repository for a whole one: each fetch begins with an empty one.
        work = Path(tempfile.mkdtemp(prefix="fetch-", dir=cache))
        try:
            _download(work, tell)
            shutil.rmtree(_folder(cache), ignore_errors=True)
            (work / "jars").rename(_folder(cache))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _folder(cache)


def _folder(cache: Path) -> Path:
    return cache / f"kafka-{KAFKA_VERSION}"


def _download(work: Path, tell: Progress) -> None:
    url = os.environ.get("LSVCR_MAVEN_URL", MAVEN_CENTRAL).rstrip("/")
    try:
        import requests
        from jgo.maven import MavenContext
    except ImportError:
        raise StackError("fetching Kafka needs jgo: pip install 'lsvcr[local]'") from None
    context = MavenContext(repo_cache=work / "maven", remote_repos={"maven": url}, timeout=TIMEOUT_S)
    jars = work / "jars"
    jars.mkdir()
    sizes: dict[str, int] = {}

    def get(coordinate: str) -> Path:
        path: Path = context.create_dependency(coordinate).artifact.resolve()
        # jgo itself only warns about a file that is not what it should be.
        if hashlib.sha256(path.read_bytes()).hexdigest() != JARS[coordinate]:
            raise ValueError(f"{path.name} is not the file that this version of lsvcr was made with (SHA-256 differs)")
        return path.rename(jars / path.name)

    tell("downloading Kafka", 0, len(JARS))
    try:
        with ThreadPoolExecutor(DOWNLOADS_AT_A_TIME) as pool:
            for path in pool.map(get, JARS):
                sizes[path.name] = path.stat().st_size
                tell("downloading Kafka", len(sizes), len(JARS))
        (jars / "jars.json").write_text(json.dumps(sizes, indent=1, sort_keys=True))
    except (requests.RequestException, RuntimeError, OSError, ValueError) as error:
        raise StackError(
            f"Kafka {KAFKA_VERSION} could not be fetched from {url}: {_first_line(error)}\n"
            "With network, run `lsvcr stack fetch` once; later starts need none. Behind a mirror, set LSVCR_MAVEN_URL. "
            f"The jars go to {_folder(work.parent)}: that folder can also be copied from another machine."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
