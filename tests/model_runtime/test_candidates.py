from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_model import make_model

from model_runtime.candidates import Candidates
from model_runtime.ids import video_digest

# CRC-32 of the first two names is the same
MODEL = make_model(20, 60, names=["plumless", "buckeroo"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    return Candidates(MODEL.write(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture
def candidates(shared: Candidates) -> Candidates:
    shared.set_all_videos(True)
    shared.set_all_comments(True)
    return shared


def dead(candidates: Candidates) -> set[str]:
    penalties = candidates.penalties()
    if penalties is None:
        return set()
    assert set(penalties.tolist()) <= {0.0, -np.inf}
    return set(candidates.video_ids[penalties < 0])


def under(video: str) -> list[int]:
    return np.flatnonzero(MODEL.arrays["comment_video"] == MODEL.video_ids.index(video)).tolist()


def test_everything_is_alive_at_first(tmp_path: Path) -> None:
    candidates = Candidates(MODEL.write(tmp_path / "b"))
    assert (candidates.alive_videos(), candidates.alive_comments()) == (20, 60)
    assert candidates.penalties() is None
    for video in MODEL.video_ids:
        assert candidates.comments_of(video).tolist() == under(video)


def test_a_removed_video_is_dead_until_it_comes_back(candidates: Candidates) -> None:
    assert candidates.set_video("v3", False)
    assert candidates.set_video("v4", False)
    assert dead(candidates) == {"v3", "v4"}
    assert candidates.alive_videos() == 18
    assert candidates.set_video("v3", True)
    assert dead(candidates) == {"v4"}
    assert candidates.set_video("v4", True)
    assert candidates.penalties() is None


def test_what_the_bundle_does_not_know_is_reported(candidates: Candidates) -> None:
    assert not candidates.set_video("nowhere", False)
    assert not candidates.set_comment("nowhere", False)
    assert candidates.keep_videos(["v3", "nowhere", "nor here"]) == 2
    assert candidates.keep_comments(["c3", "nowhere"]) == 1
    assert (candidates.alive_videos(), candidates.alive_comments()) == (1, 1)
    assert candidates.comments_of("nowhere").tolist() == []


def test_keeping_is_exactly_those(candidates: Candidates) -> None:
    candidates.set_video("v5", False)
    candidates.keep_videos(iter(["v5", "v6"]))
    assert dead(candidates) == set(MODEL.video_ids) - {"v5", "v6"}
    candidates.set_all_videos(False)
    assert dead(candidates) == set(MODEL.video_ids)
    candidates.keep_videos([])
    assert candidates.alive_videos() == 0


def test_a_copy_handed_out_does_not_change(candidates: Candidates) -> None:
    candidates.set_video("v3", False)
    before = candidates.penalties()
    assert before is not None
    assert candidates.penalties() is before
    candidates.set_video("v4", False)
    assert np.count_nonzero(before) == 1
    assert dead(candidates) == {"v3", "v4"}


def test_comments_are_those_alive_under_a_video_that_is_alive(candidates: Candidates) -> None:
    video = max(MODEL.video_ids, key=lambda v: len(under(v)))
    first, *others = under(video)
    assert others
    candidates.set_comment(MODEL.comment_ids[first], False)
    assert candidates.comments_of(video).tolist() == others
    candidates.set_video(video, False)
    assert candidates.comments_of(video).tolist() == []
    candidates.set_video(video, True)
    candidates.keep_comments([MODEL.comment_ids[first]])
    assert candidates.comments_of(video).tolist() == [first]


_names = st.lists(st.sampled_from([*MODEL.video_ids, "nowhere"]), max_size=8)


@given(st.lists(_names, min_size=1, max_size=5))
def test_digests_bar_the_videos_that_have_them(shared: Candidates, users: list[list[str]]) -> None:
    digests = [[video_digest(name) for name in names] for names in users]
    own = np.arange(2 * len(users)).reshape(len(users), 2) - 1
    found = shared.barred(own, digests)
    assert found[:, :2].tolist() == own.tolist()
    expected = {
        (user, at)
        for user, barred in enumerate(digests)
        for at, video in enumerate(MODEL.video_ids)
        if video_digest(video) in barred
    }
    assert {(user, row) for user, rows in enumerate(found[:, 2:].tolist()) for row in rows if row >= 0} == expected
