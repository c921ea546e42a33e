"""Numbers, text and bytes."""

from __future__ import annotations

import base64
import binascii
import decimal
import math
import re
import uuid
from typing import Any

from cluster.documents.state.forms import KeyType, Schema, StateType, check_encodable, expected

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
JSON_INT_MAX = 2**53 - 1
DECIMAL_DIGITS_MAX = 34
DECIMAL_EXPONENT_MAX = 6144

_decimals = decimal.Context(
    prec=DECIMAL_DIGITS_MAX,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-6143,
    Emax=DECIMAL_EXPONENT_MAX,
    capitals=1,
    clamp=0,
    traps=[],
)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?([eE][+-]?[0-9]{1,5})?\Z", re.ASCII)


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
