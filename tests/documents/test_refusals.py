"""What may not be deployed is refused with a code, a place, the reason and a replacement, all of it at once."""

from __future__ import annotations

import textwrap

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.errors import InvalidBundle

IMPORTS = "from cluster import Command, Document, Principal, Record, Refused, Table, Text, anyone, field, on, read\n"


def findings(source: str) -> list[tuple[int, str]]:
    """(line, code) of every finding of a module."""
    with pytest.raises(InvalidBundle) as refused:
        BundleLoader().load(bundle.from_source(source).encode())
    found = []
    for line in str(refused.value).splitlines():
        path, number, code, _ = line.split(":", 3)
        assert path == "document.py"
        found.append((int(number), code.strip()))
    return found


def codes_of_handler(body: str, top: str = "") -> set[str]:
    source = IMPORTS + top + "\nclass Stage(Document):\n    gate = anyone\n    n: int = 0\n    @on.message\n"
    source += "    def go(self, ctx: Command) -> None:\n" + textwrap.indent(body, "        ")
    return {code for _, code in findings(source)}


HANDLERS = {
    "open('x')": "input-output",
    "input()": "input-output",
    "eval('1')": "reflection",
    "exec('1')": "reflection",
    "compile('1', '', 'eval')": "reflection",
    "__import__('os')": "special-name",
    "globals()": "reflection",
    "locals()": "reflection",
    "vars()": "reflection",
    "dir(self)": "reflection",
    "type(self)": "reflection",
    "getattr(self, 'n')": "reflection",
    "setattr(self, 'n', 1)": "reflection",
    "id(self)": "identity",
    "hash('x')": "hash",
    "memoryview(b'x')": "reflection",
    "bytearray(10**12)": "reflection",
    "complex(1)": "reflection",
    "slice(1)": "reflection",
    "exit()": "reflection",
    "raise KeyboardInterrupt": "builtin",
    "raise MemoryError": "builtin",
    "breakpoint()": "reflection",
    "self.__class__": "special-name",
    "self.go.__globals__": "special-name",
    "().__class__.__base__.__subclasses__()": "special-name",
    "ctx.__init__.__globals__['__builtins__']": "special-name",
    "(lambda: 0).__code__": "special-name",
    "__builtins__": "special-name",
    "__name__": "special-name",
    "(x for x in []).gi_frame.f_back": "special-name",
    "self.go.func_globals": "special-name",
    "try:\n    [][1]\nexcept Exception as e:\n    e.__traceback__.tb_frame": "special-name",
    "try:\n    [][1]\nexcept Exception as e:\n    e.tb_frame": "special-name",
    "self._moot_root": "private-name",
    "ctx._seed": "private-name",
    "ctx.random._stream": "private-name",
    "'{0.x}'.format_map({})": "platform",
    "'x'.translate({})": "platform",
    "match self:\n    case object(__class__=c):\n        pass": "special-name",
    "match ctx:\n    case Command(_seed=s):\n        pass": "private-name",
    "match ValueError():\n    case ValueError(args=a):\n        pass": "pattern",
    "match 'x':\n    case str(join=j):\n        pass": "pattern",
    "match ctx.now:\n    case object(now=clock):\n        pass": "pattern",
    "(n for n in [])._generator": "private-name",
    "{1}._items": "private-name",
    "from decimal import Decimal as D": "shadowing",
    "from os import path": "input-output",
    "import os": "input-output",
    "import time": "ambient-time",
    "import random": "randomness",
    "import re": "regular-expression",
    "import threading": "threads",
    "import numpy": "import",
    "import inspect": "reflection",
    "from math import sin": "import",
    "from datetime import MINYEAR": "import",
    "from functools import lru_cache": "import",
    "from cluster import *": "import",
    "from cluster.ids import NodeId": "import",
    "from datetime import datetime\ndatetime.now()": "ambient-time",
    "from datetime import datetime\ndatetime.utcnow()": "ambient-time",
    "from datetime import date\ndate.today()": "ambient-time",
    "ctx.now.strftime('%c')": "platform",
    "ctx.now.timestamp()": "platform",
    "ctx.now.astimezone()": "platform",
    "global n\nn = 1": "global",
    "yield 1": "generator",
    "yield from []": "generator",
    "with self:\n    pass": "with",
    "try:\n    pass\nexcept:\n    pass": "bare-except",
    "try:\n    pass\nexcept BaseException:\n    pass": "reflection",
    "while True:\n    try:\n        pass\n    finally:\n        continue": "finally",
    "try:\n    pass\nfinally:\n    return": "finally",
    "try:\n    pass\nexcept* ValueError:\n    pass": "exception-group",
    "class Inner:\n    pass": "nested-class",
    "for a, *b in []:\n    pass": "starred-target",
    "[b for a, *b in []]": "starred-target",
    "1 in [1] in [[1]]": "chained-membership",
    "x = 1j": "complex",
    "x = " + hex(1 << 2048): "long-number",
    "int = float": "shadowing",
    "for str in 'x':\n    pass": "shadowing",
    "self = None": "shadowing",
    "def f(x=[]):\n    return x": "mutable-default",
    "f = lambda x={}: x": "mutable-default",
    "super(Stage, self).go(ctx)": "super",
    "f = property(lambda self: 1)": "property",
    "async def f():\n    pass": "async",
    "[x async for x in self]": "async",
    "f = lambda: (yield)": "generator",
}


