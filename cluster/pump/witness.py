"""A replica's side of a comparison: it answers its leader's questions about documents, and does what the leader's verdict says.

Invariant: a question that names a place in the log is answered when this replica has applied that far, never before. Nothing
is taken over but from the leader of the present term.
"""

from __future__ import annotations

from cluster.ids import LogIndex, ShardId
from cluster.pump.reports import Reports
from cluster.shard import evidence
from cluster.shard.divergence import (
    CompareRequest,
    EvidenceRequest,
    HealedItem,
    Remedy,
    VerdictItem,
)
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

Question = CompareRequest | EvidenceRequest


class Witness:
    """All replicas of a node as those who are asked."""

    def __init__(self, replicas: dict[ShardId, ShardReplica], reports: Reports) -> None:
        self._replicas = replicas
        self._reports = reports
        self._waiting: dict[tuple[ShardId, type], Question] = {}
        """The newest of each kind that asks for a place which is not applied here yet."""

    @property
    def waits(self) -> bool:
        """Whether there are questions."""
        return bool(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether one can be answered."""
        for (shard, _), question in self._waiting.items():
            replica = self._replicas.get(shard)
            if replica is None or replica.damaged or replica.halted or _place(question) <= replica.applied:
                return True
        return False

    def ask(self, question: Question, turn: Turn) -> None:
        """A leader asks. Raises CodeMissing or StorageDamaged."""
        self._waiting[(question.shard, type(question))] = question
        self.answer(turn)

    def answer(self, turn: Turn) -> None:
        """Answer what can be answered. Raises CodeMissing or StorageDamaged; that question is dropped, the leader asks
        again.
        """
        for key, question in list(self._waiting.items()):
            replica = self._replicas.get(question.shard)
            if replica is None or replica.damaged or replica.halted:
                del self._waiting[key]  # what is here says nothing
                continue
            node = replica.members.node_of(question.sender)
            if _place(question) > replica.applied or node is None:
                continue
            del self._waiting[key]
            if isinstance(question, CompareRequest):
                turn.send_bulk(node, evidence.compare(replica, question))
            else:
                turn.send_bulk(node, evidence.testify(replica, question))

    def obey(self, replica: ShardReplica, verdict: VerdictItem, turn: Turn) -> None:
        """The leader says what was found, and what to do about it here."""
        if replica.leads or verdict.term != replica.raft.term or verdict.sender != replica.raft.leader:
            return
        self._reports.keep(verdict.divergence)
        if verdict.heals:
            self._take_over(replica, verdict, turn)
        elif verdict.divergence.remedy is Remedy.FROZEN:
            evidence.freeze(replica, verdict.divergence, turn)
        if replica.diverged and not self._reports.contradicted(replica.id):
            replica.diverged = ""

    def _take_over(self, replica: ShardReplica, verdict: VerdictItem, turn: Turn) -> None:
        """This replica was wrong about a document and gets what is right."""
        if replica.halted or replica.damaged:
            return
        chain = evidence.take_over(replica, verdict, turn)
        node = replica.members.node_of(verdict.sender)
        if chain is None or node is None:
            return
        self._reports.taken_over(verdict.divergence)
        name = verdict.divergence.name
        turn.send_after_sync(node, HealedItem(replica.id, replica.replica, verdict.sender, *name, chain))


def _place(question: Question) -> LogIndex:
    return question.applied if isinstance(question, CompareRequest) else question.settled
