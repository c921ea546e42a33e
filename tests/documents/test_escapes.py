"""Ways out that only show when code runs: each ends as a bug of the handler, or gives what a document may know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents.runtime import Code, Outcome

Handler = Callable[..., Outcome]

REFUSED_WHEN_RUN = {
    "format attribute": "return '{0.sender}'.format(ctx)",
    "format special attribute": "return '{0.__class__}'.format(self)",
    "format item": "return '{0[0]}'.format(['x'])",
    "format computed template": "t = '{0.' + '__class__}'\nreturn t.format(self)",
    "format unbound": "return str.format('{0.sender}', ctx)",
    "format through a variable": "f = '{0.sender}'.format\nreturn f(ctx)",
    "format in a specification": "return '{0:{1.sender}}'.format(1, ctx)",
    "percent star": "return '%*d' % (5, 1)",
    "clock through a variable": "from datetime import datetime\nclock = datetime.now\nreturn str(clock())",
    "clock through an alias": "from datetime import datetime as D\nclock = D.now\nreturn str(clock())",
    "zone through a variable": "local = ctx.now.astimezone\nreturn str(local())",
    "locale in a format": "return f'{ctx.now:%c}'",
    "locale number": "return f'{1:n}'",
    "class attribute": "Plain.kept = 1\nreturn ''",
    "class attribute through a variable": "kind = Plain\nkind.kept = 1\nreturn ''",
    "class attribute in place": "Plain.count += 1\nreturn ''",
    "class attribute deleted": "del Plain.count\nreturn ''",
    "class attribute through self": "Plain.keep(Plain)\nreturn ''",
    "class attribute of the document": "Stage.kept = 1\nreturn ''",
    "document class as self": "Stage.keep(Stage)\nreturn ''",
    "function attribute": "helper.kept = 1\nreturn ''",
    "method attribute": "self.go.kept = 1\nreturn ''",
    "enumeration member": "Color.RED.kept = 1\nreturn ''",
    "module attribute": "import math\nmath.pi = 3\nreturn ''",
    "undeclared attribute": "self.kept = 1\nreturn ''",
    "float to a broken power": "return str(2.0 ** 0.3)",
    "number that is too long": "n = 2 ** 2048\nreturn ''",
    "number that grows": "n = 1\nwhile True:\n    n = n * 3",
    "number by shift": "return str(1 << 10**9)",
    "number by power": "return str(10 ** 10**9)",
    "number of text": "return str(int('9' * 700))",
    "number of a decimal": "from decimal import Decimal\nreturn str(int(Decimal('1e999999')))",
    "decimal of a long text": "from decimal import Decimal\nreturn str(Decimal('9' * 100000))",
    "decimal of a long text through the module": "import decimal\nreturn str(decimal.Decimal('9' * 100000))",
    "decimal of a long text through a variable": "from decimal import Decimal\nd = Decimal\nreturn str(d('9' * 100000))",
    "floor of a decimal": "from decimal import Decimal\nfrom math import floor\nreturn str(floor(Decimal('1e999999')))",
    "round of a decimal": "from decimal import Decimal\nreturn str(round(Decimal('1e999999')))",
    "factorial": "from math import factorial\nreturn str(factorial(10**9))",
    "comb": "from math import comb\nreturn str(comb(10**9, 10**8))",
    "number by bytes": "return str(int.from_bytes(bytes(1000), 'big'))",
    "foreign digits": "return str(int('\\u0663'))",
    "raise of something else": "raise 5",
}
TOP = """
from enum import Enum
class Plain:
    count = 0
    def keep(self):
        self.kept = 1
class Color(Enum):
    RED = 1
def helper():
    return 1
