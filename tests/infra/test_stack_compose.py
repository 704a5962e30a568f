"""The compose file describes the same servers as the local stack."""

from __future__ import annotations

from pathlib import Path

import yaml

from infra.local import broker, kafka_release, stack

COMPOSE = yaml.safe_load((Path(stack.__file__).parents[1] / "compose.yaml").read_text())
#: where a container has another network around it
OWN = {"listener.security.protocol.map"}


def test_kafka_has_the_settings_of_the_local_stack() -> None:
    environment = COMPOSE["services"]["kafka"]["environment"]
    assert all(isinstance(value, str) for value in environment.values())
    for name, value in broker.SETTINGS.items():
        if name not in OWN:
            assert environment["KAFKA_" + name.upper().replace(".", "_")] == value


def test_every_listener_has_a_protocol_and_the_published_one_is_advertised() -> None:
    kafka = COMPOSE["services"]["kafka"]
    environment = kafka["environment"]
    names = {listener.partition(":")[0] for listener in environment["KAFKA_LISTENERS"].split(",")}
    protocols = {pair.partition(":")[0] for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert names == protocols
    port = stack.DEFAULT_KAFKA_PORT
    assert f"HOST://localhost:{port}" in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert kafka["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_versions_ports_and_volumes_fit() -> None:
    services = COMPOSE["services"]
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_release.KAFKA_VERSION}"
    assert services["redis"]["ports"] == [f"127.0.0.1:{stack.DEFAULT_REDIS_PORT}:6379"]
    used = {mount.partition(":")[0] for service in services.values() for mount in service["volumes"]}
    assert used == set(COMPOSE["volumes"])
