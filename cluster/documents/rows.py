"""Tables as viewers see them: rows behind a policy, windows, and rows that hide something inside.

A part knows which rows its viewer may see and, of a window, which of them are shown. Written rows are asked about again,
nobody else; a window of a large table moves by the rows that come and go. A table with a window is shown as

    {"rows": {row name: row, ...}, "total": how many rows the viewer may see}

Invariant: `total`, the names and the rows tell nothing of rows that the policy hides. A row that was hidden at any position
since the last patch is sent as it is now, never as the writes that led there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster.documents.arguments import Arguments
from cluster.documents.parts import ABSENT, Patch, Reads
from cluster.documents.sight import Lens, Policy
from cluster.documents.state import Changes, Window
from cluster.documents.state.journal import REMOVE, SPLICE, Write
from cluster.documents.state.patch import diff_at, net, operation_at, pointer
from cluster.documents.state.table import TableType
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.views import Viewing

Rows = dict[Any, Any]
"""By the name of the row, in the order of the table."""


class RowsSource:
    """A table whose rows are asked about one by one, or are shown through a window or a lens.

    guard: a policy on the field as a whole. policy: one on each row.
    """

    __slots__ = ("by_who", "guard", "kind", "lens", "name", "policies", "policy", "window")

    def __init__(
        self, name: str, kind: TableType, guard: Policy | None, policy: Policy | None, window: Window | None, lens: Lens | None
    ) -> None:
        self.name = name
        self.kind = kind
        self.guard = guard
        self.policy = policy
        self.window = window
        self.lens = lens
        self.by_who = policy is not None or (lens is not None and lens.by_policy)
        self.policies: tuple[Policy, ...] = () if guard is None else (guard,)

    def make(self, viewing: Viewing, who: Principal, arguments: Arguments) -> RowsPart:
        """See parts.Source."""
        part = RowsPart(self, arguments)
        if not viewing.is_set(self.name):
            return part
        if self.guard is not None:
            part.present, part.asked = viewing.answer(self.guard, who)
            if not part.present:
                return part
        part.present = True
        part.fill(viewing, who)
        return part

    def key_of(self, wire: str) -> Any:
        """The name of a row from its name on the wire."""
        return int(wire, 16) if self.kind.key_field is None else self.kind.name_type.from_wire_key(wire)

    def wire(self, key: Any) -> str:
        """The name of a row on the wire."""
        return self.kind.name_type.wire_key(self.kind.name_type.to_plain(key))

    def json(self, viewing: Viewing, row: Any, who: Principal) -> Any:
        """A row as `who` sees it."""
        return self.kind.row.to_json(row) if self.lens is None else viewing.through(self.lens, row, who)


class RowsPart:
    """A table as it is seen.

    present: whether the table is seen at all. asked: the fields that policies read beside the row itself.
    visible: the rows that may be seen, kept when there are a policy and a window; None when all or `shown` are.
    shown: the rows that are shown: through a lens their JSON form, else None.
    """

    __slots__ = ("_arguments", "_count", "_source", "_total", "asked", "present", "shown", "visible")

    failed = ""

    def __init__(self, source: RowsSource, arguments: Arguments) -> None:
        self._source = source
        self._arguments = arguments
        window = source.window
        self._count = None if window is None else arguments.latest(source.name, window.latest)
        self._total = 0
        self.present = False
        self.asked: Reads = frozenset()
        self.visible: Rows | None = None
        self.shown: Rows = {}

    def fill(self, viewing: Viewing, who: Principal) -> None:
        """Ask about every row."""
        source, rows = self._source, viewing.rows(self._source.name)
        names: Iterable[Any] = rows
        if source.policy is not None:
            visible, asked = viewing.admitted(source.policy, rows, who)
            self.asked |= asked
            names = visible
            if self._count is not None:
                self.visible = visible
        self._total = len(rows) if source.policy is None else len(visible)
        chosen = names if self._count is None else self._newest(rows)
        lens = source.lens
        self.shown = {name: None if lens is None else source.json(viewing, rows[name], who) for name in chosen}

    def _newest(self, rows: Rows) -> list[Any]:
        newest = list(islice(reversed(rows if self.visible is None else self.visible), self._count))
        newest.reverse()
        return newest

    def value(self, viewing: Viewing) -> Any:
        """See parts.Part."""
        if not self.present:
            return ABSENT
        source, rows, shown = self._source, viewing.rows(self._source.name), self.shown
        if self._count is None:
            shown = {name: shown[name] for name in rows if name in shown}
        seen = {
            source.wire(name): source.kind.row.to_json(rows[name]) if source.lens is None else value
            for name, value in shown.items()
        }
        return seen if self._count is None else {"rows": seen, "total": self._total}

    def copy(self) -> RowsPart:
        """See parts.Part."""
        other = RowsPart(self._source, self._arguments)
        other.present, other.asked, other._total = self.present, self.asked, self._total
        other.visible = None if self.visible is None else self.visible.copy()
        other.shown = self.shown.copy()
        return other

    def advance(self, viewing: Viewing, changes: list[Changes], written: Reads, who: Principal) -> tuple[RowsPart, Patch]:
        """See parts.Part."""
        source = self._source
        again = bool(self.asked & written)
        if source.name not in written and not again:
            return self, []
        touched = _Touched(source, changes)
        if again or touched.everything or not self.present:
            now = source.make(viewing, who, self._arguments)
            return now, list(self._replaced(now, touched, viewing, who))
        rows = viewing.rows(source.name)
        if self._count is None:
            return self, list(self._some(touched, rows, viewing, who))
        return self, list(self._slid(touched, rows, viewing, who))

    # which patch

    def _some(self, touched: _Touched, rows: Rows, viewing: Viewing, who: Principal) -> Iterator[dict[str, Any]]:
        """All rows that may be seen are shown: look at those that were written."""
        for name in touched.names:
            row = rows.get(name)
            if row is not None and self._admits(row, viewing, who):
                yield from self._shown(name, row, touched, viewing, who)
            elif name in self.shown:
                yield self._gone(name)

    def _slid(self, touched: _Touched, rows: Rows, viewing: Viewing, who: Principal) -> Iterator[dict[str, Any]]:
        """The window moves to the newest rows that may be seen."""
        if self.visible is not None:
            self._ask_again(self.visible, touched, rows, viewing, who)
        names = self._newest(rows)
        wanted = set(names)
        for name in [name for name in self.shown if name not in wanted]:
            yield self._gone(name)
        for name in names:
            if name not in self.shown or name in touched.names:
                yield from self._shown(name, rows[name], touched, viewing, who)
        self.shown = {name: self.shown[name] for name in names}
        total = len(rows if self.visible is None else self.visible)
        if total != self._total:
            self._total = total
            yield {"op": "replace", "path": pointer((self._source.name, "total")), "value": total}

    def _ask_again(self, visible: Rows, touched: _Touched, rows: Rows, viewing: Viewing, who: Principal) -> None:
        admitted = []
        for name in touched.names:
            row = rows.get(name)
            seen = row is not None and self._admits(row, viewing, who)
            if name in visible and (not seen or name in touched.put):
                del visible[name]
            if seen:
                admitted.append(name)
        order = viewing.order(self._source.name)
        sorted_still = True
        for name in admitted:
            if name not in visible:
                last = next(reversed(visible), None)
                sorted_still = sorted_still and (last is None or order[last] < order[name])
                visible[name] = None
        if not sorted_still:
            self.visible = dict.fromkeys(sorted(visible, key=order.__getitem__))

    def _admits(self, row: Any, viewing: Viewing, who: Principal) -> bool:
        policy = self._source.policy
        if policy is None:
            return True
        admitted, asked = viewing.admits(policy, row, who)
        self.asked |= asked
        return admitted

    def _replaced(self, now: RowsPart, touched: _Touched, viewing: Viewing, who: Principal) -> Iterator[dict[str, Any]]:
        """Everything was asked about again: from this part to `now`."""
        source, name = self._source, self._source.name
        if not self.present or not now.present:
            if self.present:
                yield {"op": "remove", "path": f"/{name}"}
            elif now.present:
                yield {"op": "add", "path": f"/{name}", "value": now.value(viewing)}
            return
        kept, now.shown, rows = now.shown, self.shown, viewing.rows(name)
        for each in [each for each in now.shown if each not in kept]:
            yield now._gone(each)
        for each in kept:
            if each not in now.shown or each in touched.names or touched.everything or source.lens is not None:
                yield from now._shown(each, rows[each], touched, viewing, who)
        now.shown = kept
        if now._count is not None and now._total != self._total:
            yield {"op": "replace", "path": pointer((name, "total")), "value": now._total}

    # one row

    def _path(self, name: Any) -> tuple[str, ...]:
        source = self._source
        return (source.name, source.wire(name)) if self._count is None else (source.name, "rows", source.wire(name))

    def _gone(self, name: Any) -> dict[str, Any]:
        del self.shown[name]
        return {"op": "remove", "path": pointer(self._path(name))}

    def _shown(self, name: Any, row: Any, touched: _Touched, viewing: Viewing, who: Principal) -> Iterable[dict[str, Any]]:
        """The row is shown from now on, or was already."""
        source, path = self._source, self._path(name)
        if name not in self.shown:
            value = source.json(viewing, row, who)
            self.shown[name] = None if source.lens is None else value
            return [{"op": "add", "path": pointer(path), "value": value}]
        if source.lens is not None:
            before, self.shown[name] = self.shown[name], source.json(viewing, row, who)
            return diff_at(path, before, self.shown[name])
        writes = None if touched.everything else touched.plain(name)
        if writes is None:
            return [{"op": "replace", "path": pointer(path), "value": source.kind.row.to_json(row)}]
        return [operation_at(write, (*path, *write[1][2:])) for write in writes]


class _Touched:
    """What changes wrote of one table. everything: the table itself was. names: written rows. put: those that came or went."""

    __slots__ = ("_single", "_writes", "everything", "names", "put")

    def __init__(self, source: RowsSource, changes: list[Changes]) -> None:
        self.everything = False
        self.names: dict[Any, list[Write]] = {}
        self.put: set[Any] = set()
        self._single = len(changes) == 1
        for change in changes:
            for write in change.operations:
                path = write[1]
                if path[0] != source.name:
                    continue
                if len(path) == 1:
                    self.everything = True
                    continue
                name = source.key_of(str(path[1]))
                self.names.setdefault(name, []).append(write)
                if len(path) == 2:
                    self.put.add(name)

    def plain(self, name: Any) -> list[Write] | None:
        """The writes inside of a row, if they show nothing but what the row is now: or it is better sent as a whole."""
        writes = self.names[name]
        if name in self.put:
            return None
        if self._single:
            return net(writes) if len(writes) > 1 else writes
        for _, path, _, _ in writes:
            if any(type(step) is int for step in path):
                return None
        places = [path for operation, path, _, _ in writes if operation not in (REMOVE, SPLICE)]
        if any(operation == SPLICE for operation, _, _, _ in writes):
            return None
        if any(len(one) < len(other) and other[: len(one)] == one for one in set(places) for other in set(places)):
            return None
        return net(writes)
