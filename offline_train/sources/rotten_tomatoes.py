"""Rotten Tomatoes reviews as events: real text, one critic's sentence about one film.

A review is a video view of the film, watched to the end, and a moment later a `write` with a comment that has the
review's text. The film's title is not in the data, so the first sentence of its synopsis stands for it, with the genre.

Files (`zippedData/` of the public repository tstrain199/movie-type-analysis): `rt.movie_info.tsv.gz`,
`rt.reviews.tsv.gz`. Traps met here: 7 % of the dates are the placeholder 2000-01-01 and one is 1800; a line may be
Latin-1; only the day of a review is known, so the order within a day is the file's; a critic's second review of a film
(for another paper) repeats the pair.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from offline_train.sources.writer import LogWriter, Progress, SourceError, no_progress, require, text_of
from streams.events import Comment, CommentInteraction, Video, VideoView

ORIGIN = (
    "Rotten Tomatoes data: put rt.movie_info.tsv.gz and rt.reviews.tsv.gz, from the folder zippedData of the GitHub "
    "repository tstrain199/movie-type-analysis, into this folder."
)
DEFAULT_RUNTIME_MIN = 100  #: the median of the films whose runtime is known
PLACEHOLDER = date(2000, 1, 1)
PLAUSIBLE = date(1950, 1, 1)  #: the one review before it is dated 1800
EPOCH = date(1970, 1, 1)  #: event times are Unix times, not negative
TITLE_CHARS = 240

_DAY_MS = 24 * 3600 * 1000
_SLOT_MS = 60_000  # reviews of one day are a minute apart, so that the `write` fits between two of them
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class Review:
    """One row of the reviews: `row` counts from 1 in file order and names the events."""

    row: int
    film: str
    critic: str
    text: str
    day: date | None


def convert(source: Path, out: Path, *, min_count: int = 5, progress: Progress = no_progress) -> LogWriter:
    """Convert the folder `source` into a log in `out`.

    `min_count`: reviews that each critic and each film must have among those kept, to the fixed point (dropping a film
    may leave a critic with too few, and so on). Undated reviews go first, so the promise holds for what is written.

    Raises:
        SourceError: a file is missing or has other columns.
    """
    films = {row["id"]: row for row in _rows(require(source, "rt.movie_info.tsv.gz", ORIGIN), _FILM_COLUMNS)}
    path = require(source, "rt.reviews.tsv.gz", ORIGIN)
    with LogWriter(out, "rotten-tomatoes") as log:
        reviews = _dated(_complete(path, log, progress), log)
        once = first_of_each(reviews)
        log.drop("a critic's later review of the same film", len(reviews) - len(once))
        kept = core(once, min_count)
        log.drop(f"critic or film with fewer than {min_count} reviews", len(once) - len(kept))
        times = _times(kept)
        _write(kept, times, films, log, progress)
    return log


def core(reviews: Sequence[Review], min_count: int) -> list[Review]:
    """The largest part of `reviews` in which each critic and each film has at least `min_count`."""
    kept = list(reviews)
    while True:
        critics, films = Counter(r.critic for r in kept), Counter(r.film for r in kept)
        left = [r for r in kept if critics[r.critic] >= min_count and films[r.film] >= min_count]
        if len(left) == len(kept):
            return left
        kept = left


def first_of_each(reviews: Sequence[Review]) -> list[Review]:
    """The earliest review of each critic and film (undated last; ties by file order), in the given order."""
    first: dict[Hashable, Review] = {}
    for review in sorted(reviews, key=lambda r: (r.day or date.max, r.row)):
        first.setdefault((review.critic, review.film), review)
    chosen = {review.row for review in first.values()}
    return [review for review in reviews if review.row in chosen]


def read_reviews(path: Path, progress: Progress = no_progress) -> Iterator[Review]:
    """All rows of the reviews file, in its order; a date that can't be read is None."""
    for row, fields in enumerate(_rows(path, _REVIEW_COLUMNS), 1):
        if row % 5000 == 0:
            progress("reading reviews", row, 0)
        yield Review(row, fields["id"], fields["critic"].strip(), fields["review"].strip(), parse_date(fields["date"]))


def parse_date(text: str) -> date | None:
    """`November 10, 2018` as a date, whatever the machine's language; None if it is none."""
    match = re.fullmatch(r"\s*(\w+) (\d{1,2}), (\d{4})\s*", text)
    if not match or match[1] not in _MONTHS:
        return None
    try:
        return date(int(match[3]), _MONTHS.index(match[1]) + 1, int(match[2]))
    except ValueError:
        return None


