"""A leader's work: append, send ahead, count acknowledgements, commit, and stop when the quorum is gone (paper 5.3, 5.4.2).

Entries leave for followers before the leader's own disk has them; the leader counts itself only once it has (thesis 10.2.1,
reference trap 7). One window per follower, shallow: what does not fit gathers and goes as one larger append.

Invariant: only an entry of the leader's own term is committed by counting (paper figure 8, reference trap 24); match indexes
rise only by answers of this term (reference trap 28).
"""

from __future__ import annotations

import math

from cluster.errors import InvalidRequest, NotLeader, Overloaded
from cluster.ids import LogIndex, ReplicaId
from cluster.raft import configuration, election, quorum, roles, transfer
from cluster.raft.effects import Ticket
from cluster.raft.events import Compact, Deadline, LivenessChanged, PeerUnreachable, Propose, SnapshotFailed
from cluster.raft.log import size_of
from cluster.raft.messages import Append, AppendReply, Run, SnapshotOffer, VoteRequest
from cluster.raft.progress import Pace, Progress
from cluster.raft.state import State

# Proposing


def on_propose(state: State, event: Propose, now_ms: float) -> None:
    """Append one run, or refuse the whole of it; nothing is queued."""
    payloads = event.payloads
    if not payloads or not all(payloads):
        state.effects.refusal = InvalidRequest("a proposal has at least one payload and none of them empty")
        return
    if configuration.is_reserved(payloads):
        state.effects.refusal = InvalidRequest(f"payloads that begin with {configuration.TAG:#x} are configurations")
        return
    if state.transfer_to is not None:
        state.effects.refusal = transfer.transferring(state)
        return
    size = size_of(payloads)
    if state.proposals and state.uncommitted_bytes + size > state.config.uncommitted_bytes_max:
        # The first is always admitted, or one larger than the bound could never be (reference trap 33).
        state.effects.refusal = Overloaded(
            f"{state.uncommitted_bytes} bytes wait for commit, at most {state.config.uncommitted_bytes_max} may",
            retry_after_ms=state.config.overloaded_retry_ms,
        )
        return
    run = Run(LogIndex(state.log.last_index + 1), state.term, payloads)
    state.append(run, size)
    last = state.log.last_index
    if not state.proposals:
        state.proposals = []
    state.proposals.append((last, size))
    state.uncommitted_bytes += size
    state.effects.ticket = Ticket(state.term, run.first_index, last)


def refuse_proposal(state: State, _: Propose, now_ms: float) -> None:
    """Any role but leader."""
    leader = "" if state.leader is None else state.leader
    state.effects.refusal = NotLeader("this replica does not lead the group", leader=leader)


# Sending


def flush(state: State, now_ms: float) -> None:
    """Send every follower what it may be sent now. Runs once at the end of each of a leader's steps, so whatever the step
    did costs each follower at most one commit notice."""
    memo: tuple[LogIndex, Append, int] | None = None
    last_index = state.log.last_index
    config = state.config
    total = inflight_bytes(state)
    for peer, progress in state.progress.items():
        if progress.pace is Pace.PROBE:
            if not progress.awaiting:
                _send_probe(state, peer, progress, now_ms)
            continue
        if progress.pace is Pace.SNAPSHOT:
            continue
        while (
            progress.next <= last_index
            and len(progress.inflight) < config.window_appends
            and progress.inflight_bytes < config.window_bytes_max
            and (total < config.inflight_bytes_max or not progress.inflight)
        ):
            if memo is None or memo[0] != progress.next:
                if progress.next <= state.log.snapshot.index:
                    _offer_snapshot(state, peer, progress, now_ms)
                    break
                memo = (progress.next, *_append_from(state, progress.next))
            _, append, size = memo
            # One object for all followers at the same place: the transport may encode it once.
            state.send_now(peer, append)
            progress.sent(append.runs[-1].last_index, size)
            total += size
            progress.notified = max(progress.notified, append.commit)
            _await_answer(state, progress, now_ms)
        # A follower with appends in flight learns the commit index with its next append or acknowledgement.
        if progress.notified < state.commit and not progress.inflight and progress.pace is Pace.REPLICATE:
            _send_notice(state, peer, progress, now_ms)


