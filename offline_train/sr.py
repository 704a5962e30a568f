"""The sequential recommender (SR) of LSVCR: the whole model in one file.

Zheng et al., "Enhancing Sequential Recommender with Large Language Models for Joint Video and Comment Recommendation",
RecSys 2025, arXiv 2403.13574. It reads a user's video history and comment history and gives a video preference and,
for the video that the user is on, a comment preference; scores are cosines to candidates, over a temperature.

Where it departs from the paper: the video preference has a learned *prior*, the same for everybody, which is all there
is for a user without history; and each preference has a *profile residual*, a learned multiple of the mean of the
history's own videos or comments, weighted by recency (without it, training has to find from nothing what an untrained
cosine already knows), and A starts as the projection on the leading components. Comments have a map of their own in
place of A where validation says so (`start_apart`). Dropout acts on inputs, on what each
sublayer adds and in the pooling; inside attention only where asked for, for it costs training time.

`SREncoder` is what serving runs: it takes vectors that are already gathered and d wide, so its ONNX graph holds no
tables. `SR` adds what makes those vectors: the id table, its scale g, and the text maps.

Shapes: B users, V and C positions of the two histories (at least 1, padded), d = dim, n_v videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: stands for minus infinity in masks: finite, so that a row without any key gives no NaN
_MASKED = -1e9
#: where `SR.start_from_counts` starts: the length of an id, beside titles of about 0.2 ...
_FACTORS, _TEXT_LENGTH = 0.4, 0.2
#: ... and the cosine of the most popular video to the prior
_POPULAR = 0.8


@dataclass(frozen=True)
class SRConfig:
    """Defaults are the paper's; `profile` and `half_life` are ours."""

    videos: int  #: n_v, rows of the id table
    dim: int = 64  #: d
    text_dim: int = 256  #: d_t
    window: int = 50  #: longest history
    layers: int = 2
    heads: int = 2
    feedforward: int = 256
    dropout: float = 0.3
    attention_dropout: float = 0.0  #: of attention weights
    temperature: float = 0.07
    profile: float = 30.0  #: what both weights of the profile residual start from; 0 leaves the residual out
    half_life: float = 32.0  #: positions; where the recency of both profiles starts from


class Attention(nn.Module):
    """Multi-head attention of `x` over `memory`; a row whose keys are all masked attends to nothing."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """x [B, Q, d], memory [B, K, d], visible bool [B, Q or 1, K] -> [B, Q, d]."""
        q, k, v = (self._split(f(y)) for f, y in ((self.query, x), (self.key, memory), (self.value, memory)))
        bias = torch.where(visible, 0.0, _MASKED).expand(-1, x.shape[1], -1).unsqueeze(1)  # [B, 1, Q, K]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, bias, dropout)  # [B, h, Q, d / h]
        return self.out(y.transpose(1, 2).flatten(2) * visible.any(-1, keepdim=True))

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, h, positions, d / h]


class Layer(nn.Module):
    """One post-norm Transformer layer; attends to `memory`, which is `x` itself in the two encoders."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-8)
        self.up = nn.Linear(config.dim, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-8)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x, memory, visible)))
        y = self.down(F.gelu(self.up(x)))
        return self.norm2(x + self.dropout(y))


class History(nn.Module):
    """One history: positions, layer norm, dropout, then causal Transformer layers."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(config.window, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, present: Tensor, place: Tensor | None = None) -> Tensor:
        """x [B, L, d], present bool [B, L], int64 [B, L] -> states [B, L, d]."""
        at = torch.arange(x.shape[1], device=x.device)
        visible = (at[None, :] <= at[:, None]) & present.unsqueeze(1)  # [B, L, L]
        x = self.dropout(self.norm(x + (self.position[: x.shape[1]] if place is None else self.position[place])))
        for layer in self.layers:
            x = layer(x, x, visible)
        return x


class Pooling(nn.Module):
    """Additive attention pooling: one learned score per state, softmax over the states that are there."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, 2 * config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(2 * config.dim, eps=1e-8)
        self.score = nn.Linear(2 * config.dim, 1)

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        """states [B, L, d], present bool [B, L] -> [B, d], zero for an empty history."""
        logits = self.score(F.gelu(self.norm(self.dropout(self.up(states))))).squeeze(-1)  # [B, L]
        weights = logits.masked_fill(~present, _MASKED).softmax(-1) * present
        return (weights.unsqueeze(-1) * states).sum(1)


