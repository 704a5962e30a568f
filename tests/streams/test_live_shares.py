"""Shares of counts by partition: kills, takeovers and replays change nothing that was published."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.signals import Signals
from streams.live_records import take_in
from streams.live_shares import RECORDS, Applied, Shares
from streams.outbox import Message
from streams.topics import COMMENT_INTERACTIONS, VIDEO_VIEWS

START = 1_700_000_000_000
TOPIC = (VIDEO_VIEWS, 0)


class Life:
    """One partition's events, who owns it in turn, and the topic that they publish to."""

    def __init__(self) -> None:
        self.topic: list[Message] = []
        self.events: list[str] = []
        self.taken = self.confirmed = self.mark = 0
        self.lost: set[int] = set()
        self.owner = self.takes_over()

    def takes_over(self) -> Shares:
        owner = Shares(Signals(), 1)
        owner.hear(as_records(self.topic))
        owner.own([0], {TOPIC: len(self.events)})
        return owner

    def take(self, items: list[str]) -> None:
        """A slice of new events arrives and is applied."""
        self.events += items
        self._apply(self.taken, len(self.events))

    def _apply(self, start: int, end: int) -> None:
        """What was confirmed is in the users' states, so it enters no history again."""
        applied = [Applied(START + i, i, self.events[i] if i >= self.confirmed else None) for i in range(start, end)]
        self.owner.take(VIDEO_VIEWS, 0, applied, end)
        self.taken = end

    def confirm(self, back: int) -> None:
        self.confirmed = max(self.confirmed, self.taken - back)

    def publish(self) -> None:
        for messages in self.owner.changes():
            self.topic += messages
        self.mark = self.taken

    def kill(self, reread: int) -> None:
        """Another worker takes over and reads again `reread` events of those that were confirmed."""
        self.lost |= set(range(self.mark, self.confirmed))
        self.owner = self.takes_over()
        self._apply(max(0, self.confirmed - reread), len(self.events))


def as_records(topic: list[Message]) -> list[SimpleNamespace]:
    return [SimpleNamespace(key=m.key, value=m.value, partition=0, offset=at) for at, m in enumerate(topic)]


def numbers(signals: Signals, kind: str = "video") -> dict[str, float]:
    """How many events of each item are counted; all within a moment, so that nothing decays."""
    total = signals.kinds[kind].total
    found = zip(total.ids, total.at(signals.now_ms)[:, -1].round(3).tolist(), strict=True)
    return {id_: count for id_, count in found if count}


steps = st.lists(
    st.one_of(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
        st.tuples(st.just("confirm"), st.integers(0, 4)),
        st.tuples(st.just("publish"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 6)),
    ),
    max_size=25,
)


@given(steps)
def test_a_kill_loses_what_was_confirmed_and_not_published_and_doubles_nothing(story: list[object]) -> None:
    life = Life()
    for step in story:
        if isinstance(step, list):
            life.take(step)
        else:
            getattr(life, step[0])(*([step[1]] if step[0] != "publish" else []))  # type: ignore[index]
    life.publish()
    expected = Counter(item for at, item in enumerate(life.events) if at not in life.lost)
    assert numbers(life.owner.signals) == pytest.approx(dict(expected), abs=1e-2)
    listener = Signals()
    take_in(as_records(life.topic), listener, {})
    assert numbers(listener) == pytest.approx(dict(expected), abs=1e-2)
    # What compaction leaves says the same.
    compacted = {message.key: message for message in life.topic}
    listener = Signals()
    take_in(as_records(list(compacted.values())), listener, {})
    assert numbers(listener) == pytest.approx(dict(expected), abs=1e-2)


def applied(*items: str, first: int = 0) -> list[Applied]:
    return [Applied(START, first + at, item) for at, item in enumerate(items)]


