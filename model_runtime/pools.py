"""Memory for sessions: one preallocated array per thing that is kept, a slot of it per user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDES = "video", "comment"


class Pools:
    """Slots for as many users as fit into a budget. Memory is taken from the system when a slot is first used."""

    def __init__(self, window: int, dim: int, layers: int, heads: int, budget_bytes: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for side in _SIDES:
            shapes |= {f"{side}_{layer}": (window, dim) for layer in range(layers)}
            shapes |= {f"{side}_state": (window, dim), f"{side}_mean": (window, dim), f"{side}_log": (heads, window)}
        shapes |= {"comment_cross": (window, dim), "pooled": (2 * dim,), "pooled_log": (1,)}
        shapes |= dict.fromkeys(("video_recent", "comment_recent", "video_preference"), (dim,))
        kinds = "video", "comment_video", "comment"
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.slot_bytes = 4 * (sum(sizes) + len(kinds) * window)
        self.slots = budget_bytes // self.slot_bytes
        #: all of it, [slots, floats]: what belongs to a user lies together; and where its parts begin, the end included
        # Zeros, which are pages that nobody has touched yet: what is beyond a history is masked, but must be finite.
        self.memory = np.zeros((self.slots, sum(sizes)), np.float32)
        self.starts = np.concatenate(([0], np.cumsum(sizes)))
        #: its parts by name, [slots, ...], as views
        self.fields = {
            name: self.memory[:, begin : begin + size].reshape(self.slots, *shape)
            for (name, shape), begin, size in zip(shapes.items(), self.starts.tolist(), sizes, strict=False)
        }
        #: rows of the catalog that the histories were encoded from; -1 beyond their ends and for what is not known
        self.all_rows = np.zeros((self.slots, len(kinds), window), np.int32)
        self.rows = {kind: self.all_rows[:, number] for number, kind in enumerate(kinds)}

    def read(self, name: str, slots: NDArray[np.intp], widths: Mapping[str, int]) -> NDArray[np.float32]:
        """A field of some slots, [B, ...], as far as the side's history reaches (`widths`)."""
        field = self.fields[name]
        if field.ndim == 3:
            width = widths[name.partition("_")[0]]
            field = field[:, :, :width] if name.endswith("_log") else field[:, :width]
        if len(slots) == 1:  # no copy where the part is in one piece
            return np.ascontiguousarray(field[slots[0] : slots[0] + 1])
        return np.ascontiguousarray(field[slots])

    def keep(self, slots: Sequence[int], results: Mapping[str, NDArray[np.float32]]) -> None:
        """Everything about some users anew, as the graph `fill` gives it."""
        for name, field in self.fields.items():
            value = results[name]
            if name.endswith("_log") and value.ndim == 3:
                field[slots, :, : value.shape[2]] = value
            elif value.ndim == 3:
                field[slots, : value.shape[1]] = value
            else:
                field[slots] = value

    def keep_rows(self, slots: Sequence[int], rows: Mapping[str, NDArray[np.intp]]) -> None:
        """Rows [B, L] of the histories, -1 where there are none."""
        for name, value in rows.items():
            pool = self.rows[name]
            pool[slots] = -1
            pool[slots, : value.shape[1]] = value

    def append(self, side: str, slots: NDArray[np.intp], at: NDArray[np.intp], results: Mapping[str, Any]) -> None:
        """One more position of `side`, at `at` [B], and what it changed elsewhere, as a step's graph gives it."""
        for name, value in results.items():
            if name.startswith("new_"):
                field = self.fields[f"{side}_{name[4:]}"]
                if name == "new_log":
                    field[slots, :, at] = value
                else:
                    field[slots, at] = value
            elif name.startswith("moved_"):
                field = self.fields[name[6:]]
                if value.ndim < 3:
                    field[slots] = value
                elif name.endswith("_log"):
                    field[slots, :, : value.shape[2]] = value
                else:
                    field[slots, : value.shape[1]] = value
        self.fields["video_preference"][slots] = results["video_preference"]
