"""Handlers that would run, grow or recurse without end cost their budget, in bounded time and memory, and nothing else."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable

import pytest

from cluster.documents.runtime import Code, Outcome

SECONDS_MAX = 3.0
MEMORY_MAX = 512 * 1024 * 1024

Handler = Callable[..., Outcome]

WITHOUT_END = {
    "loop": "while True:\n    pass",
    "loop that continues": "while True:\n    continue",
    "for over range": "for number in range(10**18):\n    pass",
    "nested loops": "for a in range(10**4):\n    for b in range(10**4):\n        pass",
    "comprehension": "[number for number in range(10**18)]",
    "nested comprehension": "[a for a in range(10**6) for b in range(10**6)]",
    "comprehension without a result": "[a for a in range(10**18) if False]",
    "generator": "sum(number for number in range(10**18))",
    "dictionary comprehension": "{number: number for number in range(10**18)}",
    "set comprehension": "{number for number in range(10**18)}",
    "list of range": "list(range(10**12))",
    "tuple of range": "tuple(range(10**12))",
    "sum of range": "sum(range(10**12))",
    "max of range": "max(range(10**12))",
    "sorted range": "sorted(range(10**9))",
    "any of range": "any(range(0, 1)) or any(0 for number in range(10**12))",
    "set of range": "set(range(10**12))",
    "dictionary from keys": "dict.fromkeys(range(10**12))",
    "star in a display": "[*range(10**12)]",
    "star in a call": "print(*range(10**12))",
    "star in an assignment": "first, *rest = range(10**12)",
    "list times number": "[0] * 10**12",
    "list times number in place": "xs = [0]\nxs *= 10**12",
    "number times list": "10**12 * [0]",
    "string times number": "'x' * 10**12",
    "bytes of a length": "bytes(10**12)",
    "bytes times number": "b'x' * 10**12",
    "string doubling": "text = 'x'\nwhile True:\n    text = text + text",
    "string doubling in place": "text = 'x'\nwhile True:\n    text += text",
    "list doubling": "xs = [1]\nwhile True:\n    xs += xs",
    "list doubling by extend": "xs = [1]\nwhile True:\n    xs.extend(xs)",
    "list doubling by slice": "xs = [1]\nwhile True:\n    xs[0:0] = xs",
    "list growth while iterating": "xs = [1]\nfor x in xs:\n    xs.append(x)",
    "comprehension that grows its source": "xs = [1]\n[xs.append(x) for x in xs]",
    "f-string width": "f'{1:1000000000000}'",
    "f-string computed width": "width = 10**12\nf'{1:{width}}'",
    "f-string precision": "f'{1.5:.999999999}'",
    "f-string of one string many times": "text = 'x' * 100000\nwhile True:\n    text = f'{text}{text}'",
    "percent width": "'%1000000000000d' % 1",
    "format width": "'{:1000000000000}'.format(1)",
    "format computed width": "'{:{}}'.format(1, 10**12)",
    "ljust": "'x'.ljust(10**12)",
    "zfill": "'1'.zfill(10**12)",
    "center unbound": "str.center('x', 10**12)",
    "center through a variable": "pad = 'x'.center\npad(10**12)",
    "center through map": "list(map('x'.center, [10**12]))",
    "expandtabs": "'\\t'.expandtabs(10**12)",
    "replace": "'x' .join([''] * 100000).replace('x', 'y' * 100000)",
    "join": "('x' * 100000).join([''] * 100000)",
    "join of range": "','.join(str(number) for number in range(10**12))",
    "to_bytes": "(1).to_bytes(10**12, 'big')",
    "sort again and again": "xs = list(range(100000))\nwhile True:\n    xs.sort(key=lambda x: -x)",
    "search again and again": "xs = list(range(100000))\nwhile True:\n    10**9 in xs",
    "count again and again": "xs = [0] * 1000000\nwhile True:\n    xs.count(1)",
    "insert in front again and again": "xs = [0] * 1000000\nwhile True:\n    xs.insert(0, 1)",
    "pop in front again and again": "xs = [0] * 1000000\nwhile True:\n    xs.pop(0)\n    xs.append(1)",
    "delete in front again and again": "xs = [0] * 1000000\nwhile True:\n    del xs[0]\n    xs.append(1)",
    "copy by slice": "xs = [0] * 1000000\nwhile True:\n    ys = xs[:]",
    "compare again and again": "a = [0] * 1000000\nb = [0] * 1000000\nwhile True:\n    a == b",
    "strings compared in a search": "a = 'x' * 1000000\nxs = [a + 'y'] * 1000000\na + 'z' in xs",
    "dictionary merged again and again": "d = {n: n for n in range(10000)}\nwhile True:\n    e = d | d",
    "reversed copy": "xs = [0] * 1000000\nwhile True:\n    list(reversed(xs))",
    "int of text again and again": "text = '1' * 600\nwhile True:\n    int(text)",
    "text of int again and again": "n = 10**600\nwhile True:\n    str(n)",
    "multiply again and again": "n = 10**300\nwhile True:\n    n * n",
    "decimal functions": "from decimal import Decimal\nd = Decimal('1.23456789012345678901')\nwhile True:\n    d.ln()",
    "decimal powers": "from decimal import Decimal\nd = Decimal('1.23456789012345678901')\nwhile True:\n    d ** 999",
    "long decimals": "from decimal import Decimal\nd = Decimal('9' * 1000)\nwhile True:\n    d / d",
    "long divisions": "n = 3 ** 1200\nm = 7 ** 300\nwhile True:\n    n // m",
    "modular powers": "n = 3 ** 1200\nm = 7 ** 700\nwhile True:\n    pow(n, n, m)",
    "itertools count": "from itertools import count\nfor n in count():\n    pass",
    "itertools product": "from itertools import product\nlist(product(range(10), repeat=30))",
    "itertools permutations": "from itertools import permutations\nlist(permutations(range(20)))",
    "zip of itself": "list(zip(range(10**12), range(10**12)))",
    "enumerate": "list(enumerate(range(10**12)))",
    "map": "list(map(str, range(10**12)))",
    "filter": "list(filter(None, range(10**12)))",
    "exponential sharing, compared": "a = [1]\nb = [1]\nfor n in range(60):\n    a = [a, a]\n    b = [b, b]\na == b",
    "exponential sharing, shown": "a = [1]\nfor n in range(60):\n    a = [a, a]\nstr(a)",
    "text field growth": "while True:\n    self.title = self.title + 'x' * 1000",
    "print": "while True:\n    print('x' * 1000)",
    "nested quantifiers": "while True:\n    'a,b,c'.split(',')",
    "match star": "xs = [0] * 1000000\nwhile True:\n    match xs:\n        case [first, *rest]:\n            pass",
    "shuffle": "xs = list(range(100000))\nwhile True:\n    ctx.random.shuffle(xs)",
    "random bytes": "ctx.random.bytes(10**12)",
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_work_without_end_uses_up_the_steps_and_is_rolled_back(handler: Handler, name: str) -> None:
    body = WITHOUT_END[name]
    top = ""
    if body.startswith("from "):
        top, _, body = body.partition("\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.process_time()
    outcome = handler(body, top=top)
    elapsed = time.process_time() - started
    assert outcome.code is Code.BUDGET, (outcome.code, outcome.answer, outcome.error)
    assert json.loads(outcome.answer) == {"limit": "steps"}
    assert outcome.steps == 1_000_000
    assert elapsed < SECONDS_MAX
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory < MEMORY_MAX
