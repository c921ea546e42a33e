"""Documents that diverge on purpose: on one node their handlers see for a while what the command does not say.

They are nobody else's: the checkers of equal replicas look at them only at the end. Until then they may differ, and whoever
leads may tell wrong answers; afterwards every replica must have the same record, with every acknowledged command in it once,
and every report must say that it is healed.

Whoever crashes between the wrong command and its discovery may come back wrong and unsuspected, until the document is
touched: so everything is touched once more when all faults are over.

A document may freeze only where a voter had no word, and why it had none is looked up when it freezes: it was not there, it
lacked entries that nobody has any more, or its state is a copy of what a leader had that was wrong before anybody could doubt
it. Such a copy is right about nothing and repeats nobody, for its replica has run later commands rightly on top of it: with one
of three replicas wrong and one a copy, no majority is left that could know. That is remembered here, for nodes forget their
reports when they restart and the document stays frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import chaos.sim.leaky
from chaos.checkers.checker import Checker
from chaos.checkers.history import Name
from chaos.checkers.violation import Violation
from chaos.sim.clients import UnaryCall
from chaos.sim.faults import Divergence
from cluster.documents.bundle import from_path
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Settings
from cluster.errors import StorageDamaged
from cluster.ids import NodeId, ShardId
from cluster.node.divergence_hook import LeakingLoader
from cluster.pump.divergence import ANSWER_MS
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.divergence import Divergence as Report
from cluster.shard.divergence import Remedy
from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

SPACE = "leaky"
MARKER = "the-host"
BUNDLE = from_path(Path(chaos.sim.leaky.__file__)).encode()
NOTES = 8
PRINCIPAL = "planter@chaos"


class Planted(Checker):
    """See the module. leaking: nodes on which handlers see their node's name at the moment."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.leaking: set[NodeId] = set()
        self.planted = any(isinstance(fault, Divergence) for fault in world.scenario.faults)
        self._number = 0
        self._keys: dict[str, bool] = {}
        self._acked: dict[str, set[int]] = {}
        self._waiting = 0
        self._undecided: set[str] = set()
        """Documents that are frozen because a voter could not testify: it was away, or what it needed to replay them was cut
        from all logs, and a snapshot made it, or would have made it, repeat what its leader says."""
        self._frozen: set[str] = set()
        self._leaked: set[NodeId] = set()
        self._copies: set[tuple[NodeId, ShardId]] = set()
        """Replicas whose state came from one on which something had leaked, at first or second hand."""
        self._generations: dict[tuple[NodeId, ShardId], int] = {}
        self._turned_ms: dict[NodeId, float] = {}
        self._back_ms: dict[NodeId, float] = {}

    def spaces(self) -> dict[str, bytes]:
        """What must be deployed for it."""
        return {SPACE: BUNDLE} if self.planted else {}

    def loader(self, node: NodeId, settings: Settings) -> BundleLoader:
        """What compiles code on that node: as every node does, unless something is to leak in this run."""
        if not self.planted:
            return BundleLoader(settings)
        return LeakingLoader(MARKER, lambda: str(node) if node in self.leaking else MARKER, settings)

    def begin(self, fault: Divergence) -> None:
        """Make a document, and tell it things while the node leaks."""
        key = f"d{len(self._keys)}"
        self._keys[key] = False
        self._acked[key] = set()
        self._send(Kind.CREATE, key, b"{}", lambda reply: self._created(key, fault, reply))

    def end(self, fault: Divergence) -> None:
        self.leaking.discard(fault.node)

    def _created(self, key: str, fault: Divergence, reply: Reply) -> None:
        if reply.failure is not None:
            return
        self._keys[key] = True
        if self.world.now_ms < self.world.safety_ms(fault.end_ms):
            self.leaking.add(fault.node)
            self._leaked.add(fault.node)
        pause_ms = max(1.0, self.world.safety_ms(fault.end_ms) - self.world.now_ms) / NOTES
        for place in range(NOTES):
            self.world.after(pause_ms * place, "call", self._note, key, MARKER if place % 2 else "nothing")

    def _note(self, key: str, seen: str) -> None:
        self._number += 1
        number = self._number
        payload = msgspec.json.encode({"number": number, "seen": seen})
        self._send(Kind.SEND, key, payload, lambda reply: self._noted(key, number, reply))

    def _noted(self, key: str, number: int, reply: Reply) -> None:
        if reply.failure is None:
            self._acked[key].add(number)
        elif reply.failure.reason == "DOCUMENT_FROZEN" and key not in self._undecided:
            raise Violation("divergence", f"{SPACE}/{key} refuses a command for good: {reply.failure}")

    def _send(self, kind: Kind, key: str, payload: bytes, on_reply: Callable[[Reply], None]) -> None:
        self._waiting += 1
        source = self.world.streams.named(f"planted/{self._number}/{key}/{kind}")
        channel = "note" if kind is Kind.SEND else ""
        operation = Operation(0, kind, SPACE, key, PRINCIPAL, channel, payload, source.randbytes(16))

        def answered(reply: Reply) -> None:
            self._waiting -= 1
            on_reply(reply)

        UnaryCall(self.world, source, operation, answered).start()

    def touch(self) -> None:
        """All faults are over: tell each document one thing more."""
        for key, made in self._keys.items():
            if made:
                self._note(key, "nothing")

    def unfinished(self) -> list[str]:
        """What is still owed: answers, reports that are not settled, replicas that are not equal."""
        owed = [f"{self._waiting} commands to {SPACE} are unanswered"] if self._waiting else []
        for node in self.world.running() if not self.world.shunned else ():
            opened = node.pump.divergences.reports.open.values()
            # One that is never seen to be right keeps a report open, but whoever is there has to come to a decision.
            due = [report for report in opened if report.remedy is Remedy.WAITING or not self._somebody_is_lost]
            owed += [f"{node.name} holds open: {report.told()}" for report in due]
        decided = self._keys.keys() - self._undecided
        owed += [f"{SPACE}/{key} differs" for key in sorted(decided) if len(self._records((SPACE, key))) > 1]
        return owed

    def undecided(self, name: Name) -> bool:
        """Whether a document stays as it is until somebody repairs it."""
        return name[0] == SPACE and name[1] in self._undecided

    def turned(self, node: SimulatedNode) -> None:
        """See who could not testify when a document froze."""
        if not self.planted:
            return
        for shard, replica in node.pump.replicas.items():
            self._note_copy(node.name, shard, replica)
        now_ms = self.world.now_ms
        if node is self.world.shunned or now_ms - self._turned_ms.get(node.name, 0.0) > ANSWER_MS:
            self._back_ms[node.name] = now_ms
        self._turned_ms[node.name] = now_ms
        for report in node.pump.divergences.reports.all():
            if report.remedy is Remedy.FROZEN and report.key not in self._frozen:
                self._frozen.add(report.key)
                if self._may_freeze(node, report):
                    self._undecided.add(report.key)

    def _note_copy(self, node: NodeId, shard: ShardId, replica: ShardReplica) -> None:
        """See whether a replica's state was replaced since the last look, and by what."""
        generation = self._generations.get((node, shard))
        if generation == replica.cache.generation:
            return
        self._generations[(node, shard)] = replica.cache.generation
        sender = replica.leader_node
        if generation is not None and sender is not None and (sender in self._leaked or (sender, shard) in self._copies):
            self._copies.add((node, shard))

    def _may_freeze(self, leader: SimulatedNode, report: Report) -> bool:
        """Whether a voter that was not heard had a reason. leader: where it was decided, just now."""
        replica = leader.pump.replicas[report.shard]
        nodes = dict(replica.raft.configuration.places)
        if any((nodes[voter], report.shard) in self._copies for voter in replica.raft.configuration.voters):
            return True
        heard = {name for side in report.sides for name in side.nodes}
        silent = [nodes[voter] for voter in replica.raft.configuration.voters if nodes[voter] not in heard]
        return any(self._speechless(leader, self.world.nodes[name], replica) for name in silent)

    def _speechless(self, leader: SimulatedNode, node: SimulatedNode, led: ShardReplica) -> bool:
        """Whether a voter has no word: it is or was just away, is unwell, has copied its state, or only a snapshot helps it."""
        replica = node.pump.replicas.get(led.id) if node.up else None
        if replica is not None and replica.cache.copied_through:
            return True  # it repeats what a leader in doubt had
        if node is leader:
            return False
        if node not in self.world.running() or node.name not in leader.pump.connected:
            return True
        if replica is None or replica.damaged or replica.halted or replica.applied < led.log.snapshot.index:
            return True
        return self.world.now_ms - self._back_ms.get(node.name, 0.0) <= 2 * ANSWER_MS

    @property
    def _somebody_is_lost(self) -> bool:
        """A report stays open until every voter was seen to be right; one that never comes back is not."""
        return any(node.lost for node in self.world.nodes.values())

    def _records(self, name: Name) -> dict[bytes, list[str]]:
        records: dict[bytes, list[str]] = {}
        for node in self.world.running():
            replica = node.pump.replicas.get(node.pump.router.shard_of(*name))
            try:
                if replica is not None:
                    records.setdefault(replica.cache.get(*name).record(), []).append(str(node.name))
            except StorageDamaged:
                continue
        return records

    def finished(self) -> None:
        """Nothing acknowledged is lost or doubled, and nothing is frozen."""
        for node in self.world.running():
            for report in node.pump.divergences.reports.all():
                self.world.marks["divergences_found"] += 1
                if report.space != SPACE:
                    raise Violation("divergence", f"a document that nothing was done to diverged: {report.told()}")
                if report.key in self._undecided:
                    self.world.marks["divergences_undecided"] += 1
                elif report.remedy not in ((Remedy.HEALED, Remedy.HEALING) if self._somebody_is_lost else (Remedy.HEALED,)):
                    raise Violation("divergence", f"{node.name} ends with {report.told()}")
        for key, made in self._keys.items():
            if made and key not in self._undecided:
                self._complete(key)

    def _complete(self, key: str) -> None:
        for node in self.world.running():
            replica = node.pump.replicas.get(node.pump.router.shard_of(SPACE, key))
            if replica is None or not replica.serves:
                continue
            live = replica.cache.get(SPACE, key)
            assert live.instance is not None
            state = msgspec.msgpack.decode(live.instance.dump())
            numbers: list[int] = state["numbers"]
            # a key that the document's table has had to forget may run again (docs/consistency.md).
            doubled = len(set(numbers)) != len(numbers) and self.world.scenario.limits.sessions_max > self._number
            if doubled or not self._acked[key].issubset(numbers):
                raise Violation("divergence", f"{SPACE}/{key} holds {numbers}, acknowledged were {sorted(self._acked[key])}")
            if state["seen"] not in ("nothing", MARKER):
                raise Violation("divergence", f"{SPACE}/{key} ends with what {state['seen']} saw")