@pytest.mark.parametrize("body", HANDLERS)
def test_a_handler_that_leaves_its_bounds_is_refused(body: str) -> None:
    assert codes_of_handler(body) == {HANDLERS[body]}


TOPS = {
    "cache = []": "module-mutable",
    "cache = {}": "module-mutable",
    "cache = {1}": "module-mutable",
    "cache = [x for x in 'a']": "module-mutable",
    "cache = dict()": "module-mutable",
    "pairs = ((1, 2), [])": "module-mutable",
    "def make():\n    kept = []\n    return lambda: kept\nkeep = make()": "module-mutable",
    "def keep(f):\n    kept = []\n    def g(self):\n        kept.append(1)\n        return f(self)\n    return g\n"
    "class P:\n    @keep\n    def go(self):\n        return 1": "module-mutable",
    "class P:\n    _kept = str('x').split()": "module-mutable",
    "keep = 'a b'.split().append": "module-mutable",
    "from functools import partial\ndef f(x):\n    return x\nkeep = partial(f, 'a b'.split())": "module-mutable",
    "from enum import Enum\nclass E(Enum):\n    A = 1\n    def __init__(self, n):\n        self.kept = []": "load",
    "def f(x='a b'.split()):\n    return x": "module-mutable",
    "lazy = (n for n in (1, 2))": "module-mutable",
    "def f():\n    n = 1\n    def g():\n        nonlocal n\n        n = 2\n    return g": "nonlocal",
    "class Plain:\n    cache = []": "module-mutable",
    "class Plain:\n    cache: list[int] = []": "module-mutable",
    "class Plain:\n    pass\nshared = Plain()": "module-mutable",
    "class Row(Record):\n    n: int\nshared = Row(1)": "module-mutable",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    n: int\nshared = P(1)": "module-mutable",
    "for n in range(3):\n    pass": "top-level",
    "while True:\n    pass": "top-level",
    "print('x')": "top-level",
    "n = 1\nn += 1": "top-level",
    "n = [1][2]": "load",
    "n = 10**100000": "load",
    "n = 'x' * 10**12": "load",
    "def down(n):\n    return down(n)\nn = down(1)": "load",
    "class L(list):\n    pass": "base-class",
    "from datetime import datetime as D\nclass P(D):\n    pass": "base-class",
    "import datetime\nclass P(datetime.datetime):\n    pass": "base-class",
    "from decimal import Decimal\nclass P(Decimal):\n    pass": "base-class",
    "class P(str):\n    pass": "base-class",
    "class P:\n    __match_args__ = ('now',)": "special-name",
    "class P:\n    def _items(self):\n        return 1": "private-name",
    "class R(Record):\n    n: int\n    def _clone(self):\n        return self": "private-name",
    "class P:\n    def __index__(self):\n        return 10**12": "special-name",
    "class M(metaclass=None):\n    pass": "base-class",
    "class P:\n    def __del__(self):\n        pass": "special-name",
    "class P:\n    def __getattr__(self, name):\n        pass": "special-name",
    "class P:\n    def __enter__(self):\n        pass": "special-name",
    "class P:\n    def __new__(self):\n        pass": "special-name",
    "class P:\n    def __init_subclass__(self):\n        pass": "special-name",
    "class P:\n    def __class_getitem__(self, n):\n        pass": "special-name",
    "class P:\n    def __hash__(self):\n        pass": "special-name",
    "class P:\n    __eq__ = lambda self, other: True": "special-name",
    "class P:\n    __slots__ = ()": "special-name",
    "x = (": "syntax",
    "a = 1\nx = f'{'a'}'": "syntax",
    "a = 1\nx = f'{\"\\n\"}'": "syntax",
    "a = 1\nx = f'{f'{a}'}'": "syntax",
    "a = 1\nx = f'{a\n}'": "syntax",
    'a = 1\nx = f"""{a # why\n}"""': "syntax",
    "type X = int": "syntax",
    "def f[T](x: T) -> T:\n    return x": "syntax",
}


@pytest.mark.parametrize("top", TOPS)
def test_a_module_that_holds_or_does_something_is_refused(top: str) -> None:
    source = f"{IMPORTS}{top}\nclass Stage(Document):\n    gate = anyone\n"
    assert {code for _, code in findings(source)} == {TOPS[top]}


