"""What types of named members share: records, and the author's own frozen classes. In JSON each is an object.

Invariant: a class has one definition in a schema, whatever refers to it; classes of one name are told apart by a number.
"""

from __future__ import annotations

from typing import Any

from cluster.documents.state.forms import Schema, StateType, expected
from cluster.documents.state.node import check_depth


class MembersType(StateType):
    """fields: types by name, in declared order. defaults: of those that have one."""

    __slots__ = ("_schema", "defaults", "fields")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.fields: dict[str, StateType] = {}
        self.defaults: dict[str, Any] = {}
        self._schema: Schema | None = None

    def check_members(self, value: Any, depth: int) -> None:
        """Raise TypeError or ValueError unless decoded JSON is an object of declared members; some may be missing."""
        check_depth(depth)
        if type(value) is not dict:
            raise expected(f"an object ({self.name})", value)
        for name in value:
            if name not in self.fields:
                raise ValueError(f"{self.name} has no field {name!r}")

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        name, number = self.name, 1
        while (found := definitions.get(name)) is not None and found is not self._schema:  # another class of this name
            number += 1
            name = f"{self.name}{number}"
        if found is None:
            schema: Schema = {"type": "object", "additionalProperties": False}
            definitions[name] = self._schema = schema  # before the fields: a class may contain itself
            schema["properties"] = {each: self._property(each, definitions) for each in self.fields}
            schema["required"] = [each for each in self.fields if each not in self.defaults]
        return {"$ref": f"#/$defs/{name}"}

    def _property(self, name: str, definitions: dict[str, Schema]) -> Schema:
        field_type = self.fields[name]
        schema = field_type.json_schema(definitions)
        if name in self.defaults:
            schema["default"] = field_type.to_json(field_type.admit(self.defaults[name]))
        return schema
