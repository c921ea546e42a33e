"""`moot shards list`, `show`, `transfer`, `isolate`: the Raft groups, who leads them, and what an operator may do to them.

Moving replicas is in `moves.py`.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from cluster.cli.lazy import lazily
from cluster.cli.leader import ShardLeader, ask_all, gateways
from cluster.cli.output import (
    AsJson,
    CommandFailed,
    Exit,
    Unreachable,
    add_row,
    command,
    out,
    print_json,
    say,
    state,
    styled,
    table,
)
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, ask_one, node_id_of, run
from cluster.cli.status import overview_data, replicas_cell, shard_row, word
from cluster.errors import ClusterError
from cluster.v1 import admin_pb2

TRANSFER_TIMEOUT_S: Final = 30.0
ISOLATE_TIMEOUT_S: Final = 30.0

app = typer.Typer(
    no_args_is_help=True,
    help="Show shards, move their replicas and leaders, or see why that happens by itself; isolate a command that ends nodes.",
    cls=lazily({"move": "moves", "why": "placement", "freeze": "placement", "thaw": "placement"}),
)
ShardNumber = Annotated[int, typer.Argument(help="The shard's number, as `moot shards list` shows it.", min=0, metavar="SHARD")]


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="shards", rich_help_panel="Any cluster")


# list


@app.command("list")
@command
def list_shards(
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    halted: Annotated[bool, typer.Option("--halted", help="Only shards whose apply has halted on some node, and why.")] = False,
    as_json: AsJson = False,
) -> Exit:
    """List the shards with their leaders and replicas, each as its leader knows it. Shard 0 is the cluster's own.

    A replica that gets the log and does not vote is shown as a learner: a move has begun there, see `moot shards show`.

    Exit codes: 0, or with --halted 1 when there are any; 3 when no node answers.

    Example: moot shards list
    """
    addresses = addresses_of(address, folder.absolute())
    if halted:
        return _list_halted(addresses, as_json)
    rows, version = run(_best_rows(addresses))
    if as_json:
        print_json({"shards": rows, "shard_map_version": version})
        return Exit.DONE
    shown = table(">shard", "hashes", "leader", ">term", "replicas", ">committed", ">applied")
    for row in rows:
        leader = styled(row["leader"], "bold") if row["leader"] else styled("none", "red")
        span = "the cluster's own" if row["shard"] == 0 else f"{row['hash_begin']:08x}-{row['hash_end'] - 1:08x}"
        add_row(shown, row["shard"], span, leader, row["term"], replicas_cell(row), row["commit_index"], row["applied_index"])
    out.print(shown)
    return Exit.DONE


async def _best_rows(addresses: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Each shard as the node knows it that knows most, and the newest version of the map."""
    answers = await ask_all(await gateways(addresses), "ListShards")
    best: dict[int, tuple[tuple[bool, int, int], Any]] = {}
    version = 0
    for node, listed in answers.items():
        if isinstance(listed, ClusterError):
            continue
        version = max(version, listed.shard_map_version)
        for shard in listed.shards:
            knowledge = (shard.leader == node, shard.term, shard.commit_index)
            if shard.shard_id not in best or knowledge > best[shard.shard_id][0]:
                best[shard.shard_id] = (knowledge, shard)
    return [shard_row(best[number][1]) for number in sorted(best)], version


def _list_halted(addresses: list[str], as_json: bool) -> Exit:
    rows = run(overview_data(addresses)).get("halted")
    if rows is None:
        raise Unreachable("no node answered", "start nodes: moot up, moot restart N; or name one: --address host:port")
    if as_json:
        print_json({"halted": rows})
    elif not rows:
        say("no shard is halted on the nodes that answered")
    else:
        shown = table(">shard", "node", ">entry", ">offset", "cause")
        for row in rows:
            add_row(shown, row["shard"], row["node_id"], row["raft_index"], row["offset"], row["cause"])
        out.print(shown)
    return Exit.NO if rows else Exit.DONE


# show