@dataclass(frozen=True)
class Side:
    """One history: [B, L, d] g·id, A t(title), and A t(comment) or the mean of several; bool [B, L] what is there.

    `place` int64 [B, L] says which positions they have; None: 0, 1, 2, ...
    """

    id: Tensor
    title: Tensor
    comment: Tensor
    present: Tensor
    place: Tensor | None = None


class SREncoder(nn.Module):
    """From gathered histories to the two preferences."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.mix = nn.Linear(2 * config.dim, config.dim)  # M, shared by both histories
        self.video_history, self.comment_history = History(config), History(config)
        self.video_cross, self.comment_cross = Layer(config), Layer(config)
        self.video_fusion = nn.Linear(2 * config.dim, config.dim)
        self.comment_fusion = nn.Linear(2 * config.dim, config.dim)
        self.pooling = Pooling(config)
        self.video_prior = nn.Parameter(torch.empty(config.dim))
        self.comment_attention = Attention(config)
        self.comment_norm = nn.LayerNorm(config.dim, eps=1e-8)
        learned = config.profile > 0
        self.video_profile = nn.Parameter(torch.tensor(config.profile), requires_grad=learned)
        self.comment_profile = nn.Parameter(torch.tensor(config.profile), requires_grad=learned)
        # log2 of half-lives in positions
        half_life = torch.tensor(config.half_life).log2()
        self.video_half_life = nn.Parameter(half_life.clone(), requires_grad=learned)
        self.comment_half_life = nn.Parameter(half_life.clone(), requires_grad=learned)

    def forward(
        self,
        video_id: Tensor,
        video_title: Tensor,
        video_comment: Tensor,
        video_length: Tensor,
        comment_id: Tensor,
        comment_title: Tensor,
        comment_text: Tensor,
        comment_length: Tensor,
        query: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The preferences, L2-normalised and divided by the temperature; zero where there is nothing to go by.

        Args:
            video_id: [B, V, d] g·id of each video, oldest first; padding at the end, any value.
            video_title: [B, V, d] A t(title).
            video_comment: [B, V, d] A t(popular comment), zero where there is none.
            video_length: int64 [B], 0 to V.
            comment_id: [B, C, d] g·id of the video of each comment record.
            comment_title: [B, C, d] A t(title) of that video.
            comment_text: [B, C, d] mean of A t(comment) over the record's comments.
            comment_length: int64 [B], 0 to C.
            query: [B, d] g·id + A t(title) of the video that the user is on; zero if it is not known.

        Returns:
            video_preference [B, d], comment_preference [B, d].
        """
        videos = Side(video_id, video_title, video_comment, _present(video_id, video_length))
        comments = Side(comment_id, comment_title, comment_text, _present(comment_id, comment_length))
        video_states, comment_states = self.states(videos, comments)
        video = self.video_preference(video_states, videos)
        comment = self.comment_preference(query, comment_states, comments)
        return F.normalize(video, dim=-1) / self.temperature, F.normalize(comment, dim=-1) / self.temperature

    def states(self, videos: Side, comments: Side) -> tuple[Tensor, Tensor]:
        """The fused states of both histories, [B, V, d] and [B, C, d]."""
        has_video, has_comment = videos.present, comments.present
        video = self.video_history(self.content(videos), has_video, videos.place)
        comment = self.comment_history(self.content(comments), has_comment, comments.place)
        video_cross = self.video_cross(video, comment, has_comment.unsqueeze(1))
        comment_cross = self.comment_cross(comment, video, has_video.unsqueeze(1))
        return (
            self.video_fusion(torch.cat((video, video_cross), -1)),
            self.comment_fusion(torch.cat((comment, comment_cross), -1)),
        )

    def of_comments(self) -> list[nn.Parameter]:
        """What the comment preference is made with, and the video preference only by attending to comment states."""
        parts = (self.comment_history, self.comment_cross, self.comment_fusion, self.comment_attention)
        modules = (parameter for part in (*parts, self.comment_norm) for parameter in part.parameters())
        return [*modules, self.comment_profile, self.comment_half_life]

    def content(self, side: Side) -> Tensor:
        """g·id + M[title ; comment] of each position, [B, L, d]."""
        content: Tensor = side.id + self.mix(torch.cat((side.title, side.comment), -1))
        return content

    def video_preference(self, states: Tensor, side: Side) -> Tensor:
        """Pooled from one history, [B, d], of any length. Stage 1 also asks for that of the comment history."""
        profile = self.video_profile * _recent(self.content(side), side.present, self.video_half_life)
        preference: Tensor = self.video_prior + self.pooling(states, side.present) + profile
        return preference

    def comment_preference(self, query: Tensor, states: Tensor, side: Side) -> Tensor:
        """Attended from one history by the query [B, d], [B, d], of any length."""
        attended = self.comment_attention(query.unsqueeze(1), states, side.present.unsqueeze(1)).squeeze(1)
        preference: Tensor = self.comment_norm(query + attended)
        return preference + self.comment_profile * _recent(side.comment, side.present, self.comment_half_life)


