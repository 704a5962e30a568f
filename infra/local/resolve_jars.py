"""Prints `kafka_release.py` anew: to move to another release of Kafka, change the versions below and run
`python -m infra.local.resolve_jars > release.py && mv release.py infra/local/kafka_release.py`.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

KAFKA_VERSION = "4.1.0"
LOG4J_VERSION = "2.25.1"

#: Kafka logs through SLF4J 1.7; without a binding it logs nothing. Named jar by jar, not resolved together with Kafka:
#: Log4j's bill of materials also manages kafka-clients, and a joint resolution would pull that back to 3.9.
LOGGING = ("log4j-api", "log4j-core", "log4j-slf4j-impl")

HEAD = '''"""The jars of Kafka {version} and their SHA-256, as Maven Central has them. Made by `resolve_jars`."""

from __future__ import annotations

KAFKA_VERSION = "{version}"

JARS: dict[str, str] = {{'''


def main() -> None:
    """Print the module, with what Maven would put on the class path of Kafka's broker."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder))
        root = context.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
        kafka, needed = context.resolver.resolve([root])
        artifacts = [dependency.artifact for dependency in kafka]
        artifacts += [dependency.artifact for dependency in needed if dependency.scope in ("compile", "runtime")]
        for name in LOGGING:
            artifacts.append(context.create_dependency(f"org.apache.logging.log4j:{name}:{LOG4J_VERSION}").artifact)
        print(HEAD.format(version=KAFKA_VERSION))
        for artifact in sorted(artifacts, key=lambda artifact: (artifact.groupId, artifact.artifactId)):
            digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            line = f'    "{coordinate}": "{digest}",'
            print(line if len(line) <= 120 else f'    "{coordinate}": (\n        "{digest}"\n    ),')
        print("}")


if __name__ == "__main__":
    main()
