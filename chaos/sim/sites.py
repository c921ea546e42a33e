"""Places where a node does early, small, slowly or at an odd moment what it does anyway (FoundationDB's BUGGIFY).

Nothing here is a fault: a node may write records, look after its house or think a message lost between any two turns, may be
configured with tiny numbers, and may take the slow of two ways. Each run arms some of the sites and leaves the others alone; an
armed one fires now and then, between two turns, until the world is healed. The product does not know of them: what they do is
what its owner may ask of it, or what its own numbers and timers allow.

The first three are armed on their own; of the others half of the runs have none, so that whatever only happens without them is
met too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.ids import NodeId, ReplicaId
from cluster.pump.lanes import Lane
from cluster.raft.effects import Role
from cluster.raft.events import Campaign, LivenessChanged, PeerUnreachable, Transfer
from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode

ARMED = 0.4
"""How likely a run arms a site."""
ODD = 0.5
"""How likely a run may arm other sites than the first three."""
FIRES = 0.03
"""How likely one of the armed sites fires before a turn."""

Site = Callable[["SimulatedNode", ShardReplica, random.Random], bool]
"""Says whether there was anything to do."""


# Records, logs, memory


def early_checkpoint(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """All unsaved records of a shard are written."""
    replica.save_all(node.pump._turn)
    return True


def early_compaction(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A shard looks whether its log can be cut, once Raft knows of everything that is applied."""
    if replica.raft._state.applied != replica.applied:
        return False
    replica.compact(node.clock_ms, node.pump._turn)
    return True


def early_housekeeping(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """The node looks after its house in this turn."""
    node.pump._housekeeping_due_ms = node.clock_ms
    return True


def cold_log(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """Entries that memory need not hold are dropped from it: followers and apply are served from the disk."""
    replica.raft.trim(0)
    return True


def forgotten_changes(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """The changes that are kept for viewers who are behind are gone: they are given whole views."""
    documents = [live for live in replica.cache._documents.values() if live.ring]
    for live in documents:
        live.clear_ring()
    return bool(documents)


# Timers


def early_timer(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A replica's deadline comes at once: a follower or leader looks who is there, a candidate begins again."""
    state = replica.raft._state
    if state.asleep or not state.votes_here:
        return False
    if state.role is Role.LEADER:
        state.check_ms = state.retry_ms = node.clock_ms
    else:
        state.deadline_ms = node.clock_ms
    return True


def early_campaign(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A follower asks whether it could be elected."""
    if replica.leads:
        return False
    replica.handle(Campaign(), node.clock_ms, node.pump._turn)
    return True


def early_waking(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A replica is told that something about liveness changed, asleep or not, though nothing did."""
    replica.handle(LivenessChanged(), node.clock_ms, node.pump._turn)
    return True


def early_handover(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A leader hands over to another voter."""
    peer = _member(replica, source)
    if peer is None or not replica.serves:
        return False
    return replica.handle(Transfer(peer), node.clock_ms, node.pump._turn).refusal is None


def early_round(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A liveness round begins at once."""
    node.pump._heartbeat_due_ms = node.clock_ms
    return True


def late_round(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """The next liveness round is late, by up to an election timeout."""
    node.pump._heartbeat_due_ms += source.uniform(0.0, node.world.scenario.limits.election_timeout_ms)
    return True


# Small numbers, from here on until the process ends


def tiny_appends(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """One entry in an append, one append on its way."""
    state = replica.raft._state
    state.config = replace(state.config, append_bytes_max=1, window_appends=1)
    return True


def tiny_entries(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """One command in an entry."""
    replica.intake._gatherer._commands_max = 1
    return True


def tiny_slices(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """One shard is stepped, and one entry applied, in a turn."""
    node.pump._config = replace(node.pump._config, step_slice_ms=0.0, apply_slice_ms=0.0)
    return True


def short_leases(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """This leader's leases are over almost before they begin: most reads wait for a round."""
    state = replica.raft._state
    state.config = replace(state.config, lease_drift_ms=state.config.election_timeout_ms_min - 1.0)
    return state.config.lease_reads


# The slow way, and false alarms


def whole_lists(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """Peers are told again which groups this node leads, not only that the list is the same."""
    for peer in sorted(node.pump.connected):
        node.pump.liveness.disconnected(peer)
    return bool(node.pump.connected)


def sums_told_again(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A follower tells its leader once more what apply did."""
    return replica.digest.retell()


def broken_pipeline(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A leader thinks that what it sent to a follower may be lost, and asks first."""
    peer = _member(replica, source)
    if peer is None or not replica.leads:
        return False
    replica.handle(PeerUnreachable(peer), node.clock_ms, node.pump._turn)
    return True


def refused_frame(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A node thinks that its connection did not take a frame of Raft's lane, though it did: both ends give up what they wait
    for.
    """
    peer = _connected(node, source)
    if peer is not None:
        node.pump.on_frame_lost(peer, Lane.RAFT, node.clock_ms)
    return peer is not None


def broken_transfer(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """Snapshots that are on their way to a peer, or from it, break off, to be resumed."""
    peer = _connected(node, source)
    if peer is not None:
        node.pump._transfers.node_lost(peer, node.clock_ms, node.pump._turn)
        node.pump._transfers.sender_lost(peer, node.pump.replicas)
    return peer is not None


def forced_snapshot(node: SimulatedNode, replica: ShardReplica, source: random.Random) -> bool:
    """A leader offers its state to a replica that could have the log."""
    peer = _member(replica, source)
    if peer is None or not replica.serves:
        return False
    replica.snapshots_wanted = [*replica.snapshots_wanted, peer]
    return True


def _member(replica: ShardReplica, source: random.Random) -> ReplicaId | None:
    """Another replica of the shard."""
    others = [peer for peer, _ in replica.raft.configuration.places if peer != replica.replica]
    return source.choice(others) if others else None


def _connected(node: SimulatedNode, source: random.Random) -> NodeId | None:
    return source.choice(sorted(node.pump.connected)) if node.pump.connected else None


_USUAL: tuple[Site, ...] = (early_checkpoint, early_compaction, early_housekeeping)
_ODD: tuple[Site, ...] = (
    cold_log, forgotten_changes, early_timer, early_campaign, early_waking, early_handover, early_round, late_round,
    tiny_appends, tiny_entries, tiny_slices, short_leases, whole_lists, sums_told_again, broken_pipeline, refused_frame,
    broken_transfer, forced_snapshot,
)  # fmt: skip
SITES: dict[str, Site] = {site.__name__: site for site in _USUAL + _ODD}


class Sites:
    """The sites of one run. `over` ends them.

    arming, odd: what the sites of a run are drawn from, the usual and the others. source: when they fire.
    """

    def __init__(self, arming: random.Random, odd: random.Random, source: random.Random) -> None:
        self._armed = [site.__name__ for site in _USUAL if arming.random() < ARMED]
        if odd.random() < ODD:
            self._armed += [site.__name__ for site in _ODD if odd.random() < ARMED]
        self._source = source

    def over(self) -> None:
        """From now on nothing fires."""
        self._armed.clear()

    def visit(self, node: SimulatedNode) -> str:
        """Before a turn of a node: perhaps one of them fires. Returns its name, or nothing."""
        if not self._armed or self._source.random() >= FIRES:
            return ""
        name = self._source.choice(self._armed)
        replicas = node.pump.replicas
        replica = replicas[self._source.choice(list(replicas))]
        if replica.unwell:
            return ""
        fired = SITES[name](node, replica, self._source)
        node.pump.look_at(replica, node.clock_ms)
        return name if fired else ""
