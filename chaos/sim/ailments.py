"""What a leader may suffer from for good, while everybody else is well: then a majority is healthy and must take over.

This is the second half of what liveness means. That a cluster works when everything is healed is one thing; that it works while
a majority is healthy (design, invariant 8) is another, and only this shows a leader that can not lead and does not notice:
it hears nobody, its disk hangs, its process stands still (Huang et al., 2017, call these gray failures).

Invariant: whoever falls ill can be done without. A record that rots on one node is made good from another, which takes a
while, and a replica that is far behind can meanwhile be given a snapshot only by one that has all records whole. If that is the
leader alone, its illness would be the second loss of the same state, which three replicas can not stand. So it is where one of
three replicas has diverged and the other two must outvote it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from cluster.errors import StorageDamaged
from cluster.ids import ShardId
from cluster.storage import keys
from cluster.storage.engine import Family

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

FOR_EVER_MS = 1e9
RECOVERY_MS = 5_000.0
"""Until what rotted or diverged on one node should have come back from another."""


class Ailment(enum.Enum):
    """DEAF: nothing reaches it, but it is heard. MUTE: the other way. HUNG: its syncs do not return. FROZEN: its process stands
    still and its connections stay."""

    DEAF = "deaf"
    MUTE = "mute"
    HUNG = "hung"
    FROZEN = "frozen"


def befall(world: World, ailment: Ailment) -> SimulatedNode | None:
    """Let it befall whoever leads shard 1, once the others can do without it. Clients keep away from it. None: there is nobody
    whom the others can do without, and nothing happened but that time went by.
    """
    if any(node.lost or not node.up or node.wiped for node in world.nodes.values()):
        return None
    world.planted.touch()  # a command shows which replicas of a document differ
    world.run_until(world.now_ms + RECOVERY_MS, lambda: _leader_to_spare(world) is not None)
    node = _leader_to_spare(world)
    if node is None:
        return None
    world.note("fault", node.name, f"is {ailment.value} from now on")
    world.marks["leaders_ill_for_good"] += 1
    others = [name for name in world.names if name != node.name]
    if ailment is Ailment.HUNG:
        node.sync_slow_ms += FOR_EVER_MS
    elif ailment is Ailment.FROZEN:
        node.freeze()
    else:
        for other in others:
            world.network.cut((other, node.name) if ailment is Ailment.DEAF else (node.name, other), FOR_EVER_MS)
    world.shun(node)
    return node


def _leader_to_spare(world: World) -> SimulatedNode | None:
    """Who leads shard 1, if that leaves a majority of every shard up and a whole state of every shard within it."""
    if any(node.lost or not node.up or node.wiped for node in world.nodes.values()) or world.planted.unfinished():
        return None
    shard = ShardId(1)
    for node in world.running():
        if shard in node.pump.replicas and node.pump.replicas[shard].leads:
            others = [other for other in world.running() if other is not node]
            whole = all(keeps_state(ShardId(number), others) for number in range(world.scenario.limits.shards + 1))
            return node if whole else None
    return None


def keeps_state(shard: ShardId, nodes: list[SimulatedNode]) -> bool:
    """Whether these nodes can bring a shard's state to all of them with nobody else's help.

    They can while every replica here is sound, for then whoever is ahead gives the others a snapshot. An unsound one gives
    none; so some sound one must be able to go on with the log of each that is not, which cuts its log no further while it
    applies nothing. One that does not know yet of its rot may do so at any time.
    """
    sound, floor = [], 0
    for node in nodes:
        replica = node.pump.replicas.get(shard)
        if replica is None:
            continue
        if replica.unwell:
            floor = max(floor, replica.raft.snapshot.index)
        elif _rots_unseen(node, shard):
            return False
        else:
            sound.append(replica.raft.last_index)
    return max(sound, default=-1) >= floor


def _rots_unseen(node: SimulatedNode, shard: ShardId) -> bool:
    """Whether a record of this shard that rotted still stands there. Those that were written again, or dropped, do not."""
    for family, key in node.disk.rotten:
        if family is Family.RECORDS and key.startswith(shard.to_bytes(4, "big")):
            value = node.disk.peek(family, key)
            try:
                if value is not None:
                    keys.unseal(family, key, value)
            except StorageDamaged:
                return True
    return False


def relieve(world: World, node: SimulatedNode, ailment: Ailment) -> None:
    """It is over. A process whose sync never returned is ended by an operator."""
    world.note("heal", node.name, f"is not {ailment.value} any more")
    if ailment is Ailment.HUNG:
        node.sync_slow_ms -= FOR_EVER_MS
        node.kill(0.0)
        node.restart()
    elif ailment is Ailment.FROZEN:
        node.thaw(node.lives)
    else:
        for other in world.names:
            if other != node.name:
                world.network.mend((other, node.name) if ailment is Ailment.DEAF else (node.name, other))
    world.shun(None)
