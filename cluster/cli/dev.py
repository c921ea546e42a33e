"""`moot dev`: a page on this machine in which an author tries a document type; saving the file upgrades in place."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, command, err, print_json, print_line, say
from cluster.errors import InvalidBundle

PORT: Final = 7480


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("dev", rich_help_panel="Documents")(dev)


@command
def dev(
    path: Annotated[Path, typer.Argument(help="A Python file, or a directory with a document type.", show_default=False)],
    port: Annotated[
        int, typer.Option("--port", help="Where the page is, on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = PORT,
    check: Annotated[
        bool, typer.Option("--check", help="Only load the code as a deployment would, and say what is wrong.")
    ] = False,
    as_json: AsJson = False,
) -> Exit:
    """Try a document type: a node in memory, and a page with two principals side by side, their live views, and the past.

    Each time the file is saved, its documents are upgraded in place, or page and terminal say why not. The page answers this
    machine only; ?as=alice&as=ben choose who is who. Nothing is kept when it ends: Ctrl-C.

    Exit codes: 0 ended, or the code is good (--check). 2 the file can not be read, or the port is taken. 4 --check: the code is
    refused.

    Example: moot dev guestbook.py --port 7480
    """
    if not path.exists():
        raise CommandFailed(f"there is no {path}", state="nothing was started", code=Exit.USAGE, reason="USAGE")
    from cluster.web.workshop import Workshop

    workshop = Workshop(path, lambda: time.time_ns() // 1_000_000, secrets.randbits(64))
    workshop.look_at_files()
    if check:
        return _checked(workshop.code(), as_json)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(workshop, port, as_json))
    return Exit.DONE


def _checked(code: dict[str, Any], as_json: bool) -> Exit:
    if code["findings"]:
        raise InvalidBundle(code["findings"])
    if as_json:
        print_json(code)
    else:
        say(f"{code['path']}: {code['schema']['document']}, version {code['schema']['version']}: can be deployed")
    return Exit.DONE


async def _serve(workshop: Any, port: int, as_json: bool) -> None:
    from cluster.gateway.http_server import HOST, listen
    from cluster.web.server import DevelopmentServer

    def told(code: dict[str, Any]) -> None:
        if as_json:
            print_line({name: code[name] for name in ("saves", "findings")})
        elif code["findings"]:
            err.print(f"{code['findings']}\nnot deployed: the page goes on with what was there", style="red", markup=False)
        else:
            say(f"deployed {code['schema']['document']}, save {code['saves']}")

    try:
        listening = listen(port)
    except OSError as error:
        raise CommandFailed(
            f"can not listen on {HOST}:{port}: {error.strerror}",
            state="nothing was started",
            next_step="choose another one: --port 0",
            code=Exit.USAGE,
            reason="ADDRESS_TAKEN",
        ) from None
    url = f"http://{HOST}:{listening.getsockname()[1]}/?as=alice&as=ben"
    if as_json:
        print_line({"url": url})
    told(workshop.code())
    if not as_json:
        say(f"try it at [bold]{url}[/]   [dim]Ctrl-C ends it[/]")
    await DevelopmentServer(workshop, told).serve(listening)
