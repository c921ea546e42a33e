"""`moot space`: document types: list, show, errors. Deploying is in deploying.py."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from cluster.cli.lazy import lazily
from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, out, print_json, say, styled, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, ask_one, at, run
from cluster.errors import ClusterError, InvalidName
from cluster.ids import check_space

MORE: Final = {"deploy": "deploying", "rollback": "deploying", "retry": "deploying", "schema": "schema"}
"""Commands of this group that are in other modules."""

app = typer.Typer(no_args_is_help=True, help="Deploy and show document types.", cls=lazily(MORE))


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="space", rich_help_panel="Documents")


SpaceName = Annotated[str, typer.Argument(help="The space's name, the first half of a document's address.", metavar="NAME")]


def space_row(space: Any) -> dict[str, Any]:
    return {
        "space": space.name,
        "code_hash": space.code_hash.hex(),
        "version": space.version,
        "deployments": space.deployments,
        "deployed_by": space.deployed_by,
        "deployed_at_ms": space.deployed_at_ms,
        "bundle_bytes": space.bundle_bytes,
    }


def moment(milliseconds: int) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M") if milliseconds else ""


def checked_space(name: str) -> str:
    try:
        check_space(name)
    except InvalidName as error:
        raise CommandFailed(error.message, state="nothing was sent", code=Exit.USAGE, reason=error.reason) from None
    return name


@app.command("list")
@command
def list_spaces(address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """List the deployed document types.

    Exit codes: 0, or 3 when no node answers.

    Example: moot space list
    """

    async def ask() -> Any:
        async with at(address, folder.absolute()) as client:
            return await client.admin("ListSpaces")

    rows = [space_row(space) for space in run(ask()).spaces]
    if as_json:
        print_json({"spaces": rows})
        return Exit.DONE
    if not rows:
        say("no space is deployed   [dim]moot space deploy NAME FILE[/]")
        return Exit.DONE
    shown = table("space", "code", ">version", "deployed by", "at (UTC)", ">bytes")
    for row in rows:
        add_row(
            shown, styled(row["space"], "bold"), row["code_hash"][:12], row["version"], row["deployed_by"],
            moment(row["deployed_at_ms"]), row["bundle_bytes"],
        )  # fmt: skip
    out.print(shown)
    return Exit.DONE


@app.command()
@command
def show(name: SpaceName, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Show a space: its versions and who is on them, its channels with their parameters, refusals, and what viewers see.

    Documents are counted where they are led and in memory; others have the code of their last command.

    Exit codes: 0, 3 when no node answers, 4 when there is no such space.

    Example: moot space show chat
    """
    checked_space(name)
    answer, counts, failed = run(_shown(address, folder.absolute(), name))
    schema = json.loads(answer.schema or b"{}")
    versions = [_version_row(each, counts) for each in answer.timeline]
    row = {**space_row(answer.space), "schema": schema, "versions": versions, "failed_upgrades": failed}
    if as_json:
        print_json(row)
        return Exit.DONE
    say(f"[bold]{name}[/]  version {row['version']}, code {row['code_hash'][:12]}, {row['bundle_bytes']} bytes")
    _print_versions(versions, failed)
    if schema.get("description"):
        out.print(Text(schema["description"], style="dim"))
    shown = table("channel", "parameters", "answer")
    for channel, description in {"(create)": schema.get("construct", {}), **schema.get("channels", {})}.items():
        add_row(shown, styled(channel, "bold"), _parameters(description), _type(description.get("result", {})))
    out.print()
    out.print(shown)
    fields = {**schema.get("fields", {}), **schema.get("views", {})}
    if fields:
        seen = table("viewers see", "type", "who")
        for field, description in fields.items():
            who = description.get("visible") or ("per viewer" if description.get("perViewer") else "everybody admitted")
            add_row(seen, styled(field, "bold"), _type(description), "everybody admitted" if who == "public" else who)
        out.print()
        out.print(seen)
    for refusal, description in schema.get("refusals", {}).items():
        out.print(Text(f"refuses with {refusal}: {description['description']}", style="dim"))
    return Exit.DONE


async def _shown(address: list[str] | None, folder: Path, name: str) -> tuple[Any, dict[str, int], list[dict[str, Any]]]:
    """The space, how many documents are in memory by their code, and whose upgrade failed, over all nodes that answer."""
    async with at(address, folder) as client:
        answer: Any = await client.admin("GetSpace", space=name)
        nodes: Any = await client.admin("ListNodes")
    gateways = [node.gateway_address for node in nodes.nodes if node.gateway_address]
    answers = await asyncio.gather(*(ask_one(each, "GetSpace", space=name) for each in gateways), return_exceptions=True)
    counts: dict[str, int] = {}
    failed: list[dict[str, Any]] = []
    for each in answers:
        if isinstance(each, BaseException):
            if not isinstance(each, ClusterError):
                raise each
            continue
        for code in each.documents:
            counts[code.code_hash.hex()] = counts.get(code.code_hash.hex(), 0) + code.documents
        failed += [
            {"document": f"{one.document.space}/{one.document.key}", "code_hash": one.code_hash.hex()}
            for one in each.failed_upgrades
        ]
    return answer, counts, sorted(failed, key=lambda row: str(row["document"]))


