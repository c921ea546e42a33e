"""A document type as a TypeScript module: types of views, messages and refusals, and a wrapper over any way to send.

Only types and one function that binds a transport: no package is needed. Types are those of the JSON on the wire.
"""

from __future__ import annotations

import json
import re
from typing import Final

from cluster.stubs.names import Enums, Names, Schema, always_present, by_connection, is_blob, is_integer, optional, sent_records

USED: Final = (
    "Int", "BlobReference", "NewBlob", "Transport", "Promise", "Record", "Array", "Partial", "Readonly", "Error", "string",
    "number", "boolean", "null", "undefined", "unknown", "any", "never", "void", "object", "bigint", "symbol",
)  # fmt: skip
OWN_METHODS: Final = ("create", "read", "delete")
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")

BLOBS: Final = """\
/** What is seen of a file: SHA-256 of its bytes in hexadecimal, their number, and what they are. */
export interface BlobReference { hash: string; size: number; media_type: string }

/** A file as it is sent: its bytes in base64. */
export interface NewBlob { data: string; media_type?: string }"""

TRANSPORT: Final = """\
/** A way to reach one document: bodies are JSON. What it throws for a refusal is up to it. */
export interface Transport {
  create(body: string): Promise<string>;
  send(channel: string, body: string): Promise<string>;
  read(): Promise<string>;
  delete(): Promise<void>;
}"""


def typescript_stub(schema: Schema, space: str) -> str:
    """The module for a space of this schema."""
    return _Writer(schema, space).text()


