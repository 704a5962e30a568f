"""Releases: which bundle a channel serves, announced on the compacted topic `model-releases` (key: the channel).

    announce("localhost:9092", Release("stable", version, uri, sha256, created_ms))
    announce("localhost:9092", "canary")        # the canary ends

Workers follow the topic (`streams.models`). The channel `stable` serves everybody but the users of the channel
`canary`, which serves `percent` of them: always the same ones, and more of them as the share grows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import KafkaError, KafkaException, Producer
from msgspec import Meta, Struct

from model_runtime.manifest import BundleError
from model_runtime.registry import Channel, Registry, RegistryError
from streams.topics import MODEL_RELEASES
from streams.whole_topic import TopicReadError, read_whole

log = logging.getLogger(__name__)

STABLE, CANARY = "stable", "canary"
CHANNELS = (STABLE, CANARY)
_TIMEOUT_S = 15.0


class ReleaseError(RuntimeError):
    """A release that can't be announced or read; the message says what to do."""


class Release(Struct, frozen=True, omit_defaults=True):
    """A value of the topic. `sha256` is that of the bundle's `bundle.json`, `created_ms` when it was promoted.

    `percent`: of a canary, the share of users it serves. `metrics`: what the bundle says of itself.
    """

    channel: Annotated[str, Meta(min_length=1)]
    version: Annotated[str, Meta(min_length=1)]
    uri: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created_ms: int
    metrics: dict[str, Any] = {}
    percent: Annotated[float, Meta(ge=0, le=100)] | None = None


def of_registry(registry: Registry, channel: str) -> list[Release]:
    """What the registry says a channel serves, then what it served before: the releases to serve, best first.

    Raises:
        RegistryError: the registry does not answer, or the channel serves nothing.
    """
    pointer = registry.pointer(channel)
    releases = [release_of(registry, pointer)]
    if pointer.previous is not None:
        with suppress(RegistryError):  # it was removed
            digest = registry.sha256(pointer.previous)
            releases.append(release_of(registry, Channel(channel, pointer.previous, digest, pointer.promoted_ms)))
    return releases


def promote(
    registry: Registry, bootstrap_servers: str, channel: str, version: str, percent: float | None = None
) -> Release:
    """Make a channel serve a version: verified, then noted in the registry, then announced.

    A canary that becomes the stable version is at its end.

    Raises:
        BundleError: the bundle is damaged.
        RegistryError: the version is not in the registry, or the registry does not answer.
        ReleaseError: noted, but not announced: give the command again.
    """
    registry.open(version)
    release = release_of(registry, registry.promote(channel, version, percent))
    announce(bootstrap_servers, release)
    if channel == STABLE and CANARY in registry.channels() and registry.channel(CANARY) == version:
        end_canary(registry, bootstrap_servers)
    return release


def end_canary(registry: Registry, bootstrap_servers: str) -> None:
    """Everybody is served by the stable version again. Raises RegistryError, ReleaseError."""
    registry.withdraw(CANARY)
    announce(bootstrap_servers, CANARY)


def release_of(registry: Registry, pointer: Channel) -> Release:
    """The release of a channel's pointer. Raises RegistryError."""
    try:
        metrics = registry.manifest(pointer.version).metrics
    except (BundleError, RegistryError):
        metrics = {}  # whoever loads it finds out what is wrong, and can fall back
    return Release(
        pointer.channel,
        pointer.version,
        registry.uri(pointer.version),
        pointer.sha256,
        pointer.promoted_ms,
        metrics,
        pointer.percent,
    )


def in_share(user: bytes, percent: float) -> bool:
    """Whether a user is in a share of so many percent: by a hash of the id, so that nothing needs to be remembered."""
    place = int.from_bytes(blake2b(user, digest_size=8, person=b"lsvcr-canary").digest(), "big")
    return place < percent / 100 * 2**64


def announce(bootstrap_servers: str, release: Release | str) -> None:
    """Announce a release, or, given a channel's name, that it serves nothing any more. Returns once it is confirmed.

    Raises:
        ReleaseError: the broker is away, or did not take the record.
    """
    channel, value = (release, None) if isinstance(release, str) else (release.channel, msgspec.json.encode(release))
    failures: list[str] = []

    def confirmed(error: KafkaError | None, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.timeout.ms": 10_000, "log_level": 2})
    try:
        producer.produce(MODEL_RELEASES, value, channel, on_delivery=confirmed)
        left = producer.flush(_TIMEOUT_S)
    except KafkaException as error:
        failures, left = [str(error)], 0
    if failures or left:
        why = failures[0] if failures else "no answer"
        raise ReleaseError(
            f"the release of {channel} was not announced on {bootstrap_servers} ({why}); "
            "is Kafka up, and does the topic exist (`lsvcr topics create`)? Then give the command again"
        )


def read_releases(bootstrap_servers: str) -> dict[str, Release]:
    """What each channel serves, as announced up to now.

    Raises:
        ReleaseError: the broker is away, or the topic is missing.
    """
    releases: dict[str, Release] = {}
    try:
        for record in read_whole(bootstrap_servers, MODEL_RELEASES):
            channel, release = decode(record.key(), record.value())
            if release is not None:
                releases[channel] = release
            elif record.value() is None:
                releases.pop(channel, None)
    except TopicReadError as error:
        raise ReleaseError(str(error)) from None
    return releases


def decode(key: bytes | None, value: bytes | None) -> tuple[str, Release | None]:
    """(channel, release) of a record. None: the channel serves nothing, or (logged) the record is no release."""
    channel = (key or b"").decode("utf-8", "replace")
    if value is None:
        return channel, None
    try:
        release = msgspec.json.decode(value, type=Release)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("a record of %s is no release (%s) and is skipped; announce with `lsvcr models`", channel, error)
        return channel, None
    if release.channel != channel:
        log.error(
            "a release of %r has the key %r and is skipped; announce with `lsvcr models`", release.channel, channel
        )
        return channel, None
    return channel, release


class ReleaseReader:
    """Follows the topic: `heard(channel, release)` is called on the event loop, with the last announcement at first."""

    def __init__(self, bootstrap_servers: str, heard: Callable[[str, Release | None], None]) -> None:
        self._bootstrap = bootstrap_servers
        self._heard = heard
        self.task: asyncio.Task[None]  # ends only by an error

    def start(self) -> None:
        """Start reading on the running event loop."""
        self.task = asyncio.create_task(self._run(), name="releases")

    async def close(self) -> None:
        """Stop reading."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False, group_id=None)
        await consumer.start()
        try:
            places = [TopicPartition(MODEL_RELEASES, 0)]  # `streams.topics`: it has one partition
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            left = dict(await consumer.end_offsets(places))
            newest: dict[str, Release | None] = {}
            while True:
                batches = await consumer.getmany(timeout_ms=1000)
                for batch in batches.values():
                    for record in batch:
                        channel, release = decode(record.key, record.value)
                        if release is not None or record.value is None:
                            newest[channel] = release
                # At first only the last announcement of a channel counts, not the way there.
                for place in [place for place in left if await consumer.position(place) >= left[place]]:
                    del left[place]
                if not left:
                    for channel, release in newest.items():
                        self._heard(channel, release)
                    newest.clear()
        finally:
            await consumer.stop()
