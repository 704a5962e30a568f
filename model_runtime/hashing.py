"""Texts as hashed features: what the student text encoder reads, in the trainer and in serving alike.

A text's features are its words (as written, and in lower case), pairs of neighbouring words, and pieces of 3 and 4
characters of words; each is hashed to one of 2^bits buckets. In scripts that put no space between words (Chinese,
Japanese) a character is a word. Everything is integer arithmetic over one array of code points for a whole batch, so it
gives the same on every machine, and costs microseconds a text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Part of the name of a trained student: raise it with any change of what a text's features are.
FEATURES_VERSION = 1
#: Of a longer text only the beginning is read, so that nobody's text can cost more than this.
MAX_CHARACTERS = 2000

_SPACE, _LETTER, _ALONE = 0, 1, 2
#: code points that are words of their own: CJK, kana, bopomofo, and symbols outside of ASCII
_ALONE_RANGES = (
    (0x2010, 0x2060),  # general punctuation
    (0x20A0, 0x2BFF),  # currency, arrows, mathematics, symbols
    (0x2E80, 0xA4D0),  # CJK with its punctuation, kana, bopomofo, Yi
    (0xF900, 0xFB00),  # CJK compatibility
    (0x1F000, 0x1FB00),  # emoji
    (0x20000, 0x32000),  # CJK extensions
)
#: an odd factor, so that it has an inverse modulo 2^64
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)

_Hashes = NDArray[np.uint64]
_Places = NDArray[np.intp]


class Features(NamedTuple):
    """Buckets of n texts, one after the other: those of text i are `buckets[starts[i]:starts[i + 1]]`."""

    buckets: NDArray[np.int32]  # [total]
    starts: NDArray[np.int64]  # [n + 1]


def features(texts: Sequence[str], bits: int) -> Features:
    """The features of each text, as buckets in 0..2^bits - 1. A text without any character but spaces has none."""
    if not texts:
        return Features(np.zeros(0, np.int32), np.zeros(1, np.int64))
    joined = "\0" + "\0".join(map(_plain, texts)) + "\0"
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kind, lower = _tables()
    classes, lowered = kind[codes], lower[codes]
    ends = np.flatnonzero(codes == 0)  # text i lies between ends[i] and ends[i + 1]

    first, last = _words(classes)
    spell, fold = _Spelling(codes), _Spelling(lowered)
    small = fold.hashes(first, last)
    parts = [
        (first, _seeded(spell.hashes(first, last), 1)),
        (first, _seeded(small, 2)),
        _pairs(first, last, small, codes),
        *((at, _seeded(fold.hashes(at, at + n), n)) for n in (3, 4) for at in (_pieces(classes, codes, n),)),
    ]
    places = np.concatenate([place for place, _ in parts])
    hashes = np.concatenate([hashed for _, hashed in parts])
    text = np.searchsorted(ends, places, side="right") - 1
    order = np.argsort(text, kind="stable")
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.bincount(text, minlength=len(texts)), out=starts[1:])
    return Features((_mix(hashes[order]) >> np.uint64(64 - bits)).astype(np.int32), starts)


def _plain(text: str) -> str:
    """Compatible forms as one (full-width letters, ligatures), and a single space around and between words."""
    text = text[:MAX_CHARACTERS].replace("\0", " ")
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return f" {' '.join(text.split())} "


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """For every code point its class, and its lower case where that is a single one."""
    kind = np.full(0x110000, _LETTER, np.uint8)
    for first, last in _ALONE_RANGES:
        kind[first:last] = _ALONE
    lower = np.arange(0x110000, dtype=np.uint32)
    for code in range(0x20000):
        character = chr(code)
        if code < 0x80 and not character.isalnum() and character != "_":
            kind[code] = _ALONE
        if character.isspace() or code < 0x20:
            kind[code] = _SPACE
        if not 0xD800 <= code < 0xE000 and len(character.lower()) == 1:
            lower[code] = ord(character.lower())
    return kind, lower


def _words(classes: NDArray[np.uint8]) -> tuple[_Places, _Places]:
    """Where words begin and end: runs of letters, and every character that is a word of its own."""
    letter, alone = classes == _LETTER, classes == _ALONE
    begins, ends = alone.copy(), alone.copy()
    begins[1:] |= letter[1:] & ~letter[:-1]
    ends[:-1] |= letter[:-1] & ~letter[1:]
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


def _pieces(classes: NDArray[np.uint8], codes: NDArray[np.uint32], n: int) -> _Places:
    """Where pieces of n characters begin: within one text, with a space at most at their two ends."""
    space = classes == _SPACE
    good = np.ones(len(codes) - n + 1, bool)
    for k in range(n):
        bad = space if 0 < k < n - 1 else codes == 0
        good &= ~bad[k : len(codes) - n + 1 + k]
    return np.flatnonzero(good)


def _pairs(first: _Places, last: _Places, hashes: _Hashes, codes: NDArray[np.uint32]) -> tuple[_Places, _Hashes]:
    """Places and hashes of neighbouring words of one text."""
    text = np.searchsorted(np.flatnonzero(codes == 0), first)
    same = text[1:] == text[:-1]
    with np.errstate(over="ignore"):
        both = _mix(hashes[:-1]) * np.uint64(3) + hashes[1:]
    return first[:-1][same], _seeded(both[same], 5)


class _Spelling:
    """Hashes of any stretches of an array of code points, from one running sum."""

    def __init__(self, codes: NDArray[np.uint32]) -> None:
        with np.errstate(over="ignore"):
            powers = np.full(len(codes) + 1, _FACTOR, np.uint64)
            inverses = np.full(len(codes) + 1, _INVERSE, np.uint64)
            powers[0] = inverses[0] = 1
            self._inverses = np.cumprod(inverses)
            self._sums = np.zeros(len(codes) + 1, np.uint64)
            np.cumsum(_mix(codes.astype(np.uint64)) * np.cumprod(powers)[:-1], out=self._sums[1:])

    def hashes(self, first: _Places, last: _Places) -> _Hashes:
        """One per stretch `first[i]:last[i]`, the same wherever the stretch stands."""
        with np.errstate(over="ignore"):
            return (self._sums[last] - self._sums[first]) * self._inverses[first]


def _seeded(hashes: _Hashes, seed: int) -> _Hashes:
    """Tell features of different kinds apart."""
    with np.errstate(over="ignore"):
        return hashes + np.uint64((seed * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)


def _mix(values: _Hashes) -> _Hashes:
    """Every bit depends on every bit (the finaliser of SplitMix64; Steele, Lea & Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
