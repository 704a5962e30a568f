"""The record of a user's state: small, complete, and never mistaken for something else."""

import uuid
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.user_logs import NOW_MS, Event, configs, fold, logs, randoms

from streams.events import CommentInteraction, VideoView
from streams.history import DEFAULT, EMPTY, HistoryConfig, apply
from streams.state_record import StateFormatError, decode, encode

DAY_MS = 24 * 3600 * 1000


@settings(max_examples=25)
@given(randoms)
def test_a_full_state_takes_at_most_4_kib(random: Random) -> None:
    """With ids of 11 characters, gaps just below 49 days, event ids that are UUIDs, no video in both histories."""

    def name() -> str:
        return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789_-", k=11))

    state, ts_ms = EMPTY, 1_000_000_000_000
    for _ in range(DEFAULT.window + DEFAULT.drop):
        ts_ms += random.randrange(48 * DAY_MS, 49 * DAY_MS) // 2
        like = VideoView(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), ts_ms, 1, actions=("like",))
        state = apply(state, like, partition=1000, offset=2**40)
        hate = VideoView(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), ts_ms, 1, actions=("hate",))
        state = apply(state, hate, partition=1000, offset=2**40)
        ts_ms += random.randrange(48 * DAY_MS, 49 * DAY_MS) // 2
        write = CommentInteraction(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), name(), ts_ms, "write")
        state = apply(state, write, partition=1000, offset=2**40)
        full = len(state.video.times) == len(state.comment.times) == DEFAULT.window
        if full:
            assert (len(state.seen.videos), len(state.hated.videos)) == (DEFAULT.seen, DEFAULT.hated)
            assert len(encode(state)) <= 4096
    assert full
    assert state.video.low_ms > 0
    assert state.comment.low_ms > 0


@given(logs, configs)
def test_a_state_survives_encoding(log: list[Event], config: HistoryConfig) -> None:
    state = fold(log, config)
    assert decode(encode(state)) == state


A_RECORD = encode(
    fold(
        [
            *(VideoView(f"e{n}", "u", f"v{n}", NOW_MS + n, 20_000, actions=("hate",) * (n % 3 == 0)) for n in range(9)),
            *(CommentInteraction(f"e{n}", "u", f"v{n}", f"c{n}", NOW_MS + n, "like") for n in range(9, 15)),
        ],
        DEFAULT,
    )
)


def reads_or_refuses(record: bytes) -> None:
    try:
        state = decode(record)
    except StateFormatError:
        return
    assert decode(encode(state)) == state  # what is read is a whole state, whatever it says


@given(st.binary(max_size=200))
def test_noise_is_no_state(record: bytes) -> None:
    reads_or_refuses(record)


@given(st.data())
def test_a_damaged_record_is_read_as_a_state_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(A_RECORD)))
    end = data.draw(st.integers(start, min(len(A_RECORD), start + 6)))
    reads_or_refuses(A_RECORD[:start] + data.draw(st.binary(max_size=6)) + A_RECORD[end:])


@pytest.mark.parametrize("deltas", [[1 << 63, 0], [(1 << 63) - 1, 1], [-(1 << 63), -1]])
def test_times_that_no_clock_has_are_refused(deltas: list[int]) -> None:
    fields = msgspec.msgpack.decode(A_RECORD)
    fields[3] = deltas + fields[3][2:]
    with pytest.raises(StateFormatError, match="not a user state"):
        decode(msgspec.msgpack.encode(fields))


def test_a_record_cut_short_is_refused() -> None:
    for length in range(len(A_RECORD)):
        with pytest.raises(StateFormatError, match="not a user state"):
            decode(A_RECORD[:length])


@pytest.mark.parametrize(
    "record",
    [b"\xc0", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x91\x01", b"\x81\x00\x01", b"\xa3abc", A_RECORD + b"\x00"],
)
def test_what_is_no_state_is_refused(record: bytes) -> None:
    with pytest.raises(StateFormatError, match="not a user state"):
        decode(record)


def test_a_state_of_another_format_says_so() -> None:
    with pytest.raises(StateFormatError, match=r"format 2; this version reads 1"):
        decode(b"\x93\x02\xa3new\xc0")
