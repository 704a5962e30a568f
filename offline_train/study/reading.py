"""What a language model's vectors of comments are worth before anything is trained on them.

    for result in readings(corpus, split, "smollm2", "cache", tokens=(16, 48)):
        print(result.model, result.values["ndcg@10"])

Each row ranks comments by the cosine to the mean of the user's own, `VectorProfile`. Rows differ in how many tokens of
a text are read, whether words come before it, and how far the principal components of the standardised vectors are
equalised. Targets are those of the validation part, as such things are chosen by it. It takes one reading of the texts
for each number of tokens, with the words and without, where a run of both stages takes hours; and only of the texts
that the targets asked for are ranked with: for 300 a third of Rotten Tomatoes'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from offline_train.alignment_maps import EQUALISED, TextMap
from offline_train.baselines import Scorer, Scores, VectorProfile
from offline_train.corpus import Corpus, Split
from offline_train.embedding import CorpusTexts, PooledStore
from offline_train.evaluation import Result, evaluate
from offline_train.llm import DEFAULT_LLM, LLM
from offline_train.llm_texts import placed
from offline_train.prompts import LANGUAGES
from offline_train.protocols import Queries
from offline_train.text import TEXT_DIM, text_vectors

#: powers of a component's deviation that it is divided by: as it is, as stage 1 starts, whitened
POWERS = {"plain": 0.0, "half": EQUALISED, "whitened": 1.0}
#: in a row's name: words come before the text
WORDS = "words"
#: so many texts, about, are read for the components at least, however few targets are asked for
_FITTED = 2000
#: `report(done, total, what)`
Report = Callable[[int, int, str], None]


def readings(
    corpus: Corpus,
    split: Split,
    llm: str = DEFAULT_LLM,
    cache: str | Path = ".lsvcr-cache",
    *,
    tokens: Sequence[int] = (16,),
    language: str = "en",
    protocols: Sequence[str] = ("full", "as-of"),
    part: str = "valid",
    limit: int | None = None,
    report: Report = lambda done, total, what: None,
) -> list[Result]:
    """Rank the comments of a part of a split by each way of reading, TF-IDF vectors first.

    Args:
        tokens: how much of a text is read.
        language: of the words before a text, as in `offline_train.prompts`.
        part: `valid` or `test`.
        limit: at most so many targets, evenly spread; only the texts that they need are read.

    Raises:
        LLMError: there is no such language model.
    """
    shown = _Shown(corpus)
    evaluate(corpus.log, corpus, split, [shown], protocols=tuple(protocols), part=part, limit=limit)
    svd = text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    scorers: list[Scorer] = [VectorProfile(corpus, svd.comment, "TF-IDF")]
    for words in ("", LANGUAGES[language].text):
        for most in tokens:
            model = LLM.load(llm, cache, words)
            scorers += _read(corpus, split, shown.comments, model, cache, most, words, report)
    return evaluate(corpus.log, corpus, split, scorers, protocols=tuple(protocols), part=part, limit=limit)


class _Shown:
    """Ranks nothing: it marks the comments that a profile's scores of some targets are made of."""

    task, name = "comment", "shown"

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self.comments = np.zeros(len(corpus.log.comment_ids), bool)

    def scores(self, queries: Queries) -> Scores:
        self.comments[queries.comments] = True
        for start, end in zip(queries.comment_start, queries.comment_end, strict=True):
            self.comments[self._corpus.comments[start:end]] = True
        return np.zeros(len(queries.comments))


def _read(
    corpus: Corpus,
    split: Split,
    shown: np.ndarray,
    llm: LLM,
    cache: str | Path,
    most: int,
    words: str,
    report: Report,
) -> Iterator[Scorer]:
    llm.compute_in_bf16_if_possible()
    texts = CorpusTexts.of(corpus.log, split.valid_ms)
    early = np.flatnonzero(texts.early)
    fitted = early[:: max(1, len(early) // _FITTED)]
    wanted = np.union1d(fitted, texts.comment[shown & (texts.comment >= 0)])
    what = f"{WORDS}+{most}" if words else f"{most}"

    def advance(done: int, total: int, rate: float) -> None:
        report(done, total, f"reading texts: {what} tokens")

    pooled = PooledStore(llm, cache, most).vectors([texts.distinct[i] for i in wanted], advance)
    known = torch.from_numpy(pooled[texts.early[wanted]])
    place = np.full(len(texts.distinct) + 1, -1)  # the last for comments without a text
    place[wanted] = np.arange(len(wanted))
    for name, power in POWERS.items():
        torch.manual_seed(0)
        mapping = TextMap(llm.dim, TEXT_DIM)
        mapping.fit(known, power)
        yield VectorProfile(corpus, placed(mapping.vectors(pooled), place[texts.comment]), f"{what}, {name}")
