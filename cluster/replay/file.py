"""A document's history as a file: what `doc log --export` writes.

The file is JSON: the document's address, the code of every version that ran, and every command with its time, seed, code and
answer: everything that its state follows from. One that holds only what somebody saw has no commands, and `seen` (seen.py).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

from cluster.documents.runtime import Code
from cluster.errors import InvalidRequest
from cluster.ids import DocumentId, Position
from cluster.shard.commands import CommandKind, HistoryRow, command_seed
from cluster.v1 import admin_pb2

FORMAT: Final = 1
KINDS: Final = {
    "COMMAND_KIND_CREATE": CommandKind.CREATE,
    "COMMAND_KIND_MESSAGE": CommandKind.SEND,
    "COMMAND_KIND_DELETE": CommandKind.DELETE,
    "COMMAND_KIND_ALARM": CommandKind.ALARM,
    "COMMAND_KIND_ANSWER": CommandKind.ANSWER,
    "COMMAND_KIND_UPGRADE": CommandKind.UPGRADE,
    "COMMAND_KIND_CONNECT": CommandKind.CONNECT,
    "COMMAND_KIND_DISCONNECT": CommandKind.DISCONNECT,
    "COMMAND_KIND_REPAIR": CommandKind.REPAIR,
    "COMMAND_KIND_THAW": CommandKind.THAW,
    "COMMAND_KIND_FORK": CommandKind.FORK,
}

CODE_BRINGING: Final = (1, 7, 11, 12)
"""Kinds of commands that give a document code, as admin.proto numbers them: a creation, an upgrade, a thaw, a fork."""


def export_of(
    document: DocumentId, commands: list[Any], bundles: dict[bytes, bytes], inspected: Any, *, whole: bool
) -> dict[str, Any]:
    """The file's content, from AdminService's answers. whole: the commands begin with the document's first one ever."""
    position = Position(inspected.position.epoch, inspected.position.index)
    rows = [command_row(command) for command in commands]
    return exported(document, position, inspected.chain, rows, {n.hex(): b for n, b in bundles.items()}, whole=whole)


def exported(
    document: DocumentId,
    position: Position,
    chain: bytes,
    rows: list[dict[str, Any]],
    bundles: dict[str, bytes],
    *,
    whole: bool,
) -> dict[str, Any]:
    """The file's content. rows: commands in order. bundles: by the hash that commands name, in hexadecimal."""
    return {
        "format": FORMAT,
        "document": str(document),
        "position": {"epoch": position.epoch, "index": position.index},
        "chain": chain.hex(),
        "whole": whole,
        "bundles": {name: base64.b64encode(bundle).decode() for name, bundle in bundles.items()},
        "commands": rows,
    }


def stored_rows(epoch: int, first: int, row: HistoryRow) -> list[dict[str, Any]]:
    """The commands of one row of a history store, the first at index `first`."""
    return [
        {
            "position": {"epoch": epoch, "index": first + place},
            "kind": CommandKind(command.kind).name.lower(),
            "sender": command.principal,
            "channel": command.channel,
            "payload": command.payload.decode(),
            "time_ms": row.now_ms,
            "seed": command_seed(row.seed, row.offsets[place]).hex(),
            "code": Code(row.codes[place]).name,
            "answer": row.answers[place].decode(),
            "code_hash": command.code_hash.hex(),
        }
        for place, command in enumerate(row.commands)
    ]


def command_row(command: Any) -> dict[str, Any]:
    """One command of a history as plain values."""
    return {
        "position": {"epoch": command.position.epoch, "index": command.position.index},
        "kind": KINDS[_kind_name(command.kind)].name.lower(),
        "sender": command.sender,
        "channel": command.channel,
        "payload": command.payload.decode(),
        "time_ms": command.time_ms,
        "seed": command.seed.hex(),
        "code": command.code,
        "answer": command.answer.decode(),
        "code_hash": command.code_hash.hex(),
    }


def _kind_name(kind: int) -> str:
    return admin_pb2.CommandKind.Name(kind)  # type: ignore[arg-type]


def read_export(path: Path) -> dict[str, Any]:
    """A file of `export_of`. Raises InvalidRequest for anything else, OSError when it can not be read."""
    try:
        exported = json.loads(path.read_text())
        assert isinstance(exported, dict)
        if exported["format"] != FORMAT:
            raise InvalidRequest(f"{path} has format {exported['format']}, this release reads {FORMAT}")
        for name in ("document", "position", "chain", "whole", "bundles", "commands"):
            exported[name]
    except (ValueError, KeyError, AssertionError) as error:
        raise InvalidRequest(f"{path} is not an exported history: {error!r}") from None
    return exported