@app.command("show")
@command
def show(shard: ShardNumber, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Show who votes in a shard, who learns, how far each replica is, and what is under way: a move, a transfer.

    It is the leader's own knowledge; without a leader, that of the replica that has the newest configuration.

    Exit codes: 0, 1 when the shard has no leader now, 3 when no node answers, 4 there is no such shard.

    Example: moot shards show 3
    """
    row = run(_configuration(addresses_of(address, folder.absolute()), shard))
    if as_json:
        print_json(row)
    else:
        _print_configuration(row)
    return Exit.DONE if row["leader"] else Exit.NO


async def _configuration(addresses: list[str], shard: int) -> dict[str, Any]:
    answers = await ask_all(await gateways(addresses), "GetShardConfiguration", shard_id=shard)
    held = [answer for answer in answers.values() if not isinstance(answer, ClusterError)]
    if not held:
        raise next((error for error in answers.values() if error.reason == "UNKNOWN_SHARD"), next(iter(answers.values())))
    return configuration_row(max(held, key=lambda each: (each.leader == each.node_id, each.term, each.configuration_index)))


def configuration_row(answer: Any) -> dict[str, Any]:
    """What `moot shards show --json` prints."""
    return {
        "shard": answer.shard_id,
        "asked": answer.node_id,
        "leader": answer.leader or None,
        "term": answer.term,
        "members": [
            {
                "node_id": member.node_id or None,
                "replica_id": member.replica_id,
                "role": word(member.role, admin_pb2.ReplicaRole, "REPLICA_ROLE_"),
                "outgoing": member.outgoing,
                "match_index": member.match_index if member.HasField("match_index") else None,
                "lag_entries": member.lag_entries if member.HasField("lag_entries") else None,
                "state": word(member.state, admin_pb2.NodeState, "NODE_STATE_"),
            }
            for member in answer.members
        ],
        "configuration_index": answer.configuration_index,
        "committed": answer.committed,
        "joint": answer.joint,
        "transferring_to": answer.transferring_to or None,
        "last_index": answer.last_index,
        "commit_index": answer.commit_index,
    }


def _print_configuration(row: dict[str, Any]) -> None:
    leader = f"led by {row['leader']} in term {row['term']}" if row["leader"] else "[red]without a leader[/]"
    say(f"shard {row['shard']} {leader}   [dim]log to {row['last_index']}, committed to {row['commit_index']}[/]\n")
    shown = table("node", "state", "role", ">replica", ">has entries to", ">lacks")
    for member in row["members"]:
        role = member["role"] + (", outgoing" if member["outgoing"] else "")
        match, lag = member["match_index"], member["lag_entries"]
        add_row(
            shown, styled(member["node_id"] or "?", "bold"), state(member["state"]), role, member["replica_id"],
            "" if match is None else match, "" if lag is None else lag,
        )  # fmt: skip
    out.print(shown)
    for line in _what_is_under_way(row):
        say(f"\n{line}", "yellow")


def _what_is_under_way(row: dict[str, Any]) -> list[str]:
    told = []
    learners = [member["node_id"] for member in row["members"] if member["role"] == "learner" and not member["outgoing"]]
    if row["joint"]:
        told.append("voters are being exchanged; the leader ends this by itself")
    elif not row["committed"]:
        told.append(f"the configuration of entry {row['configuration_index']} is not committed yet")
    voter = next((member["node_id"] for member in row["members"] if member["role"] != "learner"), "NODE")
    told += [
        f"{learner} learns and does not vote: a move stands half way. The same `moot shards move` again finishes it; "
        f"this takes it back: moot shards move {row['shard']} --from {learner} --to {voter}"
        for learner in learners
    ]
    if row["transferring_to"]:
        told.append(f"leadership is being handed to {row['transferring_to']}")
    return told


# transfer


@app.command("transfer")
@command
def transfer(
    shard: ShardNumber,
    to: Annotated[
        str, typer.Option("--to", help="The node that is to lead. Default: the voter that is best prepared.", metavar="NODE")
    ] = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until it is given up.", min=0.1)] = TRANSFER_TIMEOUT_S,
    as_json: AsJson = False,
) -> Exit:
    """Hand the leadership of a shard to another voter: before maintenance, or to spread load.

    The leader takes no new commands for the moment that this takes; clients wait and lose nothing. A voter that can not catch
    up within an election timeout does not get it, and the old leader goes on.

    Exit codes: 0 it leads now, or did before. 1 it does not, the shard is led by another. 3 no leader answers. 4 refused: no
    such shard, or the node has no vote there.

    Example: moot shards transfer 3 --to n2
    """
    addresses = addresses_of(address, folder.absolute())
    successor = node_id_of(to, address, folder.absolute()) if to else ""
    done = run(_transfer(addresses, shard, successor, timeout))
    row = {
        "shard": shard, "from": done.from_node, "to": done.to_node, "leader": done.leader or None, "term": done.term,
        "done": done.done,
    }  # fmt: skip
    if as_json:
        print_json(row)
    elif not done.done:
        say(f"shard {shard} was not handed to {done.to_node}: {done.leader or 'nobody'} leads it; nothing is lost by that")
    elif done.from_node == done.to_node:
        say(f"{done.to_node} led shard {shard} already")
    else:
        say(f"shard {shard}: {done.from_node} handed over to {done.to_node}, which leads in term {done.term}")
    return Exit.DONE if done.done else Exit.NO


async def _transfer(addresses: list[str], shard: int, to: str, timeout_s: float) -> Any:
    """Until it is over. A repeat after a lost answer finds the new leader, which says that it leads."""
    leader = ShardLeader(shard, await gateways(addresses), time.monotonic() + timeout_s)
    return await leader.ask("TransferLeader", to_node=to)


# isolate


@app.command("isolate")
@command
def isolate(
    shard: ShardNumber,
    index: Annotated[int, typer.Argument(help="The Raft index of the entry.", min=1)],
    offset: Annotated[int, typer.Argument(help="The command's place in the entry.", min=0)],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept for the audit.")],
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Isolate one command that ends nodes: it is answered POISONED everywhere and its document is frozen; all others go on.

    `moot shards list --halted` shows what to isolate. Any node may be named: one on which the shard has halted there is found.

    Exit codes: 0 decided. 3 no node answers. 4 there is nothing to isolate there. 5 not known: look with --halted.

    Example: moot shards isolate 3 1042 0 --reason "regular expression runs for ever"
    """
    node = run(_isolate(addresses_of(address, folder.absolute()), shard, index, offset, reason))
    if as_json:
        print_json({"shard": shard, "raft_index": index, "offset": offset, "isolated": True, "asked": node})
    else:
        say(f"isolated command {offset} of entry {index} of shard {shard}; its document is frozen, all others go on")
    return Exit.DONE


async def _isolate(addresses: list[str], shard: int, index: int, offset: int, reason: str) -> str:
    """At the first node that has halted there. Returns its id."""
    places = await gateways(addresses)
    answers = await ask_all(places, "ListHalted")
    halted = [row for answer in answers.values() if not isinstance(answer, ClusterError) for row in answer.halted]
    node = next((row.node_id for row in halted if (row.shard_id, row.raft_index, row.offset) == (shard, index, offset)), "")
    if not node:
        silent = [name for name, answer in answers.items() if isinstance(answer, ClusterError)]
        raise CommandFailed(
            f"shard {shard} has not halted at command {offset} of entry {index} on any node that answers"
            + (f"; {', '.join(silent)} did not answer" if silent else ""),
            state="nothing changed",
            next_step="moot shards list --halted shows what has",
            code=Exit.REFUSED,
            reason="NOT_HALTED",
        )
    fields = {"shard_id": shard, "raft_index": index, "offset": offset, "cause": reason}
    await ask_one(places[node], "PoisonCommand", timeout_s=ISOLATE_TIMEOUT_S, **fields)
    return node
