"""A command that ends every node which applies it: the shard halts there and says so, everything else goes on, an operator decides.

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

MARKER = "the-poison"
SHARDS = 4
ENDED_BY_THE_HOOK = 86


async def test_poison_halts_its_shard_until_an_operator_isolates_the_command(folder: Path) -> None:
    async with LiveCluster(folder, shards=SHARDS, settings={"poison_hook": MARKER}) as live:
        await live.deploy("counter", example("counter"))
        async with live.client() as client:
            await asyncio.gather(*(client.create("counter", f"k{number}") for number in range(12)))
        victim, neighbour, elsewhere = await _three_documents(live)
        await _poison(live, victim)
        # two unclean ends at one place make a suspect; nodes that have not had two die once more, at most.
        for _ in range(3):
            live.start_all()
            await until(lambda: _settled(live), "every node has stopped or has halted the shard", 60)
            if not await _all_stopped_or_missing(live):
                break
        halted = await until(lambda: _halted_everywhere(live), "the shard is halted on every node, with its place", 60)

        async with live.client() as client:
            assert (await client.send("counter", elsewhere, "add", b'{"amount":2}')).value == 2, "other shards serve"
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await _send_briefly(live, neighbour)

        await _isolate(live, *halted)
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
            await until(lambda: _somebody_died(live), "a node dies of the command", 30)
    except ClusterError:
        pass


async def _somebody_died(live: LiveCluster) -> bool:
    return any(live.local.exit_code(node) == ENDED_BY_THE_HOOK for node in live.nodes)


async def _all_stopped_or_missing(live: LiveCluster) -> bool:
    return any(live.local.state(node) == "stopped" for node in live.nodes)


async def _settled(live: LiveCluster) -> bool:
    """Either some node has stopped again, or all run and report the halt."""
    if await _all_stopped_or_missing(live):
        return True
    return bool(await _halted_everywhere(live))


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
    from cluster.session.client_events import Settings

    async with live.client(settings=Settings(operation_timeout_ms=3_000)) as client:
        await client.send("counter", key, "add", b'{"amount":1}')


async def _isolate(live: LiveCluster, shard: int, index: int, offset: int) -> None:
    from typer.testing import CliRunner

    from cluster.cli.app import app

    command = ["shards", "isolate", str(shard), str(index), str(offset), "--reason", "test"]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--address", live.addresses[0]])
    assert result.exit_code == 0, result.output
    await until(lambda: _nothing_halted(live), "no shard is halted any more", 60)


async def _nothing_halted(live: LiveCluster) -> bool:
    for node in live.nodes:
        listed = await ask_one(node.address, "ListHalted")
        if listed.halted:
            return False
    return True
