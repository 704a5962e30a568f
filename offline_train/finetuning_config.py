"""What stage 2 is told, and what it tells of each epoch and batch."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = ("video", "comment", "joint")


@dataclass(frozen=True)
class FinetuneConfig:
    """The paper's values, but for five of ours.

    A batch has 256 samples and not 512: small data give few steps. An epoch, after which we validate, draws at most
    `epoch_samples`. For part of the samples recent videos are new, as they are in serving (`cold_share`); one run on
    HetRec was better with it, by less than the spread between runs. And what is validated and kept is a running mean of
    the weights (`averaging`): single steps scatter around it, and to choose the best of them is to choose luck.
    """

    task: str = "joint"
    epochs: int = 50
    patience: int = 5  #: epochs without a better validation NDCG@5
    batch: int = 256
    learning_rate: float = 1e-3
    id_rate: float = 0.1  #: ids that start from counts learn at this part of the rate: they know most, and forget fast
    weight_decay: float = 1e-5
    contrast: float = 0.1  #: weight of the id-text contrast
    contrast_negatives: int = 99
    comment_negatives: int = 19
    epoch_samples: int = 10_000
    averaging: float = 0.98  #: how much of the mean is left after a step; 0: the weights themselves
    cold_share: float = 0.5  #: of the samples, see as new the videos of ...
    cold_span: float = 0.2  #: ... up to this part of the training samples before them
    seed: int = 0
    threads: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(TASKS)}")


@dataclass(frozen=True)
class Epoch:
    """One point of the curves. NDCG@5 on validation, None for a task without validation samples."""

    epoch: int
    loss: float
    video_loss: float
    comment_loss: float
    contrast_loss: float
    video_ndcg5: float | None
    comment_ndcg5: float | None
    score: float  #: what early stopping compares
    seconds: float


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows: reported after every batch."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    score: float  #: best validation score yet
    samples_per_second: float
