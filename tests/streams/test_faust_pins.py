"""What intake.py and table.py take for granted of Faust's inner parts. A new Faust that differs fails here first."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.stores.memory import Store as MemoryStore
from faust.stores.rocksdb import Store as RocksStore
from faust.tables.base import Collection as Table
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread as ConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AiokafkaConsumer
from faust.transport.drivers.aiokafka import Transport, server_list
from yarl import URL

from streams.intake import BatchConsumer, BatchTransport
from streams.table import UserStateTable


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    ("owner", "method", "signature"),
    [
        (Consumer, "_drain_messages", "(self, fetcher: mode.types.services.ServiceT) -> None"),
        (Consumer, "_wait_next_records", "(self, timeout: float) -> Tuple["),
        (ThreadDelegateConsumer, "_getmany", "(self, active_partitions: Optional["),
        (Consumer, "_filter_tps_with_pending_acks", "(self, topics: Optional["),
        (Consumer, "_new_offset", "(self, tp: faust.types.tuples.TP) -> Optional[int]"),
        (Consumer, "_should_commit", "(self, tp: faust.types.tuples.TP, offset: int) -> bool"),
        (Consumer, "wait_empty", "(self) -> None"),
        (Consumer, "commit_and_end_transactions", "(self) -> None"),
        (Consumer, "perform_seek", "(self) -> None"),
        (Consumer, "on_partitions_assigned", "(self, assigned: Set[faust.types.tuples.TP], generation_id: int = 0)"),
        (Consumer, "on_stop", "(self) -> None"),
        (ConsumerThread, "call_thread", "(self, fun: Callable["),
        (ConsumerThread, "_ensure_consumer", "(self) -> aiokafka.consumer.consumer.AIOKafkaConsumer"),
        (ConsumerThread, "_create_worker_consumer", "(self, transport: 'Transport') -> aiokafka"),
        (AiokafkaConsumer, "_new_consumer_thread", "(self) -> "),
        (ThreadDelegateConsumer, "highwater", "(self, tp: faust.types.tuples.TP) -> int"),
        (AiokafkaConsumer, "verify_event_path", "(self, now: float, tp: faust.types.tuples.TP) -> None"),
        (AiokafkaConsumer, "_to_message", "(self, tp: faust.types.tuples.TP, record: Any) -> "),
        (RocksStore, "_db_for_partition", "(self, partition: int) -> "),
        (RocksStore, "set_persisted_offset", "(self, tp: faust.types.tuples.TP, offset: int) -> None"),
        (RocksStore, "_visible_items", "(self, db: "),
        (RocksStore, "persisted_offset", "(self, tp: faust.types.tuples.TP) -> Optional[int]"),
        (Table, "apply_changelog_batch", "(self, batch: Iterable["),
        (Recovery, "on_recovery_completed", "(self, generation_id: int = 0) -> None"),
    ],
)
def test_the_shape_of(owner: type, method: str, signature: str) -> None:
    found = str(inspect.signature(inspect.unwrap(getattr(owner, method)))).replace("typing.", "")
    assert found.startswith(signature), f"{owner.__name__}.{method}{found}"


def test_a_position_is_where_we_look_for_it() -> None:
    async def look() -> None:
        subscriptions = SubscriptionState()
        subscriptions.subscribe({"t"})
        place = TopicPartition("t", 0)
        assert not subscriptions.is_assigned(place)
        subscriptions.assign_from_subscribed([place])
        state = subscriptions.subscription.assignment.state_value(place)
        assert not state.has_valid_position
        state.seek(7)
        assert state.has_valid_position
        assert state.position == 7

    asyncio.run(look())
    assert not inspect.iscoroutinefunction(AIOKafkaConsumer.seek)  # it is done when it returns


def test_a_fetch_waits_as_long_as_we_say() -> None:
    """Faust hands its own number to the consumer, which takes it along when it starts."""
    assert "fetch_max_wait_ms=1500" in inspect.getsource(ConsumerThread._create_worker_consumer)
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in inspect.getsource(AIOKafkaConsumer.start)
    made = inspect.getsource(AiokafkaConsumer._new_consumer_thread)
    assert "AIOKafkaConsumerThread(self, loop=self.loop, beacon=self.beacon)" in made


def test_rebalances_reach_our_override() -> None:
    assert "self.on_partitions_revoked" in inspect.getsource(ThreadDelegateConsumer.threadsafe_partitions_revoked)
    source = inspect.getsource(Consumer.on_partitions_revoked)
    assert "_on_partitions_revoked" in source  # the app commits (wait_empty) before our override goes on
    assert BatchConsumer.on_partitions_revoked is not AiokafkaConsumer.on_partitions_revoked


def test_events_can_be_paused_before_they_flow() -> None:
    assert not inspect.iscoroutinefunction(AIOKafkaConsumer.pause)
    assert "self.on_partitions_assigned" in inspect.getsource(ThreadDelegateConsumer.threadsafe_partitions_assigned)
    assert server_list([URL("kafka://a:1"), URL("kafka://b")], 9092) == ["a:1", "b:9092"]
    # whoever waits in a fetch, though of paused partitions, is not idle
    assert "fetch_context" in inspect.getsource(ConsumerThread._fetch_records)


def test_state_is_recovered_before_the_seek_that_tells_us_so() -> None:
    source = inspect.getsource(Recovery.on_recovery_completed)
    assert source.index("on_recovery_completed") < source.index("perform_seek") < source.index("resume_flow")


def test_recovery_moves_on_with_the_last_record_of_a_slice() -> None:
    source = inspect.getsource(Recovery._slurp_changelogs.fun)
    assert "offset > seen_offset" in source  # gaps are nothing special to it
    assert "offsets[tp] = offset" in source
    assert "table.apply_changelog_batch(buf)" in source  # ours does nothing
    assert "self.offset_key, str(offset).encode()" in inspect.getsource(RocksStore.set_persisted_offset)
    assert "_changelogs" in inspect.getsource(TableManager.add)


def test_commits_go_through_the_watermark() -> None:
    assert "_filter_tps_with_pending_acks" in inspect.getsource(Consumer.force_commit)
    assert "_new_offset" in inspect.getsource(Consumer._filter_committable_offsets)


def test_the_original_intake_still_does_what_ours_replaces() -> None:
    source = inspect.getsource(Consumer.getmany) + inspect.getsource(Consumer._drain_messages)
    for name in ("flow_active", "consumer_generation_id", "_buffered_partitions", "_read_offset", "suspend_flow"):
        assert name.removeprefix("_") in source, name


def test_the_transport_and_the_table_take_their_place() -> None:
    assert issubclass(BatchTransport, Transport)
    assert BatchTransport.Consumer is BatchConsumer
    assert "changelog_topic_name" in dir(UserStateTable)
    assert "_key_partition" in inspect.getsource(MemoryStore)
