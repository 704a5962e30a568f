"""incremental-vs-full: encoding from sessions against encoding both histories at every event.

Users with full histories (windows of 50, which drop 16 at once, so 35 to 50 entries) have 80 % video and 20 % comment
events, one per user and batch. All sides get the same requests and give the same preferences within 1e-4; all include
looking up ids and vectors. What the incremental side pays for window drops (about one event in sixteen encodes one
history from the beginning) is in its figure. Full encodings are done in both ways that there are, by the exported
encoder as for a request without a user id, and as for a user's first request, which keeps what steps need; the faster
one counts. The model has the published size (d = 64, two layers) and random weights. Rates are events per second of
processor time of one thread, because the machine's other work must not count.
"""

from __future__ import annotations

import random
import time
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from support.random_sr import write_random_sr

from model_runtime.features import Request
from model_runtime.scorer import Scorer

WINDOW, DROP = 50, 16
VIDEOS, COMMENTS = 2_000, 20_000
USERS = 256
_TURN = 64


class _Users:
    """Histories that grow by one entry at a time."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._videos = [[self._video() for _ in range(self._random.randint(35, 50))] for _ in range(USERS)]
        self._pairs = [[self._pair() for _ in range(self._random.randint(35, 50))] for _ in range(USERS)]

    def _video(self) -> str:
        return f"v{self._random.randrange(VIDEOS)}"

    def _pair(self) -> tuple[str, str]:
        comment = self._random.randrange(COMMENTS)
        return f"v{comment % VIDEOS}", f"c{comment}"

    def request(self, user: int) -> Request:
        videos, pairs = self._videos[user], self._pairs[user]
        current = videos[-1]
        return Request(videos, [v for v, _ in pairs], [c for _, c in pairs], current, user_id=f"u{user}")

    def happen(self, user: int) -> None:
        if self._random.random() < 0.8:
            self._videos[user] = self._after(self._videos[user], self._video())
        else:
            self._pairs[user] = self._after(self._pairs[user], self._pair())

    @staticmethod
    def _after(history: list, entry: object) -> list:
        history = [*history, entry]
        return history[DROP:] if len(history) > WINDOW else history


def run(folder: Path, *, rounds: int, quick: bool, batch: int) -> list[tuple[float, float]]:
    """Rates in events per second as (incremental, full), one pair per round."""
    bundle = write_random_sr(
        folder / "bundle", videos=VIDEOS, comments=COMMENTS, window=WINDOW, drop=DROP, dim=64, feedforward=256
    )
    sessions, firsts = (Scorer(bundle, session_bytes=64 << 20).sessions for _ in range(2))
    for each in (sessions, firsts):
        each.wait()
    users = _Users()
    for start in range(0, USERS, 64):
        sessions.encode([users.request(user) for user in range(start, start + 64)])
    pairs = []
    events = (1 if quick else 3) * USERS
    strangers = count()
    for number in range(rounds):
        spent = {"incremental": 0.0, "encoder": 0.0, "first": 0.0}
        worst = 0.0
        before = dict(sessions.counts)
        for start in range(0, events, _TURN):
            # One side after another does as many events as the other, so that each has its own caches warm.
            asked = [user % USERS for user in range(start, start + _TURN)]
            for user in asked:
                users.happen(user)
            requests = [users.request(user) for user in asked]
            sides = [
                ("incremental", sessions, requests),
                ("encoder", firsts, [replace(request, user_id=None) for request in requests]),
                ("first", firsts, [replace(request, user_id=f"new{next(strangers)}") for request in requests]),
            ]
            given = {}
            turn = (start // _TURN) % len(sides)
            for kind, encoder, turns_requests in sides[turn:] + sides[:turn]:
                batches = [turns_requests[first : first + batch] for first in range(0, _TURN, batch)]
                began = time.thread_time()
                encoded = [encoder.encode(each) for each in batches]
                spent[kind] += time.thread_time() - began
                given[kind] = [
                    np.concatenate(preferences) for preferences in zip(*(e[:2] for e in encoded), strict=True)
                ]
            for kind in ("encoder", "first"):
                for one, other in zip(given["incremental"], given[kind], strict=True):
                    worst = max(worst, float(np.abs(one - other).max()))
        rates = {kind: events / seconds for kind, seconds in spent.items()}
        pairs.append((rates["incremental"], max(rates["encoder"], rates["first"])))
        a, b = pairs[-1]
        done = {kind: times - before[kind] for kind, times in sessions.counts.items() if times > before[kind]}
        print(
            f"  round {number + 1}/{rounds}: incremental {a:,.0f}, full {b:,.0f} events/s, ratio {a / b:.1f} "
            f"(encoder {rates['encoder']:,.0f}, first request {rates['first']:,.0f}; preferences differ by {worst:.1e} "
            f"at most; {done})",
            flush=True,
        )
        assert worst < 1e-4
    return pairs


single = partial(run, batch=1)
batched = partial(run, batch=64)
