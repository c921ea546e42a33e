"""Text: a string that several people edit at once.

    self.body.splice(at, delete, insert, base=position_the_client_saw)

Every splice is retained as (document index, at, deleted, inserted) until there are too many. An edit that says at which
document index it was made is transformed over the splices after that index; without `base` the offsets mean the text as it
is. A client has one edit of a text in flight and merges what is typed meanwhile into the next: its own unacknowledged edits
are not told apart from those of others.

The characters are kept in chunks, so a splice costs the same in a page and in a book; a cursor remembers where the last
splice was, because the next one is usually near.

Invariant: the chunks joined are the text, no chunk is longer than CHUNK_MAX, and none is empty unless it is the only one.
`_floor` is the earliest document index at which an edit may have been made. Offsets are code points.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from cluster.documents.state.forms import Schema, StateType, check_encodable, expected
from cluster.documents.state.journal import SPLICE, Journal
from cluster.documents.state.node import Node
from cluster.documents.state.refusals import StaleEdit, StaleHandle
from cluster.documents.state.splices import Splice, edit_of, rebase

CHUNK_MAX = 8192
CHUNK_SIZE = 4096
CHUNK_MIN = 512
CHARGE_SHIFT = 6
"""One unit of work is charged for so many code points (as a power of two)."""
PAIR_CHARGE = 4
"""Work units of carrying one splice of an edit over one retained splice."""
SPLICE_SIZE = 16
"""Approximate bytes of one retained splice."""

Retained = tuple[int, int, int, int]
"""(document index, at, deleted, inserted)."""


class Text(Node):
    """A string with splices. `str(text)` reads it; comparisons are with str or Text."""

    __slots__ = ("_chunks", "_cursor", "_cursor_start", "_floor", "_joined", "_length", "_retained")

    def __init__(self, text: str = "") -> None:
        """A free text. Raises TypeError or ValueError (a lone surrogate)."""
        _check(text)
        self._lifetime = None
        self._parent = None
        self._slot = None
        self._fill(text)
        self._floor = 0
        self._retained: deque[Retained] = deque()

    def _fill(self, text: str) -> None:
        self._chunks = _split(text)
        self._length = len(text)
        self._joined: str | None = text
        self._cursor = 0
        self._cursor_start = 0

    # reading

    def __str__(self) -> str:
        self._check_live()
        self._charge(self._length >> CHARGE_SHIFT)  # also when it is joined already: caches differ between replicas
        return self._content()

    def _content(self) -> str:
        if self._joined is None:
            self._joined = "".join(self._chunks)
        return self._joined

    def __len__(self) -> int:
        self._check_live()
        return self._length

    def __bool__(self) -> bool:
        return self._length > 0

    def __getitem__(self, index: int | slice) -> str:
        return str(self)[index]

    def __contains__(self, part: str) -> bool:
        return part in str(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Text | str):
            return str(self) == str(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Text({str(self)!r})"

    # writing

    def splice(self, at: int, delete: int = 0, insert: str = "", *, base: int | None = None) -> int:
        """Delete `delete` code points at `at` and insert `insert` there. Returns where the inserted text begins.

        base: the document index of the text that the offsets are of; None for the text as it is now.
        Raises IndexError when the offsets are outside that text, ValueError when base is in the future, StaleEdit (a refusal
        with the current text) when splices after base are no longer retained. Nothing is changed then.
        """
        journal = self._writing()
        _check_offsets(at, delete)
        _check(insert)
        if base is None or journal is None:
            self._check_range(at, delete, self._length)
            self._write(at, delete, insert, journal)
            return at
        later, length = self._later(base, journal)
        self._check_range(at, delete, length)
        edit = edit_of((at, delete, len(insert)))
        for earlier in later:
            edit.over(earlier)
        for start, count, inserts in edit.splices():
            self._write(start, count, insert if inserts else "", journal)
        return edit.point

    def edit(self, splices: Iterable[tuple[int, int, str]], *, base: int) -> None:
        """Apply splices (at, delete, insert) that were made one after the other, the first on the text at index `base`.

        Raises what `splice` raises; nothing is changed then.
        """
        journal = self._writing()
        own = [(at, delete, insert) for at, delete, insert in splices]
        if journal is None:
            raise StaleHandle("only a text in a document has earlier positions")
        later, length = self._later(base, journal)
        for at, delete, insert in own:
            _check_offsets(at, delete)
            _check(insert)
            self._check_range(at, delete, length)
            length += len(insert) - delete
        journal.charge_for(PAIR_CHARGE * len(own) * len(later))
        carried, _ = rebase([(at, delete, len(insert)) for at, delete, insert in own], later)
        for (_, _, insert), steps in zip(own, carried, strict=True):
            for start, count, inserts in steps:
                self._write(start, count, insert if inserts else "", journal)

    def append(self, text: str) -> None:
        """Add at the end."""
        self.splice(self._length, 0, text)

    @property
    def earliest_base(self) -> int:
        """The earliest document index that an edit may give as its base."""
        return self._floor

    def _later(self, base: int, journal: Journal) -> tuple[list[Splice], int]:
        """The splices after index `base`, in order, and how long the text was there."""
        if type(base) is not int:
            raise expected("a document index", base)
        if base > journal.index:
            raise ValueError(f"the edit is of index {base}, the document is at {journal.index}")
        if base < self._floor:
            raise StaleEdit(self._content(), journal.index)
        later: list[Splice] = []
        length = self._length
        for index, at, deleted, inserted in reversed(self._retained):
            if index <= base:
                break
            later.append((at, deleted, inserted))
            length += deleted - inserted
        journal.charge_for(len(later))
        later.reverse()
        return later, length

    @staticmethod
    def _check_range(at: int, delete: int, length: int) -> None:
        if at < 0 or delete < 0 or at + delete > length:
            raise IndexError(f"a splice of {delete} at {at} is outside the text of length {length}")

    def _write(self, at: int, delete: int, insert: str, journal: Journal | None) -> None:
        if not delete and not insert:
            return
        if journal is None:
            self._replace(at, delete, insert)
            return
        inserted = len(insert)
        journal.charge_for((delete + inserted) >> CHARGE_SHIFT)
        path = self._path()
        retained, floor = self._retained, self._floor
        before = len(retained)
        evicted: list[Retained] | None = None
        deleted = self._replace(at, delete, insert)
        retained.append((journal.index, at, delete, inserted))
        while len(retained) > journal.splices_retained_max:
            oldest = retained.popleft()
            self._floor = oldest[0]
            if evicted is None:
                evicted = []
            evicted.append(oldest)
        journal.size += inserted - delete + SPLICE_SIZE * (len(retained) - before)
        journal.log.append((SPLICE, path, None, (at, delete, insert)))
        journal.undo.append((self._undo_write, at, inserted, deleted, evicted, floor))

    def _undo_write(self, at: int, inserted: int, deleted: str, evicted: list[Retained] | None, floor: int) -> None:
        self._replace(at, inserted, deleted)
        if evicted is not None:
            self._retained.extendleft(reversed(evicted))
        self._retained.pop()
        self._floor = floor

    # the characters

    def _replace(self, at: int, delete: int, insert: str) -> str:
        """Change the characters and nothing else. Returns what was deleted."""
        self._joined = None
        self._length += len(insert) - delete
        chunks = self._chunks
        first, start = self._seek(at)
        chunk = chunks[first]
        offset = at - start
        stop = offset + delete
        size = len(chunk)
        if stop <= size:
            deleted = chunk[offset:stop]
            chunk = chunk[:offset] + insert + chunk[stop:]
            if CHUNK_MIN <= len(chunk) <= CHUNK_MAX or (len(chunks) == 1 and len(chunk) <= CHUNK_MAX):
                chunks[first] = chunk
                return deleted
            self._place(first, first + 1, chunk)
            return deleted
        last = first
        parts = [chunk[offset:]]
        rest = stop - size
        while rest:
            last += 1
            part = chunks[last]
            parts.append(part[:rest])
            tail = part[rest:]
            rest -= min(rest, len(part))
        self._place(first, last + 1, chunk[:offset] + insert + tail)
        return "".join(parts)

    def _place(self, first: int, end: int, text: str) -> None:
        """Put `text` in place of the chunks [first, end), joined with a neighbour when it is short."""
        chunks = self._chunks
        if len(text) < CHUNK_MIN:
            if end < len(chunks) and len(text) + len(chunks[end]) <= CHUNK_MAX:
                text += chunks[end]
                end += 1
            elif first > 0 and len(text) + len(chunks[first - 1]) <= CHUNK_MAX:
                first -= 1
                text = chunks[first] + text
                self._cursor = first
                self._cursor_start -= len(chunks[first])
        assert text or (first == 0 and end == len(chunks)), "an empty chunk joins its neighbour"
        chunks[first:end] = _split(text)

    def _seek(self, at: int) -> tuple[int, int]:
        """The chunk that contains offset `at`, or ends there, and where it starts."""
        chunks = self._chunks
        index, start = self._cursor, self._cursor_start
        if at < start:
            if at < start - at:
                index, start = 0, 0
            else:
                while at < start:
                    index -= 1
                    start -= len(chunks[index])
        while at > start + len(chunks[index]):
            start += len(chunks[index])
            index += 1
        self._cursor, self._cursor_start = index, start
        return index, start

    def _date(self, index: int) -> None:
        self._floor = index

    def _clone(self, depth: int = 0) -> Text:
        return Text(self._content())


def _check_offsets(at: object, delete: object) -> None:
    if type(at) is not int or type(delete) is not int:
        raise expected("offsets as int", at if type(at) is not int else delete)


def _check(text: object) -> None:
    if type(text) is not str:
        raise expected("str", text)
    if not text.isascii():
        check_encodable(text)


def _split(text: str) -> list[str]:
    if len(text) <= CHUNK_MAX:
        return [text]
    return [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]


class TextType(StateType):
    """`Text`. A str in JSON; its plain form carries the retained splices: [text, floor, [index, at, deleted, inserted]...]."""

    __slots__ = ()

    leaf = False
    exact = False

    def admit(self, value: Any, depth: int = 0) -> Text:
        if isinstance(value, Text):
            return value._clone()
        return Text(value)

    def empty(self) -> Text:
        """A free empty text."""
        return Text()

    def to_plain(self, value: Any) -> list[Any]:
        return [value._content(), value._floor, list(value._retained)]

    def from_plain(self, plain: Any) -> Text:
        if type(plain) is not list or len(plain) != 3 or type(plain[1]) is not int or type(plain[2]) is not list:
            raise expected("a text with its splices", plain)
        text = Text(plain[0])
        text._floor = plain[1]
        for retained in plain[2]:
            if type(retained) is not list or len(retained) != 4 or not all(type(part) is int for part in retained):
                raise ValueError("expected a retained splice as four integers")
            text._retained.append((retained[0], retained[1], retained[2], retained[3]))
        return text

    def plain_to_json(self, plain: Any) -> str:
        return plain[0]  # type: ignore[no-any-return]

    def from_json(self, value: Any, depth: int = 0) -> Text:
        return Text(value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string"}

    def size(self, value: Any) -> int:
        return 15 + int(value._length) + SPLICE_SIZE * len(value._retained)
