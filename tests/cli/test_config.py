"""`moot config show`: every setting, its value and who said so; wrong values are refused with what would be legal."""

from __future__ import annotations

import json
from pathlib import Path

from cluster import config
from cluster.cli.output import Exit
from tests.cli.terminal import called


def test_sources_are_told_in_the_order_in_which_they_win(tmp_path: Path) -> None:
    (tmp_path / "n1.toml").write_text('node_id = "n1"\ndata_dir = "data"\nshard_count = 4\nlog_level = "debug"\n')
    arguments = ("config", "show", "--config", "n1.toml", "--sources", "--json", "--apply-slice-ms", "30")
    shown = called(*arguments, cwd=tmp_path, MOOT_SHARD_COUNT="6", MOOT_APPLY_SLICE_MS="7")
    assert shown.code == Exit.DONE
    rows = {row["name"]: row for row in shown.json["settings"]}
    assert list(rows) == [setting.name for setting in config.settings()]
    assert (rows["log_level"]["value"], rows["log_level"]["source"]) == ("debug", "file n1.toml")
    assert (rows["shard_count"]["value"], rows["shard_count"]["source"]) == (6, "environment MOOT_SHARD_COUNT")
    assert (rows["apply_slice_ms"]["value"], rows["apply_slice_ms"]["source"]) == (30, "flag --apply-slice-ms")
    assert (rows["fsync_mode"]["value"], rows["fsync_mode"]["source"]) == ("auto", "default")


def test_without_any_configuration_defaults_are_shown_and_what_is_not_set(tmp_path: Path) -> None:
    shown = called("config", "show", "--sources", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in shown.json["settings"]}
    assert (rows["node_id"]["value"], rows["node_id"]["source"]) == (None, "not set")
    assert rows["client_port"]["value"] == 7400


def test_wrong_value_is_refused_with_its_source_and_what_is_legal(tmp_path: Path) -> None:
    refused = called("config", "show", "--json", cwd=tmp_path, MOOT_FSYNC_MODE="never")
    assert refused.code == Exit.USAGE
    error = refused.json["error"]
    assert error["reason"] == "CONFIGURATION_INVALID"
    assert "auto | inline | thread" in error["message"]
    assert "MOOT_FSYNC_MODE" in error["message"]


def test_unknown_name_in_a_file_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "n1.toml").write_text('node_id = "n1"\ndata_dir = "d"\nshard_cuont = 4\n')
    refused = called("config", "show", "--config", "n1.toml", cwd=tmp_path)
    assert refused.code == Exit.USAGE
    assert "shard_count" in refused.err


def test_table_for_people_has_every_setting(tmp_path: Path) -> None:
    shown = called("config", "show", cwd=tmp_path)
    assert shown.code == Exit.DONE
    for setting in config.settings():
        assert setting.name in shown.out
    assert json.dumps({}) not in shown.err
