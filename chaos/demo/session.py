"""Recordings of several people writing one text at the same time: who typed what, and what of the others' they had seen.

A file has `{kind: "concurrent", numAgents, endContent, txns: [{agent, parents, patches: [[position, deleted, inserted]]}]}`;
positions mean the text as its author saw it, which is the text of the parents. Played again at another speed the authors see
more or less of each other, so positions alone would mean other places: each stroke is turned into the character that it stands
behind and the characters that it deletes.

Invariant: a stroke names only characters of its author, or of others' strokes that it `needs`.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.demo.recording import NotARecording, unpacked

CONCURRENT: Final = "concurrent"
AUTHORS: Final = 2
START: Final = -1
"""What a stroke at the very beginning stands behind."""

Character = int
"""A character's name: its place among all that its author typed, times AUTHORS, plus the author."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """One change by one author. needs: how many strokes of the other author it may name characters of."""

    needs: int
    behind: Character
    deletes: tuple[Character, ...]
    inserts: str


@dataclass(frozen=True, slots=True)
class Session:
    """What two people typed. end: the recorded text at the end."""

    name: str
    strokes: tuple[tuple[Stroke, ...], ...]
    end: str

    @property
    def count(self) -> int:
        """Strokes of both."""
        return sum(len(strokes) for strokes in self.strokes)

    @property
    def characters_left(self) -> Counter[str]:
        """How often each character must be in the text at the end, whoever was faster."""
        deleted = {name for strokes in self.strokes for stroke in strokes for name in stroke.deletes}
        left: Counter[str] = Counter()
        for author, strokes in enumerate(self.strokes):
            typed = (letter for stroke in strokes for letter in stroke.inserts)
            left.update(letter for place, letter in enumerate(typed) if place * AUTHORS + author not in deleted)
        return left

    def first(self, count: int) -> Session:
        """Only the first strokes of each author, as far as they do not need later ones."""
        share = count // AUTHORS
        kept = tuple(tuple(stroke for stroke in strokes[:share] if stroke.needs <= share) for strokes in self.strokes)
        return Session(self.name, kept, "")


class Characters:
    """A text as the names of its characters. One that was deleted is remembered by what stood before it."""

    __slots__ = ("_before", "names")

    def __init__(self) -> None:
        self.names: list[Character] = []
        self._before: dict[Character, Character] = {}

    def __len__(self) -> int:
        return len(self.names)

    def behind(self, name: Character) -> int:
        """The place behind a character, or behind what stood before it if it is gone."""
        while name in self._before:
            name = self._before[name]
        return 0 if name == START else self.names.index(name) + 1

    def place(self, name: Character) -> int | None:
        """Where a character is; None when it is gone."""
        return None if name in self._before else self.names.index(name)

    def splice(self, at: int, delete: int, names: Iterable[Character]) -> None:
        """Delete and insert."""
        behind = self.names[at - 1] if at else START
        for name in self.names[at : at + delete]:
            self._before[name] = behind
        self.names[at : at + delete] = names


class _Replica:
    """The text as one recorded author saw it."""

    __slots__ = ("characters", "others_seen", "typed")

    def __init__(self) -> None:
        self.characters = Characters()
        self.typed = 0
        self.others_seen = 0

    def take_in(self, strokes: list[Stroke], author: int, count: int, typed: list[int]) -> None:
        """See another author's strokes up to `count`. typed: how many characters that author had typed before each."""
        for number in range(self.others_seen, count):
            stroke = strokes[number]
            for name in stroke.deletes:
                if (place := self.characters.place(name)) is not None:
                    self.characters.splice(place, 1, ())
            names = [(typed[number] + each) * AUTHORS + author for each in range(len(stroke.inserts))]
            self.characters.splice(self.characters.behind(stroke.behind), 0, names)
        self.others_seen = max(self.others_seen, count)


def is_session(path: Path) -> bool:
    """Whether a file says that it is a recording of several authors. Raises NotARecording, or OSError."""
    return isinstance(found := _read(path), dict) and found.get("kind") == CONCURRENT


def load_session(path: Path) -> Session:
    """Read a recording. Raises NotARecording, or OSError when the file can not be read."""
    found = _read(path)
    try:
        transactions = [_transaction(each) for each in found["txns"]]
        end = found["endContent"]
        strokes = _strokes(transactions)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise NotARecording(f"{path} is not a recording of {AUTHORS} authors: {error!r}") from None
    if not isinstance(end, str) or not transactions:
        raise NotARecording(f"{path} is not a recording of {AUTHORS} authors: it lacks a text or transactions")
    session = Session(path.name, strokes, end)
    if Counter(end) != session.characters_left:
        raise NotARecording(f"{path} contradicts itself: its transactions do not leave the characters of its end")
    return session


Transaction = tuple[int, list[int], list[tuple[int, int, str]]]
"""(author, parents, patches)."""


