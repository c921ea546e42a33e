"""Prints what a table of handlers comes to, one JSON line each: run by test_versions.py under several interpreters."""

import ast
import hashlib
import json
import pathlib
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.documents import bundle  # noqa: E402
from cluster.documents.loader import BundleLoader  # noqa: E402
from cluster.documents.runtime import REPAIR_CHANNEL, UPGRADE_CHANNEL, Invocation  # noqa: E402
from cluster.errors import ClusterError  # noqa: E402
from cluster.ids import DocumentId, Principal  # noqa: E402

HANDLERS = {
    "nothing": "pass",
    "loops": "n = 0\nfor a in range(50):\n    while n % 7:\n        n += 1\n    else:\n        n += a\nself.out = str(n)",
    "comprehensions": "self.out = str([a * b for a in range(9) if a % 2 for b in range(a)])",
    "nested comprehensions": "self.out = str([[c for c in range(b)] for b in [a for a in range(5)]])",
    "dictionary comprehension": "self.out = str({a: {b: a for b in range(a)} for a in range(6)})",
    "set comprehension": "self.out = str({str(a * 7 % 5) for a in range(20)})",
    "generators": "self.out = str(sum(a for a in (b for b in range(30)) if a % 3))",
    "lambda": "self.out = str(sorted(range(20), key=lambda a: (a * 7 % 5, -a)))",
    "closures": "def add(n):\n    return lambda m: n + m\nself.out = str(add(3)(4))",
    "recursion": "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nself.out = str(fib(12))",
    "exceptions": "for a in range(5):\n    try:\n        [1, 2][a]\n    except IndexError as e:\n        self.out += str(e)",
    "messages": "try:\n    int('x')\nexcept ValueError as e:\n    self.out = f'{e} {e!r} {e.args}'",
    "match": "for a in [1, 'x', [1, 2], {'k': 3}]:\n    match a:\n        case int():\n            self.out += 'i'\n"
    "        case [b, *c]:\n            self.out += str(c)\n        case {'k': d}:\n            self.out += str(d)",
    "f-strings": "a = 3\nself.out = f'{a=} {a:>{a}} {a!r:>5} {1.5:.2f} {[1, \"x\"]}'",
    "strings": "self.out = ' '.join('Straße,Öl,x'.upper().split(',')).replace('S', 's').center(30, '*')",
    "long numbers": "n = 1\nfor a in range(1, 200):\n    n = n * a\nself.out = str(n)",
    "powers": "self.out = str([2.5 ** 7, 3 ** 40, 2 ** -2, 2.0 ** 0.5, pow(3, 200, 10**9 + 7)])",
    "floats": "self.out = str([sum([0.1] * 10), 1e22, 1 / 3, round(2.675, 2), 7 // 2.0, -7 % 3.0, max(0.1, 0.2)])",
    "sets": "self.out = str({'b', 'a'} | {'c', 'a'}) + str({'x': 1}.keys() | {'y': 2}.keys())",
    "sorting": "self.out = str(sorted(['b', 'A', 'ä', 'a'])) + str(sorted([3, 1, 2], reverse=True))",
    "text of things": "self.out = f'{self.go} {Colour.RED} {Word.A} {Colour.RED!r} {Point(1, 2)}' + str(Colour.RED)",
    "random": "self.out = str([ctx.random.integer(1, 6) for a in range(10)]) + str(ctx.random.random()) + str(ctx.new_id())",
    "shuffle": "xs = list(range(20))\nctx.random.shuffle(xs)\nself.out = str(xs)",
    "moments": "self.out = str(ctx.now) + (ctx.now + timedelta(days=1)).isoformat() + str(timedelta(minutes=3))",
    "decimals": "self.out = str(Decimal(1) / Decimal(7)) + str(Decimal('1.10') * 3) + f'{Decimal(5):.2f}'",
    "star": "a, *b = [1, 2, 3]\ndef f(*c, **d):\n    return (c, d)\nself.out = str(f(*b, x=a, **{'y': 1}))",
    "aug": "xs = [1]\nxs += [2]\nxs *= 3\nd = {'a': 1}\nd['a'] += 5\nd |= {'b': 2}\nself.out = str(xs) + str(d)",
    "rows": "for a in range(5):\n    self.rows.put(Row(str(a), a))\nself.rows.remove(self.rows.names()[1])\n"
    "self.out = str([row.n for row in self.rows])",
    "itertools": "self.out = str(list(product('ab', range(2)))) + str(list(accumulate([1, 2, 3])))",
    "dataclasses": "self.out = str(Point(1, 2) == Point(1, 2)) + str(Point(1, 2)) + str(len({Point(1, 2), Point(1, 2)}))",
    "failing": "[1][2]",
    "refusing": "raise Closed(1, 'x')",
    "running on": "while True:\n    pass",
    "running on in a generator": "any(a < 0 for a in range(10**9))",
    "recursing": "def down(n):\n    return down(n + 1)\ndown(0)",
    "nesting": "a = []\nfor n in range(10000):\n    a = [a]\nstr(a)",
    "growing": "a = 'x'\nwhile True:\n    a += a",
    "printing": "print('x', 1, [2])",
    "walrus": "self.out = str([b for a in range(5) if (b := a * 2) > 3])",
    "boolean": "self.out = str(0 < ctx.index < 10 and not [] or 'x')",
    "alarms": "ids = [ctx.after(timedelta(seconds=n), self.ring, n) for n in range(4)]\nctx.cancel(ids[1])\n"
    "ids.append(ctx.every(timedelta(1), self.ring, 0))\nself.out = str(ids)\nctx.at(ctx.now, self.ring, 7, id='x')",
    "asks": "self.out = ctx.ask(ctx.sender, 'how?', self.told, timedelta(days=1))",
    "blobs": "for a in range(5):\n    self.files.append(Blob(str(a % 3).encode(), 'text/plain'))\nself.files.pop(0)\n"
    "self.out = f'{self.files[0]} {self.files[1].hash} {self.files[2].data} {self.files[0] == self.files[3]}'",
    "try finally": "try:\n    self.out = 'a'\nfinally:\n    self.out += 'b'",
}
TOP = """
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from itertools import accumulate, product
from cluster import Blob, Command, Document, Maybe, Record, Refused, Table, anyone, field, on

class Colour(Enum):
    RED = "red"

class Word(StrEnum):
    A = "a"

@dataclass(frozen=True)
class Point:
    x: int
    y: int

class Row(Record):
    name: str
    n: int

class Closed(Refused):
    '''Too late.'''

class Stage(Document):
    gate = anyone
    out: str = field.public("")
    rows: Table[Row] = field.public()
    files: list[Blob] = field.public()

    @on.alarm
    def ring(self, ctx: Command, n: int) -> None:
        self.out += str(n)

    @on.answer
    def told(self, ctx: Command, value: Maybe[str]) -> None:
        self.out += value.get("?")

    @on.message
    def go(self, ctx: Command) -> str:
"""


