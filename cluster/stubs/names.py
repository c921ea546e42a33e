"""What both generators need to know of a schema: which types are told apart, and which names are still free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]


class Names:
    """Gives away names of one scope, each once. taken: what the language and the generated file use already."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        """`wanted`, or with the first number that makes it free."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}{number}"
        self._taken.add(name)
        return name


def pascal(name: str) -> str:
    """`last_move` as a type is called: `LastMove`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_") if part) or "Value"


def optional(schema: Schema) -> Schema | None:
    """What else a type is that may be null; None for one that may not."""
    options = schema.get("anyOf", ())
    if len(options) == 2 and options[1] == {"type": "null"}:
        inner: Schema = options[0]
        return inner
    return None


def is_integer(schema: Schema) -> bool:
    """Whether it is a number of 64 bits: in JSON a number, or text where that would lose digits."""
    return schema.get("type") == "integer" or any(each.get("type") == "integer" for each in schema.get("anyOf", ()))


def is_integer_text(schema: Schema) -> bool:
    """Whether it is the text form of an integer: how integers name the members of an object."""
    return str(schema.get("pattern", "")).startswith("^-?(0|[1-9]")


def is_blob(schema: Schema) -> bool:
    """Whether it is a file: what is sent has its bytes, what is shown its hash."""
    return schema.get("format") == "blob"


def sent_records(schema: Schema) -> set[str]:
    """Names of the definitions that parameters are made of."""
    found: set[str] = set()
    handlers = [schema["construct"], *schema["channels"].values(), *schema["answers"].values()]
    pending: list[Any] = [handler["parameters"] for handler in handlers]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                pending.append(schema["$defs"][name])
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return found


def always_present(schema: Schema, name: str) -> bool:
    """Whether a member of a record is in every value of it."""
    return name in schema.get("required", ()) and "visible" not in schema["properties"][name]


class Enums:
    """Sets of values, each named after the member that was met first with it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.found: dict[tuple[tuple[type, object], ...], str] = {}

    def name_of(self, values: list[Any], member: str) -> str:
        """The name of this set of values."""
        key = tuple((type(value), value) for value in values)
        if key not in self.found:
            self.found[key] = self._names.take(pascal(member))
        return self.found[key]

    def values(self) -> Iterable[tuple[str, list[Any]]]:
        """(name, values) in the order in which they were met."""
        return [(name, [value for _, value in key]) for key, name in self.found.items()]


def by_connection(value: Schema) -> Schema:
    """What connections show each other in a view: the value of each, by its name."""
    shown = {name: part for name, part in value.items() if name != "visible"}
    return {"type": "object", "additionalProperties": shown}
