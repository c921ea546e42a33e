"""A machine that does not come back: what it held is rebuilt elsewhere by the cluster itself, while clients write."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from chaos.live.load import LEDGER, Load
from chaos.live.processes import LiveCluster, until
from cluster.cli.output import Exit
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError
from tests.cli.terminal import Finished, moot

DEAD_AFTER_MS = 3_000
SETTINGS: dict[str, str | int] = {"placement_dead_after_ms": DEAD_AFTER_MS, "placement_balance_after_ms": 3_000}


async def typed(live: LiveCluster, *arguments: str) -> Finished:
    """`moot ARGUMENTS --json` at the nodes that run."""
    addresses = ",".join(node.address for node in live.running())
    return await asyncio.to_thread(moot, *arguments, "--json", "--address", addresses, cwd=live.local.folder)


async def placement(live: LiveCluster) -> Any:
    """As whoever leads shard 0 tells it, None while nobody does."""
    for node in live.running():
        try:
            return await ask_one(node.address, "ExplainPlacement")
        except ClusterError:
            continue
    return None


async def settled(live: LiveCluster) -> bool:
    answer = await placement(live)
    return answer is not None and answer.settled


async def test_what_a_dead_node_held_is_rebuilt_elsewhere_while_clients_write(tmp_path: Path) -> None:
    async with LiveCluster(tmp_path / "cluster", 5, shards=4, settings=SETTINGS) as live:
        await live.deploy("ledger", LEDGER)
        async with Load(live, [f"rebuilt-{number}" for number in range(4)]) as load:
            await until(lambda: settled(live), "the replicas are where they should be")
            answer = await placement(live)
            dead = next(node for node in live.nodes if node.node_id != answer.node_id)
            await live.kill(dead)
            killed = time.monotonic()
            await until(lambda: _left(live, dead.node_id), f"nothing is on {dead.node_id} any more", 90)
            took_s = time.monotonic() - killed
            assert took_s > DEAD_AFTER_MS / 1000
            await until(lambda: settled(live), "the replicas are where they should be", 60)
            await load.flows()
            await load.settle()
            assert await load.verify() > 0
        print(f"\n  rebuilt {took_s - DEAD_AFTER_MS / 1000:.1f} s after the node counted as dead")
        listed = await typed(live, "shards", "list")
        for row in listed.json["shards"]:
            assert dead.node_id not in row["replicas"]
            assert len(row["replicas"]) == (3 if row["shard"] else 4)
            assert set(row["roles"].values()) == {"leader", "voter"}
        status = await typed(live, "status")
        assert not status.json["shards_under_replicated"]
        assert status.json["failures_tolerated"] >= 1
        live.local.start(dead)
        waited = await typed(live, "status", "--wait-healthy", "--timeout", "90")
        assert waited.code == Exit.DONE, waited.out
        assert waited.json["placement"]["settled"]
        await until(lambda: _evened_out(live), "the node that came back holds its share", 90)


async def _left(live: LiveCluster, name: str) -> bool:
    answer = await ask_one(live.running()[0].address, "ListShards")
    return all(replica.node_id != name for shard in answer.shards for replica in shard.replicas)


async def _evened_out(live: LiveCluster) -> bool:
    answer = await placement(live)
    counts = [node.replicas for node in answer.nodes] if answer is not None else []
    return len(counts) == 5 and max(counts) - min(counts) <= 2 and min(counts) > 0


async def test_what_is_frozen_stands_still_and_why_says_so(tmp_path: Path) -> None:
    async with LiveCluster(tmp_path / "cluster", 4, shards=2, settings=SETTINGS) as live:
        await until(lambda: settled(live), "the replicas are where they should be")
        assert (await typed(live, "shards", "why")).code == Exit.DONE
        frozen = await typed(live, "shards", "freeze")
        assert frozen.json == {"frozen": True, "frozen_shards": [], "changed": True}
        assert not (await typed(live, "shards", "freeze")).json["changed"]
        answer = await placement(live)
        listed = await ask_one(live.nodes[0].address, "ListShards")
        held = {replica.node_id for shard in listed.shards if shard.shard_id == 1 for replica in shard.replicas}
        dead = next(node for node in live.nodes if node.node_id != answer.node_id and node.node_id in held)
        await live.kill(dead)
        await until(lambda: _says(live, "everything is frozen"), "why says that everything is frozen")
        await asyncio.sleep(2 * DEAD_AFTER_MS / 1000)
        assert not await _left(live, dead.node_id)
        one = await typed(live, "shards", "freeze", "1")
        assert one.json["frozen_shards"] == [1]
        thawed = await typed(live, "shards", "thaw")
        assert thawed.json == {"frozen": False, "frozen_shards": [1], "changed": True}
        await until(lambda: _holds_only(live, dead.node_id, 1), "all but the frozen shard have left", 60)
        why = await typed(live, "shards", "why", "1")
        assert why.code == Exit.NO
        assert why.json["shards"][0]["state"] == "frozen"
        unknown = await typed(live, "shards", "freeze", "99")
        assert (unknown.code, unknown.json["error"]["reason"]) == (Exit.REFUSED, "UNKNOWN_SHARD")


async def _says(live: LiveCluster, text: str) -> bool:
    answer = await placement(live)
    return answer is not None and text in answer.standstill


async def _holds_only(live: LiveCluster, name: str, shard: int) -> bool:
    answer = await ask_one(live.running()[0].address, "ListShards")
    held = [each.shard_id for each in answer.shards if any(replica.node_id == name for replica in each.replicas)]
    return held == [shard]
