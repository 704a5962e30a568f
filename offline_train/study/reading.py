"""What a language model's vectors of comments are worth before anything is trained on them.

    for result in readings(corpus, split, "smollm2", "cache", tokens=(16, 48)):
        print(result.model, result.values["ndcg@10"])

Each row ranks comments by the cosine to the mean of the user's own, `VectorProfile`. Rows differ in how many tokens of
a text are read, whether words come before it, and how far the principal components of the standardised vectors are
equalised. It takes one reading of all texts for each number of tokens, with the words and without, where a run of both
stages takes hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from offline_train.alignment_maps import EQUALISED, TextMap
from offline_train.baselines import Scorer, VectorProfile
from offline_train.corpus import Corpus, Split
from offline_train.embedding import CorpusTexts, PooledStore
from offline_train.evaluation import Result, evaluate
from offline_train.llm import DEFAULT_LLM, LLM
from offline_train.llm_texts import placed
from offline_train.prompts import LANGUAGES
from offline_train.text import TEXT_DIM, text_vectors

#: powers of a component's deviation that it is divided by: as it is, as stage 1 starts, whitened
POWERS = {"plain": 0.0, "half": EQUALISED, "whitened": 1.0}
#: in a row's name: words come before the text
WORDS = "words"
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
    limit: int | None = None,
    report: Report = lambda done, total, what: None,
) -> list[Result]:
    """Rank the comments of a split's test part by each way of reading, TF-IDF vectors first.

    Args:
        tokens: how much of a text is read.
        language: of the words before a text, as in `offline_train.prompts`.
        limit: at most so many targets, evenly spread.

    Raises:
        LLMError: there is no such language model.
    """
    svd = text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    scorers: list[Scorer] = [VectorProfile(corpus, svd.comment, "TF-IDF")]
    for words in ("", LANGUAGES[language].text):
        for most in tokens:
            scorers += _read(corpus, split, LLM.load(llm, cache, words), cache, most, words, report)
    return evaluate(corpus.log, corpus, split, scorers, protocols=tuple(protocols), limit=limit)


def _read(
    corpus: Corpus, split: Split, llm: LLM, cache: str | Path, most: int, words: str, report: Report
) -> Iterator[Scorer]:
    llm.compute_in_bf16_if_possible()
    texts = CorpusTexts.of(corpus.log, split.valid_ms)
    what = f"{WORDS}+{most}" if words else f"{most}"

    def advance(done: int, total: int, rate: float) -> None:
        report(done, total, f"reading texts: {what} tokens")

    pooled = PooledStore(llm, cache, most).vectors(texts.distinct, advance)
    early = torch.from_numpy(pooled[texts.early])
    for name, power in POWERS.items():
        torch.manual_seed(0)
        mapping = TextMap(llm.dim, TEXT_DIM)
        mapping.fit(early, power)
        yield VectorProfile(corpus, placed(mapping.vectors(pooled), texts.comment), f"{what}, {name}")
