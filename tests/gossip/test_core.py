"""What a core does with what it hears, apart from probing: answering, spreading, comparing, joining, leaving."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import TooLarge
from cluster.gossip.config import PACKET_BYTES_MAX, GossipConfig
from cluster.gossip.effects import (
    Awake,
    Datagram,
    DataPath,
    Effects,
    Event,
    Leave,
    Rejoin,
    Remembered,
    Removed,
    SetAddress,
    SetHints,
    SetLoad,
    Stalled,
    StreamFailed,
    StreamReplied,
    StreamRequested,
    Tick,
)
from cluster.gossip.messages import (
    BUCKET_HASH_BYTES,
    BUCKETS,
    HINTS_BYTES_MAX,
    VERSION_MAX,
    Ack,
    Address,
    Alive,
    DigestEntry,
    ForeignVersion,
    Hints,
    Load,
    Nack,
    Ping,
    PingRequest,
    Refusal,
    State,
    Suspect,
    SyncDelta,
    SyncReply,
    SyncRequest,
)
from cluster.gossip.outbox import REQUESTS_MAX
from tests.gossip.cores import (
    Core,
    accusers,
    alive,
    dead,
    endpoint,
    hints,
    left,
    load,
    node,
    packet,
    read,
    sent,
    suspect,
)

ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT
CONFIG = GossipConfig()
NO_HASHES = bytes(BUCKETS * BUCKET_HASH_BYTES)
EVERY_BUCKET = (1 << BUCKETS) - 1


def state_of(core: Core, number: int) -> State | None:
    member = core.gossip.member(node(number))
    return member.state if member is not None else None


def test_what_is_heard_is_passed_on_to_others_until_it_was_sent_often_enough() -> None:
    core = Core(3)
    core.pass_time(5_000)
    core.hear(1, alive(9))
    told = [m for m in sent(core.pass_time(10 * CONFIG.gossip_interval_ms)) if m == alive(9)]
    assert len(told) == CONFIG.transmits_max(5)


def test_without_news_nothing_but_probes_and_comparisons_is_sent() -> None:
    core = Core(0)
    core.pass_time(60_000)
    assert core.gossip.news_waiting == 1, "nobody to tell"
    assert core.pass_time(60_000)
    assert not [data for one in core.pass_time(60_000) for data in one.datagrams]


def test_changes_are_reported_with_what_was_held_before() -> None:
    core = Core(2)
    seen = [(c.member.node, c.before, c.member.state) for c in core.hear(1, alive(9)).changes]
    seen += [(c.member.node, c.before, c.member.state) for c in core.hear(1, suspect(9, 1)).changes]
    seen += [(c.member.node, c.before, c.member.state) for c in core.hear(1, dead(9, 1)).changes]
    seen += [(c.member.node, c.before, c.member.state) for c in core.hear(1, alive(9, generation=2)).changes]
    nine = node(9)
    assert seen == [(nine, None, ALIVE), (nine, ALIVE, SUSPECT), (nine, SUSPECT, DEAD), (nine, DEAD, ALIVE)]


def test_alive_is_heard_before_what_speaks_against_it_in_one_packet() -> None:
    """Trap 18: stale news handled in order of arrival makes members flap."""
    core = Core(2)
    effects = core.hear(1, suspect(2, 1), alive(2, incarnation=1))
    assert effects.changes == []
    assert state_of(core, 2) is ALIVE


def test_an_accusation_is_refuted_to_its_bearer_at_once() -> None:
    core = Core(2)
    effects = core.hear(1, suspect(0, 2))
    assert core.gossip.own.incarnation == 1
    assert core.gossip.own in sent(effects, 1)


def test_an_old_accusation_is_answered_with_the_newer_record() -> None:
    """Trap 2: who holds something stale of us must be told, not ignored."""
    core = Core(2)
    core.hear(1, suspect(0, 2))
    core.pass_time(10_000)
    assert core.gossip.own in sent(core.hear(2, dead(0, 1)), 2)
    assert core.gossip.own.incarnation == 1


def test_a_member_held_dead_that_speaks_is_told_so_and_not_too_often() -> None:
    """Traps 2 and 7: the record it must outbid is named, and two nodes that hold each other dead do not chatter."""
    core = Core(2)
    core.hear(2, dead(1, 2))
    core.pass_time(2_000)
    assert core.gossip.news_waiting == 0, "what follows is not news"
    told = 0
    for _ in range(30):
        told += dead(1, 2) in sent(core.hear(1, Nack(1)), 1)
        core.pass_time(100)
    assert told == 3_000 // CONFIG.accusation_interval_ms


def test_a_former_process_is_not_heard_and_is_told_of_its_successor() -> None:
    core = Core(2)
    core.hear(1, alive(1, generation=2), generation=2)
    answer = core.hear(1, dead(2, 1), generation=1)
    assert state_of(core, 2) is ALIVE
    assert alive(1, generation=2) in sent(answer, 1)
    assert core.gossip.refusals[Refusal.STALE_SENDER] == 1


def test_a_node_whose_name_was_taken_by_a_newer_process_is_told_and_goes_on() -> None:
    """Trap 23: opinions never end a process."""
    core = Core(2)
    assert core.hear(1, alive(0, generation=5)).superseded_by == 5
    assert core.hear(0, Nack(1), generation=6).superseded_by == 6
    assert core.hear(1, Nack(1)).superseded_by == 0
    assert Ack(3, node(0), 1) in sent(core.hear(1, Ping(3, node(0), 1)))


def test_removed_nodes_are_neither_heard_nor_contacted() -> None:
    """Traps 19 and 27: removed members came back, or went on being targets."""
    core = Core(3, seeds=(endpoint(1),))
    core.step(Removed([node(1)], 1))
    core.hear(1, alive(1, incarnation=5), dead(2, 1))
    assert core.gossip.member(node(1)) is None
    assert state_of(core, 2) is ALIVE
    pinged = {m.node for m in sent(core.pass_time(5_000)) if isinstance(m, Ping)}
    assert node(1) not in pinged
    assert core.gossip.refusals[Refusal.REMOVED] >= 1


def test_hints_and_load_reach_others_without_a_new_incarnation_and_oversize_ones_are_refused() -> None:
    """Trap 14: what is too large must be refused at its source, not dropped on the way."""
    core = Core(2)
    with pytest.raises(TooLarge):
        core.step(SetHints(bytes(HINTS_BYTES_MAX + 1)))
    core.step(SetHints(b"leads 7"))
    core.step(SetHints(b"leads 8"))
    core.step(SetLoad(Load(node(9), 9, 9, map_version=3)))
    core.step(SetAddress(Address("new-host", 1)))
    told = {type(m): m for m in sent(core.pass_time(200)) if not isinstance(m, Ping | Ack) and m.node == node(0)}  # type: ignore[union-attr]
    assert told[Hints] == hints(0, b"leads 8", sequence=2)
    assert told[Load] == load(0, map_version=3)
    assert told[Alive] == Alive(node(0), 1, 1, Address("new-host", 1), core.gossip.own.tags)


def test_what_a_member_says_of_itself_is_passed_on_and_cannot_be_starved_by_records() -> None:
    """Trap 14: user broadcasts starved behind a thousand membership records."""
    core = Core(0)
    for number in range(1, 1001):
        core.hear(1, alive(number))
    core.hear(1, hints(5, b"leads 7"))
    core.hear(1, load(6))
    (first, *_) = [data for one in core.pass_time(200) for _, data in one.datagrams]
    messages = read(first).messages
    assert hints(5, b"leads 7") in messages
    assert load(6) in messages
    assert len(messages) > 10


def test_leaving_is_said_and_taken_back() -> None:
    """Trap 5: leave and join again on one instance."""
    core = Core(2)
    core.step(Leave())
    effects = core.pass_time(2_000)
    assert left(0) in sent(effects)
    assert not [m for m in sent(effects) if isinstance(m, Ping)]
    core.hear(1, dead(0, 1))
    assert core.gossip.own.incarnation == 0
    core.step(Rejoin())
    assert alive(0, incarnation=1).identity in [m.identity for m in sent(core.pass_time(500)) if isinstance(m, Alive)]


def test_a_lonely_node_asks_its_seeds_again_and_again_but_never_itself() -> None:
    """Trap 6: whoever gives up on the unreachable stays apart until a restart."""
    core = Core(0, seeds=(endpoint(0), endpoint(1), endpoint(2)))
    targets = []
    for effects in core.pass_time(60_000):
        for request in effects.requests:
            targets.append(request.target)
            core.step(StreamFailed(request.request))
    assert set(targets) == {endpoint(1), endpoint(2)}
    assert len(targets) > 15


def test_the_dead_are_retried_for_as_long_as_they_are_remembered() -> None:
    """Traps 6 and 8: forgetting after seconds keeps the halves of a partition apart."""
    core = Core(2)
    core.hear(2, dead(1, 2))
    for span_ms in (60_000, 3_600_000):
        targets = set()
        for effects in core.pass_time(60_000):
            for request in effects.requests:
                targets.add(request.target)
                core.step(StreamFailed(request.request))
        assert endpoint(1) in targets
        core.now_ms += span_ms
        core.tick()


def test_the_dead_are_forgotten_in_the_end() -> None:
    core = Core(2, config=GossipConfig(dead_retention_ms=300_000))
    core.hear(2, dead(1, 2))
    core.pass_time(200_000)
    assert state_of(core, 1) is DEAD
    core.pass_time(200_000)
    assert state_of(core, 1) is None


def test_remembered_members_are_there_without_news_and_without_those_that_were_removed() -> None:
    core = Core(0)
    core.step(Removed([node(3)], 1))
    core.step(Remembered([alive(0), alive(1), alive(2), alive(3)]))
    assert {view.node for view in core.gossip.members()} == {node(1), node(2)}
    assert core.gossip.news_waiting == 1


def test_a_packet_of_another_version_is_named_to_the_owner() -> None:
    """Trap 25: releases that do not understand each other must say so, and change nothing."""
    core = Core(1)
    body = msgspec.msgpack.encode([VERSION_MAX + 1, VERSION_MAX, VERSION_MAX + 1, "anything"])
    effects = core.step(Datagram(endpoint(1), zlib.crc32(body).to_bytes(4, "little") + body))
    assert effects.foreign == ForeignVersion(VERSION_MAX, VERSION_MAX + 1)
    assert core.gossip.refusals[Refusal.VERSION_MISMATCH] == 1


def test_stream_requests_have_a_bound() -> None:
    """Trap 16: comparisons started without a bound took down whole clusters."""
    core = Core(4)
    requests = [request for effects in core.pass_time(600_000) for request in effects.requests]
    assert len(requests) == REQUESTS_MAX - 1, "one was started when the first member was heard of"
    core.step(StreamFailed(requests[0].request))
    assert len([request for effects in core.pass_time(60_000) for request in effects.requests]) == 1


def test_a_stream_that_makes_no_sense_is_closed() -> None:
    core = Core(1)
    for data in (b"", b"garbage", packet(1, Nack(1)), packet(1, SyncRequest(alive(2), NO_HASHES, 0)), packet(1, cluster=b"x")):
        (reply,) = core.step(StreamRequested(3, data)).replies
        assert (reply.stream, reply.data) == (3, b"")
    assert core.asked(1, Ping(4, node(0), 1)) == [Ack(4, node(0), 1)]
    assert core.asked(1, Ping(4, node(0), 9)) == [core.gossip.own]


def test_no_datagram_exceeds_a_packet_even_with_a_thousand_pieces_of_news() -> None:
    """Trap 15: compound packets that grew beyond their format were corrupt."""
    core = Core(0)
    for number in range(1, 1001):
        core.hear(1, alive(number))
        core.hear(number, hints(number, bytes(number % 200)))
    effects = core.pass_time(5_000)
    sizes = [len(data) for one in effects for _, data in one.datagrams]
    assert max(sizes) <= PACKET_BYTES_MAX
    assert max(sizes) > PACKET_BYTES_MAX * 3 // 4


def test_the_same_seed_and_events_give_the_same_effects() -> None:
    def run() -> list[Effects]:
        core = Core(6, seeds=(endpoint(8),), seed=42)
        effects = core.pass_time(3_000)
        effects.append(core.hear(2, suspect(3, 2)))
        return effects + core.pass_time(20_000)

    assert run() == run()


entries_drawn = st.builds(
    DigestEntry,
    st.integers(0, 6).map(node),
    st.integers(0, 3),
    st.integers(0, 9),
    st.sampled_from(list(State)),
    st.integers(0, 3),
)
messages = st.one_of(
    st.builds(alive, st.integers(0, 6), generation=st.integers(0, 3), incarnation=st.integers(0, 9)),
    st.builds(suspect, st.integers(0, 6), st.integers(0, 6), generation=st.integers(0, 3), incarnation=st.integers(0, 9)),
    st.builds(dead, st.integers(0, 6), generation=st.integers(0, 3), incarnation=st.integers(0, 9)),
    st.builds(left, st.integers(0, 6), generation=st.integers(0, 3), incarnation=st.integers(0, 9)),
    st.builds(Ping, st.integers(0, 50), st.integers(0, 3).map(node), st.integers(0, 3)),
    st.builds(Ack, st.integers(0, 2**33), st.integers(0, 3).map(node), st.integers(0, 3)),
    st.builds(Nack, st.integers(0, 50)),
    st.builds(hints, st.integers(0, 6), st.binary(max_size=9), generation=st.integers(0, 3), sequence=st.integers(0, 9)),
    st.builds(load, st.integers(0, 6), generation=st.integers(0, 3), sequence=st.integers(0, 9)),
    st.builds(
        PingRequest, st.integers(0, 9), st.integers(0, 6).map(node), st.just(1), st.just(Address("h", 1)), st.integers(1, 9_000)
    ),
    st.builds(SyncRequest, st.integers(0, 6).map(alive), st.binary(min_size=512, max_size=512), st.integers(0, 3)),
    st.builds(SyncReply, st.integers(0, 2**64 - 1), st.lists(entries_drawn, max_size=4), st.just([]), st.booleans()),
    st.builds(SyncDelta, st.just([]), st.lists(st.integers(0, 6).map(node), max_size=4)),
)
payloads = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda sender, generation, several: packet(sender, *several, generation=generation),
        st.integers(0, 6),
        st.integers(0, 3),
        st.lists(messages, max_size=6),
    ),
)
events = st.one_of(
    st.just(Tick()),
    st.just(Awake()),
    st.builds(Datagram, st.just(endpoint(1)), payloads),
    st.builds(StreamRequested, st.integers(0, 9), payloads),
    st.builds(StreamReplied, st.integers(0, 9), payloads),
    st.builds(StreamFailed, st.integers(0, 9)),
    st.builds(SetHints, st.binary(max_size=20)),
    st.just(Leave()),
    st.just(Rejoin()),
    st.builds(Stalled, st.integers(0, 5_000)),
    st.builds(DataPath, st.integers(0, 6).map(node), st.integers(0, 3), st.booleans()),
    st.builds(SetLoad, st.builds(load, st.just(0))),
    st.builds(lambda number: Removed([node(number)], 1), st.integers(1, 6)),
)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(st.tuples(events, st.integers(0, 3_000)), max_size=40), seed=st.integers(0, 99))
def test_nothing_that_arrives_raises_and_the_next_deadline_is_always_ahead(script: list[tuple[Event, int]], seed: int) -> None:
    core = Core(3, seeds=(endpoint(5),), seed=seed)
    for event, wait_ms in script:
        core.now_ms += wait_ms
        effects = core.step(event)
        assert core.gossip.deadline_ms > core.now_ms
        assert all(len(data) <= PACKET_BYTES_MAX for _, data in effects.datagrams)
        answered = [reply.stream for reply in effects.replies]
        assert answered == ([event.stream] if isinstance(event, StreamRequested) else [])


def test_accusers_of_the_living_are_named_to_the_node() -> None:
    """Trap 20: the victim's neighbours must be able to say who accused."""
    core = Core(5)
    (change,) = core.hear(2, suspect(1, 2, 3)).changes
    assert change.member.accusers == (node(2), node(3))
    told = {m.accusers for m in sent(core.pass_time(200)) if isinstance(m, Suspect)}
    assert told == {accusers(2, 3)}
