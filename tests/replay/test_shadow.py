"""Shadow replay: what a history would have come to under other code, difference by difference."""

from __future__ import annotations

import base64
import json
import textwrap
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.connections import connection_payload
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import DELETE_CHANNEL, UPGRADE_CHANNEL, Code, Instance, Invocation
from cluster.errors import InvalidRequest
from cluster.ids import DocumentId, Principal
from cluster.replay.shadow import Past, Shadowed, shadow
from cluster.shard.document import LiveDocument

PLACE = DocumentId("tab", "one")
TIME = Principal("system:time", "moot")
ALICE, BOB = Principal("alice", "acme"), Principal("bob", "acme")
FIRST = """
from cluster import Command, Document, Principal, Refused, anyone, field, on, read

class Broke(Refused):
    "There is not enough."

class Tab(Document, version=1):
    gate = anyone
    owner: str = field.public("")
    left: int = field.public(10)
    paid: list[int] = field.private()

    @on.construct
    def open(self, ctx: Command) -> None:
        self.owner = str(ctx.sender)

    @on.message
    def pay(self, ctx: Command, cents: int) -> int:
        if cents > self.left:
            raise Broke()
        self.left -= cents
        self.paid.append(cents)
        return self.left

    @read.view
    def mine(self, who: Principal) -> bool:
        return str(who) == self.owner
"""


def program(source: str) -> DocumentProgram:
    return BundleLoader().load(bundle.from_source(textwrap.dedent(source), name="tab").encode())


BELL = """
from datetime import timedelta
from cluster import Command, Document, anyone, field, on

class Bell(Document, version=1):
    gate = anyone
    rung: int = field.public(0)

    @on.message
    def wind(self, ctx: Command, seconds: int) -> None:
        ctx.after(timedelta(seconds=seconds), self.ring, 1)

    @on.alarm
    def ring(self, ctx: Command, times: int) -> None:
        self.rung += times

    @on.delete
    def drop(self, ctx: Command) -> bool:
        return self.rung > 0
"""


class Lived:
    """A document's life so far, and its history as a node would give it."""

    def __init__(self, source: str = FIRST) -> None:
        self.code = program(source)
        self.programs = {self.code.code_hash: self.code}
        self.instance: Instance = self.code.new(PLACE)
        self.history: list[Past] = []
        self._run("create", "", {}, ALICE)

    def pay(self, cents: int, who: Principal = ALICE) -> None:
        self._run("send", "pay", {"cents": cents}, who)

    def _run(self, kind: str, channel: str, arguments: dict[str, Any], who: Principal) -> None:
        payload = self.code.check(channel, json.dumps(arguments).encode())
        self.keep(kind, channel, payload, who, 1_000)

    def keep(self, kind: str, channel: str, payload: bytes, who: Principal, now_ms: int) -> None:
        index = len(self.history) + 1
        seed = index.to_bytes(32, "little")
        invocation = Invocation(DELETE_CHANNEL if kind == "delete" else channel, payload, who, now_ms, seed, index)
        fires = kind in ("alarm", "connect", "disconnect")
        outcome = self.instance.fire(invocation) if fires else self.instance.run(invocation)
        code_hash = self.code.code_hash
        self.history.append(Past(kind, channel, payload, who, now_ms, seed, 1, index, outcome.code.name, code_hash))

    def wind(self, seconds: int) -> None:
        self._run("send", "wind", {"seconds": seconds}, ALICE)

    def pass_time(self, now_ms: int) -> None:
        for due in self.instance.due(now_ms, 10):
            self.keep("alarm", due.channel, due.payload, TIME, now_ms)

    def upgrade(self, source: str) -> None:
        index = len(self.history) + 1
        after = program(source)
        sender = Principal("upgrade", "moot")
        order = Invocation(UPGRADE_CHANNEL, b"{}", sender, 1_000, bytes(32), index)
        instance, outcome = after.upgrade(PLACE, self.instance.dump(), self.code, order)
        assert instance is not None
        self.code, self.instance = after, instance
        self.programs[after.code_hash] = after
        code = outcome.code.name
        self.history.append(Past("upgrade", UPGRADE_CHANNEL, b"{}", sender, 1_000, bytes(32), 1, index, code, after.code_hash))

    def forked(self) -> None:
        """As `moot doc fork --to` logs it: the state with the command, from another document's position on."""
        order = {
            "source": "tab/other", "position": [1, 7], "seen_by": "", "code": self.code.code_hash.hex(),
            "state": base64.b64encode(self.instance.dump()).decode(),
        }  # fmt: skip
        self._taken("fork", order, 1, 8)

    def thawed(self) -> None:
        """As `moot doc thaw` logs it: a whole record with the command, which begins another epoch."""
        live = LiveDocument(PLACE)
        live.program, live.instance, live.code_hash = self.code, self.instance, self.code.code_hash
        live.epoch, live.index = 1, len(self.history)
        record = base64.b64encode(live.record()).decode()
        self._taken("thaw", {"node": "n1", "reason": "it is right", "epoch": 2, "record": record}, 2, live.index + 1)

    def _taken(self, kind: str, order: dict[str, Any], epoch: int, index: int) -> None:
        payload, operator = json.dumps(order).encode(), Principal("root", "acme")
        self.history.append(Past(kind, "", payload, operator, 1_000, bytes(32), epoch, index, "OK", self.code.code_hash))

    def under(self, source: str) -> Shadowed:
        return shadow(PLACE, self.history, self.programs, program(source))


