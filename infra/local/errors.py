"""The one exception of the local stack."""

from __future__ import annotations


class StackError(RuntimeError):
    """The local stack can't do what was asked. The message is written for the person at the terminal."""
