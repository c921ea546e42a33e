"""AdminService.RepairDocument: an operator's order becomes a command of the document, sent by this node in their name."""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.documents.repairing import RepairOrder
from cluster.errors import InvalidName, InvalidPatch, InvalidRequest
from cluster.ids import check_key, check_space
from cluster.node.decisions import Ask, until_answered
from cluster.session.operations import Kind, Operation
from cluster.shardmap.map import SYSTEM_SPACE


async def repair(ask: Ask, request: dict[str, Any], principal: str) -> dict[str, Any]:
    """Log the order and wait for what came of it. Raises ClusterError; nothing is changed unless it is OutcomeUnknown."""
    document, expected = request["document"], request["expected"]
    if document is None:
        raise InvalidRequest("a document must be named")
    check_space(document["space"])
    check_key(document["key"])
    if document["space"] == SYSTEM_SPACE:
        raise InvalidName(f"the space {SYSTEM_SPACE} holds the cluster's decisions: they are not repaired by patches")
    try:
        patch = msgspec.json.decode(request["patch"] or b"[]", type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise InvalidPatch(f"the patch is not a list of operations: {error}") from None
    expect = None if expected is None else (expected["epoch"], expected["index"])
    order = msgspec.json.encode(RepairOrder(patch, request["reason"], expect, request["thaw"]))
    operation = Operation(1, Kind.REPAIR, document["space"], document["key"], principal, payload=order)
    reply = await until_answered(ask, operation)
    return {"position": {"epoch": reply.epoch, "index": reply.index}}
