"""Plays a session of two authors again: two live clients at one document, each at its own places, while the leader dies.

The authors type as fast as they can. Only where a stroke was made in, or next to, something of the other's they wait until they
see it. Afterwards the two authors' texts and the document on every node must be one text that holds every character that was
typed and not deleted, once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.demo.run import KEY, PATIENT, SPACE, Spectator, Victim
from chaos.demo.session import AUTHORS, Characters, Session, Stroke
from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Client, Consistency, TextEditor
from cluster.client.editing import Splice
from cluster.config import SHARDS_DEFAULT
from cluster.ids import Position

FIELD: Final = "body"
STROKES_A_SLICE: Final = 8
"""Strokes after which an author lets others have the processor."""
DOWN_S: Final = 0.5
CONVERGED_TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class Together:
    """Everything that was found; see `to_dict` for the keys of --json."""

    recording: str
    seed: int
    nodes: int
    strokes: int
    messages: int = 0
    seconds: float = 0.0
    victims: list[Victim] = field(default_factory=list)
    texts_equal: bool = False
    characters_match: bool = False
    hashes_equal: bool = False
    as_recorded: bool = False
    trouble: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything held. That ties fell as they did in the recording is not asked for."""
        return self.texts_equal and self.characters_match and self.hashes_equal and not self.trouble

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for programs."""
        return {
            "passed": self.passed,
            "recording": self.recording,
            "seed": self.seed,
            "nodes": self.nodes,
            "authors": AUTHORS,
            "strokes": self.strokes,
            "messages": self.messages,
            "kills": len(self.victims),
            "texts_equal": self.texts_equal,
            "characters_match": self.characters_match,
            "hashes_equal": self.hashes_equal,
            "as_recorded": self.as_recorded,
            "unavailable_ms": [round(victim.unavailable_ms, 1) for victim in self.victims],
            "killed": [{"node_id": victim.node_id, "stroke": victim.message} for victim in self.victims],
            "seconds": round(self.seconds, 3),
            "strokes_per_s": round(self.strokes / max(1e-9, self.seconds)),
            "trouble": self.trouble,
        }


class Author:
    """One of the two: types its strokes into a live editor, at the characters that they name.

    typed: how many strokes so far.
    """

    def __init__(self, number: int, session: Session) -> None:
        other = 1 - number
        self._number = number
        self._other = other
        self._strokes = session.strokes[number]
        self._needed = [0, *itertools.accumulate(len(stroke.inserts) for stroke in session.strokes[other])]
        self._characters = Characters()
        self._own = 0
        self._seen = 0
        self.typed = 0

    def others(self, splices: list[Splice]) -> None:
        """The other author's edits have arrived: its characters come in the order in which it typed them."""
        for at, delete, insert in splices:
            names = [(self._seen + each) * AUTHORS + self._other for each in range(len(insert))]
            self._seen += len(insert)
            self._characters.splice(at, delete, names)

    async def write(self, editor: TextEditor, total: Typed) -> None:
        """Type everything."""
        for stroke in self._strokes:
            while self._seen < self._needed[stroke.needs]:
                await editor.changed()
            self._stroke(editor, stroke)
            self.typed += 1
            total.add()
            if not self.typed % STROKES_A_SLICE:
                await asyncio.sleep(0)

    def _stroke(self, editor: TextEditor, stroke: Stroke) -> None:
        characters = self._characters
        for name in stroke.deletes:
            if (place := characters.place(name)) is not None:
                editor.delete(place)
                characters.splice(place, 1, ())
        if stroke.inserts:
            at = characters.behind(stroke.behind)
            editor.insert(at, stroke.inserts)
            characters.splice(at, 0, [(self._own + each) * AUTHORS + self._number for each in range(len(stroke.inserts))])
            self._own += len(stroke.inserts)


class Typed:
    """How many strokes both have typed, for the spectator and for whoever waits to kill."""

    def __init__(self, spectator: Spectator) -> None:
        self._spectator = spectator
        self._moved = asyncio.Event()
        self.count = 0

    def add(self) -> None:
        """One more."""
        self.count += 1
        self._moved.set()
        self._spectator.acknowledged(self.count)

    async def reached(self, count: int) -> None:
        """Until so many were typed."""
        while self.count < count:
            self._moved.clear()
            await self._moved.wait()