def only_snapshot_helps(state: State, peer: ReplicaId) -> bool:
    """Whether a peer was found to lack what is compacted. Nothing is known of one that was not heard in this term."""
    progress = state.progress.get(peer)
    return progress is not None and progress.pace is Pace.SNAPSHOT


def inflight_bytes(state: State) -> int:
    """Bytes of entries on their way to all followers."""
    return sum([progress.inflight_bytes for progress in state.progress.values()])


def _append_from(state: State, first: LogIndex) -> tuple[Append, int]:
    runs, size = state.log.slice(first, state.log.last_index, state.config.append_bytes_max)
    previous = LogIndex(first - 1)
    append = Append(state.term, previous, state.log.term_of(previous), state.commit, runs)
    return append, size


def _send_probe(state: State, peer: ReplicaId, progress: Progress, now_ms: float) -> None:
    """One append whose acceptance shows where the logs agree. Repeated ones are empty: the peer may be gone."""
    previous = LogIndex(progress.next - 1)
    if previous < state.log.snapshot.index:
        _offer_snapshot(state, peer, progress, now_ms)
        return
    if progress.retries == 0 and progress.next <= state.log.last_index:
        append, _ = _append_from(state, progress.next)
        progress.notified = max(progress.notified, min(append.commit, append.runs[-1].last_index))
    else:
        # Commit index 0 teaches nothing, which is what makes it a question.
        append = Append(state.term, previous, state.log.term_of(previous), LogIndex(0), [])
    state.send_now(peer, append)
    progress.awaiting = True
    _await_answer(state, progress, now_ms)


def _send_notice(state: State, peer: ReplicaId, progress: Progress, now_ms: float) -> None:
    """Tell the commit index with nothing else to say. Not answered, so a lost one shows only in `progress.commit`."""
    previous = progress.match
    if previous < state.log.snapshot.index:
        return  # the entry before is compacted: the next append or offer brings it
    state.send_now(peer, Append(state.term, previous, state.log.term_of(previous), state.commit, []))
    progress.notified = state.commit
    _await_answer(state, progress, now_ms)


def _offer_snapshot(state: State, peer: ReplicaId, progress: Progress, now_ms: float) -> None:
    meta = state.log.snapshot
    progress.wait_for_snapshot(meta.index)
    state.send_now(peer, SnapshotOffer(state.term, meta))
    state.effects.snapshot_to.append(peer)
    _await_answer(state, progress, now_ms)


def _await_answer(state: State, progress: Progress, now_ms: float) -> None:
    progress.sent_ms = now_ms
    if progress.retry_at_ms == math.inf:
        progress.retry_at_ms = now_ms + _patience_ms(state, progress)
    state.retry_ms = min(state.retry_ms, progress.retry_at_ms)


def _patience_ms(state: State, progress: Progress) -> float:
    """Doubles with every unanswered message, up to an election timeout."""
    doubled = state.config.resend_timeout_ms * float(1 << min(progress.retries, 16))
    return min(doubled, state.config.election_timeout_ms_min)


# Answers


def on_append_reply(state: State, sender: ReplicaId, reply: AppendReply, now_ms: float) -> None:
    """Leader, answer of this term."""
    progress = state.progress.get(sender)
    if progress is None or reply.index > state.log.last_index:
        return  # from nobody, or about entries that never were (reference trap 29)
    progress.heard_ms = now_ms
    if reply.rejected:
        _rejected(state, progress, reply)
    else:
        _accepted(state, progress, reply, now_ms)


