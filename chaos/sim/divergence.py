"""Documents that diverge on purpose: on one node their handlers see for a while what the command does not say.

They are nobody else's: the checkers of equal replicas look at them only at the end. Until then they may differ, and whoever
leads may tell wrong answers; afterwards every replica must have the same record, with every acknowledged command in it once,
and every report must say that it is healed.

Whoever crashes between the wrong command and its discovery may come back wrong and unsuspected, until the document is
touched: so everything is touched once more when all faults are over, and what still differs is touched again, for a log that is
cut soon no longer says which documents a sum is about.

A document may freeze only where a voter had no word, and why it had none is looked up when it freezes: it was not there, it
lacked entries that nobody has any more, or its state is a copy of what a leader had that was wrong before anybody could doubt
it. Such a copy is right about nothing and repeats nobody, for its replica has run later commands rightly on top of it: with one
of three replicas wrong and one a copy, no majority is left that could know. That is remembered here, for nodes forget their
reports when they restart and the document stays frozen. Some documents see something else on every node, and must freeze.

In most seeds an operator thaws what is frozen (`thaws.py`). Then all replicas are equal from there on, unless handlers are told
lies again, and what was acknowledged in the new epoch is in it, behind what the chosen record has. What others were told
before that and the chosen record has not is gone: that is what the operator decided, and nothing more.
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
from cluster.shard.commands import Command, CommandKind
from cluster.shard.divergence import Divergence as Report
from cluster.shard.divergence import Remedy
from cluster.shard.replica import ShardReplica
from cluster.shard.thawing import order_of, record_of

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

SPACE = "leaky"
MARKER = "the-host"
BUNDLE = from_path(Path(chaos.sim.leaky.__file__)).encode()
NOTES = 8
AGAIN_MS = 5_000.0
NOTES_BEHIND, PAUSE_MS = 3, 40.0
"""What a document is told when it goes on, and how fast."""
PRINCIPAL = "planter@chaos"


class Planted(Checker):
    """See the module. leaking: nodes on which handlers see their node's name at the moment."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.leaking: set[NodeId] = set()
        self.planted = any(isinstance(fault, Divergence) for fault in world.scenario.faults)
        self._number = 0
        self._keys: dict[str, bool] = {}
        self._acked: dict[str, dict[int, int]] = {}
        """The epoch of the answer to each number of a document."""
        self._waiting = 0
        self._undecided: dict[str, set[int]] = {}
        """Epochs in which documents were frozen because a voter could not testify (it was away, or what it needed to replay
        them was cut from all logs, and a snapshot made it, or would have made it, repeat what its leader says), or because
        too many of them saw something else.
        """
        self._frozen: set[tuple[str, int]] = set()
        self._seen: dict[tuple[str, int], set[NodeId]] = {}
        """In which epoch of a document which nodes saw what its command did not say."""
        self._began: dict[str, dict[int, tuple[tuple[int, int, int], list[int]]]] = {}
        """The epochs of a document that began with a thaw: where in the log, and the numbers of the chosen record."""
        self._told: dict[str, int] = {}
        """The newest epoch that an operator was told of."""
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
        self._acked[key] = {}
        self._send(Kind.CREATE, key, b"{}", lambda reply: self._created(key, fault, reply))

    def end(self, fault: Divergence) -> None:
        self.leaking.difference_update(self._victims(fault))

    def _victims(self, fault: Divergence) -> list[NodeId]:
        return self.world.names if fault.everywhere else [fault.node]

    def _created(self, key: str, fault: Divergence, reply: Reply) -> None:
        if reply.failure is not None:
            return
        self._keys[key] = True
        if self.world.now_ms < self.world.safety_ms(fault.end_ms):
            self.leaking.update(self._victims(fault))
            self._leaked.update(self._victims(fault))
        pause_ms = max(1.0, self.world.safety_ms(fault.end_ms) - self.world.now_ms) / NOTES
        for place in range(NOTES):
            self.world.after(pause_ms * place, "call", self._note, key, MARKER if place % 2 else "nothing")

    def _note(self, key: str, seen: str) -> None:
        self._number += 1
        number, told = self._number, self._told.get(key, 0)
        payload = msgspec.json.encode({"number": number, "seen": seen})
        self._send(Kind.SEND, key, payload, lambda reply: self._noted(key, number, told, reply))

    def _noted(self, key: str, number: int, told: int, reply: Reply) -> None:
        """told: the epoch that an operator had been told of when it was sent."""
        if reply.failure is None:
            self._acked[key][number] = reply.epoch
            if reply.epoch < told:
                raise Violation("thaws", f"{SPACE}/{key} was thawed to epoch {told}, and answers in epoch {reply.epoch}")
        elif reply.failure.reason == "DOCUMENT_FROZEN" and not any(epoch >= told for epoch in self._undecided.get(key, ())):
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
            if self.undecided((SPACE, key)):
                self.world.thaws.froze(SPACE, key)
        self.world.after(AGAIN_MS, "call", self._touch_what_differs)

    def _touch_what_differs(self) -> None:
        differing = [key for key, made in self._keys.items() if made and len(self._records((SPACE, key))) > 1]
        for key in differing:
            self._note(key, "nothing")
        if differing:
            self.world.after(AGAIN_MS, "call", self._touch_what_differs)

    def touch_one(self, key: str) -> None:
        """Tell one document one thing more."""
        self._note(key, "nothing")

    def thawed(self, key: str, epoch: int) -> None:
        """An operator was told that a document goes on: so do those who use it."""
        self._told[key] = max(epoch, self._told.get(key, 0))
        for place in range(NOTES_BEHIND):
            self.world.after(PAUSE_MS * place, "call", self._note, key, "nothing")

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        """See what a handler is going to see, and which epochs begin by hand."""
        if command.space != SPACE:
            return
        live = node.pump.replicas[shard].cache.get(command.space, command.key)  # type: ignore[index]
        if command.kind == CommandKind.THAW:
            self._began_by_hand(command, live.epoch, (shard, index, offset))
        elif node.name in self.leaking and MARKER.encode() in command.payload:
            self._seen.setdefault((command.key, live.epoch), set()).add(node.name)

    def _began_by_hand(self, command: Command, epoch: int, where: tuple[int, int, int]) -> None:
        order = order_of(command.payload)
        name = f"{SPACE}/{command.key}"
        if order.epoch <= epoch:
            raise Violation("thaws", f"{name} is in epoch {epoch} and is thawed to epoch {order.epoch}")
        began = self._began.setdefault(command.key, {})
        if order.epoch in began:
            if began[order.epoch][0] != where:
                raise Violation(
                    "thaws", f"{name} was thawed to epoch {order.epoch} twice, at {began[order.epoch][0]} and {where}"
                )
            return
        record = record_of(order)
        began[order.epoch] = where, msgspec.msgpack.decode(record.state)["numbers"]
        self.world.marks["thaws"] += 1
        remembered = {session.session for session in record.sessions.sessions}
        self.world.commands.forget((SPACE, command.key), where, remembered)

    def differs(self, name: Name, epoch: int) -> bool:
        """Whether replicas may have a document otherwise at the same position of that epoch."""
        return name[0] == SPACE and (name[1], epoch) in self._seen

    def unfinished(self) -> list[str]:
        """What is still owed: answers, reports that are not settled, replicas that are not equal."""
        owed = [f"{self._waiting} commands to {SPACE} are unanswered"] if self._waiting else []
        for node in self.world.running() if not self.world.shunned else ():
            opened = node.pump.divergences.reports.open.values()
            # One that is never seen to be right keeps a report open, but whoever is there has to come to a decision.
            due = [report for report in opened if report.remedy is Remedy.WAITING or not self._somebody_is_lost]
            owed += [f"{node.name} holds open: {report.told()}" for report in due]
        decided = [key for key in sorted(self._keys) if not self.undecided((SPACE, key))]
        owed += [f"{SPACE}/{key} differs" for key in decided if len(self._records((SPACE, key))) > 1]
        return owed + self.world.thaws.unfinished()

    def undecided(self, name: Name) -> bool:
        """Whether a document stays as it is until somebody repairs it."""
        frozen = self._undecided.get(name[1], ()) if name[0] == SPACE else ()
        return bool(frozen) and max(frozen) >= max(self._began.get(name[1], (0,)))

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
            if report.remedy is Remedy.FROZEN and (report.key, report.epoch) not in self._frozen:
                self._frozen.add((report.key, report.epoch))
                if self._may_freeze(node, report):
                    self._undecided.setdefault(report.key, set()).add(report.epoch)
                    self.world.thaws.froze(report.space, report.key)

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
        voters = [nodes[voter] for voter in replica.raft.configuration.voters]
        right = [node for node in voters if node not in self._seen.get((report.key, report.epoch), ())]
        if len(right) <= len(voters) // 2:
            return True
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
                if not self.differs(report.name, report.epoch):
                    raise Violation("divergence", f"a document that nothing was done to diverged: {report.told()}")
                if report.epoch in self._undecided.get(report.key, ()):
                    self.world.marks["divergences_undecided"] += 1
                elif report.remedy not in ((Remedy.HEALED, Remedy.HEALING) if self._somebody_is_lost else (Remedy.HEALED,)):
                    raise Violation("divergence", f"{node.name} ends with {report.told()}")
        for key, made in self._keys.items():
            if made and not self.undecided((SPACE, key)):
                self._complete(key)

    def _complete(self, key: str) -> None:
        epoch = max(self._began.get(key, (0,)))
        start = self._began[key][epoch][1] if epoch else []
        acked = {number for number, told in self._acked[key].items() if told >= epoch}
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
            if doubled or not acked.issubset(numbers):
                raise Violation("divergence", f"{SPACE}/{key} holds {numbers}, acknowledged were {sorted(acked)}")
            if numbers[: len(start)] != start:
                raise Violation("thaws", f"{SPACE}/{key} was thawed with {start}, and holds {numbers}")
            if state["seen"] not in ("nothing", MARKER):
                raise Violation("divergence", f"{SPACE}/{key} ends with what {state['seen']} saw")
