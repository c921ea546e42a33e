"""Answers to operators: what AdminService asks of a node, method by method, as plain dictionaries in the shape of admin.proto.

Changes of the cluster (deploying, isolating) are messages to the system document, sent like anybody's; reading is from
what this node has.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

import cluster
from cluster.errors import HistoryTrimmed, InvalidRequest, LogLost, UnknownDocument
from cluster.gossip.messages import State
from cluster.ids import SYSTEM_SHARD, DocumentId, NodeId, ShardId
from cluster.node.decisions import Ask, Decisions
from cluster.node.divergence_log import divergence_row
from cluster.node.errors_log import ErrorsLog
from cluster.node.leader_calls import AskLeader
from cluster.node.loop import NodeLoop
from cluster.node.operators_commands import OPERATORS_COMMANDS
from cluster.node.placement_admin import PlacementAdministration
from cluster.node.shard_admin import ShardAdministration
from cluster.node.space_admin import SpaceAdministration
from cluster.node.standings import StandingAdministration
from cluster.node.views import NodeView
from cluster.shard.commands import CommandKind, HistoryRow, command_seed, decode_row
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn
from cluster.shardmap.hashing import key_hash
from cluster.shardmap.map import Shard
from cluster.storage.engine import Engine
from cluster.storage.history import HistoryStore

LIST_LIMIT_MAX = 1000
Row = dict[str, Any]


class Administration:
    """One node's answers.

    nodes: every known node as this one sees it, this one included. explain: why it sees one so. decisions: asks the
        system shard. ask: sends an operation to the leader of its document. ask_leader: sends one to a shard's leader.
    """

    def __init__(
        self,
        *,
        loop: NodeLoop,
        engine: Engine,
        cluster_id: str,
        nodes: Callable[[], list[NodeView]],
        explain: Callable[[NodeId], Row],
        decisions: Decisions,
        standings: StandingAdministration,
        ask: Ask,
        ask_leader: AskLeader,
        errors_log: ErrorsLog,
    ) -> None:
        self._loop = loop
        self._pump = loop.pump
        self._engine = engine
        self._cluster_id = cluster_id
        self._nodes = nodes
        self._explain = explain
        self._decisions = decisions
        self._ask = ask
        self._shards = ShardAdministration(loop, nodes, ask_leader)
        self._placement = PlacementAdministration(self._pump, self._shards.calls, decisions)
        self._spaces = SpaceAdministration(self._pump, decisions, errors_log, self._shards.pending)
        self._started_ms = time.monotonic() * 1000
        self._methods: dict[str, Callable[[Row], Awaitable[Row]]] = {
            "GetStatus": self._get_status,
            "ListNodes": self._list_nodes,
            "ExplainNode": self._explain_node,
            "ChangeStanding": standings.change,
            "ListShards": self._list_shards,
            "GetShardConfiguration": self._shards.get_configuration,
            "MoveReplica": self._shards.move,
            "TransferLeader": self._shards.transfer,
            "ExplainPlacement": self._placement.explain,
            "FreezePlacement": self._placement.freeze,
            "Where": self._where,
            "DeploySpace": self._spaces.deploy,
            "RollbackSpace": self._spaces.roll_back,
            "RetryUpgrades": self._spaces.retry,
            "ListSpaces": self._spaces.list,
            "GetSpace": self._spaces.get,
            "GetBundle": self._spaces.bundle,
            "ListSpaceErrors": self._list_space_errors,
            "ReadHistory": self._read_history,
            "InspectDocument": self._inspect_document,
            "ListHalted": self._list_halted,
            "ListDivergences": self._list_divergences,
            "PoisonCommand": self._poison_command,
            "Checkpoint": self._checkpoint,
        }

    async def call(self, method: str, request: Row, principal: str) -> Row:
        """Run a method of AdminService for a principal. Raises ClusterError."""
        if method in OPERATORS_COMMANDS:
            return await OPERATORS_COMMANDS[method](self._ask, request, principal)
        handler = self._methods.get(method)
        if handler is None:
            raise InvalidRequest(f"this node does not know {method}")
        return await handler(request)

    # -- the cluster -------------------------------------------------------------------------------------------------

    async def _get_status(self, request: Row) -> Row:
        nodes = self._nodes()
        alive = {row.node for row in nodes if row.state is State.ALIVE}
        leaderless, short, spare = [], [], []
        for shard in self._pump.router.map.shards:
            holders = [place.node for place in shard.replicas]
            living = sum(1 for node in holders if node in alive)
            majority = len(holders) // 2 + 1
            spare.append(living - majority)
            if living < len(holders):
                short.append(shard.shard)
            if self._leader_of(shard) == "":
                leaderless.append(shard.shard)
        return {
            "cluster_id": self._cluster_id,
            "node_id": self._pump.node,
            "version": cluster.__version__,
            "nodes_alive": len(alive),
            "nodes_total": len(nodes),
            "shards_total": len(self._pump.router.map.shards),
            "shards_leaderless": leaderless,
            "shards_under_replicated": short,
            "failures_tolerated": max(0, min(spare, default=0)),
            "shard_map_version": self._pump.router.map.version,
            "healthy": not leaderless and not short,
            "documents_in_memory": sum(len(replica.cache) for replica in self._pump.replicas.values()),
            "uptime_ms": int(time.monotonic() * 1000 - self._started_ms),
            "shards_changing": self._shards.changing(),
        }

    async def _list_nodes(self, request: Row) -> Row:
        led: dict[str, int] = {}
        held: dict[str, int] = {}
        for shard in self._pump.router.map.shards:
            leader = self._leader_of(shard)
            led[leader] = led.get(leader, 0) + 1
            for place in shard.replicas:
                held[place.node] = held.get(place.node, 0) + 1
        rows = [
            {
                "node_id": row.node,
                "gateway_address": f"{row.address.host}:{row.address.client_port}",
                "peer_address": f"{row.address.host}:{row.address.peer_port}",
                "state": f"NODE_STATE_{row.state.name}",
                "boot_generation": row.generation,
                "shards_led": led.get(row.node, 0),
                "replicas": held.get(row.node, 0),
                "labels": {name: value for name, value in (("host", row.tags.host), ("zone", row.tags.zone)) if value},
                "version": row.tags.version,
                **_standing(row),
            }
            for row in self._nodes()
        ]
        return {"nodes": rows}

    async def _explain_node(self, request: Row) -> Row:
        return self._explain(NodeId(request["node_id"]))

    async def _list_shards(self, request: Row) -> Row:
        shards = [self._shard_row(shard) for shard in self._pump.router.map.shards]
        return {"shards": shards, "shard_map_version": self._pump.router.map.version}

    async def _where(self, request: Row) -> Row:
        document = _document(request)
        shard = self._pump.router.map.shard(self._pump.router.shard_of(document.space, document.key))
        leader = self._leader_of(shard)
        address = next((row.address for row in self._nodes() if row.node == leader), None)
        return {
            "hash": key_hash(document.space, document.key),
            "shard": self._shard_row(shard),
            "leader_gateway_address": f"{address.host}:{address.client_port}" if address else "",
        }

    def _leader_of(self, shard: Shard) -> str:
        return self._pump.routes.leader(shard.shard) or ""

    def _shard_row(self, shard: Shard) -> Row:
        replica = self._pump.replicas.get(shard.shard)
        leader = self._leader_of(shard)
        return {
            "shard_id": shard.shard,
            "hash_begin": shard.start,
            "hash_end": shard.end,
            "leader": leader,
            "term": replica.raft.term if replica else 0,
            "replicas": self._shards.members(shard, leader),
            "commit_index": replica.raft.commit_index if replica else 0,
            "applied_index": replica.applied if replica else 0,
        }

    async def _list_space_errors(self, request: Row) -> Row:
        return self._spaces.errors(request, _limit(request))

    # -- documents ---------------------------------------------------------------------------------------------------

    def _replica_of(self, document: DocumentId) -> ShardReplica:
        shard = self._pump.router.shard_of(document.space, document.key)
        replica = self._pump.replicas.get(shard)
        if replica is None:
            raise self._shards.no_replica(shard)
        return replica

    async def _read_history(self, request: Row) -> Row:
        document = _document(request)
        replica = self._replica_of(document)
        live = replica.cache.get(document.space, document.key)
        epoch = request["epoch"] or live.epoch
        store = HistoryStore(self._engine, replica.id)
        earliest = store.earliest_index(document, epoch)
        if earliest is None:
            if not live.epoch:
                raise UnknownDocument(f"{document} was never created")
            raise HistoryTrimmed(f"no history of {document} in epoch {epoch} is kept on this node")
        start = request["from_index"] or earliest
        if start < earliest:
            raise HistoryTrimmed(f"the earliest retained index of {document} is {earliest}", earliest=earliest)
        commands: list[Row] = []
        limit = _limit(request)
        for first, _, body in store.read(document, epoch, start, limit):
            commands += _history_rows(epoch, first, decode_row(body))
        commands = [command for command in commands if start <= command["position"]["index"] < start + limit]
        return {"commands": commands, "earliest_index": earliest, "position": {"epoch": live.epoch, "index": live.index}}

    async def _inspect_document(self, request: Row) -> Row:
        document = _document(request)
        replica = self._replica_of(document)
        live = replica.cache.get(document.space, document.key)
        record = live.record()
        return {
            "record": record if request["with_record"] else b"",
            "node_id": self._pump.node,
            "exists": live.epoch > 0 or live.index > 0,
            "position": {"epoch": live.epoch, "index": live.index},
            "record_hash": blake2b(record, digest_size=32).digest(),
            "chain": live.chain,
            "dirty": bool(live.first_unsaved),
            "applied_raft_index": live.applied_through,
            "code_hash": live.code_hash,
            "state_bytes": live.instance.size_bytes() if live.instance is not None else 0,
            "sessions": len(live.sessions),
            "deleted": live.epoch > 0 and not live.alive,
            "frozen": bool(live.frozen),
            "shard_id": replica.id,
        }

    # -- trouble -----------------------------------------------------------------------------------------------------

    async def _list_halted(self, request: Row) -> Row:
        rows = [
            {
                "shard_id": replica.id,
                "raft_index": replica.applied + 1,
                "offset": replica.suspected_offset or 0,
                "document": None,
                "cause": replica.unwell or replica.stalled,
                "node_id": self._pump.node,
            }
            for replica in self._pump.replicas.values()
            if replica.unwell or replica.stalled
        ]
        rows += [
            {
                "shard_id": shard,
                "raft_index": 0,
                "offset": 0,
                "document": None,
                "cause": f"{LogLost.reason}: {held.why}; {_stage_of(self._pump.replicas.get(shard))}",
                "node_id": self._pump.node,
            }
            for shard, held in self._pump.lost.items()
        ]
        return {"halted": rows}

    async def _list_divergences(self, request: Row) -> Row:
        return {"divergences": [divergence_row(each, self._pump.node) for each in self._pump.divergences.reports.all()]}

    async def _poison_command(self, request: Row) -> Row:
        shard = ShardId(request["shard_id"])
        if shard == SYSTEM_SHARD or self._pump.router.map.get(shard) is None:
            raise InvalidRequest(f"shard {shard} has no commands that can be isolated")
        replica = self._pump.replicas.get(shard)
        place = (request["raft_index"], request["offset"])
        if replica is None or not replica.halted or (replica.applied + 1, replica.suspected_offset) != place:
            raise InvalidRequest(
                f"shard {shard} has not halted at command {place[1]} of entry {place[0]} on node {self._pump.node}; "
                "ask a node where it has (`moot status` says which)"
            )
        payload = {
            "shard": shard,
            "index": request["raft_index"],
            "offset": request["offset"],
            "reason": request["cause"],
        }
        await self._decisions.decide("isolate", payload)
        return {"document": None}

    async def _checkpoint(self, request: Row) -> Row:
        wanted = request["shard_id"]
        turn, records = Turn(), 0
        for replica in self._pump.replicas.values():
            if wanted is None or replica.id == wanted:
                records += len(replica.cache.unsaved)
                replica.save_all(turn)
        self._engine.write(turn.batch)
        self._engine.sync()
        return {"records": records}


def _standing(view: NodeView) -> Row:
    known = view.registered
    if known is None:
        return {"standing": "NODE_STANDING_UNSPECIFIED", "standing_since_ms": 0}
    return {"standing": f"NODE_STANDING_{known.standing.name}", "standing_since_ms": known.since_ms}


def _stage_of(replica: ShardReplica | None) -> str:
    """How far the replacement of a lost replica is."""
    if replica is None:
        return "its shard's leader replaces it once a majority of the other voters is there"
    return f"replica {replica.replica} learns in its place"


_KIND_NAMES: dict[int, str] = {
    CommandKind.CREATE: "COMMAND_KIND_CREATE",
    CommandKind.SEND: "COMMAND_KIND_MESSAGE",
    CommandKind.DELETE: "COMMAND_KIND_DELETE",
    CommandKind.ALARM: "COMMAND_KIND_ALARM",
    CommandKind.ANSWER: "COMMAND_KIND_ANSWER",
    CommandKind.UPGRADE: "COMMAND_KIND_UPGRADE",
    CommandKind.CONNECT: "COMMAND_KIND_CONNECT",
    CommandKind.DISCONNECT: "COMMAND_KIND_DISCONNECT",
    CommandKind.REPAIR: "COMMAND_KIND_REPAIR",
    CommandKind.THAW: "COMMAND_KIND_THAW",
    CommandKind.FORK: "COMMAND_KIND_FORK",
}
_CODE_NAMES = ("OK", "REFUSED", "FAILED", "BUDGET", "DENIED", "POISONED", "REJECTED")


def _history_rows(epoch: int, first: int, row: HistoryRow) -> list[Row]:
    """The commands of one stored row, in the shape of admin.proto."""
    return [
        {
            "position": {"epoch": epoch, "index": first + place},
            "kind": _KIND_NAMES[command.kind],
            "sender": command.principal,
            "channel": command.channel,
            "payload": command.payload,
            "time_ms": row.now_ms,
            "code": _CODE_NAMES[row.codes[place]],
            "answer": row.answers[place],
            "code_hash": command.code_hash,
            "seed": command_seed(row.seed, row.offsets[place]),
        }
        for place, command in enumerate(row.commands)
    ]


def _document(request: Row) -> DocumentId:
    document = request["document"]
    if document is None:
        raise InvalidRequest("a document must be named")
    return DocumentId(document["space"], document["key"])


def _limit(request: Row) -> int:
    limit = request["limit"] or 100
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise InvalidRequest(f"limit must be 1 to {LIST_LIMIT_MAX}, not {limit}")
    return int(limit)