def _accepted(state: State, progress: Progress, reply: AppendReply, now_ms: float) -> None:
    progress.commit = reply.hint_index  # not the highest ever: a restarted follower has forgotten it
    news = progress.accepted(reply.index)
    if progress.pace is Pace.PROBE:
        # Only the answer to the probe itself ends probing; late answers to earlier appends come before it.
        if reply.index >= progress.next - 1:
            progress.replicate()
            progress.notified = progress.commit
    elif progress.pace is Pace.SNAPSHOT and reply.index >= state.log.snapshot.index:
        # Whatever connects to the log will do, not just the index that was offered (reference trap 31).
        progress.replicate()
        progress.notified = progress.commit
    if news or not progress.inflight:
        progress.retries = 0
        progress.retry_at_ms = math.inf
        if _owes_answer(state, progress):
            progress.retry_at_ms = now_ms + state.config.resend_timeout_ms
            state.retry_ms = min(state.retry_ms, progress.retry_at_ms)
    if news:
        maybe_commit(state)


def _owes_answer(state: State, progress: Progress) -> bool:
    return (
        bool(progress.inflight)
        or progress.awaiting
        or progress.pace is Pace.SNAPSHOT
        or progress.commit < min(progress.match, progress.notified)
    )


def _rejected(state: State, progress: Progress, reply: AppendReply) -> None:
    """The logs part before `reply.index`: probe the newest entry that both may have. Stale rejections are ignored."""
    if reply.index <= progress.match or progress.pace is Pace.SNAPSHOT:
        return
    if progress.pace is Pace.PROBE and reply.index != progress.next - 1:
        return
    snapshot = state.log.snapshot
    hint = min(reply.hint_index, LogIndex(reply.index - 1))
    if hint >= snapshot.index and reply.hint_term >= snapshot.term:
        hint = state.log.newest_at_most(hint, reply.hint_term)  # it skipped its terms, skip ours (reference trap 32)
    else:
        hint = min(hint, LogIndex(snapshot.index - 1))  # the logs part inside what is compacted: only a snapshot helps
    progress.probe(LogIndex(hint + 1))
    progress.retries = 0
    progress.retry_at_ms = math.inf


def maybe_commit(state: State) -> None:
    """Commit what a quorum has, if it is of this term (paper 5.4.2)."""
    progress, replica, persisted = state.progress, state.replica, state.log.persisted
    reached = quorum.agreed(state.configuration, lambda voter: persisted if voter == replica else progress[voter].match)
    if reached <= state.commit or reached < state.term_start:
        return
    state.commit_to(LogIndex(reached))
    proposals, done = state.proposals, 0
    while done < len(proposals) and proposals[done][0] <= reached:
        state.uncommitted_bytes -= proposals[done][1]
        done += 1
    del proposals[:done]


# Time


def deadline_ms(state: State) -> float:
    return min(state.check_ms, state.retry_ms, state.transfer_until_ms)


def on_deadline(state: State, _: Deadline, now_ms: float) -> None:
    if now_ms >= state.check_ms and not check_quorum(state, now_ms):
        _stop(state, now_ms)
        return
    transfer.abort_if_due(state, now_ms)
    if now_ms >= state.retry_ms:
        _retry(state, now_ms)


def on_liveness_changed(state: State, _: LivenessChanged, now_ms: float) -> None:
    """Leader: a quorum may be gone, or somebody who was away may be back."""
    if not check_quorum(state, now_ms):
        _stop(state, now_ms)
    elif now_ms >= state.retry_ms:
        _retry(state, now_ms)


def _stop(state: State, now_ms: float) -> None:
    if state.disk_hangs(now_ms):
        transfer.call_successor(state)
    roles.become_follower(state, state.term, None, now_ms)


def check_quorum(state: State, now_ms: float) -> bool:
    """Thesis 6.2: a leader that a majority does not answer stops, so its clients look for the next one. So does one whose
    own disk takes longer than that for a write (reference trap 21): heartbeats beside it would keep everybody waiting. A lone
    voter goes on in either case, for nobody could do better."""
    timeout_ms = state.config.election_timeout_ms_min
    if state.voters == (state.replica,):
        state.check_ms = now_ms + timeout_ms
        return True
    if state.disk_hangs(now_ms):
        return False
    liveness, term = state.liveness, state.term

    def contact_of(voter: ReplicaId) -> float:
        if voter == state.replica:
            return now_ms
        return max(state.progress[voter].heard_ms, liveness.acked_sent_ms(voter, term))

    contact_ms = min(quorum.agreed(state.configuration, contact_of), now_ms)
    state.check_ms = min(contact_ms, state.oldest_write_ms(now_ms)) + timeout_ms
    return state.check_ms > now_ms


