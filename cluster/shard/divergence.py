"""Documents whose replicas differ: what is said about them, who is right, and where they part. All pure.

Replicas that apply the same commands to the same state must end in the same state. Where they do not, code read something
that the commands did not carry (or a machine computed wrongly). A chain tells that; this module says what follows: a strict
majority of the shard's voters is right, the first command after which chains differ is named, and the first field in which
the states differ.

Invariant: nothing here holds a value of a document. A field is named by its path; in a log line even by its declared name
alone, because keys of a private table are values too.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.shard.commands import CHAIN_MARK_BYTES
from cluster.shard.document import Record, decode_record

Name = tuple[str, str]
"""(space, key)."""

PATH_CHARACTERS_MAX = 512


class Remedy(enum.IntEnum):
    """What becomes of a document whose replicas differ. Stable numbers: nodes of two releases talk to each other.

    WAITING: voters that can not be asked would decide. HEALING: the minority takes the majority's state. HEALED: it has.
    FROZEN: no strict majority agrees; the document takes no commands until somebody repairs it.
    """

    WAITING = 0
    HEALING = 1
    HEALED = 2
    FROZEN = 3


class Side(Struct, frozen=True, array_like=True):
    """Nodes whose replicas agree: the start of their chain, and their names, sorted."""

    chain: bytes
    nodes: tuple[NodeId, ...]


class Divergence(Struct, frozen=True, array_like=True):
    """The report on one document.

    index: position of the first command after which chains differ; 0 when that is older than what was compared.
    log_index, offset, channel: that command's place in the shard's log, and its handler.
    differs: what is different after it or by now: code, answer, state, position, sessions; `history` when later commands have
        made
        all of that equal again.
    field: path of the first field in which the states differ, in canonical order; empty when they are equal.
    sides: the largest first. right: the nodes of the strict majority, empty when there is none.
    leader: who led when it was found. misled: the leader was in the minority, so answers, deltas and reads that it gave
        since the command may contradict what the document is now.
    found_ms: the shard's time.
    """

    shard: ShardId
    space: str
    key: str
    epoch: int
    index: int
    log_index: int
    offset: int
    channel: str
    differs: tuple[str, ...]
    field: str
    sides: tuple[Side, ...]
    right: tuple[NodeId, ...]
    leader: NodeId
    misled: bool
    remedy: Remedy
    found_ms: int

    @property
    def name(self) -> Name:
        return self.space, self.key

    @property
    def wrong(self) -> tuple[NodeId, ...]:
        """Nodes that are not of the majority; all, when there is none."""
        return tuple(node for side in self.sides for node in side.nodes if node not in self.right)

    @property
    def settled(self) -> bool:
        return self.remedy in (Remedy.HEALED, Remedy.FROZEN)

    def told(self) -> str:
        """One line for a log, without anything that a field holds."""
        field = self.field.partition("/")[0]
        sides = " against ".join(f"{','.join(side.nodes)} ({side.chain.hex()})" for side in self.sides)
        place = f"command {self.epoch}.{self.index} (entry {self.log_index}, offset {self.offset})" if self.index else "history"
        handler = f" of {self.channel!r}" if self.channel else ""
        inside = f", first in field {field!r}" if field else ""
        right = f"{','.join(self.right)} are the majority" if self.right else "there is no majority"
        misled = (
            f"; leader {self.leader} was in the minority: what it answered since may be contradicted" if self.misled else ""
        )
        return (
            f"{self.space}/{self.key} of shard {self.shard} differs between replicas from {place}{handler} on: "
            f"{', '.join(self.differs)} differ{inside}; {sides}; {right}{misled}; {self.remedy.name.lower()}"
        )


# -- what nodes say to each other -----------------------------------------------------------------------------------------


class AppliedItem(Struct, frozen=True, array_like=True, gc=False, tag=31):
    """A follower tells its leader what apply did: the sum of its digest over (origin, index]. See `cluster.shard.digest`.

    A leader answers with the first place it can compare from, as `index`, when the follower began to count before that.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    origin: LogIndex
    index: LogIndex
    total: int


