"""Comparing two tables of members: a digest goes over, what differs comes back, what is wanted follows.

Cost is the digest (some 20 bytes a member) plus the records that differ. It repairs whatever the broadcasts lost, carries
mass joins, and brings the halves of a healed partition together.

The dead are taught to others for half of the time that they are remembered, and with the age of their death: otherwise two
nodes that forget at different times would teach each other the same dead forever.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.gossip.members import Member, Members
from cluster.gossip.messages import Alive, DigestEntry, State, SyncRecord, SyncReply
from cluster.ids import NodeId


def digest(members: Members, *, teach_after_ms: int) -> list[DigestEntry]:
    """Everybody worth telling about, ourselves included. teach_after_ms: older deaths are kept to ourselves."""
    entries = [_entry(members.own, State.LEFT if members.leaving else State.ALIVE)]
    entries += [_entry(member.alive, member.state) for member in members if _taught(member, teach_after_ms)]
    return entries


def compare(members: Members, theirs: Iterable[DigestEntry], *, teach_after_ms: int, now_ms: int) -> SyncReply:
    """Answer a digest: the records that we hold in a newer version, and the nodes that they do."""
    known = {entry.node: (entry.generation, entry.incarnation, entry.state) for entry in theirs}
    records, wanted = [], []
    own = _own_record(members)
    if known.pop(own.alive.node, (-1, -1, State.ALIVE)) < (*own.alive.identity, own.state):
        records.append(own)
    for member in members:
        ours = (member.alive.generation, member.alive.incarnation, member.state)
        there = known.pop(member.alive.node, None)
        if there is not None and there > ours:
            wanted.append(member.alive.node)
        elif (there is None or there < ours) and _taught(member, teach_after_ms):
            records.append(_record(member, now_ms))
    wanted += [node for node in known if not members.is_removed(node)]
    return SyncReply(records, wanted)


def answer(members: Members, wanted: Iterable[NodeId], *, teach_after_ms: int, now_ms: int) -> list[SyncRecord]:
    """The records that were asked for, as far as we have and teach them."""
    records = []
    for node in dict.fromkeys(wanted):
        if node == members.own.node:
            records.append(_own_record(members))
        elif (member := members.get(node)) is not None and _taught(member, teach_after_ms):
            records.append(_record(member, now_ms))
    return records


def _taught(member: Member, teach_after_ms: int) -> bool:
    return member.state <= State.SUSPECT or member.since_ms > teach_after_ms


def _entry(alive: Alive, state: State) -> DigestEntry:
    return DigestEntry(alive.node, alive.generation, alive.incarnation, state)


def _own_record(members: Members) -> SyncRecord:
    return SyncRecord(members.own, State.LEFT if members.leaving else State.ALIVE, (), 0)


def _record(member: Member, now_ms: int) -> SyncRecord:
    accusers = member.suspicion.accusers if member.suspicion is not None else member.accusers
    return SyncRecord(member.alive, member.state, accusers, max(0, now_ms - member.since_ms))
