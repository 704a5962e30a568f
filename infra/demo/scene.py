"""What the demo knows at one moment: events that went in, lists that came out, and how long that took."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any

from streams.events import Comment, CommentInteraction, Record, Video, VideoView
from streams.recommendations import CommentRecommendations, Recommendations, VideoRecommendations

RECENT = 14


class Scene:
    """Filled by the traffic (a thread) and by the reader of recommendations (the event loop); drawn by the view."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.titles: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.recent: deque[VideoView | CommentInteraction] = deque(maxlen=RECENT)
        self.events = 0
        self.recommendations = 0
        self.events_of: Counter[str] = Counter()
        self.last_event: dict[str, str] = {}  # user -> id of the last event published
        self.videos: dict[str, VideoRecommendations] = {}
        self.comments: dict[str, CommentRecommendations] = {}
        self.before: dict[str, tuple[str, ...]] = {}  # user -> ids of the list before the present one
        #: of each event that got a list: when it was handed to the client (monotonic), seconds until its list was read
        self.answers: list[tuple[float, float]] = []
        self._sent_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def know(self, record: Record) -> None:
        """A catalog record goes out."""
        if isinstance(record, Video):
            self.titles[record.video_id] = record.title
        elif isinstance(record, Comment):
            self.texts[record.comment_id] = record.text

    def sent(self, event: VideoView | CommentInteraction) -> None:
        """An event goes out."""
        with self._lock:
            self.events += 1
            self.recent.append(event)
            self.events_of[event.user_id] += 1
            self.last_event[event.user_id] = event.event_id
            self._sent_at[event.event_id] = time.monotonic()

    def received(self, record: Recommendations) -> None:
        """A list came in."""
        with self._lock:
            self.recommendations += 1
            if isinstance(record, CommentRecommendations):
                self.comments[record.user_id] = record
                return
            if record.user_id in self.videos:
                self.before[record.user_id] = tuple(item.id for item in self.videos[record.user_id].items)
            self.videos[record.user_id] = record
            sent_at = self._sent_at.pop(record.trigger.event_id, None)
            if sent_at is not None:
                self.answers.append((sent_at, time.monotonic() - sent_at))

    def star(self) -> str | None:
        """The user to show: the one with most events among those who have a list."""
        with self._lock:
            return next((user for user, _ in self.events_of.most_common() if user in self.videos), None)

    def answered(self) -> bool:
        """Whether every user's last event is covered by the user's last list."""
        with self._lock:
            return all(
                user in self.videos and self.videos[user].trigger.event_id == event
                for user, event in self.last_event.items()
            )

    def latency_ms(self, *percentiles: float) -> list[float | None]:
        """Percentiles of the time from event to list, in ms; None while there are none."""
        with self._lock:
            ordered = sorted(took for _, took in self.answers)
        if not ordered:
            return [None] * len(percentiles)
        return [round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))], 1) for p in percentiles]

    def summary(self) -> dict[str, Any]:
        """What the demo prints when it ends."""
        p50, p95, p99 = self.latency_ms(50, 95, 99)
        with self._lock:
            return {
                "seconds": round(time.monotonic() - self.began, 1),
                "events_in": self.events,
                "recommendations_out": self.recommendations,
                "users_with_events": len(self.events_of),
                "users_with_video_recommendations": sum(bool(r.items) for r in self.videos.values()),
                "users_with_comment_recommendations": sum(bool(r.items) for r in self.comments.values()),
                "latency_ms": {"p50": p50, "p95": p95, "p99": p99, "samples": len(self.answers)},
                "model_version": next((r.model_version for r in self.videos.values()), None),
            }
