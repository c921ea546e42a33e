"""`moot shards why`, `freeze`, `thaw`: what moves replicas by itself, why it does or does not, and how to stop it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, duration, out, print_json, say, state, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, at, run
from cluster.errors import ClusterError, NotLeader

FREEZE_TIMEOUT_S: Final = 15.0
Wanted = Annotated[
    int | None,
    typer.Argument(help="Only this shard, as `moot shards list` numbers it.", min=0, metavar="[SHARD]", show_default=False),
]


def register(shards: typer.Typer) -> None:
    """Add the commands of this module."""
    shards.command("why")(why)
    shards.command("freeze")(freeze)
    shards.command("thaw")(thaw)


def placement_row(answer: Any) -> dict[str, Any]:
    """What `moot shards why --json` prints, and `moot status --json` under `placement`."""
    return {
        "controller": answer.node_id,
        "term": answer.term,
        "automatic": answer.automatic,
        "settled": answer.settled,
        "standstill": answer.standstill or None,
        "frozen": answer.frozen,
        "frozen_shards": list(answer.frozen_shards),
        "moves_running": answer.moves_running,
        "moves_waiting": answer.moves_waiting,
        "moves_finished": answer.moves_finished,
        "remaining_ms": answer.remaining_ms if answer.HasField("remaining_ms") else None,
        "shards": [
            {
                "shard": each.shard_id,
                "state": each.state,
                "why": each.why,
                "moving_ms": each.moving_ms if each.HasField("moving_ms") else None,
                "lag_entries": each.lag_entries if each.HasField("lag_entries") else None,
            }
            for each in answer.shards
        ],
        "nodes": [
            {"node_id": each.node_id, "replicas": each.replicas, "leads": each.leads, "why": each.why or None}
            for each in answer.nodes
        ],
    }


def is_done(row: dict[str, Any] | None) -> bool:
    """Whether nothing moves and nothing is going to by itself, as far as is known."""
    return row is not None and (row["settled"] or row["frozen"] or not row["automatic"])


def summary(row: dict[str, Any]) -> str:
    """What moves, in a line; empty when nothing does and nothing stands in the way."""
    if row["standstill"]:
        return f"nothing moves by itself: {row['standstill']}"
    if not row["moves_running"] and not row["shards"]:
        return ""
    parts = [f"{row['moves_running']} replicas move"] if row["moves_running"] else []
    for name in ("waiting", "blocked", "frozen", "unknown"):
        count = sum(each["state"] == name for each in row["shards"])
        if count:
            parts.append(f"{count} {'shard' if count == 1 else 'shards'} {name}")
    if row["remaining_ms"] is not None:
        parts.append(f"about {duration(row['remaining_ms'])} to go")
    return ", ".join(parts) if parts else ""


@command
def why(shard: Wanted = None, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Show what moves replicas and leaders now, and why: for each shard that is not as it should be, what happens or what
    blocks it.

    moving: a replica or the leadership goes elsewhere. waiting: it will, by itself. blocked: only somebody can help. frozen:
    see `moot shards freeze`. unknown: its leader has not reported, or it has none. A shard that is not listed is as it should
    be.

    Exit codes: 0 all is as it should be. 1 something moves, waits or is blocked. 3 nobody who leads shard 0 answers. 4 no such
    shard.

    Example: moot shards why 3
    """

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("ExplainPlacement", **({} if shard is None else {"shard_id": shard}))

    row = placement_row(run(_known(ask)))
    if as_json:
        print_json(row)
    else:
        _print(row, shard)
    return Exit.NO if row["shards"] or (shard is None and not row["settled"]) else Exit.DONE


async def _known(ask: Any) -> Any:
    try:
        return await ask()
    except NotLeader as error:
        raise CommandFailed(
            error.message,
            state="nothing was asked to change",
            next_step="shard 0 has no leader: moot status shows which nodes are missing",
            code=Exit.UNREACHABLE,
            reason="NO_LEADER",
        ) from error


def _print(row: dict[str, Any], shard: int | None) -> None:
    if row["standstill"]:
        say(f"nothing moves by itself: {row['standstill']}", "yellow")
    if not row["shards"]:
        if not row["standstill"]:
            what = "every replica is" if shard is None else f"every replica of shard {shard} is"
            say(f"{what} where it should be   [dim]{row['controller']} decides[/]")
    else:
        shown = table(">shard", "", "why", ">for", ">lacks")
        for each in row["shards"]:
            since, lag = each["moving_ms"], each["lag_entries"]
            add_row(
                shown, each["shard"], state(each["state"]), each["why"], "" if since is None else duration(since),
                "" if lag is None else lag,
            )  # fmt: skip
        out.print(shown)
        line = summary(row)
        if line:
            say(f"\n{line}   [dim]{row['controller']} decides[/]")
    for node in row["nodes"]:
        if shard is None and node["why"]:
            say(f"{node['node_id']}: {node['why']}", "dim")


@command
def freeze(shard: Wanted = None, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Let all shards, or one, stand still: no replica and no leader moves by itself, until `moot shards thaw`.

    For work on the cluster, or to keep a shard where you moved it by hand. What has begun stays where it is: a learner goes on
    learning and gets no vote. Elections go on as ever. A dead node is not replaced meanwhile: do not forget to thaw.

    Exit codes: 0 frozen now, or before. 3 no node answers. 4 no such shard.

    Example: moot shards freeze 3
    """
    return _set(shard, True, address, folder, as_json)


@command
def thaw(shard: Wanted = None, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Let replicas and leaders move by themselves again: all, or those of one shard that was frozen alone.

    A shard that was frozen alone stays so when everything is thawed.

    Exit codes: 0 thawed now, or before. 3 no node answers. 4 no such shard.

    Example: moot shards thaw
    """
    return _set(shard, False, address, folder, as_json)


def _set(shard: int | None, frozen: bool, address: Addresses, folder: Folder, as_json: bool) -> Exit:
    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            fields: dict[str, Any] = {} if shard is None else {"shard_id": shard}
            return await client.admin("FreezePlacement", frozen=frozen, **fields)

    answer = run(ask())
    row = {"frozen": answer.frozen, "frozen_shards": list(answer.frozen_shards), "changed": answer.changed}
    if as_json:
        print_json(row)
        return Exit.DONE
    what = "every shard" if shard is None else f"shard {shard}"
    say(f"{what} {'stands still' if frozen else 'may move by itself'}{'' if answer.changed else ', as before'}")
    if not frozen and (answer.frozen or answer.frozen_shards):
        rest = "everything" if answer.frozen else "shards " + ", ".join(map(str, answer.frozen_shards))
        say(f"still frozen: {rest}", "yellow")
    return Exit.DONE


async def placement_of(ask: Any) -> dict[str, Any] | None:
    """What is known of the placement now; None when nobody who knows answers."""
    try:
        return placement_row(await ask())
    except ClusterError:
        return None
