"""What one document knows of connections: who came and went, each told once, and what is left of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cluster.documents import bundle
from cluster.documents.armed import waits_of
from cluster.documents.connections import connection_payload
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import (
    CONNECT_CHANNEL,
    DISCONNECT_CHANNEL,
    UPGRADE_CHANNEL,
    Code,
    Invocation,
    Outcome,
    Settings,
)
from cluster.errors import ConnectionUnchanged, InvalidBundle, UnknownChannel
from cluster.ids import DocumentId, Principal
from tests.documents.conftest import Stage

SOURCE = '''
from cluster import Command, Document, Principal, Refused, anyone, field, on, read

class Full(Refused):
    """Nobody else comes in."""

class Stage(Document):
    here: list[str] = field.public()
    heard: list[str] = field.public()
    closed: bool = field.public(False)

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.agent != "eve"

    @on.connect
    def arrive(self, ctx: Command) -> None:
        self.here.append(ctx.cause)
        self.heard.append(f"+{ctx.sender}")
        if self.closed:
            raise Full()
        if ctx.sender.agent == "buggy":
            raise ValueError("a bug")

    @on.disconnect
    def leave(self, ctx: Command) -> None:
        self.here.remove(ctx.cause)
        self.heard.append(f"-{ctx.sender}")
        if ctx.sender.agent == "clumsy":
            raise ValueError("a bug")

    @on.message
    def close(self, ctx: Command) -> None:
        self.closed = True
'''

Staged = Callable[..., Stage]


def tell(stage: Stage, channel: str, connection: str) -> Outcome:
    """What apply does with a connect or a disconnect."""
    who = Principal.parse(connection.partition("#")[0])
    payload = connection_payload(connection)
    stage.instance.expect(channel, payload, who, 0)
    stage.index += 1
    return stage.instance.fire(
        Invocation(channel, payload, who, 1_700_000_000_000, stage.index.to_bytes(32, "little"), stage.index)
    )


def come(stage: Stage, connection: str) -> Outcome:
    return tell(stage, CONNECT_CHANNEL, connection)


def go(stage: Stage, connection: str) -> Outcome:
    return tell(stage, DISCONNECT_CHANNEL, connection)


def test_handlers_are_told_who_came_and_went_and_by_which_connection(stage: Staged) -> None:
    made = stage(SOURCE)
    assert come(made, "bob@acme#1").code is Code.OK
    assert come(made, "bob@acme#2").code is Code.OK
    assert made.view()["here"] == ["bob@acme#1", "bob@acme#2"]
    assert made.instance.connections() == {"bob@acme#1": Principal("bob", "acme"), "bob@acme#2": Principal("bob", "acme")}
    assert go(made, "bob@acme#1").code is Code.OK
    assert made.view() == {"here": ["bob@acme#2"], "heard": ["+bob@acme", "+bob@acme", "-bob@acme"], "closed": False}


def test_a_connection_comes_once_and_goes_once_however_often_that_is_said(stage: Staged) -> None:
    made = stage(SOURCE)
    with pytest.raises(ConnectionUnchanged):
        go(made, "bob@acme#1")
    come(made, "bob@acme#1")
    before = made.instance.dump()
    with pytest.raises(ConnectionUnchanged):
        come(made, "bob@acme#1")
    assert made.instance.dump() == before
    go(made, "bob@acme#1")
    with pytest.raises(ConnectionUnchanged):
        go(made, "bob@acme#1")
    assert come(made, "bob@acme#1").code is Code.OK


def test_nobody_can_end_the_connection_of_somebody_else(stage: Staged) -> None:
    made = stage(SOURCE)
    come(made, "bob@acme#1")
    with pytest.raises(ConnectionUnchanged):
        made.instance.expect(DISCONNECT_CHANNEL, connection_payload("bob@acme#1"), Principal("mallory", "acme"), 0)
    for channel in (CONNECT_CHANNEL, DISCONNECT_CHANNEL):
        with pytest.raises(UnknownChannel):
            made.program.check(channel, connection_payload("bob@acme#1"))


@pytest.mark.parametrize(("who", "code"), [("eve", Code.DENIED), ("buggy", Code.FAILED), ("bob", Code.REFUSED)])
def test_whoever_is_not_let_in_leaves_nothing_behind(stage: Staged, who: str, code: Code) -> None:
    made = stage(SOURCE)
    if code is Code.REFUSED:
        made.run("close")
    before = made.instance.dump()
    outcome = come(made, f"{who}@acme#1")
    assert outcome.code is code
    assert made.instance.dump() == before
    assert not made.instance.has_connections
    if code is Code.REFUSED:
        assert json.loads(outcome.answer)["name"] == "Full"


def test_a_disconnect_whose_handler_fails_ends_the_connection_all_the_same(stage: Staged) -> None:
    made = stage(SOURCE)
    come(made, "clumsy@acme#1")
    outcome = go(made, "clumsy@acme#1")
    assert (outcome.code, outcome.writes != b"") == (Code.FAILED, True)
    assert made.view()["here"] == ["clumsy@acme#1"]
    assert made.instance.connections() == {}


def test_the_gate_is_not_asked_of_who_goes(stage: Staged) -> None:
    made = stage(SOURCE.replace('who.agent != "eve"', "not self.closed"))
    come(made, "bob@acme#1")
    made.run("close")
    assert go(made, "bob@acme#1").code is Code.OK


def test_too_many_connections_are_refused_and_there_is_room_again_when_one_goes(stage: Staged) -> None:
    made = stage(SOURCE, Settings(connections_max=2))
    come(made, "bob@acme#1")
    come(made, "bob@acme#2")
    before = made.instance.dump()
    outcome = come(made, "bob@acme#3")
    assert (outcome.code, json.loads(outcome.answer)) == (Code.BUDGET, {"limit": "connections"})
    assert made.instance.dump() == before
    go(made, "bob@acme#1")
    assert come(made, "bob@acme#3").code is Code.OK


def test_connections_are_state_that_neither_code_nor_views_see(stage: Staged) -> None:
    made = stage(SOURCE)
    assert not waits_of(made.instance.dump()).connected
    come(made, "bob@acme#1")
    assert waits_of(made.instance.dump()).connected
    assert set(made.view()) == {"here", "heard", "closed"}
    loaded = made.program.load(DocumentId("stage", "one"), made.instance.dump())
    assert loaded.connections() == made.instance.connections()
    assert loaded.dump() == made.instance.dump()
    go(made, "bob@acme#1")
    assert not waits_of(made.instance.dump()).connected


@pytest.mark.parametrize("handler", ["connect", "disconnect"])
def test_a_class_with_one_of_the_two_handlers_knows_all_connections(stage: Staged, handler: str) -> None:
    source = f"""
