"""`moot doc thaw` asks every replica what it has, and orders an epoch later than all of theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.cli.output import Exit
from cluster.errors import InvalidRequest, Unavailable
from tests.cli.scripted import ScriptedNode, scripted
from tests.cli.terminal import Finished, moot

THAW = ("doc", "thaw", "board/a", "--from", "n2", "--reason", "n2 is right", "--json")


def inspected(node: ScriptedNode, epoch: int, record: bytes) -> dict[str, Any]:
    position = {"epoch": epoch, "index": 7}
    return {"node_id": node.name, "exists": True, "position": position, "record_hash": record[:1] * 32, "record": record}


async def typed(node: ScriptedNode, home: Path, *arguments: str) -> Finished:
    return await asyncio.to_thread(moot, *arguments, "--address", node.address, cwd=home)


def tell(nodes: list[ScriptedNode]) -> None:
    holders = [{"node_id": node.name, "replica_id": place + 1} for place, node in enumerate(nodes)]
    for node, epoch, record in zip(nodes, (1, 1, 4), (b"a", b"b", b"b"), strict=True):
        node.answers["Where"] = [{"shard": {"shard_id": 1, "replicas": holders}}]
        node.answers["InspectDocument"] = [inspected(node, epoch, record)]
        node.answers["ThawDocument"] = [{"position": {"epoch": 5, "index": 8}}]


async def test_the_record_of_the_chosen_node_is_ordered_in_an_epoch_later_than_all(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        tell(nodes)
        done = await typed(nodes[0], tmp_path, *THAW)
        assert done.code == Exit.DONE, done.err
        assert done.json == {
            "document": "board/a", "position": {"epoch": 5, "index": 8}, "from": "n2", "replaced": ["n1"], "unasked": []
        }  # fmt: skip
        (told,) = nodes[0].asked("ThawDocument")
        assert (told["node_id"], told["record"], told["epoch"], told["reason"]) == ("n2", b"b", 5, "n2 is right")
        assert [node.asked("InspectDocument")[0]["with_record"] for node in nodes] == [False, True, False]


async def test_who_could_not_be_asked_is_named_and_must_not_be_the_chosen_one(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        tell(nodes)
        nodes[2].answers["InspectDocument"] = [Unavailable("just starting")]
        done = await typed(nodes[0], tmp_path, *THAW)
        assert (done.code, done.json["unasked"]) == (Exit.DONE, ["n3"])
        nodes[1].answers["InspectDocument"] = [Unavailable("just starting")]
        away = await typed(nodes[0], tmp_path, *THAW)
        assert (away.code, away.json["error"]["reason"]) == (Exit.UNREACHABLE, "NO_REPLICA")
        stranger = await typed(nodes[0], tmp_path, *THAW[:4], "n9", *THAW[5:])
        assert stranger.code == Exit.USAGE
        assert len(nodes[0].asked("ThawDocument")) == 1


async def test_what_is_not_frozen_is_refused(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        tell(nodes)
        nodes[0].answers["ThawDocument"] = [InvalidRequest("the document is not frozen at its shard's leader")]
        refused = await typed(nodes[0], tmp_path, *THAW)
        assert (refused.code, "not frozen" in refused.json["error"]["message"]) == (Exit.REFUSED, True)