"""


@pytest.mark.parametrize("name", REFUSED_WHEN_RUN)
def test_what_would_escape_fails_and_changes_nothing(handler: Handler, name: str) -> None:
    outcome = handler(REFUSED_WHEN_RUN[name], top=TOP, result="str")
    assert outcome.code is Code.FAILED, outcome


SHOWN = {
    "str(helper)": "<function>",
    "str(self.go)": "<method>",
    "repr(self)": "<Stage>",
    "str([Plain()])": "[<Plain>]",
    "f'{Plain()}'": "<Plain>",
    "'%s' % Plain()": "<Plain>",
    "'{}'.format(Plain())": "<Plain>",
    "str(x for x in [])": "<Lazy>",
    "str(map(str, []))": "<Lazy>",
    "str(Plain)": "<class 'Plain'>",
    "str({1: Plain()})": "{1: <Plain>}",
    "str({'b', 'a', 'c'})": "{'b', 'a', 'c'}",
    "str(set())": "set()",
    "str(Color.RED)": "Color.RED",
    "f'{Color.RED}'": "Color.RED",
    "repr(Color.RED)": "<Color.RED: 1>",
    "str(1.0) + str(10**20) + str(True) + str(None)": "1.01" + "0" * 20 + "TrueNone",
    "'{:>5}|{!r}|{a}'.format('x', 'y', a=3)": "    x|'y'|3",
    "'%5.2f|%-4d|%s|%r|%%' % (1.5, 7, 'x', 'y')": " 1.50|7   |x|'y'|%",
    "'%(a)s' % {'a': 1}": "1",
    "f'{1.5:.3f}{7:05d}{\"x\":>3}'": "1.50000007  x",
    "str(sum([0.1] * 10))": "0.9999999999999999",
    "str(2.0 ** 3) + str(2 ** -1) + str(4.0 ** 0.5)": "8.00.52.0",
    "'Straße ÄÖ'.upper() + 'İ'.lower()": "STRASSE ÄÖi̇",
    "','.join(x for x in 'abc')": "a,b,c",
    "str(sorted({3, 1, 2}, key=lambda n: -n))": "[3, 2, 1]",
    "str(list({1: 2}.items() | {3: 4}.items()))": "[(1, 2), (3, 4)]",
    "str({1: 2}.keys() & {1: 3}.keys())": "{1}",
    "str(list(zip([1], [2])) + list(enumerate('a')))": "[(1, 2), (0, 'a')]",
    "str(isinstance(1, int)) + str(isinstance('', (str, bytes)))": "TrueTrue",
    "str([1, 2, 3, 4][1:3]) + 'abcd'[::-1]": "[2, 3]dcba",
    "str(list(map(int, ['1', '2'])))": "[1, 2]",
    "str(dict(a=1) | {'b': 2})": "{'a': 1, 'b': 2}",
    "str(round(2.675, 2)) + str(round(2.5))": "2.672",
    "str(b'ab' + b'c')": "b'abc'",
    "str(dict.get({1: 2}, 1)) + str.upper('x') + str(list(map(str.lower, ['A'])))": "2X['a']",
    "str({1: 2}.get(*[1, 5])) + str({}.get(1)) + str({}.pop(1, 2))": "2None2",
    "str(ctx.sender) + str(ctx.now) + str(ctx.index)": "alice@acme2023-11-14 22:13:20+00:002",
    "int('12', 16).to_bytes(2, 'big').hex()": "0012",
    "str(min([3, 1], key=lambda n: -n)) + str(max(1, 2)) + str(max([], default=0))": "320",
    "str(any(n > 1 for n in [1, 2])) + str(all([]))": "TrueTrue",
    "str(list(filter(None, [0, 1])) + list(reversed([1, 2])))": "[1, 2, 1]",
    "str(next((n for n in [1, 2] if n > 1), 0))": "2",
    "str('a' in {'a', 'b'}) + str(2 not in [1]) + str('b' in 'abc')": "TrueTrueTrue",
}


@pytest.mark.parametrize("expression", SHOWN)
def test_values_show_the_same_in_every_process(handler: Handler, expression: str) -> None:
    """Default texts hold addresses, sets are in hash order, sums of floats differ between Pythons."""
    outcome = handler(f"return {expression}", top=TOP, result="str")
    assert outcome.code is Code.OK, outcome
    assert json.loads(outcome.answer) == SHOWN[expression]


def test_messages_of_the_interpreter_are_not_shown_and_the_authors_are(handler: Handler) -> None:
    """The interpreter words its errors differently from version to version."""
    body = """
        shown = []
        try:
            {}["x"]
        except KeyError as error:
            shown.append(str(error))
            shown.append(str(error.args))
            shown.append(repr(error))
        try:
            raise ValueError("mine", 2)
        except ValueError as error:
            shown.append(str(error.args))
            shown.append(f"{error!r}")
        return "|".join(shown)
    """
    outcome = handler(body, result="str")
    assert json.loads(outcome.answer) == "KeyError|()|KeyError()|('mine', 2)|ValueError('mine', 2)"


def test_raising_again_does_not_reveal_the_interpreters_message(handler: Handler) -> None:
    body = """
        try:
            try:
                int("x")
            except ValueError as error:
                raise error
        except ValueError as again:
            return str(again)
    """
    assert json.loads(handler(body, result="str").answer) == "ValueError"


def test_a_handler_can_not_reach_an_earlier_command(stage: Callable[..., Any]) -> None:
    document = stage(
        """
        from cluster import Command, Document, anyone, field, on
        class Stage(Document):
            gate = anyone
            names: list[str] = field.public([])
            @on.message
            def go(self, ctx: Command, name: str) -> list[str]:
                self.names.append(name)
                return list(self.names)
        """
    )
    assert document.answer("go", name="a") == ["a"]
    assert document.answer("go", name="b") == ["a", "b"]
    assert document.view() == {"names": ["a", "b"]}
