"""Types of immutable values: numbers, text, moments, names. And StateType, what every declared type can do.

A value has three forms. The author's form is what handlers hold. The plain form is what `dump` writes: msgpack-safe, exact.
The JSON form is what clients see and send. Every type converts author -> plain -> JSON and back, and checks on the way in.

Invariant: `from_plain(to_plain(v)) == v` and `from_json(to_json(v)) == v` for every admitted v, and equal bytes follow from
equal values on every supported Python. Nothing here depends on the interpreter's decimal context, locale or clock.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import enum
import math
import re
import uuid
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cluster.errors import InvalidName
from cluster.ids import AGENT_BYTES_MAX, Principal

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
JSON_INT_MAX = 2**53 - 1
DECIMAL_DIGITS_MAX = 34
DECIMAL_EXPONENT_MAX = 6144

Schema = dict[str, Any]

_decimals = decimal.Context(
    prec=DECIMAL_DIGITS_MAX,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-6143,
    Emax=DECIMAL_EXPONENT_MAX,
    capitals=1,
    clamp=0,
    traps=[],
)
_encode = msgspec.msgpack.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?([eE][+-]?[0-9]{1,5})?\Z", re.ASCII)
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,3}))?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_DURATION = re.compile(r"(-?)P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,14})(?:\.(\d{1,6}))?S)?)?\Z", re.ASCII)


def expected(what: str, value: object) -> TypeError:
    """The error for a value of the wrong type."""
    return TypeError(f"expected {what}, got {type(value).__name__}")


def located(error: Exception, where: str) -> TypeError | ValueError:
    """The same complaint with the place in front. Not of the error's own class, whose constructor may want anything."""
    text = f"{where}: {error}"
    return TypeError(text) if isinstance(error, TypeError) else ValueError(text)


class StateType:
    """One declared type. leaf: its values are immutable. exact: equal values are the same value, so writing one is no change.
    fixed_size: all its values have the same size. plain_is_value, plain_is_json: these forms are one, so need no conversion.

    name: as the author would write it.
    """

    __slots__ = ("name",)

    leaf = True
    exact = True
    fixed_size = False
    plain_is_value = False
    plain_is_json = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<type {self.name}>"

    def admit(self, value: Any, depth: int = 0) -> Any:
        """Check a value and return what the state may keep: itself if immutable, else a free copy.
        Raises TypeError or ValueError; nothing is affected."""
        raise AssertionError(f"{self.name} admits nothing")

    def check(self, value: Any) -> None:
        """Raise TypeError or ValueError unless `value` could be stored."""
        self.admit(value)

    def to_plain(self, value: Any) -> Any:
        """The msgpack-safe form of an admitted value."""
        return value

    def from_plain(self, plain: Any) -> Any:
        """The value of a plain form. Raises TypeError or ValueError when it is none."""
        return self.admit(plain)

    def from_plains(self, plains: list[Any]) -> list[Any]:
        """The values of many plain forms, in the time that their number deserves."""
        return list(map(self.from_plain, plains))

    def plain_to_json(self, plain: Any) -> Any:
        """The JSON form of a plain form."""
        return plain

    def to_json(self, value: Any) -> Any:
        """The JSON form of an admitted value."""
        return self.plain_to_json(self.to_plain(value))

    def from_json(self, value: Any, depth: int = 0) -> Any:
        """The value of decoded JSON. Raises TypeError or ValueError when it is none."""
        return self.admit(value)

    def same(self, one: Any, other: Any) -> bool:
        """Whether two admitted values are shown as the same: 0.0 is not -0.0, and 1.0 is not the decimal 1.00."""
        return _encode(self.to_json(one)) == _encode(self.to_json(other))

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        """JSON Schema (2020-12) of the JSON form. Records go into `definitions`."""
        raise AssertionError(f"{self.name} has no schema")

    def size(self, value: Any) -> int:
        """The share of an admitted value in the size of the state: approximate bytes, a function of the value alone."""
        return 9

    def sizes(self, values: Collection[Any]) -> int:
        """The size of many values."""
        if self.fixed_size and values:
            return len(values) * self.size(next(iter(values)))
        return sum(map(self.size, values))


