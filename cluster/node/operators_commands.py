"""What operators do to one document: their order becomes a command of it, sent by this node in their name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from cluster.documents.repairing import RepairOrder
from cluster.errors import InvalidName, InvalidPatch, InvalidRequest
from cluster.ids import DocumentId, check_key, check_space
from cluster.node.decisions import Ask, until_answered
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.forking import ForkOrder
from cluster.shard.thawing import ThawOrder
from cluster.shardmap.map import SYSTEM_SPACE

Row = dict[str, Any]


async def repair(ask: Ask, request: Row, principal: str) -> Row:
    """AdminService.RepairDocument. Raises ClusterError; nothing is changed unless it is OutcomeUnknown."""
    document, expected = _document(request), request["expected"]
    try:
        patch = msgspec.json.decode(request["patch"] or b"[]", type=list[Row])
    except msgspec.DecodeError as error:
        raise InvalidPatch(f"the patch is not a list of operations: {error}") from None
    expect = None if expected is None else (expected["epoch"], expected["index"])
    order = msgspec.json.encode(RepairOrder(patch, request["reason"], expect, request["thaw"]))
    operation = Operation(1, Kind.REPAIR, document.space, document.key, principal, payload=order)
    return _place(await until_answered(ask, operation))


async def thaw(ask: Ask, request: Row, principal: str) -> Row:
    """AdminService.ThawDocument. Raises ClusterError; nothing is changed unless it is OutcomeUnknown.

    Without an idempotency key: that would be looked up in what replicas remember, and they differ. The epoch makes it run once.
    """
    document = _document(request)
    order = msgspec.json.encode(ThawOrder(request["node_id"], request["reason"], request["epoch"], request["record"]))
    operation = Operation(1, Kind.THAW, document.space, document.key, principal, payload=order)
    return _place(await until_answered(ask, operation, keyed=False))


async def fork(ask: Ask, request: Row, principal: str) -> Row:
    """AdminService.ForkDocument. Raises ClusterError; nothing is changed unless it is OutcomeUnknown."""
    document, position = _document(request), request["position"] or {"epoch": 0, "index": 0}
    place = (position["epoch"], position["index"])
    order = ForkOrder(request["source"], place, request["seen_by"], request["code_hash"].hex(), request["state"])
    payload = msgspec.json.encode(order)
    operation = Operation(1, Kind.FORK, document.space, document.key, principal, payload=payload)
    return _place(await until_answered(ask, operation))


OPERATORS_COMMANDS: Final[dict[str, Callable[[Ask, Row, str], Awaitable[Row]]]] = {
    "RepairDocument": repair,
    "ThawDocument": thaw,
    "ForkDocument": fork,
}


def _document(request: Row) -> DocumentId:
    document = request["document"]
    if document is None:
        raise InvalidRequest("a document must be named")
    check_space(document["space"])
    check_key(document["key"])
    if document["space"] == SYSTEM_SPACE:
        raise InvalidName(f"the space {SYSTEM_SPACE} holds the cluster's decisions: they are not changed by hand")
    return DocumentId(document["space"], document["key"])


def _place(reply: Reply) -> Row:
    return {"position": {"epoch": reply.epoch, "index": reply.index}}
