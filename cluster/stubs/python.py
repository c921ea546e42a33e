"""A document type as a Python module: a class whose methods are its channels, typed records and views, and its refusals.

Invariant: what is generated passes mypy in strict mode, whatever the names that an author has chosen.
"""

from __future__ import annotations

import json
import keyword
from typing import Final

from cluster.stubs.names import (
    Enums,
    Names,
    Schema,
    always_present,
    by_connection,
    is_blob,
    is_integer,
    is_integer_text,
    optional,
)

FORMATS: Final = {"date-time": "datetime", "duration": "timedelta", "uuid": "UUID", "decimal": "Decimal"}
USED: Final = (
    "annotations", "Any", "Literal", "NamedTuple", "NotRequired", "TypeAlias", "TypedDict", "datetime", "timedelta", "Decimal",
    "UUID", "Blob", "BlobReference", "Handle", "TypedWatch", "Position", "Final", "REFUSALS", "Exception", "super", "type",
    "tuple", "int", "str", "bool", "float", "bytes", "list", "dict", *keyword.kwlist,
)  # fmt: skip
"""Names that mean something in a generated module."""
METHODS: Final = (
    "blob",
    "document",
    "create",
    "read",
    "watch",
    "events",
    "delete",
    "view_type",
    "result_types",
    "event_types",
    "answer_types",
)
"""Members of every handle; a channel of one of these names gets an underscore."""
WIDTH: Final = 120


def python_stub(schema: Schema, space: str) -> str:
    """The module for a space of this schema."""
    return _Writer(schema, space).text()


