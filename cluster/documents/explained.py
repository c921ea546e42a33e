"""Every reason not to deploy, explained: what the rule is for, code that breaks it, and the same code repaired.

`page()` is docs/authoring/refusals.md; a test compares the two, and breaks every rule to read its error.

Invariant: every code that a finding can have is here; each `broken` is refused for that code, each `repaired` is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import Final

HEADER: Final = "from cluster import Command, Document, Principal, Record, Refused, Table, anyone, field, on, read\n"


@dataclass(frozen=True, slots=True)
class Explanation:
    """code: as findings name it. rule: for people. broken, repaired: modules, without the line that imports from cluster.
    entry: which class is meant, where there are several.
    """

    code: str
    rule: str
    broken: str
    repaired: str
    entry: str = ""


def _stage(body: str, *, top: str = "", fields: str = "    notes: list[str] = field.public()\n") -> str:
    """A document whose one handler has this body."""
    handler = f"    @on.message\n    def act(self, ctx: Command) -> None:\n{indent(body, ' ' * 8)}\n"
    return f"{top}\n\nclass Stage(Document):\n    gate = anyone\n\n{fields}\n{handler}".lstrip("\n")


def _class(body: str, name: str = "Stage") -> str:
    return f"class {name}(Document):\n{indent(body, ' ' * 4)}\n"


EXPLANATIONS: Final = (
    Explanation(
        "ambient-time",
        "Replay must see the time that the command saw. `ctx.now` is the position's time, the same on every replica.",
        _stage("self.notes.append(str(time.time()))", top="import time"),
        _stage("self.notes.append(ctx.now.isoformat())"),
    ),
    Explanation(
        "randomness",
        "Replicas must draw the same. `ctx.random` and `ctx.new_id()` follow from the command's seed; no client can guess it.",
        _stage("self.notes.append(str(random.random()))", top="import random"),
        _stage("self.notes.append(str(ctx.random.below(6)))"),
    ),
    Explanation(
        "input-output",
        "A handler runs on every replica, and again in every replay: what it does to the world would happen as often.",
        _stage("self.notes.append(open('notes.txt').read())"),
        _class(
            "gate = anyone\n\nnotes: list[str] = field.public()\n\n"
            "@on.message\ndef act(self, ctx: Command, text: str) -> None:\n    self.notes.append(text)"
        ),
    ),
    Explanation(
        "threads",
        "Commands of a document run one at a time; there is nothing to wait for and nothing to lock.",
        _stage("threading.Thread(target=self.notes.clear).start()", top="import threading"),
        _stage("self.notes.clear()"),
    ),
    Explanation(
        "async",
        "A handler is one transaction and does not wait. What takes time is asked of a worker, whose answer is a command.",
        _class("gate = anyone\n\n@on.message\nasync def act(self, ctx: Command) -> None:\n    pass"),
        _class("gate = anyone\n\n@on.message\ndef act(self, ctx: Command) -> None:\n    pass"),
    ),
    Explanation(
        "regular-expression",
        "The cost of a match can not be bounded before it runs.",
        _stage("self.notes = [note for note in self.notes if re.match('[a-z]', note)]", top="import re"),
        _stage("self.notes = [note for note in self.notes if note[:1].islower()]"),
    ),
    Explanation(
        "reflection",
        "Names that are made while a command runs could reach what no rule has looked at.",
        _stage("getattr(self, 'notes').clear()"),
        _stage("self.notes.clear()"),
    ),
    Explanation(
        "import",
        "Only modules that are the same everywhere and have no effects can be imported; the rest belongs into the bundle.",
        _stage("self.notes.append(json.dumps({}))", top="import json"),
        _stage("self.notes.append('{}')"),
    ),
    Explanation(
        "builtin",
        "Built-in names that end processes, or that only make sense outside a document, are not there.",
        _stage("raise KeyboardInterrupt"),
        _stage("raise ValueError('not now')"),
    ),
    Explanation(
        "hash",
        "`hash` of a string differs from process to process.",
        _stage("self.notes.append(str(hash('a')))"),
        _stage("self.notes.append('a')"),
    ),
    Explanation(
        "identity",
        "`id` is an address in memory.",
        _stage("self.notes.append(str(id(self)))"),
        _stage("self.notes.append(str(ctx.new_id()))"),
    ),
    Explanation(
        "platform",
        "What depends on the machine's language, time zone or Unicode tables differs between replicas.",
        _stage("self.notes.append(ctx.now.strftime('%A'))"),
        _stage("self.notes.append(ctx.now.isoformat())"),
    ),
    Explanation(
        "module-mutable",
        "What a module holds would be shared by all documents and could be left from one command to the next.",
        _stage("seen.append('a')", top="seen = []"),
        _stage("self.notes.append('a')"),
    ),
    Explanation(
        "mutable-default",
        "A default value is made once and shared by all calls.",
        _stage("self.notes.extend(more())", top="def more(found=[]):\n    return found"),
        _stage("self.notes.extend(more())", top="def more(found=()):\n    return found"),
    ),
    Explanation(
        "global",
        "A module must not change while documents run.",
        _stage("global count\ncount = 1", top="count = 0"),
        _stage("self.count += 1", fields="    count: int = field.public(0)\n"),
    ),
    Explanation(
        "nonlocal",
        "Variables of a closure would outlive the command.",
        _stage("total = 0\ndef add() -> None:\n    nonlocal total\n    total += 1\nadd()"),
        _stage("def one() -> int:\n    return 1\ntotal = one()\nself.notes.append(str(total))"),
    ),
    Explanation(
        "generator",
        "A suspended function would outlive its caller. Generator expressions are fine.",
        _stage("self.notes.extend(names())", top="def names():\n    yield 'a'"),
        _stage("self.notes.extend(name for name in ('a', 'b'))"),
    ),
    Explanation(
        "top-level",
        "Modules and classes declare. What they did when they were loaded would be done at different times on every node.",
        _stage("pass", top="print('loaded')"),
        _stage("print('running')"),
    ),
    Explanation(
        "with",
        "A document has nothing to open, so nothing to close.",
        _stage("with self.notes as notes:\n    notes.clear()"),
        _stage("self.notes.clear()"),
    ),
    Explanation(
        "bare-except",
        "It would catch the end of the budget. `except Exception` does not.",
        _stage("try:\n    self.notes.pop()\nexcept:\n    pass"),
        _stage("try:\n    self.notes.pop()\nexcept IndexError:\n    pass"),
    ),
    Explanation(
        "finally",
        "Leaving a finally block swallows what was raised, refusals and budgets included.",
        _stage("for note in self.notes:\n    try:\n        self.notes.remove(note)\n    finally:\n        break"),
        _stage("for note in self.notes:\n    self.notes.remove(note)\n    break"),
    ),
    Explanation(
        "exception-group",
        "Exception groups are for concurrent work, which a document does not have.",
        _stage("try:\n    self.notes.pop()\nexcept* IndexError:\n    pass"),
        _stage("try:\n    self.notes.pop()\nexcept IndexError:\n    pass"),
    ),
    Explanation(
        "special-name",
        "Names with two underscores reach the interpreter's own objects.",
        _stage("self.notes.append(self.__class__.__name__)"),
        _stage("self.notes.append('Stage')"),
    ),
    Explanation(
        "private-name",
        "Names with an underscore that the bundle does not define itself belong to the runtime.",
        _stage("self.notes.append(str(ctx._seed))"),
        _stage("self.notes.append(str(ctx.index))"),
    ),
    Explanation(
        "reserved-name",
        "Attributes named `on`, `read` or `field` would hide the namespaces for everything below them.",
        _class("gate = anyone\n\n@on.message\ndef read(self, ctx: Command) -> None:\n    pass"),
        _class("gate = anyone\n\n@on.message\ndef look(self, ctx: Command) -> None:\n    pass"),
    ),
    Explanation(
        "shadowing",
        "Work on built-in types is counted by their names, so the names must mean them.",
        _stage("list = self.notes\nlist.clear()"),
        _stage("notes = self.notes\nnotes.clear()"),
    ),
    Explanation(
        "nested-class",
        "A class that is made while a command runs is another one each time.",
        _stage("class Note:\n    pass"),
        _stage("self.notes.append(Note('a').text)", top="class Note(Record):\n    text: str"),
    ),
    Explanation(
        "base-class",
        "A subclass of a built-in container would step around the budget and the undo.",
        _stage("pass", top="class Notes(list):\n    pass"),
        _stage("pass", top="class Notes(Record):\n    texts: list[str]"),
    ),
    Explanation(
        "property",
        "`property`, `staticmethod` and `classmethod` are decorators here, not functions to call.",
        _class("gate = anyone\n\ndef whole(self) -> int:\n    return 1\n\ntotal = property(whole)"),
        _class("gate = anyone\n\n@property\ndef total(self) -> int:\n    return 1"),
    ),
    Explanation(
        "super",
        "`super()` finds its class by itself; arguments could name another.",
        _stage("super(Stage, self).gate(ctx.sender)"),
        _stage("pass"),
    ),
    Explanation(
        "pattern",
        "Attributes that are methods of built-in types are counted when called; a pattern would take them uncounted.",
        _stage("match 'x':\n    case str(join=join):\n        pass"),
        _stage("match 'x':\n    case str():\n        pass"),
    ),
    Explanation(
        "starred-target",
        "Unpacking with a star in a comprehension copies without being counted.",
        _stage("self.notes = [first for first, *rest in (('a', 'b'),)]"),
        _stage("self.notes = [pair[0] for pair in (('a', 'b'),)]"),
    ),
    Explanation(
        "chained-membership",
        "`a in b in c` means `a in b and b in c`, which is hardly what was meant.",
        _stage("if 'a' in self.notes in ([], []):\n    self.notes.clear()"),
        _stage("if 'a' in self.notes:\n    self.notes.clear()"),
    ),
    Explanation(
        "complex",
        "Complex numbers are no state and have no JSON.",
        _stage("self.notes.append(str(1j))"),
        _stage("self.notes.append(str((0.0, 1.0)))"),
    ),
    Explanation(
        "long-number",
        "Arithmetic on numbers without a bound has a cost without a bound.",
        _stage(f"self.notes.append(str({10**700}))"),
        _stage("self.notes.append(str(10**9))"),
    ),
    Explanation(
        "syntax",
        "The bundle must be Python that every supported release understands the same way.",
        "class Stage(Document)\n    gate = anyone\n",
        _class("gate = anyone"),
    ),
    Explanation(
        "gate",
        "A class must say who may connect, even if everybody may.",
        _class("notes: list[str] = field.public()"),
        _class("gate = anyone\n\nnotes: list[str] = field.public()"),
    ),
    Explanation(
        "construct",
        "A document is constructed one way.",
        _class(
            "gate = anyone\n\n@on.construct\ndef one(self, ctx: Command) -> None:\n    pass\n\n"
            "@on.construct\ndef two(self, ctx: Command) -> None:\n    pass"
        ),
        _class("gate = anyone\n\n@on.construct\ndef one(self, ctx: Command) -> None:\n    pass"),
    ),
    Explanation(
        "connection",
        "One handler hears of those who come, one of those who go: with two it would not be said in which order.",
        _class(
            "gate = anyone\n\nguests: list[Principal] = field.public()\n\n"
            "@on.connect\ndef arrive(self, ctx: Command) -> None:\n    self.guests.append(ctx.sender)\n\n"
            "@on.connect\ndef greet(self, ctx: Command) -> None:\n    self.guests.append(ctx.sender)"
        ),
        _class(
            "gate = anyone\n\nguests: list[Principal] = field.public()\n\n"
            "@on.connect\ndef arrive(self, ctx: Command) -> None:\n    self.guests.append(ctx.sender)"
        ),
    ),
    Explanation(
        "http-route",
        "At most one handler takes a request, and its path says so: /static is for files, names in braces are parameters.",
        _class(
            'gate = anyone\n\n@read.http("/feed/{page}")\ndef feed(self, page: int) -> str:\n    return "feed"\n\n'
            '@read.http("/feed/{name}")\ndef named(self, name: str) -> str:\n    return name'
        ),
        _class(
            'gate = anyone\n\n@read.http("/feed/{page}")\ndef feed(self, page: int) -> str:\n    return "feed"\n\n'
            '@read.http("/named/{name}")\ndef named(self, name: str) -> str:\n    return name'
        ),
    ),
    Explanation(
        "signature",
        "Parameters are the wire schema of a handler, so each needs a name; `ctx` comes first.",
        _class("gate = anyone\n\n@on.message\ndef act(self, text: str) -> None:\n    pass"),
        _class("gate = anyone\n\n@on.message\ndef act(self, ctx: Command, text: str) -> None:\n    pass"),
    ),
    Explanation(
        "annotation",
        "Every field, parameter and result has a type that state can hold: that is its schema.",
        _class("gate = anyone\n\nnotes: object = field.public()"),
        _class("gate = anyone\n\nnotes: list[str] = field.public()"),
    ),
    Explanation(
        "default",
        "A default must be a value of its parameter's type.",
        _class("gate = anyone\n\n@on.message\ndef act(self, ctx: Command, count: int = 'one') -> None:\n    pass"),
        _class("gate = anyone\n\n@on.message\ndef act(self, ctx: Command, count: int = 1) -> None:\n    pass"),
    ),
    Explanation(
        "policy",
        "Who may see a value is decided by a function that is marked as a policy, so it can not write.",
        _class(
            "gate = anyone\n\ndef everybody(self, who: Principal) -> bool:\n    return True\n\n"
            "notes: list[str] = field.visible(everybody)"
        ),
        _class(
            "gate = anyone\n\n@read.policy\ndef everybody(self, who: Principal) -> bool:\n    return True\n\n"
            "notes: list[str] = field.visible(everybody)"
        ),
    ),
    Explanation(
        "view",
        "A view is shown beside the fields, so it needs a name of its own.",
        _class("count: int = field.public(0)", "Base")
        + "\n\nclass Stage(Base):\n    gate = anyone\n\n    @read.view\n    def count(self) -> int:\n        return 1\n",
        _class("count: int = field.public(0)", "Base")
        + "\n\nclass Stage(Base):\n    gate = anyone\n\n    @read.view\n    def more(self) -> int:\n        return 2\n",
        "document:Stage",
    ),
    Explanation(
        "channel",
        "The name of a handler is the name of its channel, at most 63 letters, digits and underscores, a letter first.",
        _class("gate = anyone\n\n@on.message\ndef _act(self, ctx: Command) -> None:\n    pass"),
        _class("gate = anyone\n\n@on.message\ndef act(self, ctx: Command) -> None:\n    pass"),
    ),
    Explanation(
        "write-in-read",
        "What is under `@read` is asked whenever somebody looks, on any node, and may not change anything.",
        _class(
            "gate = anyone\n\nlooks: int = field.public(0)\n\n@read.view\ndef seen(self) -> int:\n"
            "    self.looks += 1\n    return self.looks"
        ),
        _class(
            "gate = anyone\n\nlooks: int = field.public(0)\n\n@on.message\ndef look(self, ctx: Command) -> int:\n"
            "    self.looks += 1\n    return self.looks"
        ),
    ),
    Explanation(
        "event",
        "Who hears of an event hears all of it; whom it is for is said with `ctx.emit(event, to=policy)`.",
        "from cluster import Event\n\nclass Rolled(Event):\n    face: int\n    seed: int = field.private(0)\n\n"
        + _class("gate = anyone"),
        "from cluster import Event\n\nclass Rolled(Event):\n    face: int\n\n" + _class("gate = anyone"),
    ),
    Explanation(
        "presence",
        "What connections show each other is in no log: code that looked at it would be no function of its commands.",
        "from cluster import Presence\n\nclass Cursor(Record):\n    at: int\n\n"
        + _class(
            "gate = anyone\n\ncursors: Presence[Cursor] = field.public()\n\n"
            "@on.message\ndef count(self, ctx: Command) -> int:\n    return len(self.cursors)"
        ),
        "from cluster import Presence\n\nclass Cursor(Record):\n    at: int\n\n"
        + _class(
            "gate = anyone\n\ncursors: Presence[Cursor] = field.public()\n\n"
            "@on.message\ndef count(self, ctx: Command, seen: int) -> int:\n    return seen"
        ),
    ),
    Explanation(
        "on-missing",
        "Who comes to a key that never existed brings nothing but a name: the constructor must do with its defaults.",
        'class Stage(Document, on_missing="create"):\n    gate = anyone\n\n    @on.construct\n'
        "    def open(self, ctx: Command, title: str) -> None:\n        pass\n",
        'class Stage(Document, on_missing="create"):\n    gate = anyone\n\n    @on.construct\n'
        '    def open(self, ctx: Command, title: str = "") -> None:\n        pass\n',
    ),
    Explanation(
        "blob",
        "What an alarm is armed with, and what a view is asked with, stands in no field: no bytes of files go there.",
        "from datetime import timedelta\n\nfrom cluster import Blob\n\n"
        + _class(
            "gate = anyone\n\n@on.message\ndef hang(self, ctx: Command, picture: Blob) -> None:\n"
            "    ctx.after(timedelta(days=1), self.fade, picture)\n\n"
            "@on.alarm\ndef fade(self, ctx: Command, picture: Blob) -> None:\n    pass"
        ),
        "from datetime import timedelta\n\nfrom cluster import Blob\n\n"
        + _class(
            "gate = anyone\n\npicture: Blob | None = field.public(None)\n\n"
            "@on.message\ndef hang(self, ctx: Command, picture: Blob) -> None:\n    self.picture = picture\n"
            "    ctx.after(timedelta(days=1), self.fade, picture.hash)\n\n"
            "@on.alarm\ndef fade(self, ctx: Command, hash: str) -> None:\n"
            "    if self.picture and self.picture.hash == hash:\n        self.picture = None"
        ),
    ),
    Explanation(
        "entry",
        "A bundle has one document class, or names the one that is meant: `module:Class`.",
        "class Note(Record):\n    text: str\n",
        _class("gate = anyone"),
    ),
    Explanation(
        "load",
        "The modules must load: what their top level raises is shown with its line.",
        _stage("pass", top="LIMIT = (1, 2)[5]"),
        _stage("pass", top="LIMIT = (1, 2)[1]"),
    ),
)


def page() -> str:
    """docs/authoring/refusals.md, as Markdown."""
    lines = [
        "# What may not be deployed",
        "",
        "A bundle is checked as a whole before it is accepted: `moot space deploy` shows every reason with its file, line and",
        "what to write instead, and nothing is changed. Most rules exist because every replica, and every replay, must come to",
        "the same bytes. Each rule here is broken by a test that reads the error. Modules begin with",
        "",
        "```text",
        HEADER.rstrip("\n"),
        "```",
    ]
    for each in EXPLANATIONS:
        lines += ["", f"## {each.code}", "", each.rule, "", "```text", each.broken.rstrip("\n"), "```", ""]
        lines += ["instead:", "", "```text", each.repaired.rstrip("\n"), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
