"""Reports on documents whose replicas differ: written by the leader that finds it, kept by every replica until it is settled.

A report is settled when every voter was seen to have the majority's state, or when the document is frozen. Until then each
replica holds it open, so that whoever leads next goes on with it. Who was removed from the shard has no state of it: neither is
it waited for, nor does its node keep the report open.

Invariant: one open report a document. What is settled is a bounded memory, the oldest goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.shard import evidence
from cluster.shard.commands import CHAIN_MARK_BYTES
from cluster.shard.divergence import (
    Divergence,
    EvidenceReply,
    Name,
    Remedy,
    Side,
    VerdictItem,
    merged,
    sides_of,
    what_differs,
    with_a_word,
)
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

REPORTS_KEPT = 100


class Reports:
    """One node's. peers: the other replicas of a shard that can be told.

    news: what was found or settled here since the owner last looked (and emptied it), for the log. fresh: something was
        opened that nobody looked at yet. unconfirmed reports have in `equal` the voters that were seen to be right; the
        leader's knowledge.
    """

    def __init__(self, node: NodeId, peers: Callable[[ShardReplica], dict[ReplicaId, NodeId]]) -> None:
        self._node = node
        self._peers = peers
        self.open: dict[tuple[ShardId, Name], Divergence] = {}
        self.equal: dict[tuple[ShardId, Name], set[ReplicaId]] = {}
        self._settled: list[Divergence] = []
        self._said: dict[tuple[ShardId, Name], Remedy] = {}
        self.fresh = False
        self.news: list[Divergence] = []

    def all(self) -> list[Divergence]:
        """What is open, then what is settled, newest first."""
        return [*self.open.values(), *reversed(self._settled)]

    def write(
        self,
        replica: ShardReplica,
        name: Name,
        answers: Mapping[ReplicaId, EvidenceReply],
        chains: Mapping[ReplicaId, bytes],
        right: bytes | None,
        remedy: Remedy,
    ) -> Divergence:
        """What is known about a document now. What was found out before stays, unless replicas are seen to part earlier. Raises
        CodeMissing or StorageDamaged.
        """
        nodes = dict(replica.raft.configuration.places)
        sides = sides_of(chains, nodes)
        good = tuple(sorted(nodes[peer] for peer, chain in chains.items() if chain == right))
        own = replica.cache.get(*name).chain
        misled = right is not None and own != right
        known = self.open.get((replica.id, name))
        differing = [answer for answer in answers.values() if answer.chain != own]
        against = min(differing, key=lambda answer: answer.parts_at or math.inf, default=None)
        index = against.parts_at if against is not None else 0
        if known is not None:
            heard = {nodes[peer] for peer in (*chains, *answers)}
            unheard = (Side(side.chain, tuple(node for node in side.nodes if node not in heard)) for side in known.sides)
            sides = (*sides, *(side for side in unheard if side.nodes))
            # who led when it was found may be judged by another who leads now
            judged = right is not None and known.leader in {nodes[peer] for peer in chains}
            misled = misled or known.misled or (judged and known.leader not in good)
            if against is None or 0 < known.index <= (index or known.index):
                return msgspec.structs.replace(known, remedy=remedy, sides=sides, right=good, misled=misled)
        live = replica.cache.get(*name)
        assert against is not None, "there is nothing to report where nobody differs"
        differs, path = what_differs(live.record(), against.record)
        log_index, offset, channel = 0, 0, ""
        found = evidence.row_at(replica, live.id, live.epoch, index) if index else None
        if found is not None:
            row, place = found
            log_index, offset, channel = row.log_index, row.offsets[place], row.commands[place].channel
            code, answer = evidence.outcome_at(replica, live.id, live.epoch, index)
            told = [what for what, other in (("code", code != against.code), ("answer", answer != against.answer)) if other]
            differs = merged([told, differs])
        differs = differs or ("history",)
        place_at = (replica.id, *name, live.epoch, index, log_index, offset, channel)
        return Divergence(*place_at, differs, path, sides, good, self._node, misled, remedy, replica.time_ms)

    def doubt(
        self, replica: ShardReplica, name: Name, answers: Mapping[ReplicaId, EvidenceReply], own: bytes, turn: Turn
    ) -> None:
        """The first who differs was heard: every replica opens the report at once, though others will decide. A doubt that only
        the leader knew would end with it, and the next leader, perhaps the one that is wrong, would send its state around.
        Raises CodeMissing or StorageDamaged.
        """
        members = {peer for peer, _ in replica.raft.configuration.places}
        answers = {sender: answer for sender, answer in answers.items() if sender in members}
        if (replica.id, name) in self.open or all(answer.chain == own for answer in answers.values()):
            return
        chains = {sender: answer.chain for sender, answer in answers.items()} | {replica.replica: own}
        words = self.words(replica, name, answers, chains)
        self._spread(replica, self.write(replica, name, answers, words, None, Remedy.WAITING), turn)

    def words(
        self,
        replica: ShardReplica,
        name: Name,
        answers: Mapping[ReplicaId, EvidenceReply],
        chains: Mapping[ReplicaId, bytes],
    ) -> Mapping[ReplicaId, bytes]:
        """The chains that count. Raises StorageDamaged."""
        copied = {sender: answer.copied_through for sender, answer in answers.items()}
        copied[replica.replica] = replica.cache.copied_through
        if not any(copied.values()):
            return chains
        return with_a_word(chains, copied, self.parted_at(replica, name, answers.values()))

    def recalled(
        self,
        replica: ShardReplica,
        name: Name,
        answers: Mapping[ReplicaId, EvidenceReply],
        words: Mapping[ReplicaId, bytes],
        chains: Mapping[ReplicaId, bytes],
    ) -> Mapping[ReplicaId, bytes]:
        """The chains that count, with those of who is away and was of the majority when it was found: what was decided about a
        command stays decided. Only where all who were heard of that majority still agree, and the others part from them at that
        very command. Where nothing is decided, what the report says of who is away is its word, if somebody still has that.
        """
        known, live = self.open.get((replica.id, name)), replica.cache.get(*name)
        if known is None or not known.index or known.epoch != live.epoch:
            return words
        nodes = dict(replica.raft.configuration.places)
        if not known.right:
            said = {node: side.chain for side in known.sides for node in side.nodes}
            away = [voter for voter in replica.raft.configuration.voters if voter not in chains and nodes[voter] in said]
            held = {chain[:CHAIN_MARK_BYTES]: chain for chain in words.values()}
            return {**words, **{voter: held[said[nodes[voter]]] for voter in away if said[nodes[voter]] in held}}
        agreed = {chain for peer, chain in words.items() if nodes[peer] in known.right}
        others = {answer.parts_at for answer in answers.values() if answer.chain != live.chain}
        if len(agreed) != 1 or others - {known.index}:
            return words
        right = [voter for voter in replica.raft.configuration.voters if voter not in chains and nodes[voter] in known.right]
        return {**words, **dict.fromkeys(right, agreed.pop())}

    def parted_at(self, replica: ShardReplica, name: Name, answers: Iterable[EvidenceReply]) -> LogIndex:
        """The entry with the first command after which chains differ; 0 when it is not known. Raises StorageDamaged."""
        known = self.open.get((replica.id, name))
        if known is not None and known.log_index:
            return LogIndex(known.log_index)
        index = min((answer.parts_at for answer in answers if answer.parts_at), default=0)
        live = replica.cache.get(*name)
        found = evidence.row_at(replica, live.id, live.epoch, index) if index else None
        return LogIndex(found[0].log_index) if found is not None else LogIndex(0)

    def publish(self, replica: ShardReplica, report: Divergence, turn: Turn) -> None:
        """Keep a report here and at every replica that can be told. It is news if this node has not said so before."""
        key = (report.shard, report.name)
        if self._said.get(key) is not report.remedy:
            self._said[key] = report.remedy
            self.news.append(report)
        self._spread(replica, report, turn)

    def _spread(self, replica: ShardReplica, report: Divergence, turn: Turn) -> None:
        self.keep(report)
        for peer, node in self._peers(replica).items():
            head = (replica.id, replica.replica, peer, replica.raft.term)
            turn.send_bulk(node, VerdictItem(*head, report, False, b"", []))

    def keep(self, report: Divergence) -> None:
        """Hold it open, or close it."""
        key = (report.shard, report.name)
        if not report.settled:
            self.open[key] = report
            self.fresh = True
            return
        self.open.pop(key, None)
        self.equal.pop(key, None)
        self._said.pop(key, None)
        if report not in self._settled:
            self._settled.append(report)
            del self._settled[:-REPORTS_KEPT]

    def look_soon(self) -> None:
        """This node leads a shard more, perhaps one with an open report, and it is the leader's to go on with; or somebody who
        was missed is back.
        """
        self.fresh = bool(self.open) or self.fresh

    def seen_equal(self, replica: ShardReplica, name: Name, replicas: Iterable[ReplicaId], turn: Turn) -> None:
        """These have what the majority has. With the last voter the report is settled."""
        report = self.open.get((replica.id, name))
        if report is None:
            return
        equal = self.equal.setdefault((replica.id, name), set())
        equal.update(replicas)
        voters = {*replica.raft.configuration.voters, *replica.raft.committed_configuration.voters}
        if equal >= voters:
            self.publish(replica, msgspec.structs.replace(report, remedy=Remedy.HEALED), turn)

    def agreed(
        self,
        replica: ShardReplica,
        name: Name,
        answers: Mapping[ReplicaId, EvidenceReply],
        chains: Mapping[ReplicaId, bytes],
        right: bytes,
        turn: Turn,
    ) -> None:
        """Everybody who was heard has the majority's state. Who differed when last heard is healed when it is heard again."""
        report = self.open.get((replica.id, name))
        if report is not None and not report.right:
            self.publish(replica, self.write(replica, name, answers, chains, right, Remedy.HEALING), turn)
        self.seen_equal(replica, name, chains, turn)

    def over(self, replica: ShardReplica, name: Name, turn: Turn) -> bool:
        """Settle a report if whoever was not seen to be right is no voter any more; says whether it is settled."""
        if self.equal.get((replica.id, name)):
            self.seen_equal(replica, name, (), turn)
        return (replica.id, name) not in self.open

    def forget(self, shard: ShardId, name: Name) -> None:
        """This node has no replica of the shard any more. Those that stayed hold the report open."""
        self.open.pop((shard, name), None)
        self.equal.pop((shard, name), None)
        self._said.pop((shard, name), None)

    def end_of(self, report: Divergence) -> Divergence | None:
        """How a report ended that somebody else still holds open."""
        place = (report.shard, report.name, report.epoch, report.index)
        settled = reversed(self._settled)
        return next((each for each in settled if (each.shard, each.name, each.epoch, each.index) == place), None)

    def taken_over(self, report: Divergence) -> None:
        """This node has the majority's state of the document now; the report stays open for whoever has not."""
        self.keep(msgspec.structs.replace(report, right=tuple(sorted({*report.right, self._node}))))

    def contradicted(self, shard: ShardId) -> bool:
        """Whether a majority has another state of a document of the shard than this node, or had when it was last heard. Where
        no majority ever agreed nobody is wrong.
        """
        return any(
            at == shard and self._node in each.wrong and (bool(each.right) or each.misled)
            for (at, _), each in self.open.items()
        )
