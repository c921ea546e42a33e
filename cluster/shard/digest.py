"""What apply did, as one number an entry: replicas that applied the same entries to the same effect have equal numbers.

    E(i) = H(i, chains of the documents that entry i changed, in order)        S(i) = S(i - 1) + E(i)  modulo 2^64

A chain binds the whole past of its document, so E(i) tells of any earlier difference in the documents it names, and a
difference that was missed is found when the document is touched again. Replicas compare S(b) - S(a), the sum over a range, so
they need not
have begun at the same entry: after a restart replay skips what records hold already, and a digest that can not know an entry's
chains begins anew behind it.

Invariant: no E(i) is missing between `origin` and the last entry, so equal sums mean equal chains (but for an accident of
2^-64).
"""

from __future__ import annotations

from hashlib import blake2b

from cluster.ids import LogIndex

SUMS_KEPT = 4096
"""Entries back to which ranges can be compared; twice as many are held at most."""

_MODULUS_MASK = (1 << 64) - 1


class AppliedDigest:
    """The sums of one replica.

    origin: entries up to here are not in the sums. told: the newest entry whose sum was sent to a leader.
    """

    __slots__ = ("_first", "_sums", "origin", "told")

    def __init__(self, origin: LogIndex) -> None:
        self.restart(origin)

    def restart(self, origin: LogIndex) -> None:
        """Begin anew behind `origin`: its effect, or a state that came from elsewhere, is not known here entry by entry."""
        self.origin = origin
        self.told = origin
        self._first = origin
        self._sums = [0]

    def begin_behind(self, place: LogIndex) -> bool:
        """Count from a later place on, or from the first that is still known behind it. Says whether anything changed."""
        place = max(place, self._first)
        if not self.origin < place < self.index:
            return False
        before, *later = self._sums[place - self._first :]
        self._sums = [0, *(difference(each, before) for each in later)]
        self._first = self.origin = self.told = place
        return True

    def retell(self) -> bool:
        """Whoever was told may not have heard. Says whether there is anything to tell."""
        self.told = self.origin
        return self.told != self.index

    @property
    def first(self) -> LogIndex:
        """Ranges that begin here or later can be compared."""
        return self._first

    @property
    def index(self) -> LogIndex:
        """The last entry that changed a document."""
        return LogIndex(self._first + len(self._sums) - 1)

    @property
    def total(self) -> int:
        """The sum through `index`, and through every later entry that changed nothing."""
        return self._sums[-1]

    def add(self, index: LogIndex, chains: bytes) -> None:
        """Entry `index` left the documents it changed with these chains. Entries in between changed nothing."""
        sums = self._sums
        last = sums[-1]
        missing = index - self._first - len(sums)
        assert missing >= 0, "entries are applied in order"
        if missing > SUMS_KEPT:
            sums[:] = [last]
            self._first = LogIndex(index - 1)
        elif missing:
            sums.extend([last] * missing)
        effect = int.from_bytes(blake2b(index.to_bytes(8, "big") + chains, digest_size=8).digest(), "big")
        sums.append((last + effect) & _MODULUS_MASK)
        if len(sums) >= 2 * SUMS_KEPT:
            del sums[:SUMS_KEPT]
            self._first = LogIndex(self._first + SUMS_KEPT)

    def through(self, index: LogIndex) -> int | None:
        """The sum through `index`, None for an entry that is too old, or older than `origin`. An entry behind the last one is
        taken for one that changed nothing: ask only for what is applied.
        """
        place = index - self._first
        if place < 0:
            return None
        return self._sums[min(place, len(self._sums) - 1)]


def difference(later: int, earlier: int) -> int:
    """The sum over a range."""
    return (later - earlier) & _MODULUS_MASK
