"""Every text read once by a language model: pooled vectors, kept under what they are made of.

A store belongs to one LLM (by the hash of its weights, LoRA included, and its precision) and one length in tokens; in
it a vector is found by the hash of its text. So a second run, a run that was killed, and a run on a log with a few new
texts compute only what is missing. Chunks are renamed into place when they are whole.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from offline_train.llm import LLM
from offline_train.log import Log
from offline_train.processes import place, wait

#: `report(done, total, tokens per second)`
Report = Callable[[int, int, float], None]
#: the folder of all stores, below the cache
POOLED = "pooled"
_KEY = 16
_CHUNK_SECONDS = 30.0  # a kill costs no more than this


@dataclass(frozen=True)
class CorpusTexts:
    """The distinct texts of a log, and where each title and comment is among them; -1 for an empty one."""

    distinct: list[str]
    title: np.ndarray  #: int64 [n_v]
    comment: np.ndarray  #: int64 [n_c]
    early: np.ndarray  #: bool [distinct], known before the cutoff: statistics may use it

    @staticmethod
    def of(log: Log, cutoff_ms: int) -> CorpusTexts:
        """The texts of a log; `cutoff_ms` as `Split.valid_ms`."""
        index: dict[str, int] = {}
        place = [index.setdefault(text, len(index)) if text.strip() else -1 for text in _all(log)]
        at = np.array(place, np.int64)
        early = np.zeros(len(index), bool)
        known = np.concatenate((log.first_seen_video, log.first_seen_comment)) < cutoff_ms
        early[at[known & (at >= 0)]] = True
        return CorpusTexts(list(index), at[: len(log.video_ids)], at[len(log.video_ids) :], early)

    def some(self, which: np.ndarray) -> list[str]:
        """The distinct texts where `which`, bool [distinct], says so."""
        return [self.distinct[i] for i in np.flatnonzero(which)]

    def of_comments(self) -> np.ndarray:
        """bool [distinct]: some comment says it."""
        said = np.zeros(len(self.distinct), bool)
        said[self.comment[self.comment >= 0]] = True
        return said


class PooledStore:
    """Pooled vectors of one LLM, float32 [n, d_llm], on disk."""

    def __init__(self, llm: LLM, cache: str | Path, most_tokens: int) -> None:
        self.llm, self.most_tokens = llm, most_tokens
        self.fingerprint = f"{llm.fingerprint()}-{llm.precision}"
        self.folder = Path(cache) / POOLED / f"{self.fingerprint}-{most_tokens}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._vectors: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self._refresh()

    def vectors(
        self, texts: Sequence[str], report: Report = lambda done, total, rate: None, batch_tokens: int = 4096
    ) -> np.ndarray:
        """float32 [len(texts), d_llm] of texts, none of them empty; computes what the store lacks."""
        keys = [_key(text) for text in texts]
        # Everyone must divide the same list: what one process had written already would shift another's share.
        wait()
        self._refresh()
        wait()
        lacking = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if lacking:
            self._compute(lacking, report, batch_tokens)
        wait()
        self._refresh()
        if not keys:
            return np.zeros((0, self.llm.dim), np.float32)
        return np.stack([self._vectors[key] for key in keys])

    def _compute(self, texts: dict[bytes, str], report: Report, batch_tokens: int) -> None:
        rank, size = place()
        # A text of which the tokenizer leaves nothing is read as one token 0.
        rows = [row or [0] for row in self.llm.tokens(list(texts.values()), self.most_tokens)]
        lengths = (len(self.llm.opening) + len(row) for row in rows)
        ordered = sorted(zip(lengths, texts, rows, strict=True), reverse=True)[rank::size]
        keys: list[bytes] = []
        parts: list[np.ndarray] = []
        began = saved = time.monotonic()
        done = tokens = 0
        was_training = self.llm.training
        self.llm.eval()
        for batch in by_tokens(ordered, batch_tokens):
            with torch.inference_mode():
                pooled = self.llm.pooled([row for _, _, row in batch])
            parts.append(pooled.cpu().numpy())
            keys += [key for _, key, _ in batch]
            done += len(batch)
            tokens += sum(length for length, _, _ in batch)
            now = time.monotonic()
            report(done, len(ordered), tokens / max(1e-9, now - began))
            if now - saved > _CHUNK_SECONDS:
                self._save(keys, parts)
                keys, parts, saved = [], [], now
        self._save(keys, parts)
        self.llm.train(was_training)

    def _save(self, keys: list[bytes], parts: list[np.ndarray]) -> None:
        if not keys:
            return
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
        scratch = self.folder / f".{name}.{os.getpid()}"
        with scratch.open("wb") as file:
            np.savez(
                file, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY), vectors=np.concatenate(parts)
            )
        os.replace(scratch, self.folder / f"{name}.npz")

    def _refresh(self) -> None:
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self._read:
                with np.load(path) as chunk:
                    vectors = chunk["vectors"]
                    self._vectors.update(zip(map(bytes, chunk["keys"]), vectors, strict=True))
                self._read.add(path.name)


def by_tokens(rows: Sequence[tuple], most: int) -> Iterator[Sequence[tuple]]:
    """Cut rows, whose first field is their length, longest first, into batches of at most `most` tokens padded."""
    start = 0
    while start < len(rows):
        count = max(1, most // max(1, rows[start][0]))
        yield rows[start : start + count]
        start += count


def _all(log: Log) -> list[str]:
    return [*log.video_titles, *log.comment_texts]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_KEY]
