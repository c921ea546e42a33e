"""The note of the running command: it survives the process, and two endings make a suspect."""

from __future__ import annotations

from pathlib import Path

from cluster.node.marker import PageMarker
from cluster.shard.commands import Command, CommandKind

COMMAND = Command(CommandKind.SEND, "text", "a", "edit", b"{}", "alice@acme", b"", 0, 0, b"")


def die_while_running(directory: Path, index: int) -> None:
    """A process that notes a command and is never heard of again."""
    PageMarker(directory).note(3, index, 1, COMMAND)


def test_a_command_that_ended_the_process_twice_is_a_suspect(tmp_path: Path) -> None:
    die_while_running(tmp_path, 7)
    assert PageMarker(tmp_path).suspected(3, 7) is None
    die_while_running(tmp_path, 7)
    marker = PageMarker(tmp_path)
    assert marker.suspected(3, 7) == 1
    assert marker.suspects() == [(3, 7, 1)]
    assert marker.suspected(3, 8) is None


def test_two_different_commands_are_no_suspects(tmp_path: Path) -> None:
    die_while_running(tmp_path, 7)
    die_while_running(tmp_path, 8)
    assert PageMarker(tmp_path).suspects() == []


def test_a_process_that_ends_between_commands_accuses_nobody(tmp_path: Path) -> None:
    for _ in range(3):
        marker = PageMarker(tmp_path)
        marker.note(3, 7, 1, COMMAND)
        marker.clear()
    assert PageMarker(tmp_path).suspects() == []


def test_a_damaged_count_file_is_an_empty_one(tmp_path: Path) -> None:
    die_while_running(tmp_path, 7)
    PageMarker(tmp_path)
    (tmp_path / "suspects.json").write_text("{garbage")
    die_while_running(tmp_path, 7)
    assert PageMarker(tmp_path).suspects() == []
