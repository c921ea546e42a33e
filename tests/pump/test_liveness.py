"""Liveness per node pair: what a group may believe, and from when."""

from __future__ import annotations

import pytest

from cluster.ids import NodeId, ShardId, Term
from cluster.pump.liveness import NEVER, Heartbeat, HeartbeatReply, NodeLiveness

A, B = NodeId("a"), NodeId("b")
SHARD, TERM = ShardId(7), Term(3)


class Pair:
    """Two nodes and the wire between them."""

    def __init__(self, promise_ms: int = 0) -> None:
        self.a = NodeLiveness(A, 1, b"store a", promise_ms)
        self.b = NodeLiveness(B, 1, b"store b", promise_ms)

    def beat(self, now_ms: float) -> Heartbeat:
        return self.a.begin_round([B], now_ms)[0][1]

    def round(self, sent_ms: float, terms: dict[ShardId, Term], arrives_ms: float = 0.0) -> HeartbeatReply:
        """One whole round from a to b and back."""
        for shard, term in terms.items():
            self.b.note_term(shard, term)
        reply, _ = self.b.on_heartbeat(A, self.beat(sent_ms), arrives_ms or sent_ms + 1)
        assert reply is not None
        self.a.on_reply(B, reply, (arrives_ms or sent_ms + 1) + 1)
        return reply


def test_a_follower_believes_only_what_the_leaders_node_lists_at_its_own_term() -> None:
    """Trap 53: alive is not alive for this group."""
    pair = Pair()
    pair.round(10, {})
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == NEVER
    pair.a.lead(SHARD, TERM)
    pair.round(20, {})
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == 21
    assert pair.b.leader_heard_ms(A, SHARD, Term(4)) == NEVER


def test_a_node_without_a_replica_knows_the_leader_by_its_own_word_of_the_highest_term() -> None:
    """With more nodes than replicas most nodes hold none of a shard; no group tells them who leads it."""
    pair, other = Pair(), NodeLiveness(NodeId("c"), 1, b"store c")
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    other.lead(SHARD, Term(4))
    assert pair.b.leader_of(SHARD, {A, NodeId("c")}) == A
    pair.b.on_heartbeat(NodeId("c"), other.begin_round([B], 20)[0][1], 21)
    assert pair.b.leader_of(SHARD, {A, NodeId("c")}) == NodeId("c")
    assert pair.b.leader_of(SHARD, {A}) == A, "only of nodes that can be asked"
    assert pair.b.leader_of(ShardId(8), {A}) is None
    pair.b.gone(A)
    assert pair.b.leader_of(SHARD, {A}) is None


def test_a_delisted_group_is_no_longer_vouched_for() -> None:
    """Traps 20 and 21: a leader without a quorum or with a hung disk falls silent for its groups."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    pair.a.delist(SHARD)
    pair.round(20, {})
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == NEVER


def test_an_acknowledged_round_counts_from_its_send_time() -> None:
    """Trap 37."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    pair.round(10, {}, arrives_ms=500)
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == 10


def test_a_round_sent_before_the_group_was_led_does_not_count_for_it() -> None:
    """Trap 35: a late acknowledgement must not confirm a later leadership."""
    pair = Pair()
    beat = pair.beat(10)
    pair.a.lead(SHARD, TERM)
    reply, _ = pair.b.on_heartbeat(A, beat, 11)
    assert reply is not None
    pair.a.on_reply(B, reply, 12)
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == NEVER


def test_a_node_with_a_higher_durable_term_is_an_exception() -> None:
    """Trap 53: its node lives, but nothing about this group follows from that."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    reply = pair.round(10, {SHARD: Term(4)})
    assert reply.exceptions == (SHARD,)
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == NEVER


def test_a_node_whose_replica_was_removed_vouches_for_nobody_before() -> None:
    """Trap 53: it holds no replica any more, and helped to elect who removed it. A leader of an older term, which has not heard
    of that, may not count on it for a read; the one who removed it needs nothing of it."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    pair.b.floor_term(SHARD, Term(4))
    assert pair.round(10, {}).exceptions == (SHARD,)
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == NEVER
    pair.a.lead(SHARD, Term(4))
    assert pair.round(20, {}).exceptions == ()


def test_the_list_travels_once_and_again_when_it_was_lost() -> None:
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    assert pair.beat(10).led is not None, "this one is lost"
    second = pair.beat(20)
    assert second.led is None
    reply, _ = pair.b.on_heartbeat(A, second, 21)
    assert reply is not None
    assert reply.list_needed
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == NEVER
    pair.a.on_reply(B, reply, 22)
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == NEVER, "who lacks the list vouches for nothing"
    pair.round(30, {})
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == 31


