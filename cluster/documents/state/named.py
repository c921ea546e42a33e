"""Values that are named: principals, members of an Enum, the options of a Literal."""

from __future__ import annotations

import enum
from typing import Any

from cluster.documents.state.forms import KeyType, Schema, StateType, check_encodable, expected
from cluster.documents.state.scalars import JSON_INT_MAX, IntType, StrType
from cluster.errors import InvalidName
from cluster.ids import AGENT_BYTES_MAX, Principal


class PrincipalType(KeyType):
    """Who acts: `agent@authority` in plain form and in JSON."""

    __slots__ = ()
    plain_is_json = True

    def admit(self, value: Any, depth: int = 0) -> Principal:
        if type(value) is not Principal:
            raise expected("Principal", value)
        agent, authority = value.agent, value.authority
        if type(agent) is not str or type(authority) is not str or "@" in authority:
            raise ValueError("a principal is an agent and an authority, and the authority has no @")
        self._check(f"{agent}@{authority}", agent, authority)
        return value

    @staticmethod
    def _check(text: str, agent: str, authority: str) -> None:
        """As Principal.parse does, without the parts that plain ASCII does not need."""
        if agent and authority and len(text) <= AGENT_BYTES_MAX and text.isascii() and text.isprintable():
            return
        try:
            Principal.parse(text)
        except InvalidName as error:
            raise ValueError(error.message) from None

    def to_plain(self, value: Any) -> str:
        return f"{value.agent}@{value.authority}"

    def from_plain(self, plain: Any) -> Principal:
        if type(plain) is not str:
            raise expected("a principal as agent@authority", plain)
        agent, _, authority = plain.rpartition("@")
        self._check(plain, agent, authority)
        return Principal(agent, authority)

    def wire_key(self, plain: Any) -> str:
        return plain  # type: ignore[no-any-return]

    def from_json(self, value: Any, depth: int = 0) -> Principal:
        return self.from_plain(value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": "^.+@[^@]+$"}

    def size(self, value: Any) -> int:
        return len(value.agent) + len(value.authority) + 6


class EnumType(KeyType):
    """Members of one Enum, by value, which is str throughout or int throughout."""

    __slots__ = ("_members", "_of", "_text")
    plain_is_json = True

    def __init__(self, of: type[enum.Enum]) -> None:
        super().__init__(of.__name__)
        self._of = of
        values = [member.value for member in of]
        if not values:
            raise TypeError(f"{of.__name__} has no members")
        plain_types = {str if isinstance(value, str) else int if type(value) is int else object for value in values}
        if len(plain_types) != 1 or object in plain_types:
            raise TypeError(f"the values of {of.__name__} must all be str or all be int")
        self._text = plain_types == {str}
        self._members = {self._key(value): member for value, member in zip(values, of, strict=True)}
        for value in self._members:
            if isinstance(value, str):
                check_encodable(value)
            elif not -JSON_INT_MAX <= value <= JSON_INT_MAX:
                raise TypeError(f"the values of {of.__name__} must be within 2**53 - 1 either way")

    def _key(self, value: Any) -> str | int:
        return str.__str__(value) if self._text else int.__int__(value)

    def admit(self, value: Any, depth: int = 0) -> enum.Enum:
        if not isinstance(value, self._of):
            raise expected(self.name, value)
        if self._members.get(self._key(value.value)) is not value:
            raise ValueError(f"expected a declared member of {self.name}")
        return value

    def to_plain(self, value: Any) -> str | int:
        return self._key(value.value)

    def from_plain(self, plain: Any) -> enum.Enum:
        if type(plain) is not (str if self._text else int) or plain not in self._members:
            raise ValueError(f"expected one of {', '.join(map(repr, self._members))}")
        return self._members[plain]

    def from_json(self, value: Any, depth: int = 0) -> enum.Enum:
        return self.from_plain(value)

    def from_wire_key(self, name: str) -> enum.Enum:
        return self.from_plain(name if self._text else IntType("int").from_json(name))

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"enum": list(self._members)}

    def name_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"enum": list(map(str, self._members))}

    def size(self, value: Any) -> int:
        return len(value.value) + 5 if self._text else 9


class LiteralType(StateType):
    """One of the listed str, int or bool values."""

    __slots__ = ("_options",)
    plain_is_value = True

    def __init__(self, options: tuple[Any, ...]) -> None:
        super().__init__(f"Literal[{', '.join(map(repr, options))}]")
        for option in options:
            if type(option) not in (str, int, bool):
                raise TypeError(f"a Literal may list str, int and bool, not {option!r}")
            if type(option) is not bool:
                (StrType("str") if type(option) is str else IntType("int")).admit(option)
        self._options = {(type(option), option): option for option in options}

    def admit(self, value: Any, depth: int = 0) -> str | int | bool:
        if isinstance(value, str | int) and (type(value), value) in self._options:
            return value
        raise ValueError(f"expected one of {', '.join(repr(option) for option in self._options.values())}")

    def plain_to_json(self, plain: Any) -> Any:
        return str(plain) if type(plain) is int and not -JSON_INT_MAX <= plain <= JSON_INT_MAX else plain

    def from_json(self, value: Any, depth: int = 0) -> str | int | bool:
        for option in self._options.values():
            if type(value) is type(self.plain_to_json(option)) and value == self.plain_to_json(option):
                return option  # type: ignore[no-any-return]
        return self.admit(value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"enum": [self.plain_to_json(option) for option in self._options.values()]}

    def size(self, value: Any) -> int:
        return len(value) + 5 if type(value) is str else 9
