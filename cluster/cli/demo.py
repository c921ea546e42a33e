"""`moot demo`: shows that nothing is lost, and checks it."""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, err, out, print_json, say, styled, table
from cluster.cli.reach import run

if TYPE_CHECKING:
    from chaos.demo.recording import Recording
    from chaos.demo.run import Result
    from chaos.demo.session import Session
    from chaos.demo.together import Together

SEED_MAX: Final = 2**32
LINES: Final = 10


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("demo", rich_help_panel="Start here")(demo)


@command
def demo(
    nodes: Annotated[
        int, typer.Option("--nodes", help="Nodes of the cluster; with fewer than 3 no leader is killed.", min=1, max=7)
    ] = 3,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="A recording to type instead of the one that comes with Moot.", show_default=False),
    ] = None,
    messages: Annotated[int, typer.Option("--messages", help="Only the first so many transactions; 0 for all.", min=0)] = 0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of the moments of the kills; printed, so that a run can be tried again.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> Exit:
    """Start a cluster, type a recorded text into one document, kill leaders meanwhile, and check that nothing was lost.

    Every transaction of the recording is one message, sent in order with hundreds in flight. A second client watches from the
    start and applies patches only. The document's leader is killed (SIGKILL) at a random moment in the first third and in the
    last third. Then every node must have the same record and history: every message once, in its place. Then all nodes are
    killed at once, started again, and asked again. It works in a temporary directory and leaves nothing behind.

    A recording of two authors (kind "concurrent") is typed by two live clients at once, each at the places it typed at, and the
    leader is killed once; both and every node must end with one text that holds every character once.

    Exit codes: 0 nothing was lost, doubled, reordered or different. 1 something was: the report says what. 2 the recording is
    not one.

    Example: moot demo; moot demo --trace sveltecomponent.json.gz --json
    """
    from chaos.demo.recording import NotARecording
    from chaos.demo.run import run_demo
    from chaos.demo.session import Session
    from chaos.demo.together import run_together
    from chaos.live.processes import NotReached

    try:
        recording = _recording(trace)
    except (NotARecording, OSError) as error:
        raise CommandFailed(str(error), state="nothing was started", code=Exit.USAGE, reason="USAGE") from None
    if messages:
        recording = recording.first(messages)
    seed = secrets.randbelow(SEED_MAX) if seed is None else seed
    spectator: Picture | Lines = Lines() if as_json or not out.is_terminal else Picture(recording.count)
    result: Result | Together
    with tempfile.TemporaryDirectory(prefix="moot-demo-") as folder, spectator:
        try:
            if isinstance(recording, Session):
                result = run(run_together(recording, Path(folder), spectator, nodes=nodes, seed=seed))
            else:
                result = run(run_demo(recording, Path(folder), spectator, nodes=nodes, seed=seed))
        except NotReached as error:
            raise CommandFailed(
                f"the cluster did not recover: {error}",
                next_step=f"try the same moments again: --seed {seed}",
                reason="NOT_RECOVERED",
            ) from None
    if as_json:
        print_json(result.to_dict())
    else:
        (_report_together if isinstance(recording, Session) else _report)(result.to_dict())
        _verdict(result)
    return Exit.DONE if result.passed else Exit.NO


def _recording(trace: Path | None) -> Recording | Session:
    """What is to be typed. Raises NotARecording, or OSError."""
    from chaos.demo.recording import DEFAULT, load
    from chaos.demo.session import is_session, load_session

    if trace is None:
        return load(DEFAULT)
    return load_session(trace) if is_session(trace) else load(trace)


