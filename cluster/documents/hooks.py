"""Upgrade hooks as a class declares them: `@on.upgrade(since=2)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.documents.context import Command
from cluster.documents.declare import Before

Refuse = Callable[[str, str, str], None]
"""Takes (code, reason, replacement)."""


@dataclass(slots=True, frozen=True)
class Hook:
    """Leads a document from one version to the next. takes_before: it wants to see the old fields."""

    function: Callable[..., None]
    takes_before: bool


def read_hook(
    function: Callable[..., Any], hints: dict[str, Any], since: int, version: int, hooks: dict[int, Hook], refuse: Refuse
) -> None:
    """Add a hook of a class of this version to `hooks`, or refuse it."""
    kinds = [hints.get(name) for name in list(inspect.signature(function).parameters)[1:]]
    if kinds not in ([Command], [Command, Before]) or hints.get("return") is not type(None):
        wanted = "an upgrade hook takes (self, ctx: Command) or (self, ctx: Command, before: Before), and returns None"
        refuse("signature", wanted, "change its signature")
    if type(since) is not int or not 1 <= since < version:
        refuse("upgrade", f"version {version} has no upgrade since {since!r}", "name an earlier version")
    elif since in hooks:
        refuse("upgrade", f"there are two hooks since {since}", "keep one")
    else:
        hooks[since] = Hook(function, len(kinds) == 2)
