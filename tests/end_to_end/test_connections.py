"""A lobby through real processes: each comes once and goes once, though the leader is killed, and with it a gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import WITHIN_S, LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Watch, connect
from cluster.examples.lobby import Full
from cluster.session.client_events import Settings
from tests.end_to_end.test_upgrades import typed

PATIENT = Settings(operation_timeout_ms=20_000)


async def until_here(watch: Watch, *wanted: str) -> Any:
    """The first view in which just these have seats."""
    async with asyncio.timeout(WITHIN_S):
        while watch.view is None or sorted(seat["who"] for seat in watch.view["seats"].values()) != sorted(wanted):
            await anext(watch)
    return watch.view


def connection_of(watch: Watch, who: str) -> str:
    (connection,) = [seat["connection"] for seat in watch.view["seats"].values() if seat["who"] == who]
    return str(connection)


async def test_each_comes_and_goes_once_though_the_leader_is_killed(folder: Path) -> None:
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("lobby", example("lobby"))
        async with live.client(principal="host@acme", settings=PATIENT) as host:
            await host.create("lobby", "door", {"size": 3})
        leader = await live.leader_of("lobby", "door")
        others = [node for node in live.nodes if node is not leader]
        async with (
            live.client(others[0], principal="bob@acme", settings=PATIENT) as bob,
            live.client(leader, *others, principal="eve@acme", settings=PATIENT) as eve,
            connect(*[node.address for node in others], principal="late@acme", settings=PATIENT, refusals=[Full]) as late,
        ):
            his = bob.watch("lobby", "door")
            await until_here(his, "bob@acme")
            hers = eve.watch("lobby", "door")
            await until_here(his, "bob@acme", "eve@acme")
            (bobs, eves) = (connection_of(his, who) for who in ("bob@acme", "eve@acme"))

            await live.kill(leader)  # it leads the lobby, and is eve's gateway: she comes again at another, as another
            async with asyncio.timeout(WITHIN_S):
                while eves in his.view["seats"]:
                    await anext(his)
            await until_here(his, "bob@acme", "eve@acme")
            assert connection_of(his, "bob@acme") == bobs, "bob was never away"

            third = late.watch("lobby", "door")
            await until_here(third, "bob@acme", "eve@acme", "late@acme")
            fourth = late.watch("lobby", "door")
            with pytest.raises(Full):
                await anext(fourth)
            third.close()
            await until_here(his, "bob@acme", "eve@acme")
            hers.close()
            await until_here(his, "bob@acme")

            log = await typed(live, "doc", "log", "lobby/door", "--json")
            told = [(row["kind"], row["sender"].partition("@")[0]) for row in log.json["commands"]]
            assert [told.count(("connect", who)) for who in ("bob", "eve", "late")] == [1, 2, 2], "one of them was refused"
            assert [told.count(("disconnect", who)) for who in ("bob", "eve", "late")] == [0, 2, 1]
