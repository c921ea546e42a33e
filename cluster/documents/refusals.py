"""What may not be deployed, found in the source before any of it runs.

A document must be a function of its commands, on every node and every supported Python, and nothing in its code may outlive a
command or step around the budget. What would break that is refused here, each finding with a stable code, the place, the
reason and what to write instead. Everything is found in one go.

Invariant: code without findings can reach the interpreter only through library.py, facades.py and the state: names that begin
and end with two underscores, private names that are not the bundle's own and `type`, `getattr` and their like do not pass.
It does not measure work: instrument.py does.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cluster.documents import facades, forbidden
from cluster.documents.instrument import GUARDED_TYPES, LOOKED_UP_METHODS
from cluster.documents.operators import NUMBER_BITS_MAX

FINDINGS_MAX: Final = 200
NESTING_MAX: Final = 100
NODES_MAX: Final = 200_000


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One reason not to deploy."""

    file: str
    line: int
    code: str
    reason: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}: {self.reason}; {self.replacement}"


class Refusals(ast.NodeVisitor):
    """Collects the findings of one module.

    modules: the bundle's own modules. private: underscore names that the bundle itself defines.
    """

    def __init__(self, path: str, modules: frozenset[str], private: frozenset[str]) -> None:
        self.findings: list[Finding] = []
        self._path = path
        self._modules = modules
        self._private = private
        self._bound: frozenset[str] = frozenset()
        self._foreign: set[str] = set()  # what was imported from the facades of the standard library
        self._scopes: list[str] = []  # "class" or "function", outermost first

    def refuse(self, node: ast.AST, code: str, reason: str, replacement: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(self._path, getattr(node, "lineno", 1), code, reason, replacement))

    def visit(self, node: ast.AST) -> None:
        refused = forbidden.STATEMENTS.get(type(node).__name__)
        if refused is not None:
            code, reason, replacement = refused
            self.refuse(node, code, reason, replacement)
            return
        if getattr(node, "type_params", None):
            self.refuse(node, "syntax", "type parameters are not part of the oldest supported Python", "use typing.TypeVar")
        super().visit(node)

    # Modules and names

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)
            if alias.name not in self._modules:
                self._foreign.add((alias.asname or alias.name).partition(".")[0])
            self._check_bound(node, (alias.asname or alias.name).partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if any(alias.name == "*" for alias in node.names):
            self.refuse(node, "import", "a star import hides what is used", "name what you import")
            return
        for alias in node.names:
            if alias.name not in GUARDED_TYPES:
                self._check_bound(node, alias.asname or alias.name)
            elif alias.asname not in (None, alias.name):
                self.refuse(node, "shadowing", f"{alias.name} is counted by that name", "import it under its own name")
        if node.level:
            return
        module = node.module or ""
        if not self._check_module(node, module) or module in self._modules:
            return
        if module not in ("cluster", "enum", "msgspec", "typing"):
            self._foreign.update(alias.asname or alias.name for alias in node.names)
        allowed = facades.names(module) or frozenset()
        for alias in node.names:
            if alias.name not in allowed:
                self.refuse(
                    node, "import", f"{module}.{alias.name} is not available to documents", f"it has {_listed(allowed)}"
                )

    def _check_module(self, node: ast.AST, name: str) -> bool:
        if name in self._modules or facades.names(name) is not None:
            return True
        code, reason, replacement = forbidden.MODULES.get(name.partition(".")[0], forbidden.OUTSIDE)
        self.refuse(node, code, f"module {name} {reason}", replacement)
        return False

    def visit_Name(self, node: ast.Name) -> None:
        refused = forbidden.BUILTINS.get(node.id)
        if refused is not None and node.id not in self._bound and isinstance(node.ctx, ast.Load):
            code, reason, replacement = refused
            self.refuse(node, code, f"{node.id} {reason}", replacement)
        elif node.id in forbidden.INTERPRETERS and node.id not in self._bound and isinstance(node.ctx, ast.Load):
            self.refuse(node, "builtin", f"{node.id} is not available to documents", "do without")
        elif _is_special(node.id):
            self.refuse(node, "special-name", f"{node.id} belongs to the interpreter", "use another name")
        elif not isinstance(node.ctx, ast.Load):
            self._check_bound(node, node.id)

    def _check_bound(self, node: ast.AST, name: str) -> None:
        if name in GUARDED_TYPES and self._scopes[-1:] != ["class"]:
            self.refuse(node, "shadowing", f"{name} is a built-in type and is counted by that name", "choose another name")
        elif name.startswith("_moot") or _is_special(name):
            self.refuse(node, "special-name", f"{name} belongs to the interpreter", "use another name")
        elif name == "self" and self._scopes:
            self.refuse(node, "shadowing", "self is bound to the document", "choose another name")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._check_attribute(node, node.attr, node.value)
        self.visit(node.value)

    def _check_attribute(self, node: ast.AST, name: str, owner: ast.AST | None) -> None:
        refused = forbidden.ATTRIBUTES.get(name)
        if refused is not None:
            code, reason, replacement = refused
            self.refuse(node, code, f".{name} {reason}", replacement)
        elif _is_special(name):
            on_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
            if not (on_super and name in forbidden.SPECIAL_METHODS):
                self.refuse(node, "special-name", f".{name} belongs to the interpreter", "use a function or an operator")
        elif name.startswith(forbidden.FRAME_PREFIXES):
            self.refuse(node, "special-name", f".{name} belongs to the interpreter", "use another name")
        elif name.startswith("_") and name not in self._private:
            self.refuse(node, "private-name", f".{name} is private to code outside the bundle", "use what is public")

    # Functions and classes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if _is_special(node.name):
            if self._scopes[-1:] != ["class"] or node.name not in forbidden.SPECIAL_METHODS:
                self.refuse(node, "special-name", f"{node.name} can not be defined by a document", "use a named method")
        else:
            self._check_bound(node, node.name)
            if node.name in forbidden.FRAMEWORK_PRIVATE and self._scopes[-1:] == ["class"]:
                self.refuse(node, "private-name", f"{node.name} is taken by the runtime", "choose another name")
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
            if argument is not None and argument.arg != "self":
                self._check_bound_argument(argument)
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None and self._is_mutable(default):
                self.refuse(default, "mutable-default", "a default is shared by all calls", "use None, or a tuple")
        for decorator in node.decorator_list:
            self.visit(decorator)
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self.visit(default)
        self._annotations(node)
        if any(_is_read(decorator) for decorator in node.decorator_list):
            for inner in ast.walk(node):
                if _writes_self(inner):
                    self.refuse(inner, "write-in-read", f"{node.name} may only read", "write in a handler under @on")
        self._within("function", node.body)

    def _check_bound_argument(self, argument: ast.arg) -> None:
        if argument.arg in GUARDED_TYPES or _is_special(argument.arg) or argument.arg.startswith("_moot"):
            self.refuse(argument, "shadowing", f"{argument.arg} is taken by Python", "choose another name")

    def _annotations(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
            if argument is not None and argument.annotation is not None:
                self.visit(argument.annotation)
        if node.returns is not None:
            self.visit(node.returns)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
            if argument is not None:
                self._check_bound_argument(argument)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                if self._is_mutable(default):
                    self.refuse(default, "mutable-default", "a default is shared by all calls", "use None, or a tuple")
                self.visit(default)
        self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if self._scopes:
            self.refuse(node, "nested-class", "a class made while a command runs is never the same again", "put it at the top")
        self._check_bound(node, node.name)
        enumeration = any("Enum" in ast.unparse(base) for base in node.bases)
        for base in node.bases:
            root = base.value if isinstance(base, ast.Subscript) else base
            while isinstance(root, ast.Attribute):
                root = root.value
            name = root.id if isinstance(root, ast.Name) else ""
            if not enumeration and (name in GUARDED_TYPES or name == "property" or name in self._foreign or not name):
                self.refuse(base, "base-class", f"a subclass of {ast.unparse(base)} would step around the budget", "hold one")
        for option in node.keywords:
            if option.arg not in ("version", "on_missing", "total", "frozen", "kw_only"):
                self.refuse(node, "base-class", f"class option {option.arg} is not available", "leave it out")
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        self._check_presence(node)
        self._within("class", node.body)

    def _check_presence(self, node: ast.ClassDef) -> None:
        """What connections show each other is in no state: code that looks at it would be no function of the log."""
        declared = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
        hidden = {part.target.id for part in declared if ast.unparse(part.annotation).strip("'\"").startswith("Presence")}  # type: ignore[union-attr]
        if hidden:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute) and inner.attr in hidden and ast.unparse(inner.value) == "self":
                    reason = f"{inner.attr} is what connections show each other, and is in no log"
                    self.refuse(inner, "presence", reason, "let clients send what handlers should know")

    def _within(self, scope: str, body: list[ast.stmt]) -> None:
        self._scopes.append(scope)
        for statement in body:
            if scope == "class":
                self._check_level(statement)
            self.visit(statement)
        self._scopes.pop()

    def _check_level(self, node: ast.stmt) -> None:
        """Modules and classes declare: they do not compute, and hold nothing that could change."""
        value: ast.expr | None = None
        if isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and not self._scopes):
            value = node.value
        elif isinstance(node, ast.AnnAssign):
            pass  # a field: its default is copied for every document; loader.py looks at what other classes keep
        elif isinstance(node, ast.If):
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.refuse(node, "top-level", "modules and classes declare, they do not decide", "move it into a function")
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Pass) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            refused = type(node).__name__ in forbidden.STATEMENTS
            if not refused:
                self.refuse(node, "top-level", "modules and classes declare, they do not act", "move it into a function")
        if value is not None and self._is_mutable(value):
            self.refuse(
                node, "module-mutable", "what a module or class holds is shared by all documents", "use a tuple or a field"
            )

    @staticmethod
    def _is_mutable(node: ast.expr) -> bool:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id in ("list", "dict", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter")
        return isinstance(node, forbidden.MUTABLE)

    # Statements and expressions

    def visit_Module(self, node: ast.Module) -> None:
        self._bound = frozenset(_bound(node))
        for statement in node.body:
            self._check_level(statement)
            self.visit(statement)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is None:
            self.refuse(node, "bare-except", "would catch the end of the budget", "name the exceptions, or Exception")
        if node.name:
            self._check_bound(node, node.name)
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        for statement in node.finalbody:
            for inner in _leaving(statement):
                self.refuse(inner, "finally", "leaving a finally block swallows what was raised", "leave after it")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._scopes[-1:] == ["class"] and any(isinstance(one, ast.Name) and _is_special(one.id) for one in node.targets):
            self.refuse(node, "special-name", "special methods are written as def", "use a named method")
            return
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._check_target(node.target)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._check_target(node.target)
        if node.is_async:
            self.refuse(node.iter, "async", "a document does not wait", "write a plain for")
        self.generic_visit(node)

    def _check_target(self, target: ast.expr) -> None:
        for inner in ast.walk(target):
            if isinstance(inner, ast.Starred):
                self.refuse(inner, "starred-target", "copies without being counted", "unpack inside the loop")

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) > 1 and any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops):
            self.refuse(node, "chained-membership", "means something else than it seems", "join two tests with `and`")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, complex):
            self.refuse(node, "complex", "is not available", "use two floats")
        elif isinstance(node.value, int) and node.value.bit_length() > NUMBER_BITS_MAX:
            self.refuse(node, "long-number", f"whole numbers have at most {NUMBER_BITS_MAX} bits", "use a shorter one")

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            self._check_attribute(node, name, None)
            if name in LOOKED_UP_METHODS:
                self.refuse(node, "pattern", f"a pattern can not take {name}", "use an attribute in the case's body")
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self._check_bound(node, node.name)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in forbidden.DATE_METHODS:
            code, reason, replacement = forbidden.DATE_METHODS[node.func.attr]
            self.refuse(node, code, f".{node.func.attr}() {reason}", replacement)
        if isinstance(node.func, ast.Name):
            if node.func.id == "super" and (node.args or node.keywords):
                self.refuse(node, "super", "super takes no arguments here", "write super()")
            elif node.func.id in ("property", "staticmethod", "classmethod"):
                self.refuse(node, "property", f"{node.func.id} is a decorator", "write it above a def")
        self.generic_visit(node)