class ChainMark(Struct, frozen=True, array_like=True, gc=False):
    """A document's place and the start of its chain there."""

    space: str
    key: str
    epoch: int
    index: int
    mark: bytes


class CompareRequest(Struct, frozen=True, array_like=True, tag=32):
    """A leader that has applied `applied` asks which of these documents differ here."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    round: int
    applied: LogIndex
    marks: list[ChainMark]


class CompareReply(Struct, frozen=True, array_like=True, tag=33):
    """Those of a CompareRequest whose chains differ here."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    round: int
    differing: list[tuple[str, str]]


class EvidenceRequest(Struct, frozen=True, array_like=True, tag=34):
    """A leader asks for a replica's state of one document, which does not change behind entry `settled`.

    epoch, first, marks: the leader's marks (`command_marks`) of the commands first, first + 1, ... of that epoch.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    round: int
    space: str
    key: str
    settled: LogIndex
    chain: bytes
    epoch: int
    first: int
    marks: list[bytes]


class EvidenceReply(Struct, frozen=True, array_like=True, tag=35):
    """What a replica has of the document: its chain, and when that is not the leader's, its record and the first place at
    which it parts from the leader's marks (0: unknown), with the result code and a salted digest of the answer there.

    copied_through: what entries up to here made of it is a copy, not this replica's own word; 0 when all is its own.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    round: int
    chain: bytes
    record: bytes
    parts_at: int
    code: int
    answer: bytes
    copied_through: LogIndex = LogIndex(0)


class VerdictItem(Struct, frozen=True, array_like=True, tag=36):
    """A leader tells what was found. For a replica that is wrong, with what it needs to be right: the majority's record, and
    its history from the first different command on as (first index, count, row). An empty record: too large, take a snapshot.

    term: of the leader; 0 from a follower that reminds its leader of what is not settled.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    divergence: Divergence
    heals: bool
    record: bytes
    history: list[tuple[int, int, bytes]]


class HealedItem(Struct, frozen=True, array_like=True, tag=37):
    """A replica has taken over the record of a VerdictItem, durably: its chain is this now. Told before that, a crash would
    bring the wrong state back and nobody would look.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    space: str
    key: str
    chain: bytes


DivergenceItem = CompareRequest | CompareReply | EvidenceRequest | EvidenceReply | VerdictItem


# -- who is right ---------------------------------------------------------------------------------------------------------


def sides_of(chains: Mapping[ReplicaId, bytes], node_of: Mapping[ReplicaId, NodeId]) -> tuple[Side, ...]:
    """Who agrees with whom, the largest side first, then by the first node's name."""
    groups: dict[bytes, list[NodeId]] = {}
    for replica in sorted(chains):
        groups.setdefault(chains[replica], []).append(node_of[replica])
    sides = [Side(chain[:CHAIN_MARK_BYTES], tuple(sorted(nodes))) for chain, nodes in groups.items()]
    return tuple(sorted(sides, key=lambda side: (-len(side.nodes), side.nodes)))


def majority_chain(chains: Mapping[ReplicaId, bytes], voters: Sequence[ReplicaId]) -> bytes | None:
    """The chain that a strict majority of all voters has, if there is one. Who was not heard counts for nobody."""
    counts: dict[bytes, int] = {}
    for voter in voters:
        if voter in chains:
            counts[chains[voter]] = counts.get(chains[voter], 0) + 1
    return next((chain for chain, count in counts.items() if 2 * count > len(voters)), None)


def majority_possible(words: Mapping[ReplicaId, bytes], voters: Sequence[ReplicaId], awaited: Iterable[ReplicaId]) -> bool:
    """Whether a strict majority of all voters could still come to have one chain. awaited: who may still say something."""
    counts = Counter(chain for voter, chain in words.items() if voter in voters)
    silent = sum(voter not in words for voter in set(awaited) & set(voters))
    return 2 * (max(counts.values(), default=0) + silent) > len(voters)


