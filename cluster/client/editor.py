"""A text of a document as something to type into: `async with document.edit_text("body") as editor`.

    async with client.document("text", "notes").edit_text("body") as editor:
        editor.insert(len(editor.text), "and more")     # shown at once in editor.text
        await editor.settled()                          # now it is part of the document

Others' edits arrive by themselves. What is typed while an edit is on its way goes with the next one, so a fast writer costs a
message a round trip, not a message a keystroke. The document's class takes edits on a channel with the parameters
`patches: list[{at, delete, insert}]`, one after the other, and `base: int`, the index of the text that they start from, and
hands them to `Text.edit`; `cluster.examples.text` is such a class.

Here are the stream and the waiting; who is right about which character is decided in editing.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Final

from cluster.client.editing import Splice, TextEditing
from cluster.client.failures import Refusal
from cluster.client.watch import Change
from cluster.documents.state.refusals import StaleEdit
from cluster.errors import InvalidRequest, PositionRewound
from cluster.ids import Position

if TYPE_CHECKING:
    from cluster.client.client import Document

_STALE: Final = StaleEdit.__name__


class TextEditor:
    """One author at one text. Made by `Document.edit_text`; use it in one event loop.

    text: as the author sees it. Whatever ends the editing (the document was deleted, the gate closed, an edit was refused) is
    raised by the next call.
    """

    def __init__(self, document: Document, field: str, channel: str, on_change: Callable[[list[Splice]], None] | None) -> None:
        self._document = document
        self._field = field
        self._pointer = "/" + field.replace("~", "~0").replace("/", "~1")
        self._channel = channel
        self._on_change = on_change
        self._editing: TextEditing | None = None
        self._epoch = 0
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None

    @property
    def text(self) -> str:
        """What the author sees: the document's text with everything that was typed here."""
        return self._open().text

    @property
    def position(self) -> Position:
        """The document's position that the text includes."""
        return Position(self._epoch, self._open().base)

    def splice(self, at: int, delete: int = 0, insert: str = "") -> None:
        """Delete `delete` code points at `at` and type `insert` there. Raises IndexError when that is outside the text, or the
        error that ended the editing; nothing is changed then."""
        self._open().splice(at, delete, insert)
        self._moved.set()

    def insert(self, at: int, text: str) -> None:
        """Type at a place. Raises as `splice`."""
        self.splice(at, 0, text)

    def delete(self, at: int, count: int = 1) -> None:
        """Delete from a place on. Raises as `splice`."""
        self.splice(at, count)

    async def settled(self) -> None:
        """Until the document has everything that was typed here. Raises the error that ended the editing."""
        await self._until(lambda: self._open().settled)

    async def reached(self, index: int) -> None:
        """Until the text includes this index of the document. Raises the error that ended the editing."""
        await self._until(lambda: self._open().base >= index)

    async def changed(self) -> None:
        """Until something happened to the text or to what is on its way. Raises the error that ended the editing."""
        self._open()
        self._moved.clear()
        await self._moved.wait()
        self._open()

    async def __aenter__(self) -> TextEditor:
        self._tasks = [asyncio.create_task(self._guard(self._follow())), asyncio.create_task(self._guard(self._send()))]
        try:
            while self._editing is None and self._failure is None:
                await self._wait()
            self._open()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.settled()
        finally:
            await self._stop()

    def _open(self) -> TextEditing:
        if self._failure is not None:
            raise self._failure
        assert self._editing is not None, "an editor is used within `async with`"
        return self._editing

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._wait()

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._moved.set()

    async def _follow(self) -> None:
        async with self._document.watch() as watch:
            async for change in watch:
                self._take_in(change)

    def _take_in(self, change: Change) -> None:
        text = change.view.get(self._field)
        if not isinstance(text, str):
            raise InvalidRequest(f"{self._document.id} shows no text {self._field!r}")
        position = change.position
        if self._editing is None:
            self._editing, self._epoch = TextEditing(text, position.index), position.epoch
        elif position.epoch != self._epoch:
            raise PositionRewound(f"{self._document.id} begins anew at {position}", current=position)
        else:
            self._show(self._editing.changed(position.index, text, self._splices(change)))
        self._moved.set()

    def _splices(self, change: Change) -> list[Splice] | None:
        """How the text came to its new state, or None when the step does not say."""
        if change.patch is None:
            return None
        found: list[Splice] = []
        for operation in change.patch:
            if operation["path"] == self._pointer:
                if operation["op"] != "splice":
                    return None
                found.append((operation["at"], operation["delete"], operation["insert"]))
        return found

    def _show(self, splices: list[Splice]) -> None:
        if splices and self._on_change is not None:
            self._on_change(splices)

    async def _send(self) -> None:
        while True:
            editing = self._editing
            splices = editing.take() if editing is not None else []
            if editing is None or not splices:
                await self._wait()
                continue
            patches = [{"at": at, "delete": delete, "insert": insert} for at, delete, insert in splices]
            try:
                answer = await self._document.send(self._channel, {"patches": patches, "base": editing.base})
            except (Refusal, StaleEdit) as error:
                index = _current_index(error)
                if index is None:
                    raise
                self._show(editing.refused(index))
            else:
                self._show(editing.answered(answer.position.index))
            self._moved.set()


def _current_index(error: Refusal | StaleEdit) -> int | None:
    """The index of the text that a StaleEdit tells; None when it is another refusal."""
    if isinstance(error, StaleEdit):
        return error.index
    if error.name == _STALE and len(error.arguments) == 2 and isinstance(error.arguments[1], int):
        return error.arguments[1]
    return None
