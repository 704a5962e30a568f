"""A broker with a live worker that serves the shipped bundle, and what users of it are recommended."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
from support.outcome import last_lists
from support.whole_path import wait_until_committed
from support.worker_process import WorkerProcess

from infra.demo.platform import BUNDLE as SHIPPED
from model_runtime.bundle import Bundle, write_bundle
from model_runtime.ids import text_digest
from model_runtime.live_section import LiveSection
from streams.events import Comment, Event, Video, VideoAction, VideoView
from streams.publisher import Publisher

_number = itertools.count()
BUNDLE = Bundle.open(SHIPPED)
VIDEOS: list[str] = BUNDLE.video_ids.tolist()
COMMENTS: list[str] = BUNDLE.comment_ids.tolist()
VIDEO_OF = {c: VIDEOS[at] for c, at in zip(COMMENTS, BUNDLE.comment_video.tolist(), strict=True)}
#: a video with comments, on which every user of these tests is
STAGE = max(VIDEOS, key=list(VIDEO_OF.values()).count)
UNDER_STAGE = [comment for comment, video in VIDEO_OF.items() if video == STAGE]


def title(video_id: str) -> str:
    """What these tests' catalog calls a video of the bundle."""
    return f"title of {video_id}"


def text(comment_id: str) -> str:
    """What a comment of the bundle says in these tests' catalog."""
    return f"text of {comment_id}"


def make_bundle(folder: Path, *, student: bool = True, live: LiveSection | None = None) -> Path:
    """The shipped bundle, as if it had been trained with this catalog's texts, and with live signals if given."""
    digests = {
        "video_text_digests": np.array([text_digest(title(id_)) for id_ in VIDEOS], np.uint32),
        "comment_text_digests": np.array([text_digest(text(id_)) for id_ in COMMENTS], np.uint32),
    }
    manifest = BUNDLE.manifest
    return write_bundle(
        folder,
        model=manifest.model,
        history=manifest.history,
        arrays=BUNDLE.arrays | digests,
        ids={"video_ids": VIDEOS, "comment_ids": COMMENTS},
        encoder=BUNDLE.encoder_path.read_bytes(),
        sample=BUNDLE.sample,
        student=BUNDLE.student if student else None,
        live=live,
    ).path


class Platform:
    """A broker with a worker, and what users of it are recommended."""

    def __init__(
        self, bootstrap: str, redis_url: str, folder: Path, *, student: bool = True, live: LiveSection | None = None
    ) -> None:
        self.bootstrap, self.redis_url, self.folder = bootstrap, redis_url, folder
        self.bundle = make_bundle(folder / "bundle", student=student, live=live)

    def worker(self, worker_id: str = "0", *flags: str) -> WorkerProcess:
        """A worker with a data folder of its own."""
        folder = self.folder / f"data-{worker_id}"
        return WorkerProcess(
            self.bootstrap, self.redis_url, folder, bundle=self.bundle, worker_id=worker_id, flags=flags
        )

    def publish(self, *records: Event | Video | Comment) -> None:
        with Publisher(self.bootstrap) as publisher:
            for record in records:
                publisher.publish(record)

    def publish_catalog(self) -> None:
        self.publish(
            *(Video(id_, title(id_)) for id_ in VIDEOS),
            *(Comment(id_, video, text(id_)) for id_, video in VIDEO_OF.items()),
        )

    def remove(self, *, video: str | None = None, comment: str | None = None) -> None:
        with Publisher(self.bootstrap) as publisher:
            if video is not None:
                publisher.remove_video(video)
            if comment is not None:
                publisher.remove_comment(comment)

    def lists_after(self, *more: Event, user: str = "u") -> tuple[list[str], list[str]]:
        """What the user gets after `more` and a glance at `STAGE`: ids of videos, ids of comments under it.

        A glance is no engagement: the same history gives the same lists.
        """
        self.publish(*more, view(user, STAGE, watch_ms=100))
        wait_until_committed(self.bootstrap, timeout=60)
        videos = last_lists(self.bootstrap, "videos")[user]
        comments = last_lists(self.bootstrap, "comments")[user]
        return [item.id for item in videos.items], [item.id for item in comments.items]


def view(user: str, video: str, watch_ms: int = 20_000, actions: tuple[VideoAction, ...] | None = None) -> VideoView:
    number = next(_number)
    ts_ms = int(time.time() * 1000) + number  # later than every event before it
    return VideoView(f"event-{number}", user, video, ts_ms, watch_ms, 60_000, actions)
