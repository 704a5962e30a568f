"""From a release to a scorer that may serve: fetched, verified, tried, warm. Everything here runs in a thread."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from model_runtime.bundle import Bundle
from model_runtime.fetching import FetchError, cached
from model_runtime.manifest import BundleError
from model_runtime.scorer import SESSION_BYTES, Ranking, Request, Scorer
from model_runtime.signals import Signals
from streams.history import HistoryConfig
from streams.releases import Release

log = logging.getLogger(__name__)

#: what may differ between two models that serve in turn: how much is remembered to keep things out of the lists
_MEMORY = ("seen", "hated")
#: users scored before a model serves, so that its first batch finds buffers made and tables in memory
_WARM_BATCH = 64


class RefusedError(ValueError):
    """The release can't be served, now or on another try. `reason` is one of a fixed set, for metrics.

    `bundle` (missing, damaged or ill-formed), `checksum` (not what was announced), `history` (other histories than
    those that are kept), `scores` (not finite, or not those of the trainer), `live` (needs counts that aren't kept).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Loader:
    """Makes scorers of releases, all of one kind."""

    cache: Path  #: for bundles of an object store; this worker's alone
    top_videos: int = 100
    top_comments: int = 50
    signals: Signals | None = None  #: what live signals are made of; None: scores are the SR's alone
    explain: bool = False  #: lists say why each item has its score
    session_bytes: int = SESSION_BYTES  #: of each scorer, for what it keeps of users between their events

    def load(self, release: Release, histories: HistoryConfig | None = None) -> Scorer:
        """A scorer of the release, all of its candidates alive.

        Args:
            histories: how the states that it will score are kept; None where no state is kept yet.

        Raises:
            RefusedError: the bundle is not what was announced, or must not serve.
            FetchError: its address does not answer, or there is no room for a copy; to be tried again.
        """
        try:
            bundle = Bundle.open(cached(release.uri, self.cache))
        except BundleError as error:
            raise RefusedError("bundle", str(error)) from None
        if (bundle.version, bundle.sha256) != (release.version, release.sha256):
            raise RefusedError(
                "checksum",
                f"{release.uri} holds version {bundle.version} with SHA-256 {bundle.sha256[:12]}..., but version "
                f"{release.version} with {release.sha256[:12]}... was announced; publish and promote it again",
            )
        return self.prepare(bundle, histories)

    def prepare(self, bundle: Bundle, histories: HistoryConfig | None = None) -> Scorer:
        """A scorer of an opened bundle, tried on the bundle's sample and warm. Raises RefusedError."""
        config = history_of(bundle)
        if histories is not None and (fields := _differences(histories, config)):
            raise RefusedError(
                "history",
                f"bundle {bundle.version} was trained on histories with {fields}: what is remembered of the users was "
                "made otherwise, and can't be made anew while serving. Train with the serving model's histories, or "
                "stop the workers, build the states again from the events, and start them with this bundle",
            )
        try:
            scorer = Scorer(
                bundle,
                top_videos=self.top_videos,
                top_comments=self.top_comments,
                session_bytes=self.session_bytes,
                explain=self.explain,
            )
            scorer.check_sample()
        except BundleError as error:
            raise RefusedError("scores", str(error)) from None
        except Exception as error:  # a graph of other shapes fails inside ONNX Runtime
            raise RefusedError("bundle", f"{bundle.path}: the model can't be run ({error}); export it again") from error
        if self.signals is not None:
            try:
                scorer.follow(self.signals)
            except BundleError as error:
                raise RefusedError("live", f"{error}; or serve it with `lsvcr worker --no-live`") from None
        users = list(_users(bundle))
        for ranking in scorer.score(users):
            # The ranking leaves out what is not a number, so a model that went wrong recommends nothing to anybody.
            if not ranking.video_ids or not _finite(ranking):
                raise RefusedError(
                    "scores",
                    f"{bundle.path}: no finite score for a user; the training diverged, export an earlier checkpoint",
                )
        scorer.score((users * _WARM_BATCH)[:_WARM_BATCH])
        return scorer

    def forget(self, scorer: Scorer) -> None:
        """Remove the copy of a bundle that is not served any more, if it is one."""
        if scorer.bundle.path.parent == self.cache:
            shutil.rmtree(scorer.bundle.path, ignore_errors=True)


def history_of(bundle: Bundle) -> HistoryConfig:
    """How the histories of a bundle's users must be kept.

    Raises:
        RefusedError: the bundle names settings that this version does not know.
    """
    try:
        return msgspec.convert(bundle.manifest.history, HistoryConfig)
    except msgspec.ValidationError as error:
        raise RefusedError("history", f"{bundle.path}: history: {error}; update this installation") from None


def remembering(configs: Iterable[HistoryConfig]) -> HistoryConfig:
    """The configuration that serves all of these: they differ in how much they remember, and the most counts."""
    first, *others = configs
    most = {name: max(getattr(config, name) for config in (first, *others)) for name in _MEMORY}
    return msgspec.structs.replace(first, **most)


def first_that_serves(loader: Loader, releases: Iterable[Release]) -> tuple[Scorer, Release]:
    """The first of some releases that can be loaded, when a worker starts; why others can't is logged.

    Raises:
        RefusedError, FetchError: none of them can; what the first one failed with.
        ValueError: there are none.
    """
    failure: RefusedError | FetchError | None = None
    for release in releases:
        try:
            scorer = loader.load(release)
        except (RefusedError, FetchError) as error:
            failure = failure or error
            log.error("version %s of channel %s is not served: %s", release.version, release.channel, error)
            continue
        return scorer, release
    raise failure or ValueError("no release to serve")


def _differences(kept: HistoryConfig, wanted: HistoryConfig) -> str:
    """The settings that differ and matter, for people; empty if none."""
    pairs = [(name, getattr(kept, name), getattr(wanted, name)) for name in kept.__struct_fields__]
    return ", ".join(f"{name} {b!r} and not {a!r}" for name, a, b in pairs if a != b and name not in _MEMORY)


def _users(bundle: Bundle) -> Iterator[Request]:
    """Users to try a model on: the bundle's sample, one without a history, and one with a full one."""
    for sample in bundle.sample:
        user = sample.request
        yield Request(user.videos, [v for v, _ in user.comments], [c for _, c in user.comments], user.current_video)
    yield Request()
    yield Request([str(video) for video in bundle.video_ids[:-1][: bundle.window]])


def _finite(ranking: Ranking) -> bool:
    return all(map(math.isfinite, (*ranking.video_scores, *ranking.comment_scores)))
