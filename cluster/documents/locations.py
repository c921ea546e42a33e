"""Where inserted code is, for debuggers, coverage and tracebacks: at the beginning of what it was inserted for.

It ends there too: the interpreter takes an attribute for being where its expression ends, and lines would be seen to run that
did not.
"""

from __future__ import annotations

import ast


def place_all(tree: ast.Module) -> None:
    """Put everything that has no place where its parent begins."""
    _place(tree, 1, 0)


def place_within(node: ast.stmt, statements: list[ast.stmt]) -> None:
    """The same for statements of a node, each where it begins itself."""
    for statement in statements:
        _place(statement, node.lineno, node.col_offset)


def place_at(node: ast.stmt | ast.ExceptHandler, statements: list[ast.stmt]) -> list[ast.stmt]:
    """Put statements that were made for a node where it begins; what is the author's stays where it is."""
    for statement in statements:
        for inner in ast.walk(statement):
            if "lineno" in inner._attributes and not hasattr(inner, "lineno"):
                _put(inner, node.lineno, node.col_offset)
    return statements


def _place(node: ast.AST, line: int, column: int) -> None:
    if "lineno" in node._attributes:
        if not hasattr(node, "lineno"):
            _put(node, line, column)
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
    for child in ast.iter_child_nodes(node):
        _place(child, line, column)


def _put(node: ast.AST, line: int, column: int) -> None:
    node.lineno = node.end_lineno = line  # type: ignore[attr-defined]
    node.col_offset = node.end_col_offset = column  # type: ignore[attr-defined]
