"""JSON as Moot takes it: strict on the way in, canonical ever after."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents import payload
from cluster.errors import InvalidPayload, TooLarge, UnknownChannel


def parse(data: bytes) -> object:
    return payload.parse(data, bytes_max=1000, depth_max=8)


NOT_TAKEN = {
    "array at the top": b"[1]",
    "number at the top": b"1",
    "nothing": b"",
    "two objects": b"{}{}",
    "duplicate key": b'{"a":1,"a":1}',
    "duplicate key inside": b'{"x":[{"a":1,"b":2,"a":3}]}',
    "duplicate key by escape": b'{"a":1,"\\u0061":2}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "too large a float": b'{"a":1e400}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate in a key": b'{"\\udc00":1}',
    "not UTF-8": b'{"a":"\xff"}',
    "surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "leading zero": b'{"a":01}',
    "plus sign": b'{"a":+1}',
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1}//',
    "single quotes": b"{'a':1}",
    "control character": b'{"a":"\n"}',
    "cut off": b'{"a":"',
    "long integer": b'{"a":' + b"9" * 300 + b"}",
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_json_as_moot_takes_it_is_refused(name: str) -> None:
    with pytest.raises(InvalidPayload):
        parse(NOT_TAKEN[name])


def test_bytes_and_nesting_are_bounded_before_decoding() -> None:
    with pytest.raises(TooLarge):
        parse(b'{"a":"' + b"x" * 1000 + b'"}')
    with pytest.raises(TooLarge):
        payload.parse(b'{"a":' + b"[" * 100_000, bytes_max=1_000_000, depth_max=8)
    with pytest.raises(TooLarge):
        parse(b'{"a":' + b"[" * 8 + b"]" * 8 + b"}")
    assert parse(b'{"a":' + b"[" * 7 + b"]" * 7 + b"}")
    assert parse(b'{"a":"' + b"[" * 50 + b'\\"[[[[[[["}')


SPELLINGS = [b'{ "a" : 1.0 }', b'{"a":1e0}', b'{"\\u0061":1.0}', b'{"a":0.1e1}', b'{"a":10e-1}']


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_becomes_the_canonical_one(spelling: bytes) -> None:
    assert payload.encode(parse(spelling)) == b'{"a":1.0}'


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=4), st.sampled_from([None, 1]))
def test_canonical_bytes_are_a_fixed_point(value: dict[str, object], indent: int | None) -> None:
    spelled = json.dumps(value, indent=indent).encode()
    once = payload.encode(payload.parse(spelled, bytes_max=100_000, depth_max=32))
    assert payload.encode(payload.parse(once, bytes_max=100_000, depth_max=32)) == once
    assert json.loads(once) == value


SOURCE = """
from cluster import Command, Document, Principal, Record, anyone, on
class Point(Record):
    x: int
    y: int = 0
class Stage(Document):
    gate = anyone
    @on.construct
    def open(self, ctx: Command, name: str = "") -> None:
        pass
    @on.message
    def go(self, ctx: Command, b: int, a: int = 1, points: list[Point] | None = None, who: Principal | None = None) -> int:
        return b
"""


@pytest.fixture
def check(stage: Callable[..., Any]) -> Callable[[str, bytes], bytes]:
    checked: Callable[[str, bytes], bytes] = stage(SOURCE).program.check
    return checked


def test_members_are_put_into_the_parameters_order(check: Callable[[str, bytes], bytes]) -> None:
    assert check("go", b'{"a":2, "b":1}') == b'{"b":1,"a":2}'
    assert check("go", b'{"b":1}') == b'{"b":1}'
    assert check("go", b'{"points":[{"y":2,"x":1}],"b":1}') == b'{"b":1,"points":[{"x":1,"y":2}]}'
    assert check("", b"{}") == b"{}"


@pytest.mark.parametrize(
    "given",
    [
        b"{}",
        b'{"b":"x"}',
        b'{"b":1.5}',
        b'{"b":true}',
        b'{"b":null}',
        b'{"b":9007199254740992}',
        b'{"b":1,"c":2}',
        b'{"b":1,"self":2}',
        b'{"b":1,"ctx":2}',
        b'{"b":1,"points":[{"x":"1.5"}]}',
        b'{"b":1,"points":{}}',
        b'{"b":1,"who":"nobody"}',
        b'{"b":1,"who":"@acme"}',
    ],
)
def test_what_does_not_fit_the_schema_is_refused(check: Callable[[str, bytes], bytes], given: bytes) -> None:
    with pytest.raises(InvalidPayload):
        check("go", given)


def test_large_integers_travel_as_strings(check: Callable[[str, bytes], bytes]) -> None:
    assert check("go", b'{"b":"9007199254740992"}') == b'{"b":"9007199254740992"}'
    assert check("go", b'{"b":"12"}') == b'{"b":12}'


def test_a_channel_that_is_not_there_is_unknown(check: Callable[[str, bytes], bytes]) -> None:
    for name in ("gone", "open", "gate", "_moot_root"):
        with pytest.raises(UnknownChannel):
            check(name, b"{}")
