"""Several authors at one text: whatever happens in which order, all end with the text of the document."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cluster.examples
from cluster.client.editing import Splice, TextEditing, applied, carry, difference
from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Settings
from cluster.documents.state import apply_patch
from cluster.ids import DocumentId, Principal

TEXT = bundle.from_path(Path(cluster.examples.__file__).parent / "text.py").encode()
SOMEBODY = Principal("somebody", "acme")


class Server:
    """The shared text of the examples, as a shard runs it; remembers the changes of every index."""

    def __init__(self, splices_retained_max: int) -> None:
        self.program = BundleLoader(Settings(splices_retained_max=splices_retained_max)).load(TEXT)
        self.instance = self.program.new(DocumentId("text", "one"))
        self.index = 0
        self.changes: list[Any] = []
        self.run("", {"content": "once upon a time"})

    def run(self, channel: str, arguments: dict[str, Any]) -> Any:
        payload = self.program.check(channel, json.dumps(arguments).encode())
        self.index += 1
        outcome = self.instance.run(Invocation(channel, payload, SOMEBODY, 0, bytes(32), self.index))
        self.changes.append(outcome.changes)
        return outcome

    @property
    def text(self) -> str:
        body: str = json.loads(self.instance.view(SOMEBODY))["body"]
        return body

    def patch_since(self, index: int) -> Any:
        patch = self.instance.patch_since([each for each in self.changes[index:] if each is not None], SOMEBODY)
        assert patch is not None
        return json.loads(patch)


class Author:
    """One author: an editing, an edit that waits at the server's door, an answer and deltas that are on their way back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.editing = TextEditing(server.text, server.index)
        self.cursor_text = server.text
        self.seen = server.index
        self.view = {"body": server.text}
        self.outgoing: tuple[list[Splice], int] | None = None
        self.answer: tuple[bool, int] | None = None

    def types(self, choose: random.Random, letter: str) -> None:
        length = len(self.editing.text)
        at = choose.randint(0, length)
        delete = choose.choice([0, 0, 0, 1, 3]) if at < length else 0
        splice = (at, min(delete, length - at), letter * choose.randint(0, 3))
        self.editing.splice(*splice)
        self.cursor_text = applied(self.cursor_text, [splice])

    def sends(self) -> None:
        if splices := self.editing.take():
            assert self.outgoing is None
            assert self.answer is None
            self.outgoing = (list(splices), self.editing.base)

    def reaches_the_server(self) -> None:
        if self.outgoing is None:
            return
        splices, base = self.outgoing
        self.outgoing = None
        patches = [{"at": at, "delete": delete, "insert": insert} for at, delete, insert in splices]
        outcome = self.server.run("edit", {"patches": patches, "base": base})
        assert outcome.code in (Code.OK, Code.REFUSED), outcome
        self.answer = (outcome.code is Code.OK, self.server.index)

    def is_answered(self) -> None:
        if self.answer is not None:
            done, index = self.answer
            self.answer = None
            moved = self.editing.answered(index) if done else self.editing.refused(index)
            self.cursor_text = applied(self.cursor_text, moved)

    def is_told(self, *, reset: bool) -> None:
        server = self.server
        if self.seen == server.index:
            return
        patch = None if reset else server.patch_since(self.seen)
        self.view = {"body": server.text} if patch is None else apply_patch(self.view, patch)
        assert self.view == {"body": server.text}
        splices = None if patch is None else [(each["at"], each["delete"], each["insert"]) for each in patch]
        self.seen = server.index
        self.cursor_text = applied(self.cursor_text, self.editing.changed(server.index, server.text, splices))


