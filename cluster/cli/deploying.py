"""`moot space deploy | rollback | retry`: new code for a space, for all of its documents or for some, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, command, print_json, say
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, at, run
from cluster.cli.shadowing import check_code
from cluster.cli.space import SpaceName, checked_space, space_row
from cluster.documents.bundle import Bundle, code_hash, from_path

CodePath = Annotated[Path, typer.Argument(help="A Python file, or a package directory.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `moot space`."""
    for function in (deploy, rollback, retry):
        app.command()(function)


def read_bundle(path: Path) -> Bundle:
    """The bundle of a file or a directory; a failure of this command when it can not be read."""
    try:
        return from_path(path)
    except OSError as error:
        raise CommandFailed(
            f"can not read {path}: {error.strerror}", state="nothing was deployed", code=Exit.USAGE, reason="USAGE"
        ) from None


def plan_of(text: str) -> dict[str, Any]:
    """A plan as AdminService takes it: `all`, `keys A,B`, `prefix P` or `percent N`."""
    kind, _, value = text.strip().partition(" ")
    value = value.strip()
    if kind == "all" and not value:
        return {}
    if kind == "keys" and value:
        return {"keys": [key for key in value.replace(",", " ").split() if key]}
    if kind == "prefix" and value:
        return {"prefix": value}
    if kind == "percent" and value.isascii() and value.isdigit() and int(value) <= 100:
        return {"percent": int(value)}
    raise CommandFailed(
        f"a plan is `all`, `keys A,B`, `prefix P` or `percent 0..100`, not {text!r}",
        state="nothing was deployed",
        code=Exit.USAGE,
        reason="USAGE",
    )


@command
def deploy(
    name: SpaceName,
    file: CodePath,
    plan: Annotated[
        str, typer.Option("--plan", help="For whom: all, 'keys A,B', 'prefix P' or 'percent N'. Others keep their code.")
    ] = "all",
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: run real histories on the new code and show what would differ.")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", help="With --check: of so many documents.", min=1, max=10_000)] = 20,
    force: Annotated[
        bool, typer.Option("--force", help="Although messages that the version before takes would be refused.")
    ] = False,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Deploy code as a space, or new code for one: documents get it at their next touch, one logged command each.

    Code that can not run the same everywhere is refused with every finding, and so is a change that needs an upgrade hook and
    has none.

    With --check nothing is changed: the histories of some documents run on the new code, on this machine, and what would be
    otherwise is shown.

    Exit codes: 0 deployed, or this very code was deployed already; with --check, nothing would differ. 1 something would. 2
    the file can not be read. 3 no node answers. 4 the code is refused, nothing changed. 5 not known: moot space show NAME.

    Example: moot space deploy guestbook guestbook.py --check; moot space deploy guestbook guestbook.py --plan 'percent 10'
    """
    checked_space(name)
    chosen = plan_of(plan)
    bundle = read_bundle(file).encode()
    if check:
        return check_code(name, bundle, sample, force, address, folder.absolute(), as_json)

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("DeploySpace", space=name, bundle=bundle, plan=chosen, force=force)

    answer = run(ask())
    row = {**space_row(answer.space), "changed": answer.changed, "fields_dropped": list(answer.fields_dropped)}
    if as_json:
        print_json(row)
    elif answer.changed:
        whom = "" if not chosen else f" for {plan}"
        say(f"[bold]{name}[/] runs {code_hash(bundle).hex()[:12]} now{whom} (deployment {row['deployments']})")
        _say_dropped(row["fields_dropped"])
        say(f"try      moot space show {name}; moot doc create {name}/KEY", "dim")
    else:
        say(f"{name} ran this code already ({code_hash(bundle).hex()[:12]})")
    return Exit.DONE


def _say_dropped(fields: list[str]) -> None:
    if fields:
        say(f"documents that get it lose {', '.join(fields)}", "yellow")


@command
def rollback(name: SpaceName, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Withdraw the newest code of a space: the one before is deployed again, for all documents.

    Documents that have the new code go back at their next touch if that needs no hook; they lose the fields that only the new
    code had. Else they stay until a later deployment, and keep serving.

    Exit codes: 0 done. 3 no node answers. 4 there is no earlier code. 5 not known: moot space show NAME.

    Example: moot space rollback guestbook
    """
    checked_space(name)

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("RollbackSpace", space=name)

    answer = run(ask())
    row = {**space_row(answer.space), "returns": answer.returns, "fields_dropped": list(answer.fields_dropped)}
    if as_json:
        print_json(row)
        return Exit.DONE
    say(f"[bold]{name}[/] runs {row['code_hash'][:12]} again (deployment {row['deployments']})")
    if answer.returns:
        say("documents that have the withdrawn code go back at their next touch")
        _say_dropped(row["fields_dropped"])
    else:
        say(
            "documents that have the withdrawn code stay on it: going back would need a hook. Deploy a later version.", "yellow"
        )
    return Exit.DONE


@command
def retry(name: SpaceName, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Try again to upgrade documents whose upgrade failed, each at its next touch.

    Exit codes: 0 done. 3 no node answers. 4 there is no such space.

    Example: moot space retry guestbook
    """
    checked_space(name)

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("RetryUpgrades", space=name)

    row = space_row(run(ask()).space)
    if as_json:
        print_json(row)
    else:
        say(f"documents of [bold]{name}[/] whose upgrade failed are tried again at their next touch")
    return Exit.DONE