class KeyType(StateType):
    """A type whose values may be keys. The wire key is the member name in JSON and the step in paths."""

    __slots__ = ()

    def wire_key(self, plain: Any) -> str:
        """The plain form of a key as a JSON member name: distinct keys have distinct names."""
        return str(plain)

    def from_wire_key(self, name: str) -> Any:
        """The key of a JSON member name. Raises TypeError or ValueError."""
        return self.from_json(name)

    def name_schema(self, definitions: dict[str, Schema]) -> Schema:
        """JSON Schema of wire keys, empty when every string is one."""
        schema = self.json_schema(definitions)
        return {} if schema == {"type": "string"} else schema


class IntType(KeyType):
    """Integers of 64 bits. In JSON a number within 2**53-1 either way, else a decimal string; both are accepted."""

    __slots__ = ()
    plain_is_value = True
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> int:
        if type(value) is not int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise expected("int", value)
            value = int.__int__(value)
        if INT_MIN <= value <= INT_MAX:
            return value  # type: ignore[no-any-return]
        raise ValueError("integers have at most 64 bits")

    def from_plains(self, plains: list[Any]) -> list[int]:
        if set(map(type, plains)) <= {int} and plains and min(plains) >= INT_MIN and max(plains) <= INT_MAX:
            return plains
        return super().from_plains(plains)

    def plain_to_json(self, plain: Any) -> int | str:
        return plain if -JSON_INT_MAX <= plain <= JSON_INT_MAX else str(plain)

    def from_json(self, value: Any, depth: int = 0) -> int:
        if type(value) is str:
            if not _INTEGER.match(value) or value == "-0":
                raise ValueError("expected an integer or its decimal digits")
            value = int(value)
        return self.admit(value)

    def from_wire_key(self, name: str) -> int:
        return self.from_json(name)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        number = {"type": "integer", "minimum": -JSON_INT_MAX, "maximum": JSON_INT_MAX}
        return {"anyOf": [number, self.name_schema(definitions)]}

    def name_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": "^-?(0|[1-9][0-9]{0,18})$"}


class FloatType(StateType):
    """Finite floating point numbers of 64 bits. Integers are taken when they are exact."""

    __slots__ = ()
    plain_is_value = True
    plain_is_json = True
    fixed_size = True
    exact = False

    def admit(self, value: Any, depth: int = 0) -> float:
        if type(value) is not float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise expected("float", value)
            if isinstance(value, int) and not -(2**53) <= value <= 2**53:
                raise ValueError("the integer is too large for an exact float")
            value = float(int.__int__(value)) if isinstance(value, int) else float.__float__(value)
        if not math.isfinite(value):
            raise ValueError("floats must be finite")
        return value  # type: ignore[no-any-return]

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "number"}


class BoolType(StateType):
    """True or False."""

    __slots__ = ()
    plain_is_value = True
    plain_is_json = True
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> bool:
        if value is True or value is False:
            return value
        raise expected("bool", value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "boolean"}

    def size(self, value: Any) -> int:
        return 1


class StrType(KeyType):
    """Unicode text without lone surrogates."""

    __slots__ = ()
    plain_is_value = True
    plain_is_json = True

    def admit(self, value: Any, depth: int = 0) -> str:
        if type(value) is not str:
            if not isinstance(value, str):
                raise expected("str", value)
            value = str.__str__(value)
        if not value.isascii():
            check_encodable(value)
        return value  # type: ignore[no-any-return]

    def wire_key(self, plain: Any) -> str:
        return plain  # type: ignore[no-any-return]

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string"}

    def size(self, value: Any) -> int:
        return len(value) + 5


