"""The computed parts of a view: fields behind a policy, records that hide something, and what views return.

A source says once for the class how a part is made; a part is what one viewer, or one class of viewers, sees of it now. A
part is brought up to date from the changes of the state and answers with the patch: what costs something is what was written,
and what a policy has to be asked about again.

Invariant: after `advance` a part is what `make` would give, and its patch leads there from what was shown before. A patch is
made of what is shown now: of values that were hidden at any position in between it contains nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from cluster.documents.arguments import NO_ARGUMENTS, Arguments
from cluster.documents.sight import Lens, Policy
from cluster.documents.sizes import measure
from cluster.documents.state import Changes, diff, operations
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.channels import View
    from cluster.documents.views import Viewing

Patch = list[dict[str, Any]]
Reads = frozenset[str]
ABSENT: Final = object()
_NOTHING: Final[Reads] = frozenset()


class Source(Protocol):
    """How one part is made. by_who: each viewer has its own. policies: those that divide viewers into classes."""

    name: str
    by_who: bool
    policies: tuple[Policy, ...]

    def make(self, viewing: Viewing, who: Principal, arguments: Arguments) -> Part:
        """The part as `who` sees it now."""
        ...


class Part(Protocol):
    """What is seen of one source now. failed: the error id of a view that failed, else empty."""

    @property
    def failed(self) -> str: ...

    def value(self, viewing: Viewing) -> Any:
        """The JSON form, or ABSENT. Only while the part is up to date."""
        ...

    def advance(self, viewing: Viewing, changes: list[Changes], written: Reads, who: Principal) -> tuple[Part, Patch]:
        """The part after `changes`, seen by `who`, and what leads there. This part is not used any more."""
        ...

    def copy(self) -> Part:
        """A part that is advanced on its own."""
        ...


def members(name: str, value: Any) -> dict[str, Any]:
    """A part's value as a member of a view."""
    return {} if value is ABSENT else {name: value}


# Fields


class FieldSource:
    """A field as a whole: behind a policy, or of a type that hides something inside."""

    __slots__ = ("by_who", "lens", "name", "policies", "policy")

    def __init__(self, name: str, policy: Policy | None, lens: Lens | None) -> None:
        self.name = name
        self.policy = policy
        self.lens = lens
        self.by_who = lens is not None and lens.by_policy
        self.policies: tuple[Policy, ...] = () if policy is None else (policy,)

    def make(self, viewing: Viewing, who: Principal, arguments: Arguments) -> FieldPart:
        """See Source."""
        if not viewing.is_set(self.name):
            return FieldPart(self, False, _NOTHING, ABSENT)
        shown, asked = (True, _NOTHING) if self.policy is None else viewing.answer(self.policy, who)
        value = ABSENT if not shown or self.lens is None else viewing.through(self.lens, viewing.raw(self.name), who)
        return FieldPart(self, shown, asked, value)


class FieldPart:
    """A field as it is seen. asked: what its policy read. kept: its JSON form if it had to be made through a lens."""

    __slots__ = ("_asked", "_kept", "_shown", "_source")

    failed = ""

    def __init__(self, source: FieldSource, shown: bool, asked: Reads, kept: Any) -> None:
        self._source = source
        self._shown = shown
        self._asked = asked
        self._kept = kept

    def value(self, viewing: Viewing) -> Any:
        """See Part."""
        if not self._shown:
            return ABSENT
        return viewing.json(self._source.name) if self._source.lens is None else self._kept

    def advance(self, viewing: Viewing, changes: list[Changes], written: Reads, who: Principal) -> tuple[FieldPart, Patch]:
        """See Part."""
        source, name = self._source, self._source.name
        asked = self._asked & written
        if name not in written and not asked:
            return self, []
        if self._shown and not asked and source.lens is None:
            return self, operations(changes, (name,))
        now = source.make(viewing, who, NO_ARGUMENTS)
        if source.lens is not None:
            return now, diff(members(name, self._kept), members(name, now._kept))
        if self._shown and now._shown:
            if name not in written:
                return now, []
            if len(changes) == 1:
                return now, operations(changes, (name,))
            return now, [{"op": "replace", "path": f"/{name}", "value": now.value(viewing)}]  # it may have been hidden between
        if not self._shown:
            return now, [{"op": "add", "path": f"/{name}", "value": now.value(viewing)}] if now._shown else []
        return now, [{"op": "remove", "path": f"/{name}"}]

    def copy(self) -> FieldPart:
        """See Part."""
        return self


# Views


class ViewSource:
    """A computed view."""

    __slots__ = ("by_who", "lens", "name", "policies", "view")

    def __init__(self, view: View, lens: Lens | None) -> None:
        self.name = view.name
        self.view = view
        self.lens = lens
        self.by_who = view.per_viewer
        self.policies: tuple[Policy, ...] = ()

    def make(self, viewing: Viewing, who: Principal, arguments: Arguments) -> ViewPart:
        """See Source."""
        if self.view.per_viewer:
            return self._made(viewing, who, arguments)
        return viewing.shared(self, arguments, lambda: self._made(viewing, who, arguments))

    def _made(self, viewing: Viewing, who: Principal, arguments: Arguments) -> ViewPart:
        view, lens = self.view, self.lens
        given = arguments.of(self.name)
        if any(one.required and one.name not in given for one in view.parameters):
            return ViewPart(self, ABSENT, _NOTHING, arguments)

        def make() -> Any:
            values = {one.name: one.type.from_json(given[one.name]) for one in view.parameters if one.name in given}
            document = viewing.document
            result = view.function(document, who, **values) if view.per_viewer else view.function(document, **values)
            measure(result)
            admitted = view.type.admit(result)
            if lens is None:
                return view.type.to_json(admitted)
            return viewing.shown_to(lens, admitted, who if view.per_viewer else None)

        value, reads, failed = viewing.run(f"view {self.name}", make, ABSENT)
        return ViewPart(self, value, reads, arguments, failed)


class ViewPart:
    """What a view returned. Immutable: viewers share it."""

    __slots__ = ("_arguments", "_from", "_patch", "_reads", "_source", "_value", "failed")

    def __init__(self, source: ViewSource, value: Any, reads: Reads, arguments: Arguments, failed: str = "") -> None:
        self._source = source
        self._value = value
        self._reads = reads
        self._arguments = arguments
        self.failed = failed
        self._from: ViewPart | None = None
        self._patch: Patch = []

    @property
    def reads(self) -> Reads:
        """The fields that it depends on."""
        return self._reads

    def value(self, viewing: Viewing) -> Any:
        """See Part."""
        return self._value

    def advance(self, viewing: Viewing, changes: list[Changes], written: Reads, who: Principal) -> tuple[ViewPart, Patch]:
        """See Part. What many viewers go from and to is compared once for all."""
        if not self._reads & written:
            return self, []
        now = self._source.make(viewing, who, self._arguments)
        if now is self:
            return self, []
        if now._from is not self:
            name = self._source.name
            patch = diff(members(name, self._value), members(name, now._value))
            if self._source.by_who:
                return now, patch
            now._from, now._patch = self, patch
            self._from = None  # or every part would hold the one before it
        return now, now._patch

    def copy(self) -> ViewPart:
        """See Part."""
        return self
