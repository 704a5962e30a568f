"""What the catalog tells after training: new titles and comments get a vector, changed ones another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.ids import text_digest
from model_runtime.index import Index
from model_runtime.text import Student


class VideoEntry(Struct, frozen=True, gc=False):
    """A video as the catalog has it now. `text` is its title with its tags, None: it was removed.

    `created_ms`: Unix ms, 0 unknown.
    """

    id: str
    text: str | None
    created_ms: int = 0


class CommentEntry(Struct, frozen=True, gc=False):
    """A comment as the catalog has it now. `text` None: it was removed."""

    id: str
    text: str | None
    video_id: str = ""
    likes: int = 0
    created_ms: int = 0


Entry = VideoEntry | CommentEntry


class Arrivals:
    """Keeps candidates up to date with a catalog, entry by entry, in its order.

    A text that training knew keeps the trainer's vector, also when it comes back after another; any other text gets the
    student's. For one thread; another may be scoring.
    """

    def __init__(self, candidates: Candidates) -> None:
        bundle = candidates.bundle
        self.candidates = candidates
        self._students = bundle.student, bundle.comment_student or bundle.student
        self._videos = _Texts(bundle.video_text_digests, candidates.video_index, bundle.video_title_vectors)
        self._comments = _Texts(bundle.comment_text_digests, candidates.comments.index, bundle.comment_vectors)
        self.encoded = 0  #: texts that got a vector of the student

    def apply(self, entries: Sequence[Entry]) -> list[Entry]:
        """Take in some entries; texts are encoded together. Returns those that can't be recommended: training did not
        know them, and the bundle has no student."""
        titles, comments = (_Encoding(student) for student in self._students)
        vectors: list[int | NDArray[np.float32] | None] = []  # for each entry: place among those, vector, or no change
        for entry in entries:
            texts, encoding = (self._videos, titles) if isinstance(entry, VideoEntry) else (self._comments, comments)
            if entry.text is None or encoding.student is None or not texts.differs(entry.id, entry.text):
                vectors.append(None)
            elif (known := texts.trained(entry.id)) is not None:
                vectors.append(known)
            else:
                vectors.append(encoding.add(entry.text))
        encoded = titles.vectors(), comments.vectors()
        self.encoded += len(encoded[0]) + len(encoded[1])
        unknown = []
        for entry, vector in zip(entries, vectors, strict=True):
            if isinstance(vector, int):
                vector = encoded[not isinstance(entry, VideoEntry)][vector]
            if not (self._video(entry, vector) if isinstance(entry, VideoEntry) else self._comment(entry, vector)):
                unknown.append(entry)
        return unknown

    def _video(self, entry: VideoEntry, vector: NDArray[np.float32] | None) -> bool:
        if vector is None:
            return self.candidates.set_video(entry.id, entry.text is not None) or entry.text is None
        if entry.created_ms and self.candidates.video_index[entry.id] < 0:
            self.candidates.created_ms[entry.id] = entry.created_ms
        self.candidates.add_video(entry.id, vector)
        return True

    def _comment(self, entry: CommentEntry, vector: NDArray[np.float32] | None) -> bool:
        if vector is None:
            if entry.text is not None:
                self.candidates.comments.rate(entry.id, entry.likes, entry.created_ms)
            return self.candidates.set_comment(entry.id, entry.text is not None) or entry.text is None
        self.candidates.add_comment(entry.id, entry.video_id, vector, entry.likes, entry.created_ms)
        return True


class _Encoding:
    """Texts that one student is to encode together, each once."""

    def __init__(self, student: Student | None) -> None:
        self.student = student
        self._new: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Its place among the vectors."""
        return self._new.setdefault(text, len(self._new))

    def vectors(self) -> NDArray[np.float32]:
        """[texts, d]."""
        if self.student is None or not self._new:
            return np.zeros((0, 0), np.float32)
        return self.student.encode(list(self._new))


class _Texts:
    """Which text each vector was made of."""

    def __init__(self, digests: NDArray[np.uint32] | None, index: Index, vectors: NDArray[np.float32]) -> None:
        self._trained = digests  # [n] of the bundle's rows; None: an older bundle, whose texts are taken as unchanged
        self._index = index
        self._vectors = vectors
        self._late: dict[str, int] = {}  # digests of texts that came later
        self._rows: dict[str, int] = {}  # the bundle's rows of the items among those

    def differs(self, id_: str, text: str) -> bool:
        """Whether this is another text than the item's last one, which it is from now on."""
        digest = text_digest(text)
        last = self._late.get(id_)
        if last is None:
            row = self._index[id_]
            if row >= 0:
                if self._trained is None or int(self._trained[row]) == digest:
                    return False
                self._rows[id_] = row
        if last == digest:
            return False
        self._late[id_] = digest
        return True

    def trained(self, id_: str) -> NDArray[np.float32] | None:
        """The trainer's vector of the item, if its text of now is the one that training knew."""
        row = self._rows.get(id_)
        if row is None or self._trained is None or int(self._trained[row]) != self._late[id_]:
            return None
        vector: NDArray[np.float32] = self._vectors[row]
        return vector
