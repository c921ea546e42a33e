"""`moot space deploy --check`: real histories on new code, on this machine. Nodes only read; nothing is changed anywhere.

Documents are sampled by a hash of their keys, so the same ones are looked at again after the code was corrected.
"""

from __future__ import annotations

import base64
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from cluster.cli.history import exported_history
from cluster.cli.output import Exit, add_row, err, out, print_json, say, styled, table
from cluster.cli.reach import at, run
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.errors import InvalidRequest
from cluster.ids import DocumentId, Principal
from cluster.replay.shadow import Past, Shadowed, shadow

LISTED_MAX: Final = 100_000
"""Documents of a space that are looked at to choose from."""
SHOWN_MAX: Final = 30

WORTH_SAYING: Final = ("upgrade", "message", "outcome", "answer", "state", "view", "steps")


def check_code(
    name: str, bundle: bytes, sample: int, force: bool, address: list[str] | None, folder: Path, as_json: bool
) -> Exit:
    """Compare, and say what would differ by the exit code too."""

    async def ask() -> tuple[Any, list[dict[str, Any]]]:
        async with at(address, folder) as client:
            judged = await client.admin("DeploySpace", space=name, bundle=bundle, check_only=True, force=force)
            known: Any = await client.admin("ListSpaces")
            if name not in [space.name for space in known.spaces]:
                return judged, []
            keys: list[str] = []
            async for key, _ in client.list(name, page_size=1000):
                keys.append(key)
                if len(keys) >= LISTED_MAX:
                    break
        chosen = sorted(sorted(keys, key=lambda key: blake2b(key.encode(), digest_size=8).digest())[:sample])
        return judged, [await exported_history(DocumentId(name, key), address, folder) for key in chosen]

    judged, histories = run(ask())
    found, skipped = _shadowed(histories, bundle, quiet=as_json)
    differs = any(one.differences for one in found)
    dropped = list(judged.fields_dropped)
    if as_json:
        print_json(
            {
                "space": name,
                "code_hash": judged.space.code_hash.hex(),
                "version": judged.space.version,
                "differs": differs,
                "fields_dropped": dropped,
                "documents": [_row(one) for one in found],
                "not_compared": skipped,
            }
        )
    else:
        _print(found, skipped, dropped)
    return Exit.NO if differs else Exit.DONE


def _shadowed(histories: list[dict[str, Any]], bundle: bytes, *, quiet: bool) -> tuple[list[Shadowed], dict[str, str]]:
    loader = BundleLoader()
    after = loader.load(bundle)
    programs: dict[bytes, Program] = {}
    found: list[Shadowed] = []
    skipped: dict[str, str] = {}
    columns = (TextColumn("running histories"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("", total=len(histories))
        for exported in histories:
            document = DocumentId.parse(exported["document"])
            for code, encoded in exported["bundles"].items():
                if bytes.fromhex(code) not in programs:
                    programs[bytes.fromhex(code)] = loader.load(base64.b64decode(encoded))
            try:
                found.append(shadow(document, [_past(row) for row in exported["commands"]], programs, after))
            except InvalidRequest as error:
                skipped[str(document)] = error.message
            progress.advance(task)
    return found, skipped


def _past(row: dict[str, Any]) -> Past:
    return Past(
        row["kind"],
        row["channel"],
        row["payload"].encode(),
        Principal.parse(row["sender"]),
        row["time_ms"],
        bytes.fromhex(row["seed"]),
        row["position"]["epoch"],
        row["position"]["index"],
        row["code"],
        bytes.fromhex(row["code_hash"]),
    )


def _row(one: Shadowed) -> dict[str, Any]:
    return {
        "document": one.document,
        "commands": one.commands,
        "differences": [
            {"position": each.position, "what": each.what, "where": each.where, "before": each.before, "after": each.after}
            for each in one.differences
        ],
        "steps": {channel: {"before": now, "after": then} for channel, (now, then) in one.steps.items()},
    }


def _print(found: list[Shadowed], skipped: dict[str, str], dropped: list[str]) -> None:
    if found:
        shown = table("document", ">commands", *(f">{what}" for what in WORTH_SAYING))
        for one in found:
            counts = [sum(1 for each in one.differences if each.what == what) for what in WORTH_SAYING]
            cells = [styled(str(count), "bold red") if count else "" for count in counts]
            add_row(shown, styled(one.document, "bold"), one.commands, *cells)
        out.print(shown)
    differences = [(one.document, each) for one in found for each in one.differences]
    if differences:
        told = table("document", ">position", "what", "where", "now", "then")
        for document, each in differences[:SHOWN_MAX]:
            add_row(told, document, each.position, each.what, each.where, _short(each.before), _short(each.after))
        out.print()
        out.print(told)
    if len(differences) > SHOWN_MAX:
        say(f"and {len(differences) - SHOWN_MAX} more: --json has them all", "dim")
    for document, why in skipped.items():
        out.print(Text(f"{document} was not compared: {why}", style="yellow"))
    if dropped:
        say(f"documents lose {', '.join(dropped)}", "yellow")
    if not differences:
        say(f"nothing would differ in {len(found)} documents")


def _short(text: str) -> str:
    return text if len(text) <= 48 else text[:47] + "…"