def check_encodable(text: str) -> None:
    """Raise ValueError when `text` has a lone surrogate: no UTF-8 bytes could carry it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text contains a lone surrogate") from None


class BytesType(StateType):
    """Bytes; base64 with padding in JSON."""

    __slots__ = ()
    plain_is_value = True

    def admit(self, value: Any, depth: int = 0) -> bytes:
        if type(value) is bytes:
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise expected("bytes", value)

    def plain_to_json(self, plain: Any) -> str:
        return base64.b64encode(plain).decode("ascii")

    def from_json(self, value: Any, depth: int = 0) -> bytes:
        if type(value) is not str:
            raise expected("base64 text", value)
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("expected base64 with padding") from None
        if base64.b64encode(decoded) != value.encode("ascii"):
            raise ValueError("expected canonical base64")
        return decoded

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "contentEncoding": "base64"}

    def size(self, value: Any) -> int:
        return len(value) + 5


class DecimalType(StateType):
    """Finite decimals of at most 34 digits (decimal128), a string in JSON. Trailing zeros are part of the value."""

    __slots__ = ()
    fixed_size = True
    exact = False

    def admit(self, value: Any, depth: int = 0) -> decimal.Decimal:
        if type(value) is not decimal.Decimal:
            if isinstance(value, bool) or not isinstance(value, decimal.Decimal | int):
                raise expected("Decimal", value)
            if isinstance(value, int) and not -(10**DECIMAL_DIGITS_MAX) < value < 10**DECIMAL_DIGITS_MAX:
                raise ValueError(f"decimals have at most {DECIMAL_DIGITS_MAX} digits")
            value = decimal.Decimal(value)
        if not value.is_finite():
            raise ValueError("decimals must be finite")
        _, digits, exponent = value.as_tuple()
        if len(digits) > DECIMAL_DIGITS_MAX:
            raise ValueError(f"decimals have at most {DECIMAL_DIGITS_MAX} digits")
        if not -DECIMAL_EXPONENT_MAX - DECIMAL_DIGITS_MAX <= exponent <= DECIMAL_EXPONENT_MAX:
            raise ValueError(f"decimals have exponents of at most {DECIMAL_EXPONENT_MAX}")
        return value  # type: ignore[no-any-return]

    def to_plain(self, value: Any) -> str:
        return _decimals.to_sci_string(value)

    def from_plain(self, plain: Any) -> decimal.Decimal:
        if type(plain) is not str or not _DECIMAL.match(plain):
            raise ValueError("expected a decimal number as text")
        return self.admit(decimal.Decimal(plain))

    def from_json(self, value: Any, depth: int = 0) -> decimal.Decimal:
        if type(value) is int:
            return self.admit(value)
        return self.from_plain(value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "decimal"}

    def size(self, value: Any) -> int:
        return 21


class DatetimeType(StateType):
    """Moments: aware, kept in UTC and in whole milliseconds; RFC 3339 in JSON, always written as ...Z with milliseconds."""

    __slots__ = ()
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> datetime:
        if not isinstance(value, datetime):
            raise expected("datetime", value)
        if value.tzinfo is None:
            raise ValueError("the datetime has no time zone: use ctx.now or tzinfo=UTC")
        if value.microsecond % 1000:
            raise ValueError("moments are whole milliseconds: round the microseconds away")
        if value.tzinfo is UTC and type(value) is datetime and not value.fold:
            return value
        try:
            return _EPOCH + (value - _EPOCH) // _MILLISECOND * _MILLISECOND
        except OverflowError:
            raise ValueError("the moment is outside the years 1 to 9999 in UTC") from None

    def to_plain(self, value: Any) -> int:
        return (value - _EPOCH) // _MILLISECOND  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> datetime:
        if type(plain) is not int:
            raise expected("milliseconds", plain)
        try:
            return _EPOCH + timedelta(milliseconds=plain)
        except OverflowError:
            raise ValueError("the moment is outside the years 1 to 9999") from None

    def plain_to_json(self, plain: Any) -> str:
        moment = self.from_plain(plain)
        date = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
        return f"{date}T{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}.{moment.microsecond // 1000:03d}Z"

    def from_json(self, value: Any, depth: int = 0) -> datetime:
        if type(value) is not str:
            raise expected("an RFC 3339 moment", value)
        match = _MOMENT.match(value)
        if match is None:
            raise ValueError("expected an RFC 3339 moment with at most milliseconds, such as 2026-01-31T12:00:00.000Z")
        *parts, fraction, zone = match.groups()
        moment = datetime(*map(int, parts), int((fraction or "0").ljust(3, "0")) * 1000, tzinfo=UTC)  # type: ignore[misc,arg-type]
        if zone != "Z":
            hours, minutes = int(zone[1:3]), int(zone[4:6])
            if hours > 23 or minutes > 59:
                raise ValueError("the offset of the moment is out of range")
            offset = timedelta(hours=hours, minutes=minutes)
            try:
                moment = moment - offset if zone[0] == "+" else moment + offset
            except OverflowError:
                raise ValueError("the moment is outside the years 1 to 9999 in UTC") from None
        return moment

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "date-time"}


class TimedeltaType(StateType):
    """Spans of time, exact in microseconds within 64 bits; an ISO 8601 duration of seconds in JSON (PT90S, -PT0.5S)."""

    __slots__ = ()
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> timedelta:
        if type(value) is not timedelta:
            raise expected("timedelta", value)
        if not INT_MIN <= value // _MICROSECOND <= INT_MAX:
            raise ValueError("spans have at most 64 bits of microseconds")
        return value

    def to_plain(self, value: Any) -> int:
        return value // _MICROSECOND  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> timedelta:
        if type(plain) is not int:
            raise expected("microseconds", plain)
        if not INT_MIN <= plain <= INT_MAX:
            raise ValueError("spans have at most 64 bits of microseconds")
        return timedelta(microseconds=plain)

    def plain_to_json(self, plain: Any) -> str:
        seconds, microseconds = divmod(abs(plain), 1_000_000)
        fraction = f".{microseconds:06d}".rstrip("0") if microseconds else ""
        return f"{'-' if plain < 0 else ''}PT{seconds}{fraction}S"

    def from_json(self, value: Any, depth: int = 0) -> timedelta:
        if type(value) is not str:
            raise expected("an ISO 8601 duration", value)
        match = _DURATION.match(value)
        if match is None or value.endswith(("P", "T")):
            raise ValueError("expected an ISO 8601 duration such as PT90S or P1DT2H")
        sign, days, hours, minutes, seconds, fraction = match.groups()
        whole = int(days or 0) * 86_400 + int(hours or 0) * 3_600 + int(minutes or 0) * 60 + int(seconds or 0)
        microseconds = whole * 1_000_000 + int((fraction or "0").ljust(6, "0"))
        return self.from_plain(-microseconds if sign else microseconds)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "duration"}


class UuidType(StateType):
    """UUIDs; lower-case text in JSON."""

    __slots__ = ()
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> uuid.UUID:
        if type(value) is not uuid.UUID:
            raise expected("UUID", value)
        return value

    def to_plain(self, value: Any) -> bytes:
        return value.bytes  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> uuid.UUID:
        if type(plain) is not bytes or len(plain) != 16:
            raise ValueError("expected the 16 bytes of a UUID")
        return uuid.UUID(bytes=plain)

    def plain_to_json(self, plain: Any) -> str:
        return str(uuid.UUID(bytes=plain))

    def from_json(self, value: Any, depth: int = 0) -> uuid.UUID:
        if type(value) is not str:
            raise expected("a UUID as text", value)
        try:
            parsed = uuid.UUID(value)
        except ValueError:
            raise ValueError("expected a UUID as text") from None
        if str(parsed) != value.lower():
            raise ValueError("expected a UUID as text with hyphens")
        return parsed

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "uuid"}

    def size(self, value: Any) -> int:
        return 18


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


class NoneType(StateType):
    """Nothing: the result of a handler that returns none."""

    __slots__ = ()
    plain_is_value = True
    plain_is_json = True

    def admit(self, value: Any, depth: int = 0) -> None:
        if value is not None:
            raise expected("None", value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "null"}

    def size(self, value: Any) -> int:
        return 1


class OptionalType(StateType):
    """A type or None."""

    __slots__ = ("exact", "inner", "leaf", "plain_is_json", "plain_is_value")

    def __init__(self, inner: StateType) -> None:
        super().__init__(f"{inner.name} | None")
        self.inner = inner
        self.leaf = inner.leaf
        self.exact = inner.exact
        self.plain_is_value = inner.plain_is_value
        self.plain_is_json = inner.plain_is_json

    def admit(self, value: Any, depth: int = 0) -> Any:
        return None if value is None else self.inner.admit(value, depth)

    def to_plain(self, value: Any) -> Any:
        return None if value is None else self.inner.to_plain(value)

    def from_plain(self, plain: Any) -> Any:
        return None if plain is None else self.inner.from_plain(plain)

    def plain_to_json(self, plain: Any) -> Any:
        return None if plain is None else self.inner.plain_to_json(plain)

    def from_json(self, value: Any, depth: int = 0) -> Any:
        return None if value is None else self.inner.from_json(value, depth)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"anyOf": [self.inner.json_schema(definitions), {"type": "null"}]}

    def size(self, value: Any) -> int:
        return 1 if value is None else self.inner.size(value)


def date(values: Iterable[Any], index: int, item_type: StateType) -> None:
    """Tell values that are being stored for the first time at which document index that happens."""
    if not item_type.leaf:
        for value in values:
            if value is not None:
                value._date(index)