class SR(nn.Module):
    """The encoder with its tables: id embeddings, their scale g, and the map A from text vectors.

    `known` marks the videos with training interactions; the others have a zero id, in training as in serving. `apart`:
    comments have a map of their own; else A is theirs too, as in the paper.
    """

    known: Tensor
    apart: Tensor

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.config = config
        self.ids = nn.Embedding(config.videos, config.dim)
        self.scale = nn.Parameter(torch.ones(()))  # g
        self.text = nn.Linear(config.text_dim, config.dim, bias=False)  # A
        self.encoder = SREncoder(config)
        self.register_buffer("known", torch.ones(config.videos, 1))
        self.register_buffer("apart", torch.zeros((), dtype=torch.bool))
        self.apply(_initialise)
        # Where training starts from. Text vectors come with their strongest components first, so A begins as the best
        # linear map to d there is without training (texts then are as long as ids), M as a mean, so that content lies
        # where the candidates do, and the comment preference near the profile, the attention being small beside it.
        with torch.no_grad():
            nn.init.eye_(self.text.weight).mul_(0.2)
            self.comment_text = nn.Parameter(self.text.weight.clone(), requires_grad=False)  # [d, d_t], if `apart`
            self.encoder.mix.weight += torch.eye(config.dim).repeat(1, 2) / 2
            self.encoder.comment_norm.weight.fill_(0.1)
        for history in (self.encoder.video_history, self.encoder.comment_history):
            nn.init.normal_(history.position, std=0.02)
        # Never zero: normalising a zero vector has a gradient of 1e12 and more, which stops Adam's steps for long.
        nn.init.normal_(self.encoder.video_prior, std=0.02)

    @torch.no_grad()
    def start_from_counts(
        self, factors: Tensor, popularity: Tensor, titles: Tensor, prior: float, axes: Tensor | None = None
    ) -> None:
        """Start the ids from who watched what, and everybody's prior from what is popular.

        The prior points along the last axis, where text, whose strongest components come first, has least to say, and
        each id brings its video's cosine to that axis to `_POPULAR` times its popularity, however long the rest of its
        vector is. So a user of whom nothing is known gets the videos in the order of popularity.

        Stage 1 has trained A, so that its axes mean nothing: then `axes` are found anew, and ids and prior are as long,
        beside its texts, as they are beside those of an untrained A.

        Args:
            factors: [n_v, d - 1], of `cooccurrence_factors`.
            popularity: [n_v], 0 to 1.
            titles: [n_v, d_t], t(title).
            prior: length of the prior.
            axes: [d, d], of `text_axes`; None after no stage 1.
        """
        if axes is not None:
            self._start_along(axes, factors, popularity, titles, prior)
            return
        self.ids.weight[:, :-1] += _FACTORS * factors.to(self.ids.weight)
        vectors = self.id_vectors() + self.text(titles)
        cosine = _POPULAR * popularity.to(vectors)
        others = vectors[:, :-1].norm(dim=-1)
        self.ids.weight[:, -1] += cosine / (1 - cosine**2).sqrt() * others - vectors[:, -1]
        self.encoder.video_prior[-1] = prior

    def _start_along(self, axes: Tensor, factors: Tensor, popularity: Tensor, titles: Tensor, prior: float) -> None:
        """`start_from_counts` along other axes, in the measure of the texts."""
        texts = self.text(titles)
        measure = float(texts.norm(dim=-1).mean()) / _TEXT_LENGTH
        self.ids.weight += measure * _FACTORS * factors.to(texts) @ axes[:, :-1].T
        vectors = self.id_vectors() + texts
        along = vectors @ axes[:, -1]
        others = (vectors - along[:, None] * axes[:, -1]).norm(dim=-1)
        cosine = _POPULAR * popularity.to(vectors)
        self.ids.weight += (cosine / (1 - cosine**2).sqrt() * others - along)[:, None] * axes[:, -1]
        self.encoder.video_prior.copy_(measure * prior * axes[:, -1])

    @torch.no_grad()
    def start_apart(self, weight: Tensor, comments: Tensor) -> None:
        """Give comments a map of their own. M takes it back to where they lay, as well as a linear map can.

        Args:
            weight: [d, d_t], brought to the length that comments have.
            comments: [n, d_t], t(comment), to measure that, and M's way back, on.
        """
        plain, own = self.comment_map(comments), comments @ weight.T
        own *= (measure := plain.norm(dim=-1).mean() / own.norm(dim=-1).mean())
        back = torch.linalg.lstsq(own.double(), plain.double(), driver="gelsd").solution.T.to(plain)
        half = self.encoder.mix.weight[:, self.config.dim :]
        half.copy_(half @ back)
        self.comment_text.copy_(weight * measure)
        self.apart.fill_(True)

    def comment_map(self, comments: Tensor) -> Tensor:
        """A t(comment) of rows [..., d_t], or what stands in its place: [..., d]."""
        return F.linear(comments, self.comment_text if self.apart else self.text.weight)

    @torch.no_grad()
    def text_axes(self, titles: Tensor) -> Tensor:
        """[d, d], orthonormal columns: along which texts A t(title) differ most, the strongest first."""
        texts = self.text(titles).double()
        return torch.linalg.eigh(texts.T @ texts)[1].flip(1).to(titles)

    def id_vectors(self) -> Tensor:
        """g·id of every video, [n_v, d]."""
        return self.scale * self.ids.weight * self.known


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _present(history: Tensor, length: Tensor) -> Tensor:
    """bool [B, L]: the position holds an entry."""
    return torch.arange(history.shape[1], device=history.device)[None, :] < length[:, None]


def _recent(vectors: Tensor, present: Tensor, half_life: Tensor) -> Tensor:
    """Mean over the positions that hold an entry, [B, d]; zero if none does.

    An entry weighs half as much as one that is 2 ** `half_life` positions newer.
    """
    at = torch.arange(present.shape[1], device=vectors.device)
    age = (present.sum(1, keepdim=True) - 1 - at[None, :]).clamp(min=0)
    weights = torch.exp2(-age * torch.exp2(-half_life)) * present
    return (vectors * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1e-9)
