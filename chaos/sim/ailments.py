"""What a leader may suffer from for good, while everybody else is well: then a majority is healthy and must take over.

This is the second half of what liveness means. That a cluster works when everything is healed is one thing; that it works while
a majority is healthy (design, invariant 8) is another, and only this shows a leader that can not lead and does not notice:
it hears nobody, its disk hangs, its process stands still (Huang et al., 2017, call these gray failures).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from cluster.ids import ShardId

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

FOR_EVER_MS = 1e9


class Ailment(enum.Enum):
    """DEAF: nothing reaches it, but it is heard. MUTE: the other way. HUNG: its syncs do not return. FROZEN: its process stands
    still and its connections stay."""

    DEAF = "deaf"
    MUTE = "mute"
    HUNG = "hung"
    FROZEN = "frozen"


def befall(world: World, ailment: Ailment) -> SimulatedNode | None:
    """Let it befall whoever leads shard 1, if that leaves a majority of every shard healthy. Clients keep away from it."""
    if any(node.lost or not node.up or node.wiped for node in world.nodes.values()):
        return None
    shard = ShardId(1)
    leaders = [node for node in world.running() if shard in node.pump.replicas and node.pump.replicas[shard].leads]
    if not leaders:
        return None
    node = leaders[0]
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
