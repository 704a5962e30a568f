"""What competes with the target: the candidate protocols of the evaluation (`lsvcr.md` §5).

* `sampled`: the target among 100. Videos: 99 drawn from those that the user has not seen. Comments: the video's own,
  cut to 100. It is the paper's, and known to mislead (Krichene & Rendle, KDD 2020): never report it alone.
* `full`: all videos of the log; all comments of the video, whenever they were written.
* `as-of`: what existed strictly before the event, by creation or first appearance, less what the user has seen
  (videos: viewed or commented on; comments: interacted with).

A target that a protocol cannot rank is counted under its reason (`REASONS`) and never silently dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from offline_train.corpus import Samples
from offline_train.log import Log

PROTOCOLS = ("sampled", "full", "as-of")
TASKS = ("video", "comment")
SAMPLED = 100

#: why a target is not ranked, in the order in which it is tested; code 0 is "ranked"
REASONS = (
    "ranked",
    "revealed",  # the user writes it, and an earlier comment of the user's has the same text
    "new",  # did not exist before the event (as-of only)
    "seen",  # the user has seen it before (as-of only)
    "alone",  # nothing competes with it
)
_REVEALED, _NEW, _SEEN, _ALONE = 1, 2, 3, 4

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """What a scorer is asked, n questions in the order of the log. Nothing in it depends on the target.

    user, ts_ms: [n]; who is asked for, and when.
    event_index: [n]; only events of the log before it have happened.
    video_start, video_end, comment_start, comment_end: [n]; the history windows, as in the corpus.
    video: [n]; the video under which comments are ranked (-1 in the video task).
    comments, starts: [total], [n + 1]; the comments to score, question i's being `comments[starts[i]:starts[i + 1]]`
        (empty in the video task, where every video is scored).
    """

    task: str
    user: Ints
    ts_ms: Ints
    event_index: Ints
    video_start: Ints
    video_end: Ints
    comment_start: Ints
    comment_end: Ints
    video: Ints
    comments: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.user)

    @property
    def row(self) -> Ints:
        """[total]; which question each of `comments` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True)
class Candidates:
    """Who competes: `allowed` is [n, videos] or, for comments, [total]; `reason` [n] indexes `REASONS`."""

    allowed: NDArray[np.bool_]
    reason: NDArray[np.int8]


