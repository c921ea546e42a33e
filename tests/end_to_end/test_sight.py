"""Views with arguments, windows and failures of views, through a real cluster and the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.live.processes import LiveCluster
from cluster.client import connect
from cluster.errors import InvalidArguments

SOURCE = """
from cluster import Command, Document, Principal, Record, Table, anyone, field, latest, on, read

class Line(Record):
    @read.policy
    def is_author(self, who: Principal) -> bool:
        return who == self.author

    author: Principal
    text: str
    note: str = field.visible(is_author, "")

class Room(Document):
    gate = anyone
    lines: Table[Line] = field.public(window=latest(2, at_most=4))

    @on.message
    def say(self, ctx: Command, text: str, note: str = "") -> int:
        self.lines.put(Line(ctx.sender, text, note))
        return len(self.lines)

    @read.view
    def by(self, author: Principal) -> int:
        return len(self.lines.where(author=author))

    @read.view
    def shortest(self) -> str:
        return min(line.text for line in self.lines)
"""


async def test_a_viewer_asks_for_more_on_the_open_stream_and_operators_find_what_failed(
    live: LiveCluster, tmp_path: Path
) -> None:
    source = tmp_path / "room.py"
    source.write_text(SOURCE)
    await live.deploy("room", source)
    addresses = [node.address for node in live.running()]
    async with connect(*addresses, principal="ann@acme") as ann, connect(*addresses, principal="bob@acme") as bob:
        room = ann.document("room", "r")
        await room.create()
        empty = (await room.read()).value
        error_id = empty["-errors"]["shortest"]
        assert "by" not in empty, "a view is absent until its argument is given"
        for number in range(5):
            await room.send("say", {"text": str(number), "note": f"secret {number}"})
        async with bob.document("room", "r").watch(arguments={"by": {"author": "ann@acme"}}) as watch:
            first = await anext(watch)
            assert (first.view["by"], first.view["lines"]["total"], first.view["shortest"]) == (5, 5, "0")
            assert [line["text"] for line in first.view["lines"]["rows"].values()] == ["3", "4"]
            version = watch.show({"lines": {"latest": 4}})
            change = await anext(watch)
            assert (change.arguments, change.reset, change.position) == (version, False, first.position)
            assert sorted(line["text"] for line in change.view["lines"]["rows"].values()) == ["1", "2", "3", "4"]
            assert "by" not in change.view
            watch.show({"lines": {"latest": 5}})
            with pytest.raises(InvalidArguments):
                await anext(watch)
            await room.send("say", {"text": "6", "note": "secret 6"})
            change = await anext(watch)
            assert change.view["lines"]["total"] == 6
            assert "secret" not in str(change.view)
        assert (await room.read(arguments={"by": {"author": "bob@acme"}})).value["by"] == 0
        with pytest.raises(InvalidArguments):
            await room.read(arguments={"lines": {"latest": 0}})
        found = []
        for node in live.running():
            async with connect(node.address, principal="ann@acme") as one:
                listed = await one.admin("ListSpaceErrors", space="room", error_id=error_id)
                found += listed.errors  # type: ignore[attr-defined]
    assert found
    assert found[0].channel == "view shortest"
    assert "room.py" in found[0].traceback