def play(seed: int, authors_count: int, steps: int, retained: int, resets: bool) -> tuple[Server, list[Author]]:
    choose = random.Random(seed)
    server = Server(retained)
    authors = [Author(server) for _ in range(authors_count)]
    for _ in range(steps):
        who = choose.randrange(authors_count)
        author = authors[who]
        what = choose.randrange(8)
        if what < 3:
            author.types(choose, "abcdefgh"[who])
        elif what == 3:
            author.sends()
        elif what == 4:
            author.reaches_the_server()
        elif what == 5:
            author.is_answered()
        else:
            author.is_told(reset=resets and choose.random() < 0.2)
        assert author.cursor_text == author.editing.text, "what is reported leads from the author's text to the author's text"
    for _ in range(10_000):
        if all(author.editing.settled and author.seen == server.index for author in authors):
            break
        for author in authors:
            author.sends()
            author.reaches_the_server()
            author.is_answered()
            author.is_told(reset=False)
    return server, authors


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    authors=st.integers(1, 3),
    steps=st.integers(1, 150),
    retained=st.sampled_from([4, 1000]),
    resets=st.booleans(),
)
def test_all_authors_and_the_document_end_with_one_text(
    seed: int, authors: int, steps: int, retained: int, resets: bool
) -> None:
    server, players = play(seed, authors, steps, retained, resets)
    assert [player.editing.text for player in players] == [server.text] * authors
    assert all(player.editing.base == server.index for player in players)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_nothing_that_was_typed_and_not_deleted_is_lost_or_doubled(seed: int) -> None:
    choose = random.Random(seed)
    server = Server(1000)
    authors = [Author(server), Author(server)]
    typed: Counter[str] = Counter(server.text)
    for number in range(40):
        author = authors[number % 2]
        at = choose.randint(0, len(author.editing.text))
        author.editing.splice(at, 0, "xy"[number % 2])
        typed["xy"[number % 2]] += 1
        for one in authors:
            if choose.random() < 0.5:
                one.sends()
                one.reaches_the_server()
                one.is_answered()
            if choose.random() < 0.5:
                one.is_told(reset=False)
    for _ in range(100):
        for one in authors:
            one.sends()
            one.reaches_the_server()
            one.is_answered()
            one.is_told(reset=False)
    assert Counter(server.text) == typed


def test_what_is_typed_while_an_edit_is_on_its_way_goes_with_the_next() -> None:
    editing = TextEditing("", 1)
    editing.splice(0, 0, "a")
    assert editing.take() == [(0, 0, "a")]
    editing.splice(1, 0, "b")
    editing.splice(2, 0, "c")
    assert editing.take() == []
    editing.answered(2)
    editing.changed(2, "a", [(0, 0, "a")])
    assert editing.take() == [(1, 0, "bc")]
    assert not editing.settled


def test_others_edits_wait_until_the_own_edit_is_answered() -> None:
    editing = TextEditing("ab", 1)
    editing.splice(2, 0, "!")
    editing.take()
    assert editing.changed(2, "xab", [(0, 0, "x")]) == []
    assert editing.text == "ab!"
    assert editing.answered(3) == [(0, 0, "x")]
    assert (editing.text, editing.base, editing.settled) == ("xab!", 2, False)
    assert editing.changed(3, "xab!", [(3, 0, "!")]) == []
    assert (editing.text, editing.base, editing.settled) == ("xab!", 3, True)


def test_a_refused_edit_waits_for_a_newer_base() -> None:
    editing = TextEditing("ab", 1)
    editing.splice(2, 0, "!")
    editing.take()
    editing.refused(5)
    assert editing.take() == []
    editing.changed(5, "zzab", None)
    assert editing.text == "zzab!"
    assert editing.take() == [(4, 0, "!")]


@pytest.mark.parametrize(("at", "delete"), [(-1, 0), (3, 0), (0, 3), (2, 1), (0, -1)])
def test_a_splice_outside_the_text_is_an_error_and_changes_nothing(at: int, delete: int) -> None:
    editing = TextEditing("ab", 1)
    with pytest.raises(IndexError):
        editing.splice(at, delete, "x")
    assert (editing.text, editing.take()) == ("ab", [])


@given(old=st.text(alphabet="ab", max_size=12), new=st.text(alphabet="ab", max_size=12))
def test_difference_leads_from_the_old_text_to_the_new(old: str, new: str) -> None:
    assert applied(old, difference(old, new)) == new


@given(data=st.data())
def test_carrying_two_authors_over_each_other_gives_one_text(data: st.DataObject) -> None:
    text = "once upon a time"

    def typed(letters: str) -> list[Splice]:
        splices, length = [], len(text)
        for _ in range(data.draw(st.integers(0, 5))):
            at = data.draw(st.integers(0, length))
            delete = data.draw(st.integers(0, min(4, length - at)))
            insert = data.draw(st.text(alphabet=letters, max_size=3))
            splices.append((at, delete, insert))
            length += len(insert) - delete
        return splices

    own, others = typed("xy"), typed("uv")
    carried, moved = carry(own, others)
    assert applied(applied(text, others), carried) == applied(applied(text, own), moved)
