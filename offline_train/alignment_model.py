"""What stage 1 trains beside LoRA: the text MLP, the SR without ids, and the map to z."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offline_train.alignment_losses import Contrasts, contrasts
from offline_train.alignment_samples import AlignmentBatch
from offline_train.log import VIEW
from offline_train.processes import gather
from offline_train.sr import SR, Side, SRConfig

#: where GELU is the identity to within 1e-3
_LINEAR = 4.0
#: how long A t(x) is: as in an SR that starts from scratch, whose other parts are made for texts of this length
_TEXT_LENGTH = 0.2
#: ln of the scale of L_rec to begin with; it learns so many times as fast as weights do, being a single number
_SCALE, _SCALE_RATE = -1.0, 10.0


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
    """t(x) = MLP(standardised pooled vector), of length 1: d_llm -> d_llm / 4 -> GELU -> d_t."""

    def __init__(self, llm_dim: int, text_dim: int) -> None:
        super().__init__()
        self.standard = Standard(llm_dim)
        self.down = nn.Linear(llm_dim, max(1, llm_dim // 4))
        self.up = nn.Linear(self.down.out_features, text_dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """[..., d_llm] -> [..., d_t]."""
        return F.normalize(self.up(F.gelu(self.down(self.standard(pooled)))), dim=-1)

    @torch.no_grad()
    def fit(self, pooled: Tensor) -> None:
        """Standardise on rows [n, d_llm] and start as their principal components, strongest first, of length 1.

        So training starts from the cosines that the LLM's vectors have, and not from a random mixture of them: the
        contrastive losses begin below chance. The bias keeps GELU where it is linear.
        """
        self.standard.fit(pooled)
        x = self.standard(pooled).double()
        variance, axes = torch.linalg.eigh(x.T @ x / len(x))
        kept = min(self.down.out_features, self.up.out_features)
        variance, axes = variance.flip(0)[:kept].clamp(min=1e-12), axes.flip(1)[:, :kept]
        self.down.weight[:kept] = (axes.T / variance[0].sqrt()).float()
        self.down.bias.fill_(_LINEAR)
        nn.init.normal_(self.up.weight, std=1e-3)
        self.up.weight[:kept, :kept] += torch.eye(kept) * float((variance[0] / variance.sum()).sqrt())
        self.up.bias.copy_(-_LINEAR * self.up.weight.sum(1))

    @torch.inference_mode()
    def vectors(self, pooled: np.ndarray) -> np.ndarray:
        """float32 [n, d_t] of pooled vectors [n, d_llm]."""
        parts = [self(torch.from_numpy(rows)) for rows in np.array_split(pooled, max(1, len(pooled) // 4096))]
        return torch.cat(parts).numpy()


class Aligner(nn.Module):
    """The heads: from pooled texts and prompt states to the vectors that the contrasts are about.

    Each kind of sample has a temperature of its own in `L_rec`, learned, as the comment loss of stage 2 has. Where
    next comments can hardly be told (reviews of a film by their first words), .07 would make all of them alike.
    """

    def __init__(self, sr: SRConfig, llm_dim: int) -> None:
        super().__init__()
        model = SR(sr)
        self.config = sr
        self.encoder, self.text = model.encoder, model.text  # A is `text`, as in SR
        self.map = TextMap(llm_dim, sr.text_dim)
        self.z_standard = Standard(llm_dim)
        self.to_z = nn.Linear(llm_dim, sr.dim)
        nn.init.normal_(self.to_z.weight, std=llm_dim**-0.5)
        nn.init.zeros_(self.to_z.bias)
        self.scale = nn.Parameter(torch.full((2,), _SCALE / _SCALE_RATE))  # of comment and video samples

    def start(self) -> dict[str, Tensor]:
        """The weights that stage 2 starts from, named as in `SR`."""
        return {name: value for name, value in self.state_dict().items() if name.startswith(("encoder.", "text."))}

    @torch.no_grad()
    def straighten(self, pooled: Tensor) -> None:
        """Turn t(x) so that rows [n, d_llm] vary most along the first axes, and scale A to the length of its start.

        A takes the turn back, so that A t(x) keeps its direction. Stage 2 relies on such vectors where it starts from
        scratch, and on such lengths wherever it starts.
        """
        parts = pooled.to(self.text.weight.device).split(4096)
        vectors = torch.cat([self.map(rows) for rows in parts]).double()
        length = torch.cat([self.text(self.map(rows)) for rows in parts]).norm(dim=-1).mean().double()
        axes = torch.linalg.eigh(vectors.T @ vectors)[1].flip(1)
        up = self.map.up
        up.weight.copy_(axes.T @ up.weight.double())
        up.bias.copy_(axes.T @ up.bias.double())
        self.text.weight.copy_(self.text.weight.double() @ axes * (_TEXT_LENGTH / length))

    def preferences(self, batch: AlignmentBatch, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(preference, that of the other history, target), [b, d] each. `pooled` [n, d_llm] are the batch's texts."""
        # Of one length, whatever A does: cosines to texts don't hold it back, and texts a hundred times as long leave
        # the Transformer layers nothing to add to the profile, here and in stage 2.
        texts = _TEXT_LENGTH * F.normalize(self.text(self.map(pooled)), dim=-1)
        texts = F.pad(texts, (0, 0, 0, 1))  # [n + 1, d], a zero row for no text
        device = texts.device
        at = {name: torch.from_numpy(value).to(device) for name, value in batch.columns.items()}
        several = at["comment_text"] < len(pooled)  # [b, C, 3]
        said = texts[at["comment_text"]].sum(2) / several.sum(2, keepdim=True).clamp(min=1)
        videos = Side(
            torch.zeros_like(texts[at["video_title"]]),  # no ids in this stage
            texts[at["video_title"]],
            texts[at["video_comment"]],
            at["video_title_present"],
            at["video_at"],
        )
        comments = Side(
            torch.zeros_like(said),
            texts[at["comment_title"]],
            said,
            at["comment_title_present"],
            at["comment_at"],
        )
        video_states, comment_states = self.encoder.states(videos, comments)
        query = texts[at["query"]]
        is_video = (at["kind"] == VIEW)[:, None]
        own = torch.where(
            is_video,
            self.encoder.video_preference(video_states, videos),
            self.encoder.comment_preference(query, comment_states, comments),
        )
        other = torch.where(
            is_video,
            self.encoder.video_preference(comment_states, comments),
            self.encoder.comment_preference(query, video_states, videos),
        )
        return own, other, texts[at["target"]]

    def forward(self, batch: AlignmentBatch, pooled: Tensor, states: Tensor, temperature: float) -> Contrasts:
        """The contrasts of the whole batch, of which `batch` is this process's part; states [b, d_llm]."""
        own, other, target = self.preferences(batch, pooled)
        z = self.to_z(self.z_standard(states))
        device = z.device
        columns = {
            name: gather(torch.from_numpy(batch.columns[name]).to(device))
            for name in ("kind", "user", "target_text", "both")
        }
        return contrasts(
            gather(own),
            gather(other),
            gather(z),
            gather(target),
            kind=columns["kind"],
            user=columns["user"],
            target_text=columns["target_text"],
            both=columns["both"].bool(),
            scale=(_SCALE_RATE * self.scale)[(columns["kind"] == VIEW).long()].exp(),
            temperature=temperature,
        )
