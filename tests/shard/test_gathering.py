"""From operations to entries: what is refused before the log, and what an entry holds."""

from __future__ import annotations

import pytest

from cluster.session.operations import Kind
from cluster.shard.commands import COMMANDS_MAX, ENTRY_BYTES_MAX, CommandKind
from cluster.shard.deployments import Space
from cluster.shard.directory import Decisions
from cluster.shard.system.program import bundle_hash
from cluster.storage.engine import Batch
from tests.pump.tally import session_id
from tests.shard.parts import TALLY, Parts


def ready() -> Parts:
    parts = Parts()
    parts.apply(parts.create("a"))
    return parts


def test_payloads_are_stored_canonically_and_with_the_code_that_they_were_checked_against() -> None:
    parts = ready()
    refused, ((command,),) = parts.gather(parts.operation(Kind.SEND, "a", "add", b' { "amount" : 1 } '))
    assert refused == []
    assert (command.payload, command.code_hash, command.kind) == (b'{"amount":1}', TALLY, CommandKind.SEND)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": Kind.SEND, "key": "never", "channel": "add"}, "UNKNOWN_DOCUMENT"),
        ({"kind": Kind.DELETE, "key": "never"}, "UNKNOWN_DOCUMENT"),
        ({"kind": Kind.SEND, "channel": ""}, "INVALID_NAME"),
        ({"kind": Kind.SEND, "channel": "-delete"}, "INVALID_NAME"),
        ({"kind": Kind.SEND, "channel": "nothing"}, "UNKNOWN_CHANNEL"),
        ({"kind": Kind.SEND, "channel": "add", "payload": b"\xff"}, "INVALID_PAYLOAD"),
        ({"kind": Kind.SEND, "channel": "add", "session": b"x"}, "INVALID_REQUEST"),
        ({"kind": Kind.SEND, "channel": "add", "session": session_id(1), "sequence": -1}, "INVALID_REQUEST"),
        ({"kind": Kind.CREATE, "key": ""}, "INVALID_NAME"),
        ({"kind": Kind.CREATE, "key": "x\0y"}, "INVALID_NAME"),
        ({"kind": Kind.READ}, "INVALID_REQUEST"),
    ],
)
def test_what_can_be_refused_before_the_log_is(fields: dict[str, object], reason: str) -> None:
    parts = ready()
    operation = parts.operation(**{"key": "a", **fields})  # type: ignore[arg-type]
    refused, entries = parts.gather(operation)
    assert [reply.failure.reason for reply in refused if reply.failure] == [reason]
    assert [reply.failure.applied for reply in refused if reply.failure] == ["no"]
    assert entries == []


def test_a_principal_that_is_none_is_refused() -> None:
    parts = ready()
    operation = parts.operation(Kind.SEND, "a", "add")
    operation.principal = "nobody"
    refused, entries = parts.gather(operation)
    assert [reply.failure.reason for reply in refused if reply.failure] == ["INVALID_NAME"]
    assert entries == []


def test_the_system_space_has_one_document() -> None:
    parts = ready()
    operation = parts.operation(Kind.CREATE, "other")
    operation.space, operation.principal = "system", "operator@moot"
    refused, _ = parts.gather(operation)
    assert refused[0].failure is not None


def test_what_is_pipelined_behind_a_creation_is_checked_against_its_code() -> None:
    parts = ready()
    refused, ((created, sent),) = parts.gather(
        parts.operation(Kind.CREATE, "b"), parts.operation(Kind.SEND, "b", "add", b'{"amount":2}')
    )
    assert (refused, created.kind, sent.kind) == ([], CommandKind.CREATE, CommandKind.SEND)
    parts.gatherer.forget_creating("tally", "b")
    refused, _ = parts.gather(parts.operation(Kind.SEND, "b", "add", b'{"amount":2}'))
    assert len(refused) == 1


def test_of_two_creations_on_their_way_the_first_says_which_code_messages_are_checked_against() -> None:
    """The second is a retry behind a deployment, and will find the document there: messages for it would not fit."""
    parts = ready()
    parts.gather(parts.operation(Kind.CREATE, "b"))
    newer = b"tally 2"
    batch = Batch()
    parts.bundles.put(batch, bundle_hash(newer), newer)
    parts.engine.write(batch)
    parts.directory.absorb(Decisions(2, None, (Space("tally", bundle_hash(newer), 2, "operator@moot", 0),)))
    _, ((again, sent),) = parts.gather(
        parts.operation(Kind.CREATE, "b"), parts.operation(Kind.SEND, "b", "add", b'{"amount":2}')
    )
    assert (again.code_hash, sent.code_hash) == (bundle_hash(newer), TALLY)


def test_a_deletion_carries_no_payload_of_the_client() -> None:
    parts = ready()
    _, ((command,),) = parts.gather(parts.operation(Kind.DELETE, "a", "add", b"\xff" * 100))
    assert (command.payload, command.channel) == (b"{}", "")


def test_an_entry_is_bounded_in_commands_and_bytes() -> None:
    parts = ready()
    _, entries = parts.gather(*[parts.operation(Kind.SEND, "a", "add") for _ in range(COMMANDS_MAX + 1)])
    assert [len(commands) for commands in entries] == [COMMANDS_MAX, 1]
    large = b'{"%s":1}' % (b"x" * (ENTRY_BYTES_MAX // 2))
    _, entries = parts.gather(*[parts.operation(Kind.SEND, "a", "add", large) for _ in range(3)])
    assert [len(commands) for commands in entries] == [2, 1]
