"""Changing who belongs to a shard, asked by an operator at the shard's leader. Each call is one step, answered at once by doing
it or by a typed refusal with nothing changed.

Invariant: a change is a compare-and-set on the index of the newest configuration: two who change at once do not undo each
other.
"""

from __future__ import annotations

import math
from typing import Protocol

from cluster.errors import (
    ChangePending,
    InvalidRequest,
    LearnerBehind,
    NotLeader,
    StaleConfiguration,
    StaleRoute,
    Transferring,
)
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.placement.move import Action, ConfigurationStatus, Member, Step, next_step
from cluster.pump.liveness import NodeLiveness
from cluster.pump.schedule import Schedule
from cluster.raft.configuration import highest_of
from cluster.raft.events import ChangeConfiguration, Event, Transfer
from cluster.raft.messages import Places
from cluster.router.router import Router
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

REPLACING_MS = 1_000.0
"""A node that lost a replica says so with every heartbeat; one that has not for so long has it replaced, or is away."""
BY_HAND_MS = 10_000.0
"""Whoever changes a shard by hand is not interfered with for so long after each step."""


class Holder(Protocol):
    """The pump, as far as changes of its replicas concern it."""

    replicas: dict[ShardId, ShardReplica]
    liveness: NodeLiveness

    def look_at(self, replica: ShardReplica, now_ms: float) -> None: ...


def status_of(replica: ShardReplica) -> ConfigurationStatus:
    """The newest configuration that this replica knows, and how far everybody is where it leads."""
    raft = replica.raft
    now, matches, last = raft.configuration, raft.progress, raft.last_index
    members = []
    for member, node in now.places:
        match = matches.get(member, LogIndex(0))
        members.append(Member(member, node, match, last - match if replica.leads else 0))
    index = raft.configured_index
    return ConfigurationStatus(
        shard=replica.id,
        index=index,
        committed=raft.committed_configured_index == index,
        voters=now.voters,
        learners=now.learners,
        outgoing=now.outgoing,
        highest=highest_of(now),
        members=tuple(members),
        leader=replica.node if replica.leads else replica.leader_node,
        leads=replica.leads,
        last_index=last,
        transferring_to=raft.transferring_to,
    )


