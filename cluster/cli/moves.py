"""`moot shards move`: a replica goes from one node to another while its shard goes on serving.

The leader of the shard takes the steps, one for each call, and looks each time at where things stand. So this command only
asks again and shows what it is told; it may be interrupted, run twice or run against another leader, and nothing has to be
remembered between its runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.text import Text

from cluster.cli.leader import ShardLeader, gateways
from cluster.cli.output import AsJson, CommandFailed, Exit, command, duration, err, out, print_json, say
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, node_id_of, run
from cluster.cli.shards import ShardNumber
from cluster.cli.status import word
from cluster.v1 import admin_pb2

MOVE_TIMEOUT_S: Final = 600.0
POLL_MS_MIN: Final = 20
POLL_MS_MAX: Final = 1_000
TROUBLE_PAUSE_MS: Final = 100
_SENTENCES: Final = {
    "adding": "the new replica is made a learner",
    "catching_up": "the learner receives what it lacks",
    "handing_over": "the leader, whose replica goes, hands over",
    "exchanging": "the learner gets its vote and the old replica loses its own",
    "removing": "the old replica is removed",
    "recording": "the new place is written to the shard map",
}


def register(shards: typer.Typer) -> None:
    """Add the commands of this module."""
    shards.command("move")(move)


@dataclass(slots=True)
class Progress:
    """What has been heard of a move. stage_ms: how long each stage lasted as seen from here, in order; after a change of leader
    one may come again. ended_ms: the last of them."""

    shard: int
    leaving: str
    joining: str
    began: float = field(default_factory=time.monotonic)
    stage: str = ""
    stage_began: float = 0.0
    stage_ms: dict[str, float] = field(default_factory=dict)
    ended_ms: float = 0.0
    leader: str = ""
    waiting_for: str = ""
    lag_entries: int | None = None
    changed: bool = False
    done: bool = False

    def heard(self, answer: Any) -> str:
        """Take an answer of the leader; the name of a stage that this ends, else empty."""
        stage = word(answer.stage, admin_pb2.MoveStage, "MOVE_STAGE_")
        self.leader, self.waiting_for = answer.leader, answer.waiting_for
        self.lag_entries = answer.lag_entries if answer.HasField("lag_entries") else None
        self.changed |= answer.changed
        self.done = answer.done
        now, ended = time.monotonic(), ""
        if stage != self.stage:
            if self.stage:
                ended, self.ended_ms = self.stage, (now - self.stage_began) * 1000
                self.stage_ms[ended] = self.stage_ms.get(ended, 0.0) + self.ended_ms
            self.stage, self.stage_began = stage, now
        return ended

    @property
    def took_ms(self) -> float:
        return (time.monotonic() - self.began) * 1000

    def sentence(self) -> str:
        """Where it stands, on one line."""
        parts = [_SENTENCES.get(self.stage, self.stage or "the shard's leader is asked")]
        if self.lag_entries:
            parts.append(f"{self.lag_entries:,} entries to go")
        if self.waiting_for:
            parts.append(f"waits: {self.waiting_for}")
        return "; ".join(parts)


@command
def move(
    shard: ShardNumber,
    leaving: Annotated[str, typer.Option("--from", help="The node whose replica goes.", metavar="NODE")],
    joining: Annotated[str, typer.Option("--to", help="The node that gets one; it must not have one yet.", metavar="NODE")],
    force: Annotated[bool, typer.Option("--force", help="Begin although the new node looks dead.")] = False,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until this stops waiting.", min=0.1)] = MOVE_TIMEOUT_S,
    as_json: AsJson = False,
) -> Exit:
    """Move a replica of a shard to another node, while the shard goes on serving.

    The new replica gets everything as a learner, without a vote; then it and the old one change places in one step that needs
    a majority of the old voters and of the new ones; then the old replica is removed with all that it holds. There are never
    fewer votes than before, and if the leader itself moves, it hands over first.

    It may be interrupted at any point, by Ctrl-C, a timeout or a dead leader: the shard goes on serving, `moot shards show`
    says what stands half way, and the same command again goes on from there. Run once more after the end it changes nothing.
    To take a move back before the exchange, move from the new node to the old one.

    Exit codes: 0 moved, or it was there already. 1 not finished in time, run it again. 3 no node answers. 4 refused, nothing
    changed: no such shard or node, nothing to move, another change comes first. 130 interrupted.

    Example: moot shards move 3 --from n1 --to n4
    """
    addresses = addresses_of(address, folder.absolute())
    leaving, joining = (node_id_of(name, address, folder.absolute()) for name in (leaving, joining))
    if leaving == joining:
        raise CommandFailed(
            f"{leaving} can not take the place of itself",
            state="nothing was asked",
            next_step=f"moot shards show {shard}; moot nodes",
            code=Exit.USAGE,
            reason="USAGE",
        )
    progress = Progress(shard, leaving, joining)
    try:
        run(_shown(addresses, progress, timeout, force, quiet=as_json))
    except KeyboardInterrupt:
        if not as_json:
            err.print(f"\nstopped waiting; {_half_way(progress)}", style="dim")
        raise
    if as_json:
        print_json(_row(progress))
    elif not progress.changed and not progress.stage_ms:
        say(f"shard {shard}: {joining} has a replica and {leaving} has none; nothing to do")
    else:
        say(f"shard {shard}: {joining} votes, {leaving} has no replica any more   [dim]{duration(progress.took_ms)}[/]")
    return Exit.DONE


def _row(progress: Progress) -> dict[str, Any]:
    return {
        "shard": progress.shard,
        "from": progress.leaving,
        "to": progress.joining,
        "done": progress.done,
        "changed": progress.changed,
        "leader": progress.leader or None,
        "stages_ms": {stage: round(ms, 1) for stage, ms in progress.stage_ms.items()},
        "took_ms": round(progress.took_ms, 1),
    }


def _half_way(progress: Progress) -> str:
    return f"moot shards show {progress.shard} says where it stands, the same command again goes on"


async def _shown(addresses: list[str], progress: Progress, timeout_s: float, force: bool, *, quiet: bool) -> None:
    if quiet:
        await _drive(addresses, progress, timeout_s, force, lambda _: None)
        return
    with Live(console=out, auto_refresh=False, transient=True) as live:

        def tell(ended: str) -> None:
            if ended:
                live.console.print(f"  [green]done[/]  {_SENTENCES.get(ended, ended)}   [dim]{duration(progress.ended_ms)}[/]")
            if not progress.done:
                live.update(Text(f"  …     {progress.sentence()}   {duration(progress.took_ms)}"), refresh=True)

        tell("")
        await _drive(addresses, progress, timeout_s, force, tell)


async def _drive(addresses: list[str], progress: Progress, timeout_s: float, force: bool, tell: Callable[[str], None]) -> None:
    """Ask the leader for one step after the other until it is done. Raises ClusterError for a refusal, CommandFailed when the
    time is over."""
    deadline = progress.began + timeout_s
    leader = ShardLeader(progress.shard, await gateways(addresses), deadline)
    while True:
        answer = await leader.attempt("MoveReplica", from_node=progress.leaving, to_node=progress.joining, force=force)
        pause_ms = TROUBLE_PAUSE_MS
        if answer is None:
            progress.waiting_for = leader.trouble
            tell("")
        else:
            tell(progress.heard(answer))
            pause_ms = min(max(answer.retry_after_ms, POLL_MS_MIN), POLL_MS_MAX)
        if progress.done:
            return
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"shard {progress.shard}: not moved from {progress.leaving} to {progress.joining} within {timeout_s:g} s; "
                f"{progress.sentence()}",
                state="the shard goes on serving, and the move stands where it stood",
                next_step=_half_way(progress),
                reason="NOT_DONE",
            )
        await asyncio.sleep(pause_ms / 1000)