def with_a_word(
    chains: Mapping[ReplicaId, bytes], copied: Mapping[ReplicaId, LogIndex], parted: LogIndex
) -> dict[ReplicaId, bytes]:
    """The chains of replicas that ran the command themselves after which chains differ. A copy repeats what another replica
    says. copied: through which entry each is a copy, 0 for none. parted: that command's entry, 0 when it is not known.
    """
    return {peer: chain for peer, chain in chains.items() if not copied.get(peer) or copied[peer] < parted}


# -- where they part ------------------------------------------------------------------------------------------------------


def first_parting(first: int, marks: Sequence[bytes], own: Mapping[int, bytes]) -> int:
    """The first position at which both have a mark and they differ; 0 when that is older than both, or nowhere."""
    agreed = False
    for place, mark in enumerate(marks):
        index = first + place
        mine = own.get(index)
        if mine is None:
            continue
        if mine != mark:
            return index if agreed or index == 1 else 0
        agreed = True
    return 0


def salted(answer: bytes, seed: bytes) -> bytes:
    """A digest of an answer that can be compared and not guessed at: the seed is known to operators only."""
    return blake2b(answer, key=seed, digest_size=8).digest()


def what_differs(one: bytes, other: bytes) -> tuple[tuple[str, ...], str]:
    """What is different in two records beside their chains, and the path of the first different field of their states.

    Raises StorageDamaged when one is not a record.
    """
    left, right = decode_record(one), decode_record(other)
    differs: list[str] = []
    if (left.epoch, left.index, left.alive) != (right.epoch, right.index, right.alive):
        differs.append("position")
    field = ""
    if left.state != right.state:
        differs.append("state")
        field = first_difference(left.state, right.state)
    if left.sessions != right.sessions:
        differs.append("sessions")
    if _judged(left) != _judged(right):
        differs.append("code" if left.code_hash != right.code_hash else "frozen")
    return tuple(differs), field


def _judged(record: Record) -> tuple[bytes, str]:
    return record.code_hash, record.frozen


def first_difference(one: bytes, other: bytes) -> str:
    """Path like `board/3/owner` to the first value in which two dumps differ, in canonical order; empty at the root."""
    try:
        left, right = msgspec.msgpack.decode(one), msgspec.msgpack.decode(other)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        return ""
    path: list[str] = []
    while not _same(left, right):
        step = _first_step(left, right)
        if step is None:
            break
        path.append(str(step))
        left, right = _inside(left, step), _inside(right, step)
    return "/".join(path)[:PATH_CHARACTERS_MAX]


_ABSENT = object()


def _first_step(left: Any, right: Any) -> Any:
    """The first key or place under which two containers of one type differ; None when they are no such containers."""
    if type(left) is not type(right):
        return None
    if isinstance(left, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            if not _same(left.get(key, _ABSENT), right.get(key, _ABSENT)):
                return key
        return next((one for one, other in zip(left, right, strict=True) if one != other), None)
    if isinstance(left, list):
        shorter = min(len(left), len(right))
        return next((place for place in range(shorter) if not _same(left[place], right[place])), shorter)
    return None


def _same(left: Any, right: Any) -> bool:
    """Equal as stored: 1, 1.0 and true are not, nor maps in another order."""
    return left is right or (
        type(left) is type(right) and left is not _ABSENT and msgspec.msgpack.encode(left) == msgspec.msgpack.encode(right)
    )


def _inside(value: Any, step: Any) -> Any:
    if isinstance(value, dict):
        return value.get(step, _ABSENT)
    return value[step] if step < len(value) else _ABSENT


def merged(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """All of them, each once, in order."""
    return tuple(dict.fromkeys(part for each in parts for part in each))
