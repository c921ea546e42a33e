"""Rewrites an author's syntax tree so that running it is counted and bounded.

    def f(x):                      def f(x):
        return [x * y for y in x]      @n = @meter.left = @meter.left - 3
                                       @d = @meter.depth = @meter.depth - 1
                                       if @n < 0 or @d < 0: @meter.exhausted()
                                       try: return [@mul(x, y) for y in x if @step(1)]
                                       finally: @meter.depth = @d + 1

Steps are counted by inserted statements and conditions; calls are never wrapped, so `super()` and tracebacks stay as they
are. Operations whose cost follows their input go through functions of `operators`, `textual` and `methods`, which charge
before they work. Names of ours contain `@`, which no author can write.

Invariant: the charge for a block follows from the author's source alone: statements, calls, operators and display elements,
counted before anything is rewritten. It does not decide what may be written: refusals.py has refused the rest before.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final, TypeVar

from cluster.documents.locations import place_all, place_at, place_within

GUARDED_TYPES: Final = frozenset(
    {"int", "str", "bytes", "list", "tuple", "dict", "set", "frozenset", "float", "range", "enumerate", "zip", "map", "filter"}
    | {"reversed", "Decimal"}
)
"""Types that authors may name as types; called, they become functions that charge."""

GUARDED_METHODS: Final = frozenset(
    # str and bytes
    {"join", "replace", "format", "ljust", "rjust", "center", "zfill", "expandtabs", "encode", "decode", "split", "rsplit"}
    | {"splitlines", "partition", "rpartition", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "find", "rfind"}
    | {"rindex", "startswith", "endswith", "upper", "lower", "title", "capitalize", "casefold", "swapcase", "isalpha"}
    | {"isdigit", "isdecimal", "isnumeric", "isalnum", "isupper", "islower", "istitle", "isspace", "isprintable", "isascii"}
    | {"isidentifier", "hex", "fromhex", "to_bytes", "from_bytes"}
    # containers
    | {"extend", "insert", "remove", "index", "count", "sort", "reverse", "copy", "update", "fromkeys", "add", "discard"}
    # Decimal, and the class itself as an attribute of its module
    | {"exp", "ln", "log10", "sqrt", "fma", "Decimal"}
    # exceptions
    | {"args"}
)
AMBIENT_METHODS: Final = frozenset(
    {"now", "utcnow", "today", "strftime", "strptime", "astimezone", "fromtimestamp", "utcfromtimestamp", "timestamp", "ctime"}
)
"""Names that are refused as methods of dates and times, and harmless elsewhere."""

KEYED_METHODS: Final = frozenset({"get", "setdefault", "pop"})
TYPE_ARGUMENTS: Final = frozenset({"isinstance", "issubclass", "cast", "TypeVar", "NewType"})

_GUARDED_OPERATORS: Final[dict[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Pow: "pow",
    ast.LShift: "lshift",
    ast.Mod: "mod",
    ast.BitOr: "or",
    ast.BitAnd: "and",
    ast.BitXor: "xor",
}
_COUNTED: Final = (ast.stmt, ast.Call, ast.BinOp, ast.Compare, ast.Subscript, ast.FormattedValue, ast.keyword)
_SEPARATE: Final = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

LOOKED_UP_METHODS: Final = GUARDED_METHODS | KEYED_METHODS | AMBIENT_METHODS

S = TypeVar("S", bound=ast.AST)


def instrument(tree: ast.Module) -> ast.Module:
    """The counted form of a module that the refusals let pass. The tree is changed in place and returned."""
    _Instrumentation().visit(tree)
    place_all(tree)
    return tree


def weight(nodes: Sequence[ast.AST]) -> int:
    """Steps of running these nodes once, without the bodies of functions, loops and comprehensions inside."""
    total = 0
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, _COUNTED):
            total += 1
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            total += len(node.elts)
        elif isinstance(node, ast.Dict):
            total += len(node.values)
        if isinstance(node, ast.For):
            pending += [node.target, node.iter, *node.orelse]
        elif isinstance(node, ast.While):
            pending += [node.test, *node.orelse]
        elif isinstance(node, ast.FunctionDef):
            pending += [*node.decorator_list, *node.args.defaults]
        elif isinstance(node, ast.AnnAssign):
            pending += [node.target] if node.value is None else [node.target, node.value]
        elif isinstance(node, _SEPARATE):
            pending += [generator.iter for generator in getattr(node, "generators", ())][:1]
            total += 1
        else:
            pending.extend(ast.iter_child_nodes(node))
    return total


def _name(name: str) -> ast.Name:
    return ast.Name(id=f"@{name}", ctx=ast.Load())


def _store(name: str) -> ast.Name:
    return ast.Name(id=f"@{name}", ctx=ast.Store())


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(func=_name(name), args=list(arguments), keywords=[])


def _meter(attribute: str, *, store: bool = False) -> ast.Attribute:
    return ast.Attribute(value=_name("meter"), attr=attribute, ctx=ast.Store() if store else ast.Load())


def _minus(local: str, attribute: str, amount: int) -> ast.stmt:
    less = ast.BinOp(left=_meter(attribute), op=ast.Sub(), right=ast.Constant(amount))
    return ast.Assign(targets=[_store(local), _meter(attribute, store=True)], value=less)


def _negative(local: str) -> ast.expr:
    return ast.Compare(left=_name(local), ops=[ast.Lt()], comparators=[ast.Constant(0)])


def _give_up(condition: ast.expr) -> ast.stmt:
    stop = ast.Expr(ast.Call(func=_meter("exhausted"), args=[], keywords=[]))
    return ast.If(test=condition, body=[stop], orelse=[])


def _tick(steps: int) -> list[ast.stmt]:
    return [_minus("n", "left", steps), _give_up(_negative("n"))]


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _is_type(node: ast.expr) -> bool:
    """A type as it stands in `int | None` or `list[int]`."""
    if isinstance(node, ast.Name):
        return node.id in GUARDED_TYPES or node.id in ("bool", "object")
    if isinstance(node, ast.Subscript):
        return _is_type(node.value)
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and (_is_type(node.left) or _is_type(node.right))


class _Instrumentation(ast.NodeTransformer):
    """One pass over one module."""

    def __init__(self) -> None:
        self._temporaries = 0
        self._documents = False  # inside a document class or one of its methods: `self` has no dictionary
        self._method = False

    # Functions and classes

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self._documents = (
            self._documents,
            any(isinstance(base, ast.Name) and base.id == "Document" for base in node.bases),
        )
        node.body = self._block(node.body)
        node.decorator_list = [self._expression(item) for item in node.decorator_list]
        for option in node.keywords:
            option.value = self._expression(option.value)
        self._documents = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        steps = 1 + weight(node.body)
        plain = not any(
            isinstance(item, ast.Name) and item.id in ("staticmethod", "classmethod") for item in node.decorator_list
        )
        node.decorator_list = [self._expression(item) for item in node.decorator_list]
        self._defaults(node.args)
        outer = self._documents, self._method
        self._documents, self._method = self._documents and plain and not self._method, True
        documented = ast.get_docstring(node, clean=False) is not None
        head, body = (node.body[:1], node.body[1:]) if documented else ([], node.body)
        body = self._block(body) or [ast.Pass()]
        place_within(node, body)
        used_up = ast.BoolOp(op=ast.Or(), values=[_negative("n"), _negative("d")])
        entry = [_minus("n", "left", steps), _minus("d", "depth", 1), _give_up(used_up)]
        restore = ast.BinOp(left=_name("d"), op=ast.Add(), right=ast.Constant(1))
        leave: list[ast.stmt] = [ast.Assign(targets=[_meter("depth", store=True)], value=restore)]
        counted = ast.Try(body=body, handlers=[], orelse=[], finalbody=leave)
        node.body = [*head, *place_at(node, [*entry, counted])]
        self._documents, self._method = outer
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        steps = 1 + weight([node.body])
        calls = any(isinstance(inner, ast.Call) for inner in ast.walk(node.body))
        self._defaults(node.args)
        body = self._expression(node.body)
        if calls:
            node.body = _call("leave", _call("enter", ast.Constant(steps)), body)
        else:
            node.body = ast.IfExp(test=_call("step", ast.Constant(steps)), body=body, orelse=ast.Constant(None))
        return node

    def _defaults(self, arguments: ast.arguments) -> None:
        arguments.defaults = [self._expression(item) for item in arguments.defaults]
        arguments.kw_defaults = [item and self._expression(item) for item in arguments.kw_defaults]

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in statements:
            result = self.visit(statement)
            done.extend(result if isinstance(result, list) else [result])
        return done

    def _expression(self, node: S) -> S:
        result = self.visit(node)
        assert isinstance(result, ast.AST)
        return result  # type: ignore[return-value]

    # Statements

    def visit_For(self, node: ast.For) -> ast.AST:
        steps = 1 + weight(node.body)
        node.target = self._expression(node.target)
        node.iter = self._expression(node.iter)
        node.body = [*place_at(node, _tick(steps)), *self._block(node.body)]
        node.orelse = self._block(node.orelse)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        steps = 1 + weight([node.test, *node.body])
        node.test = self._expression(node.test)
        node.body = [*place_at(node, _tick(steps)), *self._block(node.body)]
        node.orelse = self._block(node.orelse)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        restore: ast.stmt = ast.Assign(targets=[_meter("depth", store=True)], value=_name("d"))
        node.body = [*place_at(node, [ast.Expr(_call("caught")), restore]), *self._block(node.body)]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        if node.exc is not None:
            node.exc = _call("raised", node.exc)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.target = self._expression(node.target)
        if node.value is not None:
            node.value = self._expression(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(inner, ast.Starred) for target in node.targets for inner in ast.walk(target)):
            node.value = _call("spread", node.value)
        return node

    def visit_Match(self, node: ast.Match) -> ast.AST:
        spreads = any(
            isinstance(inner, ast.MatchStar) or (isinstance(inner, ast.MatchMapping) and inner.rest)
            for case in node.cases
            for inner in ast.walk(case.pattern)
        )
        node.subject = self._expression(node.subject)
        if spreads:
            node.subject = _call("measured", node.subject)
        for case in node.cases:
            case.guard = case.guard and self._expression(case.guard)
            case.body = self._block(case.body)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | list[ast.stmt]:
        guard = _GUARDED_OPERATORS.get(type(node.op))
        value = self._expression(node.value)
        plain = guard is None or (isinstance(node.op, ast.Add | ast.Sub) and _is_number(node.value))
        if plain:
            node.value = value
            node.target = self._expression(node.target)
            return node
        target = node.target
        if isinstance(target, ast.Name):
            now = _call(f"i{guard}", ast.Name(id=target.id, ctx=ast.Load()), value)
            return ast.copy_location(ast.Assign(targets=[target], value=now), node)
        self._temporaries += 1
        place = f"t{self._temporaries}"
        first: list[ast.stmt] = [ast.Assign(targets=[_store(place)], value=self._owner(target))]
        before: ast.expr
        after: ast.expr
        if isinstance(target, ast.Attribute):
            before = ast.Attribute(value=_name(place), attr=target.attr, ctx=ast.Load())
            after = ast.Attribute(value=_name(place), attr=target.attr, ctx=ast.Store())
        else:
            first.append(ast.Assign(targets=[_store(f"{place}k")], value=self._key(target.slice)))
            before = ast.Subscript(value=_name(place), slice=_name(f"{place}k"), ctx=ast.Load())
            after = ast.Subscript(value=_name(place), slice=_name(f"{place}k"), ctx=ast.Store())
        last = ast.Assign(targets=[after], value=_call(f"i{guard}", before, value))
        return place_at(node, [*first, last])

    def _owner(self, target: ast.Attribute | ast.Subscript) -> ast.expr:
        value = self._expression(target.value)
        if isinstance(target, ast.Subscript) or (self._documents and isinstance(value, ast.Name) and value.id == "self"):
            return value
        return _call("own", value)

    # Expressions

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in GUARDED_TYPES:
            return ast.copy_location(_name(node.id), node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.ctx, ast.Store | ast.Del):
            node.value = self._owner(node)
            return node
        if not self._names_type(node.value):
            node.value = self._expression(node.value)
        if node.attr in LOOKED_UP_METHODS:
            return ast.copy_location(_call("method", node.value, ast.Constant(node.attr)), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = node.func
        if isinstance(function, ast.Name) and function.id in TYPE_ARGUMENTS:
            node.args = [item if _is_type(item) or self._is_types(item) else self._expression(item) for item in node.args]
        else:
            node.args = [self._expression(item) for item in node.args]
        for option in node.keywords:
            option.value = self._expression(option.value)
            if option.arg is None:
                option.value = _call("spread_mapping", option.value)
        if isinstance(function, ast.Attribute) and function.attr in KEYED_METHODS and self._is_plain(node, function):
            function.value = self._expression(function.value)
            if function.attr == "pop" and len(node.args) == 1:
                function.value = _call("shifted", function.value)
            if node.args and not isinstance(node.args[0], ast.Constant):
                node.args[0] = _call("key", node.args[0])
            return node
        node.func = self._expression(function)
        return node

    @staticmethod
    def _names_type(node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in GUARDED_TYPES

    def _is_plain(self, node: ast.Call, function: ast.Attribute) -> bool:
        """Whether the key of `d.get(key)` stands in the source, so that it can be looked at in place."""
        return not (self._names_type(function.value) or node.keywords or any(isinstance(one, ast.Starred) for one in node.args))

    @staticmethod
    def _is_types(node: ast.expr) -> bool:
        return isinstance(node, ast.Tuple) and all(isinstance(item, ast.Name | ast.Attribute) for item in node.elts)

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            node.value = _call("spread", node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if _is_type(node):
            return node
        guard = _GUARDED_OPERATORS.get(type(node.op))
        numbers = _is_number(node.left), _is_number(node.right)
        if guard in ("add", "sub"):
            guarded = not any(numbers)
        elif guard == "mod":
            guarded = not numbers[0]
        elif guard in ("or", "and", "xor"):
            guarded = not any(numbers)
        else:
            guarded = guard is not None
        self.generic_visit(node)
        if not guarded:
            return node
        return ast.copy_location(_call(str(guard), node.left, node.right), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        operands = [node.left, *node.comparators]
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            return self._membership(node)
        operands = [self._expression(item) for item in operands]
        for place, operator in enumerate(node.ops):
            left, right = operands[place], operands[place + 1]
            if isinstance(operator, ast.Is | ast.IsNot) or isinstance(left, ast.Constant):
                continue
            if not isinstance(right, ast.Constant):
                operands[place] = _call("flat", left)
        node.left, node.comparators = operands[0], operands[1:]
        return node

    def _membership(self, node: ast.Compare) -> ast.AST:
        assert len(node.ops) == 1, "refused before: a chain that tests membership"
        item, container = self._expression(node.left), node.comparators[0]
        if isinstance(container, ast.Set | ast.Tuple) and all(isinstance(one, ast.Constant) for one in container.elts):
            node.left = _call("key", item)
            return node
        found: ast.expr = _call("contains", item, self._expression(container))
        if isinstance(node.ops[0], ast.NotIn):
            found = ast.UnaryOp(op=ast.Not(), operand=found)
        return ast.copy_location(found, node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if _is_type(node):
            return node
        value = self._expression(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = [self._expression(item) if item else ast.Constant(None) for item in self._bounds(node.slice)]
            if isinstance(node.ctx, ast.Load):
                return ast.copy_location(_call("cut", value, *bounds), node)
            node.value = _call("measured", value)
            self.generic_visit(node.slice)
            return node
        node.value = _call("shifted", value) if isinstance(node.ctx, ast.Del) else value
        node.slice = self._key(node.slice)
        return node

    @staticmethod
    def _bounds(node: ast.Slice) -> list[ast.expr | None]:
        return [node.lower, node.upper, node.step]

    def _key(self, node: ast.expr) -> ast.expr:
        if _is_number(node) or isinstance(node, ast.Constant):
            return node
        return _call("key", self._expression(node))

    def visit_Set(self, node: ast.Set) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(_call("set", ast.Tuple(elts=node.elts, ctx=ast.Load())), node)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        for place, key in enumerate(node.keys):
            if key is None:
                node.values[place] = _call("spread_mapping", node.values[place])
            elif not isinstance(key, ast.Constant):
                node.keys[place] = _call("key", key)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        for place, part in enumerate(node.values):
            if isinstance(part, ast.FormattedValue):
                conversion = chr(part.conversion) if part.conversion > 0 else ""
                spec = self._expression(part.format_spec) if part.format_spec else ast.Constant("")
                shown = _call("format", self._expression(part.value), ast.Constant(conversion), spec)
                node.values[place] = ast.FormattedValue(value=shown, conversion=-1, format_spec=None)
        return node

    # Comprehensions

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, body: list[ast.expr]) -> None:
        for place, generator in enumerate(node.generators):
            inner = body if place == len(node.generators) - 1 else [node.generators[place + 1].iter]
            steps = 1 + weight([*generator.ifs, *inner])
            generator.target = self._expression(generator.target)
            generator.iter = self._expression(generator.iter)
            generator.ifs = [_call("step", ast.Constant(steps)), *(self._expression(test) for test in generator.ifs)]

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        self._comprehension(node, [node.elt])
        node.elt = self._expression(node.elt)
        return node

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        self._comprehension(node, [node.elt])
        listed = ast.ListComp(elt=self._expression(node.elt), generators=node.generators)
        return ast.copy_location(_call("set", listed), node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self._comprehension(node, [node.key, node.value])
        node.key = _call("key", self._expression(node.key))
        node.value = self._expression(node.value)
        return node

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        self._comprehension(node, [node.elt])
        node.elt = self._expression(node.elt)
        return ast.copy_location(_call("lazy", node), node)
