"""Replicas move and leaders hand over by hand while clients write; whoever drives it, or leads, may die in the middle.

One cluster of five nodes with three replicas of each shard serves all tests; each takes it as the one before left it. The tests
end with the writers' ledgers compared number by number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from chaos.live.load import LEDGER, Load
from chaos.live.processes import LiveCluster, until
from cluster.cli.local import LocalNode
from cluster.cli.output import Exit
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError, NoReplica, RejectedError, RetryableError
from cluster.ids import ShardId
from cluster.storage import keys
from cluster.storage.engine import Family
from cluster.storage.rocks import RocksEngine, RocksSettings
from cluster.v1 import admin_pb2
from tests.cli.terminal import Finished, moot

SHARD = 1


@pytest.fixture(scope="module", name="live")
def five_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """Five healthy nodes, two shards, three replicas of each."""
    live = LiveCluster(tmp_path_factory.mktemp("moves") / "cluster", 5, shards=2, settings={"placement": "off"})

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


class Shard:
    """One shard as its leader has it now."""

    def __init__(self, live: LiveCluster, configuration: Any) -> None:
        self.configuration = configuration
        members = {member.node_id: member for member in configuration.members}
        self.leader = live.local.find(configuration.leader)
        self.voters = [live.local.find(name) for name, each in members.items() if each.role != admin_pb2.REPLICA_ROLE_LEARNER]
        self.learners = [live.local.find(name) for name, each in members.items() if each.role == admin_pb2.REPLICA_ROLE_LEARNER]
        self.followers = [node for node in self.voters if node is not self.leader]
        self.others = [node for node in live.nodes if node.node_id not in members]


async def shard_of(live: LiveCluster) -> Shard:
    """The configuration as a running node that leads has it."""

    async def probe() -> Shard | None:
        for node in live.running():
            try:
                answer = await ask_one(node.address, "GetShardConfiguration", shard_id=SHARD)
            except ClusterError:
                continue
            if answer.leader == node.node_id:
                return Shard(live, answer)
        return None

    found = await until(probe, f"a leader of shard {SHARD}")
    assert found is not None
    return found


async def documents(live: LiveCluster, test: str) -> list[str]:
    """Names of two ledgers in the shard that moves and of one in another."""
    inside: list[str] = []
    outside: list[str] = []
    for number in range(40):
        key = f"{test}-{number}"
        answer = await ask_one(live.running()[0].address, "Where", document={"space": "ledger", "key": key})
        (inside if answer.shard.shard_id == SHARD else outside).append(key)
    return [*inside[:2], outside[0]]


async def typed(live: LiveCluster, *arguments: str, at: LocalNode | None = None) -> Finished:
    """`moot shards ARGUMENTS --json`, with all nodes named that run, or one."""
    addresses = ",".join(node.address for node in ([at] if at is not None else live.running()))
    return await asyncio.to_thread(moot, "shards", *arguments, "--json", "--address", addresses, cwd=live.local.folder)


async def move(live: LiveCluster, leaving: LocalNode, joining: LocalNode, *more: str) -> Finished:
    return await typed(live, "move", str(SHARD), "--from", leaving.node_id, "--to", joining.node_id, *more)


async def step(leader: LocalNode, leaving: LocalNode, joining: LocalNode) -> Any:
    """One step of a move, at the leader itself; None when it says to come back."""
    names = {"from_node": leaving.node_id, "to_node": joining.node_id}
    try:
        return await ask_one(leader.address, "MoveReplica", shard_id=SHARD, **names)  # type: ignore[arg-type]
    except RetryableError:
        return None


async def check_moved(live: LiveCluster, load: Load, keys_written: list[str], leaving: LocalNode, joining: LocalNode) -> None:
    """Nothing lost, doubled or reordered; the members hold equal records; the old node holds nothing; the map says so."""
    await load.settle()
    assert await load.verify() > 0
    shard = await shard_of(live)
    assert joining in shard.voters
    assert leaving not in shard.voters
    assert (len(shard.voters), shard.learners) == (3, [])
    for node in live.running():
        where = await ask_one(node.address, "Where", document={"space": "ledger", "key": keys_written[0]})
        assert {replica.node_id for replica in where.shard.replicas} == {voter.node_id for voter in shard.voters}
    for key in keys_written[:2]:
        inspected = await live.converged("ledger", key, 1)
        assert set(inspected) == {voter.node_id for voter in shard.voters}
        assert len({each.record_hash for each in inspected.values()}) == 1
    if leaving in live.running():
        await until(lambda: holds_nothing(leaving, keys_written[0]), f"{leaving.node_id} has erased its replica")
    print(f"\n  longest pause of one document's writers: {load.longest_pause_ms:.0f} ms")


async def holds_nothing(node: LocalNode, key: str) -> bool:
    for method, fields in (
        ("GetShardConfiguration", {"shard_id": SHARD}),
        ("InspectDocument", {"document": {"space": "ledger", "key": key}}),
    ):
        try:
            await ask_one(node.address, method, **fields)
        except NoReplica:
            continue
        return False
    return True


def stored_of_shard(live: LiveCluster, node: LocalNode) -> list[tuple[Family, bytes]]:
    """Keys of the shard in the directory of a node that is stopped."""
    shard = keys.history_shard(ShardId(SHARD))
    prefixes = [(Family.LOG, shard), (Family.RECORDS, shard), (Family.HISTORY, shard)]
    prefixes += [(Family.META, tag + shard) for tag in (b"\x01", b"\x02")]
    engine = RocksEngine.open(live.local.data_path(node) / "store", RocksSettings())
    try:
        return [
            (family, key) for family, prefix in prefixes for key, _ in engine.scan(family, prefix, keys.after_prefix(prefix))
        ]
    finally:
        engine.close()


async def test_a_voter_is_replaced_under_load_and_nothing_of_it_comes_back(live: LiveCluster) -> None:
    written = await documents(live, "replace")
    async with Load(live, written) as load:
        shard = await shard_of(live)
        leaving, joining = shard.followers[0], shard.others[0]
        done = await move(live, leaving, joining)
        assert done.code == Exit.DONE, done.out
        assert {"adding", "exchanging", "removing"} <= set(done.json["stages_ms"])
        again = await move(live, leaving, joining)
        assert (again.code, again.json["changed"]) == (Exit.DONE, False)
        await load.flows()
        await check_moved(live, load, written, leaving, joining)
    await ask_one(leaving.address, "Checkpoint")  # what it has erased is durable
    await live.kill(leaving)
    assert stored_of_shard(live, leaving) == []
    live.local.start(leaving)
    await live.healthy()
    assert await holds_nothing(leaving, written[0])
    async with live.client(leaving) as client:
        entries = (await client.read("ledger", written[0])).value["entries"]
    assert len(entries) > 1, "the node that has none of it still answers for it"
    log = ("doc", "log", f"ledger/{written[0]}", "--limit", "2", "--json", "--address", leaving.address)
    shown = await asyncio.to_thread(moot, *log, cwd=live.local.folder)
    assert [command["kind"] for command in shown.json["commands"]][:1] == ["create"], shown.out


async def test_the_leaders_own_replica_moves_and_leadership_is_handed_over_under_load(live: LiveCluster) -> None:
    written = await documents(live, "leader")
    async with Load(live, written) as load:
        shard = await shard_of(live)
        leaving, joining = shard.leader, shard.others[0]
        done = await move(live, leaving, joining)
        assert done.code == Exit.DONE, done.out
        await load.flows()
        successor = (await shard_of(live)).followers[0]
        handed = await typed(live, "transfer", str(SHARD), "--to", successor.node_id, at=leaving)
        assert (handed.code, handed.json["leader"]) == (Exit.DONE, successor.node_id), handed.out
        best = await typed(live, "transfer", str(SHARD))
        assert best.json["done"], best.out
        assert best.json["leader"] != successor.node_id
        await load.flows()
        await check_moved(live, load, written, leaving, joining)


async def test_a_move_goes_on_when_the_leader_dies_before_the_learner_has_a_vote(live: LiveCluster) -> None:
    written = await documents(live, "learner")
    async with Load(live, written) as load:
        shard = await shard_of(live)
        leader, leaving, joining = shard.leader, shard.followers[0], shard.others[0]
        live.local.pause(joining)
        late = await move(live, leaving, joining, "--force", "--timeout", "2")
        assert (late.code, late.json["error"]["reason"]) == (Exit.NO, "NOT_DONE"), late.out
        half_way = await shard_of(live)
        assert half_way.learners == [joining]
        status = await ask_one(leader.address, "GetStatus")
        assert list(status.shards_changing) == [SHARD]
        other = next(node for node in half_way.others if node is not joining)
        refused = await move(live, leader, other)
        assert (refused.code, refused.json["error"]["reason"]) == (Exit.REFUSED, "INVALID_MOVE"), refused.out

        await live.kill(leader)
        live.local.resume(joining)
        done = await move(live, leaving, joining)
        assert done.code == Exit.DONE, done.out
        await load.flows()
        live.start_all()
        await live.healthy()
        await check_moved(live, load, written, leaving, joining)


async def test_a_move_goes_on_when_the_leader_dies_inside_the_joint_configuration(live: LiveCluster) -> None:
    """The joint entry reaches the new voter alone: the old ones hang, so it can not be committed before the leader dies."""
    written = await documents(live, "joint")
    async with Load(live, written) as load:
        shard = await shard_of(live)
        leader, leaving, joining = shard.leader, shard.followers[0], shard.others[0]
        await until(lambda: _learns(live, leader, leaving, joining), "the learner has caught up")
        for node in shard.followers:
            live.local.pause(node)
        joint = await until(lambda: step(leader, leaving, joining), "the leader exchanges the voters", 5)
        assert joint.stage == admin_pb2.MOVE_STAGE_EXCHANGING
        await live.kill(leader)
        for node in shard.followers:
            live.local.resume(node)
        done = await move(live, leaving, joining)
        assert done.code == Exit.DONE, done.out
        await load.flows()
        live.start_all()
        await live.healthy()
        await check_moved(live, load, written, leaving, joining)


async def _learns(live: LiveCluster, leader: LocalNode, leaving: LocalNode, joining: LocalNode) -> bool:
    """Whether the learner is there and the next step would exchange voters; begins the move."""
    answer = await ask_one(leader.address, "GetShardConfiguration", shard_id=SHARD)
    learner = next((member for member in answer.members if member.node_id == joining.node_id), None)
    if learner is None:
        await step(leader, leaving, joining)
        return False
    return bool(answer.committed and learner.match_index > 0 and learner.lag_entries < 100)


async def test_the_replica_of_a_dead_leader_moves_and_its_node_erases_it_when_it_is_back(live: LiveCluster) -> None:
    written = await documents(live, "dead")
    async with Load(live, written) as load:
        shard = await shard_of(live)
        leaving, joining = shard.leader, shard.others[0]
        await live.kill(leaving)
        done = await move(live, leaving, joining)
        assert done.code == Exit.DONE, done.out
        await load.flows()
        live.start_all()
        await live.healthy()
        await check_moved(live, load, written, leaving, joining)


async def test_what_can_not_be_moved_is_refused_with_its_reason(live: LiveCluster) -> None:
    shard = await shard_of(live)
    holder, stranger = shard.followers[0].node_id, shard.others[0].node_id

    async def refusal(method: str, **fields: Any) -> str:
        with pytest.raises(RejectedError) as raised:
            await ask_one(shard.others[0].address, method, **fields)  # which passes it on
        return raised.value.reason

    for number, leaving, joining, reason in [
        (99, holder, stranger, "UNKNOWN_SHARD"),
        (SHARD, holder, "nobody", "UNKNOWN_NODE"),
        (SHARD, stranger, shard.others[1].node_id, "INVALID_MOVE"),
        (SHARD, holder, shard.leader.node_id, "INVALID_MOVE"),
        (SHARD, holder, holder, "INVALID_MOVE"),
    ]:
        assert await refusal("MoveReplica", shard_id=number, from_node=leaving, to_node=joining) == reason
    assert await refusal("TransferLeader", shard_id=SHARD, to_node=stranger) == "INVALID_MOVE"
    assert await refusal("TransferLeader", shard_id=99) == "UNKNOWN_SHARD"
    assert await refusal("GetShardConfiguration", shard_id=99) == "UNKNOWN_SHARD"
    system = await typed(live, "move", "0", "--from", holder, "--to", stranger)
    assert (system.code, system.json["error"]["reason"]) == (Exit.REFUSED, "INVALID_MOVE")


async def test_a_dead_node_gets_nothing_unless_it_is_forced_and_that_can_be_taken_back(live: LiveCluster) -> None:
    shard = await shard_of(live)
    leaving, joining = shard.followers[0], shard.others[0]
    await live.kill(joining)
    await until(lambda: _looks_dead(live, joining.node_id), f"{joining.node_id} looks dead to all")
    refused = await move(live, leaving, joining)
    assert (refused.code, refused.json["error"]["reason"]) == (Exit.REFUSED, "NODE_DOWN")
    assert (await shard_of(live)).learners == []
    begun = await move(live, leaving, joining, "--force", "--timeout", "1")
    assert begun.code == Exit.NO
    assert "looks dead" in begun.json["error"]["message"]
    assert (await shard_of(live)).learners == [joining]
    taken_back = await move(live, joining, leaving)
    assert taken_back.code == Exit.DONE, taken_back.out
    assert (await shard_of(live)).learners == []
    live.start_all()
    await live.healthy()


async def _looks_dead(live: LiveCluster, name: str) -> bool:
    for node in live.running():
        listed = await ask_one(node.address, "ListNodes")
        if any(each.node_id == name and each.state != admin_pb2.NODE_STATE_DEAD for each in listed.nodes):
            return False
    return True
