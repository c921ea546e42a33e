"""Every setting of a node as a flag, made from the settings themselves, so that help and configuration can not disagree."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cluster.config import settings


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting; they arrive in its last parameter, `flags`, by name, None when not given."""
    signature = inspect.signature(function, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "flags"]
    options = []
    for setting in settings():
        if setting.name in signature.parameters:
            continue  # the command has an option of its own for it
        unit = f" ({setting.unit})" if setting.unit else ""
        default = "" if setting.default in (None, "", (), {}) else f" Default {setting.default}."
        option = typer.Option(
            f"--{setting.name.replace('_', '-')}",
            help=f"{setting.why[:1].upper()}{setting.why[1:]}. {setting.legal}{unit}.{default}",
            metavar=(setting.unit or "value").upper(),
            rich_help_panel="Settings: override moot.toml and MOOT_*",
            show_default=False,
        )
        options.append(
            inspect.Parameter(
                setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    names = [parameter.name for parameter in options]

    @functools.wraps(function)
    def run(*arguments: Any, **given: Any) -> Any:
        flags = {name: given.pop(name, None) for name in names}
        return function(*arguments, flags=flags, **given)

    del run.__wrapped__
    run.__signature__ = signature.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *options]}
    return run
