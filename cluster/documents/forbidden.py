"""What authors may not name, with the reason and what to write instead: tables that refusals.py applies.

Invariant: a name is refused for what it would reach, never for how it looks; what is refused by one spelling and could be
reached by another is also kept out of library.py and facades.py, so these tables explain and those protect.
"""

from __future__ import annotations

import ast
import builtins
from typing import Final

from cluster.documents.context import Command, Random
from cluster.documents.declare import Document
from cluster.documents.instrument import AMBIENT_METHODS
from cluster.documents.lazy import Lazy
from cluster.documents.library import BUILTIN_NAMES
from cluster.documents.ordered import PlainSet
from cluster.documents.state import Dict, List, OrderedSet, Record, Refused, StateRoot, Table, Tally, Text
from cluster.ids import Principal

_Why = tuple[str, str, str]
"""(code, reason, replacement)"""


def _words(text: str) -> list[str]:
    return text.split()


def _all(names: str, code: str, reason: str, replacement: str) -> dict[str, _Why]:
    return dict.fromkeys(_words(names), (code, reason, replacement))


MODULES: Final[dict[str, _Why]] = (
    _all("time sched calendar zoneinfo", "ambient-time", "reads the clock", "use ctx.now")
    | _all("random secrets", "randomness", "draws from outside the command", "use ctx.random or ctx.new_id()")
    | _all(
        "os sys io pathlib shutil tempfile socket ssl http urllib requests subprocess logging sqlite3 pickle shelve glob "
        "platform signal ctypes mmap",
        "input-output",
        "reaches outside the document",
        "let a client or a worker do it and send the result as a message",
    )
    | _all(
        "threading multiprocessing concurrent asyncio queue contextvars _thread",
        "threads",
        "is for more than one thread, and a document runs one command at a time",
        "write plain functions",
    )
    | _all("re", "regular-expression", "has matches whose cost can not be bounded", "use methods of str")
    | _all(
        "importlib builtins inspect types gc weakref ast dis traceback operator copy abc",
        "reflection",
        "reaches the interpreter or other code",
        "write it out as plain Python",
    )
)
OUTSIDE: Final[_Why] = ("import", "is not on the list of modules a document may import", "put what you need in the bundle")
BUILTINS: Final[dict[str, _Why]] = (
    _all("open input", "input-output", "reaches outside the document", "send the data as a message")
    | _all("hash", "hash", "depends on the process", "use the value itself as a key")
    | _all("id", "identity", "is an address in memory", "use ctx.new_id() or a table's row name")
    | _all(
        "eval exec compile getattr setattr delattr hasattr vars dir globals locals type memoryview bytearray breakpoint help "
        "exit quit complex BaseException slice",
        "reflection",
        "is not available to documents",
        "name attributes and types in the source",
    )
)
ATTRIBUTES: Final[dict[str, _Why]] = _all(
    "format_map translate maketrans", "platform", "can not be bounded", "use format or replace"
) | _all("as_integer_ratio with_traceback add_note mro", "reflection", "is not available to documents", "do without")
DATE_METHODS: Final[dict[str, _Why]] = _all("now utcnow today", "ambient-time", "reads the clock", "use ctx.now") | _all(
    "strftime strptime astimezone fromtimestamp utcfromtimestamp timestamp ctime",
    "platform",
    "depends on the machine's time zone or language",
    "compute with timedelta or use isoformat()",
)
assert set(DATE_METHODS) == AMBIENT_METHODS, "what is refused in the source is refused when it is reached another way"
FRAME_PREFIXES: Final = (
    "gi_",
    "cr_",
    "ag_",
    "tb_",
    "co_",
    "func_",
    "f_back",
    "f_builtins",
    "f_code",
    "f_globals",
    "f_locals",
    "f_trace",
)
SPECIAL_METHODS: Final = frozenset(
    f"__{name}__"
    for name in _words(
        "init post_init str repr format eq ne lt le gt ge bool len iter next contains getitem setitem delitem call add radd "
        "iadd sub rsub isub mul rmul imul truediv rtruediv floordiv rfloordiv mod rmod pow neg pos abs and or xor rand ror "
        "rxor round"
    )
)
MUTABLE: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
STATEMENTS: Final[dict[str, tuple[str, str, str]]] = {
    "AsyncFunctionDef": ("async", "a document does not wait", "write a plain def"),
    "AsyncFor": ("async", "a document does not wait", "write a plain for"),
    "AsyncWith": ("async", "a document does not wait", "write plain statements"),
    "Await": ("async", "a document does not wait", "write a plain call"),
    "With": ("with", "a document has nothing to close", "write plain statements"),
    "Global": ("global", "a module must not change", "declare a field"),
    "Nonlocal": ("nonlocal", "a closure's variables would outlive a command", "return the value, or hold it in an object"),
    "Yield": ("generator", "a suspended function would outlive its caller", "return a list, or use a generator expression"),
    "YieldFrom": ("generator", "a suspended function would outlive its caller", "return a list, or use a generator expression"),
    "TryStar": ("exception-group", "is not available", "use except"),
    "TypeAlias": ("syntax", "is not part of the oldest supported Python", "assign the type to a name"),
    "TemplateStr": ("syntax", "is not part of the oldest supported Python", "use an f-string"),
}


def _private_of(*classes: type) -> frozenset[str]:
    names = {name for cls in classes for kind in cls.__mro__ for name in (*vars(kind), *getattr(kind, "__slots__", ()))}
    return frozenset(name for name in names if name.startswith("_") and not name.endswith("__"))


FRAMEWORK_PRIVATE: Final = _private_of(
    Command, Dict, Document, Lazy, List, OrderedSet, PlainSet, Principal, Random, Record, Refused, StateRoot, Table, Tally, Text
)
"""Private names of what authors hold: no bundle may define or reach them."""

INTERPRETERS: Final = frozenset(name for name in dir(builtins) if not name.startswith("_")) - BUILTIN_NAMES
