"""The half of failure detection that looks: whom, when, and which answers count."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import Awake, Datagram, DataPath, Effects, Stalled, StreamReplied, Tick
from cluster.gossip.messages import Ack, Address, Nack, Path, Ping, PingRequest, Refusal, State, Suspect
from cluster.gossip.probe import RELAYS_MAX, ProbeSchedule
from cluster.ids import NodeId
from tests.gossip.cores import Core, alive, dead, endpoint, node, packet, read, sent, suspect

CONFIG = GossipConfig()


def until_ping(core: Core, number: int) -> Ping:
    """Step until n<number> is pinged."""
    for _ in range(200):
        for message in sent(core.tick(), number):
            if isinstance(message, Ping) and message.node == node(number):
                return message
    raise AssertionError("never pinged")


def until_helpers_are_asked(core: Core) -> tuple[Effects, list[PingRequest]]:
    for _ in range(50):
        effects = core.tick()
        requests = [message for message in sent(effects) if isinstance(message, PingRequest)]
        if requests:
            return effects, requests
    raise AssertionError("no helper was asked")


@given(count=st.integers(1, 30), seed=st.integers(0, 1000))
def test_every_member_is_probed_within_two_rounds(count: int, seed: int) -> None:
    schedule = ProbeSchedule(random.Random(seed))
    names = [node(number) for number in range(count)]
    for name in names:
        schedule.add(name)
    last = dict.fromkeys(names, -1)
    for period in range(6 * count):
        (taken,) = schedule.take(1, lambda _: True)
        assert period - last[taken] <= 2 * count - 1 or last[taken] == -1
        last[taken] = period
    assert min(last.values()) >= 4 * count


def test_those_that_are_gone_leave_the_schedule_and_joining_twice_counts_once() -> None:
    schedule = ProbeSchedule(random.Random(1))
    for number in (1, 2, 1):
        schedule.add(node(number))
    assert sorted(schedule.take(5, lambda _: True)) == [node(1), node(2)]
    assert schedule.take(5, lambda name: name == node(2)) == [node(2)]
    assert schedule.take(5, lambda _: False) == []
    assert schedule.take(5, lambda _: True) == []


def test_newcomers_enter_at_a_random_place() -> None:
    firsts = set()
    for seed in range(40):
        schedule = ProbeSchedule(random.Random(seed))
        for number in range(6):
            schedule.add(node(number))
        firsts.update(schedule.take(1, lambda _: True))
    assert len(firsts) == 6


@pytest.mark.parametrize(("others", "probed"), [(1, 1), (4, 4), (7, 1), (9, 1)])
def test_in_a_small_cluster_everybody_is_probed_in_every_period_and_beyond_it_one(others: int, probed: int) -> None:
    core = Core(others)
    for _ in range(3):
        pings: list[Ping] = []
        while not pings:
            pings = [message for message in sent(core.tick()) if isinstance(message, Ping)]
        assert len({ping.node for ping in pings}) == probed
        for ping in pings:
            core.hear(int(ping.node[1:]), Ack(ping.sequence, ping.node, ping.generation))


def test_an_answer_in_time_ends_a_probe() -> None:
    core = Core(1)
    ping = until_ping(core, 1)
    core.hear(1, Ack(ping.sequence, ping.node, ping.generation))
    effects = core.pass_time(CONFIG.probe_interval_ms - 1)
    assert not [m for m in sent(effects) if isinstance(m, PingRequest)]
    assert not [request for one in effects for request in one.requests if request.target != endpoint(1)]
    assert core.gossip.failed_probes == 0


def test_a_silent_member_is_tried_through_helpers_and_a_stream_and_then_accused() -> None:
    core = Core(4)
    ping = until_ping(core, 1)
    effects, requests = until_helpers_are_asked(core)
    assert len([r for r in requests if r.sequence == ping.sequence]) == CONFIG.indirect_probes
    assert endpoint(1) in {request.target for request in effects.requests}
    core.pass_time(CONFIG.probe_interval_ms)
    member = core.gossip.member(node(1))
    assert member is not None
    assert (member.state, member.accusers) == (State.SUSPECT, (node(0),))


def test_an_answer_through_a_helper_or_a_stream_saves_the_member() -> None:
    for path in ("helper", "stream"):
        core = Core(2)
        ping = until_ping(core, 1)
        effects, _ = until_helpers_are_asked(core)
        ack = Ack(ping.sequence, ping.node, ping.generation)
        if path == "helper":
            core.hear(2, ack)
        else:
            (request,) = [request for request in effects.requests if request.target == endpoint(1)]
            core.step(StreamReplied(request.request, packet(1, ack)))
        for _ in range(20):
            for message in sent(core.tick()):
                if isinstance(message, Ping):
                    core.hear(int(message.node[1:]), Ack(message.sequence, message.node, message.generation))
        member = core.gossip.member(node(1))
        assert member is not None
        assert member.state is State.ALIVE
        assert Refusal.UNEXPECTED_ACK not in core.gossip.refusals


def test_an_answer_counts_only_from_whom_was_asked_and_for_the_process_that_was_meant() -> None:
    """Trap 26: acks matched by their number alone can be forged, or be late ones of another process."""
    core = Core(2)
    ping = until_ping(core, 1)
    core.hear(2, Ack(ping.sequence, node(1), 1))  # n2 was not asked to help
    core.hear(2, Ack(ping.sequence, node(2), 1))
    core.hear(1, Ack(ping.sequence, node(1), 7))
    core.hear(1, Ack(ping.sequence + 1000, node(1), 1))
    assert core.gossip.refusals[Refusal.UNEXPECTED_ACK] == 4
    core.hear(1, Ack(ping.sequence, node(1), 1))
    core.hear(1, Ack(ping.sequence, node(1), 1))
    assert core.gossip.refusals[Refusal.UNEXPECTED_ACK] == 5


def test_a_restart_in_the_middle_of_a_probe_leaves_its_new_process_unharmed() -> None:
    """Trap 9: a change of identity in the middle of a probe leaves half a cycle behind."""
    core = Core(3)
    until_ping(core, 1)
    core.hear(1, alive(1, generation=2), generation=2)
    core.pass_time(CONFIG.probe_interval_ms - CONFIG.probe_timeout_ms)
    member = core.gossip.member(node(1))
    assert member is not None
    assert (member.state, member.generation) == (State.ALIVE, 2)


def test_a_ping_is_answered_by_the_process_that_is_meant_and_by_no_other() -> None:
    core = Core(1, generation=3)
    source = ("somewhere", 9)
    effects = core.step(Datagram(source, packet(1, Ping(5, node(0), 3))))
    assert effects.datagrams[0][0] == source
    assert Ack(5, node(0), 3) in sent(effects)
    former = sent(core.hear(1, Ping(6, node(0), 2)))
    assert not [message for message in former if isinstance(message, Ack)]
    assert core.gossip.own in former
    other = sent(core.hear(1, Ping(7, node(9), 1)))
    assert not [message for message in other if isinstance(message, Ack)]
    assert core.gossip.refusals[Refusal.MISDIRECTED] == 2


def test_a_helper_passes_an_answer_on_and_says_nack_without_one() -> None:
    core = Core(2)
    request = PingRequest(77, node(2), 1, Address(*endpoint(2)), 90)
    (relayed,) = [m for m in sent(core.hear(1, request), 2) if isinstance(m, Ping)]
    answered = sent(core.hear(2, Ack(relayed.sequence, node(2), 1)), 1)
    assert Ack(77, node(2), 1) in answered
    core.hear(1, PingRequest(78, node(2), 1, Address(*endpoint(2)), 90))
    assert Nack(78) in sent(core.pass_time(90), 1)
    assert Nack(77) not in sent(core.pass_time(CONFIG.probe_interval_ms), 1)


def test_a_helper_asked_about_itself_answers_for_its_process_only() -> None:
    """Trap 9: a helper is asked to ping its own former identity."""
    core = Core(1, generation=2)
    assert Ack(5, node(0), 2) in sent(core.hear(1, PingRequest(5, node(0), 2, Address(*endpoint(0)), 90)))
    former = sent(core.hear(1, PingRequest(6, node(0), 1, Address(*endpoint(0)), 90)))
    assert core.gossip.own in former
    assert not [message for message in former if isinstance(message, Ack)]


def test_a_helper_has_a_bound_and_says_nack_beyond_it() -> None:
    core = Core(2)
    for number in range(RELAYS_MAX):
        core.hear(1, PingRequest(number, node(2), 1, Address(*endpoint(2)), 90))
    assert Nack(9999) in sent(core.hear(1, PingRequest(9999, node(2), 1, Address(*endpoint(2)), 90)), 1)
    assert core.gossip.refusals[Refusal.TOO_MANY_RELAYS] == 1


def test_health_suffers_when_helpers_are_silent_and_not_when_they_say_nack() -> None:
    """Trap 1 and Lifeguard: a truly dead target must not cost the prober its health, deaf helpers must."""
    scores = {}
    for nacks in (True, False):
        core = Core(9)
        core.pass_time(1)
        ping = None
        while ping is None:
            ping = next((m for m in sent(core.tick()) if isinstance(m, Ping)), None)
        effects, requests = until_helpers_are_asked(core)
        if nacks:
            for target, _ in effects.datagrams:
                core.hear(int(target[0][6:]), Nack(requests[0].sequence))
        while core.gossip.failed_probes == 0:
            core.tick()
        scores[nacks] = core.gossip.health
    assert scores == {True: 0, False: 3}


def test_a_sick_node_probes_more_slowly() -> None:
    core = Core(6)
    core.pass_time(20_000)
    assert core.gossip.health == 8
    pinged = [m for m in sent(core.pass_time(9 * CONFIG.probe_interval_ms)) if isinstance(m, Ping)]
    assert len(pinged) <= 2


def test_the_suspect_is_told_first_and_again_until_it_is_concluded() -> None:
    """Lifeguard's buddy system; one lost packet must not cost a life."""
    core = Core(3)
    until_ping(core, 1)
    while core.gossip.failed_probes == 0:
        effects = core.tick()
    assert [m for m in sent(effects, 1) if isinstance(m, Suspect) and m.node == node(1)]
    told = [m for m in sent(core.pass_time(CONFIG.suspicion_min_ms(4)), 1) if isinstance(m, Suspect)]
    assert len(told) >= CONFIG.suspicion_min_ms(4) // CONFIG.probe_timeout_ms - 1


