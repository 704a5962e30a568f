"""What text is worth to the SR, and what stage 1 is: the same model on ids alone, on other text vectors, and with parts
of stage 1 left out.

Rows of one kind differ in one thing. `no-stage-1` and `lsvcr` read the same language model with the same settings;
`lsvcr, vectors alone` has the aligned LLM's vectors by the text MLP that did not learn, and its SR starts from scratch;
`lsvcr, start alone` has the SR's start (but for A, which only fits aligned vectors) on the vectors of the model as it
came; the rows named `(videos alone)` and `(comments alone)` fine-tune on one task each, as the paper does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from offline_train import llm_texts
from offline_train.alignment_config import VERSION, AlignmentConfig
from offline_train.alignment_samples import DrawConfig
from offline_train.corpus import Corpus, Split
from offline_train.full import FullConfig, llm_vectors
from offline_train.llm import DEFAULT_LLM, LoraSettings
from offline_train.prompts import LANGUAGES
from offline_train.sr import SRConfig
from offline_train.text import TEXT_DIM, TextVectors, text_vectors

IDS, SVD, RAW, FULL = "ids alone", "SVD text", "no-stage-1", "lsvcr"

#: stage 1 as two cores without a GPU can have it. Against the paper: prompts show five items of each history, batches
#: are smaller, samples are few, and the heads learn from twenty thousand others first, and again between the steps; and
#: comments' text MLP stays the LLM's principal components, which so few samples only spoil, while titles' learns.
ALIGN = AlignmentConfig(
    DrawConfig(prompt_history=5, same_video=8),
    LoraSettings(dropout=0.0),
    samples=1024,
    batch=64,
    warmup=0.25,
    text_tokens=16,
    head_learning_rate=1e-3,
    comment_map_rate=0.0,
    head_samples=20_000,
    head_epochs=4,
    z_samples=768,
    replay=2,
)

#: the weights of the profile residual in a start, and what names a row that has none of them
_PROFILE, _WITHOUT = ("encoder.video_profile", "encoder.comment_profile"), "no profile, nor in the start"

#: of a start, what only fits aligned vectors
_TEXT = ("text.", "comment_text", "apart")

#: `report(what)`
Report = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One row: where its text vectors are from, and what is left out.

    `align` is None for vectors of no aligned model. `parts`: what of stage 1 is used, its `vectors`, its `start`.
    """

    name: str
    text: str  #: none or llm
    corpus: Corpus
    split: Split
    work: Path
    align: AlignmentConfig | None = None
    settings: AlignmentConfig | None = None  #: how texts are read, of `llm` without `align`
    parts: tuple[str, ...] = ("vectors", "start")
    profile: bool = True
    kinds: tuple[str, ...] = ("video", "comment")  #: tasks that it is ranked on
    task: str = "joint"  #: that stage 2 trains
    student: bool = False  #: distil one, and rank with it what came after training
    unknown_first: bool = False  #: rank also with the videos that training did not know before all others
    report: Report = lambda what: None

    @property
    def key(self) -> str:
        """What decides the content, beside the log and stage 2's configuration."""
        align, read = self.align and asdict(self.align), self.settings and _read(self.settings)
        profile = self.profile or _WITHOUT
        parts = (self.text, align, read, self.parts, profile, self.student, DEFAULT_LLM, VERSION)
        return sha256(msgspec.msgpack.encode(parts)).hexdigest()

    def texts(self) -> TextVectors:
        """The vectors, made now unless they were made before."""
        log = self.corpus.log
        if self.text == "none":
            titles, comments = (np.zeros((len(ids), TEXT_DIM), np.float32) for ids in (log.video_ids, log.comment_ids))
            return TextVectors(titles, comments, "none")
        aligned = self._folder(self.align)
        if self.align is None:
            return self._without(text_vectors(log, f"llm:{aligned}"))
        if "vectors" not in self.parts:
            raw = text_vectors(log, f"llm:{self._folder(None)}")
            start = llm_texts.read_start(aligned) or {}
            # All but A, which is made for the aligned vectors: these are others.
            return replace(raw, start={name: value for name, value in start.items() if not name.startswith(_TEXT)})
        return self._without(text_vectors(log, f"{'llm' if 'start' in self.parts else 'llm-text'}:{aligned}"))

    def _without(self, texts: TextVectors) -> TextVectors:
        """The same, but for what the start says of a profile that this row has not."""
        if self.profile or texts.start is None:
            return texts
        start = {name: value for name, value in texts.start.items() if name not in _PROFILE}
        return replace(texts, start=start)

    def sr(self, texts: TextVectors) -> SRConfig | None:
        """The SR's configuration, where it is not the usual one."""
        if self.profile:
            return None
        corpus = self.corpus
        return SRConfig(
            len(corpus.log.video_ids), text_dim=texts.video.shape[1], window=corpus.config.window, profile=0.0
        )

    def _folder(self, align: AlignmentConfig | None) -> Path:
        """The folder of the LLM's vectors, aligned or as it comes, under a name made of what decides them."""
        config = align or self.settings or AlignmentConfig()
        said = asdict(config) if align else _read(config)
        key = sha256(
            msgspec.msgpack.encode((said, DEFAULT_LLM, VERSION, self.corpus.log.digest.tobytes(), self.split.name))
        ).hexdigest()[:16]
        link = self.work / "named" / key
        if link.exists():
            return self.work / "texts" / link.read_text()
        full = FullConfig(
            log="", llm=DEFAULT_LLM, cache=str(self.work), stage1=align is not None, align=config, batch_tokens=2048
        )

        def advance(done: int, total: int, how: str) -> None:
            self.report(f"{self.name}: {done:,} of {total:,}, {how}")

        made = llm_vectors(full, self.corpus, self.split, stage=self.report, advance=advance)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(made.folder.name)
        return made.folder


