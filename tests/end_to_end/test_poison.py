"""A command that ends every node which applies it: the shard halts there and says so, everything else goes on, an operator
decides.

The nodes run with the test hook `poison_hook`, so that a payload with the marker ends the process as a fault of ours would.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import LiveCluster, until
from cluster.cli.local_commands import example
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError, DocumentFrozen, OutcomeUnknown, Unavailable
from cluster.node.marker import ENDINGS_TO_SUSPECT
from cluster.session.client_events import Settings
from tests.cli.terminal import moot

MARKER = "the-poison"
SHARDS = 4
ENDED_BY_THE_HOOK = 86
SEND_TIMEOUT_MS = 3_000


async def test_poison_halts_its_shard_until_an_operator_isolates_the_command(folder: Path) -> None:
    async with LiveCluster(folder, shards=SHARDS, settings={"poison_hook": MARKER}) as live:
        await live.deploy("counter", example("counter"))
        async with live.client() as client:
            await asyncio.gather(*(client.create("counter", f"k{number}") for number in range(12)))
        victim, neighbour, elsewhere = await _three_documents(live)
        await _poison(live, victim)
        supervisor = Supervisor(live)
        place = await until(supervisor.halted, "the shard is halted on every node, with its place", 90)
        assert max(supervisor.deaths.values()) <= ENDINGS_TO_SUSPECT, "no node dies of it a third time"

        async with live.client() as client:
            assert (await client.send("counter", elsewhere, "add", b'{"amount":2}')).value == 2, "other shards serve"
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await _send_briefly(live, neighbour)

        assert place is not None
        await _isolate(live, *place)
        async with live.client() as client:
            assert (await client.send("counter", neighbour, "add", b'{"amount":3}')).value >= 3, "its neighbours go on"
            with pytest.raises(DocumentFrozen):
                await client.send("counter", victim, "add", b'{"amount":1}')
            assert (await client.read("counter", victim)).value["value"] == "", "the poisoned command wrote nothing"
            log: Any = await client.admin("ReadHistory", document={"space": "counter", "key": victim})
            assert [command.code for command in log.commands] == ["OK", "POISONED"]
        inspected = await live.converged("counter", victim, 2)
        assert len({each.record_hash for each in inspected.values()}) == 1
        assert all(each.frozen for each in inspected.values())
        await _repair(live, victim)
        async with live.client() as client:
            assert (await client.send("counter", victim, "add", b'{"amount":1}')).value == 8, "repaired and thawed"


async def _three_documents(live: LiveCluster) -> tuple[str, str, str]:
    """Two documents of one shard, and one of another."""
    by_shard: dict[int, list[str]] = {}
    for number in range(12):
        key = f"k{number}"
        answer = await ask_one(live.addresses[0], "Where", document={"space": "counter", "key": key})
        by_shard.setdefault(answer.shard.shard_id, []).append(key)
    together = next(keys for keys in by_shard.values() if len(keys) >= 2)
    other = next(keys for keys in by_shard.values() if keys is not together)
    return together[0], together[1], other[0]


async def _poison(live: LiveCluster, key: str) -> None:
    """Send the command until every node has died of it once: those that lack the quorum to commit it die at their restart."""
    client = live.client(live.nodes[0])
    try:
        async with client as session:
            session.send_nowait("counter", key, "put", {"value": MARKER})
            await until(lambda: _somebody_died(live), "a node dies of the command")
    except ClusterError:
        pass


async def _somebody_died(live: LiveCluster) -> bool:
    return any(live.local.exit_code(node) == ENDED_BY_THE_HOOK for node in live.nodes)


class Supervisor:
    """Starts nodes again whenever they stop, as a service manager does, and counts how often each died of the command."""

    def __init__(self, live: LiveCluster) -> None:
        self._live = live
        self.deaths = {node.node_id: 0 for node in live.nodes}

    async def halted(self) -> tuple[int, int, int] | None:
        """Where the shard is halted, once all nodes run and say so."""
        for node in self._live.nodes:
            if self._live.local.state(node) == "stopped":
                assert self._live.local.exit_code(node) == ENDED_BY_THE_HOOK
                self.deaths[node.node_id] += 1
                self._live.local.start(node)
        return await _halted_everywhere(self._live)


async def _halted_everywhere(live: LiveCluster) -> tuple[int, int, int] | None:
    places = set()
    for node in live.nodes:
        if live.local.state(node) != "running":
            return None
        try:
            listed = await ask_one(node.address, "ListHalted")
        except ClusterError:
            return None
        if not listed.halted:
            return None
        places |= {(each.shard_id, each.raft_index, each.offset) for each in listed.halted}
    assert len(places) == 1, f"one command is to blame everywhere: {places}"
    return places.pop()


async def _send_briefly(live: LiveCluster, key: str) -> None:
    async with live.client(settings=Settings(operation_timeout_ms=SEND_TIMEOUT_MS)) as client:
        await client.send("counter", key, "add", b'{"amount":1}')


async def _isolate(live: LiveCluster, shard: int, index: int, offset: int) -> None:
    command = ["shards", "isolate", str(shard), str(index), str(offset), "--reason", "test"]
    done = await asyncio.to_thread(moot, *command, "--address", live.addresses[0], cwd=live.local.folder)
    assert done.code == 0, done.err
    await until(lambda: _nothing_halted(live), "no shard is halted any more")


async def _repair(live: LiveCluster, key: str) -> None:
    patch = '[{"op": "replace", "path": "/total", "value": 7}]'
    command = ["doc", "repair", f"counter/{key}", "--patch", patch, "--reason", "test", "--thaw", "--expect-position", "1.2"]
    done = await asyncio.to_thread(moot, *command, "--address", live.addresses[0], cwd=live.local.folder)
    assert done.code == 0, done.err


async def _nothing_halted(live: LiveCluster) -> bool:
    for node in live.nodes:
        listed = await ask_one(node.address, "ListHalted")
        if listed.halted:
            return False
    return True
