import pytest
import tastes


@pytest.fixture(scope="module")
def data():
    """The small log of `tastes`: corpus, temporal split, text vectors."""
    from offline_train.corpus import Corpus, temporal_split
    from offline_train.text import text_vectors

    corpus = Corpus.build(tastes.log())
    split = temporal_split(corpus)
    return corpus, split, text_vectors(corpus.log, cutoff_ms=split.valid_ms)