class _Writer:
    def __init__(self, schema: Schema, space: str) -> None:
        self.schema = schema
        self.space = space
        self.names = Names(USED)
        self.handle = self.names.take(schema["document"])
        self.view = self.names.take(f"{schema['document']}View")
        self.records = {name: self.names.take(name) for name in schema["$defs"]}
        self.refusals = {name: self.names.take(name) for name in schema["refusals"]}
        self.events = {name: self.names.take(f"{name}Event") for name in schema["events"]}
        self.event = self.names.take(f"{schema['document']}Event") if self.events else ""
        self.enums = Enums(self.names)
        self.windows: list[str] = []
        self.uses: set[str] = set()
        self.sending = False
        """Whether what is written is a parameter: a blob with its bytes."""

    def text(self) -> str:
        records = [part for name, definition in self.schema["$defs"].items() for part in self._record(name, definition)]
        refusals = [part for name, refusal in self.schema["refusals"].items() for part in self._refusal(name, refusal)]
        view = self._typed_dict(self.view, self._view_members(), f"What one viewer sees of {self.handle}.")
        handle = self._handle()
        names = list(self.refusals.values())
        listed = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
        events = self._events()
        every = [*self._enums(), *records, *self.windows, *view, *refusals, *events]
        every += ["", *([""] if names else []), f"REFUSALS: Final[tuple[type[Exception], ...]] = {listed}"]
        every += ['"""For `connect(refusals=REFUSALS)`."""', ""]
        return "\n".join([*self._head(), *every, *handle]) + "\n"

    def _head(self) -> list[str]:
        lines = [
            f'"""Typed client of the space {self.space}: generated from its schema, version {self.schema["version"]}. '
            'Generate it anew instead of editing it."""',
            "",
            "from __future__ import annotations",
            "",
        ]
        moments = [name for name in ("datetime", "timedelta") if name in self.uses]
        lines += [f"from datetime import {', '.join(moments)}"] if moments else []
        lines += ["from decimal import Decimal"] if "Decimal" in self.uses else []
        used = (name for name in ("Any", "Literal", "NamedTuple", "NotRequired", "TypeAlias") if name in self.uses)
        typing = ["Final", *used, "TypedDict"]
        lines.append(f"from typing import {', '.join(sorted(typing, key=str.casefold))}")
        lines += ["from uuid import UUID"] if "UUID" in self.uses else []
        blobs = [name for name in ("Blob", "BlobReference") if name in self.uses]
        lines += ["", f"from cluster.client import {', '.join([*blobs, 'Handle', *(['TypedWatch'] if self.events else [])])}"]
        return [*lines, *(["from cluster.ids import Position"] if self.events else [])]

    def _enums(self) -> list[str]:
        lines = []
        for name, values in self.enums.values():
            lines += ["", f"{name} = Literal[{', '.join(map(_literal, values))}]"]
        return lines

    # types

    def _type(self, schema: Schema, member: str) -> str:
        """The annotation of a value. member: what it is a part of, to name sets of values by."""
        inner = optional(schema)
        if inner is not None:
            return f"{self._type(inner, member)} | None"
        if "$ref" in schema:
            return self.records[schema["$ref"].rpartition("/")[2]]
        if "enum" in schema:
            self.uses.add("Literal")
            return self.enums.name_of(schema["enum"], member)
        if is_integer(schema):
            return "int"
        kind = schema.get("type")
        if kind == "array":
            return f"list[{self._type(schema.get('items', {}), member)}]"
        if is_blob(schema):
            return self._used("Blob" if self.sending else "BlobReference")
        if kind == "object":
            return self._object(schema, member)
        if kind == "string":
            return self._string(schema)
        scalar = {"null": "None", "boolean": "bool", "number": "float"}.get(str(kind))
        return scalar or self._used("Any")

    def _string(self, schema: Schema) -> str:
        if schema.get("contentEncoding") == "base64":
            return "bytes"
        known = FORMATS.get(schema.get("format", ""))
        return self._used(known) if known else "str"

    def _object(self, schema: Schema, member: str) -> str:
        if "properties" not in schema:
            key = schema.get("propertyNames", {})
            name = "int" if is_integer_text(key) else self._type(key, f"{member}_key") if "enum" in key else "str"
            return f"dict[{name}, {self._type(schema['additionalProperties'], member)}]"
        window = self.names.take(f"{self.handle}{member[:1].upper()}{member[1:]}Window")
        members = {name: (self._type(each, member), True) for name, each in schema["properties"].items()}
        self.windows += self._typed_dict(window, members, "The rows that are shown, and how many there are.")
        return window

    def _sent_type(self, schema: Schema, member: str) -> str:
        """The annotation of a parameter."""
        self.sending = True
        kind = self._type(schema, member)
        self.sending = False
        return kind

    def _used(self, name: str) -> str:
        self.uses.add(name)
        return name

    # declarations

    def _typed_dict(self, name: str, members: dict[str, tuple[str, bool]], description: str) -> list[str]:
        """members: their types, and whether each is always there."""
        if not all(required for _, required in members.values()):
            self.uses.add("NotRequired")
        types = {each: kind if required else f"NotRequired[{kind}]" for each, (kind, required) in members.items()}
        hiding = [each for each in members if each in USED or each.startswith("__") or each in self.records.values()]
        if hiding:  # in a class body these names would hide the types of the members behind them
            parts = "".join(f"\n    {_literal(each)}: {_literal(kind)}," for each, kind in types.items())
            return ["", "", f"{name} = TypedDict({_literal(name)}, {{{parts}\n}})", _docstring(description, 0)]
        return ["", "", f"class {name}(TypedDict):", _docstring(description), *self._members(types)]

    def _members(self, types: dict[str, str]) -> list[str]:
        return ["", *(f"    {name}: {kind}" for name, kind in types.items())] if types else []

    def _record(self, name: str, definition: Schema) -> list[str]:
        members = {
            each: (self._type(kind, each), always_present(definition, each)) for each, kind in definition["properties"].items()
        }
        return self._typed_dict(self.records[name], members, f"A record of {self.handle}.")

    def _view_members(self) -> dict[str, tuple[str, bool]]:
        members = {name: (self._type(kind, name), kind["visible"] == "public") for name, kind in self.schema["fields"].items()}
        for name, kind in self.schema["views"].items():
            members[name] = (self._type(kind, name), False)  # a view that fails is absent
        for name, kind in self.schema["presence"].items():
            members[name] = (self._type(by_connection(kind), name), False)  # a read is of the state alone
        return members

    def _events(self) -> list[str]:
        """A type for each event, told apart by its name, and one for all."""
        if not self.events:
            return []
        self.uses |= {"Literal", "NamedTuple", "TypeAlias"}
        lines = []
        for name, schema in self.schema["events"].items():
            lines += ["", "", f"class {self.events[name]}(NamedTuple):", _docstring(f"{name} was emitted."), ""]
            lines += [
                f"    name: Literal[{_literal(name)}]",
                f"    value: {self._type(schema, name)}",
                "    position: Position",
            ]
        return [*lines, "", "", f"{self.event}: TypeAlias = {' | '.join(self.events.values())}"]

    def _refusal(self, name: str, refusal: Schema) -> list[str]:
        lines = ["", "", f"class {self.refusals[name]}(Exception):", _docstring(refusal["description"] or name)]
        given = refusal["arguments"].get("prefixItems")
        if not given:
            return lines
        required = refusal["arguments"].get("minItems", 0)
        names = Names(("self", *USED))
        members = [(names.take(one["title"]), self._type(one, one["title"])) for one in given]
        parameters = [
            f"{each}: {kind}" if place < required else f"{each}: {kind} | None = None"
            for place, (each, kind) in enumerate(members)
        ]
        lines += ["", *_signature("__init__", ["self", *parameters], "None", "    ", "def")]
        lines.append(f"        super().__init__({', '.join(each for each, _ in members)})")
        return lines + [f"        self.{each} = {each}" for each, _ in members if each != "args"]

    def _handle(self) -> list[str]:
        text = self.schema["description"] or f"A {self.schema['document']}."
        lines = ["", f"class {self.handle}(Handle[{self.view}]):", _docstring(text), ""]
        channels = {"": self.schema["construct"], **self.schema["channels"]}
        results = {name: self._type(each["result"], name or "created") for name, each in channels.items()}
        answers = {name: self._type(each["result"], name) for name, each in self.schema["answers"].items()}
        pairs = ", ".join(f"{_literal(name)}: {kind}" for name, kind in results.items() if kind != "None")
        lines += [f"    view_type = {self.view}", *([f"    result_types = {{{pairs}}}"] if pairs else [])]
        pairs = ", ".join(f"{_literal(name)}: {kind}" for name, kind in answers.items() if kind != "None")
        lines += [f"    answer_types = {{{pairs}}}"] if pairs else []
        if self.events:
            kinds = {name: self._type(schema, name) for name, schema in self.schema["events"].items()}
            known = ", ".join(f"{_literal(name)}: ({self.events[name]}, {kind})" for name, kind in kinds.items())
            lines += [f"    event_types = {{{known}}}", ""]
            lines += _signature("events", ["self", f"watch: TypedWatch[{self.view}]"], f"list[{self.event}]", "    ", "def")
            lines += [_docstring("What was emitted with the last step of a watch.", 8), "        return self._events(watch)"]
        lines += self._method("create", "", self.schema["construct"], "_create")
        methods = Names((*METHODS, *USED, *self.records.values(), *(name for name, _ in self.enums.values())))
        for channel, description in self.schema["channels"].items():
            name = f"{channel}_" if channel in METHODS or channel in keyword.kwlist else channel
            lines += self._method(methods.take(name), channel, description, "_send")
        for handler, description in self.schema["answers"].items():
            lines += self._answer(methods.take(f"answer_{handler}"), handler, description)
        return lines

    def _answer(self, name: str, handler: str, description: Schema) -> list[str]:
        """A worker's or a person's answer to an ask that this handler takes."""
        ((given, schema),) = description["parameters"]["properties"].items()
        given = Names(("self", "ask", "answer")).take(given)
        result = self._type(description["result"], handler)
        lines = [
            "",
            *_signature(
                name, ["self", "ask: str", "*", f"{given}: {self._sent_type(schema, given)}"], result, "    ", "async def"
            ),
        ]
        text = description.get("description") or f"Answer an ask whose answer `{handler}` takes. ask: its id."
        lines += [_docstring(text, 8)]
        call = f"await self._answer(ask, {_literal(handler)}, {given})"
        if result == "None":
            return [*lines, f"        {call}"]
        return [*lines, f"        answer: {result} = {call}", "        return answer"]

    def _method(self, name: str, channel: str, description: Schema, how: str) -> list[str]:
        parameters, required = description["parameters"]["properties"], set(description["parameters"]["required"])
        result = self._type(description["result"], channel or "created")
        ordered = sorted(parameters, key=lambda each: each not in required)
        given = [self._parameter(each, parameters[each], each in required) for each in ordered]
        lines = ["", *_signature(name, ["self", *(["*"] if given else []), *given], result, "    ", "async def")]
        lines += [_docstring(description["description"], 8)] if description.get("description") else []
        pairs = ", ".join(f"{_literal(each)}: {each}" for each in ordered)
        arguments = [_literal(channel)] if channel else []
        omitted = ", ".join(_literal(each) for each in ordered if each not in required and _left_out(parameters[each]))
        arguments += [f"{{{pairs}}}"] if pairs else ["{}"]
        arguments += [f"omitted=({omitted},)"] if omitted else []
        if result == "None":
            return [*lines, f"        await self.{how}({', '.join(arguments)})"]
        answer = Names(ordered).take("answer")
        return [*lines, f"        {answer}: {result} = await self.{how}({', '.join(arguments)})", f"        return {answer}"]

    def _parameter(self, name: str, schema: Schema, required: bool) -> str:
        kind = self._sent_type(schema, name)
        if required:
            return f"{name}: {kind}"
        if _left_out(schema):
            return f"{name}: {kind if kind.endswith(' | None') else f'{kind} | None'} = None"
        return f"{name}: {kind} = {_literal(schema['default'])}"


def _literal(value: object) -> str:
    """A string, number or bool as Python source."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _left_out(schema: Schema) -> bool:
    """Whether None means the author's default, so that the parameter is then not sent at all."""
    return optional(schema) is None or schema.get("default") is None or not isinstance(schema["default"], str | int | float)


def _signature(name: str, parameters: list[str], result: str, indent: str, how: str) -> list[str]:
    line = f"{indent}{how} {name}({', '.join(parameters)}) -> {result}:"
    if len(line) <= WIDTH:
        return [line]
    return [f"{indent}{how} {name}(", *(f"{indent}    {each}," for each in parameters), f"{indent}) -> {result}:"]


def _docstring(text: str, indent: int = 4) -> str:
    """An author's words as a docstring: they can not end it."""
    lines = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').strip().splitlines() or [""]
    if lines[-1].endswith('"'):
        lines[-1] = lines[-1][:-1] + '\\"'
    margin = " " * indent
    body = f"\n{margin}".join(line.rstrip() for line in lines)
    body = "\n".join(line.rstrip() for line in body.split("\n"))
    return f'{margin}"""{body}"""' if len(lines) == 1 else f'{margin}"""{body}\n{margin}"""'
