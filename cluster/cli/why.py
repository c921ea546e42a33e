"""`moot nodes --why NODE`: what each node holds of one of them, and how it came to that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from cluster.cli.leader import ask_all, gateways
from cluster.cli.output import CommandFailed, Exit, Unreachable, add_row, duration, out, print_json, state, styled, table
from cluster.cli.reach import run
from cluster.cli.status import word
from cluster.errors import ClusterError, UnknownNode
from cluster.v1 import admin_pb2

_PATHS = {"datagram": "datagrams", "stream": "streams", "data": "data path"}
_SAYINGS = {
    "suspected": "suspected",
    "confirmed": "suspected by another",
    "refuted": "refuted it",
    "died": "declared dead",
    "left": "said good-bye",
    "returned": "back from the dead",
    "restarted": "is a new process",
}


def why(node: str, addresses: Sequence[str], as_json: bool) -> Exit:
    """Print every node's opinion of `node`. Raises CommandFailed."""
    opinions, unmet, silent = run(_opinions(node, addresses))
    if as_json:
        print_json({"node_id": node, "opinions": opinions, "unmet": unmet, "silent": silent})
    else:
        _show(node, opinions)
        for what, names in (("have not met it", unmet), ("do not answer", silent)):
            if names:
                out.print(Text(f"\n{what}: {', '.join(names)}", style="yellow"))
    return Exit.DONE if all(each["state"] == "alive" for each in opinions) else Exit.NO


async def _opinions(node: str, addresses: Sequence[str]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """What the nodes that answer say, who has not met it, and who does not answer."""
    answers = await ask_all(await gateways(list(addresses)), "ExplainNode", node_id=node)
    heard = {name: answer for name, answer in answers.items() if not isinstance(answer, ClusterError)}
    if not heard:
        if any(isinstance(answer, UnknownNode) for answer in answers.values()):
            raise CommandFailed(
                f"nobody has met {node}", state="nothing changed", next_step="moot nodes shows what there is",
                code=Exit.REFUSED, reason=UnknownNode.reason,
            )  # fmt: skip
        raise Unreachable("no node answered", "start nodes: moot up, moot restart N; or name one: --address host:port")
    unmet = sorted(name for name, answer in answers.items() if isinstance(answer, UnknownNode))
    silent = sorted(answers.keys() - heard.keys() - set(unmet))
    return [_row(heard[name]) for name in sorted(heard)], unmet, silent


def _row(answer: Any) -> dict[str, Any]:
    return {
        "observer": answer.observer,
        "state": word(answer.state, admin_pb2.NodeState, "NODE_STATE_"),
        "published": word(answer.published, admin_pb2.NodeState, "NODE_STATE_"),
        "boot_generation": answer.boot_generation,
        "incarnation": answer.incarnation,
        "in_state_ms": answer.in_state_ms,
        "accusers": list(answer.accusers),
        "paths": {each.path: each.works for each in answer.paths},
        "rtt_us": answer.rtt_us if answer.HasField("rtt_us") else None,
        "local_health": answer.local_health,
        "stalls": answer.stalls,
        "refutations": answer.refutations,
        "episodes": [
            {
                "ago_ms": each.ago_ms,
                "what": each.what,
                "teller": each.teller,
                "accusers": [{"node_id": accuser.node_id, "paths": list(accuser.paths)} for accuser in each.accusers],
                "boot_generation": each.boot_generation,
                "incarnation": each.incarnation,
            }
            for each in answer.episodes
        ],
    }


def _show(node: str, opinions: list[dict[str, Any]]) -> None:
    held = table("seen from", node, ">for", ">round trip", "reached by", "the observer itself")
    for each in opinions:
        itself = each["observer"] == node
        rtt = "" if each["rtt_us"] is None else f"{each['rtt_us'] / 1000:.1f} ms"
        since = "" if itself else duration(each["in_state_ms"])
        add_row(held, styled(each["observer"], "bold"), state(each["state"]), since, rtt, _ways(each, itself), _health(each))
    out.print(held)
    told = table(">ago", "seen from", "", "accused by", "as told by")
    episodes = sorted(
        ((episode, each["observer"]) for each in opinions for episode in each["episodes"]), key=lambda pair: -pair[0]["ago_ms"]
    )
    for episode, observer in episodes:
        accusers = ", ".join(
            accuser["node_id"] + (f" ({'+'.join(accuser['paths'])})" if accuser["paths"] else "")
            for accuser in episode["accusers"]
        )
        saying = _SAYINGS.get(episode["what"], episode["what"])
        add_row(told, duration(episode["ago_ms"]), observer, saying, accusers, episode["teller"])
    if episodes:
        out.print("")
        out.print(told)


def _ways(row: dict[str, Any], itself: bool) -> str:
    if itself:
        return "is that node"
    working, broken = (
        ", ".join(_PATHS.get(path, path) for path, works in row["paths"].items() if works is wanted) for wanted in (True, False)
    )
    text = working or "nothing"
    return f"{text}; not by {broken}" if broken else text


def _health(row: dict[str, Any]) -> str:
    if not row["local_health"] and not row["stalls"]:
        return "healthy"
    return f"health {row['local_health']} of 8 (0 is best), stood still {row['stalls']} times"
