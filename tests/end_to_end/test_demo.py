"""The main job in small: real nodes, killed leaders, everything killed at once. And an audit that would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.demo import recording
from chaos.demo.audit import Audit, audit, judge_history
from chaos.demo.run import KEY, SPACE, Result, payload_of, run_demo
from chaos.live.processes import LiveCluster
from cluster.client import connect
from cluster.v1 import admin_pb2, documents_pb2

MESSAGES = 300
UNAVAILABLE_MS_MAX = 15_000


class Silence:
    """Nobody looks."""

    def __init__(self) -> None:
        self.kills: list[tuple[str, int]] = []

    def phase(self, text: str) -> None:
        return

    def acknowledged(self, count: int) -> None:
        return

    def killed(self, node: str, message: int) -> None:
        self.kills.append((node, message))

    def repaired(self, node: str, unavailable_ms: float) -> None:
        return


async def test_nothing_is_lost_when_leaders_are_killed_amid_the_traffic_and_then_everything_at_once(folder: Path) -> None:
    spectator = Silence()
    result = await run_demo(recording.load().first(MESSAGES), folder, spectator, seed=11, shards=4)
    found = result.to_dict()
    assert (found["lost"], found["duplicated"], found["in_order"]) == (0, 0, True), found["trouble"]
    assert (found["text_matches"], found["hashes_equal"]) == (True, True), found["trouble"]
    assert (found["watcher_matches"], found["watcher_resets"]) == (True, 0)
    assert {name: found["after_restart"][name] for name in ("lost", "duplicated", "text_matches", "hashes_equal")} == {
        "lost": 0,
        "duplicated": 0,
        "text_matches": True,
        "hashes_equal": True,
    }
    assert len(spectator.kills) == len(found["unavailable_ms"]) == 2
    assert all(message < MESSAGES for _, message in spectator.kills), "both leaders died amid the traffic"
    assert all(0 < pause_ms < UNAVAILABLE_MS_MAX for pause_ms in found["unavailable_ms"])
    assert result.passed


async def test_audit_notices_a_text_and_a_message_that_are_not_there(live: LiveCluster) -> None:
    """The checker itself is checked: against a real document it passes, and it fails for anything that differs."""
    payloads = [payload_of([(place, 0, letter)]) for place, letter in enumerate("abc")]
    key = f"{KEY}-audited"
    async with live.client() as client:
        await client.create(SPACE, key)
        for payload in payloads:
            await client.send(SPACE, key, "edit", payload)
    assert (await audit(live, SPACE, key, "abc", payloads)).passed
    wrong_text = await audit(live, SPACE, key, "abd", payloads)
    assert not wrong_text.text_matches
    assert not wrong_text.passed
    doubled = await audit(live, SPACE, key, "abc", payloads[:2])
    assert doubled.duplicated == 1
    assert not doubled.passed
    reordered = await audit(live, SPACE, key, "abc", [payloads[1], payloads[0], payloads[2]])
    assert not reordered.in_order
    assert not reordered.passed


def history(*payloads: bytes, code: str = "OK") -> list[admin_pb2.HistoryCommand]:
    made = [
        admin_pb2.HistoryCommand(
            kind=admin_pb2.COMMAND_KIND_CREATE, code="OK", position=documents_pb2.Position(epoch=1, index=1)
        )
    ]
    for place, payload in enumerate(payloads):
        position = documents_pb2.Position(epoch=1, index=place + 2)
        made.append(
            admin_pb2.HistoryCommand(kind=admin_pb2.COMMAND_KIND_MESSAGE, code=code, payload=payload, position=position)
        )
    return made


@pytest.mark.parametrize(
    ("commands", "lost", "duplicated", "in_order"),
    [
        (history(b'{"n":1}', b'{"n":2}'), 0, 0, True),
        (history(b'{"n":1}'), 1, 0, True),
        (history(b'{"n":1}', b'{"n":2}', b'{"n":2}'), 0, 1, True),
        (history(b'{"n":2}', b'{"n":1}'), 0, 0, False),
        (history(b'{"n":1}', b'{"n":2}', code="FAILED"), 0, 0, False),
    ],
    ids=["as sent", "lost", "doubled", "reordered", "not applied"],
)
def test_history_is_judged_message_by_message(
    commands: list[admin_pb2.HistoryCommand], lost: int, duplicated: int, in_order: bool
) -> None:
    found = Audit()
    judge_history("n1", commands, [b'{"n": 1}', b'{"n": 2}'], found)
    assert (found.lost, found.duplicated, found.in_order) == (lost, duplicated, in_order)
    assert found.passed == (not lost and not duplicated and in_order)


@pytest.mark.parametrize("flaw", ["watcher_matches", "watcher_resets", "acks_in_order"])
def test_demo_fails_for_each_thing_that_can_be_wrong(flaw: str) -> None:
    result = Result("r", 1, 1, 3, watcher_matches=True)
    assert result.passed
    setattr(result, flaw, 1 if flaw == "watcher_resets" else False)
    assert not result.passed


async def test_client_outlives_the_death_of_its_own_gateway(folder: Path) -> None:
    """A write in flight at the node that dies is answered by another, once."""
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("counter", Path(__file__).parents[2] / "cluster" / "examples" / "counter.py")
        async with connect(*live.addresses, principal="alice@acme") as client:
            await client.create("counter", "a")
            used = next(node for node in live.nodes if node.address == client.address)
            pending = [client.send_nowait("counter", "a", "add", b'{"amount":1}') for _ in range(50)]
            await live.kill(used)
            answers = [await each for each in pending]
            assert [answer.position.index for answer in answers] == list(range(2, 52))
            assert (await client.read("counter", "a")).value["total"] == 50
