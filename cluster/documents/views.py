"""What viewers see of one document: public fields, fields and rows behind a policy, computed views; whole or as patches.

Public fields follow the journal's changes and cost what changed. Everything else is computed: a policy or a view is code, so
its result is made again when a field that it read was written, and sent as the difference.

Invariant: what a viewer is sent is a function of the state and the viewer. A policy that fails hides, a view that fails is
absent, and neither can change the state or a command's outcome. It does not know connections or rings.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.documents import payload as json
from cluster.documents.context import FIXED_DECIMALS
from cluster.documents.declare import Document
from cluster.documents.meter import METER, Exhausted, Fault
from cluster.documents.runtime import Settings
from cluster.documents.sizes import measure
from cluster.documents.state import Changes, Journal, StateRoot, diff, encode, operations
from cluster.errors import ApplyHalted
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.program import Declaration, Guarded, View

_ABSENT = object()


class Viewing:
    """One document's read side.

    per_viewer: whether viewers may see different things. computed: whether anything but public fields is shown.
    """

    __slots__ = ("_document", "_guarded", "_journal", "_public", "_root", "_settings", "_views", "computed", "per_viewer")

    def __init__(
        self, declaration: Declaration, settings: Settings, document: Document, root: StateRoot, journal: Journal
    ) -> None:
        self._document = document
        self._root = root
        self._journal = journal
        self._settings = settings
        self._public = declaration.public
        self._guarded = declaration.guarded
        self._views = declaration.views
        self.computed = bool(self._guarded or self._views)
        self.per_viewer = bool(self._guarded) or any(view.per_viewer for view in self._views)

    def public(self) -> dict[str, Any]:
        """The public fields that are set."""
        root = self._root
        return {name: root.to_json(name) for name in self._public if root.is_set(name)}

    def everything(self, who: Principal) -> dict[str, Any]:
        """The whole view of one viewer."""
        return self.public() | self.computed_parts(who)

    def computed_parts(self, who: Principal) -> dict[str, Any]:
        """Fields behind policies and views, by name, as `who` sees them now."""
        parts = {}
        for guarded in self._guarded:
            shown = self._shown(guarded, who)
            if shown is not _ABSENT:
                parts[guarded.name] = shown
        for view in self._views:
            shown = self._made(view, who)
            if shown is not _ABSENT:
                parts[view.name] = shown
        return parts

    def public_patch(self, changes: list[Changes]) -> list[dict[str, Any]]:
        """What changed in public fields."""
        return operations(changes, self._public)

    def patch_since(self, changes: list[Changes]) -> bytes | None:
        """A patch from changes alone, when nothing computed is shown."""
        return None if self.computed else encode(self.public_patch(changes))

    def ask(self, policy: Callable[..., bool], *arguments: object) -> bool:
        """What a gate or policy says, under a budget of its own. An error is a no."""
        said: bool = self._read(lambda: policy(self._document, *arguments) is True, False)
        return said

    def _shown(self, guarded: Guarded, who: Principal) -> Any:
        root = self._root
        if not root.is_set(guarded.name):
            return _ABSENT
        if not guarded.by_row:
            return root.to_json(guarded.name) if self.ask(guarded.policy, who) else _ABSENT
        table = root.get(guarded.name)
        shown = root.to_json(guarded.name)
        hidden = [wire for wire, row in zip(shown, table, strict=True) if not self.ask(guarded.policy, row, who)]
        for wire in hidden:
            del shown[wire]
        return shown

    def _made(self, view: View, who: Principal) -> Any:
        def make() -> Any:
            result = view.function(self._document, who) if view.per_viewer else view.function(self._document)
            measure(result)
            return view.type.to_json(view.type.admit(result))

        return self._read(make, _ABSENT)

    def _read(self, action: Callable[[], Any], otherwise: Any) -> Any:
        """Run author code that may only read. Raises ApplyHalted for what is not its answer."""
        journal = self._journal
        METER.begin(self._settings.steps_max, self._settings.call_depth_max)
        decimal.setcontext(FIXED_DECIMALS)
        writable, journal.read_only = journal.read_only, True
        try:
            result = action()
            if METER.fault is not None:
                raise Fault(str(METER.fault))
            return otherwise if METER.limit or METER.refusal is not None else result
        except (MemoryError, RecursionError, SystemError, Fault) as error:
            raise ApplyHalted(f"a policy or view ended with {type(error).__name__}") from error
        except (Exception, Exhausted):
            return otherwise
        finally:
            journal.read_only = writable
            METER.end()


class FollowedView:
    """What one visibility class sees, followed change by change. See runtime.Projection."""

    __slots__ = ("_computed", "_viewing", "_who")

    def __init__(self, viewing: Viewing, who: Principal, viewed: bytes | None = None) -> None:
        self._viewing = viewing
        self._who = who
        self._computed: dict[str, Any] = viewing.computed_parts(who) if viewing.computed else {}

    def advance(self, changes: list[Changes]) -> bytes:
        """See runtime.Projection."""
        viewing = self._viewing
        patch = viewing.public_patch(changes)
        if viewing.computed and changes:
            before, self._computed = self._computed, viewing.computed_parts(self._who)
            patch = patch + diff(before, self._computed)
        return encode(patch)

    def full(self) -> bytes:
        """See runtime.Projection."""
        return json.encode(self._viewing.everything(self._who))