class _Writer:
    def __init__(self, schema: Schema, space: str) -> None:
        self.schema = schema
        self.space = space
        names = Names(USED)
        document = schema["document"]
        self.document = names.take(document)
        self.view = names.take(f"{document}View")
        self.messages = names.take(f"{document}Messages")
        self.refusals = names.take(f"{document}Refusals")
        self.events = names.take(f"{document}Events")
        self.answers = names.take(f"{document}Answers")
        self.bind = names.take(f"bind{document}")
        self.records = {name: names.take(name) for name in schema["$defs"]}
        self.enums = Enums(names)
        self.sent_records = sent_records(schema)
        self.blob = "BlobReference"
        """What a blob is called in what is written now."""
        self.has_blobs = False

    def text(self) -> str:
        records = [line for name, definition in self.schema["$defs"].items() for line in self._record(name, definition)]
        parts = [
            *records,
            *self._view(),
            *self._messages(),
            *self._refusals(),
            *self._passing(),
            *self._document(),
            *self._binding(),
        ]
        version = self.schema["version"]
        head = [
            f"// Typed client of the space {self.space}: generated from its schema, version {version}.",
            "// Generate it anew instead of editing it.",
            "",
            "/** An integer of 64 bits: a number, or its digits beyond 2^53. */",
            "export type Int = number | string;",
        ]
        for name, values in self.enums.values():
            head += ["", f"export type {name} = {' | '.join(json.dumps(value) for value in values)};"]
        return "\n".join([*head, "", *([BLOBS, ""] if self.has_blobs else []), TRANSPORT, *parts]) + "\n"

    def _type(self, schema: Schema, member: str) -> str:
        inner = optional(schema)
        if inner is not None:
            return f"{self._type(inner, member)} | null"
        if "$ref" in schema:
            return self.records[schema["$ref"].rpartition("/")[2]]
        if "enum" in schema:
            return self.enums.name_of(schema["enum"], member)
        if is_integer(schema):
            return "Int"
        if is_blob(schema):
            self.has_blobs = True
            return self.blob
        kind = schema.get("type")
        if kind == "array":
            return f"Array<{self._type(schema.get('items', {}), member)}>"
        if kind == "object" and "properties" in schema:
            members = (f"{_key(name)}: {self._type(each, member)}" for name, each in schema["properties"].items())
            return f"{{ {'; '.join(members)} }}"
        if kind == "object":
            return f"Record<string, {self._type(schema['additionalProperties'], member)}>"
        scalars = {"null": "null", "boolean": "boolean", "number": "number", "string": "string"}
        return scalars.get(str(kind), "unknown")

    def _record(self, name: str, definition: Schema) -> list[str]:
        lines = ["", f"export interface {self.records[name]} {{"]
        self.blob = "BlobReference | NewBlob" if name in self.sent_records else "BlobReference"
        for each, kind in definition["properties"].items():
            mark = "" if always_present(definition, each) else "?"
            lines.append(f"  {_key(each)}{mark}: {self._type(kind, each)};")
        self.blob = "BlobReference"
        return [*lines, "}"]

    def _view(self) -> list[str]:
        lines = ["", f"/** What one viewer sees of {self.document}. */", f"export interface {self.view} {{"]
        for name, kind in self.schema["fields"].items():
            mark = "" if kind["visible"] == "public" else "?"
            lines.append(f"  {_key(name)}{mark}: {self._type(kind, name)};")
        for name, kind in self.schema["views"].items():
            lines += [*_comment(kind.get("description", ""), "  "), f"  {_key(name)}?: {self._type(kind, name)};"]
        for name, kind in self.schema["presence"].items():
            lines.append(f"  {_key(name)}?: {self._type(by_connection(kind), name)};")
        return [*lines, "}"]

    def _messages(self) -> list[str]:
        lines = ["", f"/** What each channel of {self.document} takes and answers. */", f"export interface {self.messages} {{"]
        for channel, description in self.schema["channels"].items():
            result = self._type(description["result"], channel)
            lines.append(f"  {channel}: {{ parameters: {self._parameters(description)}; result: {result} }};")
        return [*lines, "}"]

    def _parameters(self, description: Schema) -> str:
        parameters = description["parameters"]
        self.blob = "NewBlob"
        members = [
            f"{_key(name)}{'' if name in parameters['required'] else '?'}: {self._type(kind, name)}"
            for name, kind in parameters["properties"].items()
        ]
        self.blob = "BlobReference"
        return f"{{ {'; '.join(members)} }}" if members else "Record<string, never>"

    def _refusals(self) -> list[str]:
        lines = ["", "/** The arguments of each declared refusal. */", f"export interface {self.refusals} {{"]
        for name, refusal in self.schema["refusals"].items():
            items = refusal["arguments"].get("prefixItems")
            kind = "unknown[]" if items is None else f"[{', '.join(self._type(one, one['title']) for one in items)}]"
            lines += [*_comment(refusal["description"], "  "), f"  {_key(name)}: {kind};"]
        return [*lines, "}"]

    def _passing(self) -> list[str]:
        """What is emitted, and what workers answer, where a class has it."""
        lines = []
        if events := self.schema["events"]:
            lines += ["", f"/** What {self.document} emits, by name. */", f"export interface {self.events} {{"]
            lines += [*(f"  {_key(name)}: {self._type(kind, name)};" for name, kind in events.items()), "}"]
        if answers := self.schema["answers"]:
            lines += ["", "/** What each handler of answers takes from a worker, and answers it. */"]
            lines.append(f"export interface {self.answers} {{")
            for handler, description in answers.items():
                (value,) = description["parameters"]["properties"].values()
                result = self._type(description["result"], handler)
                self.blob = "NewBlob"
                lines.append(f"  {_key(handler)}: {{ value: {self._type(value, handler)}; result: {result} }};")
                self.blob = "BlobReference"
            lines.append("}")
        return lines

    def _document(self) -> list[str]:
        lines = ["", *_comment(self.schema["description"], ""), f"export interface {self.document} {{"]
        lines.append(f"  create({self._given(self.schema['construct'])}): Promise<void>;")
        lines.append(f"  read(): Promise<{self.view}>;")
        lines.append("  delete(): Promise<void>;")
        for channel, description in self.schema["channels"].items():
            lines += _comment(description.get("description", ""), "  ")
            lines.append(f'  {_method(channel)}({self._given(description)}): Promise<{self.messages}["{channel}"]["result"]>;')
        return [*lines, "}"]

    def _given(self, description: Schema) -> str:
        if not description["parameters"]["properties"]:
            return ""
        mark = "" if description["parameters"]["required"] else "?"
        return f"parameters{mark}: {self._parameters(description)}"

    def _binding(self) -> list[str]:
        lines = ["", f"/** {self.document} over a transport. */"]
        lines.append(f"export function {self.bind}(transport: Transport): {self.document} {{")
        lines.append("  const sent = async <T>(channel: string, parameters: object): Promise<T> =>")
        lines.append('    JSON.parse((await transport.send(channel, JSON.stringify(parameters))) || "null") as T;')
        lines.append("  return {")
        given = "parameters" if self.schema["construct"]["parameters"]["properties"] else ""
        body = "parameters ?? {}" if given else "{}"
        lines.append(f"    create: async ({given}) => void (await transport.create(JSON.stringify({body}))),")
        lines.append(f"    read: async () => JSON.parse(await transport.read()) as {self.view},")
        lines.append("    delete: () => transport.delete(),")
        for channel, description in self.schema["channels"].items():
            given = "parameters" if description["parameters"]["properties"] else ""
            body = "parameters ?? {}" if given else "{}"
            lines.append(f'    {_method(channel)}: ({given}) => sent("{channel}", {body}),')
        return [*lines, "  };", "}"]


def _method(channel: str) -> str:
    return f"{channel}_" if channel in OWN_METHODS else channel


def _key(name: str) -> str:
    return name if _PLAIN.match(name) else json.dumps(name)


def _comment(text: str, indent: str) -> list[str]:
    """An author's words as a comment: they can not end it."""
    lines = text.replace("*/", "* /").strip().splitlines()
    if not lines:
        return []
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */"]
