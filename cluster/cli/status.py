"""`moot status`, `nodes`, `where`: what the cluster looks like from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cluster.cli.local import LocalCluster, NoCluster
from cluster.cli.output import (
    AsJson,
    Exit,
    Unreachable,
    add_row,
    command,
    duration,
    out,
    print_json,
    print_line,
    state,
    styled,
    table,
)
from cluster.cli.placement import is_done, placement_of, summary
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, ask_one, at, document_of, run
from cluster.errors import ClusterError
from cluster.v1 import admin_pb2

REFRESH_S: Final = 1.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Any cluster"
    app.command("status", rich_help_panel=panel)(status)
    app.command("nodes", rich_help_panel=panel)(nodes)
    app.command("where", rich_help_panel=panel)(where)


def word(number: int, enum: Any, prefix: str) -> str:
    """An enum's value as people and --json see it."""
    return str(enum.Name(number)).removeprefix(prefix).lower()


# data


async def overview_data(addresses: Sequence[str], local: LocalCluster | None = None) -> dict[str, Any]:
    """What `moot status --json` prints. Asks every given node for itself; those that do not answer are shown as such."""

    async def one(address: str) -> Any:
        try:
            status, halted = await asyncio.gather(ask_one(address, "GetStatus"), ask_one(address, "ListHalted"))
            return status, halted
        except ClusterError as error:
            return error.message

    answers = dict(zip(addresses, await asyncio.gather(*map(one, addresses)), strict=True))
    speaker = next((address for address, answer in answers.items() if isinstance(answer, tuple)), None)
    if speaker is None:
        return {"reachable": False, "healthy": False, "errors": {address: str(text) for address, text in answers.items()}}
    # the node with the best view speaks: one that was just cut off knows least.
    speaker = max(
        (address for address, answer in answers.items() if isinstance(answer, tuple)),
        key=lambda address: (answers[address][0].nodes_alive, -len(answers[address][0].shards_leaderless)),
    )
    status = answers[speaker][0]
    try:
        listed = (await ask_one(speaker, "ListNodes")).nodes
    except ClusterError:
        listed = []
    rows = [_node_row(node, answers, local) for node in listed]
    silent = [address for address, answer in answers.items() if not isinstance(answer, tuple)]
    believed = {row["gateway_address"] for row in rows if row["state"] == "alive"}
    # a node that was killed a moment ago is believed alive for a while yet.
    tolerated = max(0, status.failures_tolerated - len(believed.intersection(silent)))
    halted = [row for answer in answers.values() if isinstance(answer, tuple) for row in _halted_rows(answer[1])]
    return {
        "reachable": True,
        "healthy": bool(status.healthy and status.nodes_alive == status.nodes_total and not halted and not silent),
        "cluster_id": status.cluster_id,
        "asked": status.node_id,
        "version": status.version,
        "nodes_alive": status.nodes_alive,
        "nodes_total": status.nodes_total,
        "unreachable": silent,
        "failures_tolerated": tolerated,
        "shards_total": status.shards_total,
        "shards_leaderless": list(status.shards_leaderless),
        "shards_under_replicated": list(status.shards_under_replicated),
        "shards_changing": sorted(
            {each for answer in answers.values() if isinstance(answer, tuple) for each in answer[0].shards_changing}
        ),
        "shard_map_version": status.shard_map_version,
        "halted": halted,
        "placement": await placement_of(lambda: ask_one(speaker, "ExplainPlacement")),
        "nodes": rows,
    }


def _node_row(node: Any, answers: dict[str, Any], local: LocalCluster | None) -> dict[str, Any]:
    answer = answers.get(node.gateway_address)
    row = {
        "node_id": node.node_id,
        "state": word(node.state, admin_pb2.NodeState, "NODE_STATE_"),
        "standing": word(node.standing, admin_pb2.NodeStanding, "NODE_STANDING_"),
        "gateway_address": node.gateway_address,
        "shards_led": node.shards_led,
        "replicas": node.replicas,
        "boot_generation": node.boot_generation,
        "version": node.version or None,
        "labels": dict(node.labels),
        "documents_in_memory": answer[0].documents_in_memory if isinstance(answer, tuple) else None,
        "uptime_ms": answer[0].uptime_ms if isinstance(answer, tuple) else None,
    }
    if local is not None:
        found = next((each for each in local.nodes if each.node_id == node.node_id), None)
        row["process"] = local.state(found) if found is not None else None
        row["pid"] = found.pid if found is not None and local.process(found) is not None else None
    return row


