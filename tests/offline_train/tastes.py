"""A small log with something to learn: every user likes one of two genres, in videos and in comments."""

import numpy as np

from offline_train.log import Log
from streams.events import Comment, CommentInteraction, Video, VideoView, encode

GENRES = (
    ("cat", "kitten", "purring", "whiskers"),
    ("engine", "racing", "turbo", "gearbox"),
)
HOUR = 3_600_000


def records(users=30, videos=24, steps=14, seed=0):
    """(catalog, events): user i likes genre i % 2; each step is a view and a liked comment of that genre."""
    random = np.random.default_rng(seed)

    def text(genre):
        return " ".join(random.choice(GENRES[genre], 3))

    catalog = [Video(f"v{i}", text(i % 2), created_ms=i) for i in range(videos)]
    catalog += [
        Comment(f"v{i}-c{j}", f"v{i}", text(j % 2), user_id=f"u{(i + j) % users}", created_ms=100 + j)
        for i in range(videos)
        for j in range(8)
    ]
    events = []
    for user in range(users):
        taste = user % 2
        mine = random.permutation(np.arange(taste, videos, 2))[:steps]
        for step, video in enumerate(mine):
            ts_ms = 1000 + step * HOUR + user * 60_000
            comment = f"v{video}-c{2 * random.integers(0, 4) + taste}"
            events.append(VideoView(f"w{user}-{step}", f"u{user}", f"v{video}", ts_ms, 20_000))
            events.append(CommentInteraction(f"l{user}-{step}", f"u{user}", f"v{video}", comment, ts_ms + 1, "like"))
    return catalog, events


def log(**size):
    catalog, events = records(**size)
    return Log.build(iter(catalog), iter(events))


def write(folder, **size):
    """The log as files."""
    catalog, events = records(**size)
    for name, types in (
        ("videos", Video),
        ("comments", Comment),
        ("video-views", VideoView),
        ("comment-interactions", CommentInteraction),
    ):
        lines = [encode(record) for record in (*catalog, *events) if isinstance(record, types)]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    return folder
