"""Which rare paths of Raft a run has been through, told from what each step of a core was given and what it made of it.

The product has no counters for this and knows nothing of it: while a run lasts its classes' methods are wrapped, and what they
are told and answer is looked at from outside. A path that no seed takes is not tested by any number of seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import ChangePending, LearnerBehind
from cluster.ids import LogIndex
from cluster.raft import lease
from cluster.raft.core import Raft
from cluster.raft.effects import Effects, Role
from cluster.raft.events import (
    Campaign,
    ChangeConfiguration,
    Deadline,
    Event,
    LeaderLost,
    LivenessChanged,
    Propose,
    Read,
    Receive,
    Transfer,
)
from cluster.raft.messages import Append, AppendReply, SnapshotOffer, TimeoutNow
from cluster.raft.state import State
from cluster.shard.intake import Intake
from cluster.shard.reading import WaitingReads

PATHS: dict[str, str] = {
    "appends_behind_snapshots": "an append began before what its follower's log still holds",
    "appends_late": "an append brought nothing that its follower did not have",
    "appends_refused": "a follower lacked the entry that an append goes on from",
    "campaigns_called": "a leader told a follower to campaign at once, and it did",
    "campaigns_kept_back_by_disk": "a voter did not campaign because its own disk hung",
    "campaigns_kept_back_by_promises": "a voter waited with its campaign for what it had promised a leader with leases",
    "campaigns_of_the_voteless": "a replica campaigned that did not know the loss of its vote to be committed",
    "changes_refused_as_pending": "a change of configuration came before the last one was committed",
    "committed_without_own_disk": "a quorum of followers had an entry before the disk of its leader",
    "earlier_terms_committed": "a leader committed what an earlier one had left",
    "followers_slept": "a follower waited for nothing and slept",
    "handovers_given_up": "a successor did not manage in time, and the leader took proposals again",
    "joint_configurations_left": "a joint configuration was left by itself, by the leader that saw it committed",
    "joint_configurations_left_by_the_next": "and that was another leader than had entered it",
    "leaderless_slept": "a voter slept that could not have been elected, because too few others were there",
    "leaders_demoted_by_disk": "a leader stopped leading because its disk did not finish a write",
    "leaders_deposed": "a leader met a higher term",
    "leaders_found_again": "a follower had given its leader up and heard it again in the same term",
    "leaders_retired": "a leader had no vote any more, and handed over to stop leading",
    "leaders_slept": "a leader waited for nothing and slept",
    "leaders_without_quorum": "a leader stopped leading because no quorum answered",
    "learners_kept_from_voting": "a learner was too far behind to be made a voter",
    "lease_answers_late": "a lease had ended when the answer that rested on it was there: a round was asked",
    "lease_reads_served": "a read was answered by lease",
    "offers_declined": "a follower had by its log what a snapshot was offered for",
    "old_leaders_told": "a leader of an earlier term was told of a later one",
    "pre_votes_lost": "a pre-vote was lost, and nothing had changed",
    "replaced_in_flight": "entries were replaced while their write was under way (trap 6)",
    "votes_split": "an election ended without a leader, and was begun again",
    "woken_by_liveness": "a sleeper was woken because a node fell silent, came back, or said something else of a group",
    "woken_by_message": "a sleeper was woken by another replica's message",
    "woken_by_request": "a sleeper was woken by somebody who wanted to use it",
}

_REQUESTS = frozenset((Propose, Read, ChangeConfiguration, Transfer))
_LIVENESS = frozenset((LivenessChanged, LeaderLost))


@contextmanager
def watched(marks: Counter[str]) -> Iterator[None]:
    """Inside the block every step of every core counts into `marks`."""
    step, answer, ask_again = Raft.step, Intake._answer_by_lease, WaitingReads.ask_again

    def observed_step(core: Raft, event: Event, now_ms: float) -> Effects:
        before = _Before(core._state, event, now_ms)
        effects = step(core, event, now_ms)
        before.compare(core._state, effects, marks)
        return effects

    def observed_answer(intake: Intake, *arguments: object) -> None:
        late = marks["lease_answers_late"]
        answer(intake, *arguments)  # type: ignore[arg-type]
        if marks["lease_answers_late"] == late:
            marks["lease_reads_served"] += 1

    def observed_ask_again(reads: WaitingReads, *arguments: object) -> None:
        marks["lease_answers_late"] += 1
        ask_again(reads, *arguments)  # type: ignore[arg-type]

    places = ((Raft, "step"), (Intake, "_answer_by_lease"), (WaitingReads, "ask_again"))
    observers = (observed_step, observed_answer, observed_ask_again)
    for (place, name), observer in zip(places, observers, strict=True):
        setattr(place, name, observer)
    try:
        yield
    finally:
        for (place, name), original in zip(places, (step, answer, ask_again), strict=True):
            setattr(place, name, original)


class _Before:
    """A core before a step."""

    __slots__ = (
        "asleep", "commit", "configured", "event", "hangs", "joint", "last", "lost_leader", "now_ms", "retiring", "role",
        "snapshot", "term", "transfer_to", "writes",
    )  # fmt: skip

    def __init__(self, state: State, event: Event, now_ms: float) -> None:
        self.event = event
        self.now_ms = now_ms
        self.asleep = state.asleep
        self.role = state.role
        self.term = state.term
        self.commit = state.commit
        self.last = state.log.last_index
        self.snapshot = state.log.snapshot.index
        self.lost_leader = state.lost_leader
        self.transfer_to = state.transfer_to
        self.retiring = state.retiring
        self.joint = bool(state.configuration.outgoing)
        self.configured = state.configured
        self.writes = state.writes
        self.hangs = bool(state.writes) and state.disk_hangs(now_ms)

    def compare(self, state: State, effects: Effects, marks: Counter[str]) -> None:
        """Count what this step was an instance of."""
        if self.asleep or state.asleep:
            self._slept(state, marks)
        if self.role is not state.role:
            self._changed_role(state, marks)
        if type(self.event) is Receive:
            self._received(self.event, effects, marks)
        elif type(self.event) is Deadline or type(self.event) is Campaign:
            self._looked(state, marks)
        if self.role is Role.LEADER and state.role is Role.LEADER:
            self._led(state, effects, marks)
        if self.lost_leader is not None and state.leader == self.lost_leader and state.term == self.term:
            marks["leaders_found_again"] += 1
        replaced = effects.persist.truncate_from if effects.persist is not None else None
        if replaced is not None and any(last >= replaced for _, _, last, _ in self.writes):
            marks["replaced_in_flight"] += 1
        if isinstance(effects.refusal, LearnerBehind):
            marks["learners_kept_from_voting"] += 1
        elif isinstance(effects.refusal, ChangePending):
            marks["changes_refused_as_pending"] += 1

    def _slept(self, state: State, marks: Counter[str]) -> None:
        kind = type(self.event)
        if not self.asleep:
            leaderless = state.leader is None
            who = "leaders" if state.role is Role.LEADER else "leaderless" if leaderless else "followers"
            marks[f"{who}_slept"] += 1
        elif kind is Receive:
            marks["woken_by_message"] += 1
        elif kind in _LIVENESS:
            marks["woken_by_liveness"] += 1
        elif kind in _REQUESTS:
            marks["woken_by_request"] += 1

    def _changed_role(self, state: State, marks: Counter[str]) -> None:
        was, now = self.role, state.role
        if was is Role.LEADER:
            if state.term > self.term:
                marks["leaders_deposed"] += 1
            elif not self.retiring:
                marks["leaders_demoted_by_disk" if self.hangs else "leaders_without_quorum"] += 1
        elif now is Role.PRE_CANDIDATE or now is Role.CANDIDATE:
            if state.replica not in state.voters:
                marks["campaigns_of_the_voteless"] += 1
            if was is Role.CANDIDATE:
                marks["votes_split"] += 1
            if type(self.event) is Receive and type(self.event.message) is TimeoutNow:
                marks["campaigns_called"] += 1
        elif was is Role.PRE_CANDIDATE and now is Role.FOLLOWER and state.leader is None:
            marks["pre_votes_lost"] += 1

    def _received(self, event: Receive, effects: Effects, marks: Counter[str]) -> None:
        message = event.message
        kind = type(message)
        if kind is Append or kind is SnapshotOffer or kind is TimeoutNow:
            if message.term < self.term:
                marks["old_leaders_told"] += 1
                return
            answers = [reply for _, reply in effects.send_now + effects.send_after_persist if type(reply) is AppendReply]
            if isinstance(message, Append):
                if any(reply.rejected for reply in answers):
                    marks["appends_refused"] += 1
                elif message.previous_index < self.snapshot:
                    marks["appends_behind_snapshots"] += 1
                elif message.runs and message.runs[-1].last_index <= self.last and effects.persist is None:
                    marks["appends_late"] += 1
            elif kind is SnapshotOffer and answers:
                marks["offers_declined"] += 1

    def _looked(self, state: State, marks: Counter[str]) -> None:
        """A deadline came, or somebody wanted this replica to campaign."""
        if self.role is Role.LEADER or state.role is Role.CANDIDATE or not state.votes_here:
            return
        if self.hangs and state.role is Role.FOLLOWER:
            marks["campaigns_kept_back_by_disk"] += 1
        elif state.config.lease_reads:
            until_ms = lease.promised_until_ms(state)
            if self.now_ms < until_ms <= state.deadline_ms <= until_ms + state.config.stagger_ms:
                marks["campaigns_kept_back_by_promises"] += 1

    def _led(self, state: State, effects: Effects, marks: Counter[str]) -> None:
        if effects.committed is not None:
            if state.log.persisted < state.commit:
                marks["committed_without_own_disk"] += 1
            if state.log.term_of(LogIndex(self.commit + 1)) < state.term:
                marks["earlier_terms_committed"] += 1
        if self.transfer_to is not None and state.transfer_to is None:
            marks["handovers_given_up"] += 1
        if state.retiring and not self.retiring:
            marks["leaders_retired"] += 1
        if self.joint and not state.configuration.outgoing:
            marks["joint_configurations_left"] += 1
            # one that the log was cut behind is known to be old, and not by whom
            if self.configured >= state.log.snapshot.index and state.log.term_of(self.configured) < state.term:
                marks["joint_configurations_left_by_the_next"] += 1
