"""What stage 1's LLM reads: token ids of texts and of prompts, and how many of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline_train.embedding import CorpusTexts
from offline_train.llm import LLM
from offline_train.prompts import Piece


class Reading:
    """Texts of a corpus as token ids, each of them cut on its own.

    Args:
        most: tokens of a text that is read to get its vector.
        in_prompt: tokens of a text in a prompt and in the response to it, where they are fewer; 0: `most`.
    """

    def __init__(self, llm: LLM, texts: CorpusTexts, most: int, in_prompt: int = 0) -> None:
        self._llm, self._texts, self._most, self._in_prompt = llm, texts, most, in_prompt or most
        self._tokens: dict[int, list[int]] = {}

    def text(self, text: int) -> list[int]:
        """Of an index of `CorpusTexts.distinct`, -1 for none; never empty."""
        if text not in self._tokens:
            row = self._llm.tokens([self._texts.distinct[text]], self._most)[0] if text >= 0 else []
            self._tokens[text] = row or [0]
        return self._tokens[text]

    def shown(self, text: int) -> list[int]:
        """The same as a prompt shows it and a response says it."""
        return self.text(text)[: self._in_prompt]

    def prompt(self, pieces: Sequence[Piece]) -> list[int]:
        """Of a prompt, with its texts in place."""
        ids: list[int] = []
        for piece in pieces:
            ids += self.shown(piece) if isinstance(piece, int) else self._llm.literal(piece)
        return ids


def micro_batches(lengths: list[int], most: int) -> list[np.ndarray]:
    """Places sorted by length and cut so that a part has at most `most` tokens, padding included."""
    order = np.argsort(np.array(lengths), kind="stable")[::-1].copy()
    parts, start = [], 0
    while start < len(order):
        count = max(1, most // max(1, lengths[order[start]]))
        parts.append(order[start : start + count])
        start += count
    return parts
