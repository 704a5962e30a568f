"""Stage 1: the SR and a language model are aligned on what the same users want next (paper, section 3.3).

    aligned = align(corpus, split, llm, store, AlignmentConfig(), "stage1")
    finetune(corpus, split, aligned.texts(...), start=aligned.heads.start())

Three things keep it affordable. They are ours:

- *Gradient cache* (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
  2021): the contrasts need the whole batch, memory holds only a few samples' activations. So each batch is read twice:
  first without gradients, for the vectors; the contrasts give each vector its gradient; then a few samples at a time
  with gradients, starting from those. This is exact, unlike a queue of old negatives, and costs one more forward pass:
  as much as gradient checkpointing, which it makes unnecessary.
- Texts in the SR's histories have the pooled vectors of the LLM before stage 1 (`live_histories` reads them anew);
  targets are always read live, with gradients.
- *Heads first* (after Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022): a step of the LLM takes
  seconds and one of the heads milliseconds. So the heads learn `L_rec` on the unchanged vectors first
  (`head_epochs`), then the map to z learns where the unchanged LLM's states lie among the SR's preferences
  (`z_samples`): from a random one, the contrast with z would pull the SR to where nothing is. And between steps of the
  LLM the heads go over its recent states again (`replay`).

Everything random depends on (seed, step) alone, so that a run that was killed goes on to the same result.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from offline_train.alignment_checkpoint import read, read_memories, write
from offline_train.alignment_config import VERSION, AlignmentConfig, Step
from offline_train.alignment_losses import Contrasts
from offline_train.alignment_model import Aligner
from offline_train.alignment_reading import Reading, micro_batches
from offline_train.alignment_samples import AlignmentBatch, Drawer
from offline_train.alignment_z import fit_z
from offline_train.corpus import Corpus, Split
from offline_train.embedding import CorpusTexts, PooledStore, Report
from offline_train.llm import LLM
from offline_train.processes import add_gradients, gather, place, total
from offline_train.sr import SRConfig


@dataclass
class Aligned:
    """What stage 1 leaves: heads, LoRA (in `llm`), and how it went."""

    heads: Aligner
    llm: LLM
    config: AlignmentConfig
    head_curve: list[float] = field(default_factory=list)  #: L_rec less its chance, per epoch of the heads alone
    curve: list[Step] = field(default_factory=list)
    z_start: float | None = None  #: the contrast with z less its chance, after `z_samples` and before the first step


@dataclass
class _Memory:
    """A batch as the heads alone can learn from it: what the LLM said of it, without gradients."""

    batch: AlignmentBatch
    pooled: Tensor
    states: Tensor


def align(
    corpus: Corpus,
    split: Split,
    llm: LLM,
    store: PooledStore,
    config: AlignmentConfig,
    folder: str | Path,
    *,
    sr: SRConfig | None = None,
    embedding: Report = lambda done, total, rate: None,
    progress: Callable[[int, int, Step | float], None] = lambda done, steps, point: None,
) -> Aligned:
    """Run stage 1, or go on with the run that `folder` holds. `llm` gets LoRA and is changed in place.

    Args:
        store: of `llm` as it is before stage 1.
        embedding: told while texts, and the prompts of `z_samples`, are read before the first step.
        progress: told (steps done, of how many, the step's losses, or L_rec - chance of an epoch of the heads alone).

    Raises:
        ValueError: `folder` holds the run of another configuration, or a batch can't be shared by the processes.
    """
    _, processes = place()
    if config.batch % processes:
        raise ValueError(f"a batch of {config.batch} can't be shared by {processes} processes; make it a multiple")
    torch.set_num_threads(config.threads)
    run = _Run(corpus, split, llm, store, config, Path(folder), sr, embedding)
    run.go(progress)
    return run.result


class _Run:
    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        llm: LLM,
        store: PooledStore,
        config: AlignmentConfig,
        folder: Path,
        sr: SRConfig | None,
        embedding: Report,
    ) -> None:
        self.config, self.folder, self.store, self.embedding = config, folder, store, embedding
        self.texts = CorpusTexts.of(corpus.log, split.valid_ms)
        #: bool [distinct]: texts that LoRA never reads for their vectors
        self.as_came = self.texts.of_comments() & config.comments_as_came
        self.drawer = Drawer(corpus, split, self.texts, config.draw, config.seed)
        rows = self.drawer.choose(config.samples)
        # A batch of another size would have another chance level: what does not fill one is left out.
        self.batches = rows[: len(rows) // config.batch * config.batch].reshape(-1, config.batch)
        if not len(self.batches):
            raise ValueError(f"{len(rows)} samples fill no batch of {config.batch}; use a smaller batch")
        head_rows = self.drawer.choose(config.head_samples or config.samples, stream=1)
        self.head_rows = head_rows[~np.isin(head_rows, self.batches)]  # so that the curves show unseen samples

        device = next(llm.parameters()).device
        torch.manual_seed(config.seed)
        window = corpus.config.window
        sr = sr or SRConfig(videos=1, window=window, dropout=config.dropout)
        self.heads = Aligner(sr, llm.dim, config.comment_map_rate is not None).to(device)
        self.key = self._key(corpus, store)
        saved = read(self.folder, self.key)
        self._pool(saved is None)
        llm.add_lora(config.lora)
        llm.compute_in_bf16_if_possible()
        if config.checkpoint_gradients:
            llm.checkpoint_gradients()
        self.llm = llm
        self.lora = llm.lora()
        self.result = Aligned(self.heads, llm, config)
        maps = self.heads.maps
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in self.heads.named_parameters() if not name.startswith("maps.")], "share": 1.0},
            {"params": list(maps.title.parameters()), "share": config.map_rate},
        ]
        if maps.comment is not None:
            groups.append({"params": list(maps.comment.parameters()), "share": config.comment_map_rate})
        self.optimizers = [
            torch.optim.AdamW([{"params": list(self.lora.values()), "share": 1.0}], weight_decay=0.0),
            torch.optim.AdamW(groups, weight_decay=0.0),
        ]
        for optimizer, rate in zip(self.optimizers, (config.learning_rate, config.head_learning_rate), strict=True):
            _set_rate(optimizer, rate)
        self.memory: list[_Memory] = []
        self.reading = Reading(llm, self.texts, config.text_tokens, config.prompt_tokens)
        if saved is not None:
            self._restore(saved)

    def go(self, progress: Callable[[int, int, Step | float], None]) -> None:
        config, steps = self.config, len(self.batches)
        self.heads.train()
        for epoch in range(len(self.result.head_curve), config.head_epochs):
            self.result.head_curve.append(self._head_epoch(epoch))
            self._save()
            progress(0, steps, self.result.head_curve[-1])
        if config.z_samples and self.result.z_start is None:
            self.result.z_start = self._start_z()
            self._save()
        for number in range(len(self.result.curve), steps):
            began = time.perf_counter()
            self._rates(number)
            point = self._step(number, began)
            self.result.curve.append(point)
            for again in range(config.replay):
                self._replay(number, again)
            if (number + 1) % config.checkpoint_steps == 0 or number + 1 == steps:
                self._save()
            progress(number + 1, steps, point)
        self.heads.eval()
        self.llm.eval()

    def _pool(self, fit: bool) -> None:
        """The unchanged LLM's vectors of all texts that any sample of this run can need."""
        wanted = np.zeros(len(self.texts.distinct), bool)
        rows = np.concatenate((self.batches.ravel(), self.head_rows))
        for row in np.unique(rows):
            wanted[self.drawer.may_show(int(row))] = True
        at = np.flatnonzero(wanted)
        self.at = np.full(len(wanted), -1)
        self.at[at] = np.arange(len(at))
        vectors = self.store.vectors([self.texts.distinct[i] for i in at], self.embedding)
        self.base = torch.from_numpy(vectors).to(next(self.heads.parameters()).device)
        if fit:
            self.heads.maps.fit(self.base[torch.from_numpy(self.texts.early[at])], self.config.equalised)

    def _local(self, rows: np.ndarray) -> np.ndarray:
        rank, processes = place()
        return np.array_split(rows, processes)[rank]

    def _base(self, batch: AlignmentBatch) -> Tensor:
        return self.base[torch.from_numpy(self.at[batch.texts])]

    def _head_epoch(self, epoch: int) -> float:
        """L_rec alone, on the unchanged LLM's vectors; mean of L_rec less its chance."""
        random = np.random.default_rng((self.config.seed, 1, epoch))
        order = self.drawer.shuffled(self.head_rows, random)
        batches = order[: len(order) // self.config.batch * self.config.batch].reshape(-1, self.config.batch)
        gains = []
        for number, rows in enumerate(batches):
            self._seed(1, epoch, number)
            batch = AlignmentBatch.of([self.drawer.draw(int(row), epoch + 1) for row in self._local(rows)])
            states = torch.zeros(len(batch.columns["kind"]), self.llm.dim, device=self.base.device)
            parts = self.heads(batch, self._base(batch), states, self.config.temperature)
            self._learn(parts.rec)
            gains.append(float(parts.rec.detach() - parts.rec_chance))
        return float(np.mean(gains)) if gains else 0.0

    def _start_z(self) -> float:
        """Read some prompts once, and fit the map to z on them; see `fit_z`."""
        config, (_, processes) = self.config, place()
        rows = np.concatenate((self.head_rows, self.batches.ravel()))[: config.z_samples]
        drawn = [self.drawer.draw(int(row)) for row in self._local(rows[: len(rows) // processes * processes])]
        prompts = [self.reading.prompt(d.prompt) for d in drawn]
        self.llm.eval()
        states = torch.zeros(len(drawn), self.llm.dim, device=self.base.device)
        began, done, tokens = time.monotonic(), 0, 0
        with torch.no_grad():
            for part in micro_batches([len(p) for p in prompts], config.micro_tokens):
                states[part] = self.llm.read([prompts[j] for j in part], [[] for _ in part])[0]
                done, tokens = done + len(part), tokens + sum(len(prompts[j]) for j in part)
                self.embedding(done, len(prompts), tokens / max(1e-9, time.monotonic() - began))
        batch = AlignmentBatch.of(drawn)
        self.heads.eval()
        gain = fit_z(self.heads, batch, self._base(batch), states, config)
        self.heads.train()
        return gain

    def _learn(self, loss: Tensor) -> None:
        self.optimizers[1].zero_grad(set_to_none=True)
        loss.backward()
        add_gradients(self.heads.parameters())
        self.optimizers[1].step()

    def _step(self, number: int, began: float) -> Step:
        """One step of everything, by the gradient cache."""
        config = self.config
        drawn = [self.drawer.draw(int(row)) for row in self._local(self.batches[number])]
        batch = AlignmentBatch.of(drawn)
        prompts = [self.reading.prompt(d.prompt) for d in drawn]
        responses = [self.reading.shown(d.target) for d in drawn]
        micro = micro_batches([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], config.micro_tokens)
        live = np.flatnonzero((batch.live | config.live_histories) & ~self.as_came[batch.texts])
        rows = [self.reading.text(int(batch.texts[i])) for i in live]
        live_micro = micro_batches([len(self.llm.opening) + len(row) for row in rows], config.micro_tokens)

        # 1. Vectors of the whole batch, without gradients.
        self.llm.train()
        states = torch.zeros(len(drawn), self.llm.dim, device=self.base.device)
        pooled = self._base(batch).clone()
        with torch.no_grad():
            for i, part in enumerate(micro):
                self._seed(2, number, i)
                states[part] = self.llm.read([prompts[j] for j in part], [responses[j] for j in part])[0]
            for i, part in enumerate(live_micro):
                self._seed(3, number, i)
                pooled[torch.from_numpy(live[part])] = self.llm.pooled([rows[j] for j in part])
        if number == 0 and self.result.z_start is None:
            self.heads.z_standard.fit(gather(states))

        # 2. The contrasts, and the gradient of each vector.
        self.memory = [*self.memory, _Memory(batch, pooled.clone(), states.clone())][-config.replay_batches :]
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._seed(4, number, 0)
        parts = self.heads(batch, pooled.requires_grad_(), states.requires_grad_(), config.temperature)
        self._objective(parts).backward()
        assert pooled.grad is not None
        states_grad = torch.zeros_like(states) if states.grad is None else states.grad

        # 3. The same again with gradients, a few samples at a time, with the same dropout.
        labels = total(torch.tensor(float(sum(map(len, responses)))))
        said = 0.0
        for i, part in enumerate(micro):
            self._seed(2, number, i)
            state, entropy = self.llm.read([prompts[j] for j in part], [responses[j] for j in part])
            (entropy / labels + (state * states_grad[part]).sum()).backward()
            said += float(entropy.detach())
        for i, part in enumerate(live_micro):
            self._seed(3, number, i)
            vectors = self.llm.pooled([rows[j] for j in part])
            (vectors * pooled.grad[torch.from_numpy(live[part])]).sum().backward()
        add_gradients([*self.lora.values(), *self.heads.parameters()])
        for optimizer in self.optimizers:
            optimizer.step()
        count = sum(map(len, (*prompts, *responses, *rows))) + len(rows) * len(self.llm.opening)
        return Step(
            step=number + 1,
            lm=float(total(torch.tensor(said)) / labels),
            rec=float(parts.rec.detach()),
            rec_chance=float(parts.rec_chance),
            behaviour=float(parts.behaviour.detach()),
            z=float(parts.z.detach()),
            z_chance=float(parts.z_chance),
            tokens=count,
            seconds=time.perf_counter() - began,
        )

    def _replay(self, number: int, again: int) -> None:
        """The heads learn once more from a batch that the LLM has read lately."""
        random = np.random.default_rng((self.config.seed, 5, number, again))
        old = self.memory[int(random.integers(len(self.memory)))]
        self._seed(5, number, again)
        self._learn(self._objective(self.heads(old.batch, old.pooled, old.states, self.config.temperature)))

    def _objective(self, parts: Contrasts) -> Tensor:
        config = self.config
        return config.rec * parts.rec + config.align * (config.behaviour * parts.behaviour + config.z * parts.z)

    def _rates(self, number: int) -> None:
        share = min(1.0, (number + 1) / max(1, math.ceil(self.config.warmup * len(self.batches))))
        for optimizer in self.optimizers:
            _set_rate(optimizer, self.config.learning_rate * share)

    def _seed(self, *where: int) -> None:
        rank, _ = place()
        torch.manual_seed(int(np.random.default_rng((self.config.seed, rank, *where)).integers(2**62)))

    def _key(self, corpus: Corpus, store: PooledStore) -> str:
        """What a checkpoint must agree on to be gone on with."""
        log = corpus.log
        parts = (
            VERSION,
            asdict(self.config),
            store.fingerprint,
            asdict(self.heads.config),
            log.digest.tobytes(),
            self.texts.distinct,
        )
        return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()

    def _save(self) -> None:
        state = {
            "key": self.key,
            "heads": self.heads.state_dict(),
            "lora": {name: value.detach() for name, value in self.lora.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "head_curve": self.result.head_curve,
            "z_start": self.result.z_start,
            "curve": [asdict(point) for point in self.result.curve],
        }
        write(self.folder, len(self.result.curve), state, [(m.pooled, m.states) for m in self.memory])

    def _restore(self, saved: dict[str, Any]) -> None:
        self.heads.load_state_dict(saved["heads"])
        self.llm.load_lora(saved["lora"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.result.head_curve, self.result.z_start = list(saved["head_curve"]), saved["z_start"]
        self.result.curve = [Step(**point) for point in saved["curve"]]
        done = len(self.result.curve)
        rows = read_memories(self.folder, done, self.base.device)
        for number, (pooled, states) in zip(range(done - len(rows), done), rows, strict=True):
            drawn = [self.drawer.draw(int(row)) for row in self._local(self.batches[number])]
            self.memory.append(_Memory(AlignmentBatch.of(drawn), pooled, states))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
