"""New code while clients pipeline messages and a viewer watches, with the leader killed in the middle: nothing is lost, nothing
runs twice, nobody's stream ends, and the history replays across it all.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from chaos.live.load import LEDGER, SPACE, Load
from chaos.live.processes import LiveCluster, until
from cluster.cli.output import Exit
from cluster.cli.reach import ask_one
from cluster.documents.bundle import code_hash, from_path
from cluster.shard.commands import CommandKind
from tests.cli.terminal import Finished, moot

BELL = """
from datetime import timedelta
from cluster import Command, Document, anyone, field, on

class Bell(Document, version=1):
    gate = anyone

    @on.construct
    def hang(self, ctx: Command) -> None:
        ctx.after(timedelta(hours=1), self.ring)

    @on.alarm
    def ring(self, ctx: Command) -> None:
        pass
"""
SECOND, THIRD = LEDGER.with_name("ledger_second.py"), LEDGER.with_name("ledger_third.py")


async def typed(live: LiveCluster, *arguments: str) -> Finished:
    addresses = ",".join(node.address for node in live.running())
    return await asyncio.to_thread(moot, *arguments, "--address", addresses, cwd=live.local.folder)


async def on_code(live: LiveCluster, key: str, path: Path) -> None:
    """Until the document has the code of a file, at whoever leads it.

    Each probe reads the document before it looks: a document moves on when it is touched, and the touches before this may have
    come before a quorum of voters had said that it compiled the code.
    """
    wanted = code_hash(from_path(path).encode())
    async with live.client(*live.running()) as client:

        async def probe() -> bool:
            await client.read(SPACE, key)
            leader = await live.leader_of(SPACE, key)
            return bool((await live.inspect(leader, SPACE, key)).code_hash == wanted)

        await until(probe, f"{key} runs {path.name}")


async def upgrade_fails(live: LiveCluster, key: str) -> None:
    """Until the document has tried the newest deployment and kept its code; touched at each probe, as above."""
    async with live.client() as client:

        async def probe() -> bool:
            await client.read(SPACE, key)
            told = await ask_one((await live.leader_of(SPACE, key)).address, "GetSpace", space=SPACE)
            return [failed.document.key for failed in told.failed_upgrades] == [key]

        await until(probe, f"{key} is tried with the newest deployment")


def test_code_changes_under_traffic_and_a_killed_leader(folder: Path) -> None:
    async def scenario() -> None:
        live = LiveCluster(folder, shards=1)
        async with live:
            await live.deploy(SPACE, LEDGER)
            async with Load(live, ["a"]) as load:
                leader = await live.leader_of(SPACE, "a")
                deployed = await typed(live, "space", "deploy", SPACE, str(SECOND), "--json")
                assert deployed.code == Exit.DONE, deployed.err
                await live.kill(leader)
                await load.flows()
                await on_code(live, "a", SECOND)
                live.start_all()
                await live.healthy()
                checked = await typed(live, "space", "deploy", SPACE, str(THIRD), "--check", "--json")
                assert checked.json["documents"][0]["commands"] > 20
                assert {row["what"] for row in checked.json["documents"][0]["differences"]} <= {"view", "state"}, (
                    "every message would be answered as it was"
                )
                deployed = await typed(live, "space", "deploy", SPACE, str(THIRD), "--json")
                assert deployed.code == Exit.DONE, deployed.err
                await load.flows()
                await on_code(live, "a", THIRD)
                await load.settle()
                await load.verify()
            await the_history_crosses_both_upgrades(live)

    asyncio.run(scenario())


async def the_history_crosses_both_upgrades(live: LiveCluster) -> None:
    shown = await typed(live, "space", "show", SPACE, "--json")
    versions: list[dict[str, Any]] = shown.json["versions"]
    assert [row["version"] for row in versions] == [1, 2, 3]
    assert [row["documents_in_memory"] for row in versions] == [0, 0, 1]
    assert shown.json["failed_upgrades"] == []
    async with live.client() as client:
        entries = (await client.read(SPACE, "a")).value
    assert len(entries["steps"]) == 2, "each hook ran once"
    assert entries["steps"] == sorted(entries["steps"])
    exported = live.local.folder / "a.json"
    assert (await typed(live, "doc", "log", f"{SPACE}/a", "--export", str(exported))).code == Exit.DONE
    kinds = [row["kind"] for row in json.loads(exported.read_text())["commands"]]
    assert kinds.count(CommandKind.UPGRADE.name.lower()) == 2
    replayed = await asyncio.to_thread(moot, "doc", "replay", str(exported), "--json", cwd=live.local.folder)
    assert (replayed.json["equal"], replayed.json["chain"]) == (True, "verified")
    await live.converged(SPACE, "a", 1)
    inspected = await asyncio.gather(*(live.inspect(node, SPACE, "a") for node in live.nodes))
    assert len({answer.record_hash for answer in inspected}) == 1


def test_a_version_that_needs_a_hook_is_refused_and_a_failing_one_is_listed(folder: Path) -> None:
    async def scenario() -> None:
        live = LiveCluster(folder, shards=1)
        async with live:
            await live.deploy(SPACE, LEDGER)
            async with live.client() as client:
                await client.create(SPACE, "a")
                source = LEDGER.read_text().replace("version=1", "version=2")
                path = folder / "ledger.py"
                path.write_text(source.replace("entries: list[int]", "entries: list[str]").replace("(number)", "(str(number))"))
                refused = await typed(live, "space", "deploy", SPACE, str(path), "--json")
                assert refused.code == Exit.REFUSED
                assert "field entries: it was int and is str" in refused.json["error"]["message"]
                assert "ledger.py:15" in refused.json["error"]["message"]

                hook = "    @on.upgrade(since=1)\n    def lead(self, ctx: Command) -> None:\n        self.entries[99] = 1\n\n"
                path.write_text(source.replace("    @on.construct\n", hook + "    @on.construct\n"))
                assert (await typed(live, "space", "deploy", SPACE, str(path), "--json")).code == Exit.DONE
                await upgrade_fails(live, "a")
                for number in (1, 2, 3):
                    assert (await client.send(SPACE, "a", "append", {"number": number})).value == number + 1
                shown = (await typed(live, "space", "show", SPACE, "--json")).json
                assert [row["document"] for row in shown["failed_upgrades"]] == [f"{SPACE}/a"]
                errors = (await typed(live, "space", "errors", SPACE, "--json")).json["errors"]
                assert [row["channel"] for row in errors] == ["-upgrade"], "tried once, not at every touch"
                assert "self.entries[99] = 1" in errors[0]["traceback"]

                back = await typed(live, "space", "rollback", SPACE, "--json")
                assert (back.code, back.json["returns"]) == (Exit.DONE, True)
                assert (await client.send(SPACE, "a", "append", {"number": 4})).value == 5
                again = await typed(live, "space", "deploy", SPACE, str(THIRD), "--json")
                assert again.code == Exit.DONE
                assert (await client.send(SPACE, "a", "append", {"number": 5})).value == 6
                await on_code(live, "a", THIRD)

                path.write_text(BELL)
                assert (await typed(live, "space", "deploy", "bell", str(path), "--json")).code == Exit.DONE
                await client.create("bell", "tower")
                path.write_text(BELL.replace("version=1", "version=2").replace("ring", "strike"))
                waits = await typed(live, "space", "deploy", "bell", str(path), "--json")
                assert waits.code == Exit.REFUSED
                assert "handler ring is gone, and something pending names it" in waits.json["error"]["message"]

    asyncio.run(scenario())