CLASSES = {
    "n: int = 0": "gate",
    "gate = anyone\n@read.gate\ndef other(self, who: Principal) -> bool:\n    return True": "gate",
    "gate = anyone\nn: object = 0": "annotation",
    "gate = anyone\nn: int = 'x'": "annotation",
    "gate = anyone\nn: Missing = 0": "load",
    "gate = anyone\n@on.message\ndef go(self) -> None:\n    pass": "signature",
    "gate = anyone\n@on.message\ndef go(self, ctx: Command):\n    pass": "annotation",
    "gate = anyone\n@on.message\ndef go(self, ctx: Command, n) -> None:\n    pass": "annotation",
    "gate = anyone\n@on.message\ndef go(self, ctx: Command, n: object) -> None:\n    pass": "annotation",
    "gate = anyone\n@on.message\ndef go(self, ctx: Command, *n: int) -> None:\n    pass": "signature",
    "gate = anyone\n@on.message\ndef go(self, ctx: Command, n: int = 'x') -> None:\n    pass": "default",
    "gate = anyone\n@on.message\ndef _go(self, ctx: Command) -> None:\n    pass": "channel",
    "gate = anyone\n@read.view\ndef on(self) -> int:\n    return 1": "reserved-name",
    "gate = anyone\n@read.view\ndef shown(self, *others: int) -> int:\n    return 1": "signature",
    "gate = anyone\n@read.view\ndef shown(self, rows: int = 'x') -> int:\n    return 1": "default",
    "gate = anyone\n@read.export\ndef shown(self, who: Principal) -> int:\n    return 1": "signature",
    "gate = anyone\n@read.export\ndef shown(self):\n    return 1": "annotation",
    "gate = anyone\nn: int = field.public(0, window=None, index=('x',))": "annotation",
    "gate = anyone\nn: int = field.public(0)\n@read.view\ndef m(self):\n    return 1": "annotation",
    "gate = anyone\nkept = [1]": "module-mutable",
    "gate = anyone\nn: int = 0\n@read.view\ndef v(self) -> int:\n    self.n = 1\n    return 1": "write-in-read",
    "gate = anyone\nn: int = 0\n@read.policy\ndef v(self, who: Principal) -> bool:\n    self.n += 1": "write-in-read",
    "gate = anyone\nn: list[int] = []\n@read.view\ndef v(self) -> int:\n    del self.n[0]\n    return 1": "write-in-read",
}


@pytest.mark.parametrize("body", CLASSES)
def test_a_class_that_does_not_say_what_it_is_is_refused(body: str) -> None:
    source = f"{IMPORTS}class Stage(Document):\n{textwrap.indent(body, '    ')}\n"
    assert {code for _, code in findings(source)} == {CLASSES[body]}


def test_what_can_not_change_may_stand_in_a_module() -> None:
    source = f"""{IMPORTS}
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Final, NewType, TypeVar

T = TypeVar("T")
Cents = NewType("Cents", int)
Number = int | None
Rows = list[int]
PRICES: Final = (("tea", Decimal("1.50")), ("cake", Decimal(2)))
WORDS = frozenset(("a", "b"))
SHOWN = f"{{1}} {{'a'}} {{2:>{{3}}}} \\n" + f'''{{"a"}} {{f"{{1}}"}}
{{(1,
   2)}}'''
SQUARES = tuple(n * n for n in range(10))

class Colour(str, Enum):
    RED = "red"

@dataclass(frozen=True)
class Point:
    x: int = 0

ORIGIN = Point()

def logged(function):
    def wrapper(self, ctx: Command, n: int = 0) -> None:
        print(n)
        function(self, ctx, n)
    return wrapper

def double(n: int) -> int:
    return n * 2

twice = partial(double, 2)

class Stage(Document):
    gate = anyone
    KINDS = ("a", "b")
    n: int = 0
    rows: list[int] = []

    @staticmethod
    def helper() -> int:
        return 1

    @property
    def size(self) -> int:
        return self.n

    @on.message
    @logged
    def go(self, ctx: Command, n: int = 0) -> None:
        self.n += n
"""
    assert BundleLoader().load(bundle.from_source(source).encode()).declaration.cls.__name__ == "Stage"


def test_all_findings_are_listed_with_their_lines() -> None:
    source = (
        "import time\n"
        "from cluster import Command, Document, on\n"
        "cache = []\n"
        "class Stage(Document):\n"
        "    @on.message\n"
        "    def go(self, ctx: Command) -> None:\n"
        "        id(self)\n"
    )
    assert findings(source) == [(1, "ambient-time"), (3, "module-mutable"), (7, "identity")]


def test_a_finding_says_the_reason_and_what_to_write_instead() -> None:
    with pytest.raises(InvalidBundle, match=r"document.py:1: ambient-time: module time reads the clock; use ctx.now"):
        BundleLoader().load(bundle.from_source("import time").encode())


def test_a_bundle_needs_exactly_one_document_class_or_names_it() -> None:
    two = f"{IMPORTS}class A(Document):\n    gate = anyone\nclass B(Document):\n    gate = anyone\n"
    assert findings(two) == [(1, "entry")]
    program = BundleLoader().load(bundle.from_source(two, entry="document:B").encode())
    assert program.declaration.cls.__name__ == "B"
    assert findings("from cluster import Document\n") == [(1, "entry")]


def test_a_refused_bundle_leaves_nothing_registered() -> None:
    import sys

    before = set(sys.modules)
    findings(f"{IMPORTS}n = [1][2]\n")
    findings(f"{IMPORTS}class A(Document):\n    n: int\n")
    assert set(sys.modules) <= before
