"""`moot config`: what a node would be told, and by whom."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from cluster.cli.node import ConfigurationFile
from cluster.cli.output import AsJson, Exit, add_row, command, out, print_json, styled, table
from cluster.cli.settings import with_settings
from cluster.config import NodeConfig, load, settings
from cluster.errors import ConfigurationInvalid

app = typer.Typer(no_args_is_help=True, help="Show a node's configuration.")


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="config", rich_help_panel="Operating")


@app.command()
@command
@with_settings
def show(
    config: ConfigurationFile = None,
    sources: Annotated[bool, typer.Option("--sources", help="Say where each value came from.")] = False,
    as_json: AsJson = False,
    *,
    flags: dict[str, Any],
) -> Exit:
    """Show every setting with its value, unit and legal range: what `moot node start` with the same arguments would run with.

    Exit codes: 0, or 2 when the configuration is wrong.

    Example: moot config show --config n1.toml --sources
    """
    values, origins = _resolve(config, flags)
    rows: list[dict[str, object]] = []
    for setting in settings():
        value = values.get(setting.name)
        row = {
            "name": setting.name,
            "value": _plain(value),
            "unit": setting.unit,
            "legal": setting.legal,
            "default": _plain(setting.default),
            "why": setting.why,
        }
        if sources:
            row["source"] = origins.get(setting.name, "not set")
        rows.append(row)
    if as_json:
        print_json({"settings": rows})
        return Exit.DONE
    columns = ("setting", "value", "unit", *(("source",) if sources else ()), "legal")
    shown = table(*columns)
    for row in rows:
        value = row["value"]
        text = "\n".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        given = styled(text, "bold") if value != row["default"] else text
        add_row(
            shown, row["name"], given, row["unit"], *((row["source"],) if sources else ()), styled(str(row["legal"]), "dim")
        )
    out.print(shown)
    return Exit.DONE


def _resolve(config: ConfigurationFile, flags: dict[str, Any]) -> tuple[dict[str, object], dict[str, str]]:
    """Values and sources. A configuration that lacks only the two settings without a default is shown all the same."""
    absent: dict[str, str] = {}
    while True:
        try:
            loaded: NodeConfig = load(config, os.environ, {**flags, **absent})
        except ConfigurationInvalid as error:
            name = error.details.get("field", "")
            if name in ("node_id", "data_dir") and "value" not in error.details and name not in absent:
                absent[name] = "unset"
                continue
            raise
        values = {setting.name: getattr(loaded, setting.name) for setting in settings() if setting.name not in absent}
        return values, {name: source for name, source in loaded.sources().items() if name not in absent}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return dict(value) if isinstance(value, dict) else value
