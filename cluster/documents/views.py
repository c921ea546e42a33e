"""What viewers see of one document: public fields, fields and rows behind a policy, computed views; whole or as patches.

Public fields follow the journal's changes and cost what changed. The rest is code: its result is kept together with the
fields that it read, and made again only when one of those was written; of a table behind a policy only the written rows are
asked about again. A view that names no viewer is made once for all.

That is sound because code is deterministic: as long as no field that it read has changed, running it again reads the same
fields and gives the same result.

Invariant: what a viewer is sent is a function of the state and the viewer. A policy that fails hides, a view that fails is
absent, and neither can change the state or a command's outcome. It does not know connections or rings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.documents.declare import Document
from cluster.documents.meter import METER, Exhausted, Fault
from cluster.documents.runtime import Settings
from cluster.documents.sizes import measure
from cluster.documents.state import Changes, Journal, StateRoot, diff, encode, operations, touched_rows
from cluster.errors import ApplyHalted
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.program import Declaration, Guarded, View

ROW_STEPS_MAX: Final = 10_000
"""What a policy may spend on one row, whatever the other rows cost."""

Patch = list[dict[str, Any]]
_ABSENT: Final = object()


class Part:
    """One computed part of a view. value: its JSON form or _ABSENT. reads: the fields that it depends on."""

    __slots__ = ("reads", "value")

    def __init__(self, value: Any, reads: frozenset[str]) -> None:
        self.value = value
        self.reads = reads


class RecordingRoot:
    """Stands between author code and the fields, and notes which it reads."""

    __slots__ = ("_root", "fields")

    def __init__(self, root: StateRoot) -> None:
        self._root = root
        self.fields: set[str] = set()

    def get(self, name: str) -> Any:
        """A field's value."""
        self.fields.add(name)
        return self._root.get(name)

    def set(self, name: str, value: object) -> None:
        """Refused by the journal: only reads go through here."""
        self._root.set(name, value)


