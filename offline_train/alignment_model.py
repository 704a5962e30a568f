"""What stage 1 trains beside LoRA: the text MLP, the SR without ids, and the map to z."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offline_train.alignment_losses import Contrasts, contrasts
from offline_train.alignment_maps import Standard, TextMaps
from offline_train.alignment_samples import AlignmentBatch
from offline_train.log import VIEW
from offline_train.processes import gather
from offline_train.sr import SR, Side, SRConfig

#: how long A t(x) is: as in an SR that starts from scratch, whose other parts are made for texts of this length
_TEXT_LENGTH = 0.2
#: ln of the scale of L_rec to begin with; it learns so many times as fast as weights do, being a single number
_SCALE, _SCALE_RATE = -1.0, 10.0


class Aligner(nn.Module):
    """The heads: from pooled texts and prompt states to the vectors that the contrasts are about.

    Each kind of sample has a temperature of its own in `L_rec`, learned, as the comment loss of stage 2 has. Where
    next comments can hardly be told (reviews of a film by their first words), .07 would make all of them alike.

    With `comments_apart`, comments have a text MLP and an A of their own (`SR.apart`).
    """

    comment_text: nn.Parameter | None

    def __init__(self, sr: SRConfig, llm_dim: int, comments_apart: bool = False) -> None:
        super().__init__()
        model = SR(sr)
        self.config = sr
        self.encoder, self.text = model.encoder, model.text  # A is `text`, as in SR
        self.register_parameter("comment_text", nn.Parameter(self.text.weight.clone()) if comments_apart else None)
        self.maps = TextMaps(llm_dim, sr.text_dim, comments_apart)
        self.z_standard = Standard(llm_dim)
        self.to_z = nn.Linear(llm_dim, sr.dim)
        nn.init.normal_(self.to_z.weight, std=llm_dim**-0.5)
        nn.init.zeros_(self.to_z.bias)
        self.scale = nn.Parameter(torch.full((2,), _SCALE / _SCALE_RATE))  # of comment and video samples

    def start(self) -> dict[str, Tensor]:
        """The weights that stage 2 starts from, named as in `SR`."""
        state = self.state_dict()
        start = {name: value for name, value in state.items() if name.startswith(("encoder.", "text.", "comment_text"))}
        return start if self.comment_text is None else start | {"apart": torch.ones((), dtype=torch.bool)}

    @torch.no_grad()
    def straighten(self, pooled: Tensor) -> None:
        """Turn t(x) so that rows [n, d_llm] vary most along the first axes, and scale A to the length of its start.

        A takes the turn back, so that A t(x) keeps its direction. Stage 2 relies on such vectors where it starts from
        scratch, and on such lengths wherever it starts.
        """
        parts = pooled.to(self.text.weight.device).split(4096)
        for mapping, weight in ((self.maps.title, self.text.weight), (self.maps.comment, self.comment_text)):
            if mapping is None or weight is None:
                continue
            vectors = torch.cat([mapping(rows) for rows in parts])
            length = torch.cat([F.linear(rows, weight) for rows in vectors.split(4096)]).norm(dim=-1).mean().double()
            axes = torch.linalg.eigh(vectors.double().T @ vectors.double())[1].flip(1)
            mapping.turn(axes)
            weight.copy_(weight.double() @ axes * (_TEXT_LENGTH / length))

    @torch.no_grad()
    def comments_by_components(self, pooled: Tensor, equalised: float) -> None:
        """Let comments' own text MLP be the principal components of rows [n, d_llm], and their A take the first d.

        For an MLP that did not learn: it is the components of the LLM as it came, which the LoRA has moved away from,
        and A learned with it what tells comments of different videos apart, where stage 2 ranks those of one video.
        docs/training.md has what that costs.
        """
        assert self.maps.comment is not None
        assert self.comment_text is not None
        self.maps.comment.fit(pooled.to(self.comment_text.device), equalised)
        nn.init.eye_(self.comment_text)

    def _texts(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[n + 1, d] of texts [n, d_llm] as titles, and as comments; last a zero row for no text.

        Of one length, whatever A does: cosines to texts don't hold it back, and texts a hundred times as long leave the
        Transformer layers nothing to add to the profile, here and in stage 2.
        """
        titles = F.pad(_TEXT_LENGTH * F.normalize(self.text(self.maps.title(pooled)), dim=-1), (0, 0, 0, 1))
        if self.maps.comment is None or self.comment_text is None:
            return titles, titles
        own = F.linear(self.maps.comment(pooled), self.comment_text)
        return titles, F.pad(_TEXT_LENGTH * F.normalize(own, dim=-1), (0, 0, 0, 1))

    def preferences(self, batch: AlignmentBatch, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(preference, that of the other history, target), [b, d] each. `pooled` [n, d_llm] are the batch's texts."""
        titles, said = self._texts(pooled)
        device = titles.device
        at = {name: torch.from_numpy(value).to(device) for name, value in batch.columns.items()}
        several = at["comment_text"] < len(pooled)  # [b, C, 3]
        own_comments = said[at["comment_text"]].sum(2) / several.sum(2, keepdim=True).clamp(min=1)
        videos = Side(
            torch.zeros_like(titles[at["video_title"]]),  # no ids in this stage
            titles[at["video_title"]],
            said[at["video_comment"]],
            at["video_title_present"],
            at["video_at"],
        )
        comments = Side(
            torch.zeros_like(own_comments),
            titles[at["comment_title"]],
            own_comments,
            at["comment_title_present"],
            at["comment_at"],
        )
        video_states, comment_states = self.encoder.states(videos, comments)
        query = titles[at["query"]]
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
        return own, other, torch.where(is_video, titles[at["target"]], said[at["target"]])

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