def _halted_rows(listed: Any) -> list[dict[str, Any]]:
    return [
        {
            "shard": each.shard_id,
            "raft_index": each.raft_index,
            "offset": each.offset,
            "document": f"{each.document.space}/{each.document.key}" if each.HasField("document") else None,
            "cause": each.cause,
            "node_id": each.node_id,
        }
        for each in listed.halted
    ]


# pictures


def overview(data: dict[str, Any], hint: str = "") -> RenderableType:
    """The picture of `overview_data`."""
    if not data["reachable"]:
        text = Text("● unreachable", style="bold red")
        for address, error in data["errors"].items():
            text.append(f"\n  {address}: {error}", style="dim")
        return text
    head = Text()
    good = data["healthy"]
    head.append("● healthy" if good else "● degraded", style="bold green" if good else "bold yellow")
    tolerated = data["failures_tolerated"]
    plural = "" if tolerated == 1 else "s"
    head.append(
        f"   {data['nodes_alive']}/{data['nodes_total']} nodes, {data['shards_total']} shards, survives {tolerated} more "
        f"failure{plural}",
    )
    head.append(f"   cluster {data['cluster_id'][:8]}\n", style="dim")
    parts: list[RenderableType] = [head, _nodes_table(data["nodes"])]
    trouble = Text()
    if data["unreachable"]:
        trouble.append(f"\ndo not answer: {', '.join(data['unreachable'])}", style="yellow")
    if data["shards_leaderless"]:
        trouble.append(f"\nwithout a leader: shards {_numbers(data['shards_leaderless'])}", style="red")
    if data["shards_under_replicated"]:
        trouble.append(f"\nlack a replica: shards {_numbers(data['shards_under_replicated'])}", style="yellow")
    if data["shards_changing"]:
        shards = data["shards_changing"]
        trouble.append(f"\nreplicas move: shards {_numbers(shards)} (moot shards show {shards[0]})", style="cyan")
    moves = summary(data["placement"]) if data["placement"] is not None else ""
    if moves:
        trouble.append(f"\n{moves} (moot shards why)", style="cyan")
    for node in data["placement"]["nodes"] if data["placement"] is not None else ():
        if node["why"]:
            trouble.append(f"\n{node['node_id']}: {node['why']}", style="dim")
    for row in data["halted"]:
        trouble.append(
            f"\nshard {row['shard']} halted on {row['node_id']} at entry {row['raft_index']}: {row['cause']}", style="red"
        )
    if trouble:
        parts.append(trouble)
    if hint:
        parts.append(Text(f"\n{hint}", style="dim"))
    return Group(*parts)


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _nodes_table(rows: list[dict[str, Any]]) -> RenderableType:
    with_process = any("process" in row for row in rows)
    shown = table(
        "node",
        "state",
        "standing",
        *(("process",) if with_process else ()),
        "gateway",
        ">leads",
        ">replicas",
        ">in memory",
        ">up",
    )
    for row in rows:
        memory, up_ms = row["documents_in_memory"], row["uptime_ms"]
        add_row(
            shown,
            styled(row["node_id"], "bold"),
            state(row["state"]),
            state(row["standing"]),
            *((state(row.get("process") or ""),) if with_process else ()),
            row["gateway_address"],
            row["shards_led"],
            row["replicas"],
            "" if memory is None else memory,
            "" if up_ms is None else duration(up_ms),
        )
    return shown


def _local(given: Sequence[str] | None, folder: Any) -> LocalCluster | None:
    if given:
        return None
    try:
        return LocalCluster.open(folder)
    except NoCluster:
        return None


# commands


@command
def status(
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    wait_healthy: Annotated[bool, typer.Option("--wait-healthy", help="Wait until it is healthy and nothing moves.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for --wait-healthy.", min=0)] = 60.0,
    as_json: AsJson = False,
) -> Exit:
    """Show the health of a cluster: nodes, shards without a leader or short of replicas, failures it still survives, moves.

    --wait-healthy also waits for replicas that are being moved or rebuilt; `moot shards why` shows what they wait for. When
    its time is over the exit code is that of the health alone.

    Exit codes: 0 healthy. 1 degraded: something is missing. 3 no node answers.

    Example: moot status --wait-healthy --timeout 30
    """
    folder = folder.absolute()
    addresses = addresses_of(address, folder)
    local = _local(address, folder)
    if watch:
        return run(_watch(addresses, local, as_json))
    data = run(_settled(addresses, local, timeout if wait_healthy else 0.0))
    if as_json:
        print_json(data)
    else:
        out.print(overview(data))
    if not data["reachable"]:
        if not as_json:
            raise Unreachable("no node answered", "start nodes: moot up, moot restart N; or name one: --address host:port")
        return Exit.UNREACHABLE
    return Exit.DONE if data["healthy"] else Exit.NO