def test_a_ping_carries_the_accusation_of_others_to_its_suspect() -> None:
    """Lifeguard's buddy system: news may have run out, a probe still tells the suspect."""
    core = Core(3)
    core.hear(2, suspect(1, 2))
    for _ in range(100):
        news_ran_out = core.gossip.news_waiting == 0
        effects = core.tick()
        pings = [(target, read(data).messages) for target, data in effects.datagrams]
        for target, messages in pings:
            for ping in [message for message in messages if isinstance(message, Ping)]:
                core.hear(int(ping.node[1:]), Ack(ping.sequence, ping.node, ping.generation))
                if news_ran_out and target == endpoint(1):
                    assert suspect(1, 2) in messages
                    return
    raise AssertionError("never pinged")


def test_a_process_that_stood_still_reads_its_mail_before_it_judges() -> None:
    """Lifeguard, fed by the process's own lag: after a stall the answers are waiting unread."""
    core = Core(1)
    ping = until_ping(core, 1)
    core.now_ms += 5_000
    core.tick()
    member = core.gossip.member(node(1))
    assert member is not None
    assert member.state is State.ALIVE
    assert core.gossip.health == 1
    core.hear(1, Ack(ping.sequence, ping.node, ping.generation))
    assert core.gossip.failed_probes == 0