def _read(settings: AlignmentConfig) -> tuple[int, int, float]:
    """What decides the vectors of a model that was not aligned."""
    return settings.text_tokens, settings.seed, settings.equalised


def variants(
    corpus: Corpus,
    split: Split,
    work: Path,
    align: AlignmentConfig,
    seed: int,
    report: Report = lambda what: None,
    ablations: bool = True,
) -> Iterator[Variant]:
    """The rows of one seed: the two that tell whether stage 1 pays. Of the first seed, stage 2 on one task each (paper,
    section 3.4) and `ablations` as well."""
    one = replace(align, seed=seed)

    def row(name: str, text: str = "llm", **options: object) -> Variant:
        return Variant(name, text, corpus, split, work, report=report, **options)  # type: ignore[arg-type]

    yield row(RAW, settings=replace(align, seed=0), unknown_first=True)
    yield row(FULL, align=one, settings=align, student=True, unknown_first=True)
    if seed:
        return
    for task in ("video", "comment"):
        alone: dict[str, Any] = {"task": task, "kinds": (task,), "unknown_first": task == "video"}
        yield row(f"{RAW} ({task}s alone)", settings=replace(align, seed=0), **alone)
        yield row(f"{FULL} ({task}s alone)", align=one, settings=align, **alone)
    if not ablations:
        return
    yield row(IDS, "none", kinds=("video",))
    yield row(f"{FULL}, vectors alone", align=one, settings=align, parts=("vectors",))
    yield row(f"{FULL}, start alone", align=one, settings=align, parts=("start",))
    for what, change in ABLATIONS.items():
        yield row(f"{FULL} without {what}", align=replace(one, **change), settings=align)
    yield row(f"{RAW} without the profile residual", settings=replace(align, seed=0), profile=False)
    yield row(f"{FULL} without the profile residual", align=one, settings=align, profile=False)


#: parts of stage 1 that are left out, by their weight in the loss
ABLATIONS: dict[str, dict[str, Any]] = {
    "behaviour contrast": {"behaviour": 0.0},
    "InfoNCE with z": {"z": 0.0},
    "L_rec": {"rec": 0.0, "head_epochs": 0},  # the heads alone learn nothing else
}


def said(align: AlignmentConfig) -> str:
    """The settings of stage 1 in a few sentences."""
    still = align.comment_map_rate == 0
    return (
        f"Stage 1: {DEFAULT_LLM}, {align.samples:,} samples in batches of {align.batch}, prompts with up to "
        f"{align.draw.prompt_history} items of each history, {align.prompt_tokens or align.text_tokens} tokens of "
        f"a text; for its vector {align.text_tokens} are read after {LANGUAGES[align.draw.language].text!r}; up to "
        f"{align.draw.same_video} comment samples of a batch under the same video; before, the heads alone "
        f"{align.head_epochs} times over {align.head_samples:,} other samples. "
        + "Titles' text MLP learns and comments' does not; stage 2 keeps the former where validation is better. "
        * still
        + "Each seed is a run of both stages."
    )