def told(found: Shadowed) -> list[tuple[str, str, str, str, str]]:
    return [(each.position, each.what, each.where, each.before, each.after) for each in found.differences]


def second(old: str, new: str) -> str:
    assert old in FIRST
    return FIRST.replace("version=1", "version=2").replace(old, new)


@pytest.fixture(name="lived")
def a_tab_that_was_used() -> Lived:
    lived = Lived()
    lived.pay(4)
    lived.pay(9, BOB)
    lived.pay(6)
    return lived


def test_code_that_does_the_same_shows_nothing(lived: Lived) -> None:
    found = lived.under(second("left -= cents", "left = self.left - cents"))
    assert (found.commands, told(found)) == (4, [])
    assert set(found.steps) == {"create", "pay"}


def test_another_outcome_is_told_with_what_follows_from_it(lived: Lived) -> None:
    found = told(lived.under(second("cents > self.left", "cents >= self.left")))
    assert found[0] == ("1.4", "outcome", "pay", "OK", "REFUSED")
    assert ("1.4", "state", "left", "0", "6") in found
    assert ("1.4", "state", "paid", "[4,6]", "[4]") in found


def test_another_answer_is_told(lived: Lived) -> None:
    found = told(lived.under(second("return self.left\n", "return cents\n")))
    assert found == [("1.2", "answer", "pay", "6", "4"), ("1.4", "answer", "pay", "0", "6")]


def test_messages_that_would_be_refused_are_told(lived: Lived) -> None:
    found = told(
        lived.under(second("cents: int", "cents: str").replace("cents > self.left", "False").replace("int(cents)", "1"))
    )
    assert [row[1] for row in found if row[0] == "1.2"] == ["message"]
    assert "INVALID_PAYLOAD" in found[0][4]


def test_views_are_compared_for_those_who_were_there(lived: Lived) -> None:
    found = told(lived.under(second("return str(who) == self.owner", "return True")))
    assert found == [("1.4", "view", "mine for bob@acme", "false", "true")]


def test_a_field_that_comes_into_sight_is_told(lived: Lived) -> None:
    found = told(lived.under(second("paid: list[int] = field.private()", "paid: list[int] = field.public()")))
    assert ("1.4", "view", "paid for bob@acme", "", "[4,6]") in found


def test_an_upgrade_that_would_fail_is_told(lived: Lived) -> None:
    found = told(lived.under(second('owner: str = field.public("")', "owner: str = field.public('')\n    due: int")))
    assert [row[1] for row in found if row[1] in ("upgrade", "outcome")] == ["outcome", "upgrade"]
    assert "field due is new and has no default" in found[-1][4]


def test_what_costs_much_more_is_told(lived: Lived) -> None:
    found = told(lived.under(second("self.paid.append(cents)", "self.paid.append(sum(1 for _ in range(9_000)) * 0 + cents)")))
    assert [(row[1], row[2]) for row in found] == [("steps", "pay")]


