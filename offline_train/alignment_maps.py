"""From pooled vectors of a language model to text vectors t(x): the text MLP, or one of titles and one of comments."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offline_train.embedding import CorpusTexts
from offline_train.llm_texts import Part, placed
from offline_train.text import TextVectors

#: where GELU is the identity to within 1e-3
_LINEAR = 4.0
#: no component counts as weaker than this part of the strongest's variance: what few texts don't have, others may
_LEAST = 1e-3
#: the power of a component's deviation by which the text MLP divides it to begin with
EQUALISED = 0.5


class Standard(nn.Module):
    """(x - mean) / deviation, fitted once and kept."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, rows: Tensor) -> None:
        """From rows [n, dim]."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0, correction=0).clamp(min=1e-4))

    def forward(self, rows: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return (rows - self.mean) / self.deviation


class TextMap(nn.Module):
    """t(x) = MLP(standardised pooled vector), of length 1: d_llm -> hidden -> GELU -> d_t.

    `hidden` is d_llm / 4, as in the paper, or d_t where that is more: it starts with a component for each of d_t.
    """

    def __init__(self, llm_dim: int, text_dim: int) -> None:
        super().__init__()
        self.standard = Standard(llm_dim)
        self.down = nn.Linear(llm_dim, max(llm_dim // 4, min(llm_dim, text_dim)))
        self.up = nn.Linear(self.down.out_features, text_dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """[..., d_llm] -> [..., d_t]."""
        return F.normalize(self.up(F.gelu(self.down(self.standard(pooled)))), dim=-1)

    @torch.no_grad()
    def fit(self, pooled: Tensor, equalised: float = EQUALISED) -> None:
        """Standardise on rows [n, d_llm] and start as their principal components, strongest first, half equalised.

        So training starts from cosines that say something, and not from a random mixture of the LLM's vectors: the
        contrastive losses begin below chance. Each component is divided by the root of its deviation: as they are, a
        few decide every cosine; at the same deviation (whitened, as Su et al., arXiv 2103.15316, do) the many that say
        nothing do. docs/training.md has what either is worth. The bias keeps GELU where it is linear.
        """
        self.standard.fit(pooled)
        x = self.standard(pooled).double()
        variance, axes = torch.linalg.eigh(x.T @ x / len(x))
        kept = min(self.down.out_features, self.up.out_features)
        variance, axes = variance.flip(0)[:kept], axes.flip(1)[:, :kept]
        variance = variance.clamp(min=max(1e-12, _LEAST * float(variance[0])))
        self.down.weight[:kept] = (axes.T / variance[0].sqrt()).float()
        self.down.bias.fill_(_LINEAR)
        nn.init.normal_(self.up.weight, std=1e-3)
        parts = variance ** (1 - equalised)  # of a row's squared length, 1 in the mean, by component
        self.up.weight[:kept, :kept] += torch.diag((parts / parts.sum() * variance[0] / variance).sqrt()).float()
        self.up.bias.copy_(-_LINEAR * self.up.weight.sum(1))

    @torch.no_grad()
    def turn(self, axes: Tensor) -> None:
        """Let t(x) be axes^T t(x), for orthonormal columns [d_t, d_t]."""
        self.up.weight.copy_(axes.T @ self.up.weight.double())
        self.up.bias.copy_(axes.T @ self.up.bias.double())

    @torch.inference_mode()
    def vectors(self, pooled: np.ndarray) -> np.ndarray:
        """float32 [n, d_t] of pooled vectors [n, d_llm]."""
        parts = [self(torch.from_numpy(rows)) for rows in np.array_split(pooled, max(1, len(pooled) // 4096))]
        return torch.cat(parts).numpy()


class TextMaps(nn.Module):
    """The text MLP of titles and that of comments: one and the same, as in the paper, or two."""

    def __init__(self, llm_dim: int, text_dim: int, apart: bool = False) -> None:
        super().__init__()
        self.title = TextMap(llm_dim, text_dim)
        self.comment = TextMap(llm_dim, text_dim) if apart else None

    def fit(self, pooled: Tensor, equalised: float = EQUALISED) -> None:
        """See `TextMap.fit`. Titles' MLP of their own starts from components as they are.

        It learns, and from half equalised ones what it learned was worth less (docs/training.md): weak components are
        many, and made strong they fit the few samples' noise.
        """
        if self.comment is None:
            self.title.fit(pooled, equalised)
            return
        self.title.fit(pooled, equalised=0.0)
        self.comment.fit(pooled, equalised)

    def of_log(self, pooled: np.ndarray, texts: CorpusTexts, method: str) -> TextVectors:
        """A log's text vectors, from pooled ones [distinct, d_llm]."""
        rows = self.title.vectors(pooled)
        if self.comment is None:
            return TextVectors(placed(rows, texts.title), placed(rows, texts.comment), method)
        said = self.comment.vectors(pooled)
        crossed = placed(said, texts.title), placed(rows, texts.comment)
        return TextVectors(placed(rows, texts.title), placed(said, texts.comment), method, crossed=crossed)

    def parts(self, pooled: np.ndarray, texts: CorpusTexts) -> tuple[Part, Part | None]:
        """What `llm_texts.write` keeps: all texts by the titles' MLP and, where there is one, by the comments'."""
        own = Part(texts.distinct, self.title.vectors(pooled), self.title.state_dict())
        if self.comment is None:
            return own, None
        return own, Part(texts.distinct, self.comment.vectors(pooled), self.comment.state_dict())
