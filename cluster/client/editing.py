"""One author's side of a text that several people edit at once. Pure: no socket, no clock.

What the author types is shown at once and is on its way to the document later. At any time

    local text = the document's text at `base`, then `sent`, then `waiting`

where `sent` is the one edit that is on its way and `waiting` what was typed meanwhile. The document puts edits into one order
and carries each over what came before it; here others' splices are carried over the author's own, by the same rules, so both
arrive at one text (Nichols et al., UIST 1995).

Invariant: when nothing is sent or waiting, the local text is the document's text at `base`, whatever happened before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cluster.documents.state.splices import Splice as Shape
from cluster.documents.state.splices import rebase

TYPED_MAX: Final = 256
"""Splices of one edit; more wait for the next one."""

SEARCHED_MAX: Final = 256
"""Splices of one step of the document among which the own edit is looked for; in a longer one all count as others'."""

Splice = tuple[int, int, str]
"""(at, how many are deleted, what is inserted); offsets are code points."""


def applied(text: str, splices: Iterable[Splice]) -> str:
    """The text after splices, each on what the one before it left."""
    for at, delete, insert in splices:
        text = text[:at] + insert + text[at + delete :]
    return text


def difference(old: str, new: str) -> list[Splice]:
    """One splice that makes `new` of `old`, or none."""
    if old == new:
        return []
    shorter = min(len(old), len(new))
    head = 0
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return [(head, len(old) - head - tail, new[head : len(new) - tail])]


class TextEditing:
    """The text as its author sees it, and what of it the document does not have yet.

    text: what the author sees. base: the document index of the last state that was taken in.
    """

    __slots__ = ("_answered", "_arrived", "_document", "_earliest_base", "_on_its_way", "_sent", "_waiting", "base", "text")

    def __init__(self, text: str, base: int) -> None:
        self.text = text
        self.base = base
        self._document = text
        self._on_its_way = False
        self._sent: list[Splice] = []
        self._waiting: list[Splice] = []
        self._answered: int | None = None
        self._earliest_base = 0
        self._arrived: deque[tuple[int, list[Splice] | None, str]] = deque()

    @property
    def settled(self) -> bool:
        """Whether the document has everything that was typed here."""
        return not self._on_its_way and not self._waiting

    def splice(self, at: int, delete: int, insert: str) -> None:
        """The author types. Raises IndexError when the place is outside the text; nothing is changed then."""
        if at < 0 or delete < 0 or at + delete > len(self.text):
            raise IndexError(f"a splice of {delete} at {at} is outside the text of length {len(self.text)}")
        if not delete and not insert:
            return
        self.text = applied(self.text, [(at, delete, insert)])
        if self._waiting and not delete:
            last_at, last_delete, last_insert = self._waiting[-1]
            if last_at + len(last_insert) == at:  # goes on typing where the last splice ended
                self._waiting[-1] = (last_at, last_delete, last_insert + insert)
                return
        self._waiting.append((at, delete, insert))

    def take(self) -> list[Splice]:
        """What to send now as one edit of the text at `base`; empty while an edit is on its way or nothing was typed.

        It is not sent again by itself: exactly one of `answered` and `refused` follows.
        """
        if self._on_its_way or not self._waiting or self.base < self._earliest_base:
            return []
        self._on_its_way = True
        self._sent, self._waiting = self._waiting[:TYPED_MAX], self._waiting[TYPED_MAX:]
        return self._sent

    def answered(self, index: int) -> list[Splice]:
        """The edit on its way is part of the document at `index`. Returns others' splices as `changed` does."""
        assert self._on_its_way, "what was not sent is not answered"
        assert self._answered is None, "an edit is answered once"
        self._answered = index
        return self._take_in()

    def refused(self, earliest_base: int) -> list[Splice]:
        """The edit on its way did not happen because its base was too old: it waits again, before what was typed since, for
        the document's state at `earliest_base` or later. Returns others' splices as `changed` does."""
        assert self._on_its_way, "what was not sent is not answered"
        assert self._answered is None, "an edit is answered once"
        self._earliest_base = earliest_base
        self._waiting, self._sent, self._on_its_way = self._sent + self._waiting, [], False
        return self._take_in()

    def changed(self, index: int, text: str, splices: list[Splice] | None) -> list[Splice]:
        """The document went on: its text at `index`, and how it came there, if that is known.

        Returns what this changed in the author's text, to carry cursors and selections over; empty while it can not be told
        from the edit on its way, whose answer then brings it.
        """
        self._arrived.append((index, splices, text))
        return self._take_in()

    def _take_in(self) -> list[Splice]:
        """Work off what arrived, as far as it is known whether the own edit is in it."""
        moved: list[Splice] = []
        while self._arrived and (not self._on_its_way or self._answered is not None):
            index, splices, text = self._arrived.popleft()
            if self._answered is not None and index >= self._answered:
                moved += self._with_own(text, splices)
                self._answered, self._sent, self._on_its_way = None, [], False
            else:
                moved += self._of_others(difference(self._document, text) if splices is None else splices)
            self._document, self.base = text, index
        return moved

    def _of_others(self, others: list[Splice]) -> list[Splice]:
        """Splices that hold nothing of the own edit: everything own is carried over them."""
        self._sent, others = carry(self._sent, others)
        self._waiting, others = carry(self._waiting, others)
        self.text = applied(self.text, others)
        return others

    def _with_own(self, text: str, splices: list[Splice] | None) -> list[Splice]:
        """A step of the document that holds the own edit: what is around it are others'. Where it can not be found (the view
        was replaced, or its changes were merged) whatever is different counts as others'."""
        found = None if splices is None else _parted(self._sent, splices)
        if found is None:
            others = difference(applied(self._document, self._sent), text)
        else:
            before, after = found
            _, carried = carry(self._sent, before)
            others = carried + after
        self._waiting, others = carry(self._waiting, others)
        self.text = applied(self.text, others)
        return others


def carry(own: list[Splice], others: list[Splice]) -> tuple[list[Splice], list[Splice]]:
    """Carry own splices over others', which the document has before them, and others' over own. See splices.rebase."""
    if not own or not others:
        return own, others
    texts = iter([insert for _, _, insert in others])
    steps, after = rebase(_shapes(own), _shapes(others))
    carried = [
        (at, delete, insert if inserts else "")
        for (_, _, insert), parts in zip(own, steps, strict=True)
        for at, delete, inserts in parts
        if delete or (inserts and insert)
    ]
    # others keep their order and their insertions; only deletions fall apart, and what has nothing left to do is dropped.
    inserting = [insert for insert in texts if insert]
    moved: list[Splice] = []
    for at, delete, inserted in after:
        moved.append((at, delete, inserting.pop(0) if inserted else ""))
    assert not inserting, "no insertion of others is lost"
    return carried, moved


def _shapes(splices: list[Splice]) -> list[Shape]:
    return [(at, delete, len(insert)) for at, delete, insert in splices]


def _parted(own: list[Splice], splices: list[Splice]) -> tuple[list[Splice], list[Splice]] | None:
    """What stands before and after the own edit in a step of the document, or None when it is not found there."""
    if len(splices) > SEARCHED_MAX:
        return None
    for start in range(len(splices) + 1):
        carried, _ = carry(own, splices[:start])
        if splices[start : start + len(carried)] == carried:
            return splices[:start], splices[start + len(carried) :]
    return None
