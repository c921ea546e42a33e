"""JSON as Moot takes it: strict on the way in, canonical ever after.

Taken: UTF-8, an object at the top, nesting and size within bounds, no duplicate keys, no NaN or Infinity, no lone
surrogates, integers within 2**53 - 1 either way (larger ones travel as strings where the schema says so).

The fast path is one decode and one encode: bytes that come out as they went in have no duplicate key, no odd spelling and no
odd whitespace. Everything else takes the slow path, which says what is wrong or accepts another spelling of the same value.

Invariant: whatever `parse` accepts, `encode` writes in one way, which `parse` accepts again.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn

import msgspec

from cluster.errors import InvalidPayload, TooLarge

INTEGER_MAX: Final = 2**53 - 1
_NUMBER_CHARACTERS_MAX: Final = 400
LONG_NUMBER_DIGITS: Final = 16
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % LONG_NUMBER_DIGITS)
_NOT_DIGITS: Final = bytes(set(range(256)) - set(b"0123456789"))

decode = msgspec.json.Decoder().decode
"""The value of bytes that are canonical already."""
_encode = msgspec.json.Encoder().encode


def encode(value: object) -> bytes:
    """Canonical JSON: compact, keys in the order of the mapping, shortest floats. The value is plain and finite."""
    return _encode(value)


def parse(payload: bytes, *, bytes_max: int, depth_max: int) -> dict[str, object]:
    """The object that `payload` spells. Raises TooLarge (bytes, nesting) or InvalidPayload (everything else)."""
    if len(payload) > bytes_max:
        raise TooLarge(f"the payload has {len(payload)} bytes, at most {bytes_max} are allowed")
    if payload.count(b"[") + payload.count(b"{") > depth_max:
        _check_nesting(payload, depth_max)
    try:
        value = decode(payload)
        plain = _encode(value) == payload
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidPayload(f"the payload is not JSON: {error}") from None
    if not plain:
        value = _parse_slowly(payload)
    digits = len(payload.translate(None, _NOT_DIGITS))  # mostly few: much faster than the search
    if digits >= LONG_NUMBER_DIGITS and _LONG_NUMBER.search(payload) and not in_range(value):
        raise InvalidPayload("an integer of the payload exceeds 2**53 - 1; send it as a string if the schema says so")
    if value.__class__ is not dict:
        raise InvalidPayload("the payload must be a JSON object")
    return value


def in_range(value: object) -> bool:
    """Whether all integers of a decoded value are within 2**53 - 1."""
    pending = [value]
    while pending:
        item = pending.pop()
        if item.__class__ is int:
            if not -INTEGER_MAX <= item <= INTEGER_MAX:
                return False
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return True


def _check_nesting(payload: bytes, depth_max: int) -> None:
    depth = 0
    within_string = False
    escaped = False
    for byte in payload:
        if within_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                within_string = False
        elif byte == 0x22:
            within_string = True
        elif byte in b"[{":
            depth += 1
            if depth > depth_max:
                raise TooLarge(f"the payload is nested deeper than {depth_max}")
        elif byte in b"]}":
            depth -= 1


def _object_of_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidPayload(f"the payload has the key {key!r} twice")
            seen.add(key)
    return found


def _integer(text: str) -> int:
    if len(text) > len(str(INTEGER_MAX)) + 1:
        raise InvalidPayload("an integer of the payload exceeds 2**53 - 1; send it as a string if the schema says so")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= _NUMBER_CHARACTERS_MAX else math.inf
    if not math.isfinite(value):
        raise InvalidPayload("a number of the payload is out of range")
    return value


def _constant(text: str) -> NoReturn:
    raise InvalidPayload(f"{text} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_object_of_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _parse_slowly(payload: bytes) -> object:
    """Another spelling, or something to refuse. Nesting was bounded before, so the decoder's recursion is."""
    try:
        text = payload.decode("utf-8")
        value: object = _STRICT.decode(text)
        _encode(value)
    except UnicodeDecodeError:
        raise InvalidPayload("the payload is not UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidPayload("the payload contains a lone surrogate") from None
    except json.JSONDecodeError as error:
        raise InvalidPayload(f"the payload is not JSON: {error}") from None
    return value
