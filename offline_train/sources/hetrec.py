"""HetRec 2011 film tags as events: comments that many users share.

A tag on a film is a comment (film, tag) whose text is the tag. A user's first tagging of a film is a video view (its
watch time is not known, so `watch_ms` is 0 and the action `comment` says that it was engaged); every tagging is a
`like` of that comment.

Files (GroupLens, HetRec 2011): `user_taggedmovies-timestamps.dat`, `movies.dat` (Latin-1), `tags.dat` (UTF-8 with
Latin-1 lines), `movie_genres.dat`. Times are whole seconds in ms, and a user often gives several tags in one second, so
a user's events of one second follow each other by 1 ms in file order, the view before its comment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from offline_train.sources.writer import LogWriter, Progress, SourceError, no_progress, require, text_of
from streams.events import Comment, CommentInteraction, Event, Video, VideoView

ORIGIN = (
    "HetRec 2011 data: put user_taggedmovies-timestamps.dat, movies.dat, tags.dat and movie_genres.dat, from the "
    "hetrec2011-movielens set of GroupLens (grouplens.org/datasets/hetrec-2011), into this folder."
)


def convert(source: Path, out: Path, *, progress: Progress = no_progress) -> LogWriter:
    """Convert the folder `source` into a log in `out`. Like counts are left out: they would tell the future.

    Raises:
        SourceError: a file is missing or has other columns.
    """
    tagged = require(source, "user_taggedmovies-timestamps.dat", ORIGIN)
    titles = {row["id"]: row["title"].strip() for row in _rows(require(source, "movies.dat", ORIGIN), _latin_1)}
    tags = {row["id"]: row["value"].strip() for row in _rows(require(source, "tags.dat", ORIGIN), text_of)}
    genres: defaultdict[str, list[str]] = defaultdict(list)
    for row in _rows(require(source, "movie_genres.dat", ORIGIN), _latin_1):
        genres[row["movieID"]].append(row["genre"].strip())
    with LogWriter(out, "hetrec-tags") as log:
        events = _events(tagged, titles, tags, log)
        films: set[str] = set()
        comments: set[str] = set()
        for done, (event, film, tag) in enumerate(events, 1):
            if film not in films:
                films.add(film)
                log.write(Video(event.video_id, titles[film], tags=tuple(genres[film]) or None))
            if isinstance(event, CommentInteraction) and event.comment_id not in comments:
                comments.add(event.comment_id)
                log.write(Comment(event.comment_id, event.video_id, tags[tag], created_ms=event.ts_ms))
            log.write(event)
            if done % 2000 == 0 or done == len(events):
                progress("writing events", done, len(events))
    return log


def _events(path: Path, titles: dict[str, str], tags: dict[str, str], log: LogWriter) -> list[tuple[Event, str, str]]:
    """Events in time order, each with its film and tag."""
    rows = []
    for number, row in enumerate(_rows(path, _latin_1), 1):
        if not titles.get(row["movieID"]):
            log.drop("film without a title")
        elif not tags.get(row["tagID"]):
            log.drop("tag without text")
        elif not row["unixTimeStamp"].isdigit():
            log.drop("no readable time")
        else:
            rows.append((int(row["unixTimeStamp"]), number, row["userID"], row["movieID"], row["tagID"]))
    rows.sort()
    free: dict[str, int] = {}  # per user, the first millisecond after its latest event
    viewed: set[tuple[str, str]] = set()
    made: list[tuple[Event, str, str]] = []
    for ts_ms, number, user, film, tag in rows:
        user_id, video_id = f"user-{user}", f"film-{film}"
        ts_ms = max(ts_ms, free.get(user, 0))
        if (user, film) not in viewed:
            viewed.add((user, film))
            made.append((VideoView(f"hr-v-{number}", user_id, video_id, ts_ms, 0, actions=("comment",)), film, tag))
            ts_ms += 1
        comment_id = f"film-{film}-tag-{tag}"
        made.append((CommentInteraction(f"hr-t-{number}", user_id, video_id, comment_id, ts_ms, "like"), film, tag))
        free[user] = ts_ms + 1
    # Users' shifts of some milliseconds may overtake each other: the order of the log is by time again.
    return sorted(made, key=lambda item: item[0].ts_ms)


def _latin_1(line: bytes) -> str:
    return line.decode("latin-1")


def _rows(path: Path, decode: Callable[[bytes], str]) -> Iterator[dict[str, str]]:
    """Rows of a tab-separated file without quoting."""
    with path.open("rb") as lines:
        names = decode(next(lines, b"")).rstrip("\r\n").split("\t")
        if len(names) < 2:
            raise SourceError(f"{path} has no header with tab-separated columns. {ORIGIN}")
        for line in lines:
            yield dict(zip(names, decode(line).rstrip("\r\n").split("\t"), strict=False))
