"""One document from one version's code to another's: fields carried over, then the hooks that its author wrote.

The document is loaded anew under the new class; the old one is only read, so whatever goes wrong leaves it as it was. Hooks run
in the order of their versions, all in one command: a document of version 2 under a class of version 4 runs those of 2 and 3.

Invariant: the outcome is a function of the old state, the two codes and the invocation. A document either has the new code and
all that the hooks wrote, or is untouched.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from cluster.documents import payload as json
from cluster.documents.compatibility import carried, handlers_gone
from cluster.documents.context import Command
from cluster.documents.declare import Before, Document
from cluster.documents.instance import DocumentInstance
from cluster.documents.runtime import Code, Invocation, Outcome
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId

if TYPE_CHECKING:
    from cluster.documents.hooks import Hook
    from cluster.documents.program import DocumentProgram

STATE_DIGEST_BYTES = 32


def upgrade(
    program: DocumentProgram, document: DocumentId, state: bytes, before: DocumentProgram, invocation: Invocation
) -> tuple[DocumentInstance | None, Outcome]:
    """See runtime.Program.upgrade."""
    old, new = before.declaration, program.declaration
    taken = carried(old, new)
    hooks = [hook for since, hook in sorted(new.upgrades.items()) if since >= old.version]
    if taken.changes and old.version not in new.upgrades:
        return None, _refused(invocation, "; ".join(change.reason for change in taken.changes))
    previous = before.load(document, state)
    instance = DocumentInstance(program, document)
    try:
        instance.take_over(state, taken.sources)
    except StorageDamaged as error:  # the old class loaded this state: it is the new one that does not take it
        return None, _refused(invocation, error.message)
    gone = handlers_gone(previous.armed_handlers(), new)
    if gone:
        return None, _refused(invocation, "; ".join(change.reason for change in gone))
    outcome = instance.run_channel(program.upgrade_channel(_all(hooks, previous)), invocation)
    if outcome.code is not Code.OK:
        return None, outcome if outcome.code is Code.FAILED else _refused(invocation, _ended(outcome), outcome.steps)
    # What was carried over is no tracked write, yet replicas must agree on it: the chain binds the whole new state.
    outcome.writes = hashlib.blake2b(instance.dump(), digest_size=STATE_DIGEST_BYTES).digest()
    outcome.changes = None
    outcome.change_bytes = 0
    return instance, outcome


def _all(hooks: list[Hook], previous: DocumentInstance) -> Any:
    """One handler that runs the hooks in turn."""

    def run(document: Document, ctx: Command) -> None:
        for place, hook in enumerate(hooks):
            if hook.takes_before:
                hook.function(document, ctx, Before(previous.document, document if place else None))
            else:
                hook.function(document, ctx)

    return run


def _ended(outcome: Outcome) -> str:
    """How hooks ended that neither went well nor failed: a document is upgraded or not, and operators are told why not."""
    told = json.decode(outcome.answer)
    if outcome.code is Code.BUDGET:
        return f"the hook exceeded its budget of {told.get('limit', 'steps')}"
    return f"the hook refused: {told.get('name', '')} {told.get('message', '')}"


def _refused(invocation: Invocation, why: str, steps: int = 0) -> Outcome:
    """The document stays as it is. Where a hook is missing, deploying was refused unless this version was forgotten."""
    identity = invocation.seed + invocation.index.to_bytes(8, "little")
    error_id = hashlib.blake2b(identity, person=b"moot.error", digest_size=8).hexdigest()
    return Outcome(Code.FAILED, json.encode({"error_id": error_id}), steps=steps, error=f"UpgradeFailed: {why}")
