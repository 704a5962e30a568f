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
        #: by side, what has one vector per position, [window, d]: layer inputs, states, means of values
        self._by_position = {
            side: [*(f"{side}_{layer}" for layer in range(layers)), f"{side}_state", f"{side}_mean"] for side in _SIDES
        }
        self._by_position["comment"].append("comment_cross")
        shapes: dict[str, tuple[int, ...]] = {
            name: (window, dim) for names in self._by_position.values() for name in names
        }
        shapes |= {f"{side}_log": (heads, window) for side in _SIDES}
        shapes |= {"pooled": (2 * dim,), "pooled_log": (1,)}
        shapes |= dict.fromkeys(("video_recent", "comment_recent", "video_preference"), (dim,))
        rows = "video", "comment_video", "comment"
        self.slot_bytes = 4 * (sum(int(np.prod(shape)) for shape in shapes.values()) + len(rows) * window)
        self.slots = budget_bytes // self.slot_bytes
        # Zeros, which are pages that nobody has touched yet: what is beyond a history is masked, but must be finite.
        self.fields = {name: np.zeros((self.slots, *shape), np.float32) for name, shape in shapes.items()}
        #: rows of the catalog that the histories were encoded from; -1 beyond their ends and for what is not known
        self.rows = {name: np.zeros((self.slots, window), np.int32) for name in rows}

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
