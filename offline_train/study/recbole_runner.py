"""Train RecBole's SASRec on exported sequences and write what it scores with. Runs in RecBole's own environment.

    python recbole_runner.py TASK.npz OUT.npz '{"seed": 0, "epochs": 300}'

It imports nothing of this project, which needs other versions of NumPy. TASK.npz holds, for the parts `train` and
`valid`, `<part>_items` and `<part>_offsets` (histories, oldest first) and `<part>_target`; for `test` no target; and
`count`, how many items there are. OUT.npz gets `users` [n, d] of the test histories (zeros for an empty one), `items`
[count, d], and `known` [count], which of them training had; scores are dot products, as in the model's own
`full_sort_predict`, to which they are compared. A line of JSON on standard output tells of every epoch. A
training that was killed goes on from its last whole epoch (the folder `checkpoints` beside OUT.npz).

The model, its defaults, its data loader, its trainer and its early stopping are RecBole's (Zhao et al., CIKM 2021).
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

LENGTH = 50
NAME = "sequences"
#: everything that is not RecBole's default; d = 64, 2 layers, 2 heads, dropout 0.5 and cross-entropy are
SETTINGS: dict[str, Any] = {
    "benchmark_filename": ["train", "valid", "test"],
    "alias_of_item_id": ["item_id_list"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    "train_neg_sample_args": None,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "valid_metric": "NDCG@10",
    "metrics": ["NDCG", "Hit"],
    "topk": [10],
    "use_gpu": False,
    "gpu_id": "",
    "show_progress": False,
    "state": "ERROR",
}
_CHUNK = 512
#: what RecBole's trainer knows of the epochs behind it
_STATE = ("epoch", "lines", "cur_step", "best_valid_score", "best_valid_result", "saved_model_file")


def main(task_path: str, out_path: str, settings: str) -> None:
    """Train, encode the test histories, write."""
    given = json.loads(settings)
    torch.set_num_threads(int(given.pop("threads", 1)))
    torch.load = _trusting(torch.load)
    with np.load(task_path) as arrays:
        task = {name: arrays[name] for name in arrays.files}
    kept = Path(out_path).with_name("checkpoints")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / NAME
        folder.mkdir()
        for part in ("train", "valid", "test"):
            _write(task, part, folder / f"{NAME}.{part}.inter")
        config = Config(
            model="SASRec",
            dataset=NAME,
            config_dict=SETTINGS | given | {"data_path": scratch, "checkpoint_dir": str(kept)},
        )
        logging.getLogger().setLevel(logging.ERROR)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, _ = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = SASRec(config, train.dataset)
        trainer = _Telling(config, model)
        trainer.go_on(train)
        trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
        best = torch.load(trainer.saved_model_file)
        model.load_state_dict(best["state_dict"])
    row = _rows(dataset, int(task["count"]))
    users, items = _encode(model, task, row)
    with open(out_path, "wb") as file:
        np.savez(file, users=users, items=items, known=row > 0)
    print(json.dumps({"best_epoch": best["epoch"] + 1, "best": float(trainer.best_valid_score)}), flush=True)


class _Telling(Trainer):
    """RecBole's trainer, which says how long each epoch took and what it reached, and goes on after a kill.

    RecBole keeps its best epoch only; what stands before each epoch is kept here as well, random generators included,
    so that a training that was killed ends like one that was not.
    """

    epoch = 0
    lines: tuple[str, ...] = ()

    def _train_epoch(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        self._keep(train_data)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = super()._train_epoch(train_data, *args, **kwargs)
        self.told = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        return loss

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        score, result = super()._valid_epoch(*args, **kwargs)
        self.epoch += 1
        line = json.dumps({"epoch": self.epoch, "valid": {k: float(v) for k, v in result.items()}} | self.told)
        self.lines = (*self.lines, line)
        print(line, flush=True)
        return score, result

    def _keep(self, train_data: Any) -> None:
        whole, part = self._last, self._last.with_suffix(".part")
        state = {
            **{name: getattr(self, name) for name in _STATE},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            "order": train_data.generator.get_state(),
        }
        torch.save(state, part)
        part.replace(whole)

    def go_on(self, train_data: Any) -> None:
        """From where a training of the same folder was killed, if one was; its epochs are told again."""
        if not self._last.exists():
            return
        state = torch.load(self._last)
        # The folder may have been moved since.
        state["saved_model_file"] = str(self._last.with_name(Path(state["saved_model_file"]).name))
        for name in _STATE:
            setattr(self, name, state[name])
        self.start_epoch = self.epoch
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        random.setstate(state["random"][0])
        np.random.set_state(state["random"][1])
        torch.set_rng_state(state["random"][2])
        train_data.generator.set_state(state["order"])
        for line in self.lines:
            print(line, flush=True)

    @property
    def _last(self) -> Path:
        return Path(self.checkpoint_dir) / "last.pt"


def _write(task: dict[str, np.ndarray], part: str, path: Path) -> None:
    """A benchmark file of RecBole's. Its test part must exist and is not used: the validation part stands in for it."""
    source = "valid" if part == "test" else part
    items, offsets, targets = (task[f"{source}_{name}"] for name in ("items", "offsets", "target"))
    with path.open("w", encoding="ascii") as file:
        file.write("user_id:token\titem_id_list:token_seq\titem_id:token\n")
        for i, target in enumerate(targets.tolist()):
            history = " ".join(map(str, items[max(offsets[i], offsets[i + 1] - LENGTH) : offsets[i + 1]].tolist()))
            file.write(f"{i}\t{history}\t{target}\n")


def _rows(dataset: Any, count: int) -> np.ndarray:
    """RecBole's row of each item, [count]; 0, its padding, for what no file names."""
    row = np.zeros(count, np.int64)
    for token, at in dataset.field2token_id["item_id"].items():
        if token != "[PAD]":
            row[int(token)] = at
    return row


@torch.no_grad()
def _encode(model: SASRec, task: dict[str, np.ndarray], row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the test histories, [n, d], and of all items, [count, d]."""
    model.eval()
    table = model.item_embedding.weight
    histories = []
    for first, last in zip(task["test_offsets"][:-1], task["test_offsets"][1:], strict=True):
        history = row[task["test_items"][first:last]]
        histories.append(history[history > 0][-LENGTH:])
    users = np.zeros((len(histories), table.shape[1]), np.float32)
    there = [i for i, history in enumerate(histories) if len(history)]
    for first in range(0, len(there), _CHUNK):
        chosen = there[first : first + _CHUNK]
        length = torch.tensor([len(histories[i]) for i in chosen])
        padded = torch.zeros(len(chosen), LENGTH, dtype=torch.int64)
        for place, i in enumerate(chosen):
            padded[place, : length[place]] = torch.from_numpy(histories[i])
        vectors = model.forward(padded, length)
        users[chosen] = vectors.numpy()
        if first == 0:
            asked = Interaction({model.ITEM_SEQ: padded, model.ITEM_SEQ_LEN: length})
            torch.testing.assert_close(vectors @ table.T, model.full_sort_predict(asked))
    return users, table.numpy()[row]


def _trusting(load: Any) -> Any:
    """torch.load as RecBole expects it: its checkpoints, written by this very process, hold more than weights."""

    def loaded(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{"weights_only": False, **kwargs})

    return loaded


if __name__ == "__main__":
    main(*sys.argv[1:])
