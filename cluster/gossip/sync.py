"""Comparing two tables of members at the cost of what differs.

A table is cut into 64 buckets by a hash of the node id, and each bucket has a hash of what is held in it, kept up to date
change by change. The hashes go over; of the buckets that differ the entries come back; what is newer and what is wanted
follows. It repairs whatever the broadcasts lost, carries mass joins, and brings the halves of a healed partition together.

The dead are taught to others for half of the time that they are remembered, and with the age of their death: otherwise two
nodes that forget at different times would teach each other the same dead forever.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.gossip.member import Member
from cluster.gossip.members import Members
from cluster.gossip.messages import (
    RECORDS_MAX,
    DigestEntry,
    State,
    SyncDelta,
    SyncRecord,
    SyncReply,
    SyncRequest,
)
from cluster.gossip.tables import bucket_of
from cluster.ids import NodeId


def open_comparison(members: Members) -> SyncRequest:
    return SyncRequest(members.own, members.hashes.encoded(), members.known)


def reply_to(members: Members, request: SyncRequest, now_ms: int) -> SyncReply:
    """Answer the hashes of another table."""
    if request.known == 0:
        records, more = _bounded([_own_record(members), *(_record(m, now_ms) for m in members if m.taught)])
        return SyncReply(0, [], records, more)
    buckets = members.hashes.differing(request.hashes)
    return SyncReply(buckets, entries(members, buckets), [], False)


def entries(members: Members, buckets: int) -> list[DigestEntry]:
    """What is held in these buckets (a bit each), ourselves included."""
    if not buckets:
        return []
    found = [_entry(member) for member in members if member.taught and buckets >> bucket_of(member.alive.node) & 1]
    own = _own_record(members)
    if buckets >> bucket_of(own.alive.node) & 1:
        hints = own.hints.sequence if own.hints is not None else 0
        found.append(DigestEntry(own.alive.node, *own.alive.identity, own.state, hints))
    return found


def compare(members: Members, reply: SyncReply, now_ms: int) -> SyncDelta:
    """The records in the buckets of a reply that are newer here, and the members that are newer there."""
    known = {entry.node: (entry.generation, entry.incarnation, entry.state, entry.hints) for entry in reply.entries}
    records, wanted = [], []
    own = _own_record(members)
    if reply.buckets >> bucket_of(own.alive.node) & 1:
        ours = (*own.alive.identity, own.state, own.hints.sequence if own.hints is not None else 0)
        if known.pop(own.alive.node, (-1, -1, State.ALIVE, 0)) < ours:
            records.append(own)
    for member in members:
        if not reply.buckets >> bucket_of(member.alive.node) & 1:
            continue
        here = (member.alive.generation, member.alive.incarnation, member.state, member.hints_sequence)
        there = known.pop(member.alive.node, None)
        if there is not None and there > here:
            wanted.append(member.alive.node)
        elif (there is None or there < here) and member.taught:
            records.append(_record(member, now_ms))
    known.pop(own.alive.node, None)
    wanted += [node for node in known if not members.is_removed(node)]
    return SyncDelta(_bounded(records)[0], wanted[:RECORDS_MAX])


def answer(members: Members, wanted: Iterable[NodeId], now_ms: int) -> list[SyncRecord]:
    """The records that were asked for, as far as we have and teach them."""
    records = []
    for node in dict.fromkeys(wanted):
        if node == members.own.node:
            records.append(_own_record(members))
        elif (member := members.get(node)) is not None and member.taught:
            records.append(_record(member, now_ms))
    return _bounded(records)[0]


def _bounded(records: list[SyncRecord]) -> tuple[list[SyncRecord], bool]:
    return records[:RECORDS_MAX], len(records) > RECORDS_MAX


def _entry(member: Member) -> DigestEntry:
    return DigestEntry(member.alive.node, *member.alive.identity, member.state, member.hints_sequence)


def _own_record(members: Members) -> SyncRecord:
    return SyncRecord(members.own, State.LEFT if members.leaving else State.ALIVE, (), 0, members.own_hints, members.own_load)


def _record(member: Member, now_ms: int) -> SyncRecord:
    age_ms = max(0, now_ms - member.since_ms)
    return SyncRecord(member.alive, member.state, member.held_accusers, age_ms, member.hints, member.load)