def check(
    path: str, source: bytes, modules: frozenset[str], private: frozenset[str]
) -> tuple[ast.Module | None, list[Finding]]:
    """Parse one file and find what may not be deployed. The tree is None when it can not be parsed."""
    try:
        tree = ast.parse(source, filename=path, feature_version=(3, 11))
        deepest, count = _extent(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        return None, [Finding(path, line, "syntax", f"is not Python 3.11: {error}", "correct it")]
    if deepest > NESTING_MAX or count > NODES_MAX:
        reason = f"is nested deeper than {NESTING_MAX} or has more than {NODES_MAX} elements"
        return None, [Finding(path, 1, "syntax", reason, "split it")]
    refusals = Refusals(path, modules, private)
    refusals.visit(tree)
    line = newer_f_string(source)
    if line:
        reason = "this f-string is not part of the oldest supported Python"
        refusals.findings.append(
            Finding(path, line, "syntax", reason, "use other quotes inside it, and no backslash or comment")
        )
    return tree, refusals.findings


def newer_f_string(source: bytes) -> int:
    """The line of an f-string that only Python 3.12 and later can read (PEP 701), or 0: older ones refuse it themselves."""
    if sys.version_info < (3, 12):
        return 0
    enclosing: list[str] = []
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_END":
            enclosing.pop()
        elif enclosing and kind != "FSTRING_MIDDLE":
            quote = enclosing[-1]
            ends_it = quote in token.string if kind in ("STRING", "FSTRING_START") else kind == "NL" and len(quote) == 1
            if ends_it or "\\" in token.string or kind == "COMMENT":
                return token.start[0]
        if kind == "FSTRING_START":
            enclosing.append(token.string.lstrip("fFrRbBuU"))
    return 0


def private_names(sources: Iterable[bytes]) -> frozenset[str]:
    """Names with one leading underscore that the bundle's classes define, so its methods may use them."""
    found: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.update(_defined(node))
    return frozenset(
        name for name in found if name.startswith("_") and not name.startswith("_moot") and not _is_special(name)
    ) - (forbidden.FRAMEWORK_PRIVATE)


def _defined(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            yield statement.name
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _extent(tree: ast.AST) -> tuple[int, int]:
    level: list[ast.AST] = [tree]
    depth = count = 0
    while level:
        depth += 1
        count += len(level)
        if depth > NESTING_MAX or count > NODES_MAX:
            break
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return depth, count


def _bound(tree: ast.AST) -> Iterator[str]:
    """Every name that the module binds somewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _leaving(node: ast.AST, loop: bool = False) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return) or (not loop and isinstance(node, ast.Break | ast.Continue)):
        yield node
    if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
        return
    for child in ast.iter_child_nodes(node):
        yield from _leaving(child, loop or isinstance(node, ast.For | ast.While))


def _is_read(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Attribute) and isinstance(decorator.value, ast.Name) and decorator.value.id == "read"


def _writes_self(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute | ast.Subscript) or isinstance(node.ctx, ast.Load):
        return False
    owner: ast.expr = node
    while isinstance(owner, ast.Attribute | ast.Subscript):
        owner = owner.value
    return isinstance(owner, ast.Name) and owner.id == "self"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
