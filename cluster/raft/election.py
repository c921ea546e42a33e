"""Elections: who may ask, who may refuse, and how a lost leader is replaced fast (paper 5.2, 5.4.1; thesis 9.6, 6.4.1).

A campaign has two rounds. The pre-vote asks whether the real one could be won and changes nothing anywhere, so a replica that
was cut off can not depose a healthy leader by coming back with a high term. The real vote enters the next term.

Invariant: at most one vote per term, durable before it is told; granted only to a log at least as complete as one's own.
Votes are judged by term and log alone, never by whether the voter finds itself in a configuration (reference trap 16).
"""

from __future__ import annotations

from cluster.ids import ReplicaId, Term
from cluster.raft import lease, quorum, roles
from cluster.raft.effects import Role
from cluster.raft.events import Campaign, Deadline, LeaderLost, LivenessChanged
from cluster.raft.messages import VoteReply, VoteRequest
from cluster.raft.quorum import Verdict, elected
from cluster.raft.state import NOBODY, State

LOST_RETRIES_MAX = 3
"""Quick campaigns after one LeaderLost. Evidence reaches voters at different times, so the first may be refused; but when a
majority is gone quick retries are noise."""

_RANK_MULTIPLIER = 2_654_435_761  # Knuth's multiplicative hash: neighbours in (shard, term) land on different voters


def rank_of(replica: ReplicaId, candidates: list[ReplicaId], shard: int, term: Term) -> int:
    """Place of `replica` among `candidates` rotated by hash(shard, term): the same at every replica, spread over shards."""
    offset = ((shard * _RANK_MULTIPLIER + term * 40_503) & 0xFFFF_FFFF) >> 16
    return (candidates.index(replica) - offset) % len(candidates)


def hears_leader(state: State, now_ms: float) -> bool:
    """Leader stickiness: whether the leader is known and was heard within the minimum election timeout."""
    if state.leader is None:
        return False
    if state.role is Role.LEADER:
        return True  # CheckQuorum sees to it that a leader without a quorum stops being one
    return now_ms - _heard_ms(state, state.leader) < state.config.election_timeout_ms_min


def _sticks_to_leader(state: State, now_ms: float) -> bool:
    return hears_leader(state, now_ms) or now_ms < lease.promised_until_ms(state)


def _refuses_to_elect(state: State, request: VoteRequest, now_ms: float) -> bool:
    """A term that this replica is in already may be one it knows from hearsay only, while its promise to the leader of an
    earlier one still stands."""
    if request.term > state.term:
        return _sticks_to_leader(state, now_ms)
    return request.term == state.term and now_ms < lease.promised_until_ms(state)


def _heard_ms(state: State, leader: ReplicaId) -> float:
    return max(state.heard_ms, state.liveness.leader_heard_ms(leader, state.term))


# Starting


def on_follower_deadline(state: State, _: Deadline, now_ms: float) -> None:
    """Sleep on if liveness heard the leader; campaign if not."""
    if state.leader is not None:
        heard_ms = _heard_ms(state, state.leader)
        if now_ms - heard_ms < state.config.election_timeout_ms_min:
            roles.arm_election(state, heard_ms)
            return
    elif state.lost_leader is not None and _heard_since_lost(state, state.lost_leader):
        roles.become_follower(state, state.term, state.lost_leader, now_ms)
        return
    if state.votes_here:
        _stand(state, now_ms)
    else:
        roles.arm_election(state, now_ms)


def on_liveness_changed(state: State, _: LivenessChanged, now_ms: float) -> None:
    """Follower: as at a deadline, but whoever finds the leader lost takes turns: all others find it at the same time. A log
    message may have come behind the last heartbeat: then it is a little early, and the turn is when that is old enough too.
    """
    if state.leader is not None:
        if not hears_leader(state, now_ms):
            on_leader_lost(state, LeaderLost(), now_ms)
        elif state.votes_here:
            turn_ms = _rank_without(state, state.leader) * state.config.stagger_ms
            due_ms = _heard_ms(state, state.leader) + state.config.election_timeout_ms_min + turn_ms
            state.deadline_ms = min(state.deadline_ms, due_ms)
    elif state.lost_leader is not None and _heard_since_lost(state, state.lost_leader):
        roles.become_follower(state, state.term, state.lost_leader, now_ms)


