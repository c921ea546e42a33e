"""docs/internals/gossip.md stays true: every trap has a row, and what a row names exists and speaks of that trap."""

from __future__ import annotations

import pytest

from tests.project.test_raft_pages import rows, said_by, traps_in

TRAPS = 28
ROWS = rows("gossip.md")


def test_every_trap_of_gossip_has_a_row() -> None:
    assert [int(trap) for trap, _ in ROWS] == list(range(1, TRAPS + 1))


@pytest.mark.parametrize(("trap", "shown"), ROWS)
def test_what_shows_a_trap_of_gossip_exists_and_names_it(trap: str, shown: list[str]) -> None:
    assert shown, f"nothing shows trap {trap}"
    for each in shown:
        assert int(trap) in traps_in(said_by(each)), f"{each} does not name trap {trap}"