def test_a_newer_boot_generation_ends_what_the_older_vouched_for() -> None:
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    reborn = NodeLiveness(A, 2, b"store a")
    _, restarted = pair.b.on_heartbeat(A, reborn.begin_round([B], 20)[0][1], 21)
    assert restarted
    assert pair.b.leader_heard_ms(A, SHARD, TERM) == NEVER
    late, _ = pair.b.on_heartbeat(A, pair.beat(30), 31)
    assert late is None, "the old process speaks no more"


def test_an_old_reply_never_takes_a_newer_one_back() -> None:
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    first = pair.round(10, {})
    pair.round(20, {})
    assert pair.a.on_reply(B, first, 30) is None
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == 20


def test_a_term_that_rose_since_the_last_round_is_an_exception_of_the_next() -> None:
    """What was found for the round before is only reused while neither the list nor a term has changed."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    assert pair.round(10, {SHARD: TERM}).exceptions == ()
    assert pair.round(20, {}).exceptions == ()
    assert pair.round(30, {SHARD: Term(4)}).exceptions == (SHARD,)
    pair.a.lead(SHARD, Term(4))
    assert pair.round(40, {}).exceptions == ()


def test_an_answer_to_the_process_before_never_counts_for_this_one() -> None:
    """Trap 35, over a restart: rounds of two processes of one node have no number in common."""
    pair = Pair()
    pair.a.lead(SHARD, TERM)
    late = pair.round(10, {})
    reborn = NodeLiveness(A, 2, b"store a")
    reborn.lead(SHARD, TERM)
    reborn.begin_round([B], 20)
    assert reborn.on_reply(B, late, 21) is None
    assert reborn.acked_sent_ms(B, SHARD, TERM) == NEVER


def test_an_acknowledgement_promises_from_the_send_time_of_its_round() -> None:
    """Trap 37."""
    pair = Pair(promise_ms=1_000)
    pair.a.lead(SHARD, TERM)
    assert pair.a.promised_until_ms(B, SHARD, TERM) == NEVER
    pair.round(10, {}, arrives_ms=500)
    assert pair.a.promised_until_ms(B, SHARD, TERM) == 1_010
    assert pair.a.promised_until_ms(B, SHARD, Term(4)) == NEVER


@pytest.mark.parametrize(("asked_ms", "given_ms"), [(0, 1_000), (1_000, 0)])
def test_nothing_is_promised_where_leases_are_off(asked_ms: int, given_ms: int) -> None:
    """Nodes that differ in this read by rounds; no lease rests on a promise that nobody gave."""
    pair = Pair(asked_ms)
    pair.b.promise_ms = given_ms
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    assert pair.a.acked_sent_ms(B, SHARD, TERM) == 10
    assert pair.a.promised_until_ms(B, SHARD, TERM) == NEVER


def test_nobody_promises_longer_than_the_leader_counts_on() -> None:
    pair = Pair(promise_ms=1_000)
    pair.b.promise_ms = 5_000
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    assert pair.a.promised_until_ms(B, SHARD, TERM) == 1_010


def test_a_promise_outlives_what_this_node_believes() -> None:
    """Trap 39: a list that changed or got lost and a connection that was refused end belief, not the promise."""
    for end in ("delist", "lose", "refuse"):
        pair = Pair(promise_ms=1_000)
        pair.a.lead(SHARD, TERM)
        pair.round(10, {})
        if end == "delist":
            pair.a.delist(SHARD)
            pair.round(20, {})
        elif end == "lose":
            pair.a.lead(ShardId(8), TERM)
            assert pair.beat(15).led is not None, "this one is lost"
            assert pair.round(20, {}).list_needed
        else:
            pair.b.gone(A)
        assert pair.b.leader_heard_ms(A, SHARD, TERM) == NEVER
        assert pair.b.promised_at_ms(A, SHARD, TERM) == 11
        assert pair.b.promised_at_ms(A, SHARD, Term(4)) == NEVER


def test_a_promise_ends_with_the_process_that_it_was_given_to() -> None:
    """A newer boot generation proves that the one before answers nothing any more."""
    pair = Pair(promise_ms=1_000)
    pair.a.lead(SHARD, TERM)
    pair.round(10, {})
    reborn = NodeLiveness(A, 2, b"store a", 1_000)
    pair.b.on_heartbeat(A, reborn.begin_round([B], 20)[0][1], 21)
    assert pair.b.promised_at_ms(A, SHARD, TERM) == NEVER
