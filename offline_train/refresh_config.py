"""The configuration of a refresh: one YAML file, every field with a default, a wrong one named.

`infra/refresh.yaml` shows all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from offline_train.alignment_config import AlignmentConfig
from offline_train.config_keys import check_keys
from offline_train.distill import DistillConfig
from offline_train.finetuning_config import FinetuneConfig
from offline_train.llm import DEFAULT_LLM

T = TypeVar("T")
Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=0)]


class RefreshError(RuntimeError):
    """The refresh can't go on; the message says what to do. What serves is left alone."""


class Stage1Config(Struct, frozen=True, forbid_unknown_fields=True):
    """How often the language model is aligned anew (paper, section 3.3); between two times its result is used again.

    `options` override fields of `AlignmentConfig`.
    """

    every_days: Annotated[float, Meta(gt=0)] = 30.0
    llm: str = DEFAULT_LLM
    options: dict[str, Any] = {}


class SplitConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The newest parts of the log, as shares of its samples: to stop and choose on, and to measure and gate on."""

    valid: Share = 0.1
    test: Share = 0.1


class GateConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate is published if on no task it is worse than the serving model by more than `margin`, relatively.

    Both are measured on the same held-out period: as-of where the task has it, else against all candidates.
    """

    metric: str = "ndcg@10"
    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.02
    targets: Annotated[int, Meta(ge=1)] | None = 20_000  #: at most so many of each task, evenly spread
    fewest: Count = 50  #: a task with fewer targets is told, and not judged


class RefreshConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Paths and addresses are as the command sees them.

    `train` overrides fields of `FinetuneConfig`, `student` of `DistillConfig` (None: no student is distilled).
    """

    archive: str = "archive"
    registry: str = "registry"
    work: str = ".lsvcr/refresh"  #: what is under way, so that it can go on after a kill; and reports
    channel: str = "stable"
    window_days: Annotated[float, Meta(gt=0)] | None = None  #: of events to learn from; None: all
    fewest_new_events: Count = 0  #: fewer since the last refresh: nothing is done
    text: Literal["svd"] = "svd"
    warm_start: bool = True
    split: SplitConfig = SplitConfig()
    train: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] | None = field(default_factory=dict)
    live: bool = True  #: train what live signals add to scores
    stage1: Stage1Config | None = None
    gate: GateConfig = GateConfig()

    def finetuning(self) -> FinetuneConfig:
        """The configuration of stage 2. Raises RefreshError."""
        return _fields("train", self.train, FinetuneConfig)

    def distilling(self) -> DistillConfig | None:
        """The configuration of the student; None: there is to be none. Raises RefreshError."""
        if self.student is None:
            return None
        settings = self.finetuning()
        return _fields("student", {"seed": settings.seed, "threads": settings.threads} | self.student, DistillConfig)

    def aligning(self) -> AlignmentConfig:
        """The configuration of stage 1. Raises RefreshError."""
        settings = self.finetuning()
        given = {"seed": settings.seed, "threads": settings.threads} | (self.stage1.options if self.stage1 else {})
        try:
            check_keys(given, AlignmentConfig, "stage1.options.")
            return msgspec.convert(given, AlignmentConfig)
        except (msgspec.ValidationError, ValueError) as error:
            raise RefreshError(f"stage1: {error}") from None

    def digest(self) -> str:
        """Tells two configurations apart."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RefreshConfig:
    """Read a configuration. `overrides` are `name=value`, nested with dots, values in YAML: `train.epochs=10`.

    Raises:
        RefreshError: no such file, no YAML, or a field that is unknown or mistyped; named in the message.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RefreshError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise RefreshError(f"{path}: names and values are expected, not a {type(found).__name__}")
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise RefreshError(f"{override!r}: give NAME=VALUE, as in train.epochs=10")
        *groups, last = name.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = yaml.safe_load(value)
    try:
        config = msgspec.convert(found, RefreshConfig)
    except msgspec.ValidationError as error:
        raise RefreshError(f"{path}: {error}") from None
    config.finetuning()
    config.distilling()
    config.aligning()
    return config


def _fields(name: str, given: dict[str, Any], type_: type[T]) -> T:
    known = {field.name for field in fields(type_)}  # type: ignore[arg-type]
    if unknown := sorted(given.keys() - known):
        raise RefreshError(f"{name}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return msgspec.convert(given, type_, strict=True)
    except (msgspec.ValidationError, ValueError) as error:
        raise RefreshError(f"{name}: {error}") from None
