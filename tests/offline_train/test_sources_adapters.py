"""The converters' parts, and their behaviour on bad input; no data set is needed."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from infra.cli import main
from offline_train.sources import hetrec, rotten_tomatoes
from offline_train.sources.rotten_tomatoes import Review, core, first_of_each, first_sentence, parse_date, title_of
from offline_train.sources.sorting import TimeSorter
from offline_train.sources.writer import FILES, LogWriter, SourceError, text_of
from streams import topics
from streams.events import CommentInteraction, Video, VideoView

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=80, unique=True)


def reviews_of(pairs: list[tuple[int, int]]) -> list[Review]:
    return [Review(n, f"f{film}", f"c{critic}", "text", None) for n, (critic, film) in enumerate(pairs)]


@given(pairs, st.integers(1, 5))
def test_a_core_is_dense_and_nothing_larger_is(pairs: list[tuple[int, int]], least: int) -> None:
    reviews = reviews_of(pairs)
    kept = core(reviews, least)
    assert core(kept, least) == kept
    for review in kept:
        assert sum(r.critic == review.critic for r in kept) >= least
        assert sum(r.film == review.film for r in kept) >= least
    # What was dropped can't come back: peel in another order, one review at a time.
    left = list(reviews)
    while True:
        thin = [
            r
            for r in left
            if sum(x.critic == r.critic for x in left) < least or sum(x.film == r.film for x in left) < least
        ]
        if not thin:
            break
        left.remove(thin[-1])
    assert left == kept


def test_of_two_reviews_of_a_film_the_earlier_stays_and_an_undated_one_goes() -> None:
    late = Review(1, "f", "c", "late", date(2010, 1, 1))
    early = Review(2, "f", "c", "early", date(2001, 1, 1))
    undated = Review(3, "f", "c", "undated", None)
    assert first_of_each([late, early, undated]) == [early]
    assert first_of_each([undated, late]) == [late]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("November 10, 2018", date(2018, 11, 10)),
        (" May 3, 1999 ", date(1999, 5, 3)),
        ("February 30, 2001", None),
        ("Mai 3, 1999", None),
        ("", None),
    ],
)
def test_dates_are_english_whatever_the_locale(text: str, expected: date | None) -> None:
    assert parse_date(text) == expected


@pytest.mark.parametrize(
    ("synopsis", "sentence"),
    [
        ("Dr. Jones digs. He finds.", "Dr. Jones digs."),
        ('He said "Run!" Then he ran.', 'He said "Run!"'),
        ("Based on E. L. Doctorow's book. More.", "Based on E. L. Doctorow's book."),
        ("One without an end", "One without an end"),
        ("Is it? Yes.", "Is it?"),
    ],
)
def test_the_first_sentence_ends_at_a_sentence(synopsis: str, sentence: str) -> None:
    assert first_sentence(synopsis) == sentence


@given(st.text(alphabet="ab .,", min_size=1, max_size=600))
def test_a_long_sentence_is_cut_at_a_word(text: str) -> None:
    sentence = first_sentence(text)
    assert len(sentence) <= rotten_tomatoes.TITLE_CHARS
    if sentence.endswith("…"):
        assert " ".join(text.split()).startswith(sentence[:-1])


def test_a_film_without_a_synopsis_is_named_by_what_is_known() -> None:
    film = {"synopsis": "", "genre": "Drama|Horror", "director": "Fritz Lang", "theater_date": "May 15, 1934"}
    assert title_of(film) == "Drama, Horror film by Fritz Lang (1934)"
    assert title_of({"synopsis": "", "genre": "", "director": "", "theater_date": ""}) == "Film"
    assert title_of({**film, "synopsis": "A man hides. He is found."}) == "A man hides. (Drama, Horror)"


@given(st.text(max_size=20))
def test_text_is_read_as_what_it_is(text: str) -> None:
    assert text_of(text.encode()) == text


def test_a_latin_1_line_is_read_as_latin_1() -> None:
    assert text_of("garcía".encode("latin-1")) == "garcía"


@given(
    st.lists(st.tuples(st.integers(-(10**15), 10**15), st.binary(max_size=6)), max_size=60),
    st.integers(1, 20),
)
def test_sorting_on_disk_equals_sorting_in_memory(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, bytes]], run_lines: int
) -> None:
    lines = [(at, line.replace(b"\n", b" ")) for at, line in lines]
    sorter = TimeSorter(tmp_path_factory.mktemp("runs"), "x", run_lines)
    for at, line in lines:
        sorter.add(at, line)
    assert list(sorter) == [line for _, line in sorted(lines, key=lambda entry: entry[0])]


def test_a_failed_conversion_leaves_the_old_log_and_nothing_else(tmp_path: Path) -> None:
    with LogWriter(tmp_path, "test") as log:
        log.write(Video("v", "old"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail() -> None:
        with LogWriter(tmp_path, "test") as log:
            log.write(Video("v", "new"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == set(FILES.values())


def test_what_the_worker_would_refuse_is_counted_and_not_written(tmp_path: Path) -> None:
    with LogWriter(tmp_path, "test", now_ms=1_000) as log:
        assert not log.write(VideoView("e", "u" * 129, "v", 5, 0))
        assert not log.write(VideoView("e", "u", "v", 10**12, 0))
        assert log.write(VideoView("e", "u", "v", 5, 0))
    assert log.summary.dropped == {"video-views: invalid-field user_id": 1, "video-views: future-time ts_ms": 1}
    assert (tmp_path / "video-views.jsonl").read_bytes().count(b"\n") == log.summary.counts[topics.VIDEO_VIEWS] == 1


def test_events_out_of_order_are_an_error(tmp_path: Path) -> None:
    with LogWriter(tmp_path, "test") as log:
        log.write(VideoView("e1", "u", "v", 5, 0))
        log.write(CommentInteraction("e0", "u", "v", "c", 1, "like"))  # another topic has its own clock
        with pytest.raises(ValueError, match="e2 at 4 comes after 5"):
            log.write(VideoView("e2", "u", "v", 4, 0))


def make_tags(folder: Path, taggings: list[tuple[int, int, int, int]]) -> None:
    rows = "".join(f"{user}\t{film}\t{tag}\t{at}\n" for user, film, tag, at in taggings)
    (folder / "user_taggedmovies-timestamps.dat").write_text("userID\tmovieID\ttagID\tunixTimeStamp\n" + rows)
    films = "".join(f"{film}\tAm\xe9lie {film}\t1\n" for film in range(4))
    (folder / "movies.dat").write_bytes(("id\ttitle\timdbID\n" + films).encode("latin-1"))
    (folder / "tags.dat").write_bytes(b"id\tvalue\n0\tspace opera\n1\tgarc\xeda\n2\tno\xc3\xabl\n")
    (folder / "movie_genres.dat").write_text("movieID\tgenre\n1\tDrama\n1\tWestern\n")


tagging = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(10**6, 10**6 + 4))


@given(st.lists(tagging, max_size=40))
def test_taggings_become_views_and_likes_with_distinct_times(
    tmp_path_factory: pytest.TempPathFactory, taggings: list[tuple[int, int, int, int]]
) -> None:
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    seconds = [(user, film, tag, at * 1000) for user, film, tag, at in taggings]
    make_tags(source, seconds)
    log = hetrec.convert(source, out)
    views = [json.loads(line) for line in (out / "video-views.jsonl").read_text().splitlines()]
    likes = [json.loads(line) for line in (out / "comment-interactions.jsonl").read_text().splitlines()]
    assert len(likes) == len(taggings)
    assert len(views) == len({(user, film) for user, film, *_ in taggings})
    assert len({(e["user_id"], e["ts_ms"]) for e in views + likes}) == len(views) + len(likes)
    # A user's likes keep the order of the data: by second, then by row.
    for user in range(4):
        rows = [int(like["event_id"].removeprefix("hr-t-")) for like in likes if like["user_id"] == f"user-{user}"]
        mine = sorted((at, row) for row, (who, _, _, at) in enumerate(seconds, 1) if who == user)
        assert rows == [row for _, row in mine]
    for like in likes:
        view = next(v for v in views if (v["user_id"], v["video_id"]) == (like["user_id"], like["video_id"]))
        assert view["ts_ms"] < like["ts_ms"]
        assert like["ts_ms"] // 1000 == seconds[int(like["event_id"].removeprefix("hr-t-")) - 1][3] // 1000
    assert log.summary.counts[topics.COMMENTS] == len({(film, tag) for _, film, tag, _ in taggings})


def test_texts_of_both_encodings_are_read(tmp_path: Path) -> None:
    make_tags(tmp_path, [(1, 1, tag, 10**9 + tag) for tag in range(3)])
    hetrec.convert(tmp_path, tmp_path / "out")
    comments = [json.loads(line)["text"] for line in (tmp_path / "out" / "comments.jsonl").read_text().splitlines()]
    assert comments == ["space opera", "garcía", "noël"]
    video = json.loads((tmp_path / "out" / "videos.jsonl").read_text())
    assert video == {"video_id": "film-1", "title": "Amélie 1", "tags": ["Drama", "Western"]}


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    for name in ("rt.movie_info.tsv.gz", "rt.reviews.tsv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    with pytest.raises(SourceError, match=r"rt\.movie_info\.tsv\.gz has no column .*synopsis"):
        rotten_tomatoes.convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "file", "origin"),
    [
        ("rotten-tomatoes", "rt.movie_info.tsv.gz", "tstrain199/movie-type-analysis"),
        ("hetrec-tags", "user_taggedmovies-timestamps.dat", "grouplens.org"),
        ("kuaicomt", "user_video_inter.csv", "on request"),
    ],
)
def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path: Path, source: str, file: str, origin: str) -> None:
    result = CliRunner().invoke(main, ["convert", source, str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert file in result.output
    assert origin in result.output


def test_the_command_prints_its_summary_as_json(tmp_path: Path) -> None:
    make_tags(tmp_path, [(1, 1, 0, 10**9), (1, 1, 1, 10**9), (2, 9, 0, 10**9)])
    result = CliRunner().invoke(main, ["convert", "hetrec-tags", str(tmp_path), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["counts"] == {"video-views": 1, "comment-interactions": 2, "videos": 1, "comments": 2}
    assert summary["dropped"] == {"film without a title": 1}


def test_an_unknown_folder_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "hetrec-tags", str(tmp_path / "no"), str(tmp_path / "out")])
    assert result.exit_code == 2
