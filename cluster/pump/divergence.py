"""Finding documents whose replicas differ, deciding who is right, and making the others right.

    followers tell their leader sums over what apply did (`cluster.shard.digest`); where one differs from the leader's:
    compare     every replica is asked which of the documents touched in that range have other chains there
    examine     the leader takes nothing more for such a document; once what was on its way is applied, every replica is
                asked for its chain, its record and the first command at which it parts from the leader's
    decide      a strict majority of the voters is right. The minority takes over its record; a leader in the minority marks
                itself diverged and hands leadership to the majority, whose leader goes on. No majority: the document is
                frozen

A report goes to every replica and is kept open by all of them until every voter was seen equal, so that the next leader goes
on with it. Followers remind their leader of open reports.

Invariant: a record is replaced only by one that a strict majority of the voters has, on the word of the leader of the present
term. Everything is bounded: one comparison and one examined document a shard at a time, each with a time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from cluster.errors import CodeMissing, StorageDamaged
from cluster.ids import DocumentId, LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.pump.comparison import Comparison, Examination, Watch, ask_to_recount, recount
from cluster.pump.reports import Reports
from cluster.pump.witness import Witness
from cluster.raft.events import Transfer
from cluster.shard import evidence
from cluster.shard.divergence import (
    AppliedItem,
    CompareReply,
    CompareRequest,
    Divergence,
    DivergenceItem,
    EvidenceReply,
    EvidenceRequest,
    HealedItem,
    Name,
    Remedy,
    VerdictItem,
    majority_chain,
    majority_possible,
)
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

ANSWER_MS = 1_000.0
"""How long voters that are connected may take to answer; afterwards it is decided without them."""

COMPARISONS_MAX = 10
"""Comparisons in a row that not everybody answered, before the range is given up: a replica that is unwell does not answer."""

RETRY_MS = 1_000.0
RETRY_MS_MAX = 30_000.0
"""Between two looks at a document that is not settled; doubled with every look that settles nothing."""

ANSWERS_SOON_ENTRIES = 256
"""A voter that lacks more of the log than this is not waited for: it is looked at again when it has caught up."""

UNDECIDED_MS_MAX = 30_000.0
"""A document is frozen when no majority was found for so long because voters are missing."""

SUSPECTED_MAX = 256
"""Documents of one shard that wait to be examined; the rest is found when it is touched again."""

_NEVER = float("inf")


class Divergences:
    """All shards of one node, as leader and as follower.

    connected: the peers that can be asked, kept up to date by the owner.
    """

    def __init__(self, node: NodeId, connected: set[NodeId], replicas: dict[ShardId, ShardReplica]) -> None:
        self._connected = connected
        self._replicas = replicas
        self._watches: dict[ShardId, Watch] = {}
        self._busy: set[ShardId] = set()
        self.reports = Reports(node, self._peers)
        self._witness = Witness(replicas, self.reports)
        self._later: dict[tuple[ShardId, Name], int] = {}
        """Documents that are looked at again because not everybody was heard, and how often that was so."""
        self._number = 0
        self._retry_ms = _NEVER
        self.unexplained = 0
        """Sums that differed although no document did, as far as logs and histories still tell."""

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do."""
        due = 0.0 if self.reports.fresh else self._retry_ms
        if self._witness.ready:
            return 0.0
        for shard in self._busy & self._replicas.keys() if self._busy else ():
            watch = self._watches[shard]
            if watch.comparison is not None:
                due = min(due, watch.comparison.until_ms)
            elif watch.postponed is not None:
                return 0.0
            if watch.examined is not None:
                arrived = not watch.examined.asked and self._replicas[shard].applied >= watch.examined.settled
                due = min(due, 0.0 if arrived else watch.examined.until_ms)
            elif watch.suspected:
                return 0.0
        return due

    # -- sums --------------------------------------------------------------------------------------------------------

    def housekeep(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """A follower tells of its last entries, if no acknowledgement did; a leader looks at what was ahead of its own
        apply.
        """
        leader, node = replica.raft.leader, replica.leader_node
        if replica.serves:
            watch = self._watches.get(replica.id)
            for item in list(watch.ahead.values()) if watch is not None else ():
                self.on_applied(replica, item, now_ms, turn)
        elif leader is not None and node in self._connected and replica.digest.told != replica.digest.index:
            turn.send_now(node, replica.tell_applied(leader))

    def reconnected(self, node: NodeId) -> list[ShardId]:
        """What was told to a leader there may be lost. Returns the shards that are to tell it again when they are next kept. A
        voter there may decide what waits.
        """
        for watch in self._watches.values():
            watch.look_soon()
        self.reports.look_soon()
        again = [replica for replica in self._replicas.values() if replica.leader_node == node and replica.digest.retell()]
        return [replica.id for replica in again]

    def on_applied(self, replica: ShardReplica, item: AppliedItem, now_ms: float, turn: Turn) -> None:
        """A follower's sum; one that is ahead of this leader's own apply waits for the next. Or a leader's answer to one."""
        if not replica.serves:
            recount(replica, item, turn)
            return
        watch = self._watch(replica)
        if item.index > replica.applied:
            watch.ahead[item.sender] = item
            return
        ahead = watch.ahead.pop(item.sender, None)
        self._check(replica, watch, item, now_ms, turn)
        if ahead is not None and ahead.index <= replica.applied:
            self._check(replica, watch, ahead, now_ms, turn)

    def _check(self, replica: ShardReplica, watch: Watch, item: AppliedItem, now_ms: float, turn: Turn) -> None:
        if ask_to_recount(replica, watch, item, turn):
            return
        since = watch.differs_since(item, replica.digest)
        if since is not None:
            self._compare(replica, watch, since, item.index, now_ms, turn)

    # -- which documents ---------------------------------------------------------------------------------------------

    def _compare(
        self, replica: ShardReplica, watch: Watch, since: LogIndex, through: LogIndex, now_ms: float, turn: Turn
    ) -> None:
        """Ask everybody about the documents of a range. One at a time: another range waits."""
        if watch.comparison is not None:
            watch.postpone(since, through)
            return
        try:
            names = evidence.touched(replica, since, through)
            known = {name for shard, name in self.reports.open if shard == replica.id} | set(watch.suspected)
            marks = evidence.marks_of(replica, [name for name in names if name not in known])
        except StorageDamaged as error:
            replica.found_unreadable(error.message, turn)
            return
        except CodeMissing:
            return
        peers = self._peers(replica)
        if not marks or not peers:
            self.unexplained += not names
            return
        self._number += 1
        watch.comparison = Comparison(self._number, since, through, set(peers), now_ms + ANSWER_MS)
        self._busy.add(replica.id)
        for peer, node in peers.items():
            request = CompareRequest(replica.id, replica.replica, peer, self._number, replica.applied, marks)
            turn.send_bulk(node, request)

    def _on_compared(self, replica: ShardReplica, reply: CompareReply, now_ms: float) -> None:
        watch = self._watches.get(replica.id)
        comparison = watch.comparison if watch is not None else None
        if watch is None or comparison is None or comparison.number != reply.round:
            return
        for space, key in reply.differing:
            self._suspect(replica, watch, (space, key))
        comparison.waits_for.discard(reply.sender)
        if not comparison.waits_for:
            self.unexplained += not watch.suspected and watch.examined is None
            watch.comparison = None
            watch.unanswered = 0

    def _suspect(self, replica: ShardReplica, watch: Watch, name: Name) -> None:
        examined = watch.examined.name if watch.examined is not None else None
        if name != examined and len(watch.suspected) < SUSPECTED_MAX:
            watch.suspected[name] = None
            self._busy.add(replica.id)

    # -- one document ------------------------------------------------------------------------------------------------

    def _examine(self, replica: ShardReplica, watch: Watch, name: Name, now_ms: float) -> None:
        self._number += 1
        report = self.reports.open.get((replica.id, name))
        replica.cache.hold(name, doubted=report is None or not report.right)
        began_ms = watch.waiting.get(name, now_ms)
        watch.examined = Examination(self._number, name, replica.raft.last_index, began_ms, now_ms + ANSWER_MS)

    def _ask(self, replica: ShardReplica, examined: Examination, now_ms: float, turn: Turn) -> None:
        """What was on its way is applied: ask everybody who can be asked."""
        document = DocumentId(*examined.name)
        live = replica.cache.get(*examined.name)
        first, marks = evidence.chain_marks(replica, document, live.epoch, live.index)
        peers = self._peers(replica)
        replica.cache.doubt_yields = False
        examined.first = first
        examined.asked = set(peers) | {replica.replica}
        examined.until_ms = now_ms + ANSWER_MS
        for peer, node in peers.items():
            head = (replica.id, replica.replica, peer, examined.number, *examined.name)
            turn.send_bulk(node, EvidenceRequest(*head, examined.settled, live.chain, live.epoch, first, marks))

    def _on_evidence(self, replica: ShardReplica, reply: EvidenceReply, now_ms: float, turn: Turn) -> None:
        watch = self._watches.get(replica.id)
        examined = watch.examined if watch is not None else None
        if watch is None or examined is None or examined.number != reply.round or examined.healing:
            return
        examined.answers[reply.sender] = reply
        if examined.asked <= examined.answers.keys() | {replica.replica}:
            self._decide(replica, watch, examined, now_ms, turn)
        else:
            own = replica.cache.get(*examined.name).chain
            self.reports.doubt(replica, examined.name, examined.answers, own, turn)

    def _decide(self, replica: ShardReplica, watch: Watch, examined: Examination, now_ms: float, turn: Turn) -> None:
        own = replica.cache.get(*examined.name).chain
        members = {peer for peer, _ in replica.raft.configuration.places}
        examined.answers = {sender: answer for sender, answer in examined.answers.items() if sender in members}
        chains = {sender: answer.chain for sender, answer in examined.answers.items()} | {replica.replica: own}
        voters = replica.raft.configuration.voters
        words = self.reports.words(replica, examined.name, examined.answers, chains)
        words = self.reports.recalled(replica, examined.name, examined.answers, words, chains)
        right = majority_chain(words, voters)
        if right is not None and set(chains.values()) == {right}:
            self.reports.agreed(replica, examined.name, examined.answers, chains, right, turn)
            self._release(replica, watch)
            if examined.asked <= chains.keys():
                self._later.pop((replica.id, examined.name), None)
            else:
                self._look_later(replica, examined.name, now_ms)  # who made it suspected may be the one not heard
            return
        if evidence.froze(replica, examined.name, examined.answers.values(), right):
            self._freeze(replica, watch, examined, words, turn)
            return
        known = (replica.id, examined.name) in self.reports.open
        if right is None and not known and all(chain == own for chain in chains.values()):
            self._release(replica, watch)
            self._look_later(replica, examined.name, now_ms)  # whoever differs was not heard
            return
        awaited = [voter for voter in voters if voter not in chains and not evidence.speechless(replica, voter)]
        undecided = right is None and now_ms - examined.began_ms < UNDECIDED_MS_MAX
        if undecided and majority_possible(words, voters, awaited):
            report = self.reports.write(replica, examined.name, examined.answers, words, None, Remedy.WAITING)
            self.reports.publish(replica, report, turn)
            watch.waiting[examined.name] = examined.began_ms
            watch.examined = None  # it stays held, and others have their turn
            return
        if right is None:
            self._freeze(replica, watch, examined, words, turn)
            return
        report = self.reports.write(replica, examined.name, examined.answers, words, right, Remedy.HEALING)
        self.reports.publish(replica, report, turn)
        if right == own:
            self._heal(replica, watch, examined, chains, report, now_ms, turn)
        else:
            self._step_aside(replica, watch, [peer for peer, chain in chains.items() if chain == right], report, now_ms, turn)

    def _freeze(
        self, replica: ShardReplica, watch: Watch, examined: Examination, words: Mapping[ReplicaId, bytes], turn: Turn
    ) -> None:
        """Nobody takes anything over: whatever each replica has stays, for a person to choose from."""
        report = self.reports.write(replica, examined.name, examined.answers, words, None, Remedy.FROZEN)
        self.reports.publish(replica, report, turn)
        evidence.freeze(replica, report, turn)
        self._release(replica, watch)

    def _heal(
        self,
        replica: ShardReplica,
        watch: Watch,
        examined: Examination,
        chains: dict[ReplicaId, bytes],
        report: Divergence,
        now_ms: float,
        turn: Turn,
    ) -> None:
        """Send the minority what it needs, and hold the document until it has it."""
        right = chains[replica.replica]
        self.reports.seen_equal(replica, examined.name, [one for one, chain in chains.items() if chain == right], turn)
        document = DocumentId(*examined.name)
        record, history = evidence.remedy_for(replica, document, report.epoch, report.index or examined.first)
        for peer, chain in chains.items():
            node = replica.members.node_of(peer)
            if chain != right and node is not None:
                head = (replica.id, replica.replica, peer, replica.raft.term)
                turn.send_bulk(node, VerdictItem(*head, report, True, record, history))
                examined.healing[peer] = right
        examined.until_ms = now_ms + ANSWER_MS

    def _step_aside(
        self, replica: ShardReplica, watch: Watch, right: list[ReplicaId], report: Divergence, now_ms: float, turn: Turn
    ) -> None:
        """This leader is wrong: it serves nobody any more, and hands over to a voter that is right. If that fails, the others
        elect one, for this node no longer lists the shard.
        """
        document = DocumentId(*report.name)
        replica.found_diverged(f"{document} differs from what the majority has", document, turn)
        progress = replica.raft.progress
        heirs = [peer for peer in right if peer in progress]
        self._release(replica, watch)
        if heirs:
            replica.handle(Transfer(max(heirs, key=lambda peer: (progress[peer], -peer))), now_ms, turn)

    def on_healed(self, replica: ShardReplica, item: HealedItem, turn: Turn) -> None:
        """A replica of the minority has the majority's record."""
        watch = self._watches.get(replica.id)
        examined = watch.examined if watch is not None else None
        if watch is None or examined is None or examined.name != (item.space, item.key):
            return
        if examined.healing.get(item.sender) == item.chain:
            del examined.healing[item.sender]
            self.reports.seen_equal(replica, examined.name, [item.sender], turn)
            if not examined.healing:
                self._release(replica, watch)

    def _release(self, replica: ShardReplica, watch: Watch) -> None:
        """Take commands for the examined document again."""
        if watch.examined is not None:
            name, watch.examined = watch.examined.name, None
            replica.cache.release(name)
            watch.waiting.pop(name, None)

    def _on_reminder(self, replica: ShardReplica, reminder: VerdictItem, turn: Turn) -> None:
        """A follower has a report that is not settled there: go on with it, or tell how it ended."""
        report, node = reminder.divergence, replica.members.node_of(reminder.sender)
        if not replica.leads or report.settled or (replica.id, report.name) in self.reports.open or node is None:
            return
        ended = self.reports.end_of(report)
        if ended is None:
            self.reports.keep(report)
        else:
            head = (replica.id, replica.replica, reminder.sender, replica.raft.term)
            turn.send_bulk(node, VerdictItem(*head, ended, False, b"", []))

    # -- the turn ----------------------------------------------------------------------------------------------------

    def on_item(self, replica: ShardReplica, item: DivergenceItem, now_ms: float, turn: Turn) -> None:
        """What another replica of the shard says."""
        try:
            if isinstance(item, CompareRequest | EvidenceRequest):
                self._witness.ask(item, turn)
            elif isinstance(item, CompareReply):
                self._on_compared(replica, item, now_ms)
            elif isinstance(item, EvidenceReply):
                self._on_evidence(replica, item, now_ms, turn)
            elif item.term == 0:
                self._on_reminder(replica, item, turn)
            else:
                self._witness.obey(replica, item, turn)
        except StorageDamaged as error:
            replica.found_unreadable(error.message, turn)
        except CodeMissing:
            pass  # asked for; the leader asks again

    def tick(self, now_ms: float, turn: Turn) -> list[ShardReplica]:
        """Go on with what is due; returns replicas that may have moved. Not between apply and its write: history must be
        there.
        """
        if not (self._busy or self._witness.waits or self.reports.fresh) and now_ms < self._retry_ms:
            return []
        moved = [self._replicas[shard] for shard in sorted(self._busy) if shard in self._replicas]
        self._busy.intersection_update(self._replicas)
        with suppress(CodeMissing, StorageDamaged):  # whoever reads it next finds what is wrong
            self._witness.answer(turn)
        if now_ms >= self._retry_ms or self.reports.fresh:
            self._look_again(now_ms, turn)
        for replica in moved:
            try:
                self._go_on(replica, now_ms, turn)
            except StorageDamaged as error:
                replica.found_unreadable(error.message, turn)
                self._drop(replica)
            except CodeMissing:
                self._drop(replica)
        return moved

    def _go_on(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        watch = self._watches.get(replica.id)
        if watch is None or not replica.serves or watch.term != replica.raft.term:
            self._drop(replica)
            return
        if watch.comparison is not None and now_ms >= watch.comparison.until_ms:
            watch.unanswered += 1
            if watch.unanswered < COMPARISONS_MAX:
                watch.postpone(watch.comparison.since, watch.comparison.through)
            watch.comparison = None
        if watch.comparison is None and watch.postponed is not None:
            (since, through), watch.postponed = watch.postponed, None
            self._compare(replica, watch, since, through, now_ms, turn)
        examined = watch.examined
        if examined is not None and not examined.asked and replica.applied >= examined.settled:
            self._ask(replica, examined, now_ms, turn)
        if examined is not None and now_ms >= examined.until_ms:
            self._overdue(replica, watch, examined, now_ms, turn)
        if watch.examined is None and watch.suspected:
            name = next(iter(watch.suspected))
            del watch.suspected[name]
            self._examine(replica, watch, name, now_ms)
        if not watch.busy:
            self._busy.discard(replica.id)

    def _overdue(self, replica: ShardReplica, watch: Watch, examined: Examination, now_ms: float, turn: Turn) -> None:
        """Somebody did not answer in time."""
        if examined.healing:
            self._release(replica, watch)  # the open report brings it back
        elif examined.asked:
            self._decide(replica, watch, examined, now_ms, turn)
        else:
            examined.until_ms = now_ms + ANSWER_MS  # apply is behind; nothing can be said before
            # Doubt that withholds a snapshot from whom a quorum needs would wait for itself.
            replica.cache.doubt_yields = replica.raft.commit_index < examined.settled

    def _look_later(self, replica: ShardReplica, name: Name, now_ms: float) -> None:
        key = (replica.id, name)
        self._later[key] = self._later.get(key, 0) + 1
        if self._later[key] >= COMPARISONS_MAX:
            del self._later[key]
        self._retry_ms = min(self._retry_ms, now_ms + RETRY_MS)

    def _look_again(self, now_ms: float, turn: Turn) -> None:
        """Documents that are not settled: the leader examines those it can learn something about, others remind it."""
        self.reports.fresh = False
        self._retry_ms = now_ms + RETRY_MS if self.reports.open else _NEVER
        for shard, name in list(self._later):
            later = self._replicas.get(shard)
            if later is not None and later.serves:
                self._suspect(later, self._watch(later), name)
            else:
                del self._later[(shard, name)]
        for (shard, name), report in list(self.reports.open.items()):
            replica = self._replicas.get(shard)
            if replica is None:
                self.reports.forget(shard, name)
                continue
            if replica.serves:
                self._look_at(replica, self._watch(replica), name, now_ms, turn)
                continue
            self._drop(replica)
            if replica.leader_node in self._connected and not replica.leads:
                leader, node = replica.raft.leader, replica.leader_node
                assert leader is not None
                turn.send_bulk(node, VerdictItem(shard, replica.replica, leader, Term(0), report, False, b"", []))

    def _look_at(self, replica: ShardReplica, watch: Watch, name: Name, now_ms: float, turn: Turn) -> None:
        """Examine a document with an open report again, if there is somebody new to hear; less and less often."""
        if name not in watch.waiting and self.reports.over(replica, name, turn):
            return
        count, due_ms = watch.looked.get(name, (0, 0.0))
        if now_ms < due_ms:
            return
        equal = self.reports.equal.get((replica.id, name), set())
        near = LogIndex(replica.raft.commit_index - ANSWERS_SOON_ENTRIES)
        matches = replica.raft.progress
        if name in watch.waiting or any(peer not in equal and matches.get(peer, 0) >= near for peer in self._peers(replica)):
            pause_ms = RETRY_MS if name in watch.waiting else min(RETRY_MS * 2**count, RETRY_MS_MAX)
            watch.looked[name] = count + 1, now_ms + pause_ms
            self._suspect(replica, watch, name)

    def _watch(self, replica: ShardReplica) -> Watch:
        watch = self._watches.get(replica.id)
        if watch is None or watch.term != replica.raft.term:
            if watch is not None:
                self._drop(replica)
            watch = self._watches[replica.id] = Watch(replica.raft.term)
        return watch

    def _drop(self, replica: ShardReplica) -> None:
        """Leadership is over: the next leader goes on with what is open."""
        replica.cache.release_all()
        self._busy.discard(replica.id)
        self._watches.pop(replica.id, None)

    def _peers(self, replica: ShardReplica) -> dict[ReplicaId, NodeId]:
        """The other replicas that can be asked."""
        places = replica.raft.configuration.places
        return {peer: node for peer, node in places if peer != replica.replica and node in self._connected}
