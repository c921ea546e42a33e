"""Machines come and go: real nodes join, hold, lead, serve, change their addresses and leave, while clients write.

One cluster that begins with three nodes serves all tests; each takes it as the one before left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.live.load import LEDGER, Load
from chaos.live.processes import LiveCluster, until
from cluster.cli.local import LocalCluster, LocalNode
from cluster.cli.output import Exit
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError
from tests.cli.terminal import Finished, moot

SHARDS = 2


@pytest.fixture(scope="module", name="live")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """Three healthy nodes, two shards and the cluster's own, three replicas of each."""
    live = LiveCluster(tmp_path_factory.mktemp("joining") / "cluster", 3, shards=SHARDS, settings={"placement": "off"})

    async def start() -> None:
        await live.__aenter__()
        await live.deploy("ledger", LEDGER)

    async def stop() -> None:
        await live.__aexit__(None, None, None)

    asyncio.run(start())
    try:
        yield live
    finally:
        asyncio.run(stop())


async def typed(live: LiveCluster, *arguments: str) -> Finished:
    """`moot ARGUMENTS --json` at every node that runs."""
    addresses = ",".join(node.address for node in live.running())
    return await asyncio.to_thread(moot, *arguments, "--json", "--address", addresses, cwd=live.local.folder)


async def add(live: LiveCluster) -> LocalNode:
    """A node joins and serves."""
    node = live.local.add()
    live.local.start(node)
    await until(lambda: ask_one(node.address, "GetStatus"), f"{node.node_id} serves")
    return node


async def shards_of(live: LiveCluster, node: LocalNode) -> list[int]:
    """The shards of which a node holds a voter, as the map has it."""
    listed = await ask_one(live.running()[0].address, "ListShards")
    return [shard.shard_id for shard in listed.shards if node.node_id in {each.node_id for each in shard.replicas}]


async def move(live: LiveCluster, shard: int, leaving: LocalNode, joining: LocalNode) -> None:
    """Drive a move to its end, whoever else may drive it too."""

    async def done() -> bool:
        names = {"from_node": leaving.node_id, "to_node": joining.node_id}
        with contextlib.suppress(ClusterError):
            await ask_one(live.running()[0].address, "MoveReplica", shard_id=shard, **names)  # type: ignore[arg-type]
        return shard not in await shards_of(live, leaving)

    await until(done, f"shard {shard} from {leaving.node_id} to {joining.node_id}")


async def evacuate(live: LiveCluster, node: LocalNode, to: list[LocalNode]) -> None:
    """Everything that a node holds goes to nodes that do not hold it yet."""
    for shard in await shards_of(live, node):
        for joining in to:
            if shard not in await shards_of(live, joining):
                await move(live, shard, node, joining)
                break


async def standing(live: LiveCluster, node: str) -> str:
    listed = await typed(live, "nodes")
    found: list[str] = [row["standing"] for row in listed.json["nodes"] if row["node_id"] == node]
    return found[0] if found else "gone"


async def ends(live: LiveCluster, node: LocalNode) -> tuple[int, str]:
    """A process ends by itself: how, and its last words."""

    async def code() -> Any:
        return live.local.state(node) == "stopped" and [live.local.exit_code(node)]

    found = await until(code, f"{node.node_id} ends")
    return found[0], live.local.log_path(node).read_text()[-3_000:]


async def test_three_become_five_and_three_again_and_nothing_is_lost(live: LiveCluster) -> None:
    """The two first nodes go, with the cluster's own shard; writers go on all the time."""
    n1, n2, n3 = live.nodes
    keys = [f"grown-{number}" for number in range(3)]
    async with Load(live, keys) as load:
        n4, n5 = await add(live), await add(live)
        assert {await standing(live, node.node_id) for node in live.nodes} == {"active"}
        for shard in range(1, SHARDS + 1):
            await move(live, shard, n1, n4)
        await load.flows()
        blocked = await typed(live, "node", "decommission", "n9", "--dry-run")
        assert blocked.code == Exit.REFUSED
        for node, others in ((n1, [n4, n5]), (n2, [n5, n4])):
            dry = await typed(live, "node", "decommission", node.node_id, "--dry-run")
            assert dry.code == Exit.DONE, dry.out
            assert await standing(live, node.node_id) == "active"
            begun = await typed(live, "node", "decommission", node.node_id, "--timeout", "0")
            assert (begun.code, begun.json["standing"]) == (Exit.NO, "decommissioning"), begun.out
            await evacuate(live, node, others)
            await load.flows()
            gone = await typed(live, "node", "decommission", node.node_id, "--timeout", "60")
            assert (gone.code, gone.json["standing"]) == (Exit.DONE, "removed"), gone.out + gone.err
            code, words = await ends(live, node)
            assert code == Exit.OPERATOR
            assert "NODE_REMOVED" in words
            assert await standing(live, node.node_id) == "gone"
            live.local.forget(node)
        assert [node.node_id for node in live.nodes] == ["n3", "n4", "n5"]
        await load.flows()
        await load.settle()
        assert await load.verify() > 0
    await live.healthy()
    refused = await typed(live, "node", "decommission", "n3")
    assert refused.code == Exit.REFUSED
    assert {each["lacks"] for each in refused.json["blockers"]} == {"replicas"}
    live.local.start(n1)
    code, words = await ends(live, n1)
    assert code == Exit.OPERATOR
    assert "removed from the cluster for good" in words
    assert n2.node_id not in {each.node_id for each in (await ask_one(n3.address, "ListNodes")).nodes}