def test_events_wait_until_the_partitions_share_is_known() -> None:
    before = Shares(Signals(), 1)
    before.own([3], {})
    before.take(COMMENT_INTERACTIONS, 3, applied("a", "a"), 2)
    told = as_records([message for messages in before.changes() for message in messages])
    after = Shares(Signals(), 1)
    after.take(COMMENT_INTERACTIONS, 3, applied("a", "b", first=1), 3)
    assert numbers(after.signals, "comment") == {}
    assert after.hear(told) == 2
    after.own([3], {})
    assert numbers(after.signals, "comment") == {"a": 2.0, "b": 1.0}
    assert after.hear(told) == 0, "its own word, which is older than what it has"


def test_events_that_begin_anew_are_counted_though_a_mark_says_otherwise() -> None:
    before = Shares(Signals(), 1)
    before.own([0], {})
    before.take(VIDEO_VIEWS, 0, applied("a", first=100), 101)
    after = Shares(Signals(), 1)
    after.hear(as_records([message for messages in before.changes() for message in messages]))
    after.own([0], {TOPIC: 5})
    after.take(VIDEO_VIEWS, 0, applied("a", first=0), 1)
    after.count()
    assert numbers(after.signals) == {"a": 2.0}


def test_only_what_changed_is_told_in_parts_and_the_mark_last() -> None:
    shares = Shares(Signals(), 2)
    shares.own([5], {})
    shares.take(VIDEO_VIEWS, 5, applied(*(f"v{i}" for i in range(RECORDS + 1))), RECORDS + 1)
    parts = list(shares.changes())
    assert [len(part) for part in parts] == [RECORDS, 1, 1]
    assert {message.partition for part in parts for message in part} == {1}
    assert parts[-1][0].key == b"5:offset:video-views"
    shares.take(VIDEO_VIEWS, 5, applied("v7", first=RECORDS + 1), RECORDS + 2)
    assert [message.key for part in shares.changes() for message in part] == [b"5:video:v7", b"5:offset:video-views"]
    assert [part for part in shares.changes() if part] == []


def test_whoever_leaves_says_whether_something_is_untold() -> None:
    shares = Shares(Signals(), 1)
    shares.own([0], {})
    assert not shares.disown()
    shares.own([0], {})
    shares.take(VIDEO_VIEWS, 0, applied("a"), 1)
    list(shares.changes())
    assert not shares.disown()
    shares.own([0], {})
    shares.take(VIDEO_VIEWS, 0, applied("a", first=1), 2)
    assert shares.disown()


def test_what_faded_is_told_as_gone() -> None:
    shares = Shares(Signals(), 1)
    shares.own([0], {})
    shares.take(VIDEO_VIEWS, 0, applied("old"), 1)
    told = [message for messages in shares.changes() for message in messages]
    later = START + 1500 * 24 * 3_600_000
    shares.take(VIDEO_VIEWS, 0, [Applied(later, 1, "new")] * 3, 2)
    for _ in range(8):
        shares.fade()
    told += [message for messages in shares.changes() for message in messages]
    assert (b"0:video:old", None) in [(message.key, message.value) for message in told]
    listener = Signals()
    take_in(as_records(told), listener, {})
    assert numbers(listener) == {"new": 3.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"", b"{}"), (b"x:video:a", b"{}"), (b"0:videos:a", b"{}"), (b"0:offset:elsewhere", b"{}"), (b"0:video:a", b"?")],
)
def test_records_that_are_none_are_skipped(key: bytes, value: bytes) -> None:
    signals = Signals()
    take_in([SimpleNamespace(key=key, value=value, partition=0, offset=0)], signals, {})
    assert numbers(signals) == {}
    assert signals.now_ms == 0


def test_an_event_is_no_later_than_the_record_it_came_in() -> None:
    from streams.events import VideoView

    event = VideoView("e", "u", "v", START + 3_600_000, 20_000)
    assert Applied.of(event, SimpleNamespace(timestamp=START, offset=4), True) == (START, 4, "v")
    assert Applied.of(event, SimpleNamespace(timestamp=-1, offset=4), False) == (START + 3_600_000, 4, None)