def title_of(film: dict[str, str] | None) -> str:
    """First sentence of the synopsis with the genres; without a synopsis, what else is known of the film."""
    genres = ", ".join(genres_of(film))
    synopsis = film["synopsis"].strip() if film else ""
    if film and synopsis:
        sentence = first_sentence(synopsis)
        return f"{sentence} ({genres})" if genres else sentence
    if not film:
        return "Film"
    year = re.search(r"\d{4}$", film["theater_date"])
    director = film["director"].split("|")[0].strip()
    what = f"{genres} film" if genres else "Film"
    return what + (f" by {director}" if director else "") + (f" ({year[0]})" if year else "")


_END = re.compile(
    r"""(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bSt)(?<!\bJr)(?<!\bMrs)(?<!\b[A-Z])[.!?]+["')\]]*\s+(?=["'(]?[A-Z0-9])"""
)


def first_sentence(text: str) -> str:
    """The first sentence, at most `TITLE_CHARS` characters, cut at a word."""
    text = " ".join(text.split())
    end = _END.search(text)
    sentence = text[: end.end()].rstrip() if end else text
    if len(sentence) <= TITLE_CHARS:
        return sentence
    return sentence[: TITLE_CHARS - 1].rsplit(" ", 1)[0] + "…"


def genres_of(film: dict[str, str] | None) -> list[str]:
    """The film's genres in the file's order."""
    return [genre.strip() for genre in film["genre"].split("|") if genre.strip()] if film else []


def _complete(path: Path, log: LogWriter, progress: Progress) -> Iterator[Review]:
    for review in read_reviews(path, progress):
        if not review.critic:
            log.drop("no critic")
        elif not review.text:
            log.drop("no text")
        else:
            yield review


def _dated(reviews: Iterator[Review], log: LogWriter) -> list[Review]:
    kept = []
    for review in reviews:
        if review.day is None:
            log.drop("no readable date")
        elif review.day == PLACEHOLDER:
            log.drop("placeholder date 2000-01-01")
        elif review.day < PLAUSIBLE:
            log.drop("impossible date, before 1950")
        elif review.day < EPOCH:
            log.drop("date before 1970, which a Unix time in ms can't say")
        else:
            kept.append(review)
    return kept


def _times(reviews: list[Review]) -> list[int]:
    """Distinct times in ms: within a day by file order, a minute apart (closer on a day with more than fit)."""
    per_day = Counter(review.day for review in reviews)
    used: Counter[date | None] = Counter()
    times = []
    for review in reviews:
        assert review.day is not None
        slot = min(_SLOT_MS, _DAY_MS // (per_day[review.day] + 1))
        midnight = datetime(review.day.year, review.day.month, review.day.day, tzinfo=UTC)
        times.append(int(midnight.timestamp()) * 1000 + used[review.day] * slot)
        used[review.day] += 1
    return times


def _write(
    reviews: list[Review], times: list[int], films: dict[str, dict[str, str]], log: LogWriter, progress: Progress
) -> None:
    seen: set[str] = set()
    for done, at in enumerate(sorted(range(len(reviews)), key=times.__getitem__), 1):
        review, ts_ms = reviews[at], times[at]
        film = films.get(review.film)
        minutes = re.match(r"\d+", film["runtime"]) if film else None
        runtime_ms = (int(minutes[0]) if minutes else DEFAULT_RUNTIME_MIN) * 60_000
        video_id, comment_id = f"film-{review.film}", f"rt-c-{review.row}"
        if review.film not in seen:
            seen.add(review.film)
            log.write(Video(video_id, title_of(film), duration_ms=runtime_ms))
        written_ms = ts_ms + 1000
        log.write(VideoView(f"rt-v-{review.row}", review.critic, video_id, ts_ms, runtime_ms, runtime_ms))
        log.write(Comment(comment_id, video_id, review.text, user_id=review.critic, created_ms=written_ms))
        log.write(CommentInteraction(f"rt-w-{review.row}", review.critic, video_id, comment_id, written_ms, "write"))
        if done % 2000 == 0 or done == len(reviews):
            progress("writing events", done, len(reviews))


_FILM_COLUMNS = {"id", "synopsis", "genre", "director", "theater_date", "runtime"}
_REVIEW_COLUMNS = {"id", "review", "critic", "date"}


def _rows(path: Path, columns: set[str]) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rb") as lines:
        reader = csv.DictReader((text_of(line) for line in lines), delimiter="\t", restval="")
        missing = columns - set(reader.fieldnames or ())
        if missing:
            raise SourceError(f"{path} has no column {', '.join(sorted(missing))}. {ORIGIN}")
        yield from reader
