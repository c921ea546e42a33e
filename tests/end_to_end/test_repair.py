"""An operator's repair through a real cluster: viewers get its patch, every replica has it, and the log says who and why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import LiveCluster
from cluster.cli.output import Exit
from cluster.client import connect
from cluster.errors import InvalidPatch
from tests.cli.terminal import Finished, moot


async def _moot(live: LiveCluster, *arguments: str) -> Finished:
    return await asyncio.to_thread(moot, *arguments, "--address", live.addresses[0], cwd=live.local.folder)


async def test_a_viewer_gets_the_patch_and_the_log_says_who_and_why(live: LiveCluster, tmp_path: Path) -> None:
    key, patch = "chat/repaired", '[{"op": "replace", "path": "/title", "value": "coffee"}]'
    async with connect(*live.addresses, principal="ann@acme") as ann:
        room = ann.document("chat", "repaired")
        await room.create({"title": "tea"})
        async with room.watch() as watch:
            assert (await anext(watch)).view["title"] == "tea"
            tried = await _moot(live, "doc", "repair", key, "--patch", patch, "--reason", "typo", "--dry-run", "--json")
            assert tried.json["patch"] == json.loads(patch)
            options = ("--reason", "typo, #12", "--expect-position", "1.1", "--as", "root@acme", "--json")
            done = await _moot(live, "doc", "repair", key, "--patch", patch, *options)
            assert done.code == Exit.DONE, done.err
            assert done.json["position"] == {"epoch": 1, "index": 2}
            change = await anext(watch)
            assert (change.patch, change.position.index) == (json.loads(patch), 2)
        again = await _moot(live, "doc", "repair", key, "--patch", patch, *options)
        assert (again.code, again.json["error"]["reason"]) == (Exit.REFUSED, "POSITION_MOVED")
        wrong: Any = {"patch": b'[{"op": "replace", "path": "/title", "value": 1}]', "reason": "wrong"}
        with pytest.raises(InvalidPatch):
            await ann.admin("RepairDocument", document={"space": "chat", "key": "repaired"}, **wrong)
        await room.send("say", {"text": "it goes on"})
    log = await _moot(live, "doc", "log", key)
    assert "root@acme" in log.out
    assert "repair: typo, #12" in log.out
    file = str(tmp_path / "repaired.json")
    await _moot(live, "doc", "log", key, "--export", file)
    assert (await _moot(live, "doc", "replay", file, "--json")).code == Exit.USAGE, "replay needs no address"
    assert moot("doc", "replay", file, "--json", cwd=tmp_path).json["equal"]
    forked = await _moot(live, "doc", "fork", key, "--at", "1", "--to", "chat/forked", "--json")
    assert forked.json["made"] == {"epoch": 1, "index": 2}, forked.err
    async with connect(*live.addresses, principal="ann@acme") as ann:
        assert (await ann.read("chat", "forked")).value["title"] == "tea"
        await ann.send("chat", "forked", "say", b'{"text":"elsewhere"}')
    copied = str(tmp_path / "forked.json")
    await _moot(live, "doc", "log", "chat/forked", "--export", copied)
    verdict = moot("doc", "replay", copied, "--json", cwd=tmp_path).json
    assert (verdict["equal"], verdict["chain"], verdict["commands"]) == (True, "verified", 2)
    assert "fork: chat/repaired at 1.1" in (await _moot(live, "doc", "log", "chat/forked")).out
    inspected = await live.converged("chat", "repaired", 3)
    assert len({each.record_hash for each in inspected.values()}) == 1