class Protocols:
    """Builds questions and their candidates from a log. Holds indices of the log, nothing that grows with the tests."""

    def __init__(self, log: Log, *, seed: int = 0) -> None:
        self.log = log
        self.seed = seed
        n_events = len(log.user)
        order = np.lexsort((np.arange(n_events), log.user))
        self._by_user = order
        self._user_key = log.user[order].astype(np.int64) * (n_events + 1) + order
        self._n_events = n_events
        self.comment_starts, self.comment_order = log.comments_by_video()
        self._place = np.empty(len(self.comment_order), np.int64)
        self._place[self.comment_order] = np.arange(len(self.comment_order))
        self._wrote = log.wrote()

    # --- questions ----------------------------------------------------------------------------------------------------

    def batches(
        self, task: str, samples: Samples, chosen: Ints, *, rows: int = 256, cells: int = 2_000_000
    ) -> Iterator[tuple[Queries, Ints]]:
        """The chosen samples of one task as batches of (questions, target), in the order of the log.

        Args:
            samples: the corpus' samples.
            chosen: places in `samples`, all of `task`.
            rows, cells: a batch has at most so many questions, and about so many candidates.

        The target is a video (a column of the scores), or the place of the target among `Queries.comments`.
        """
        column = {name: np.asarray(getattr(samples, name), np.int64) for name in _COLUMNS}
        chosen = chosen[np.argsort(column["event_index"][chosen], kind="stable")]
        if task == "video":
            size = max(1, min(rows, cells // max(1, len(self.log.video_ids))))
            edges = list(range(0, len(chosen), size))
        else:
            # Under the comment's own video, should a faulty event name another one: that is where it can be shown.
            column["target_video"] = self.log.comment_video[column["target_comment"]].astype(np.int64)
            widths = np.diff(self.comment_starts)[column["target_video"][chosen]]
            edges = _edges(widths, rows, cells)
        for first, last in pairwise([*edges, len(chosen)]):
            yield self._ask(task, {name: values[chosen[first:last]] for name, values in column.items()})

    def _ask(self, task: str, column: dict[str, Ints]) -> tuple[Queries, Ints]:
        n = len(column["user"])
        video = column["target_video"] if task == "comment" else np.full(n, -1, np.int64)
        if task == "comment":
            flat, starts = ragged(self.comment_starts[video], self.comment_starts[video + 1])
            comments = self.comment_order[flat]
            target = starts[:-1] + self._place[column["target_comment"]] - self.comment_starts[video]
        else:
            comments, starts, target = np.zeros(0, np.int64), np.zeros(n + 1, np.int64), column["target_video"]
        queries = Queries(
            task,
            user=column["user"],
            ts_ms=column["ts_ms"],
            event_index=column["event_index"],
            video_start=column["video_start"],
            video_end=column["video_end"],
            comment_start=column["comment_start"],
            comment_end=column["comment_end"],
            video=video,
            comments=comments,
            starts=starts,
        )
        return queries, target

    # --- candidates ---------------------------------------------------------------------------------------------------

    def candidates(self, protocol: str, queries: Queries, target: Ints) -> Candidates:
        """Who competes with each target under `protocol`, and which targets it cannot rank.

        Raises:
            ValueError: an unknown protocol.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
        reason = np.zeros(len(queries), np.int8)
        if queries.task == "video":
            return self._videos(protocol, queries, target, reason)
        reason[self.revealed(queries, target)] = _REVEALED
        return self._comments(protocol, queries, target, reason)

    def _videos(self, protocol: str, queries: Queries, target: Ints, reason: NDArray[np.int8]) -> Candidates:
        n, n_videos = len(queries), len(self.log.video_ids)
        allowed = np.ones((n, n_videos), bool)
        rows = np.arange(n)
        if protocol != "full":
            who, events = self.events_before(queries)
            allowed[who, self.log.video[events]] = False
        if protocol == "as-of":
            unseen = allowed[rows, target]
            known = self.log.first_seen_video[None, :] < queries.ts_ms[:, None]
            _mark(reason, ~known[rows, target], _NEW)
            _mark(reason, ~unseen, _SEEN)
            allowed &= known
        else:
            allowed[rows, target] = True
        if protocol == "sampled":
            for i in rows:
                others = np.flatnonzero(allowed[i])
                others = others[others != target[i]]
                if len(others) >= SAMPLED:
                    rng = np.random.default_rng([self.seed, int(queries.event_index[i])])
                    allowed[i] = False
                    allowed[i, rng.choice(others, SAMPLED - 1, replace=False)] = True
                    allowed[i, target[i]] = True
        _mark(reason, allowed.sum(axis=1) < 2, _ALONE)
        return Candidates(allowed, reason)

    def _comments(self, protocol: str, queries: Queries, target: Ints, reason: NDArray[np.int8]) -> Candidates:
        allowed = np.ones(len(queries.comments), bool)
        row = queries.row
        if protocol == "as-of":
            known = self.log.first_seen_comment[queries.comments] < queries.ts_ms[row]
            who, events = self.events_before(queries)
            # comment -1 (a view) gives the key of no candidate, as every row's keys begin at row * width + 1
            width = len(self.log.comment_ids) + 1
            done = who * width + self.log.comment[events] + 1
            unseen = ~np.isin(row * width + queries.comments + 1, done)
            _mark(reason, ~known[target] | self.written_now(queries), _NEW)
            _mark(reason, ~unseen[target], _SEEN)
            allowed = known & unseen
        elif protocol == "sampled":
            for i in range(len(queries)):
                first, last = int(queries.starts[i]), int(queries.starts[i + 1])
                if last - first > SAMPLED:
                    rng = np.random.default_rng([self.seed, int(queries.event_index[i])])
                    others = np.delete(np.arange(first, last), int(target[i]) - first)
                    allowed[first:last] = False
                    allowed[rng.choice(others, SAMPLED - 1, replace=False)] = True
                    allowed[target[i]] = True
        if len(queries):
            _mark(reason, np.add.reduceat(allowed.astype(np.int64), queries.starts[:-1]) < 2, _ALONE)
        return Candidates(allowed, reason)

    # --- what a question's past holds ---------------------------------------------------------------------------------

    def events_before(self, queries: Queries) -> tuple[Ints, Ints]:
        """All earlier events of each question's user, as (question, event) pairs, oldest first per question."""
        low = queries.user * (self._n_events + 1)
        first = np.searchsorted(self._user_key, low)
        last = np.searchsorted(self._user_key, low + queries.event_index)
        flat, starts = ragged(first, last)
        return np.repeat(np.arange(len(queries)), np.diff(starts)), self._by_user[flat]

    def written_now(self, queries: Queries) -> NDArray[np.bool_]:
        """[n]; whether the target is written by the very event that is asked about, so that it did not exist before."""
        return np.asarray(self._wrote[queries.event_index])

    def revealed(self, queries: Queries, target: Ints) -> NDArray[np.bool_]:
        """[n]; whether the target is being written and reads like an earlier comment of its user's."""
        found = np.zeros(len(queries), bool)
        comment = queries.comments[target]
        mine = self.written_now(queries)
        if not mine.any():
            return found
        who, events = self.events_before(queries)
        past = self.log.comment[events]
        keep = (past >= 0) & mine[who] & (past != comment[who])
        who, past = who[keep], past[keep]
        found[who[self._reads[past] == self._reads[comment[who]]]] = True
        return found

    @cached_property
    def _reads(self) -> Ints:
        """[comments], a number for what each comment reads like: the same for the same words."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(_plain(text), len(numbers)) for text in self.log.comment_texts], np.int64)


_COLUMNS = (
    "user",
    "ts_ms",
    "event_index",
    "video_start",
    "video_end",
    "comment_start",
    "comment_end",
    "target_video",
    "target_comment",
)


def ragged(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """The integers of n ranges laid end to end, [total], and where each range begins, [n + 1]."""
    widths = np.maximum(last - first, 0)
    starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    return np.arange(starts[-1]) - np.repeat(starts[:-1] - first, widths), starts


def _edges(widths: Ints, rows: int, cells: int) -> list[int]:
    """Where batches begin, so that none has more than `rows` questions or, unless a single one does, `cells` cells."""
    edges: list[int] = []
    total = rows_here = 0
    for i, width in enumerate(widths.tolist()):
        if not edges or rows_here == rows or total + width > cells:
            edges.append(i)
            total = rows_here = 0
        total += width
        rows_here += 1
    return edges


def _mark(reason: NDArray[np.int8], where: NDArray[np.bool_], code: int) -> None:
    reason[where & (reason == 0)] = code


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
