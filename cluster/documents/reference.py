"""Every name that an author can import, with what it takes and means, as the code says it.

`page()` is docs/authoring/reference.md; a test compares the two, so that a name without a word of explanation is found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

from cluster.documents.facades import AUTHOR_NAMES, NAMES
from cluster.documents.library import BUILTIN_NAMES
from cluster.documents.state.fields import ABSENT

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Classes that authors derive from": ("Document", "Record", "Event", "Refused"),
    "Declarations": ("field", "on", "read", "anyone", "latest"),
    "What handlers are given": ("Command", "Random", "Maybe", "Before", "Request", "Principal"),
    "State": ("Table", "Text", "OrderedSet", "Tally", "Blob", "Presence", "StaleEdit"),
    "What HTTP handlers answer": ("Response", "BadRequest"),
}
_RECEIVERS: Final[dict[str, str]] = {
    "Command": "ctx", "Random": "ctx.random", "Maybe": "value", "Table": "table", "Text": "text", "OrderedSet": "set",
    "Tally": "tally", "Principal": "Principal", "Request": "request",
}  # fmt: skip
"""What a member is written behind; of other names the name itself."""
_DECORATED: Final = frozenset(("F", "P", "Any", "Callable[[F], F]"))
"""Types of functions that are decorated, which say nothing to a reader."""
_SHORTER: Final = {
    "Callable[[Command, *Arguments], object]": "Callable",
    "Callable[Concatenate[Command, Maybe[Any], ...], object]": "Callable",
    "Callable[..., object]": "Callable",
    "Callable[..., bool]": "Policy",
}


def page() -> str:
    """docs/authoring/reference.md, as Markdown."""
    lines = [
        "# Reference",
        "",
        "Everything that `from cluster import ...` gives an author. Lists, dictionaries and sets of the state also have what",
        "`MutableSequence`, `MutableMapping` and `MutableSet` promise.",
        "Simulations are described in [testing.md](testing.md), clients in [clients.md](clients.md).",
    ]
    for title, names in GROUPS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", f"### {name}", "", *_described(AUTHOR_NAMES[name])]
            members = list(_members(name))
            if members:
                lines += ["", "| | |", "|---|---|", *members]
    lines += ["", "## Other modules", "", "A bundle may import its own modules and, of Python's library, these names:", ""]
    lines += [
        f"- `{module}`: {', '.join(f'`{name}`' for name in names) or 'for annotations'}"
        for module, names in NAMES.items()
        if module != "cluster"
    ]
    lines += ["", f"Of Python's built-in names: {', '.join(f'`{name}`' for name in sorted(BUILTIN_NAMES) if name[0] != '_')}."]
    return "\n".join(lines) + "\n"


def _described(value: object) -> list[str]:
    """An object's own docstring, a paragraph for each of its own."""
    text = inspect.getdoc(value)
    assert text, f"{value!r} has no docstring"
    return [line.strip() for line in text.split("\n")]


def _members(name: str) -> Iterator[str]:
    """Rows of a table, one for each public member that the class itself defines and explains."""
    value = AUTHOR_NAMES[name]
    kind = value if inspect.isclass(value) else type(value)
    if inspect.isfunction(value):
        return
    receiver = _RECEIVERS.get(name, name)
    for member, defined in sorted(vars(kind).items()):
        function = _function(defined)
        if member.startswith("_") or function is None:
            continue
        text = " ".join((function.__doc__ or "").split())
        assert text, f"{name}.{member} has no docstring"
        call = "" if isinstance(defined, property) else _signature(function)
        yield f"| `{receiver}.{member}{call}` | {text} |".replace("||", "\\|\\|")


def _function(defined: object) -> Callable[..., Any] | None:
    if isinstance(defined, property):
        return defined.fget
    if isinstance(defined, staticmethod | classmethod):
        return defined.__func__
    return defined if inspect.isfunction(defined) else None


def _signature(function: Callable[..., Any]) -> str:
    """Parameters as a caller writes them: without self, and without what only a type checker needs."""
    signature = inspect.signature(function)
    shown = []
    keyword_only = False
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL or (parameter.kind is parameter.KEYWORD_ONLY and keyword_only):
            keyword_only = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keyword_only = True
            shown.append("*")
        shown.append(_parameter(parameter))
    result = str(signature.return_annotation)
    returns = "" if result in _DECORATED else f" -> {result}"
    return f"({', '.join(shown)}){returns}".replace("|", "\\|")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    annotation = str(parameter.annotation)
    for long, short in _SHORTER.items():
        annotation = annotation.replace(long, short)
    kind = "" if annotation in _DECORATED or stars else f": {annotation}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{kind}"
    return f"{parameter.name}{kind} = {'...' if parameter.default is ABSENT else repr(parameter.default)}"


if __name__ == "__main__":
    print(page(), end="")