def shown_in(path: pathlib.Path, name: str) -> dict[str, str]:
    """A table of another test file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            found = {ast.literal_eval(key): "" for key in node.value.keys if key is not None}  # type: ignore[attr-defined]
            return found
    raise LookupError(name)


def main() -> None:
    bodies = dict(HANDLERS)
    for expression in shown_in(pathlib.Path(__file__).with_name("test_escapes.py"), "SHOWN"):
        if not any(name in expression for name in ("helper", "Plain", "Color")):
            bodies[expression] = f"self.out = {expression}"
    for name, body in bodies.items():
        source = TOP + textwrap.indent(body, " " * 8) + "\n        return self.out\n"
        program = BundleLoader().load(bundle.from_source(source).encode())
        instance = program.new(DocumentId("stage", "one"))
        for index, channel in enumerate(("", "go", "go"), 1):
            seed = hashlib.blake2b(bytes([index]), digest_size=32).digest()
            command = Invocation(channel, b"{}", Principal("alice", "acme"), 1_700_000_000_000 + index, seed, index)
            outcome = instance.run(command)
            digest = hashlib.blake2b(outcome.writes + instance.dump(), digest_size=8).hexdigest()
            print(json.dumps([name, outcome.code.name, outcome.answer.decode(), outcome.steps, digest]))
    upgrades()
    repairs()


REPAIRS: list[tuple[str, str, object]] = [
    ("replace", "/out", "by hand"),
    ("replace", "/out", 7),
    ("add", "/rows/-", {"name": "s", "n": 2**53 - 1}),
    ("add", "/rows/00000000000000ff", {"name": "t", "n": 1}),
    ("add", "/rows/00000000000000FF", {"name": "t", "n": 1}),
    ("replace", "/rows", {"0000000000000001": {"name": "u", "n": "9007199254740993"}}),
    ("add", "/rows/-", {"name": "v", "n": 1.0}),
]


def repairs() -> None:
    """What operators' patches come to, and why those that do not fit are refused."""
    instance = (
        BundleLoader().load(bundle.from_source(f"{TOP}        return self.out\n").encode()).new(DocumentId("stage", "one"))
    )
    instance.run(Invocation("", b"{}", Principal("alice", "acme"), 1_700_000_000_000, bytes(32), 1))
    for index, (name, path, value) in enumerate(REPAIRS, 2):
        order = json.dumps({"patch": [{"op": name, "path": path, "value": value}], "reason": "to see"}).encode()
        seed = hashlib.blake2b(bytes([index]), digest_size=32).digest()
        command = Invocation(REPAIR_CHANNEL, order, Principal("root", "acme"), 1_700_000_000_000, seed, index)
        refused, writes = "", b""
        try:
            instance.check_repair(command)
            writes = instance.repair(command).writes
        except ClusterError as error:
            refused = f"{error.reason} {error.message}"
        print(json.dumps(["repair", path, refused, hashlib.blake2b(writes + instance.dump(), digest_size=8).hexdigest()]))


