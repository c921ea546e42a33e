"""`moot doc divergences` makes one list of what nodes remember, and shows no values."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.cli.output import Exit
from cluster.errors import Unavailable
from tests.cli.scripted import scripted
from tests.cli.terminal import moot

REPORT: dict[str, Any] = {
    "document": {"space": "board", "key": "a"},
    "shard_id": 2,
    "position": {"epoch": 1, "index": 5},
    "raft_index": 40,
    "offset": 3,
    "channel": "claim",
    "differs": ["answer", "state"],
    "field": "board/3/owner",
    "sides": [{"chain": b"\x01" * 8, "nodes": ["n1", "n3"]}, {"chain": b"\x02" * 8, "nodes": ["n2"]}],
    "right": ["n1", "n3"],
    "leader": "n2",
    "misled": True,
    "remedy": "REMEDY_HEALING",
    "found_at_ms": 1_700_000_000_000,
    "node_id": "n1",
}


def listed(home: Path, address: str, *more: str) -> Any:
    return moot("doc", "divergences", "--address", address, *more, cwd=home)


async def test_a_report_is_listed_once_as_it_ended(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        nodes[0].answers["ListDivergences"] = [{"divergences": [REPORT]}]
        nodes[1].answers["ListDivergences"] = [{"divergences": [{**REPORT, "remedy": "REMEDY_HEALED", "node_id": "n2"}]}]
        nodes[2].answers["ListDivergences"] = [Unavailable("just starting")]
        done = await asyncio.to_thread(listed, tmp_path, nodes[0].address, "--json")
        assert done.code == Exit.DONE
        (row,) = done.json["divergences"]
        assert (row["document"], row["position"], row["channel"]) == ("board/a", "1.5", "claim")
        assert (row["field"], row["right"], row["remedy"]) == ("board/3/owner", ["n1", "n3"], "healed")
        assert row["sides"][1] == {"chain": "02" * 8, "nodes": ["n2"]}
        shown = await asyncio.to_thread(listed, tmp_path, nodes[0].address)
        assert "board/a: n2 led and was in the minority" in shown.out


async def test_what_is_not_healed_is_a_no(tmp_path: Path) -> None:
    async with scripted("n1") as nodes:
        nodes[0].answers["ListDivergences"] = [{"divergences": [{**REPORT, "remedy": "REMEDY_FROZEN", "right": []}]}]
        assert (await asyncio.to_thread(listed, tmp_path, nodes[0].address, "--json")).code == Exit.NO


async def test_nothing_found_is_a_yes(tmp_path: Path) -> None:
    async with scripted("n1") as nodes:
        nodes[0].answers["ListDivergences"] = [{"divergences": []}]
        done = await asyncio.to_thread(listed, tmp_path, nodes[0].address, "--json")
        assert (done.code, done.json) == (Exit.DONE, {"divergences": []})