class Viewing:
    """One document's read side.

    per_viewer: whether viewers may see different things. computed: whether anything but public fields is shown.
    revision: rises with every change of the state.
    """

    __slots__ = (
        "_document",
        "_guarded",
        "_journal",
        "_public",
        "_root",
        "_settings",
        "_shared",
        "_types",
        "_views",
        "computed",
        "per_viewer",
        "revision",
    )

    def __init__(
        self, declaration: Declaration, settings: Settings, document: Document, root: StateRoot, journal: Journal
    ) -> None:
        self._document = document
        self._root = root
        self._journal = journal
        self._settings = settings
        self._public = declaration.public
        self._guarded = {guarded.name: guarded for guarded in declaration.guarded}
        self._views = {view.name: view for view in declaration.views}
        self._types = {guarded.name: declaration.fields[guarded.name].type for guarded in declaration.guarded}
        self._shared: dict[str, Part] = {}
        self.computed = bool(self._guarded or self._views)
        self.per_viewer = bool(self._guarded) or any(view.per_viewer for view in declaration.views)
        self.revision = 0

    def wrote(self, fields: frozenset[str]) -> None:
        """The state has changed in these fields."""
        self.revision += 1
        for name in [name for name, part in self._shared.items() if part.reads & fields]:
            del self._shared[name]

    def everything(self, parts: dict[str, Part]) -> dict[str, Any]:
        """A whole view: the public fields that are set, and the computed parts that are shown."""
        root = self._root
        public = {name: root.to_json(name) for name in self._public if root.is_set(name)}
        return public | {name: part.value for name, part in parts.items() if part.value is not _ABSENT}

    def parts(self, who: Principal) -> dict[str, Part]:
        """Everything computed, as `who` sees it now."""
        return {name: self.part(name, who) for name in (*self._guarded, *self._views)}

    def part(self, name: str, who: Principal) -> Part:
        """One computed part, as `who` sees it now."""
        guarded = self._guarded.get(name)
        if guarded is not None:
            return self._rows(guarded, who) if guarded.by_row else self._field(guarded, who)
        view = self._views[name]
        if view.per_viewer:
            return self._made(view, who)
        part = self._shared.get(name)
        if part is None:
            part = self._shared[name] = self._made(view, who)
        return part

    def public_patch(self, changes: list[Changes]) -> Patch:
        """What changed in public fields."""
        return operations(changes, self._public)

    def patch_since(self, changes: list[Changes]) -> bytes | None:
        """A patch from changes alone, when nothing computed is shown."""
        return None if self.computed else encode(self.public_patch(changes))

    def ask(self, policy: Callable[..., bool], *arguments: object) -> bool:
        """What a gate or policy says, under a budget of its own. An error is a no."""
        said: bool = self._read(lambda: policy(self._document, *arguments) is True, False, self._settings.steps_max)
        return said

    def touched(self, name: str, part: Part, changes: list[Changes], written: frozenset[str], who: Principal) -> Patch | None:
        """The patch for a table behind a policy when only some rows have to be asked about again, with `part` brought up to
        date; or None when everything has to be."""
        guarded = self._guarded.get(name)
        if guarded is None or not guarded.by_row or part.value is _ABSENT or (part.reads - {name}) & written:
            return None
        if any(path[0] == name and len(path) == 1 for change in changes for _, path, _, _ in change.operations):
            return None
        kind: Any = self._types[name]
        table = self._root.get(name)
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        reads: set[str] = set(part.reads)
        for wire in sorted(touched_rows(changes, name)):
            if wire in part.value:
                before[wire] = part.value.pop(wire)
            row = table.get(int(wire, 16) if kind.key_field is None else kind.name_type.from_wire_key(wire))
            if row is not None and self._admits(guarded, row, who, reads):
                part.value[wire] = after[wire] = kind.row.to_json(row)
        part.reads = frozenset(reads)
        return diff({name: before}, {name: after})

    def _field(self, guarded: Guarded, who: Principal) -> Part:
        root, reads = self._root, {guarded.name}
        shown = root.is_set(guarded.name) and self._admits(guarded, None, who, reads)
        return Part(root.to_json(guarded.name) if shown else _ABSENT, frozenset(reads))

    def _rows(self, guarded: Guarded, who: Principal) -> Part:
        root, reads = self._root, {guarded.name}
        if not root.is_set(guarded.name):
            return Part(_ABSENT, frozenset(reads))
        shown = root.to_json(guarded.name)
        rows = zip(list(shown), root.get(guarded.name), strict=True)
        for wire in [wire for wire, row in rows if not self._admits(guarded, row, who, reads)]:
            del shown[wire]
        return Part(shown, frozenset(reads))

    def _admits(self, guarded: Guarded, row: object, who: Principal, reads: set[str]) -> bool:
        document, policy = self._document, guarded.policy
        if guarded.by_row:
            said: bool = self._read(lambda: policy(document, row, who) is True, False, ROW_STEPS_MAX, reads)
        else:
            said = self._read(lambda: policy(document, who) is True, False, self._settings.steps_max, reads)
        return said

    def _made(self, view: View, who: Principal) -> Part:
        def make() -> Any:
            result = view.function(self._document, who) if view.per_viewer else view.function(self._document)
            measure(result)
            return view.type.to_json(view.type.admit(result))

        reads: set[str] = set()
        return Part(self._read(make, _ABSENT, self._settings.steps_max, reads), frozenset(reads))

    def _read(self, action: Callable[[], Any], otherwise: Any, steps: int, reads: set[str] | None = None) -> Any:
        """Run author code that may only read. Raises ApplyHalted for what is not its answer."""
        journal, document = self._journal, self._document
        recording = RecordingRoot(self._root)
        if reads is not None:
            document._moot_root = recording
        METER.begin(steps, self._settings.call_depth_max)
        journal.read_only = True
        try:
            result = action()
            if METER.fault is not None:
                raise Fault(str(METER.fault))
            return otherwise if METER.limit or METER.refusal is not None else result
        except (MemoryError, RecursionError, SystemError, Fault) as error:
            raise ApplyHalted(f"a gate, policy or view ended with {type(error).__name__}") from error
        except (Exception, Exhausted):
            return otherwise
        finally:
            journal.read_only = False
            METER.end()
            if reads is not None:
                document._moot_root = self._root
                reads |= recording.fields


class FollowedView:
    """What one visibility class sees, followed change by change. See runtime.Projection."""

    __slots__ = ("_parts", "_revision", "_viewing", "_who")

    def __init__(self, viewing: Viewing, who: Principal) -> None:
        self._viewing = viewing
        self._who = who
        self._revision = viewing.revision
        self._parts = viewing.parts(who) if viewing.computed else {}

    def advance(self, changes: list[Changes]) -> bytes:
        """See runtime.Projection."""
        viewing = self._viewing
        patch = viewing.public_patch(changes)
        if self._parts:
            self._revision = viewing.revision
            written = frozenset().union(*(change.fields for change in changes))
            for name, part in self._parts.items():
                if part.reads & written:
                    patch += self._again(name, part, changes, written)
        return encode(patch)

    def _again(self, name: str, part: Part, changes: list[Changes], written: frozenset[str]) -> Patch:
        viewing = self._viewing
        rows = viewing.touched(name, part, changes, written, self._who)
        if rows is not None:
            return rows
        now = self._parts[name] = viewing.part(name, self._who)
        return diff(_members(name, part), _members(name, now))

    def full(self) -> bytes:
        """See runtime.Projection."""
        viewing = self._viewing
        current = self._revision == viewing.revision
        return json.encode(viewing.everything(self._parts if current else viewing.parts(self._who)))


def _members(name: str, part: Part) -> dict[str, Any]:
    return {} if part.value is _ABSENT else {name: part.value}
