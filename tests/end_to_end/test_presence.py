"""A page and a table through real processes: cursors while their connections last, across a dead leader; dice that pass by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import WITHIN_S, LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Watch
from cluster.errors import InvalidPayload
from cluster.session.client_events import Settings
from cluster.session.events import PassedEvent

PATIENT = Settings(operation_timeout_ms=20_000)


async def until(watch: Watch, holds: Callable[[Any], bool], events: list[PassedEvent] | None = None) -> Any:
    """The first view for which it holds."""
    async with asyncio.timeout(WITHIN_S):
        if watch.view is not None and holds(watch.view):
            return watch.view
        async for change in watch:
            if events is not None:
                events += change.events
            if holds(change.view):
                return change.view
    raise AssertionError("the watch ended")


def cursors(view: Any) -> dict[str, int]:
    return {connection.partition("#")[0]: cursor["at"] for connection, cursor in view["cursors"].items()}


async def test_cursors_outlive_the_leader_and_go_with_their_connections(folder: Path) -> None:
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("cursors", example("cursors"))
        async with live.client(principal="bob@acme", settings=PATIENT) as bob, bob.watch("cursors", "page") as his:
            await until(his, lambda view: view == {"body": "", "cursors": {}})
            leader = await live.leader_of("cursors", "page")
            others = [node for node in live.nodes if node is not leader]
            async with live.client(*others, principal="alice@acme", settings=PATIENT) as alice:
                hers = alice.watch("cursors", "page")
                await until(hers, lambda view: view["cursors"] == {})
                hers.present({"at": 3})
                his.present({"at": 5})
                both = {"alice@acme": 3, "bob@acme": 5}
                for watch in (hers, his):
                    await until(watch, lambda view: cursors(view) == both)

                await live.kill(leader)
                await alice.send("cursors", "page", "edit", {"patches": [{"at": 0, "insert": "on"}]})
                for watch in (hers, his):
                    await until(watch, lambda view: view["body"] == "on" and cursors(view) == both)

                hers.present({"at": "nowhere"})
                with pytest.raises(InvalidPayload):
                    await until(hers, lambda view: view["body"] == "never")
                await until(his, lambda view: cursors(view) == {"bob@acme": 5})
                await asyncio.sleep(0.05)
                hers.present({"at": 4})
                await until(his, lambda view: cursors(view) == {"alice@acme": 4, "bob@acme": 5})
            await until(his, lambda view: cursors(view) == {"bob@acme": 5})


async def test_a_roll_is_heard_by_whom_it_is_for_through_gateway_and_peer(live: LiveCluster) -> None:
    await live.deploy("dice", example("dice"))
    async with live.client(principal="alice@acme") as alice, live.client(*live.nodes[1:], principal="bob@acme") as bob:
        table = alice.document("dice", "table")
        await table.create()
        hers, his = table.watch(), bob.watch("dice", "table")
        for watch in (hers, his):
            await until(watch, lambda view: view is not None)
        heard: dict[str, list[PassedEvent]] = {"alice": [], "bob": []}
        hidden = await table.send("roll_hidden")
        shown = await table.send("roll")
        for name, watch in (("alice", hers), ("bob", his)):
            async with asyncio.timeout(WITHIN_S):
                while watch.position is None or watch.position < shown.position:
                    change = await anext(watch)
                    heard[name] += change.events
        assert [event.position for event in heard["alice"]] == [hidden.position, shown.position]
        assert [(event.name, event.value["by"], event.position) for event in heard["bob"]] == [
            ("Rolled", "alice@acme", shown.position)
        ]
        hers.close()
        his.close()
