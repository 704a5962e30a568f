"""The converters on the real data sets: figures that their descriptions give, order, and what must not be there."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from offline_train.log import Log
from offline_train.sources import hetrec, rotten_tomatoes
from offline_train.sources.rotten_tomatoes import core, first_of_each, read_reviews
from offline_train.sources.writer import FILES, Summary
from streams import topics
from streams.events import Comment, CommentInteraction, Video, VideoView, decode_value

FAR_AHEAD_MS = 4_000_000_000_000


class Converted(NamedTuple):
    folder: Path
    summary: Summary
    videos: list[Video]
    comments: list[Comment]
    views: list[VideoView]
    interactions: list[CommentInteraction]


def load(folder: Path, summary: Summary) -> Converted:
    def read(topic: str) -> list:
        lines = (folder / FILES[topic]).read_bytes().splitlines()
        return [decode_value(topic, line, now_ms=FAR_AHEAD_MS) for line in lines]

    return Converted(
        folder,
        summary,
        read(topics.VIDEOS),
        read(topics.COMMENTS),
        read(topics.VIDEO_VIEWS),
        read(topics.COMMENT_INTERACTIONS),
    )


@pytest.fixture(scope="module")
def reviews_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("data_dir_shared") / "rotten-tomatoes"
    return folder


@pytest.fixture(scope="module")
def tomatoes(reviews_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    out = tmp_path_factory.mktemp("rt")
    return load(out, rotten_tomatoes.convert(reviews_folder, out).summary)


@pytest.fixture(scope="module")
def tags(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    out = tmp_path_factory.mktemp("hetrec")
    return load(out, hetrec.convert(request.getfixturevalue("data_dir_shared") / "hetrec2011-tags", out).summary)


@pytest.fixture(params=["tomatoes", "tags"])
def converted(request: pytest.FixtureRequest) -> Converted:
    made: Converted = request.getfixturevalue(request.param)
    return made


def test_the_described_core_is_one_review_per_pair_cut_to_the_fixed_point(reviews_folder: Path) -> None:
    complete = [r for r in read_reviews(reviews_folder / "rt.reviews.tsv.gz") if r.critic and r.text]
    once = first_of_each(complete)
    assert (len(once), len({r.critic for r in once}), len({r.film for r in once})) == (46_737, 3_457, 1_084)
    kept = core(once, 5)
    assert (len(kept), len({r.critic for r in kept}), len({r.film for r in kept})) == (42_589, 1_387, 783)


def test_rotten_tomatoes_keeps_dated_reviews_of_critics_and_films_with_five(tomatoes: Converted) -> None:
    assert len(tomatoes.views) == len(tomatoes.interactions) == len(tomatoes.comments) == 39_417
    assert (tomatoes.summary.users, len(tomatoes.videos)) == (1_349, 751)
    assert tomatoes.summary.dropped["placeholder date 2000-01-01"] == 3_236
    assert tomatoes.summary.dropped["impossible date, before 1950"] == 1
    for count in ("user_id", "video_id"):
        tally: dict[str, int] = {}
        for view in tomatoes.views:
            tally[getattr(view, count)] = tally.get(getattr(view, count), 0) + 1
        assert min(tally.values()) >= 5


def test_rotten_tomatoes_accounts_for_every_row(tomatoes: Converted) -> None:
    assert len(tomatoes.views) + sum(tomatoes.summary.dropped.values()) == 54_432


def test_no_review_is_of_the_placeholder_day(tomatoes: Converted) -> None:
    days = {datetime.fromtimestamp(event.ts_ms / 1000, UTC).date() for event in tomatoes.views}
    assert date(2000, 1, 1) not in days
    assert min(days) >= date(1970, 1, 1)


def test_a_day_keeps_the_order_of_the_file(tomatoes: Converted) -> None:
    rows_of_day: dict[date, list[int]] = {}
    for view in tomatoes.views:
        day = datetime.fromtimestamp(view.ts_ms / 1000, UTC).date()
        rows_of_day.setdefault(day, []).append(int(view.event_id.removeprefix("rt-v-")))
    assert max(map(len, rows_of_day.values())) > 20
    assert all(rows == sorted(rows) for rows in rows_of_day.values())


def test_a_review_is_written_a_moment_after_the_film_was_watched_to_its_end(tomatoes: Converted) -> None:
    texts = {comment.comment_id: comment for comment in tomatoes.comments}
    for view, write in zip(tomatoes.views, tomatoes.interactions, strict=True):
        assert (view.user_id, view.video_id) == (write.user_id, write.video_id)
        assert 0 < write.ts_ms - view.ts_ms < 60_000
        assert view.watch_ms == view.duration_ms
        assert write.action == "write"
        comment = texts[write.comment_id]
        assert (comment.user_id, comment.video_id, comment.created_ms) == (write.user_id, write.video_id, write.ts_ms)
        assert comment.text


def test_min_count_one_keeps_every_dated_pair(reviews_folder: Path, tmp_path: Path) -> None:
    summary = rotten_tomatoes.convert(reviews_folder, tmp_path, min_count=1).summary
    assert summary.counts[topics.VIDEO_VIEWS] == 39_417 + 4_097
    assert not [reason for reason in summary.dropped if reason.startswith("critic or film")]


def test_hetrec_has_all_taggings_and_one_view_per_user_and_film(tags: Converted) -> None:
    assert len(tags.interactions) == 47_957
    assert (tags.summary.users, len(tags.videos)) == (2_113, 5_908)
    assert not tags.summary.dropped
    pairs = [(view.user_id, view.video_id) for view in tags.views]
    assert len(pairs) == len(set(pairs)) == len({(i.user_id, i.video_id) for i in tags.interactions})
    films: dict[str, int] = {}
    for user, _ in pairs:
        films[user] = films.get(user, 0) + 1
    assert sum(count >= 5 for count in films.values()) == 603


def test_hetrec_tags_are_shared_and_tell_no_future_likes(tags: Converted) -> None:
    users: dict[str, set[str]] = {}
    for like in tags.interactions:
        users.setdefault(like.comment_id, set()).add(like.user_id)
    assert max(map(len, users.values())) > 20
    assert all(comment.like_count is None for comment in tags.comments)


def test_latin_1_titles_are_read_and_genres_become_tags(tags: Converted) -> None:
    titles = {video.video_id: video for video in tags.videos}
    assert titles["film-1"].tags == ("Adventure", "Animation", "Children", "Comedy", "Fantasy")
    assert any("é" in video.title for video in tags.videos)
    assert not any("\ufffd" in text for text in [v.title for v in tags.videos] + [c.text for c in tags.comments])


def test_a_users_view_precedes_what_the_user_does_with_the_comments(converted: Converted) -> None:
    first_view: dict[tuple[str, str], int] = {}
    for view in converted.views:
        first_view.setdefault((view.user_id, view.video_id), view.ts_ms)
    for event in converted.interactions:
        assert first_view[event.user_id, event.video_id] < event.ts_ms


def test_a_users_events_have_times_and_ids_of_their_own(converted: Converted) -> None:
    events = [*converted.views, *converted.interactions]
    assert len({(event.user_id, event.ts_ms) for event in events}) == len(events)
    assert len({event.event_id for event in events}) == len(events)


def test_files_are_in_time_order_and_whole(converted: Converted) -> None:
    for events in (converted.views, converted.interactions):
        times = [event.ts_ms for event in events]
        assert times == sorted(times)
    created = [comment.created_ms for comment in converted.comments]
    assert created == sorted(created, key=lambda ms: ms or 0)
    first: dict[str, int] = {}
    for view in converted.views:
        first.setdefault(view.video_id, view.ts_ms)
    appearances = [first[video.video_id] for video in converted.videos]
    assert appearances == sorted(appearances)
    assert {event.video_id for event in converted.interactions} <= {video.video_id for video in converted.videos}
    assert {event.comment_id for event in converted.interactions} == {c.comment_id for c in converted.comments}
    assert sorted(path.name for path in converted.folder.iterdir()) == sorted(FILES.values())


def test_the_trainers_log_reads_it_and_counts_every_view_as_engaged(converted: Converted) -> None:
    log = Log.read(converted.folder)
    assert log.events == len(converted.views) + len(converted.interactions)
    assert log.engaged.all()
