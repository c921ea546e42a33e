"""Asks of real documents in real processes: a worker answers while the leader is killed, and the answer counts once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from chaos.live.processes import LiveCluster, until
from cluster.cli.local_commands import example
from cluster.client import Ask, Client
from cluster.errors import AskClosed, InvalidPayload
from cluster.session.client_events import Settings

PATIENT = Settings(operation_timeout_ms=60_000)
BOT = "bot@acme"
WORDS = ("It ", "depends", ".")


async def test_an_answer_given_while_the_leader_is_killed_is_applied_once(folder: Path) -> None:
    """The worker streams tokens, the leader dies by SIGKILL in between, another worker is handed the same ask: one answer."""
    async with (
        LiveCluster(folder, shards=2) as live,
        live.client(principal="alice@acme", settings=PATIENT) as alice,
        live.client(principal=BOT, settings=PATIENT) as one,
        live.client(principal=BOT, settings=PATIENT) as other,
    ):
        await live.deploy("assistant", example("assistant"))
        await alice.create("assistant", "talk", {"assistant": BOT})
        killed = asyncio.Event()
        taken: list[Ask] = []
        answered: list[bool] = []

        async def work(client: Client, word: str) -> None:
            async for ask in client.asks("assistant", take=2, lease=timedelta(seconds=2)):
                taken.append(ask)
                said = ""
                for token in WORDS:
                    piece = {"reply": ask.request["reply"], "at": len(said), "text": token}
                    await client.send("assistant", "talk", "stream", piece)
                    said += token
                    await killed.wait()
                answered.append(await ask.answer(said + word))

        workers = [asyncio.ensure_future(work(client, word)) for client, word in ((one, " One"), (other, " Other"))]
        try:
            told = (await alice.send("assistant", "talk", "say", {"text": "is it?"})).value
            await until(lambda: _reached(alice, WORDS[0]), "the first token")
            leader = await live.leader_of("assistant", "talk")
            await live.kill(leader)
            killed.set()
            await until(lambda: _reached(alice, "".join(WORDS)), "the answer")
            await until(lambda: _true(len(answered) >= 1), "the worker's end")
            view = (await alice.read("assistant", "talk")).value
            assert [turn["text"] for turn in view["turns"]] in [["is it?", "It depends." + end] for end in (" One", " Other")]
            assert answered.count(True) == 1
            assert {ask.id for ask in taken} == {told}
            with pytest.raises(AskClosed):
                await one.answer("assistant", "talk", told, "again")
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _reached(client: Client, text: str) -> bool:
    turns = (await client.read("assistant", "talk")).value["turns"]
    return bool(turns) and str(turns[-1]["text"]).startswith(text)


async def _true(holds: bool) -> bool:
    return holds


async def test_workers_share_what_is_asked_and_people_answer_from_a_client(live: LiveCluster) -> None:
    keys = [f"shared-{number}" for number in range(12)]
    async with (
        live.client(principal="alice@acme") as alice,
        live.client(principal=BOT) as one,
        live.client(principal=BOT) as other,
    ):
        asks = {}
        for key in keys:
            await alice.create("assistant", key, {"assistant": BOT})
            asks[key] = (await alice.send("assistant", key, "say", {"text": key})).value
        counted: dict[str, int] = {}
        both = asyncio.Event()  # nobody answers before the other has been handed one too, however late it comes

        async def work(name: str, client: Client) -> None:
            async for ask in client.asks("assistant", take=2):
                counted[name] = counted.get(name, 0) + 1
                if len(counted) == 2:
                    both.set()
                await both.wait()
                await asyncio.sleep(0.02)
                if ask.document.key == keys[0]:
                    ask.release()
                    await asyncio.sleep(0.5)
                else:
                    assert await ask.answer(f"{ask.request['prompt']}!")

        workers = [asyncio.ensure_future(work(name, client)) for name, client in (("one", one), ("other", other))]
        try:
            await until(lambda: _answered(alice, keys[1:]), "all answers but one")
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        assert set(counted) == {"one", "other"}
        with pytest.raises(InvalidPayload):
            await one.answer("assistant", keys[0], asks[keys[0]], 5)
        with pytest.raises(AskClosed):
            await alice.answer("assistant", keys[0], asks[keys[0]], "me")
        assert (await one.document("assistant", keys[0]).answer(asks[keys[0]], "by hand")).value is None
        assert (await alice.read("assistant", keys[0])).value["turns"][-1]["text"] == "by hand"


async def _answered(client: Client, keys: list[str]) -> bool:
    views = [(await client.read("assistant", key)).value for key in keys]
    return all(view["ask"] == "" and view["turns"][-1]["text"] == f"{key}!" for key, view in zip(keys, views, strict=True))
