"""Four people play cards through gRPC while their leader dies, the game changes its code and each loses the connection once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from chaos.live.processes import WITHIN_S, LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Client, Watch
from cluster.ids import Position
from cluster.session.client_events import Settings

NAMES = ("ann@acme", "ben@acme", "cleo@acme", "dan@acme")
SPACE, KEY = "cards", "table"
PATIENT = Settings(operation_timeout_ms=60_000)
MOVES_MAX = 400


class Player:
    """One person at the table: a client that watches and plays, and everything it was ever shown."""

    def __init__(self, live: LiveCluster, number: int) -> None:
        self._live = live
        self._number = number
        self.name = NAMES[number]
        self.shown: list[str] = []
        self._stack = contextlib.AsyncExitStack()
        self._client: Client
        self._watch: Watch
        self._position: Position | None = None

    @property
    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self._watch.view
        return view

    async def arrive(self) -> None:
        """Connect, through a gateway of one's own choice, and follow the table from where one has been."""
        nodes = self._live.running()
        first = self._number % len(nodes)
        opened = self._live.client(*nodes[first:], *nodes[:first], principal=self.name, settings=PATIENT)
        self._client = await self._stack.enter_async_context(opened)

    async def sit(self) -> None:
        await self._client.send(SPACE, KEY, "sit")

    async def follow(self) -> None:
        view = self._watch.view if self._position is not None else None
        self._watch = await self._stack.enter_async_context(self._client.watch(SPACE, KEY, resume_after=self._position))
        self._watch.view = view
        if self._position is None:
            await self._see()

    async def leave(self) -> None:
        """Lose the connection."""
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()

    async def _see(self) -> None:
        change = await asyncio.wait_for(anext(self._watch), WITHIN_S)
        self._position = change.position
        self.shown.append(json.dumps(change.view["hands"]))
        self.shown.append(json.dumps(change.patch))

    async def caught_up(self, position: Position) -> None:
        while self._position is None or self._position < position:
            await self._see()

    async def move(self) -> Position:
        """Play a card that fits, or draw."""
        hand = [held["card"] for held in self.view["hands"].values()]
        top, suit = self.view["top"], self.view["suit"]
        card = next((card for card in hand if card["rank"] in ("8", top["rank"]) or card["suit"] == suit), None)
        if card is None:
            return (await self._client.send(SPACE, KEY, "draw")).position
        call = {"call": card["suit"]} if card["rank"] == "8" else {}
        return (await self._client.send(SPACE, KEY, "play", card | call)).position


@contextlib.asynccontextmanager
async def table(live: LiveCluster) -> AsyncIterator[list[Player]]:
    players = [Player(live, number) for number in range(len(NAMES))]
    try:
        for player in players:
            await player.arrive()
        await players[0]._client.create(SPACE, KEY)
        for player in players[1:]:
            await player.sit()
        position = (await players[0]._client.send(SPACE, KEY, "deal")).position
        for player in players:
            await player.follow()
            await player.caught_up(position)
        yield players
    finally:
        for player in players:
            await player.leave()


def second_version(folder: Path) -> Path:
    """The same game with a new public field, which needs no hook."""
    source = example(SPACE).read_text()
    source = source.replace("class Cards(Document, version=1):", "class Cards(Document, version=2):")
    source = source.replace(
        "    turn: int = field.public(0)\n", "    turn: int = field.public(0)\n    drawn: int = field.public(0)\n"
    )
    source = source.replace("        if self.stock:\n", "        self.drawn += 1\n        if self.stock:\n")
    path = folder / "cards.py"
    path.write_text(source)
    return path


async def test_four_players_finish_a_game_across_a_dead_leader_an_upgrade_and_lost_connections(
    folder: Path, tmp_path: Path
) -> None:
    async with LiveCluster(folder) as live:
        await live.deploy(SPACE, example(SPACE))
        async with table(live) as players:
            number = 0
            upgraded_at = None
            while players[0].view["winner"] is None:
                assert number < MOVES_MAX
                if number == 5:
                    leader = await live.leader_of(SPACE, KEY)
                    await live.kill(leader)
                if number == 9:
                    live.local.start(leader)
                    await live.healthy()
                    await live.deploy(SPACE, second_version(tmp_path))
                    upgraded_at = number
                if 12 <= number < 16:
                    await players[number - 12].leave()
                    await players[number - 12].arrive()
                    await players[number - 12].follow()
                position = await players[number % 4].move()
                for player in players:
                    await player.caught_up(position)
                number += 1
            assert upgraded_at is not None
            winner = players[0].view["winner"]
            assert winner == NAMES[(number - 1) % 4]
            assert all("drawn" in player.view for player in players), "the game goes on under its second version"
            for player in players:
                public = {name: value for name, value in player.view.items() if name != "hands"}
                assert public == {name: value for name, value in players[0].view.items() if name != "hands"}
                assert public["turn"] == number, "every move was made once"
                assert public["counts"][player.name] == len(player.view["hands"])
                others = [name for name in NAMES if name != player.name]
                assert not any(f'"owner": "{name}"' in shown for name in others for shown in player.shown)
        inspected = await live.converged(SPACE, KEY, position.index)
        assert len({answer.record_hash for answer in inspected.values()}) == 1
