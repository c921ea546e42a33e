"""`moot doc divergences`: documents whose replicas were found to differ, and what became of them."""

from __future__ import annotations

from typing import Any

import typer

from cluster.cli.leader import ask_all, gateways
from cluster.cli.output import AsJson, Exit, Unreachable, add_row, command, out, print_json, say, styled, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, run
from cluster.cli.status import word
from cluster.errors import ClusterError
from cluster.v1 import admin_pb2

_COLORS = {"healed": "green", "healing": "yellow", "waiting": "yellow", "frozen": "red"}


def register(app: typer.Typer) -> None:
    """Add the command of this module to `moot doc`."""
    app.command("divergences")(divergences)


@command
def divergences(address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """List documents whose replicas were found to differ: from which command on, in which field, who is right, what was done.

    Nodes remember this until they are restarted. A document that is frozen, or waits for voters, takes no commands.

    Exit codes: 0 there are none, or all are healed. 1 some are not. 3 no node answers.

    Example: moot doc divergences
    """
    rows = run(_rows(addresses_of(address, folder.absolute())))
    if as_json:
        print_json({"divergences": rows})
    elif not rows:
        say("no replicas were found to differ, as far as the nodes that answered remember")
    else:
        shown = table("document", "since command", "handler", "differs", "first field", "sides", "")
        for row in rows:
            sides = " | ".join(",".join(side["nodes"]) for side in row["sides"])
            since = row["position"] if row["raft_index"] else "older than what is kept"
            remedy = styled(row["remedy"], _COLORS.get(row["remedy"], "red"))
            add_row(shown, row["document"], since, row["channel"], ", ".join(row["differs"]), row["field"], sides, remedy)
        out.print(shown)
        for row in rows:
            if row["misled"]:
                say(f"{row['document']}: {row['leader']} led and was in the minority: its answers since may be contradicted")
    return Exit.DONE if all(row["remedy"] == "healed" for row in rows) else Exit.NO


async def _rows(addresses: list[str]) -> list[dict[str, Any]]:
    """Each report once, as the node tells it that knows most of how it ended."""
    answers = await ask_all(await gateways(addresses), "ListDivergences")
    heard = [answer for answer in answers.values() if not isinstance(answer, ClusterError)]
    if not heard:
        raise Unreachable("no node answered", "start nodes: moot up, moot restart N; or name one: --address host:port")
    best: dict[tuple[str, str, int, int], Any] = {}
    for each in (report for answer in heard for report in answer.divergences):
        place = (each.document.space, each.document.key, each.position.epoch, each.position.index)
        if place not in best or each.remedy > best[place].remedy:
            best[place] = each
    return [_row(best[place]) for place in sorted(best, key=lambda place: (-best[place].found_at_ms, place))]


def _row(each: Any) -> dict[str, Any]:
    return {
        "document": f"{each.document.space}/{each.document.key}",
        "shard": each.shard_id,
        "position": f"{each.position.epoch}.{each.position.index}",
        "raft_index": each.raft_index,
        "offset": each.offset,
        "channel": each.channel,
        "differs": list(each.differs),
        "field": each.field,
        "sides": [{"chain": side.chain.hex(), "nodes": list(side.nodes)} for side in each.sides],
        "right": list(each.right),
        "leader": each.leader,
        "misled": each.misled,
        "remedy": word(each.remedy, admin_pb2.Remedy, "REMEDY_"),
        "found_at_ms": each.found_at_ms,
    }
