"""Handlers that read what they should not, on one of three real nodes: found, named and healed; no acknowledged command is
lost. And on two of three: a person decides.

The nodes run with the test hook `divergence_hook`: there a handler sees its node's name where the command has the marker.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import LiveCluster, until
from cluster.cli.local_commands import example
from cluster.cli.output import Exit
from cluster.cli.reach import ask_one
from cluster.errors import DocumentFrozen
from cluster.ids import Position
from cluster.session.client_events import Settings
from tests.cli.terminal import moot

MARKER = "the-host"
VICTIM = "n2"
HEALED, FROZEN = 3, 4
"""Remedies of a report, as the protocol has them."""
DOCUMENTS = 16
SENDS = 30
PATIENT = Settings(operation_timeout_ms=60_000)


async def test_documents_that_diverge_on_one_node_are_found_named_and_healed(folder: Path) -> None:
    async with LiveCluster(folder, shards=4, settings={"divergence_hook": f"{VICTIM}:{MARKER}"}) as live:
        await live.deploy("counter", example("counter"))
        keys = [f"k{number}" for number in range(DOCUMENTS)]
        async with live.client(settings=PATIENT) as client:
            await asyncio.gather(*(client.create("counter", key) for key in keys))
        shards = {key: (await ask_one(live.addresses[0], "Where", document=named(key))).shard.shard_id for key in keys}
        led = keys[0]
        followed = next(key for key in keys if shards[key] != shards[led])
        await _lead(live, shards[led], VICTIM)
        await _lead(live, shards[followed], "n1")
        chosen = [led, followed]

        async with live.client(settings=PATIENT) as client:
            for key in chosen:
                await client.send("counter", key, "put", {"value": MARKER})
            for number in range(1, SENDS + 1):
                totals = await asyncio.gather(*(client.send("counter", key, "add", {"amount": 1}) for key in keys))
                assert [total.value for total in totals] == [number] * DOCUMENTS, "acknowledged commands are all there"

        for key in chosen:
            report = await until(lambda key=key: _healed(live, key), f"{key} is healed")  # type: ignore[misc]
            assert report.position.index == 2
            assert report.channel == "put"
            assert report.field == "value"
            assert VICTIM not in report.right
            assert [list(side.nodes) for side in report.sides][-1] == [VICTIM]
            # Whoever led when it was found; a busy machine may have elected another since the command.
            assert report.misled == (report.leader == VICTIM), (
                "a leader that is wrong has told wrong answers, and the report says so"
            )
        for key in keys:
            inspected = await live.converged("counter", key, SENDS + 1 + (key in chosen))
            assert len({each.record_hash for each in inspected.values()}) == 1, key
        async with live.client(settings=PATIENT) as client:
            for key in keys:
                read = await client.read("counter", key)
                assert read.value == {"total": SENDS, "value": MARKER if key in chosen else ""}

        told = await asyncio.to_thread(moot, "doc", "divergences", "--json", "--address", live.addresses[0], cwd=folder)
        assert told.code == Exit.DONE
        assert {row["document"] for row in told.json["divergences"]} == {f"counter/{key}" for key in chosen}
        logs = "\n".join(live.local.log_path(node).read_text() for node in live.nodes)
        assert "differs between replicas" in logs
        assert MARKER not in logs, "values are not told"


async def test_a_document_that_no_majority_can_decide_about_goes_on_everywhere_as_an_operator_chooses(folder: Path) -> None:
    """Three replicas have three states. What the chosen one has is the document from there on; who looks on gets it whole."""
    async with LiveCluster(folder, shards=1, settings={"divergence_hook": f"n2,n3:{MARKER}"}) as live:
        await live.deploy("counter", example("counter"))
        async with live.client(settings=PATIENT) as client:
            counter = client.document("counter", "k")
            await counter.create()
            assert (await counter.send("add", {"amount": 5})).value == 5
            await counter.send("put", {"value": MARKER})
            await until(lambda: _reported(live, "k", FROZEN), "the document is frozen everywhere")
            with pytest.raises(DocumentFrozen):
                await counter.send("add", {"amount": 1})
            async with counter.watch() as watch:
                before = await anext(watch)
                assert before.position == Position(1, 3)

                options = ("--from", "n3", "--reason", "n3 has the new name", "--as", "root@acme", "--json")
                thaw = ("doc", "thaw", "counter/k", *options, "--address", live.addresses[0])
                done = await asyncio.to_thread(moot, *thaw, cwd=folder)
                assert done.code == Exit.DONE, done.err
                assert done.json["position"] == {"epoch": 2, "index": 4}
                assert (sorted(done.json["replaced"]), done.json["unasked"]) == (["n1", "n2"], [])

                change = await anext(watch)
                assert (change.reset, change.position) == (True, Position(2, 4))
                assert change.view == {"total": 5, "value": "n3"}
                assert (await counter.send("add", {"amount": 1})).value == 6
                change = await anext(watch)
                assert (change.reset, change.view) == (False, {"total": 6, "value": "n3"})
            again = await asyncio.to_thread(moot, *thaw, cwd=folder)
            assert again.code == Exit.REFUSED, "it is frozen no more"

        inspected = await live.converged("counter", "k", 5)
        assert len({each.record_hash for each in inspected.values()}) == 1
        await live.kill_all()
        live.start_all()
        await live.healthy()
        async with live.client(settings=PATIENT) as client:
            assert (await client.send("counter", "k", "add", {"amount": 1})).value == 7, "replay comes to the same"
            assert (await client.read("counter", "k")).value == {"total": 7, "value": "n3"}
        inspected = await live.converged("counter", "k", 6)
        assert len({each.record_hash for each in inspected.values()}) == 1


def named(key: str) -> dict[str, str]:
    return {"space": "counter", "key": key}


async def _lead(live: LiveCluster, shard: int, node: str) -> None:
    command = ["shards", "transfer", str(shard), "--to", node, "--address", live.addresses[0]]
    done = await asyncio.to_thread(moot, *command, cwd=live.local.folder)
    assert done.code == 0, done.err


async def _healed(live: LiveCluster, key: str) -> Any:
    """The report on a document, once every node says that it is healed."""
    return await _reported(live, key, HEALED)


async def _reported(live: LiveCluster, key: str, remedy: int) -> Any:
    """The report on a document, once every node says that this became of it."""
    found = []
    for address in live.addresses:
        listed = await ask_one(address, "ListDivergences")
        mine = [each for each in listed.divergences if each.document.key == key]
        if not mine or any(each.remedy != remedy for each in mine):
            return None
        found += mine
    return found[0]
