"""Answers to operators about who belongs to a shard: showing it, moving a replica, handing leadership over.

Changes happen at the shard's leader only; calls are passed on to it. Each takes one step of what the shard needs next and
returns, so an operator's program may die between any two of them and another one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.errors import InvalidMove, NodeDown, NoReplica, NotLeader, OutcomeUnknown, Unavailable, UnknownNode, UnknownShard
from cluster.gossip.messages import State
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.node.leader_calls import AskLeader, Handler, LeaderCalls
from cluster.node.loop import NodeLoop, monotonic_ms
from cluster.node.views import NodeView
from cluster.placement.move import Action, ConfigurationStatus, Member, Step
from cluster.placement.progress import Stage, check_move, stage_of
from cluster.shard.pending import pending
from cluster.shardmap.map import Shard
from cluster.shardmap.nodes import Standing

TRANSFER_POLL_MS = 5
TRANSFER_WAIT_MS = 10_000.0
"""A transfer that is over by nobody's word for this long is reported as it stands."""
COMMIT_POLL_MS = 20
SLOW_POLL_MS = 100
Row = dict[str, Any]


class ShardAdministration:
    """One node's part. nodes: every known node as this one sees it. ask: sends an operation to a shard's leader."""

    def __init__(self, loop: NodeLoop, nodes: Callable[[], list[NodeView]], ask: AskLeader) -> None:
        self._loop = loop
        self._pump = loop.pump
        self._nodes = nodes
        handlers: dict[str, Handler] = {
            "MoveReplica": self._move,
            "TransferLeader": self._transfer,
            "FindPending": self._find_pending,
        }
        self.calls = LeaderCalls(loop, handlers, ask)

    # -- what new code may not lose ----------------------------------------------------------------------------------

    async def pending(self, space: str, wanted: frozenset[str]) -> frozenset[str]:
        """Which of these handlers documents of a space have armed, asked of every shard's leader. Raises ClusterError: somebody
        who can not be asked may have one.
        """
        found: set[str] = set()
        for shard in self._pump.router.map.shards:
            if shard.shard != SYSTEM_SHARD and found != wanted:
                request = {"shard_id": shard.shard, "space": space, "handlers": sorted(wanted)}
                answer = await self.calls.call("FindPending", shard.shard, request)
                found |= set(answer["handlers"])
        return frozenset(found)

    async def _find_pending(self, request: Row) -> Row:
        shard = ShardId(request["shard_id"])
        replica = self._pump.replicas.get(shard)
        if replica is None or not replica.serves:
            leader = self._pump.routes.leader(shard) or ""
            raise NotLeader(f"node {self._pump.node} does not lead shard {shard}", leader=leader, shard=shard)
        wanted = frozenset(request["handlers"])
        found = pending(replica.cache, request["space"], wanted)
        return {"handlers": sorted(found.handlers if found.complete else wanted)}

    # -- showing -----------------------------------------------------------------------------------------------------

    def members(self, shard: Shard, leader: str) -> list[Row]:
        """The replicas of a shard in the shape of admin.proto: its own configuration where this node has it, else the map."""
        status = self._pump.configuration(shard.shard)
        if status is None or not status.members:
            return [_replica(place.replica, place.node, place.node == leader, True, 0) for place in shard.replicas]
        return [
            _replica(member.replica, member.node, member.node == leader, _votes(status, member), member.match)
            for member in status.members
        ]

    def changing(self) -> list[ShardId]:
        """Shards that this node leads and that are on their way to another configuration, or stand half way."""
        led = [(shard, replica.raft.configuration) for shard, replica in self._pump.replicas.items() if replica.leads]
        return sorted(shard for shard, now in led if now.learners or now.outgoing)

    def no_replica(self, shard: ShardId) -> NoReplica:
        """What to answer when only a replica could say."""
        holders = ",".join(place.node for place in self._pump.router.map.shard(shard).replicas)
        return NoReplica(f"node {self._pump.node} has no replica of shard {shard}; {holders} have", holders=holders)

    async def get_configuration(self, request: Row) -> Row:
        shard = self._shard(request)
        status = self._pump.configuration(shard)
        if status is None:
            raise self.no_replica(shard)
        replica = self._pump.replicas[shard]
        states = {view.node: view.state for view in self._nodes()}
        nodes = {member.replica: member.node for member in status.members}
        leader = status.leader or ""
        return {
            "shard_id": shard,
            "node_id": self._pump.node,
            "leader": leader,
            "leader_gateway_address": self._gateway_of(leader),
            "term": replica.raft.term,
            "members": [_member(status, member, states.get(member.node)) for member in status.members],
            "configuration_index": status.index,
            "committed": status.committed,
            "joint": bool(status.outgoing),
            "transferring_to": nodes.get(status.transferring_to, "") if status.transferring_to is not None else "",
            "last_index": status.last_index,
            "commit_index": replica.raft.commit_index,
        }

    # -- moving ------------------------------------------------------------------------------------------------------

    async def move(self, request: Row) -> Row:
        return await self.calls.call("MoveReplica", self._shard(request), request)

    async def _move(self, request: Row) -> Row:
        """At the leader."""
        shard = self._shard(request)
        status = self._leading(shard)
        leaving, joining = NodeId(request["from_node"]), NodeId(request["to_node"])
        self._check_known(status, leaving)
        self._check_known(status, joining)
        check_move(status, leaving, joining)
        if status.on(joining) is None:
            self._check_takes(joining)
            if not request["force"]:
                self._check_alive(joining)
        step = self._pump.move_step(shard, leaving, joining, monotonic_ms())
        self._loop.wake()
        if step.action is Action.DONE:
            stage = Stage.DONE if self._on_the_map(status) else Stage.RECORDING
            return self._progress(status, stage, step, joining, changed=False)
        stage = Stage.HANDING_OVER if step.action is Action.TRANSFER else stage_of(status, leaving, joining)
        if stage is Stage.EXCHANGING and step.action is Action.WAIT and status.committed and not status.outgoing:
            stage = Stage.CATCHING_UP  # Raft judges more strictly how far the learner must be
        return self._progress(status, stage, step, joining, changed=step.action is not Action.WAIT)

    def _on_the_map(self, status: ConfigurationStatus) -> bool:
        """Whether the shard map, which the leader has corrected from time to time, names the voters as they are."""
        nodes = {member.replica: member.node for member in status.members}
        named = [(place.replica, place.node) for place in self._pump.router.map.shard(status.shard).replicas]
        return named == [(voter, nodes[voter]) for voter in status.voters]

    def _progress(self, status: ConfigurationStatus, stage: Stage, step: Step, joining: NodeId, *, changed: bool) -> Row:
        now = self._pump.configuration(status.shard) or status
        new = now.on(joining)
        waiting = step.why if step.action is Action.WAIT else ""
        state = self._state_of(joining)
        if waiting and state is not State.ALIVE:
            waiting += f"; {joining} looks {state.name.lower() if state is not None else 'unknown'}"
        return {
            "stage": f"MOVE_STAGE_{stage.name}",
            "done": stage is Stage.DONE,
            "changed": changed,
            "waiting_for": waiting,
            "lag_entries": new.lag if new is not None and now.leads else None,
            "configuration_index": now.index,
            "retry_after_ms": SLOW_POLL_MS if stage in (Stage.CATCHING_UP, Stage.RECORDING) else COMMIT_POLL_MS,
            "leader": self._pump.node,
        }

    # -- handing over ------------------------------------------------------------------------------------------------

    async def transfer(self, request: Row) -> Row:
        shard = self._shard(request)
        led = self._pump.routes.leader(shard) or ""
        try:
            return await self.calls.call("TransferLeader", shard, request)
        except (Unavailable, OutcomeUnknown):
            # Whoever hears of the next leader gives up what the last one owes; but that there is another one is the answer.
            await self._transferred(shard)
            leader = self._pump.routes.leader(shard) or ""
            if not led or not leader or leader == led:
                raise
            return self._outcome(shard, led, request["to_node"] or leader)

    async def _transfer(self, request: Row) -> Row:
        """At the leader."""
        shard = self._shard(request)
        status = self._leading(shard)
        to = NodeId(request["to_node"]) or self._best_successor(status)
        self._check_known(status, to)
        member = status.on(to)
        if member is None or member.replica not in status.voters:
            what = "only learns in" if member is not None else "has no replica of"
            raise InvalidMove(f"{to} {what} shard {shard}: it can not lead it")
        if to != self._pump.node:
            self._check_alive(to)
            self._pump.transfer(shard, to, monotonic_ms())
            self._loop.wake()
            await self._transferred(shard)
        return self._outcome(shard, self._pump.node, to)

    def _outcome(self, shard: ShardId, led: str, to: str) -> Row:
        """How a transfer from `led` to `to` ended."""
        leader, replica = self._pump.routes.leader(shard) or "", self._pump.replicas.get(shard)
        term = replica.raft.term if replica is not None else 0
        return {"from_node": led, "to_node": to, "leader": leader, "term": term, "done": leader == to}

    def _best_successor(self, status: ConfigurationStatus) -> NodeId:
        """The voter that lacks least, of those that answer."""
        alive = {view.node for view in self._nodes() if view.state is State.ALIVE}
        others = [
            member
            for member in status.members
            if member.replica in status.voters and member.node in alive and member.node != self._pump.node
        ]
        if not others:
            raise InvalidMove(f"shard {status.shard} has no other voter that answers")
        return max(others, key=lambda member: (member.match, -member.replica)).node

    async def _transferred(self, shard: ShardId) -> None:
        """Until somebody leads and no transfer is under way."""
        deadline_ms = monotonic_ms() + TRANSFER_WAIT_MS
        while monotonic_ms() < deadline_ms:
            await asyncio.sleep(TRANSFER_POLL_MS / 1000)
            status = self._pump.configuration(shard)
            if status is None or (status.leader is not None and status.transferring_to is None):
                return

    # -- who and where -----------------------------------------------------------------------------------------------

    def _shard(self, request: Row) -> ShardId:
        shard = ShardId(request["shard_id"])
        if self._pump.router.map.get(shard) is None:
            raise UnknownShard(f"there is no shard {shard}; there are 0 to {self._pump.router.map.shards[-1].shard}")
        return shard

    def _leading(self, shard: ShardId) -> ConfigurationStatus:
        status = self._pump.configuration(shard)
        if status is None or not status.leads:
            leader = self._pump.routes.leader(shard) or ""
            address = self._gateway_of(leader)
            what = f"node {self._pump.node} does not lead shard {shard}"
            raise NotLeader(what, leader=leader, leader_gateway_address=address, shard=shard)
        return status

    def _check_known(self, status: ConfigurationStatus, node: NodeId) -> None:
        names = sorted(view.node for view in self._nodes())
        if node not in names and status.on(node) is None:
            raise UnknownNode(f"there is no node {node!r}; there are {', '.join(names)}")

    def _check_takes(self, node: NodeId) -> None:
        """Raises InvalidMove for a node that gets no replicas."""
        known = next((view.registered for view in self._nodes() if view.node == node), None)
        if known is not None and known.standing is not Standing.ACTIVE:
            raise InvalidMove(f"{node} is {known.standing.name.lower()}: it gets no replicas")

    def _check_alive(self, node: NodeId) -> None:
        state = self._state_of(node)
        if state in (State.DEAD, State.LEFT):
            raise NodeDown(f"{node} looks {state.name.lower()} from {self._pump.node}")

    def _state_of(self, node: NodeId) -> State | None:
        return next((view.state for view in self._nodes() if view.node == node), None)

    def _gateway_of(self, node: str) -> str:
        address = next((view.address for view in self._nodes() if view.node == node), None)
        return f"{address.host}:{address.client_port}" if address is not None else ""


def _votes(status: ConfigurationStatus, member: Member) -> bool:
    return member.replica in status.voters or member.replica in status.outgoing


def _replica(replica: int, node: str, leads: bool, votes: bool, match: int) -> Row:
    return {"replica_id": replica, "node_id": node, "role": _role(leads, votes), "match_index": match}


def _role(leads: bool, votes: bool) -> str:
    return "REPLICA_ROLE_LEADER" if leads else "REPLICA_ROLE_VOTER" if votes else "REPLICA_ROLE_LEARNER"


def _member(status: ConfigurationStatus, member: Member, state: State | None) -> Row:
    """As admin.proto has it. What the others have is known to the leader only."""
    return {
        "replica_id": member.replica,
        "node_id": member.node,
        "role": _role(member.node == status.leader, _votes(status, member)),
        "outgoing": member.replica in status.outgoing and member.replica not in status.voters,
        "match_index": member.match if status.leads else None,
        "lag_entries": member.lag if status.leads else None,
        "state": f"NODE_STATE_{state.name}" if state is not None else "NODE_STATE_UNSPECIFIED",
    }