def could_win(state: State, now_ms: float) -> bool:
    """Whether the nodes of enough voters are there. To ask the others costs messages to nobody."""
    liveness = state.liveness

    def heard_ms(voter: ReplicaId) -> float:
        return now_ms if voter == state.replica else liveness.heard_ms(voter)

    return now_ms - quorum.agreed(state.configuration, heard_ms) < state.config.election_timeout_ms_min


def _heard_since_lost(state: State, leader: ReplicaId) -> bool:
    """Whether the leader was lost from sight only: its node has listed this group again since."""
    return state.liveness.leader_heard_ms(leader, state.term) > state.lost_ms


def on_candidate_deadline(state: State, _: Deadline, now_ms: float) -> None:
    """Votes were split or lost: begin again."""
    _stand(state, now_ms)


def on_campaign(state: State, _: Campaign, now_ms: float) -> None:
    if state.votes_here:
        _pre_campaign(state, now_ms)


def on_leader_lost(state: State, _: LeaderLost, now_ms: float) -> None:
    """End belief in the leader and stand for election after the stagger of this replica's rank."""
    if state.leader is None and state.lost_leader is not None:
        return  # the same loss, told again
    if state.config.lease_reads:
        _hasten_election(state, now_ms)
        return
    state.lost_leader = state.leader
    state.lost_ms = now_ms
    state.lost_retries = 0
    state.leader = None
    if not state.votes_here:
        roles.arm_election(state, now_ms)
        return
    rank = _rank_without(state, state.lost_leader)
    if rank == 0:
        _stand(state, now_ms)
    else:
        state.deadline_ms = min(state.deadline_ms, now_ms + rank * state.config.stagger_ms)


def _hasten_election(state: State, now_ms: float) -> None:
    """LeaderLost with leases on: the leader may be alive behind a broken connection and answer reads, so belief in it ends
    with the promise and not before (reference trap 39). The stagger still replaces the random timeout."""
    if state.votes_here:
        turn_ms = _rank_without(state, state.leader) * state.config.stagger_ms
        state.deadline_ms = min(state.deadline_ms, max(now_ms, lease.promised_until_ms(state)) + turn_ms)


def _rank_without(state: State, lost: ReplicaId | None) -> int:
    """This replica's turn among the candidates; the one that is gone takes none, and who has no vote any more comes last."""
    candidates = [voter for voter in state.voters if voter != lost]
    if state.replica not in candidates:
        return len(candidates)
    return rank_of(state.replica, candidates, state.shard, state.term)


def _waits_for_promise(state: State, now_ms: float) -> bool:
    """With leases on, whether somebody may still hold one that this voter promised; then look again when it ends."""
    until_ms = lease.promised_until_ms(state)
    if now_ms >= until_ms:
        return False
    state.deadline_ms = until_ms + state.random.random() * state.config.stagger_ms
    return True


def _stand(state: State, now_ms: float) -> None:
    """Campaign, unless that would be in vain; then look again later. Where this term has a leader, follow it: it may sleep and
    never say anything, and with leases on this node goes on promising not to help elect another.
    """
    leader = _listed_leader(state, now_ms)
    if leader is not None:
        roles.become_follower(state, state.term, leader, now_ms)
    elif could_win(state, now_ms):
        _pre_campaign(state, now_ms)
    elif state.role is Role.FOLLOWER:
        roles.arm_election(state, now_ms)
    else:
        roles.become_follower(state, state.term, None, now_ms)


def _listed_leader(state: State, now_ms: float) -> ReplicaId | None:
    """Whose node says that it leads this group in this very term: nobody else can. One that was lost since does not count."""
    for peer in state.peers:
        heard_ms = state.liveness.leader_heard_ms(peer, state.term)
        if now_ms - heard_ms < state.config.election_timeout_ms_min and (peer != state.lost_leader or heard_ms > state.lost_ms):
            return peer
    return None


def _pre_campaign(state: State, now_ms: float) -> None:
    if _waits_for_promise(state, now_ms):
        return
    if state.disk_hangs(now_ms):
        # Its own vote could not become durable, and terms that it enters in vain get in the way of those who can lead
        # (reference trap 21).
        if state.role is not Role.FOLLOWER:
            roles.become_follower(state, state.term, None, now_ms)
        roles.arm_election(state, now_ms)
        return
    if state.leader is not None:
        state.lost_leader = None
    roles.become_pre_candidate(state, now_ms)
    if elected(state.configuration, state.votes) is Verdict.WON:
        _campaign(state, now_ms)
        return
    request = VoteRequest(Term(state.term + 1), state.log.last_index, state.log.last_term, pre=True)
    for voter in state.voters:
        if voter != state.replica:
            state.send_now(voter, request)