class Lines:
    """Plain lines on stderr, for logs and programs."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def _say(self, text: str) -> None:
        typer.echo(f"{time.monotonic() - self._began_s:6.1f} s  {text}", err=True)

    def phase(self, text: str) -> None:
        self._say(text)

    def acknowledged(self, count: int) -> None:
        return

    def killed(self, node: str, message: int) -> None:
        self._say(f"killed {node}, the leader, after message {message}")

    def repaired(self, node: str, unavailable_ms: float) -> None:
        self._say(f"{node} is back; the longest pause without an acknowledgement was {unavailable_ms:.0f} ms")


class _Bar(ProgressColumn):
    """A bar with a mark where a leader was killed."""

    WIDTH = 44

    def render(self, task: Task) -> Text:
        total = task.total or 1
        done = int(self.WIDTH * task.completed / total)
        text = Text("━" * done, style="green")
        text.append("━" * (self.WIDTH - done), style="grey23")
        for message in task.fields["kills"]:
            place = min(self.WIDTH - 1, int(self.WIDTH * message / total))
            text = Text.assemble(text[:place], ("✗", "bold red"), text[place + 1 :])
        return text


class Picture:
    """A live picture on a terminal."""

    def __init__(self, total: int) -> None:
        self._kills: list[int] = []
        self._progress = Progress(
            _Bar(),
            TextColumn("{task.completed:>6,.0f}/{task.total:,.0f} messages"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.description}"),
            console=err,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("", total=total, kills=self._kills)

    def __enter__(self) -> Picture:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def acknowledged(self, count: int) -> None:
        self._progress.update(self._task, completed=count)

    def killed(self, node: str, message: int) -> None:
        self._kills.append(message)
        self._progress.print(f"[bold red]✗[/] {node} led the document and was killed after message {message:,}")

    def repaired(self, node: str, unavailable_ms: float) -> None:
        self._progress.print(f"[green]✓[/] {node} is back; writing had paused for {unavailable_ms:.0f} ms")


def _report(values: dict[str, Any]) -> None:
    after = values["after_restart"]
    out.print()
    shown = table("", "on every node", "after killing all nodes at once")
    for name, text in (
        ("lost", "messages lost"),
        ("duplicated", "messages doubled"),
        ("in_order", "every message in its place"),
        ("text_matches", "text as typed"),
        ("hashes_equal", "records equal, byte for byte"),
    ):
        add_row(shown, text, _cell(values[name]), _cell(after[name]))
    add_row(shown, "watcher's text as typed", _cell(values["watcher_matches"]), "")
    add_row(shown, "watcher's view replaced", _cell(values["watcher_resets"]), "")
    out.print(shown)
    say(
        f"\n{values['messages']:,} messages in {values['seconds'] - values['held_s']:.1f} s ({values['messages_per_s']:,}/s), "
        f"{values['kills']} leaders killed, pauses: {_pauses(values)}; all nodes killed and back in {after['seconds']:.1f} s"
    )
    _trouble(values["trouble"] + after["trouble"])


def _report_together(values: dict[str, Any]) -> None:
    out.print()
    shown = table("", "")
    for name, text in (
        ("texts_equal", "one text: both authors, every node"),
        ("characters_match", "every character that was typed and not deleted is there once"),
        ("hashes_equal", "records equal, byte for byte"),
    ):
        add_row(shown, text, _cell(values[name]))
    out.print(shown)
    say(
        f"\n{values['strokes']:,} strokes by {values['authors']} authors in {values['messages']:,} messages and "
        f"{values['seconds']:.1f} s ({values['strokes_per_s']:,}/s), {values['kills']} leader killed, pauses: {_pauses(values)}"
    )
    _trouble(values["trouble"])


def _pauses(values: dict[str, Any]) -> str:
    return ", ".join(f"{value:.0f} ms" for value in values["unavailable_ms"]) or "none"


def _trouble(lines: list[str]) -> None:
    for line in lines[:LINES]:
        out.print(Text(f"  {line}", style="red"))


def _verdict(result: Result | Together) -> None:
    if result.passed:
        out.print("[bold green]nothing was lost[/]")
    else:
        out.print(Text(f"something is wrong; the same moments again: moot demo --seed {result.seed}", style="bold red"))


def _cell(value: object) -> Any:
    good = value is True or (value == 0 and value is not False)
    text = "yes" if value is True else "no" if value is False else f"{value:,}"
    return styled(text, "green" if good else "bold red")