def test_who_stood_still_while_it_probed_accuses_nobody_of_silence() -> None:
    """Trap 23 and Lifeguard: a frozen node must not drag others down, whether its loop or a late timer tells of the freeze."""
    for told in (True, False):
        core = Core(9)
        until_ping(core, 1)
        core.now_ms += 3_000
        core.step(Stalled(3_000) if told else Tick())
        core.step(Stalled(2_900))
        assert core.gossip.stalls == 1, "one stall is counted once, however many tell of it"
        before = core.gossip.failed_probes
        core.pass_time(2 * CONFIG.probe_interval_ms - 10)
        assert core.gossip.failed_probes == before
        assert core.gossip.member(node(1)).state is State.ALIVE  # type: ignore[union-attr]


def test_the_time_for_an_answer_follows_the_round_trips_of_each_peer() -> None:
    for rtt_ms, timeout_ms in ((1, CONFIG.probe_timeout_ms // 2), (180, CONFIG.probe_interval_ms // 2)):
        core = Core(1)
        for _ in range(20):
            ping = until_ping(core, 1)
            core.now_ms += rtt_ms
            core.hear(1, Ack(ping.sequence, ping.node, ping.generation))
        until_ping(core, 1)
        began_ms = core.now_ms
        while not any(request.target == endpoint(1) for request in core.tick().requests):
            pass
        assert core.now_ms - began_ms == timeout_ms


def test_a_data_path_that_works_saves_a_member_and_one_that_does_not_is_told_apart() -> None:
    for works in (True, False):
        core = Core(9)
        ping = until_ping(core, 1)
        while not (asked := [each for each in core.tick().data_paths if each == ping.node]):
            pass
        assert asked == [node(1)]
        core.step(DataPath(node(1), 7, True))  # another process: says nothing about this one
        core.step(DataPath(node(1), 1, works))
        core.pass_time(CONFIG.probe_interval_ms * (core.gossip.health + 1))
        member = core.gossip.member(node(1))
        assert member is not None
        assert member.state is (State.ALIVE if works else State.SUSPECT)
        paths, episodes = core.gossip.why(node(1))  # type: ignore[misc]
        assert (paths.datagram, paths.data) == (False, works)
        if not works:
            assert Path(episodes[-1].accusers[0].paths) == Path.DIRECT | Path.INDIRECT | Path.STREAM | Path.DATA


def test_a_stall_postpones_running_suspicions() -> None:
    """Trap 17: an fsync, a collection or a large encoding on the event loop is a stall of this process, not of its peers."""
    core = Core(2)
    core.hear(2, suspect(1, 2))
    core.now_ms += 60_000
    core.tick()
    member = core.gossip.member(node(1))
    assert member is not None
    assert member.state is State.SUSPECT


def test_the_dead_and_the_departed_are_not_probed() -> None:
    core = Core(2)
    core.hear(2, dead(1, 2))
    probes = [m for m in sent(core.pass_time(5_000)) if isinstance(m, Ping)]
    assert {ping.node for ping in probes} == {NodeId("n2")}


def test_a_node_that_wakes_for_other_reasons_probes_then_and_not_more_often() -> None:
    """A process that sleeps most of the time pays for each waking: periods begin when it is awake anyway, a little early at
    most, and as many of them in a minute as ever.
    """
    core = Core(1, config=GossipConfig(probe_interval_ms=500, probe_timeout_ms=200))
    began_ms: list[int] = []
    ticked = 0
    for _ in range(600):
        woken_ms = core.now_ms + 100
        while core.gossip.deadline_ms < woken_ms:
            ticked += sum(isinstance(message, Ping) for message in sent(core.tick(), 1))
        core.now_ms = woken_ms
        effects = core.step(Awake())
        for ping in sent(effects, 1):
            if isinstance(ping, Ping):
                began_ms.append(core.now_ms)
                core.hear(1, Ack(ping.sequence, ping.node, ping.generation))
    assert ticked == 0, "no period needs a waking of its own"
    assert 119 <= len(began_ms) <= 121
    assert {after - before for before, after in pairwise(began_ms)} <= {400, 500, 600}
