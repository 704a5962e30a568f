"""Student against teacher on what is cold: videos and comments first seen after the training period.

    results = cold_ranking(log, corpus, split, bundle)
    {(r.task, r.protocol, r.model): r.values["ndcg@10"] for r in results}

In a bundle made from a log every item has the teacher's vector of its text. A live worker has the student's for what
came later, as candidates and in histories: so both are ranked by the same model, over the same candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model_runtime.bundle import Bundle
from model_runtime.text import Student
from offline_train.baselines import Scorer
from offline_train.corpus import Corpus, Split
from offline_train.deployed import BundleScorer
from offline_train.evaluation import Result, evaluate
from offline_train.log import VIEW, Log
from offline_train.metrics import per_target
from offline_train.protocols import Queries

TEACHER, STUDENT = "teacher's vectors", "student's vectors"
UNKNOWN_FIRST = "unknown first"


class UnknownFirst:
    """A model's order of the videos that training did not know, and behind all of them its order of the others.

    What a row gains by that it lost by placing new videos too low, and not by how it tells videos apart: where the
    targets are mostly new, two models may differ in little else. It is no model to deploy. In the order of another
    scorer, such as `AllAlike`, it is what there is to reach by knowing no more than which videos are new.
    """

    task = "video"

    def __init__(self, model: BundleScorer, order: Scorer | None = None) -> None:
        """
        Args:
            model: says which videos training knew.
            order: of videos; None: the model's.
        """
        self._order: Scorer = order or model
        self.name = f"{self._order.name}, {UNKNOWN_FIRST}"
        self._unknown = ~model.known_videos()

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[n, videos]"""
        scores = np.array(self._order.scores(queries), np.float32)
        there = scores[np.isfinite(scores)]
        if len(there):
            scores[:, self._unknown] += np.ptp(there) + 1
        return scores


class AllAlike:
    """One score for all videos: the figures of the random ranking, without a draw's error."""

    name, task = "random", "video"

    def __init__(self, log: Log) -> None:
        self._videos = len(log.video_ids)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[n, videos], all zero."""
        return np.zeros((len(queries), self._videos), np.float32)


def cold_ranking(
    log: Log,
    corpus: Corpus,
    split: Split,
    bundle: Bundle,
    student: Student | None = None,
    *,
    protocols: Sequence[str] = ("full", "as-of"),
    threads: int = 2,
    limit: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Rank the cold test targets of both tasks with the teacher's vectors and with the student's.

    Args:
        bundle: made from this log, with this split.
        student: for titles and comments, in place of the bundle's own.
        limit: at most so many targets per task, evenly spread.
        advance: called with (done, total) after each batch.

    Raises:
        ValueError: the bundle has no student and none is given, or it does not hold the log's items.
    """
    students = (student, student) if student else (bundle.student, bundle.comment_student or bundle.student)
    if students[0] is None or students[1] is None:
        raise ValueError(f"bundle {bundle.version} has no student; train it with one")
    late = with_students(log, split, bundle, students[0], students[1])
    samples = corpus.samples
    target_is_cold = np.where(
        samples.kind == VIEW,
        log.first_seen_video[samples.target_video] >= split.valid_ms,
        log.first_seen_comment[samples.target_comment] >= split.valid_ms,
    )
    cold = replace(split, test=split.test[target_is_cold[split.test]])
    scorers = [
        BundleScorer(which, log, corpus, task, name=name, threads=threads)
        for task in ("video", "comment")
        for which, name in ((bundle, TEACHER), (late, STUDENT))
    ]
    return evaluate(log, corpus, cold, scorers, protocols=protocols, limit=limit, advance=advance)


def with_students(log: Log, split: Split, bundle: Bundle, titles_student: Student, comments_student: Student) -> Bundle:
    """The bundle as a live worker would have it: the students' vectors for what was first seen after training.

    Raises:
        ValueError: it does not hold the log's items, in the log's order.
    """
    if bundle.video_ids.tolist() != log.video_ids or bundle.comment_ids.tolist() != log.comment_ids:
        raise ValueError(f"bundle {bundle.version} was made from another log; train on this one")
    videos = np.flatnonzero(log.first_seen_video >= split.valid_ms)
    comments = np.flatnonzero(log.first_seen_comment >= split.valid_ms)
    titles, texts, vectors = (
        bundle.video_title_vectors.copy(),
        bundle.comment_vectors.copy(),
        bundle.video_vectors.copy(),
    )
    titles[videos] = titles_student.encode([log.video_titles[i] for i in videos])
    texts[comments] = comments_student.encode([log.comment_texts[i] for i in comments])
    both = bundle.video_id_vectors[videos] + titles[videos]
    vectors[videos] = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    return replace(bundle, video_title_vectors=titles, comment_vectors=texts, video_vectors=vectors)


def kept(results: Sequence[Result], metric: str = "ndcg", k: int = 10) -> dict[str, tuple[float, float]]:
    """What the student keeps of the teacher's metric: {"comment full": (ratio, standard error), ...}.

    The error is that of the paired difference over targets, in units of the teacher's metric.
    """
    found = {}
    for one in results:
        if one.model != TEACHER or not one.values:
            continue
        (other,) = (r for r in results if (r.task, r.protocol, r.model) == (one.task, one.protocol, STUDENT))
        teacher, student = per_target(one.ranks, metric, k), per_target(other.ranks, metric, k)
        mean = float(teacher.mean()) if len(teacher) else 0.0
        if mean > 0:
            error = float((student - teacher).std(ddof=1)) / len(teacher) ** 0.5 if len(teacher) > 1 else float("inf")
            found[f"{one.task} {one.protocol}"] = (float(student.mean()) / mean, error / mean)
    return found
