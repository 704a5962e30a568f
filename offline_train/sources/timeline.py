"""One pass through simulated time: slot after slot, in the order of time, up to the log's size and beyond it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from offline_train.sources.population import DAY_MS, make_comments, make_users, make_videos
from offline_train.sources.preferences import SLOT_MS, SLOTS_PER_DAY
from offline_train.sources.sessions import COMMENT_ACTIONS, LOAD, VIDEO_ACTIONS, Happenings, Platform
from offline_train.sources.simulator_config import EVENTS_PER_SESSION, SimulatorConfig
from offline_train.sources.vocabulary import TOPICS
from streams import topics
from streams.events import Comment, CommentInteraction, Event, Record, Video, VideoAction, VideoView

_TOPIC_NAMES = tuple(TOPICS)
_NEVER = 1 << 62
#: every combination of video actions, by its bits
_ACTIONS: tuple[tuple[VideoAction, ...] | None, ...] = tuple(
    tuple(action for bit, action in enumerate(VIDEO_ACTIONS) if bits >> bit & 1) or None
    for bits in range(1 << len(VIDEO_ACTIONS))
)
_LIVE_SHARE = 3  # in a live slot of two hours at most one user in so many comes


class Timeline:
    """The platform of a configuration, moving forward. `log` first, then `forever`."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 1])
        end_ms = config.days * DAY_MS
        users = make_users(rng, config.users, config.topics, config.days)
        videos, self.titles = make_videos(rng, config.videos, config.topics, (0, end_ms))
        comments, self.texts = make_comments(rng, config.comments, videos, 0, config.topics, end_ms)
        self.platform = Platform(config.seed, config.topics, users, videos, comments)
        self.told = 0  #: events given out so far
        self.last_ms = 0  #: time of the last of the log's events, Unix ms
        self._held = Happenings.none()  # what visitors of past slots do in slots to come
        self._made = 0
        self._sessions = 0

    def log(self) -> Iterator[Happenings]:
        """The events of the log in time order, a batch per slot."""
        config = self.config
        goal = np.cumsum(np.tile(LOAD, config.days)) * config.interactions / config.days
        for slot in range(len(goal)):
            wanted = (goal[slot] - self._made) / self._per_session
            last = slot == len(goal) - 1
            # The last slot makes some more; what exceeds the log's size is left for `forever`.
            self._visit(slot, round(wanted * 1.25) + 8 if last else round(wanted))
            batch = self._due(_NEVER if last else (slot + 1) * SLOT_MS)
            room = config.interactions - self.told
            self._held = batch.take(slice(room, None)).then(self._held)
            batch = batch.take(slice(room))
            if len(batch):
                self.last_ms = config.start_ms + int(batch.ts_ms[-1])
            self.told += len(batch)
            yield batch
        self.platform.settle()

    def forever(self, rate: float) -> Iterator[tuple[str, Record]]:
        """Topic and record from the end of the log on, in time order, new videos and comments among them.

        `rate`: records that are wanted per second of simulated time. Where that is more than the users can make, the
        simulated time passes faster. Each comment comes before the event that writes it.
        """
        slot = self.config.days * SLOTS_PER_DAY
        most = max(self.config.users // _LIVE_SHARE, 1)
        videos = comments = range(0)
        while True:
            if slot % SLOTS_PER_DAY == 0:
                videos, comments = self._publish(slot // SLOTS_PER_DAY)
            self._visit(slot, int(np.clip(rate * SLOT_MS / 1000 / self._per_session, 1, most)))
            self.platform.settle()
            now, slot = slot * SLOT_MS, slot + 1
            entries: list[tuple[int, int, str, Record]] = []
            published, written = self.platform.videos.published_ms, self.platform.comments.written_ms
            for row in videos:
                if now <= published[row] < now + SLOT_MS:
                    entries.append((int(published[row]), 0, topics.VIDEOS, self.video(row)))
            for row in comments:
                if now <= written[row] < now + SLOT_MS:
                    entries.append((int(written[row]), 1, topics.COMMENTS, self.comment(row)))
            batch = self._due(now + SLOT_MS)
            self.told += len(batch)
            for event, row in zip(self.events(batch), batch.comment.tolist(), strict=True):
                at = event.ts_ms - self.config.start_ms
                topic = topics.VIDEO_VIEWS
                if isinstance(event, CommentInteraction):
                    topic = topics.COMMENT_INTERACTIONS
                    if event.action == "write":
                        entries.append((at, 2, topics.COMMENTS, self.comment(row)))
                entries.append((at, 2, topic, event))
            entries.sort(key=lambda entry: entry[:2])
            for _, _, topic, record in entries:
                yield topic, record

    def events(self, batch: Happenings) -> Iterator[Event]:
        """The typed events of the batch that was given out last."""
        seed, start_ms, duration = self.config.seed, self.config.start_ms, self.platform.videos.duration_ms
        columns = zip(*(column.tolist() for column in batch.columns()), duration[batch.video].tolist(), strict=True)
        for number, columns_ in enumerate(columns, self.told - len(batch)):
            ts_ms, user, video, comment, span_ms, actions, duration_ms = columns_
            event_id, user_id, video_id, at = f"sim-{seed}-{number}", f"u{user}", f"v{video}", start_ms + ts_ms
            if comment < 0:
                yield VideoView(event_id, user_id, video_id, at, span_ms, duration_ms, _ACTIONS[actions])
            else:
                action = COMMENT_ACTIONS[actions]
                yield CommentInteraction(event_id, user_id, video_id, f"c{comment}", at, action, span_ms)

    def video(self, row: int) -> Video:
        """The catalog's record of a video."""
        videos = self.platform.videos
        return Video(
            f"v{row}",
            self.titles[row],
            tags=(_TOPIC_NAMES[videos.topic[row]],),
            author_id=f"a{videos.author[row]}",
            duration_ms=int(videos.duration_ms[row]),
            created_ms=self.config.start_ms + int(videos.published_ms[row]),
        )

    def comment(self, row: int) -> Comment:
        """The catalog's record of a comment. Likes only where they are older than the simulation."""
        comments = self.platform.comments
        author, likes = int(comments.author[row]), int(comments.likes[row])
        return Comment(
            f"c{row}",
            f"v{comments.video[row]}",
            self.texts[row],
            user_id=f"u{author}" if author >= 0 else None,
            like_count=likes if likes >= 0 else None,
            created_ms=self.config.start_ms + int(comments.written_ms[row]),
        )

    @property
    def _per_session(self) -> float:
        return self._made / self._sessions if self._sessions > 20 else EVENTS_PER_SESSION

    def _visit(self, slot: int, sessions: int) -> None:
        sessions = max(sessions, 0)
        visits = self.platform.slot(slot, sessions)
        self.texts += self.platform.written_texts
        self.platform.written_texts.clear()
        self._made += len(visits)
        self._sessions += sessions
        self._held = self._held.then(visits)

    def _due(self, until_ms: int) -> Happenings:
        """What is held and happens before `until_ms`, in time order; the rest stays held."""
        held = self._held.take(np.argsort(self._held.ts_ms, kind="stable"))
        due = int(np.searchsorted(held.ts_ms, until_ms))
        self._held = held.take(slice(due, None))
        return held.take(slice(due))

    def _publish(self, day: int) -> tuple[range, range]:
        """Videos and comments of a day after the log, as many as on a day of it; their rows."""
        config, platform = self.config, self.platform
        rng = np.random.default_rng([config.seed, 3, day])
        first_video, first_comment = len(self.titles), len(self.texts)
        count = max(round(0.6 * config.videos / config.days), 1)
        span = (day * DAY_MS, (day + 1) * DAY_MS)
        videos, titles = make_videos(rng, count, config.topics, span, of=config.videos)
        count = max(config.comments // config.days, 1)
        comments, texts = make_comments(rng, count, videos, first_video, config.topics, span[1])
        platform.publish(videos, comments)
        self.titles += titles
        self.texts += texts
        return range(first_video, len(self.titles)), range(first_comment, len(self.texts))