def plan_text(plan: Any) -> str:
    """A plan in words."""
    if plan.keys:
        return f"keys {','.join(plan.keys)}"
    parts = [f"prefix {plan.prefix}"] if plan.prefix else []
    percent = plan.percent if plan.HasField("percent") else 100
    if percent < 100:
        parts.append(f"percent {percent}")
    return ", ".join(parts) or "all"


def _version_row(deployment: Any, counts: dict[str, int]) -> dict[str, Any]:
    code = deployment.code_hash.hex()
    return {
        "version": deployment.version,
        "code_hash": code,
        "plan": plan_text(deployment.plan),
        "withdrawn": deployment.withdrawn,
        "deployed_by": deployment.deployed_by,
        "deployed_at_ms": deployment.deployed_at_ms,
        "documents_in_memory": counts.get(code, 0),
    }


def _print_versions(versions: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    shown = table(">version", "code", "for", "at (UTC)", ">documents in memory", "")
    for row in versions:
        note = "withdrawn" if row["withdrawn"] else ""
        add_row(
            shown, row["version"], row["code_hash"][:12], row["plan"], moment(row["deployed_at_ms"]),
            row["documents_in_memory"], note,
        )  # fmt: skip
    out.print(shown)
    for one in failed:
        out.print(Text(f"{one['document']} kept its code {one['code_hash'][:12]}: its upgrade failed", style="yellow"))
    if failed:
        say("why      moot space errors NAME; again: moot space retry NAME", "dim")


def _parameters(description: dict[str, Any]) -> str:
    parameters = description.get("parameters", {})
    required = set(parameters.get("required", ()))
    parts = [
        f"{name}{'' if name in required else '?'}: {_type(kind)}" for name, kind in parameters.get("properties", {}).items()
    ]
    return ", ".join(parts)


def _type(kind: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in kind:
        return str(kind["$ref"]).rpartition("/")[2]
    if "anyOf" in kind:
        return " | ".join(_type(each) for each in kind["anyOf"])
    name = kind.get("type", "any")
    if name == "array" and isinstance(kind.get("items"), dict):
        return f"[{_type(kind['items'])}]"
    if isinstance(name, list):
        return " | ".join(name)
    return {"null": "nothing"}.get(name, str(name))


@app.command()
@command
def errors(
    name: SpaceName,
    error_id: Annotated[str, typer.Option("--id", help="Only the failure with this error id.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest first.", min=1, max=1000)] = 20,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show recent failures of a space's code with their tracebacks, from all nodes. Clients see only the error id.

    Exit codes: 0, 1 when an error id was asked for and no node knows it, 3 when no node answers.

    Example: moot space errors guestbook --limit 1
    """
    checked_space(name)
    rows = run(_errors(addresses_of(address, folder.absolute()), name, error_id, limit))
    if as_json:
        print_json({"errors": rows})
    elif not rows:
        out.print("no failures are known" if not error_id else f"no node knows the error id {error_id}")
    else:
        for row in rows:
            out.print(f"[bold red]{row['error_id']}[/]  {moment(row['time_ms'])} UTC", end="  ")
            out.print(f"{row['document']} at {row['position']}, {row['channel'] or 'create'} by {row['sender']}", markup=False)
            out.print(Text(row["traceback"].rstrip() + "\n", style="dim"))
    return Exit.NO if error_id and not rows else Exit.DONE


async def _errors(addresses: list[str], name: str, error_id: str, limit: int) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    answered, trouble = 0, ""
    for address in addresses:
        try:
            listed = await ask_one(address, "ListSpaceErrors", space=name, error_id=error_id, limit=limit)
        except ClusterError as error:
            trouble = f"{address}: {error.message}"
            continue
        answered += 1
        for each in listed.errors:
            found.setdefault(
                each.error_id,
                {
                    "error_id": each.error_id,
                    "document": f"{each.document.space}/{each.document.key}",
                    "position": f"{each.position.epoch}.{each.position.index}",
                    "channel": each.channel,
                    "sender": each.sender,
                    "time_ms": each.time_ms,
                    "traceback": each.traceback,
                },
            )
    if not answered:
        raise CommandFailed(
            f"no node answered: {trouble}", code=Exit.UNREACHABLE, next_step="moot status", reason="UNAVAILABLE"
        )
    return sorted(found.values(), key=lambda row: -int(row["time_ms"]))[:limit]
