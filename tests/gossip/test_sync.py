"""Comparing tables: at the cost of what differs, with what each side knows better, and with deaths as old as they are."""

from __future__ import annotations

from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import (
    StreamFailed,
    StreamReplied,
)
from cluster.gossip.messages import (
    BUCKET_HASH_BYTES,
    BUCKETS,
    DigestEntry,
    State,
    SyncDelta,
    SyncRecord,
    SyncRecords,
    SyncReply,
    SyncRequest,
)
from cluster.gossip.sync import compare, open_comparison, reply_to
from tests.gossip.cores import (
    Core,
    alive,
    dead,
    endpoint,
    hints,
    load,
    node,
    packet,
    read,
    suspect,
    table,
)

ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT
CONFIG = GossipConfig()
NO_HASHES = bytes(BUCKETS * BUCKET_HASH_BYTES)
EVERY_BUCKET = (1 << BUCKETS) - 1


def state_of(core: Core, number: int) -> State | None:
    member = core.gossip.member(node(number))
    return member.state if member is not None else None


def test_a_comparison_brings_each_side_what_the_other_knows_better() -> None:
    core = Core(3)
    core.hear(1, suspect(1, 2))
    (reply,) = core.asked(9, SyncRequest(alive(9), NO_HASHES, 5))
    assert isinstance(reply, SyncReply)
    assert {(e.node, e.state) for e in reply.entries} == {
        (node(0), ALIVE), (node(1), SUSPECT), (node(2), ALIVE), (node(3), ALIVE), (node(9), ALIVE)
    }  # fmt: skip
    assert state_of(core, 9) is ALIVE
    delta = SyncDelta([SyncRecord(alive(2, generation=2), ALIVE, (), 0), SyncRecord(alive(8), DEAD, (), 7)], [node(1), node(0)])
    (records,) = core.asked(9, delta)
    assert isinstance(records, SyncRecords)
    assert [(record.alive.node, record.state) for record in records.records] == [(node(1), SUSPECT), (node(0), ALIVE)]
    assert state_of(core, 8) is DEAD
    assert core.gossip.member(node(2)).generation == 2  # type: ignore[union-attr]


def test_who_knows_nobody_is_told_of_everybody_at_once() -> None:
    core = Core(3)
    core.hear(2, hints(2, b"leads 7"), load(2))
    (reply,) = core.asked(9, SyncRequest(alive(9), NO_HASHES, 0))
    assert isinstance(reply, SyncReply)
    assert {record.alive.node for record in reply.records} >= {node(number) for number in range(4)}
    (told,) = [record for record in reply.records if record.alive.node == node(2)]
    assert (told.hints, told.load) == (hints(2, b"leads 7"), load(2))
    newcomer = Core(0, seeds=(endpoint(1),))
    request = next(request for effects in newcomer.pass_time(2_000) for request in effects.requests)
    newcomer.step(StreamReplied(request.request, packet(1, reply)))
    member = newcomer.gossip.member(node(2))
    assert member is not None
    assert (member.hints, member.load) == (b"leads 7", load(2))


def test_equal_tables_cost_a_comparison_nothing_and_one_change_one_bucket() -> None:
    """Trap 16: comparisons that carry whole tables stall nodes and networks."""
    one, other = table(200), table(199)
    request = open_comparison(one)
    assert reply_to(table(200), request, 0) == SyncReply(0, [], [], False)
    reply = reply_to(other, request, 0)
    assert reply.buckets.bit_count() == 1
    assert len(reply.entries) < 15
    assert [record.alive.node for record in compare(one, reply, 0).records] == [node(200)]


def test_a_change_of_membership_brings_comparisons_forward_and_calm_spreads_them_out() -> None:
    """Trap 16 and its opposite: comparisons are few in calm, but news that ran out early must not wait for half a minute."""

    def comparisons(core: Core, duration_ms: int) -> int:
        found = [request for effects in core.pass_time(duration_ms) for request in effects.requests]
        for request in found:
            core.step(StreamFailed(request.request))
        return sum(isinstance(read(request.data).messages[0], SyncRequest) for request in found)

    core = Core(9)
    for _ in range(60):  # everybody answers probes, so that nothing changes
        core.pass_time(1_000)
        for number in range(1, 10):
            core.hear(number, alive(number, incarnation=core.now_ms))
    calm = comparisons(core, 3_000)
    core.hear(1, alive(99))
    assert comparisons(core, 3_000) >= 2 > calm


