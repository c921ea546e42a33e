"""What ended a command stays its end, whatever the handler catches; faults of the process are never an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents.runtime import Code, Outcome, Settings
from cluster.errors import ApplyHalted

Handler = Callable[..., Outcome]

DEEP = {
    "function": ("def down(n):\n    return down(n + 1)", "down(0)"),
    "lambda": ("down = lambda n: down(n + 1)", "down(0)"),
    "local lambda": ("", "down = lambda down: down(down)\ndown(down)"),
    "mutual": ("def a(n):\n    return b(n)\ndef b(n):\n    return a(n)", "a(0)"),
    "property": ("class P:\n    @property\n    def down(self):\n        return self.down", "P().down"),
    "operator": ("class P:\n    def __add__(self, other):\n        return self + other", "P() + P()"),
    "comparison": ("class P:\n    def __eq__(self, other):\n        return self == other", "P() == P()"),
    "item": ("class P:\n    def __getitem__(self, n):\n        return self[n]", "P()[0]"),
    "key function": ("def down(n):\n    return sorted([1, 2], key=down)", "down(0)"),
    "map": ("def down(n):\n    return list(map(down, [n]))", "down(0)"),
    "generator expressions": ("", "g = iter([1])\nfor n in range(20000):\n    g = (x for x in g)\nnext(g)"),
    "generator of generator": (
        "",
        "g = (1 for n in [1])\nfor n in range(20000):\n    g = (x for y in (g,) for x in y)\nnext(g)",
    ),
    "chained maps": ("", "g = [1]\nfor n in range(20000):\n    g = map(int, g)\nlist(g)"),
    "chained filters": ("", "g = [1]\nfor n in range(20000):\n    g = filter(None, g)\nlist(g)"),
    "chained zips": ("", "g = [1]\nfor n in range(20000):\n    g = zip(g)\nlist(g)"),
    "chained enumerates": ("", "g = [1]\nfor n in range(20000):\n    g = enumerate(g)\nlist(g)"),
    "chained chains": ("from itertools import chain", "g = [1]\nfor n in range(20000):\n    g = chain(g)\nlist(g)"),
    "chained slices": ("from itertools import islice", "g = [1]\nfor n in range(20000):\n    g = islice(g, 5)\nlist(g)"),
    "hash of nested tuples": ("", "t = ()\nfor n in range(20000):\n    t = (t,)\n{t: 1}"),
    "item of nested tuples": ("", "t = ()\nd = {}\nfor n in range(20000):\n    t = (t,)\nd[t]"),
    "get of nested tuples": ("", "t = ()\nd = {}\nfor n in range(20000):\n    t = (t,)\nd.get(t)"),
    "get of nested tuples behind a star": ("", "t = ()\nd = {}\nfor n in range(20000):\n    t = (t,)\nd.get(*[t])"),
    "get of nested tuples, unbound": ("", "t = ()\nd = {}\nfor n in range(20000):\n    t = (t,)\ndict.get(d, t)"),
    "set of nested tuples": ("", "t = ()\ns = set()\nfor n in range(20000):\n    t = (t,)\ns.add(t)"),
    "membership of nested tuples": ("", "t = ()\nfor n in range(20000):\n    t = (t,)\nt in {'a', 'b'}"),
    "comparison of nested lists": ("", "a = []\nb = []\nfor n in range(20000):\n    a = [a]\n    b = [b]\na == b"),
    "membership of nested lists": ("", "a = []\nb = []\nfor n in range(20000):\n    a = [a]\n    b = [b]\na in [b]"),
    "index of nested lists": ("", "a = []\nb = []\nfor n in range(20000):\n    a = [a]\n    b = [b]\n[b].index(a)"),
    "text of nested lists": ("", "a = []\nfor n in range(20000):\n    a = [a]\nstr(a)"),
    "f-string of nested lists": ("", "a = []\nfor n in range(20000):\n    a = [a]\nf'{a}'"),
    "sort of nested lists": ("", "a = []\nb = []\nfor n in range(20000):\n    a = [a]\n    b = [b]\nsorted([a, b])"),
    "self-containing list": ("", "a = []\na.append(a)\nb = []\nb.append(b)\na == b"),
    "nested dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass D:\n    inner: object",
        "a = None\nb = None\nfor n in range(20000):\n    a = D(a)\n    b = D(b)\na == b",
    ),
    "nested frozen dataclasses": (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass D:\n    inner: object",
        "a = None\nfor n in range(20000):\n    a = D(a)\n{a: 1}",
    ),
    "nested dictionaries": ("", "a = {}\nb = {}\nfor n in range(20000):\n    a = {1: a}\n    b = {1: b}\na == b"),
}


IN_STATE = {
    "get": "self.{field}.get(t)",
    "item": "self.{field}[t]",
    "discard": "self.{field}.discard(t)",
    "remove": "self.{field}.remove(t)",
    "remove through a variable": "f = self.{field}.remove\nf(t)",
    "add": "self.{field}.add(t)",
    "pop": "self.{field}.pop(t)",
    "index": "self.{field}.index(t)",
    "count": "self.{field}.count(t)",
    "append": "self.{field}.append(t)",
    "setdefault": "self.{field}.setdefault(t, 1)",
    "in": "t in self.{field}",
    "equal": "t == self.{field}",
    "equal the other way": "self.{field} == t",
    "assign": "self.{field} = t",
}


@pytest.mark.parametrize("field", ["rows", "named", "items", "pairs", "unique", "loose"])
@pytest.mark.parametrize("name", IN_STATE)
def test_deep_values_can_not_reach_the_interpreters_limit_through_state(
    stage: Callable[..., Any], name: str, field: str
) -> None:
    source = """
