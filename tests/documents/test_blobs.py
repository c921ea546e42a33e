"""Files in the state: which bytes a document keeps, what is shown of them, and to whom they are given."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cluster.documents import bundle
from cluster.documents.blobs import BLOBS_FIELD
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import ANSWER_CHANNEL, REPAIR_CHANNEL, UPGRADE_CHANNEL, Code, Invocation, Settings
from cluster.documents.state.blob import BLOB_BYTES_MAX, Blob
from cluster.errors import InvalidBundle, InvalidPatch, InvalidPayload, StorageDamaged, TooLarge, UnknownBlob
from cluster.ids import DocumentId, Principal
from tests.documents.albums import ALBUM, kept, name_of, sent, shown
from tests.documents.conftest import Stage

Staged = Callable[..., Stage]


def read(stage: Stage, hash: str, who: str = "alice", arguments: bytes = b"") -> Any:
    instance = stage.instance
    return json.loads(instance.blob(Principal(who, "acme"), hash, instance.arguments(arguments)))


# What is shown and kept


def test_a_view_shows_what_a_blob_is_and_never_its_bytes(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover", "shelve"], pictures=[sent(b"tea"), sent(b"milk", "text/plain")])
    view = made.view()
    assert view["cover"] == shown(b"tea")
    assert view["shelf"] == [shown(b"milk", "text/plain")]
    assert kept(made) == {name_of(b"tea"): b"tea", name_of(b"milk"): b"milk"}
    assert base64.b64encode(b"tea") not in made.instance.view(Principal("alice", "acme"))


def test_author_code_makes_blobs_and_reads_them(stage: Staged) -> None:
    made = stage(ALBUM)
    assert made.answer("write", text="hello") == f"{name_of(b'hello')} 5 text/plain hello True"
    assert read(made, name_of(b"hello")) == {**shown(b"hello", "text/plain"), "data": base64.b64encode(b"hello").decode()}


def test_equal_bytes_are_kept_once_and_leave_with_their_last_name(stage: Staged) -> None:
    made = stage(ALBUM)
    empty = made.instance.size_bytes()
    made.run("change", what=["cover", "shelve", "name"], pictures=[sent(b"x" * 5000)] * 3)
    assert list(kept(made)) == [name_of(b"x" * 5000)]
    assert 5000 < made.instance.size_bytes() - empty < 6000
    made.run("change", what=["uncover", "unname"], pictures=[sent(b"")] * 2)
    assert list(kept(made)) == [name_of(b"x" * 5000)], "the shelf has it still"
    made.run("change", what=["unshelve"], pictures=[sent(b"")])
    assert kept(made) == {}
    assert made.instance.size_bytes() == empty


def test_a_command_that_fails_keeps_no_bytes_and_loses_none(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover"], pictures=[sent(b"old")])
    before, size = made.instance.dump(), made.instance.size_bytes()
    outcome = made.run("change", what=["cover", "shelve"], pictures=[sent(b"new"), sent(b"newer")], refuse=True)
    assert outcome.code is Code.REFUSED
    assert (made.instance.dump(), made.instance.size_bytes()) == (before, size)


def test_bytes_that_come_and_go_within_one_command_leave_nothing(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover", "cover", "uncover"], pictures=[sent(b"a"), sent(b"b"), sent(b"")])
    assert kept(made) == {}


def test_what_changes_tell_of_a_blob_holds_no_bytes(stage: Staged) -> None:
    """A ring of changes is bounded by the size of what was written: bytes in it would make it unbounded."""
    made = stage(ALBUM)
    outcome = made.run("change", what=["cover", "hang"], pictures=[sent(b"x" * 100_000), sent(b"y" * 100_000)])
    assert outcome.change_bytes < 2000
    assert b"x" * 100 not in outcome.writes
    for _, _, kind, plain in outcome.changes.operations:
        assert b"yyyy" not in msgspec.msgpack.encode(plain), kind
        for part in [plain, *(plain.values() if isinstance(plain, dict) else ())]:
            assert getattr(part, "blob", None) is None


def test_a_command_that_takes_no_blob_away_does_not_look_through_the_document(stage: Staged) -> None:
    made = stage(ALBUM)
    costs = [made.run("hang", picture=sent(b"%03d" % number)).steps for number in range(200)]
    assert costs[-1] == costs[10]
    assert made.run("hang", picture=None).steps <= costs[10]


def test_bytes_count_toward_the_bound_of_the_document(stage: Staged) -> None:
    made = stage(ALBUM, Settings(state_bytes_max=10_000))
    assert made.run("hang", picture=sent(b"x" * 9_000)).code is Code.OK
    before = made.instance.dump()
    outcome = made.run("hang", picture=sent(b"y" * 9_000))
    assert (outcome.code, json.loads(outcome.answer)) == (Code.BUDGET, {"limit": "state"})
    assert made.instance.dump() == before
    assert made.run("hang", picture=sent(b"x" * 9_000)).code is Code.OK, "the same bytes again cost next to nothing"


def test_an_answer_to_an_ask_may_bring_a_blob_and_a_request_carries_its_name(stage: Staged) -> None:
    made = stage("""
    from datetime import timedelta
    from cluster import Blob, Command, Document, Maybe, anyone, field, on

    class Stage(Document):
        gate = anyone
        drawn: Blob | None = field.public(None)

        @on.message
        def draw(self, ctx: Command, like: Blob) -> str:
            return ctx.ask(ctx.sender, like, then=self.done, within=timedelta(days=1))

        @on.answer
        def done(self, ctx: Command, drawn: Maybe[Blob]) -> None:
            self.drawn = drawn.value
    """)
    ask = made.answer("draw", like=sent(b"model"))
    alice = Principal("alice", "acme")
    (open_ask,) = made.instance.open_asks(alice)
    assert json.loads(open_ask.request) == shown(b"model")
    assert kept(made) == {}, "nothing but the request names it"
    payload = json.dumps({"ask": ask, "value": sent(b"drawing")}).encode()
    made.instance.expect(ANSWER_CHANNEL, payload, alice, 0)
    outcome = made.instance.fire(Invocation(ANSWER_CHANNEL, payload, alice, 1_700_000_000_000, b"s" * 32, 9))
    assert outcome.code is Code.OK
    assert (made.view()["drawn"], kept(made)) == (shown(b"drawing"), {name_of(b"drawing"): b"drawing"})


# Bounds and spellings


def test_a_blob_that_is_too_large_is_refused_before_it_is_logged(stage: Staged) -> None:
    made = stage(ALBUM)
    most = b"x" * BLOB_BYTES_MAX
    assert made.run("hang", picture=sent(most)).code is Code.OK
    for data in (most + b"x", most * 2):
        with pytest.raises(TooLarge, match="at most 262144 bytes") as refused:
            made.program.check("hang", json.dumps({"picture": sent(data)}).encode())
        assert refused.value.details["limit"] == "blob_bytes_max"


@pytest.mark.parametrize(
    "picture",
    [
        shown(b"tea"),
        {"hash": name_of(b"tea")},
        {"data": "dGVh", "hash": name_of(b"tea")},
        {"data": "dGVi="},
        {"data": 5},
        {"media_type": "image/png"},
        {"data": "dGVh", "media_type": "png"},
        {"data": "dGVh", "media_type": "Image/PNG"},
        {"data": "dGVh", "media_type": "a/" + "b" * 200},
        {"data": "dGVh", "media_type": "text/html\r\nSet-Cookie: a=b"},
        {"data": "dGVh", "media_type": 7},
        "dGVh",
        5,
    ],
)
def test_a_blob_is_sent_with_its_bytes_and_nothing_else_is_one(stage: Staged, picture: object) -> None:
    """Above all not its hash: who could send a blob by its name would learn what the document has."""
    made = stage(ALBUM)
    made.run("hang", picture=sent(b"tea"))
    with pytest.raises(InvalidPayload):
        made.program.check("hang", json.dumps({"picture": picture}).encode())


def test_a_media_type_may_be_left_out_and_may_have_parameters(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover"], pictures=[{"data": "dGVh"}])
    assert made.view()["cover"]["media_type"] == "application/octet-stream"
    made.run("change", what=["cover"], pictures=[sent(b"tea", "text/plain; charset=UTF-8")])
    assert made.view()["cover"]["media_type"] == "text/plain; charset=UTF-8"


def test_a_blob_can_not_change() -> None:
    blob = Blob(b"tea", "text/plain")
    for name in ("hash", "size", "media_type", "data", "other"):
        with pytest.raises(AttributeError):
            setattr(blob, name, 1)
        with pytest.raises(AttributeError):
            delattr(blob, name)
    assert blob == Blob(b"tea", "text/plain") != Blob(b"tea", "text/html")
    with pytest.raises(ValueError, match="at most"):
        Blob(b"x" * (BLOB_BYTES_MAX + 1))
    with pytest.raises(TypeError):
        Blob("text")  # type: ignore[arg-type]


def test_hashing_is_paid_for(stage: Staged) -> None:
    made = stage(ALBUM)
    small = made.run("write", text="x").steps
    assert made.run("write", text="x" * 80_000).steps - small > 80_000 // 8


@pytest.mark.parametrize(
    ("declaration", "reason"),
    [
        ("pictures: dict[Blob, str] = field.public()", "the keys of a dict are str, int, Principal or Enum, not Blob"),
        ("rows: Table[Row] = field.public(key='picture')", "a key is str, int, Principal or Enum"),
        ("shown: Presence[Row] = field.public()", "Row has a blob, and what connections show is kept nowhere"),
        (
            "@read.view\n    def like(self, picture: Blob) -> int:\n        return 1",
            "blob: parameter picture: a view can not be",
        ),
        (
            "@on.alarm\n    def ring(self, ctx: Command, rows: list[Row]) -> None:\n        pass",
            "an alarm can not carry a blob",
        ),
    ],
)
def test_where_a_blob_can_not_stand_is_said_when_the_code_is_deployed(declaration: str, reason: str) -> None:
    source = (
        "from cluster import Blob, Command, Document, OrderedSet, Presence, Record, Table, anyone, field, on, read\n\n"
        "class Row(Record):\n    picture: Blob\n\nclass Stage(Document):\n    gate = anyone\n    " + declaration + "\n"
    )
    with pytest.raises(InvalidBundle) as refused:
        BundleLoader().load(bundle.from_source(source).encode())
    assert reason in str(refused.value)


# Dumps, code and operators


def test_a_dump_without_the_bytes_of_a_blob_is_damaged(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("hang", picture=sent(b"tea"))
    plain = msgspec.msgpack.decode(made.instance.dump())
    for store in ({}, {name_of(b"tea"): b"coffee"}, {**plain[BLOBS_FIELD], name_of(b"milk"): b"milk"}):
        damaged = msgspec.msgpack.encode({**plain, BLOBS_FIELD: store})
        with pytest.raises(StorageDamaged):
            made.program.load(DocumentId("stage", "one"), damaged)


def test_blobs_survive_an_upgrade_and_those_of_dropped_fields_do_not(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover", "shelve"], pictures=[sent(b"tea"), sent(b"milk")])
    after = """
    from cluster import Blob, Command, Document, anyone, field, on

    class Album(Document, version=2):
        gate = anyone
        front: Blob | None = field.public(None, was="cover")
        copied: bytes = field.public(b"")
        logo: Blob = field.public(Blob(b"moot", "text/plain"))

        @on.upgrade(since=1)
        def change(self, ctx: Command) -> None:
            self.copied = self.front.data if self.front else b""
    """
    later = BundleLoader().load(bundle.from_source(textwrap.dedent(after)).encode())
    invocation = Invocation(UPGRADE_CHANNEL, b"{}", Principal("system:upgrade", "moot"), 1_700_000_000_000, b"s" * 32, 9)
    instance, outcome = later.upgrade(DocumentId("stage", "one"), made.instance.dump(), made.program, invocation)
    assert outcome.code is Code.OK, outcome.error
    assert instance is not None
    made.instance = instance
    assert made.view()["front"] == shown(b"tea")
    assert made.view()["copied"] == base64.b64encode(b"tea").decode()
    assert kept(made) == {name_of(b"tea"): b"tea", name_of(b"moot"): b"moot"}
    assert later.load(DocumentId("stage", "one"), instance.dump()).size_bytes() == instance.size_bytes()


def test_an_operator_repairs_a_blob_and_can_not_reach_the_bytes_themselves(stage: Staged) -> None:
    made = stage(ALBUM)
    made.run("change", what=["cover"], pictures=[sent(b"tea")])

    def order(patch: list[dict[str, object]]) -> Invocation:
        payload = json.dumps({"patch": patch, "reason": "a test"}).encode()
        return Invocation(REPAIR_CHANNEL, payload, Principal("ops", "moot"), 1_700_000_000_000, b"s" * 32, 9)

    with pytest.raises(InvalidPatch):
        made.instance.check_repair(order([{"op": "remove", "path": f"/{BLOBS_FIELD}/{name_of(b'tea')}"}]))
    outcome = made.instance.repair(order([{"op": "replace", "path": "/cover", "value": sent(b"milk")}]))
    assert outcome.code is Code.OK
    assert kept(made) == {name_of(b"milk"): b"milk"}


# Who is given the bytes


def test_a_hidden_blob_is_as_one_that_does_not_exist_until_it_becomes_visible(stage: Staged) -> None:
    made = stage(ALBUM)
    name = made.answer("hang", picture=sent(b"secret"))
    assert read(made, name)["data"] == base64.b64encode(b"secret").decode()
    refusals = []
    for hash in (name, name_of(b"never")):
        with pytest.raises(UnknownBlob) as refused:
            read(made, hash, "bob")
        refusals.append((refused.value.message, refused.value.details))
    assert refusals[0] == refusals[1]
    made.run("reveal")
    assert read(made, name, "bob")["media_type"] == "image/png"


def test_a_blob_that_only_a_view_with_arguments_shows_is_read_with_these_arguments(stage: Staged) -> None:
    made = stage(ALBUM)
    name = made.answer("hang", picture=sent(b"tea"))
    with pytest.raises(UnknownBlob):
        read(made, name, "bob")
    assert read(made, name, "bob", b'{"chosen":{"at":0}}')["size"] == 3


def test_text_of_the_same_shape_gives_nobody_a_blob(stage: Staged) -> None:
    """Whoever knows a hash may be able to have the document show it: that is no blob of theirs."""
    source = """
    from cluster import Blob, Command, Document, Record, anyone, field, on

    class Claim(Record):
        hash: str
        size: int
        media_type: str

    class Stage(Document):
        gate = anyone
        hidden: Blob | None = field.private(None)
        claims: list[Claim] = field.public()

        @on.message
        def hide(self, ctx: Command, blob: Blob) -> None:
            self.hidden = blob

        @on.message
        def claim(self, ctx: Command, claim: Claim) -> None:
            self.claims.append(claim)
    """
    made = stage(source)
    made.run("hide", blob=sent(b"secret"))
    made.run("claim", claim=shown(b"secret"))
    assert made.view()["claims"] == [shown(b"secret")]
    with pytest.raises(UnknownBlob):
        read(made, name_of(b"secret"))


def test_a_document_without_blobs_answers_as_one_that_shows_none(stage: Staged) -> None:
    made = stage("from cluster import Document, anyone\n\nclass Stage(Document):\n    gate = anyone\n")
    with pytest.raises(UnknownBlob):
        read(made, name_of(b"tea"))
    assert BLOBS_FIELD.encode() not in made.instance.dump()