async def test_code_that_is_deployed_later_runs_on_nodes_that_joined_and_clients_find_it_everywhere(live: LiveCluster) -> None:
    """No first node is left but one; the newcomer holds nothing and serves in one hop, watches included."""
    newcomer = await add(live)
    await live.deploy("late", LEDGER)
    assert await shards_of(live, newcomer) == []
    async with live.client(newcomer) as client:
        await client.create("late", "a")
        async with client.watch("late", "a") as watch, asyncio.timeout(30):
            await client.send("late", "a", "append", {"number": 7})
            async for change in watch:
                if 7 in change.view["entries"]:
                    break
    holders = {node.node_id for node in await live.holders("late", "a")}
    assert holders == {"n3", "n4", "n5"}


async def test_a_restart_needs_no_join_and_takes_a_changed_address_along(live: LiveCluster) -> None:
    node = next(node for node in live.nodes if node.node_id == "n4")
    assert await asyncio.to_thread(live.local.stop, node)
    before = node.address
    live.local.readdress(node)
    config = live.local.directory(node) / "moot.toml"
    config.write_text("".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith("join")))
    live.local.start(node)
    await live.healthy()
    assert node.address != before
    for other in live.running():
        listed = await ask_one(other.address, "ListNodes")
        assert {each.gateway_address for each in listed.nodes if each.node_id == "n4"} == {node.address}
    async with Load(live, ["readdressed"]) as load:
        await load.flows()
        await load.settle()
        assert await load.verify() > 0
    inspected = await live.converged("ledger", "readdressed", 1)
    assert "n4" in inspected, "it votes from its new address"


async def test_a_drained_node_leads_nothing_and_is_taken_back(live: LiveCluster) -> None:
    node = next(node for node in live.nodes if node.node_id == "n3")
    drained = await typed(live, "node", "drain", "n3")
    assert (drained.code, drained.json["shards_led"]) == (Exit.DONE, []), drained.out
    assert await standing(live, "n3") == "draining"
    held = await shards_of(live, node)
    assert held, "it keeps its replicas"
    undone = await typed(live, "node", "drain", "n3", "--undo")
    assert (undone.code, undone.json["standing"]) == (Exit.DONE, "active")


async def test_a_node_that_is_told_to_stop_hands_over_first(live: LiveCluster) -> None:
    """A rolling restart costs no election timeout: the next leader is there before this one goes."""
    async with Load(live, ["rolled"]) as load:
        leader = await live.leader_of("ledger", "rolled")
        assert await asyncio.to_thread(live.local.stop, leader)
        words = live.local.log_path(leader).read_text()
        assert "handed over" in words
        await load.flows()
        live.local.start(leader)
        await live.healthy()
        await load.settle()
        assert await load.verify() > 0


async def test_a_wiped_disk_is_no_node_of_the_cluster_under_its_old_name(live: LiveCluster) -> None:
    node = live.nodes[-1]
    await live.kill(node)
    live.local.configure(node)
    shutil.rmtree(live.local.data_path(node))
    live.local.start(node)
    code, words = await ends(live, node)
    assert code == Exit.OPERATOR
    assert "IDENTITY_FENCED" in words
    assert f"moot node decommission {node.node_id}" in words
    gone = await typed(live, "node", "decommission", node.node_id, "--timeout", "60")
    assert gone.code == Exit.DONE, gone.out + gone.err
    live.local.forget(node)
    again = await add(live)
    assert again.node_id != node.node_id
    assert await standing(live, again.node_id) == "active"


async def test_a_node_of_another_cluster_is_refused_and_nothing_changes_on_either_side(live: LiveCluster) -> None:
    nodes = [node.node_id for node in (await ask_one(live.running()[0].address, "ListNodes")).nodes]
    foreign = LiveCluster(live.local.folder.with_name("foreign"), 1, shards=1)
    async with foreign:
        pass
    (stranger,) = foreign.nodes
    config = foreign.local.directory(stranger) / "moot.toml"
    lines = config.read_text().splitlines(keepends=True)
    begins = next(place for place, line in enumerate(lines) if line.startswith("initial_nodes"))
    rest = [*lines[:begins], f'join = ["127.0.0.1:{live.running()[0].peer_port}"]\n']
    config.write_text("".join(rest))
    foreign.local.start(stranger)
    code, words = await ends_in(foreign.local, stranger)
    assert code == Exit.OPERATOR
    assert "WRONG_CLUSTER" in words
    assert [node.node_id for node in (await ask_one(live.running()[0].address, "ListNodes")).nodes] == nodes
    foreign.local.configure(stranger)
    foreign.local.start(stranger)
    try:
        await foreign.healthy()
    finally:
        foreign.local.kill_all()


async def ends_in(local: LocalCluster, node: LocalNode) -> tuple[int | None, str]:
    async def stopped() -> bool:
        return local.state(node) == "stopped"

    await until(stopped, f"{node.node_id} ends")
    return local.exit_code(node), local.log_path(node).read_text()[-3_000:]


async def test_a_decommission_moves_everything_by_itself(tmp_path: Path) -> None:
    """The operator types one command, at a node that leads shards and holds the cluster's own; the controller does the rest."""
    live = LiveCluster(tmp_path / "cluster", 3, shards=SHARDS, settings={"placement_warm_up_ms": 2_000})
    async with live:
        await live.deploy("ledger", LEDGER)
        n1 = live.nodes[0]
        newcomer = await add(live)
        async with Load(live, ["moved"]) as load:
            gone = await typed(live, "node", "decommission", "n1", "--timeout", "80")
            assert (gone.code, gone.json["standing"]) == (Exit.DONE, "removed"), gone.out + gone.err
            code, _ = await ends(live, n1)
            assert code == Exit.OPERATOR
            live.local.forget(n1)
            await load.flows()
            await load.settle()
            assert await load.verify() > 0
        await live.healthy()
        assert await shards_of(live, newcomer) == [0, 1, 2]
