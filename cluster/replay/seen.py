"""A past as one principal saw it: what a file may hold that is given to somebody who was not there.

Of the document nothing goes into the file but its code and, in place of all commands, what the principal was shown at one
position. From that a document is made again: visible fields have the values that were shown, all others their defaults, or
none. What stands behind it (other principals' commands, hidden rows, seeds, what is armed) is not in the file in any form.

Invariant: such a file is a function of the code, the position and the view; a secret that the view does not tell it can not
tell either.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.documents.program import DocumentProgram
from cluster.documents.repairing import check_order
from cluster.documents.runtime import REPAIR_CHANNEL, Instance, Invocation, Program
from cluster.documents.state.patch import pointer
from cluster.documents.state.types import TableType
from cluster.errors import ClusterError
from cluster.ids import DocumentId, Principal

NO_SEED = bytes(32)
REASON = "it was seen"


def seen_past(exported: dict[str, Any], code_hash: bytes, position: dict[str, int], time_ms: int, who: Principal,
              view: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """The file's content: a history without commands, of a view that `timeline.shown` gave."""
    name = code_hash.hex()
    return exported | {
        "whole": False,
        "chain": "",
        "position": position,
        "commands": [],
        "bundles": {name: exported["bundles"][name]},
        "seen": {"as": str(who), "view": view, "code_hash": name, "time_ms": time_ms},
    }


def instance_of(document: DocumentId, program: Program, seen: dict[str, Any], index: int) -> tuple[Instance, list[str]]:
    """The document that a view shows, and the paths of what could not be made of it: values of which only a part was shown."""
    assert isinstance(program, DocumentProgram), "exports are of authors' documents"
    instance = program.new(document)
    left_out = []
    who = Principal.parse(seen["as"])
    for name, spec in program.declaration.fields.items():
        if name not in seen["view"]:
            continue
        shown = seen["view"][name]
        rows = isinstance(spec.type, TableType)
        for path, value in {(name, row): each for row, each in shown.items()}.items() if rows else [((name,), shown)]:
            operation = {"op": "add" if rows else "replace", "path": pointer(path), "value": value}
            try:
                order = check_order(msgspec.json.encode({"patch": [operation], "reason": REASON}), program.settings)
                written = Invocation(REPAIR_CHANNEL, order, who, seen["time_ms"], NO_SEED, index)
                instance.check_repair(written)
                instance.repair(written)
            except ClusterError:
                left_out.append(pointer(path))
    return instance, left_out
