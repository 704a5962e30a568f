"""What stage 1 is told, and what it tells of each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from offline_train.alignment_losses import TEMPERATURE
from offline_train.alignment_maps import EQUALISED
from offline_train.alignment_samples import DrawConfig
from offline_train.llm import LoraSettings

#: to be raised when the same settings make other heads, or the same heads other vectors: what older code left behind is
#: not gone on with then
VERSION = 7


@dataclass(frozen=True)
class AlignmentConfig:
    """The paper's values, but for those marked ours."""

    draw: DrawConfig = field(default_factory=DrawConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    samples: int = 0  #: how many training samples, 0: all of them, once
    batch: int = 128  #: of all processes together
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-4  #: ours: while the heads learn alone; beside the LLM it is `learning_rate`
    map_rate: float = 1.0  #: ours: at which part of these rates the text MLP learns; 0: it stays as it starts
    #: ours: the power of its deviation by which a component of the LLM's is divided where the text MLP begins, 0: as it
    #: is, 1: whitened; a titles' MLP of their own begins with 0. `lsvcr evaluate reading` compares them
    equalised: Annotated[float, Meta(ge=0, le=1)] = EQUALISED
    #: ours: comments have a text MLP and an A of their own, which learns at this part; None: they share the titles'; 0:
    #: it stays the LLM's principal components, found anew after stage 1, and so does A
    comment_map_rate: float | None = None
    #: ours: what comments say is read by the LLM as it came, and nothing of their vectors goes to LoRA
    comments_as_came: bool = False
    warmup: float = 0.03
    temperature: float = TEMPERATURE
    rec: float = 1.0
    align: float = 0.5
    behaviour: float = 1.0  #: of the behaviour contrast in L_align; 0 in an ablation
    z: float = 1.0  #: of the InfoNCE with z in L_align; 0 in an ablation
    dropout: float = 0.3  #: the SR's
    text_tokens: int = 64  #: of a text, the first so many are read
    prompt_tokens: int = 0  #: ours: of a text in a prompt and in the response; 0: as many as `text_tokens`
    micro_tokens: int = 1024  #: ours: tokens that are read at once with gradients
    live_histories: bool = False  #: ours
    head_samples: int = 0  #: ours: for `head_epochs`; 0: as many as `samples`
    head_epochs: int = 0  #: ours
    z_samples: int = 0  #: ours: prompts that are read once, without gradients, to begin the map to z ...
    z_steps: int = 200  #: ... in so many steps
    replay: int = 0  #: ours: steps of the heads after each step of the LLM ...
    replay_batches: int = 8  #: ... over the last so many batches
    checkpoint_gradients: bool = False
    compile: bool = False  #: ours: the LLM's layers, by a C++ compiler: faster after a few minutes, but for last digits
    checkpoint_steps: int = 5
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Step:
    """One point of the curves: losses of a batch before it was learned from, in nats. LLM-free steps have no `lm`."""

    step: int
    lm: float
    rec: float
    rec_chance: float
    behaviour: float
    z: float
    z_chance: float
    tokens: int
    seconds: float