def _read(path: Path) -> Any:
    try:
        return json.loads(unpacked(path))
    except ValueError as error:
        raise NotARecording(f"{path} is not a recording: {error!r}") from None


def _transaction(each: dict[str, Any]) -> Transaction:
    author, parents, patches = each["agent"], each["parents"], each["patches"]
    if author not in range(AUTHORS) or not all(isinstance(parent, int) for parent in parents):
        raise ValueError("an author or a parent is not a number in range")
    for at, deleted, inserted in patches:
        if not (isinstance(at, int) and isinstance(deleted, int) and isinstance(inserted, str)):
            raise TypeError(f"{[at, deleted, inserted]!r} is not [position, deleted, inserted]")
    return author, parents, [(at, deleted, inserted) for at, deleted, inserted in patches]


def _strokes(transactions: list[Transaction]) -> tuple[tuple[Stroke, ...], ...]:
    """Play the recording to its authors, each seeing what the parents of a transaction hold and no more."""
    strokes: list[list[Stroke]] = [[] for _ in range(AUTHORS)]
    typed_before: list[list[int]] = [[] for _ in range(AUTHORS)]
    replicas = [_Replica() for _ in range(AUTHORS)]
    versions: list[list[int]] = []
    for number, (author, parents, patches) in enumerate(transactions):
        if any(not 0 <= parent < number for parent in parents):
            raise ValueError(f"transaction {number} comes before one of its parents")
        version = [max((versions[parent][each] for parent in parents), default=0) for each in range(AUTHORS)]
        if version[author] != len(strokes[author]):
            raise ValueError(f"transaction {number} does not follow its author's last one")
        other = 1 - author
        replica = replicas[author]
        replica.take_in(strokes[other], other, version[other], typed_before[other])
        for at, deleted, inserted in patches:
            names = replica.characters.names
            if not 0 <= at <= at + deleted <= len(names):
                raise ValueError(f"transaction {number} edits {at}..{at + deleted} of a text of {len(names)}")
            behind = names[at - 1] if at else START
            strokes[author].append(Stroke(version[other], behind, tuple(names[at : at + deleted]), inserted))
            typed_before[author].append(replica.typed)
            own = [(replica.typed + each) * AUTHORS + author for each in range(len(inserted))]
            replica.characters.splice(at, deleted, own)
            replica.typed += len(inserted)
        version[author] = len(strokes[author])
        versions.append(version)
    return tuple(tuple(each) for each in strokes)


def made_session(seed: int, strokes: int) -> dict[str, Any]:
    """A recording of two people who never existed, as a file holds it: the same for the same seed.

    They type words, now near the end and now in what the other has written, correct themselves, and see each other's strokes a
    few strokes late.
    """
    choose = random.Random(seed)
    replicas = [_Replica() for _ in range(AUTHORS)]
    made: list[list[Stroke]] = [[], []]
    typed_before: list[list[int]] = [[], []]
    last = [-1, -1]
    numbers: list[list[int]] = [[], []]
    transactions: list[dict[str, Any]] = []
    places = [0, 0]
    letters: dict[Character, str] = {}
    for number in range(strokes):
        author = choose.randrange(AUTHORS)
        other = 1 - author
        replica = replicas[author]
        seen = max(replica.others_seen, len(made[other]) - choose.choice([0, 0, 1, 2, 5]))
        replica.take_in(made[other], other, seen, typed_before[other])
        names = replica.characters.names
        if choose.random() < 0.05:
            places[author] = choose.randint(0, len(names))
        at = min(places[author], len(names))
        deleted = 1 if at and choose.random() < 0.1 else 0
        at -= deleted
        inserted = "" if deleted else choose.choice("etaoin shrdlu")
        made[author].append(Stroke(seen, names[at - 1] if at else START, tuple(names[at : at + deleted]), inserted))
        typed_before[author].append(replica.typed)
        own = [replica.typed * AUTHORS + author] if inserted else []
        letters.update(dict.fromkeys(own, inserted))
        replica.characters.splice(at, deleted, own)
        replica.typed += len(own)
        places[author] = at + len(inserted)
        parents = [last[author]] if last[author] >= 0 else []
        if seen:
            parents.append(numbers[other][seen - 1])
        transactions.append({"agent": author, "parents": parents, "patches": [[at, deleted, inserted]]})
        last[author] = number
        numbers[author].append(number)
    replicas[0].take_in(made[1], 1, len(made[1]), typed_before[1])
    end = "".join(letters[name] for name in replicas[0].characters.names)
    return {"kind": CONCURRENT, "numAgents": AUTHORS, "endContent": end, "txns": transactions}


def save_session(content: dict[str, Any], path: Path) -> None:
    """Write the file, the same bytes for the same recording."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(body, compresslevel=9, mtime=0))
