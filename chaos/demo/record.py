"""Makes recording.json.gz: a seeded model of one person writing a text, with slips, corrections and second thoughts.

    python -m chaos.demo.record [--seed 7] [--transactions 3000] [--output FILE]

The writer types character by character, mistypes neighbours on the keyboard and notices a few characters later, goes back to
earlier sentences to change a word, sometimes deletes what it just wrote and writes it anew, and sometimes pastes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Final

from chaos.demo.recording import DEFAULT, Patch, Recording, apply_all, save

TEXT: Final = """\
The harbour office kept one book.

Every ship that came in was written down, and every ship that left; who was aboard, what was in the hold, and which bell had
rung when the rope was thrown. There was only one book because the harbour was small, and because my grandmother, who had
charge of it, said that two books are two opinions.

Then came the winter of the long fog. A lantern fell, the office burned, and with it four years of arrivals. People stood on the
quay and argued about what they remembered. The baker swore that the Aurora had paid her dues. The pilot swore that she had not.
Both were honest, and nobody could decide it, and the Aurora sailed away in the spring with the question unanswered.

After that there were three books, in three houses. A clerk would call out a line, and it counted only when a second clerk had
called it back. If a house was dark that evening, the other two went on without it, and in the morning its clerk sat down and
copied what had been missed, line by line, in the order in which it had been called. My grandmother insisted on the order. A
ship that leaves before it arrives, she said, is a ghost, and we do not tax ghosts.

One clerk led. Nobody was fond of this rule, but calling out over one another had been worse. When the leading clerk fell ill,
the others waited a little, and whoever lost patience first asked the second: shall I? And if the second had not promised
itself to anybody else that night, it said yes, and wrote the promise down before it spoke. That part mattered. Twice it
happened that a clerk fell asleep after promising, woke up, and would have promised again, had the ink not been dry on the
page.

Visitors laughed at it. So much ceremony for herring, they said. But they came to our window all the same when they wanted to
know what had become of a cousin, a crate of oranges, a letter; and they did not go to the bigger harbour along the coast,
where there was one clerk with an excellent memory.

I keep the third book now. It is not the best of the three, my hand is worse than my sister's, and twice the sea has been in it.
But each line stands where it stands in the other two; the café owner's boy, who comes to compare them on Sundays — for five
coins and a slice of cake — has yet to find a page on which we differ. ⚓
"""

NEIGHBOURS: Final = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "k": "jl", "l": "k",
    "m": "n", "n": "bm", "o": "ip", "p": "o", "r": "et", "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "y": "tu",
}  # fmt: skip
SLIP: Final = 0.045
REVISIT: Final = 0.012
REWRITE: Final = 0.01
PASTE: Final = 0.004


class Writer:
    """Writes TEXT into a document of its own, one transaction at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.text = ""
        self.transactions: list[list[Patch]] = []

    def edit(self, *patches: Patch) -> None:
        """One transaction: patches apply one after the other."""
        self.transactions.append(list(patches))
        self.text = apply_all(self.text, [list(patches)])

    def write(self, wanted: str) -> None:
        """From nothing to the wanted text, as a person gets there."""
        while self.text != wanted:
            done = len(self.text)
            assert wanted.startswith(self.text), "every detour ends where it began"
            choice = self._random.random()
            if choice < REVISIT and done > 80:
                self._revisit()
            elif choice < REVISIT + REWRITE and done > 40:
                self._rewrite()
            elif choice < REVISIT + REWRITE + PASTE:
                self.edit((done, 0, wanted[done : done + self._random.randrange(12, 40)]))
            elif self._random.random() < SLIP and wanted[done].lower() in NEIGHBOURS:
                self._slip(wanted)
            else:
                self.edit((done, 0, wanted[done]))

    def _slip(self, wanted: str) -> None:
        """A wrong key, noticed some characters later: back to it, and on again; or mended in place by one replacement."""
        start = len(self.text)
        wrong = self._random.choice(NEIGHBOURS[wanted[start].lower()])
        self.edit((start, 0, wrong))
        late = self._random.randrange(0, 4)
        for offset in range(1, late + 1):
            if start + offset < len(wanted):
                self.edit((start + offset, 0, wanted[start + offset]))
        if self._random.random() < 0.3:
            self.edit((start, 1, wanted[start]))
            return
        while len(self.text) > start:
            self.edit((len(self.text) - 1, 1, ""))

    def _revisit(self) -> None:
        """A word further up is tried another way, and put back: one transaction of two patches, then one replacement."""
        words = [at for at in range(1, len(self.text) - 20) if self.text[at - 1] == " " and self.text[at : at + 4].isalpha()]
        if not words:
            return
        at = self._random.choice(words)
        end = self.text.index(" ", at) if " " in self.text[at:] else len(self.text)
        word = self.text[at:end]
        self.edit((at, len(word), word.upper()), (at + len(word), 0, "?"))
        self.edit((at, len(word) + 1, word))

    def _rewrite(self) -> None:
        """The last words are taken back, at once or key by key, and will be written again."""
        count = self._random.randrange(3, 14)
        if self._random.random() < 0.5:
            self.edit((len(self.text) - count, count, ""))
            return
        for _ in range(count):
            self.edit((len(self.text) - 1, 1, ""))


def record(seed: int, transactions: int) -> Recording:
    """At most so many transactions of a person writing TEXT, the same for the same seed."""
    writer = Writer(seed)
    writer.write(TEXT)
    return Recording(DEFAULT.name, "", TEXT, writer.transactions).first(transactions)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m chaos.demo.record", description="Make the demo's recording.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--transactions", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=DEFAULT)
    options = parser.parse_args()
    made = record(options.seed, options.transactions)
    save(made, options.output)
    patches = sum(map(len, made.transactions))
    print(f"{options.output}: {len(made.transactions)} transactions, {patches} patches, {len(made.end)} characters at the end")


if __name__ == "__main__":
    main()
