"""What a viewer asks of views and windows: `{view: {parameter: value}, table: {"latest": rows}}`.

A view's parameters beside `who` are its arguments. A view with a parameter that has no default, and for which none is given,
is absent until it is. A window of a table takes `latest`, how many rows it shows.

Invariant: equal arguments have equal canonical bytes, so viewers who ask for the same share what is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.errors import InvalidArguments, InvalidName, InvalidPayload

if TYPE_CHECKING:
    from cluster.documents.declaration import Declaration

ARGUMENTS_BYTES_MAX: Final = 4096
_DEPTH_MAX: Final = 16
_LATEST: Final = "latest"


class Arguments:
    """Checked arguments. canonical: as JSON bytes, b"" when there are none. given: by view or table, decoded JSON."""

    __slots__ = ("canonical", "given")

    def __init__(self, canonical: bytes, given: dict[str, dict[str, Any]]) -> None:
        self.canonical = canonical
        self.given = given

    def of(self, name: str) -> dict[str, Any]:
        """What was given for one view or table."""
        return self.given.get(name, _NOTHING)

    def latest(self, name: str, otherwise: int) -> int:
        """How many rows the window of a table shows."""
        rows: int = self.of(name).get(_LATEST, otherwise)
        return rows


_NOTHING: Final[dict[str, Any]] = {}
NO_ARGUMENTS: Final = Arguments(b"", {})


def check_arguments(declaration: Declaration, raw: bytes) -> Arguments:
    """Check arguments against a class. Raises InvalidArguments, naming the view and the parameter; nothing is affected."""
    if raw in (b"", b"{}"):
        return NO_ARGUMENTS
    try:
        asked = json.parse(raw, bytes_max=ARGUMENTS_BYTES_MAX, depth_max=_DEPTH_MAX)
    except InvalidPayload as error:
        raise InvalidArguments(f"the arguments are not JSON as it is taken here: {error}") from None
    views = {view.name: view for view in declaration.views}
    given: dict[str, dict[str, Any]] = {}
    for name in sorted(asked):
        values = asked[name]
        if not isinstance(values, dict):
            raise InvalidArguments(f"the arguments of {name} are not an object", view=name)
        spec = declaration.fields.get(name)
        if name in views:
            members = _members(name, {one.name: one.type for one in views[name].parameters}, values)
        elif spec is not None and spec.window is not None and spec.visibility != "private":
            members = _window(name, spec.window.at_most, values)
        else:
            raise InvalidArguments(f"{declaration.cls.__name__} has no view or window {name!r}", view=name)
        if members:
            given[name] = members
    return Arguments(json.encode(given), given) if given else NO_ARGUMENTS


def _members(view: str, types: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for name in values:
        if name not in types:
            raise InvalidArguments(f"view {view} takes no argument {name!r}", view=view, argument=name)
    members = {}
    for name, kind in types.items():  # in declared order, whatever the order of what was given
        if name in values:
            try:
                members[name] = kind.to_json(kind.from_json(values[name]))
            except (TypeError, ValueError, InvalidName) as error:
                raise InvalidArguments(f"{view}.{name}: {error}", view=view, argument=name) from None
    return members


def _window(table: str, at_most: int, values: dict[str, Any]) -> dict[str, Any]:
    for name, rows in values.items():
        if name != _LATEST:
            raise InvalidArguments(f"the window of {table} takes no argument {name!r}", view=table, argument=name)
        if type(rows) is not int or not 1 <= rows <= at_most:
            raise InvalidArguments(f"the window of {table} shows 1 to {at_most} rows", view=table, argument=name)
    return dict(values)
