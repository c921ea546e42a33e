"""What was acknowledged is there after everything was killed; and a directory that is not a node's own does not pass for it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from chaos.live.processes import LiveCluster, until
from cluster.cli.local_commands import example, last_words
from cluster.cli.output import Exit
from cluster.client import Consistency
from cluster.ids import Position
from cluster.session.client_events import Settings

PATIENT = Settings(operation_timeout_ms=60_000)
KEYS = [f"doc-{number}" for number in range(12)]


async def test_nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once_amid_writes(folder: Path) -> None:
    """kill -9 everywhere with writes in flight, twice: each document has at least its acknowledged messages, and none twice."""
    async with LiveCluster(folder, shards=4) as live:
        await live.deploy("counter", example("counter"))
        acknowledged = dict.fromkeys(KEYS, 0)
        sent = dict.fromkeys(KEYS, 0)
        async with live.client() as client:
            await asyncio.gather(*(client.create("counter", key) for key in KEYS))
        for _ in range(2):
            await _write_until_killed(live, acknowledged, sent)
            live.start_all()
            await live.healthy()
            async with live.client() as client:
                for key in KEYS:
                    total = (await client.read("counter", key)).value["total"]
                    assert acknowledged[key] <= total <= sent[key], key
                    # what was in flight may or may not have happened; from here on it is known.
                    acknowledged[key] = sent[key] = total
        assert sum(acknowledged.values()) > len(KEYS)
        for key in KEYS:
            inspected = await live.converged("counter", key, acknowledged[key] + 1)
            assert len({each.record_hash for each in inspected.values()}) == 1


async def _write_until_killed(live: LiveCluster, acknowledged: dict[str, int], sent: dict[str, int]) -> None:
    async def writer(key: str) -> None:
        while True:
            sent[key] += 1
            await client.send("counter", key, "add", b'{"amount":1}')
            acknowledged[key] += 1

    async with live.client() as client:
        writers = [asyncio.ensure_future(writer(key)) for key in KEYS]
        try:
            await until(lambda: _some(acknowledged, live), "some acknowledged writes of every document")
            await live.kill_all()
        finally:
            for task in writers:
                task.cancel()
            await asyncio.gather(*writers, return_exceptions=True)


async def _some(acknowledged: dict[str, int], live: LiveCluster) -> bool:
    assert live.running()
    return all(count >= 3 for count in acknowledged.values()) and sum(acknowledged.values()) >= 300


async def test_node_that_hangs_does_not_stop_the_others_and_catches_up(folder: Path) -> None:
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("counter", example("counter"))
        async with live.client() as client:
            await client.create("counter", "a")
        leader = await live.leader_of("counter", "a")
        others = [node for node in live.nodes if node is not leader]
        live.local.pause(leader)
        async with live.client(*others) as client:
            for number in range(20):
                await client.send("counter", "a", "add", b'{"amount":1}')
                assert (await client.read("counter", "a")).value["total"] == number + 1
        live.local.resume(leader)
        await live.healthy()
        inspected = await live.converged("counter", "a", 21)
        assert len({each.record_hash for each in inspected.values()}) == 1
        async with live.client(leader) as client:
            seen = await client.read("counter", "a", consistency=Consistency.AT_LEAST, at_least=Position(1, 21))
            assert seen.value["total"] == 20


async def test_wiped_node_under_its_old_name_is_fenced_and_the_others_go_on(folder: Path) -> None:
    """A wiped node has forgotten its votes: it would vote twice. It must stop, say why, and leave the cluster as it was."""
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("counter", example("counter"))
        async with live.client() as client:
            await client.create("counter", "a")
            await client.send("counter", "a", "add", b'{"amount":7}')
        victim, *others = reversed(live.nodes)
        await live.kill(victim)
        shutil.rmtree(live.local.data_path(victim))
        live.local.start(victim)
        await until(lambda: _stopped(live, victim.node_id), "the wiped node stops")
        assert live.local.exit_code(victim) == Exit.OPERATOR
        assert "IDENTITY_FENCED" in live.local.log_path(victim).read_text(), last_words(live.local.log_path(victim))
        async with live.client(*others) as client:
            await client.send("counter", "a", "add", b'{"amount":1}')
            assert (await client.read("counter", "a")).value["total"] == 8


async def _stopped(live: LiveCluster, node_id: str) -> bool:
    return live.local.state(live.local.find(node_id)) == "stopped"


async def test_deployed_code_survives_a_restart_of_everything(folder: Path) -> None:
    async with LiveCluster(folder, nodes=3, shards=1) as live:
        await live.deploy("text", example("text"))
        async with live.client() as client:
            await client.create("text", "a", {"content": "before"})
        await live.kill_all()
        live.start_all()
        await live.healthy()
        async with live.client() as client:
            await client.send("text", "a", "edit", {"patches": [{"at": 6, "insert": " and after"}]})
            assert (await client.read("text", "a")).value["body"] == "before and after"


async def test_without_a_majority_writes_wait_and_reads_of_any_replica_go_on(folder: Path) -> None:
    async with LiveCluster(folder, shards=1) as live:
        await live.deploy("counter", example("counter"))
        async with live.client() as client:
            await client.create("counter", "a")
        await live.converged("counter", "a", 1)
        survivor, *gone = live.nodes
        for node in gone:
            await live.kill(node)
        async with live.client(survivor, settings=PATIENT) as client:
            read = await client.read("counter", "a", consistency=Consistency.ANY)
            assert read.value["total"] == 0
            waiting = client.send_nowait("counter", "a", "add", b'{"amount":1}')
            for node in gone:
                live.local.start(node)
            assert (await waiting).value == 1
            assert (await client.read("counter", "a")).value["total"] == 1
