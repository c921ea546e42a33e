"""`moot node drain` and `decommission`: a node hands over what it leads, or leaves the cluster."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, Unreachable, add_row, command, out, print_json, say, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, ask_one, run
from cluster.cli.status import word
from cluster.errors import ClusterError, RetryableError
from cluster.v1 import admin_pb2

LOOK_EVERY_S: Final = 0.5
ASK_TIMEOUT_S: Final = 30.0
NodeName = Annotated[str, typer.Argument(help="The node's name, as `moot nodes` shows it.", metavar="NODE", show_default=False)]


def register(node: typer.Typer) -> None:
    """Add the commands of this module."""
    node.command("drain")(drain)
    node.command("decommission")(decommission)


async def _ask(addresses: list[str], node: str, standing: int, *, dry_run: bool = False) -> Any:
    """The answer of whoever answers first; asked again while a leader is being elected. Raises ClusterError, Unreachable."""
    deadline = time.monotonic() + ASK_TIMEOUT_S
    last: ClusterError | None = None
    while time.monotonic() < deadline:
        for address in addresses:
            try:
                return await ask_one(address, "ChangeStanding", node_id=node, standing=standing, dry_run=dry_run)
            except RetryableError as error:
                last = error
        await asyncio.sleep(LOOK_EVERY_S)
    raise Unreachable(
        f"no node answered: {last.message if last is not None else ''}", "name one that runs: --address host:port"
    )


def _row(answer: Any) -> dict[str, Any]:
    """As --json shows it."""
    return {
        "node": answer.node_id,
        "standing": word(answer.standing, admin_pb2.NodeStanding, "NODE_STANDING_"),
        "changed": answer.changed,
        "shards_held": list(answer.shards_held),
        "shards_led": list(answer.shards_led),
        "blockers": [
            {"shard": each.shard_id, "lacks": word(each.lack, admin_pb2.ShardLack, "SHARD_LACK_"), "why": each.why}
            for each in answer.blockers
        ],
    }


def _show_blockers(row: dict[str, Any]) -> None:
    shown = table(">shard", "would lack", "why")
    for each in row["blockers"]:
        add_row(shown, each["shard"], each["lacks"], each["why"])
    out.print(shown)


def _refused(row: dict[str, Any], what: str, as_json: bool) -> Exit:
    if as_json:
        print_json({**row, "done": False})
        return Exit.REFUSED
    _show_blockers(row)
    raise CommandFailed(
        f"{row['node']} can not {what}: shards {_numbers([each['shard'] for each in row['blockers']])} would lack something",
        state="nothing changed",
        next_step="add a node (moot node start --join), start what is down, or undo the drain of another node",
        code=Exit.REFUSED,
        reason="BLOCKED",
    )


def _numbers(shards: list[int]) -> str:
    return ", ".join(map(str, shards[:12])) + (f" and {len(shards) - 12} more" if len(shards) > 12 else "")


async def _until(addresses: list[str], node: str, key: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Look until nothing is left, saying what is, whenever that changed."""
    deadline, told = time.monotonic() + timeout_s, ""
    while True:
        row = _row(await _ask(addresses, node, admin_pb2.NODE_STANDING_UNSPECIFIED))
        left = row[key]
        if row["standing"] == "removed" or (key == "shards_led" and not left):
            return {**row, "done": True}
        plural = "" if len(left) == 1 else "s"
        text = f"{len(left)} shard{plural} left on {node}: {_numbers(left)}" if left else f"nothing is left on {node}"
        if text != told and not quiet:
            say(text)
            told = text
        if time.monotonic() >= deadline:
            return {**row, "done": False}
        await asyncio.sleep(LOOK_EVERY_S)


@command
def drain(
    node: NodeName,
    undo: Annotated[bool, typer.Option("--undo", help="It may lead and get replicas again.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait until it leads nothing.", min=0)] = 60.0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Let a node lead nothing: before maintenance of its machine, or because it is ill. It keeps its replicas and gets no new.

    Its leaderships go to other voters, a few at a time, and clients notice nothing but that. It stays so, also over a restart,
    until --undo. A node that is only restarted needs no drain: it hands over by itself when it is told to stop.

    Exit codes: 0 it leads nothing, or is active again. 1 it still leads something; run it again to go on waiting. 3 no node
    answers. 4 refused: some shard would have nobody to lead it; nothing changed.

    Example: moot node drain n2 && ssh n2 reboot
    """
    addresses = addresses_of(address, folder.absolute())
    wanted = admin_pb2.NODE_STANDING_ACTIVE if undo else admin_pb2.NODE_STANDING_DRAINING
    row = _row(run(_ask(addresses, node, wanted)))
    if row["blockers"]:
        return _refused(row, "be drained", as_json)
    if not undo:
        row |= run(_until(addresses, node, "shards_led", timeout, quiet=as_json)) | {"changed": row["changed"]}
    row.setdefault("done", True)
    if as_json:
        print_json(row)
    elif undo:
        say(f"{node} is active: it may lead and get replicas")
    elif row["done"]:
        say(f"{node} is drained: it leads nothing and keeps {len(row['shards_held'])} replicas; --undo takes it back")
    return Exit.DONE if row["done"] else Exit.NO


@command
def decommission(
    node: NodeName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would stand in the way.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="It stays, and may lead and get replicas again.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait until it is removed.", min=0)] = 3600.0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Take a node out of the cluster for good: its replicas go to other nodes, and once it holds nothing it is removed.

    It begins only if every shard keeps its quorum and gets as many voters as it should have; what stands in the way is named,
    shard by shard. Ctrl-C ends the waiting and not the decommission. A node that is removed stops by itself; neither its name
    nor its data directory is taken again. The node may be dead: then its replicas are rebuilt from the other voters.

    Exit codes: 0 it is removed, or active again (--cancel), or nothing stands in the way (--dry-run). 1 not removed yet. 3 no
    node answers. 4 refused: something stands in the way, and nothing changed.

    Example: moot node decommission n2 --dry-run
    """
    addresses = addresses_of(address, folder.absolute())
    wanted = admin_pb2.NODE_STANDING_DECOMMISSIONING
    if status or cancel:
        wanted = admin_pb2.NODE_STANDING_ACTIVE if cancel else admin_pb2.NODE_STANDING_UNSPECIFIED
    row = _row(run(_ask(addresses, node, wanted, dry_run=dry_run)))
    if row["blockers"]:
        return _refused(row, "leave", as_json)
    if not (dry_run or status or cancel):
        row |= run(_until(addresses, node, "shards_held", timeout, quiet=as_json)) | {"changed": row["changed"]}
    done = row["standing"] == "removed" or dry_run or cancel
    if as_json:
        print_json({**row, "done": done})
    else:
        say(_told(row, dry_run=dry_run, cancel=cancel))
    return Exit.DONE if done else Exit.NO


def _told(row: dict[str, Any], *, dry_run: bool, cancel: bool) -> str:
    node, held = row["node"], len(row["shards_held"])
    if row["standing"] == "removed":
        return f"{node} is removed from the cluster for good"
    if dry_run:
        return f"nothing stands in the way: {held} replicas would go from {node} to other nodes"
    if cancel:
        return f"{node} stays: it may lead and get replicas"
    if row["standing"] == "decommissioning":
        return f"{node} is leaving: {held} shards are left on it; moot shards --why says what they wait for"
    return f"{node} is {row['standing']} and holds {held} replicas"