async def _settled(addresses: Sequence[str], local: LocalCluster | None, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        data = await overview_data(addresses, local)
        if (data["healthy"] and is_done(data["placement"])) or time.monotonic() >= deadline:
            return data
        await asyncio.sleep(0.2)


async def _watch(addresses: Sequence[str], local: LocalCluster | None, as_json: bool) -> Exit:
    if as_json:
        while True:
            print_line(await overview_data(addresses, local))
            await asyncio.sleep(REFRESH_S)
    with Live(console=out, auto_refresh=False) as live:
        while True:
            if local is not None:
                local.refresh()
            live.update(overview(await overview_data(addresses, local), hint="Ctrl-C ends this view"), refresh=True)
            await asyncio.sleep(REFRESH_S)


@command
def nodes(
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    why: Annotated[str, typer.Option("--why", metavar="NODE", help="Who holds what of this node, and why.")] = "",
    as_json: AsJson = False,
) -> Exit:
    """List the nodes: state, addresses, what they lead and hold.

    Who is alive is an opinion, and every node has its own. With --why each node that answers tells what it holds of one of
    them and how it came to that: who could not reach it (directly, through helpers, by stream, on the data path), whose word it
    was, whether it refuted. "reached by" tells broken ways apart: datagrams that a firewall drops, or gossip that works where
    Raft does not. An observer that stood still, or whose health is not 0, is slow itself.

    Exit codes: 0. With --why 1 when somebody does not hold it alive, 4 when nobody has met it. 3 when no node answers.

    Example: moot nodes --why n2
    """
    folder = folder.absolute()
    if why:
        from cluster.cli.why import why as explain

        return explain(why, addresses_of(address, folder), as_json)
    data = run(overview_data(addresses_of(address, folder), _local(address, folder)))
    if not data["reachable"]:
        raise Unreachable("no node answered", "start nodes: moot up, moot restart N; or name one: --address host:port")
    if as_json:
        print_json({"nodes": data["nodes"]})
    else:
        out.print(_nodes_table(data["nodes"]))
    return Exit.DONE


def shard_row(shard: Any) -> dict[str, Any]:
    """A shard as --json shows it."""
    return {
        "shard": shard.shard_id,
        "hash_begin": shard.hash_begin,
        "hash_end": shard.hash_end,
        "leader": shard.leader or None,
        "term": shard.term,
        "replicas": [replica.node_id for replica in shard.replicas],
        "roles": {replica.node_id: word(replica.role, admin_pb2.ReplicaRole, "REPLICA_ROLE_") for replica in shard.replicas},
        "commit_index": shard.commit_index,
        "applied_index": shard.applied_index,
    }


def replicas_cell(row: dict[str, Any]) -> str:
    """Who holds copies, for people: whoever does not vote says so."""
    return " ".join(f"{node}(learner)" if row["roles"][node] == "learner" else node for node in row["replicas"])


@command
def where(
    document: Annotated[str, typer.Argument(help="SPACE/KEY", show_default=False)],
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show where a document is, or would be: its shard, who leads it, who holds copies.

    Exit codes: 0, 1 when its shard has no leader now, 3 when no node answers.

    Example: moot where chat/lobby
    """
    target = document_of(document)

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("Where", document={"space": target.space, "key": target.key})

    answer = run(ask())
    row = {
        "document": str(target),
        "hash": answer.hash,
        **shard_row(answer.shard),
        "leader_gateway_address": answer.leader_gateway_address or None,
    }
    if as_json:
        print_json(row)
    else:
        shown = table("document", "hash", ">shard", "leader", "at", "replicas")
        leader = styled(row["leader"], "bold") if row["leader"] else styled("none", "red")
        add_row(
            shown, row["document"], f"{row['hash']:08x}", row["shard"], leader, row["leader_gateway_address"] or "",
            replicas_cell(row),
        )  # fmt: skip
        out.print(shown)
    return Exit.DONE if row["leader"] else Exit.NO
