"""Keys of a configuration that nothing reads are mistakes."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def check_keys(content: Any, kind: Any, where: str = "") -> None:
    """Dataclasses decode without a word about keys they do not have: a typing error would change nothing.

    Args:
        kind: the dataclass that `content` is decoded as; those within it too.
        where: what stands before the key in the message.

    Raises:
        ValueError: an unknown key, named, with those that are known.
    """
    if not isinstance(content, dict):
        return
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"unknown key {where}{key}; known: {', '.join(sorted(known))}")
        if is_dataclass(hints[key]):
            check_keys(value, hints[key], f"{where}{key}.")
