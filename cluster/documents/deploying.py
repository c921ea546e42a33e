"""Whether code may follow other code: the refusals of a deployment that compares two versions, with file and line.

What a version says about itself is refused in refusals.py and program.py; here two of them are compared.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.documents.compatibility import Change, carried, handlers_gone, hooks_needed, messages_refused
from cluster.documents.loader import invalid
from cluster.documents.program import DocumentProgram
from cluster.documents.refusals import Finding
from cluster.documents.runtime import Program


def check_successor(
    before: Iterable[Program], after: Program, *, clients: Program | None = None, armed: Iterable[str] = ()
) -> None:
    """Raise InvalidBundle, with every finding, unless documents of all the codes `before` can become documents of `after`.

    clients: the code whose messages are still to be accepted; None when they need not be. armed: names of handlers that
    something pending will call.
    """
    if not isinstance(after, DocumentProgram):
        return
    changes: dict[Change, None] = {}
    for old in before:
        if isinstance(old, DocumentProgram):
            changes.update(dict.fromkeys(hooks_needed(old.declaration, after.declaration)))
    if isinstance(clients, DocumentProgram):
        changes.update(dict.fromkeys(messages_refused(clients.declaration, after.declaration)))
    changes.update(dict.fromkeys(handlers_gone(armed, after.declaration)))
    if changes:
        raise invalid([_located(change, after) for change in changes])


def handlers_lost(before: Program, after: Program) -> frozenset[str]:
    """Handlers of alarms and answers that only the old code has: nothing pending may name them."""
    if not isinstance(before, DocumentProgram) or not isinstance(after, DocumentProgram):
        return frozenset()
    return before.declaration.handlers - after.declaration.handlers


def goes_back(before: Program, after: Program) -> bool:
    """Whether documents of `before` can be given the code `after`, which was written earlier and has no hook for them."""
    if not isinstance(before, DocumentProgram) or not isinstance(after, DocumentProgram):
        return True
    return not carried(before.declaration, after.declaration).changes


def fields_dropped(before: Program, after: Program) -> tuple[str, ...]:
    """Fields that documents lose when they get the code `after`."""
    if not isinstance(before, DocumentProgram) or not isinstance(after, DocumentProgram):
        return ()
    return carried(before.declaration, after.declaration).dropped


def _located(change: Change, program: DocumentProgram) -> Finding:
    path, line = program.place_of(change.where)
    return Finding(path, line, change.code, change.reason, change.replacement)