def test_a_history_that_crosses_an_upgrade_is_run_on_both_codes(lived: Lived) -> None:
    newer = second("return self.left\n", "return cents\n")
    lived.upgrade(newer)
    lived.pay(0)
    found = told(lived.under(newer.replace("version=2", "version=3")))
    assert [row[:3] for row in found] == [("1.2", "answer", "pay"), ("1.4", "answer", "pay")], (
        "only what came before it differs"
    )


def test_a_history_without_its_beginning_can_not_be_compared(lived: Lived) -> None:
    with pytest.raises(InvalidRequest, match="does not reach back"):
        shadow(PLACE, lived.history[1:], lived.programs, lived.code)


@pytest.mark.parametrize("taken", ["forked", "thawed"])
def test_a_history_that_an_operator_began_with_a_state_is_compared_from_there(lived: Lived, taken: str) -> None:
    """What went before a thaw ran on replicas that differ, and what went before a fork is another document's."""
    getattr(lived, taken)()
    assert not told(lived.under(second("", "")))
    lived.pay(0)
    at = f"{lived.history[-1].epoch}.{lived.history[-1].index}"
    found = told(lived.under(second("self.left -= cents", "self.left -= cents + 5")))
    assert (at, "answer", "pay", "0", "-5") in found
    assert {position for position, *_ in found} == {at}


def test_a_state_that_could_not_be_upgraded_is_told_where_an_operator_brought_it(lived: Lived) -> None:
    lived.forked()
    found = told(lived.under(second('owner: str = field.public("")', "owner: str = field.public('')\n    due: int")))
    assert [row[:2] for row in found] == [("1.8", "upgrade")]


def test_nothing_of_the_document_is_touched(lived: Lived) -> None:
    before = lived.instance.dump()
    lived.under(second("left -= cents", "left -= 2 * cents"))
    assert lived.instance.dump() == before
    assert lived.history[-1].code == Code.OK.name


def test_alarms_of_the_past_ring_on_both_codes() -> None:
    lived = Lived(BELL)
    lived.wind(seconds=5)
    lived.pass_time(7_000)
    assert told(lived.under(BELL.replace("version=1", "version=2"))) == []
    found = told(lived.under(BELL.replace("version=1", "version=2").replace("seconds=seconds", "seconds=2 * seconds")))
    assert found[0][:3] == ("1.3", "message", "-alarm"), "it is not due yet there"
    found = told(lived.under(BELL.replace("version=1", "version=2").replace("+= times", "+= 2 * times")))
    assert ("1.3", "state", "rung", "1", "2") in found


def test_a_deletion_is_judged_by_both_codes_and_ends_the_comparison() -> None:
    lived = Lived(BELL)
    lived.keep("delete", "", b"{}", ALICE, 1_000)
    lived.wind(seconds=5)
    lived.pass_time(7_000)
    lived.keep("delete", "", b"{}", ALICE, 8_000)
    assert told(lived.under(BELL.replace("version=1", "version=2"))) == []
    found = told(lived.under(BELL.replace("version=1", "version=2").replace("self.rung > 0", "True")))
    assert [row[:3] for row in found] == [("1.2", "outcome", "delete")]


DOOR = """
from cluster import Command, Document, anyone, field, on

class Door(Document, version=1):
    gate = anyone
    here: list[str] = field.public()
    came: int = field.public(0)

    @on.connect
    def arrive(self, ctx: Command) -> None:
        self.here.append(ctx.cause)
        self.came += 1

    @on.disconnect
    def leave(self, ctx: Command) -> None:
        self.here.remove(ctx.cause)
"""


def test_who_came_and_went_comes_and_goes_under_the_other_code_too() -> None:
    lived = Lived(DOOR)
    for kind, connection in (("connect", "bob@acme#1"), ("connect", "bob@acme#2"), ("disconnect", "bob@acme#1")):
        lived.keep(kind, f"-{kind}", connection_payload(connection), BOB, 1_000)
    other = DOOR.replace("version=1", "version=2")
    assert told(lived.under(other)) == []
    twice = lived.under(other.replace("self.came += 1", "self.came += 2"))
    assert ("state", "came", "2", "4") in [each[1:] for each in told(twice)]
    deaf = lived.under(other.replace("    @on.connect\n", "").replace("    @on.disconnect\n", ""))
    assert {each[1] for each in told(deaf)} == {"state"}, "nobody is told; what the state then lacks is"