class Changes:
    """What operators ask of the replicas of one node. peers: the other nodes of the cluster, kept up to date by the owner."""

    def __init__(
        self, holder: Holder, node: NodeId, peers: list[NodeId], router: Router, schedule: Schedule, turn: Turn
    ) -> None:
        self._holder = holder
        self._node = node
        self._peers = peers
        self._router = router
        self._schedule = schedule
        self._turn = turn
        self._replacing: dict[tuple[ShardId, NodeId], float] = {}
        """When a node last said that a replica which it lost is to be replaced there."""
        self._by_hand: dict[ShardId, float] = {}
        """When somebody last asked for a change."""

    def held(self, shard: ShardId, now_ms: float) -> str:
        """Why the controller of placement should keep its hands off a shard; empty when it need not."""
        if now_ms - self._by_hand.get(shard, -math.inf) <= BY_HAND_MS:
            return "somebody changes it by hand"
        self._by_hand.pop(shard, None)
        for (held, node), told_ms in self._replacing.items():
            if held == shard and now_ms - told_ms <= REPLACING_MS:
                return f"{node} gets a replica in place of one that it lost"
        return ""

    def change(
        self,
        shard: ShardId,
        expected_index: LogIndex,
        voters: tuple[ReplicaId, ...],
        learners: tuple[ReplicaId, ...],
        places: Places,
        now_ms: float,
    ) -> None:
        """See `Pump.change_configuration`."""
        replica = self._leading(shard)
        self._by_hand[shard] = now_ms
        self._change(replica, expected_index, ChangeConfiguration(voters, learners, places), now_ms)

    def transfer(self, shard: ShardId, to: NodeId, now_ms: float) -> None:
        """See `Pump.transfer`."""
        replica = self._leading(shard)
        self._by_hand[shard] = now_ms
        self._transfer(replica, to, now_ms)

    def move_step(self, shard: ShardId, leaving: NodeId | None, joining: NodeId | None, now_ms: float) -> Step:
        """See `Pump.move_step`."""
        self._by_hand[self._leading(shard).id] = now_ms
        return self._move(shard, leaving, joining, now_ms, hands_over=True)

    def ordered_transfer(self, shard: ShardId, to: NodeId, lag_max: int, now_ms: float) -> None:
        """Hand a shard over because the controller of placement wants it; not to a voter that lacks more than `lag_max`."""
        replica = self._leading(shard)
        status = status_of(replica)
        member = status.on(to)
        if member is None or member.replica not in status.voters or member.lag > lag_max or status.transferring_to is not None:
            return
        self._transfer(replica, to, now_ms)

    def ordered_move(self, shard: ShardId, leaving: NodeId | None, joining: NodeId | None, now_ms: float) -> Step:
        """A step of a move that the controller wants; it orders by itself who takes over. Raises as `Pump.move_step` does."""
        return self._move(shard, leaving, joining, now_ms, hands_over=False)

    def _move(self, shard: ShardId, leaving: NodeId | None, joining: NodeId | None, now_ms: float, *, hands_over: bool) -> Step:
        replica = self._leading(shard)
        self._check_nodes({joining} if joining is not None else set())
        if joining is not None and now_ms - self._replacing.get((shard, joining), -math.inf) <= REPLACING_MS:
            # As the end of a move this replica would take another's place, and that of the lost one would stay empty.
            return Step(Action.WAIT, f"{joining} gets a replica in place of one that it lost")
        status = status_of(replica)
        step = next_step(status, leaving, joining)
        new = status.on(joining)
        if new is not None and new.replica in status.learners and not self._vouched(replica, new.node):
            # A leader that has just been elected may not have heard of a lost replica yet.
            return Step(Action.WAIT, f"{joining} has not said yet that it lost no replica")
        try:
            if step.action is Action.CHANGE:
                goal = ChangeConfiguration(step.voters, step.learners, step.places)
                self._change(replica, status.index, goal, now_ms)
            elif step.action is Action.TRANSFER:
                assert step.to is not None, "a transfer goes somewhere"
                if not hands_over:
                    return Step(Action.WAIT, step.why)
                self._transfer(replica, step.to, now_ms)
        except (ChangePending, LearnerBehind, Transferring) as wait:
            return Step(Action.WAIT, wait.message)
        return step

    def _vouched(self, replica: ShardReplica, node: NodeId) -> bool:
        """Whether a node has spoken for a shard since this replica leads it: one that lost its replica does not."""
        return self._holder.liveness.acked_sent_ms(node, replica.id, replica.raft.term) > -math.inf

    def replaces(self, shard: ShardId, node: NodeId, now_ms: float) -> None:
        """A node says, as it does with every heartbeat, that it lost a replica of a shard that is led here."""
        self._replacing[(shard, node)] = now_ms

    def take_step(self, replica: ShardReplica, status: ConfigurationStatus, step: Step, now_ms: float) -> None:
        """Append the configuration of a step that was found for `status`. Raises as `change` does."""
        self._change(replica, status.index, ChangeConfiguration(step.voters, step.learners, step.places), now_ms)

    def _leading(self, shard: ShardId) -> ShardReplica:
        replica = self._holder.replicas.get(shard)
        if replica is None:
            leader = self._router.hinted(shard) or ""
            raise StaleRoute(f"node {self._node} has no replica of shard {shard}", leader=leader)
        if not replica.leads:
            leader = replica.leader_node or ""
            raise NotLeader(f"node {self._node} does not lead shard {shard}", leader=leader, shard=shard)
        return replica

    def _check_nodes(self, nodes: set[NodeId]) -> None:
        for node in sorted(nodes - {self._node, *self._peers}):
            raise InvalidRequest(f"this cluster has no node {node}")

    def _change(self, replica: ShardReplica, expected_index: LogIndex, goal: ChangeConfiguration, now_ms: float) -> None:
        self._check_nodes({node for _, node in goal.places})
        index = replica.raft.configured_index
        if index != expected_index:
            raise StaleConfiguration(f"the newest configuration is that of entry {index}, not {expected_index}", index=index)
        self._tell(replica, goal, now_ms)

    def _transfer(self, replica: ShardReplica, to: NodeId, now_ms: float) -> None:
        successor = replica.members.replica_on(to)
        if successor is None:
            raise InvalidRequest(f"{to} holds no replica of shard {replica.id}")
        self._tell(replica, Transfer(successor), now_ms)

    def _tell(self, replica: ShardReplica, event: Event, now_ms: float) -> None:
        """The replica moves between turns: the next one comes at once. Even a refusal may have woken it."""
        refusal = replica.handle(event, now_ms, self._turn).refusal
        self._schedule.ready[replica.id] = None
        self._holder.look_at(replica, now_ms)
        if refusal is not None:
            raise refusal