def campaign_for_transfer(state: State, now_ms: float) -> None:
    """The leader wants this replica to lead: no pre-vote, and voters that hear the leader do not refuse (thesis 4.2.3)."""
    state.lost_leader = None
    _campaign(state, now_ms, transfer=True)


def _campaign(state: State, now_ms: float, *, transfer: bool = False) -> None:
    if not transfer and now_ms < lease.promised_until_ms(state):
        _give_up(state, now_ms)  # the leader was heard while the pre-vote was under way
        return
    roles.become_candidate(state, now_ms, transfer=transfer)
    request = VoteRequest(state.term, state.log.last_index, state.log.last_term, pre=False, transfer=transfer)
    for voter in state.voters:
        if voter != state.replica:
            state.send_after_persist(voter, request)


# Answering


def on_vote_request(state: State, sender: ReplicaId, request: VoteRequest, now_ms: float) -> None:
    """Any role. Grants once per term to a log at least as complete; refuses while the leader is heard, unless that leader
    is the one who wants the election."""
    if request.pre:
        _answer_pre_vote(state, sender, request, now_ms)
        return
    if not request.transfer and _refuses_to_elect(state, request, now_ms):
        state.send_now(sender, VoteReply(state.term, granted=False, pre=False))
        return
    if request.term > state.term:
        roles.become_follower(state, request.term, None, now_ms)
    granted = request.term == state.term and state.vote in (NOBODY, sender) and _complete(state, request)
    if granted:
        if state.vote != sender:
            state.save_vote(state.term, sender)
        roles.arm_election(state, now_ms)
    # Even a refusal waits: it tells a term that this replica must not forget.
    state.send_after_persist(sender, VoteReply(state.term, granted, pre=False))


def _answer_pre_vote(state: State, sender: ReplicaId, request: VoteRequest, now_ms: float) -> None:
    granted = request.term > state.term and not _sticks_to_leader(state, now_ms) and _complete(state, request)
    # Granting echoes the request's term, refusing tells one's own: the asker believes either (reference traps 17, 18).
    state.send_now(sender, VoteReply(request.term if granted else state.term, granted, pre=True))


def _complete(state: State, request: VoteRequest) -> bool:
    """Paper 5.4.1: the candidate's log is at least as up to date as this one."""
    return (request.last_term, request.last_index) >= (state.log.last_term, state.log.last_index)


# Counting


def on_pre_candidate_vote(state: State, sender: ReplicaId, reply: VoteReply, now_ms: float) -> None:
    if not reply.pre:
        return
    if reply.granted:
        if reply.term != state.term + 1:
            return  # for an earlier campaign
    elif reply.term > state.term:
        roles.become_follower(state, reply.term, None, now_ms)
        return
    state.votes[sender] = reply.granted
    verdict = elected(state.configuration, state.votes)
    if verdict is Verdict.WON:
        _campaign(state, now_ms)
    elif verdict is Verdict.LOST:
        _give_up(state, now_ms)


def on_candidate_vote(state: State, sender: ReplicaId, reply: VoteReply, now_ms: float) -> None:
    if reply.pre:
        if not reply.granted and reply.term > state.term:
            roles.become_follower(state, reply.term, None, now_ms)
        return
    state.votes[sender] = reply.granted
    count_votes(state, now_ms)


def on_late_vote(state: State, _: ReplicaId, reply: VoteReply, now_ms: float) -> None:
    """Follower or leader: the campaign is over, but a refusal that tells a higher term is news."""
    if not reply.granted and reply.term > state.term:
        roles.become_follower(state, reply.term, None, now_ms)


def count_votes(state: State, now_ms: float) -> None:
    """Lead on a majority; step back when one has become impossible."""
    verdict = elected(state.configuration, state.votes)
    if verdict is Verdict.WON:
        roles.become_leader(state, now_ms)
    elif verdict is Verdict.LOST:
        _give_up(state, now_ms)


def _give_up(state: State, now_ms: float) -> None:
    roles.become_follower(state, state.term, None, now_ms)
    if state.lost_leader is not None and state.lost_retries < LOST_RETRIES_MAX:
        state.lost_retries += 1
        turn_ms = state.config.stagger_ms * len(state.voters)
        state.deadline_ms = min(state.deadline_ms, now_ms + turn_ms * (1.0 + state.random.random()))
