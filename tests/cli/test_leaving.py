"""`moot node drain` and `decommission`: what people and programs are told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.cli.output import Exit
from cluster.errors import StaleRegistry, UnknownNode
from tests.cli.scripted import Said, ScriptedNode, scripted
from tests.cli.terminal import Finished, called


async def typed(node: ScriptedNode, folder: Path, *arguments: str) -> Finished:
    return await asyncio.to_thread(called, "node", *arguments, "--address", node.address, cwd=folder)


def answer(standing: str, held: tuple[int, ...] = (), led: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    row = {"node_id": "n2", "standing": f"NODE_STANDING_{standing}", "shards_held": held, "shards_led": led}
    return {**row, **more}


BLOCKER = {"shard_id": 4, "lack": "SHARD_LACK_REPLICAS", "why": "n1, n3 stay"}


async def test_a_drain_is_over_when_the_node_leads_nothing(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        steps: list[Said] = [
            answer("DRAINING", (1, 2), (2,), changed=True),
            answer("DRAINING", (1, 2), (2,)),
            answer("DRAINING", (1, 2)),
        ]
        node.answers["ChangeStanding"] = steps
        done = await typed(node, tmp_path, "drain", "n2", "--json")
        assert (done.code, done.json["done"], done.json["changed"]) == (Exit.DONE, True, True), done.out
        asked = [each["standing"] for each in node.asked("ChangeStanding")]
        assert asked == ["NODE_STANDING_DRAINING", "NODE_STANDING_UNSPECIFIED", "NODE_STANDING_UNSPECIFIED"]
        node.answers["ChangeStanding"] = [answer("DRAINING", (1, 2), (2,))]
        assert (await typed(node, tmp_path, "drain", "n2", "--timeout", "0")).code == Exit.NO


async def test_what_stands_in_the_way_is_named_shard_by_shard_and_nothing_is_changed(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["ChangeStanding"] = [answer("ACTIVE", (4,), blockers=[BLOCKER])]
        for arguments in (("decommission", "n2"), ("decommission", "n2", "--dry-run"), ("drain", "n2")):
            refused = await typed(node, tmp_path, *arguments, "--json")
            assert (refused.code, refused.json["done"]) == (Exit.REFUSED, False)
            assert refused.json["blockers"] == [{"shard": 4, "lacks": "replicas", "why": "n1, n3 stay"}]
        told = await typed(node, tmp_path, "decommission", "n2")
        assert "n1, n3 stay" in told.out
        assert "shards 4 would lack something" in told.err


async def test_a_decommission_tells_what_is_left_until_the_node_is_removed(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        steps = ["DECOMMISSIONING", "DECOMMISSIONING", "DECOMMISSIONING", "REMOVED"]
        held: list[tuple[int, ...]] = [(1, 2), (1, 2), (2,), ()]
        node.answers["ChangeStanding"] = [answer(each, left) for each, left in zip(steps, held, strict=True)]
        done = await typed(node, tmp_path, "decommission", "n2")
        assert done.code == Exit.DONE
        assert [line for line in done.out.splitlines() if "left" in line] == [
            "2 shards left on n2: 1, 2",
            "1 shard left on n2: 2",
        ]
        assert "removed from the cluster for good" in done.out


async def test_dry_run_status_and_cancel_ask_for_what_they_say(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["ChangeStanding"] = [answer("DECOMMISSIONING", (1,))]
        assert (await typed(node, tmp_path, "decommission", "n2", "--dry-run")).code == Exit.DONE
        assert (await typed(node, tmp_path, "decommission", "n2", "--status", "--json")).code == Exit.NO
        assert (await typed(node, tmp_path, "decommission", "n2", "--cancel")).code == Exit.DONE
        asked = [(each["standing"].removeprefix("NODE_STANDING_"), each["dry_run"]) for each in node.asked("ChangeStanding")]
        assert asked == [("DECOMMISSIONING", True), ("UNSPECIFIED", False), ("ACTIVE", False)]


async def test_a_race_with_another_change_is_asked_again_and_an_unknown_node_is_not(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["ChangeStanding"] = [StaleRegistry("changed"), answer("ACTIVE")]
        assert (await typed(node, tmp_path, "drain", "n2", "--undo")).code == Exit.DONE
        node.answers["ChangeStanding"] = [UnknownNode("there is no node 'n9'; there are n1")]
        refused = await typed(node, tmp_path, "drain", "n9", "--json")
        assert (refused.code, refused.json["error"]["reason"]) == (Exit.REFUSED, "UNKNOWN_NODE")
