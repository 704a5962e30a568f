"""A bundle in the evaluation as workers serve it today, whatever log it was trained on.

    scorers = [*served_scorers(candidate, log, corpus, split), *served_scorers(serving, log, corpus, split)]
    evaluate(log, corpus, split, scorers)

Titles and comments that training did not know get the vectors of the bundle's student, as in a worker that read the
catalog, and what its `f` knows of live signals is added. So two bundles of different ages can be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_runtime.arrivals import Arrivals, CommentEntry, VideoEntry
from model_runtime.bundle import Bundle
from model_runtime.candidates import Candidates
from model_runtime.live_section import LiveSection
from offline_train.baselines import Scorer
from offline_train.corpus import Corpus, Split
from offline_train.deployed import BundleScorer
from offline_train.evaluation import targets_are_new
from offline_train.live_scorer import LiveScorer
from offline_train.log import Log

TASKS = ("video", "comment")


def served_scorers(
    bundle: Bundle, log: Log, corpus: Corpus, split: Split, *, name: str | None = None, threads: int = 2
) -> list[Scorer]:
    """One scorer per task, with live signals where the bundle has them for it.

    Args:
        name: of the rows of the evaluation; None: the bundle's version.

    Raises:
        BundleError: the bundle's graph does not fit.
    """
    candidates = catalog_read(bundle, log)
    training = np.zeros(log.events, bool)  # what the bundle was trained on, it says itself
    scorers: list[Scorer] = []
    for task in TASKS:
        named = name or bundle.version
        sr = BundleScorer(bundle, log, corpus, task, name=named, threads=threads, candidates=candidates)
        live = bundle.live.tasks.get(task) if bundle.live else None
        # Where targets are written by their own event no ranking that reads a clock can be measured.
        if live is None or (task == "comment" and live.time and targets_are_new(log, corpus, split.test)):
            scorers.append(sr)
            continue
        assert bundle.live is not None
        base = _base(bundle.live, candidates, log, task)
        scorers.append(LiveScorer(sr, live, log, corpus, training, name=named, base=base))
    return scorers


def catalog_read(bundle: Bundle, log: Log) -> Candidates:
    """The bundle's candidates once a worker has read the log's catalog."""
    candidates = Candidates(bundle)
    arrivals = Arrivals(candidates)
    # What no catalog record told of has no text: a worker does not know it either.
    arrivals.apply([VideoEntry(id_, text) for id_, text in zip(log.video_ids, log.video_titles, strict=True) if text])
    under = (log.video_ids[video] for video in log.comment_video.tolist())
    arrivals.apply(
        [
            CommentEntry(id_, text, video)
            for id_, text, video in zip(log.comment_ids, log.comment_texts, under, strict=True)
            if text
        ]
    )
    return candidates


def _base(section: LiveSection, candidates: Candidates, log: Log, task: str) -> NDArray[np.int64]:
    """Engagements in the bundle's training, by the log's items; 0 of what it did not know."""
    if task == "video":
        rows = np.fromiter(map(candidates.video_index.__getitem__, log.video_ids), np.int64, len(log.video_ids))
        origins = np.where(rows >= 0, candidates.bundle_rows(rows), -1)
    else:
        index = candidates.comments.index
        origins = np.fromiter(map(index.__getitem__, log.comment_ids), np.int64, len(log.comment_ids))
    known = section.items[task].base
    return np.where((origins >= 0) & (origins < len(known)), np.append(known, 0)[np.minimum(origins, len(known))], 0)