async def run_together(
    session: Session, folder: Path, spectator: Spectator, *, nodes: int = 3, seed: int = 0, shards: int = SHARDS_DEFAULT
) -> Together:
    """Run it below an empty folder. Raises NotReached when the cluster does not recover, ClusterError for a client."""
    spectator.phase(f"starting {nodes} nodes")
    result = Together(session.name, seed, nodes, session.count)
    async with LiveCluster(folder, nodes, shards=shards) as live:
        await live.deploy(SPACE, example(SPACE))
        order = live.nodes
        async with (
            live.client(*order, principal="author0@demo", settings=PATIENT) as first,
            live.client(*reversed(order), principal="author1@demo", settings=PATIENT) as second,
        ):
            await first.create(SPACE, KEY)
            texts = await _type(live, (first, second), session, result, spectator)
        spectator.phase("reading from every node")
        await _compare(live, texts, session, result)
    return result


async def _type(
    live: LiveCluster, clients: tuple[Client, Client], session: Session, result: Together, spectator: Spectator
) -> list[str]:
    """Both type at once, and the document's leader dies. Returns what each author sees at the end."""
    authors = [Author(number, session) for number in range(AUTHORS)]
    total = Typed(spectator)
    began = time.monotonic()
    async with (
        clients[0].document(SPACE, KEY).edit_text(FIELD, on_change=authors[0].others) as first,
        clients[1].document(SPACE, KEY).edit_text(FIELD, on_change=authors[1].others) as second,
    ):
        editors = (first, second)
        spectator.phase(f"two authors, {result.strokes} strokes")
        async with asyncio.TaskGroup() as group:
            for author, editor in zip(authors, editors, strict=True):
                group.create_task(author.write(editor, total))
            if result.nodes >= 3:
                group.create_task(_kill(live, editors, total, result, spectator))
        spectator.phase("until the document has everything")
        await first.settled()
        await second.settled()
        index = max(first.position.index, second.position.index)
        result.seconds = time.monotonic() - began
        await first.reached(index)
        await second.reached(index)
        result.messages = index - 1
        return [first.text, second.text]


async def _kill(live: LiveCluster, editors: Iterable[TextEditor], total: Typed, result: Together, spectator: Spectator) -> None:
    """Kill the document's leader once, somewhere in the middle, and start it again."""
    leader = await live.leader_of(SPACE, KEY)
    share = random.Random(result.seed).uniform(0.3, 0.6)
    await total.reached(int(share * result.strokes))
    victim = Victim(leader.node_id, total.count, time.monotonic())
    before = [editor.position for editor in editors]
    await live.kill(leader)
    result.victims.append(victim)
    spectator.killed(leader.node_id, victim.message)
    await asyncio.gather(*(editor.reached(position.index + 1) for editor, position in zip(editors, before, strict=True)))
    victim.unavailable_ms = 1000 * (time.monotonic() - victim.at_s)
    spectator.repaired(leader.node_id, victim.unavailable_ms)
    await asyncio.sleep(DOWN_S)
    live.local.start(leader)
    await live.healthy()


async def _compare(live: LiveCluster, texts: list[str], session: Session, result: Together) -> None:
    """Ask every node, and count the characters."""
    inspected = await live.converged(SPACE, KEY, result.messages + 1, CONVERGED_TIMEOUT_S)
    result.hashes_equal = len({answer.record_hash for answer in inspected.values()}) == 1
    for node in live.nodes:
        async with live.client(node) as client:
            position = Position(1, result.messages + 1)
            local = await client.read(SPACE, KEY, consistency=Consistency.AT_LEAST, at_least=position)
            texts.append(local.value[FIELD])
    result.texts_equal = len(set(texts)) == 1
    result.characters_match = Counter(texts[0]) == session.characters_left
    result.as_recorded = texts[0] == session.end
    if not result.texts_equal:
        result.trouble.append(f"the texts have {', '.join(str(len(text)) for text in texts)} characters and are not one text")
