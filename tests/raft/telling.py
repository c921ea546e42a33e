"""How scenarios put messages, entries and configurations into words."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.ids import LogIndex, Term
from cluster.raft.configuration import TAG, decode
from cluster.raft.messages import (
    Append,
    AppendReply,
    Configuration,
    Message,
    Run,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)


def numbers(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


def tell_configuration(configuration: Configuration) -> str:
    text = f"voters {numbers(configuration.voters) or 'nobody'}"
    if configuration.outgoing:
        text += f" outgoing {numbers(configuration.outgoing)}"
    if configuration.learners:
        text += f" learners {numbers(configuration.learners)}"
    return text


def tell_entry(index: LogIndex, term: Term, payload: bytes) -> str:
    """index/term and content."""
    if payload[:1] == bytes([TAG]):
        return f"{index}/{term} ({tell_configuration(decode(payload))})"
    return f"{index}/{term} {payload.decode() or 'no-op'}"


def tell_run(run: Run) -> list[str]:
    return [tell_entry(LogIndex(run.first_index + place), run.term, payload) for place, payload in enumerate(run.payloads)]


def tell_message(message: Message) -> str:
    term = f"term {message.term}"
    if isinstance(message, VoteRequest):
        name = "pre-vote" if message.pre else "vote for the transfer" if message.transfer else "vote"
        return f"asks for a {name} in {term}, last entry {message.last_index}/{message.last_term}"
    if isinstance(message, VoteReply):
        return f"{'grants' if message.granted else 'refuses'} a {'pre-vote' if message.pre else 'vote'}, {term}"
    if isinstance(message, Append):
        entries = [entry for run in message.runs for entry in tell_run(run)]
        content = ", ".join(entries) if entries else "nothing"
        return f"append in {term} after {message.previous_index}/{message.previous_term}: {content}; commit {message.commit}"
    if isinstance(message, AppendReply):
        if message.rejected:
            return f"rejects after {message.index} in {term}, hint {message.hint_index}/{message.hint_term}"
        return f"has all up to {message.index} in {term}, knows commit {message.hint_index}"
    if isinstance(message, SnapshotOffer):
        return f"offers snapshot {message.meta.index}/{message.meta.term} in {term}"
    assert isinstance(message, TimeoutNow)
    return f"campaign now, {term}, last entry {message.last_index}"
