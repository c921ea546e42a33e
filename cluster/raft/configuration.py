"""Who votes, and how one configuration becomes another: rules and encoding, without state (paper section 6, thesis 4).

A change of voters passes through a joint configuration, in which `voters` are the new ones, `outgoing` the old ones, and
elections and commits need a majority of each (thesis 4.3). A change of learners alone needs no joint step: no quorum moves.

    add       a new replica starts as a learner: a voter that lacks the log would only hold up commits (reference trap 44)
    promote   learner to voter, through a joint configuration
    demote    voter to learner, through a joint configuration; it goes on voting in `outgoing` until that is left
    remove    learners only, so that nobody is cut off while still counted

Entries. A payload that begins with the byte 0xC1 is a configuration, and its msgpack follows. MessagePack never uses 0xC1, so
what owners propose, msgpack values of their own (arrays, which begin with 0x90 to 0x9F), can not be mistaken for one;
proposals that begin with it are refused all the same.

Invariant: every step of `entered` and `left` keeps some voter majority of the one configuration intersecting every voter
majority of the other. Ids only rise: `highest` outlives the replica that had it (reference trap 12).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import msgspec

from cluster.errors import ChangePending, InvalidRequest
from cluster.ids import LogIndex, NodeId, ReplicaId
from cluster.raft.messages import Configuration, Places, Run

TAG = 0xC1
MEMBERS_MAX = 64
"""Voters and learners of one group; an entry stays small and a quorum countable."""
OTHERS_SHARED_MAX = 1024
_TAG_BYTES = bytes([TAG])


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Configuration).decode


def encode(configuration: Configuration) -> bytes:
    """The payload of a configuration entry."""
    return _TAG_BYTES + _encode(configuration)


def decode(payload: bytes) -> Configuration:
    """Raises InvalidRequest when the payload is not a sound configuration entry."""
    if payload[:1] != _TAG_BYTES:
        raise InvalidRequest("an entry is not the configuration that it should be")
    try:
        configuration = _decode(memoryview(payload)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"a configuration entry can not be read: {error}") from error
    check(configuration)
    return configuration


def entries_in(run: Run) -> list[tuple[LogIndex, Configuration]]:
    """Configuration entries of a run with their indexes. Raises InvalidRequest for one that is not sound."""
    if max(run.payloads) < _TAG_BYTES:
        return []  # one comparison per entry, in C: nearly every run of every group goes this way
    return [
        (LogIndex(run.first_index + place), decode(payload))
        for place, payload in enumerate(run.payloads)
        if payload[:1] == _TAG_BYTES
    ]


def is_reserved(payloads: list[bytes]) -> bool:
    """Whether one of these payloads would be taken for a configuration."""
    return max(payloads) >= _TAG_BYTES and any(payload[:1] == _TAG_BYTES for payload in payloads)


def without_configurations(run: Run) -> Run:
    """The run as owners see it: configuration entries are empty payloads, nothing to apply."""
    return Run(run.first_index, run.term, [b"" if payload[:1] == _TAG_BYTES else payload for payload in run.payloads])


def voters_of(configuration: Configuration) -> tuple[ReplicaId, ...]:
    """Everybody whose vote counts somewhere, sorted."""
    if not configuration.outgoing:
        return configuration.voters
    return tuple(sorted({*configuration.voters, *configuration.outgoing}))


def members_of(configuration: Configuration) -> tuple[ReplicaId, ...]:
    """Everybody who gets the log, sorted."""
    return tuple(sorted({*configuration.voters, *configuration.learners, *configuration.outgoing}))


@lru_cache(maxsize=OTHERS_SHARED_MAX)
def others_of(configuration: Configuration, replica: ReplicaId) -> tuple[ReplicaId, ...]:
    """The members beside `replica`, sorted; the same object for all groups that look alike, of which a node has thousands."""
    return tuple(member for member in members_of(configuration) if member != replica)


def highest_of(configuration: Configuration) -> ReplicaId:
    """The highest id that the group has ever used."""
    return max(configuration.highest, *members_of(configuration), ReplicaId(0))


def check(configuration: Configuration) -> None:
    """Raise InvalidRequest unless a group could have this configuration."""
    for ids in (configuration.voters, configuration.learners, configuration.outgoing):
        if any(a >= b for a, b in pairwise(ids)) or (ids and ids[0] <= 0):
            raise InvalidRequest("ids of a configuration are positive, sorted and each there once")
    if not configuration.voters:
        raise InvalidRequest("a group needs voters")
    if set(configuration.voters) & set(configuration.learners):
        raise InvalidRequest("a replica is either a voter or a learner")
    if not set(configuration.outgoing) <= {*configuration.voters, *configuration.learners}:
        raise InvalidRequest("an outgoing voter stays at least a learner")
    if len(members_of(configuration)) > MEMBERS_MAX:
        raise InvalidRequest(f"a group has at most {MEMBERS_MAX} replicas")
    if configuration.places:
        if tuple([replica for replica, _ in configuration.places]) != members_of(configuration):
            raise InvalidRequest("places name every replica of the group once, sorted, and no other")
        if len({node for _, node in configuration.places}) != len(configuration.places):
            raise InvalidRequest("a node holds at most one replica of a group")


def entered(
    now: Configuration, voters: tuple[ReplicaId, ...], learners: tuple[ReplicaId, ...], places: Places = ()
) -> Configuration:
    """The first step from `now` towards `voters` and `learners`: the goal itself when the voters stay, else the joint one.
    `places` says where new replicas run; the others stay where they are.

    Raises ChangePending inside a joint configuration, InvalidRequest when the goal is not sound or can not be reached at once.
    """
    if now.outgoing:
        raise ChangePending("a joint configuration must be left first")
    old, highest = {*now.voters, *now.learners}, highest_of(now)
    new = {*voters, *learners}
    for replica in sorted(new - old):
        if replica <= highest:
            raise InvalidRequest(f"replica id {replica} was used before: ids up to {highest} are never used again")
        if replica in voters:
            raise InvalidRequest(f"replica {replica} is new: it starts as a learner")
    for replica in now.voters:
        if replica not in new:
            raise InvalidRequest(f"replica {replica} votes: demote it to a learner before it is removed")
    goal = Configuration(voters, learners, (), max(highest, *new, ReplicaId(0)), _placed(now, new, places))
    check(goal)
    if (voters, learners) == (now.voters, now.learners):
        raise InvalidRequest("that is the configuration already")
    if voters == now.voters:
        return goal
    return msgspec.structs.replace(goal, outgoing=now.voters)


def _placed(now: Configuration, members: set[ReplicaId], places: Places) -> Places:
    """Where these members run. A replica is born and dies in one place."""
    known: dict[ReplicaId, NodeId] = dict(now.places)
    for replica, node in places:
        if known.setdefault(replica, node) != node:
            raise InvalidRequest(f"replica {replica} runs at {known[replica]} and does not move; add another one at {node}")
    return tuple(sorted((replica, node) for replica, node in known.items() if replica in members))


def left(joint: Configuration) -> Configuration:
    """The configuration that a joint one leads to (thesis 4.3: C_new)."""
    assert joint.outgoing, "only a joint configuration is left"
    return msgspec.structs.replace(joint, outgoing=())
