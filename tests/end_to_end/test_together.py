"""Two authors at one text: recordings of them, and two live clients that play one while the leader dies."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.demo.recording import NotARecording
from chaos.demo.session import is_session, load_session, made_session, save_session
from chaos.demo.together import run_together
from chaos.live.processes import LiveCluster
from cluster.client import Document, TextEditor
from cluster.documents.runtime import Settings as SpaceSettings
from cluster.errors import DocumentDeleted, InvalidRequest, PositionRewound, UnknownDocument

KEPT = SpaceSettings().splices_retained_max


class Silent:
    def __init__(self) -> None:
        self.count = 0
        self.kills = 0

    def phase(self, text: str) -> None:
        assert text

    def acknowledged(self, count: int) -> None:
        self.count = count

    def killed(self, node: str, message: int) -> None:
        assert node
        self.kills += message > 0

    def repaired(self, node: str, unavailable_ms: float) -> None:
        assert node
        assert unavailable_ms > 0


async def test_two_live_clients_and_all_nodes_end_with_one_text_though_the_leader_dies(folder: Path, tmp_path: Path) -> None:
    save_session(made_session(7, 1500), tmp_path / "session")
    spectator = Silent()
    result = await run_together(load_session(tmp_path / "session"), folder, spectator, seed=3)
    assert result.passed, result.to_dict()
    assert (result.strokes, spectator.count, spectator.kills) == (1500, 1500, 1)
    assert result.messages < result.strokes, "what was typed while an edit was on its way went with the next one"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), strokes=st.integers(1, 200))
def test_made_session_is_a_session_and_says_which_characters_are_left(
    tmp_path_factory: pytest.TempPathFactory, seed: int, strokes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "made"
    content = made_session(seed, strokes)
    save_session(content, path)
    assert is_session(path)
    session = load_session(path)
    assert session.count == strokes
    assert Counter(session.end) == session.characters_left


def _with(change: dict[str, Any]) -> bytes:
    return json.dumps(made_session(1, 20) | change).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        gzip.compress(b"{}"),
        b"\x1f\x8bbroken",
        _with({"txns": []}),
        _with({"endContent": "something else"}),
        _with({"endContent": 5}),
        _with({"txns": [{"agent": 7, "parents": [], "patches": [[0, 0, "x"]]}]}),
        _with({"txns": [{"agent": 0, "parents": [3], "patches": [[0, 0, "x"]]}]}),
        _with({"txns": [{"agent": 0, "parents": [], "patches": [[4, 0, "x"]]}]}),
        _with({"txns": [{"agent": 0, "parents": [], "patches": [["0", 0, "x"]]}]}),
        _with({"txns": [{"agent": 0, "parents": [], "patches": [[0, 0, "x"]]}] * 2}),
    ],
)
def test_file_that_is_no_session_or_contradicts_itself_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "session"
    path.write_bytes(content)
    with pytest.raises(NotARecording):
        load_session(path)


async def _text(live: LiveCluster, key: str, content: str) -> None:
    async with live.client() as client:
        await client.create("text", key, {"content": content})


async def test_an_editor_shows_what_is_typed_at_once_and_leaves_it_in_the_document(live: LiveCluster) -> None:
    await _text(live, "editor", "hello")
    async with live.client() as client, client.document("text", "editor").edit_text("body") as editor:
        editor.insert(5, " world")
        editor.delete(0)
        editor.splice(0, 0, "H")
        assert editor.text == "Hello world"
    async with live.client() as client:
        assert (await client.read("text", "editor")).value == {"body": "Hello world"}


async def test_an_edit_whose_base_is_no_longer_kept_is_made_again_on_the_present_text(live: LiveCluster) -> None:
    await _text(live, "stale", "end")
    async with live.client() as client, live.client() as other:
        document = other.document("text", "stale")
        async with client.document("text", "stale").edit_text("body") as editor:
            pending = [document.send_nowait("edit", {"patches": [{"at": 0, "insert": "x"}]}) for _ in range(KEPT + 50)]
            editor.insert(3, "!")  # of the first index, sent behind more splices than a text keeps
            for answer in pending:
                await answer
        assert (await client.read("text", "stale")).value == {"body": "x" * len(pending) + "end!"}


async def test_what_ends_an_editing_is_raised_by_the_next_call(live: LiveCluster) -> None:
    await _text(live, "ended", "")
    async with live.client() as client:
        document = client.document("text", "ended")
        with pytest.raises(IndexError):
            async with document.edit_text("body") as editor:
                editor.insert(1, "outside")
        with pytest.raises(InvalidRequest):
            async with document.edit_text("no_such_field"):
                pass
        with pytest.raises(UnknownDocument):
            async with client.document("text", "nobody-made-it").edit_text("body"):
                pass


async def test_an_editor_of_a_document_that_is_deleted_ends(live: LiveCluster) -> None:
    async with live.client(principal="alice@acme") as client:
        document = client.document("chat", "deleted")
        await document.create({"title": "tea"})
        editor = document.edit_text("title")
        with pytest.raises((DocumentDeleted, PositionRewound)):
            await _until_it_ends(editor, document)


async def _until_it_ends(editor: TextEditor, document: Document) -> None:
    async with editor:
        assert editor.text == "tea"
        await document.delete()
        while True:
            await editor.changed()