def _retry(state: State, now_ms: float) -> None:
    """Ask again where an answer is overdue, if the peer answers liveness; else rarely."""
    state.retry_ms = math.inf
    for peer, progress in state.progress.items():
        if progress.retry_at_ms <= now_ms:
            progress.retry_at_ms = math.inf
            if _owes_answer(state, progress):
                answers = state.liveness.acked_sent_ms(peer, state.term) >= progress.sent_ms
                patient = _patience_ms(state, progress) < state.config.election_timeout_ms_min
                progress.retries += 1
                if answers or not patient:
                    _ask_again(state, peer, progress, now_ms)
                else:
                    progress.retry_at_ms = now_ms + _patience_ms(state, progress)
        state.retry_ms = min(state.retry_ms, progress.retry_at_ms)


def _ask_again(state: State, peer: ReplicaId, progress: Progress, now_ms: float) -> None:
    if progress.pace is Pace.SNAPSHOT:
        state.send_now(peer, SnapshotOffer(state.term, state.log.snapshot))
        if _patience_ms(state, progress) == state.config.election_timeout_ms_min:
            # A transfer that was never begun, or ended without an installation, must not be waited for for ever.
            state.effects.snapshot_to.append(peer)
        _await_answer(state, progress, now_ms)
    elif progress.pace is Pace.PROBE or progress.inflight:
        # An empty probe at the end of what was sent: one answer tells how much of it arrived.
        progress.probe(progress.next)
        _send_probe(state, peer, progress, now_ms)
    else:
        _send_notice(state, peer, progress, now_ms)


# What the owner knows


def on_peer_unreachable(state: State, event: PeerUnreachable, now_ms: float) -> None:
    """Stop sending ahead; ask once the peer answers liveness again."""
    progress = state.progress.get(event.peer)
    if progress is not None and progress.pace is Pace.REPLICATE:
        progress.probe(progress.next)
        _pause(state, progress, now_ms, state.config.resend_timeout_ms)


def on_snapshot_failed(state: State, event: SnapshotFailed, now_ms: float) -> None:
    progress = state.progress.get(event.peer)
    if progress is not None and progress.pace is Pace.SNAPSHOT:
        progress.probe(LogIndex(progress.match + 1))
        _pause(state, progress, now_ms, state.config.snapshot_retry_ms)


def _pause(state: State, progress: Progress, now_ms: float, pause_ms: float) -> None:
    progress.awaiting = True
    progress.sent_ms = now_ms
    progress.retry_at_ms = now_ms + pause_ms
    state.retry_ms = min(state.retry_ms, progress.retry_at_ms)


def on_vote_request(state: State, sender: ReplicaId, request: VoteRequest, now_ms: float) -> None:
    """Who asks a leader for votes does not know that it leads, or is stuck in a higher term: show it an append. Its answer
    either makes it a follower or deposes this leader (reference trap 19)."""
    election.on_vote_request(state, sender, request, now_ms)
    progress = state.progress.get(sender)
    if progress is not None:
        log = state.log
        previous = progress.match if progress.match >= log.snapshot.index else log.last_index
        state.send_now(sender, Append(state.term, previous, log.term_of(previous), state.commit, []))


def on_compact(state: State, event: Compact, now_ms: float) -> None:
    """Any role. Keeps what a snapshot in flight will connect to (reference trap 49) and what is not yet durable here."""
    if event.index > state.applied:
        raise InvalidRequest(f"compaction to {event.index} asked while {state.applied} is applied")
    index = min(event.index, state.log.persisted)
    for progress in state.progress.values():
        if progress.pace is Pace.SNAPSHOT:
            index = min(index, progress.pending_snapshot)
    if index > state.log.snapshot.index:
        state.compact_to(index)