from cluster import Command, Document, anyone, field, on

class Stage(Document):
    gate = anyone
    heard: list[str] = field.public()

    @on.{handler}
    def hear(self, ctx: Command) -> None:
        self.heard.append(ctx.cause)
"""
    made = stage(source)
    assert come(made, "bob@acme#1").code is Code.OK
    assert made.view()["heard"] == (["bob@acme#1"] if handler == "connect" else [])
    assert go(made, "bob@acme#1").code is Code.OK
    assert made.view()["heard"] == ["bob@acme#1"]


def test_a_class_without_such_handlers_is_told_nothing_and_stores_nothing(stage: Staged) -> None:
    made = stage("from cluster import Document, anyone\nclass Stage(Document):\n    gate = anyone\n")
    assert not made.instance.told_of_connections
    with pytest.raises(ConnectionUnchanged):
        come(made, "bob@acme#1")
    assert made.instance.dump() == b"\x80"


def test_an_upgrade_keeps_connections_and_code_without_handlers_forgets_them(stage: Staged) -> None:
    made = stage(SOURCE)
    come(made, "bob@acme#1")
    order = Invocation(UPGRADE_CHANNEL, b"{}", Principal("upgrade", "moot"), 0, bytes(32), 9)

    def compiled(source: str) -> object:
        return BundleLoader().load(bundle.from_source(source.replace("Stage(Document)", "Stage(Document, version=2)")).encode())

    renamed = compiled(SOURCE.replace("def leave", "def left"))
    instance, outcome = renamed.upgrade(DocumentId("stage", "one"), made.instance.dump(), made.program, order)  # type: ignore[attr-defined]
    assert outcome.code is Code.OK
    assert instance.connections() == made.instance.connections()
    deaf = compiled(SOURCE.replace("@on.connect\n    ", "").replace("@on.disconnect\n    ", ""))
    instance, outcome = deaf.upgrade(DocumentId("stage", "one"), made.instance.dump(), made.program, order)  # type: ignore[attr-defined]
    assert (outcome.code, instance.connections(), instance.told_of_connections) == (Code.OK, {}, False)
    assert not waits_of(instance.dump()).connected


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("@on.connect\ndef come(self) -> None:\n    pass", "signature"),
        ("@on.connect\ndef come(self, ctx: Command, name: str) -> None:\n    pass", "signature"),
        ("@on.disconnect\ndef go(self, ctx: Command) -> bool:\n    return True", "signature"),
        ("@on.disconnect\ndef go(self, ctx: Command):\n    pass", "annotation"),
        (
            "@on.connect\ndef come(self, ctx: Command) -> None:\n    pass\n"
            "@on.connect\ndef arrive(self, ctx: Command) -> None:\n    pass",
            "connection",
        ),
    ],
)
def test_handlers_of_another_form_are_refused_when_deployed(body: str, code: str) -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = f"from cluster import Command, Document, anyone, on\nclass Stage(Document):\n    gate = anyone\n{lines}"
    with pytest.raises(InvalidBundle, match=f": {code}: "):
        BundleLoader().load(bundle.from_source(source).encode())