def asked_to_compare(core: Core) -> int:
    """The number of the first comparison that this core opens."""
    request = next(request for effects in core.pass_time(2_000) for request in effects.requests)
    (asked,) = read(request.data).messages
    assert isinstance(asked, SyncRequest)
    return request.request


def test_an_accusation_found_in_a_comparison_is_refuted_in_its_answer() -> None:
    core = Core(0, seeds=(endpoint(1),))
    reply = SyncReply(EVERY_BUCKET, [DigestEntry(node(0), 1, 3, DEAD)], [], False)
    effects = core.step(StreamReplied(asked_to_compare(core), packet(1, reply)))
    (delta,) = read(effects.requests[-1].data).messages
    assert isinstance(delta, SyncDelta)
    assert alive(0, incarnation=4).identity in [record.alive.identity for record in delta.records]
    asked = Core(2)
    (records,) = asked.asked(2, SyncDelta([SyncRecord(alive(0), DEAD, (), 0)], []))
    assert isinstance(records, SyncRecords)
    assert alive(0, incarnation=1).identity in [record.alive.identity for record in records.records]


def test_the_answer_to_our_comparison_is_taken_and_what_differs_is_sent_and_asked_for() -> None:
    core = Core(0, seeds=(endpoint(1),))
    request = asked_to_compare(core)
    core.hear(3, alive(3), alive(4))
    theirs = [DigestEntry(node(1), 1, 0, ALIVE), DigestEntry(node(4), 1, 1, ALIVE), DigestEntry(node(3), 1, 0, ALIVE)]
    effects = core.step(StreamReplied(request, packet(1, SyncReply(EVERY_BUCKET, theirs, [], False))))
    (delta,) = [m for r in effects.requests for m in read(r.data).messages if isinstance(m, SyncDelta)]
    assert [record.alive.node for record in delta.records] == [node(0)]
    assert delta.wanted == [node(4), node(1)]
    records = SyncRecords([SyncRecord(alive(1), ALIVE, (), 0), SyncRecord(alive(4, incarnation=1), ALIVE, (), 0)])
    effects = core.step(StreamReplied(effects.requests[-1].request, packet(1, records)))
    assert {change.member.node for change in effects.changes} == {node(1)}
    assert core.gossip.member(node(4)).incarnation == 1  # type: ignore[union-attr]


def test_what_does_not_fit_one_answer_is_asked_for_at_once() -> None:
    core = Core(0, seeds=(endpoint(1),))
    reply = SyncReply(0, [], [SyncRecord(alive(1), ALIVE, (), 0)], True)
    effects = core.step(StreamReplied(asked_to_compare(core), packet(1, reply)))
    assert any(isinstance(read(request.data).messages[0], SyncRequest) for request in effects.requests)


def test_what_a_dead_member_said_of_itself_is_kept_and_told_on() -> None:
    """Trap 22: dropping what the dead had said breaks every reader that had not heard it yet."""
    core = Core(2)
    core.hear(1, hints(1, b"leads 7"))
    core.hear(2, dead(1, 2))
    member = core.gossip.member(node(1))
    assert member is not None
    assert (member.state, member.hints) == (DEAD, b"leads 7")
    (reply,) = core.asked(9, SyncRequest(alive(9), NO_HASHES, 0))
    assert isinstance(reply, SyncReply)
    assert [record.hints for record in reply.records if record.alive.node == node(1)] == [hints(1, b"leads 7")]


def test_the_crowd_of_a_first_comparison_is_no_news_for_others() -> None:
    """Trap 16: who joins a thousand would tell a thousand what they know."""
    core = Core(0, seeds=(endpoint(1),))
    records = [SyncRecord(alive(number), ALIVE, (), 0) for number in range(1, 101)]
    core.step(StreamReplied(asked_to_compare(core), packet(1, SyncReply(0, [], records, False))))
    assert core.gossip.live == 100
    assert core.gossip.news_waiting == 1, "itself"


def test_old_deaths_are_not_taught_to_others() -> None:
    """Trap 21: two nodes that forget at different times would teach each other the same dead forever."""
    core = Core(2, config=GossipConfig(dead_retention_ms=600_000))
    core.hear(2, dead(1, 2))
    for age_ms, taught in ((1, True), (301_000, False)):
        core.now_ms += age_ms
        core.tick()
        (reply,) = core.asked(9, SyncRequest(alive(9), NO_HASHES, 0))
        assert isinstance(reply, SyncReply)
        assert (node(1) in [record.alive.node for record in reply.records]) is taught