UPGRADES = {
    "copies": "self.out = before.out + str(ctx.now)",
    "builds": "for row in before.rows:\n    self.out += row.name * row.n\nself.rows.put(Row(str(ctx.new_id()), 1))",
    "draws": "self.out = str(ctx.random.below(1000))",
    "fails": "self.out = str(1 // 0)",
    "refuses": "raise Closed()",
    "never ends": "while True:\n    self.out += 'x'",
}


def upgrades() -> None:
    """What hooks come to."""
    body = "self.out = 'old'\nself.rows.put(Row('r', 2))"
    first = BundleLoader().load(
        bundle.from_source(f"{TOP}{textwrap.indent(body, ' ' * 8)}\n        return self.out\n").encode()
    )
    instance = first.new(DocumentId("stage", "one"))
    for index, channel in enumerate(("", "go"), 1):
        instance.run(Invocation(channel, b"{}", Principal("alice", "acme"), 1_700_000_000_000, bytes(32), index))
    for name, hook in UPGRADES.items():
        source = TOP.replace("class Stage(Document)", "class Stage(Document, version=2)").replace(
            "Command,", "Before, Command,", 1
        )
        lead = "    @on.upgrade(since=1)\n    def lead(self, ctx: Command, before: Before) -> None:\n" + textwrap.indent(
            hook, " " * 8
        )
        source = source.replace("    @on.alarm", f"{lead}\n\n    @on.alarm", 1) + "        return self.out\n"
        second = BundleLoader().load(bundle.from_source(source).encode())
        order = Invocation(UPGRADE_CHANNEL, b"{}", Principal("upgrade", "moot"), 1_700_000_000_003, bytes(range(32)), 3)
        upgraded, outcome = second.upgrade(DocumentId("stage", "one"), instance.dump(), first, order)
        state = upgraded.dump() if upgraded is not None else b""
        digest = hashlib.blake2b(outcome.writes + state, digest_size=8).hexdigest()
        print(json.dumps(["upgrade", name, outcome.code.name, outcome.error, outcome.steps, digest]))


if __name__ == "__main__":
    main()