from cluster import Command, Document, OrderedSet, Record, Table, anyone, field, on
class Row(Record):
    n: str
class Stage(Document):
    gate = anyone
    rows: Table[Row] = field.public()
    named: Table[Row] = field.public(key="n")
    items: list[str] = field.public([])
    pairs: dict[str, int] = field.public({})
    unique: OrderedSet[str] = field.public()
    loose: list[list[str]] = field.public([])
    @on.message
    def go(self, ctx: Command) -> None:
        t = ()
        u = []
        for n in range(20000):
            t = (t,)
            u = [u]
"""
    for value in ("t", "u"):
        body = (
            IN_STATE[name]
            .format(field=field)
            .replace("(t", f"({value}")
            .replace("[t", f"[{value}")
            .replace("t in", f"{value} in")
        )
        lines = "".join(f"        {line}\n" for line in body.splitlines())
        assert stage(source + lines).run("go").code in (Code.BUDGET, Code.FAILED, Code.OK)


@pytest.mark.parametrize("name", DEEP)
def test_depth_without_end_is_counted_and_never_reaches_the_interpreters_limit(handler: Handler, name: str) -> None:
    top, body = DEEP[name]
    outcome = handler(body, top=top)
    assert outcome.code is Code.BUDGET, (outcome.code, outcome.error)
    assert json.loads(outcome.answer) == {"limit": "depth"}


def test_the_deepest_chains_leave_most_of_the_interpreters_stack_unused(handler: Handler) -> None:
    """RecursionError is no answer: how deep the interpreter gets depends on who called it."""
    limit = sys.getrecursionlimit()
    frame, base = sys._getframe(), 0
    while frame is not None:
        frame, base = frame.f_back, base + 1  # type: ignore[assignment]
    sys.setrecursionlimit(base + 500)
    try:
        for name, (top, body) in DEEP.items():
            assert handler(body, top=top).code is Code.BUDGET, name
    finally:
        sys.setrecursionlimit(limit)


def test_depth_that_was_left_again_is_free(handler: Handler) -> None:
    top = """
        def down(n):
            return 0 if n == 0 else 1 + down(n - 1)
        def fails(n):
            if n == 0:
                raise ValueError("bottom")
            return fails(n - 1)
    """
    body = """
        for round in range(50):
            down(60)
            try:
                fails(60)
            except ValueError:
                pass
            try:
                (lambda n: fails(n))(58)
            except ValueError:
                pass
        return down(60)
    """
    outcome = handler(body, top=top, result="int")
    assert (outcome.code, outcome.answer) == (Code.OK, b"60"), outcome


SWALLOWED_STEPS = {
    "except Exception": "try:\n    while True: pass\nexcept Exception:\n    pass",
    "except Exception in a loop": "while True:\n    try:\n        while True: pass\n    except Exception:\n        pass",
    "finally": "try:\n    while True: pass\nfinally:\n    self.title = 'finally'",
    "nested finally": "try:\n    try:\n        while True: pass\n    finally:\n        [0] * 10**9\nfinally:\n    [0] * 10**9",
    "in a comparison": "class_ = None\ntry:\n    [0] * 10**12\nexcept Exception:\n    return None",
    "in a key function": "try:\n    sorted([1, 2], key=lambda x: [0] * 10**12)\nexcept Exception:\n    return None",
    "with a default": "any(True for x in [1] if not [0] * 10**12)",
}


@pytest.mark.parametrize("name", SWALLOWED_STEPS)
def test_a_used_up_budget_can_not_be_caught(handler: Handler, name: str) -> None:
    outcome = handler(SWALLOWED_STEPS[name])
    assert (outcome.code, outcome.answer) == (Code.BUDGET, b'{"limit":"steps"}')


def test_a_refusal_that_was_caught_is_answered_all_the_same(handler: Handler) -> None:
    top = "class Closed(Refused):\n    '''Too late.'''"
    for caught in ("Exception", "Closed", "Refused"):
        outcome = handler(f"try:\n    raise Closed(7)\nexcept {caught}:\n    self.title = 'went on'", top=top)
        assert outcome.code is Code.REFUSED
        assert json.loads(outcome.answer) == {"name": "Closed", "message": "7", "arguments": [7]}


def test_the_first_refusal_stands_even_if_the_handler_fails_later(handler: Handler) -> None:
    top = "class Closed(Refused):\n    '''Too late.'''"
    outcome = handler("try:\n    raise Closed\nexcept Refused:\n    [][1]", top=top)
    assert json.loads(outcome.answer) == {"name": "Closed", "message": "Too late.", "arguments": []}


def test_a_refusal_that_is_only_made_is_a_value(handler: Handler) -> None:
    outcome = handler("closed = Refused()\nself.title = 'fine'")
    assert outcome.code is Code.OK


def test_an_exception_that_was_caught_is_forgotten(handler: Handler) -> None:
    outcome = handler("try:\n    [][1]\nexcept IndexError:\n    self.title = 'caught'\nreturn self.title", result="str")
    assert (outcome.code, outcome.answer) == (Code.OK, b'"caught"')


@pytest.mark.parametrize("fault", [MemoryError, RecursionError, SystemError])
def test_a_fault_of_the_process_halts_apply_even_if_the_handler_catches_it(
    handler: Handler, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    """A fault that is turned into an answer makes replicas differ."""
    from cluster.documents.context import Command

    def breaks(self: Command) -> None:
        raise fault("as if the process had run out")

    monkeypatch.setattr(Command, "new_id", breaks)
    with pytest.raises(ApplyHalted):
        handler("try:\n    ctx.new_id()\nexcept Exception:\n    pass")
    with pytest.raises(ApplyHalted):
        handler("ctx.new_id()")


def test_a_fault_leaves_the_state_as_it_was(stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.documents.context import Command

    def breaks(self: Command) -> None:
        raise MemoryError

    monkeypatch.setattr(Command, "new_id", breaks)
    document = stage(
        """
        from cluster import Command, Document, anyone, field, on
        class Stage(Document):
            gate = anyone
            title: str = field.public("before")
            @on.message
            def go(self, ctx: Command) -> None:
                self.title = "after"
                ctx.new_id()
        """
    )
    before = document.instance.dump()
    with pytest.raises(ApplyHalted):
        document.run("go")
    assert document.instance.dump() == before


def test_state_and_answers_are_bounded(handler: Handler) -> None:
    settings = Settings(state_bytes_max=1000, answer_bytes_max=1000)
    grown = handler("self.title = 'x' * 2000", settings=settings)
    assert (grown.code, grown.answer) == (Code.BUDGET, b'{"limit":"state"}')
    long = handler("return 'x' * 2000", settings=settings, result="str")
    assert (long.code, long.answer) == (Code.BUDGET, b'{"limit":"answer"}')
