"""`moot nodes --why NODE`: every node's opinion of one, and how each came to it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cluster.cli.output import Exit
from cluster.errors import UnknownNode
from tests.cli.scripted import ScriptedNode, scripted
from tests.cli.terminal import Finished, moot

NEVER_MET = UnknownNode("gossip on n1 has not met n3")


def opinion(observer: str, state: str, **fields: object) -> dict[str, object]:
    held: dict[str, object] = {
        "observer": observer,
        "node_id": "n3",
        "state": f"NODE_STATE_{state}",
        "published": f"NODE_STATE_{state}",
        "boot_generation": 4,
        "incarnation": 2,
        "in_state_ms": 1500,
        "accusers": [],
        "paths": [],
        "rtt_us": 700,
        "episodes": [],
        "local_health": 0,
        "stalls": 0,
        "refutations": 0,
    }
    return {**held, **fields}


async def typed(node: ScriptedNode, home: Path, *arguments: str) -> Finished:
    return await asyncio.to_thread(moot, "nodes", "--why", "n3", *arguments, "--address", node.address, cwd=home)


DIED = opinion(
    "n1",
    "DEAD",
    accusers=["n2"],
    paths=[{"path": "datagram", "works": False}, {"path": "data", "works": True}],
    local_health=3,
    stalls=2,
    episodes=[
        {
            "ago_ms": 4000,
            "what": "suspected",
            "teller": "n9",
            "accusers": [{"node_id": "n2", "paths": ["direct", "stream"]}],
            "boot_generation": 4,
            "incarnation": 2,
        }
    ],
)


async def test_who_accused_a_node_when_and_by_which_ways_is_told_by_everybody_who_answers(tmp_path: Path) -> None:
    """Trap 20: the logs of the victim name no accuser."""
    async with scripted("n1", "n2") as (first, second):
        first.answers["ExplainNode"] = [DIED]
        second.answers["ExplainNode"] = [opinion("n2", "ALIVE")]
        told = await typed(first, tmp_path, "--json")
        assert told.code == Exit.NO, "somebody does not hold it alive"
        answer = json.loads(told.out)
        assert [(each["observer"], each["state"], each["paths"]) for each in answer["opinions"]] == [
            ("n1", "dead", {"datagram": False, "data": True}),
            ("n2", "alive", {}),
        ]
        (episode,) = answer["opinions"][0]["episodes"]
        assert episode["accusers"] == [{"node_id": "n2", "paths": ["direct", "stream"]}]
        assert (answer["unmet"], answer["silent"]) == ([], [])
        shown = await typed(first, tmp_path)
        assert "n2 (direct+stream)" in shown.out
        assert "data path; not by datagrams" in shown.out
        assert "health 3 of 8" in shown.out


async def test_a_node_that_nobody_has_met_is_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    async with scripted("n1", "n2") as (first, second):
        first.answers["ExplainNode"] = [NEVER_MET]
        second.answers["ExplainNode"] = [opinion("n2", "ALIVE")]
        told = await typed(first, tmp_path, "--json")
        assert told.code == Exit.DONE
        assert json.loads(told.out)["unmet"] == ["n1"]
        second.answers["ExplainNode"] = [NEVER_MET]
        told = await typed(first, tmp_path, "--json")
        assert told.code == Exit.REFUSED
        error = json.loads(told.out)["error"]
        assert error["reason"] == "UNKNOWN_NODE"
        assert "moot nodes" in error["next"]
