"""Running an exported history again, without a cluster: what `doc replay` does.

Replay runs the commands in order, with nothing else at hand, and compares how each ended, what it answered and, where the whole
past is in the file, the document's chain, which also binds every write. What differs is named, first difference first.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.documents.bundle import code_hash
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import (
    DELETE_CHANNEL,
    UPGRADE_CHANNEL,
    Code,
    Instance,
    Invocation,
    Outcome,
    Program,
)
from cluster.errors import InvalidPatch, InvalidRequest, TooLarge
from cluster.ids import DocumentId, Principal
from cluster.replay.seen import instance_of
from cluster.shard import forking, thawing
from cluster.shard.commands import SEED_OWN_BYTES, Command, CommandKind
from cluster.shard.document import LiveDocument, Ran


@dataclass(slots=True)
class Difference:
    """One command that did not end as the log says."""

    position: str
    what: str
    logged: str
    replayed: str


@dataclass(slots=True)
class Verdict:
    """What replaying a document found. chain: verified, differs, or why it was not compared."""

    document: str
    commands: int = 0
    differences: list[Difference] = field(default_factory=list)
    chain: str = ""
    state_bytes: int = 0

    @property
    def equal(self) -> bool:
        """Whether everything is as it was."""
        return not self.differences and self.chain != "differs"


class Replay:
    """One document, run again."""

    def __init__(self, exported: dict[str, Any]) -> None:
        self._exported = exported
        self._loader = BundleLoader()
        self._programs: dict[str, Program] = {}
        self.live = LiveDocument(DocumentId.parse(exported["document"]))
        self.verdict = Verdict(exported["document"])
        self._ran: Ran | None = None
        self.left_out: list[str] = []
        """Of what somebody saw: paths of what no document could be made of."""

    def program(self, name: str) -> Program:
        """The code with this hash, checked to be that code."""
        if name not in self._programs:
            encoded = self._exported["bundles"].get(name)
            if encoded is None:
                raise InvalidRequest(f"the export lacks the code {name[:12]} that a command ran")
            bundle = base64.b64decode(encoded)
            if code_hash(bundle).hex() != name:
                raise InvalidRequest(f"the export's code {name[:12]} is not the code of that hash: the file was changed")
            self._programs[name] = self._loader.load(bundle)
        return self._programs[name]

    def begin(self) -> None:
        """Stand before the first command. Raises InvalidRequest when the file lacks the document's beginning."""
        commands, seen = self._exported["commands"], self._exported.get("seen")
        if seen is not None:
            self._begin_with(seen, self._exported["position"])
            return
        if not commands:
            return
        first = commands[0]["position"]
        if commands[0]["kind"] == "fork":
            self.live.index = first["index"] - 1
        elif first["index"] != 1:
            raise InvalidRequest(f"the history begins at index {first['index']}: replay needs it from creation on")
        self.live.epoch = max(0, first["epoch"] - 1)

    def _begin_with(self, seen: dict[str, Any], position: dict[str, int]) -> None:
        """Stand where the file begins, with what somebody saw there."""
        live, program = self.live, self.program(seen["code_hash"])
        live.epoch, live.index = position["epoch"], position["index"]
        live.program, live.code_hash = program, program.code_hash
        live.instance, self.left_out = instance_of(live.id, program, seen, live.index)

    def step(self, row: dict[str, Any]) -> Outcome:
        """Run one command and compare it with its row. Returns how it ended now."""
        live, kind = self.live, CommandKind[row["kind"].upper()]
        seed, payload = bytes.fromhex(row["seed"]), row["payload"].encode()
        outcome = self._run(row, kind, payload, seed)
        live.index += 1
        at = f"{row['position']['epoch']}.{row['position']['index']}"
        self._compare(at, "position", at, str(live.position))
        self._compare(at, "code", row["code"], outcome.code.name)
        self._compare(at, "answer", row["answer"], outcome.answer.decode())
        command = Command(kind, "", "", row["channel"], payload, row["sender"], b"", 0, 0, bytes.fromhex(row["code_hash"]))
        self._bind(command, row["time_ms"], seed, outcome)
        if outcome.code is Code.OK and kind is CommandKind.DELETE:
            live.instance = None
        self.verdict.commands += 1
        return outcome

    def _bind(self, command: Command, now_ms: int, seed: bytes, outcome: Outcome) -> None:
        """The chain grows once for all commands of one entry: those whose seeds begin alike."""
        live, ran = self.live, self._ran
        if ran is None or (ran.epoch, ran.first_seed[:-SEED_OWN_BYTES]) != (live.epoch, seed[:-SEED_OWN_BYTES]):
            self.close()
            ran = self._ran = Ran(live.epoch, live.index, now_ms, seed)
        ran.commands.append(command)
        ran.codes.append(int(outcome.code))
        ran.answers.append(outcome.answer)
        ran.writes.append(outcome.writes)

    def close(self) -> None:
        """The last entry so far is complete."""
        if self._ran is not None:
            self.live.extend_chain(self._ran)
            self._ran = None

    def _run(self, row: dict[str, Any], kind: CommandKind, payload: bytes, seed: bytes) -> Outcome:
        live = self.live
        if row["code"] == Code.POISONED.name:
            # an operator isolated it: it was answered without being run, everywhere.
            return Outcome(Code.POISONED, b"{}")
        sender = Principal.parse(row["sender"])
        if kind in (CommandKind.THAW, CommandKind.FORK):
            self.close()
            program = self.program(row["code_hash"])
            command = Command(kind, "", "", "", payload, "", b"", 0, 0, program.code_hash)
            return thawing.run(live, command, program) if kind is CommandKind.THAW else forking.run(live, command, program)
        if kind is CommandKind.CREATE:
            program = self.program(row["code_hash"])
            instance = program.new(live.id)
            outcome = instance.run(Invocation(row["channel"], payload, sender, row["time_ms"], seed, 1))
            if outcome.code is Code.OK:
                live.program, live.instance = program, instance
                live.code_hash = bytes.fromhex(row["code_hash"])
                live.epoch += 1
                live.index = 0
            return outcome
        instance_now: Instance | None = live.instance
        if instance_now is None:
            raise InvalidRequest("the export has a message before the document's creation: nothing can be replayed")
        if kind is CommandKind.UPGRADE:
            return self._upgrade(
                self.program(row["code_hash"]),
                Invocation(UPGRADE_CHANNEL, payload, sender, row["time_ms"], seed, live.index + 1),
            )
        assert live.program is not None, "a living document has code"
        if kind is CommandKind.SEND and row["code_hash"] != live.program.code_hash.hex():
            payload = live.program.check(row["channel"], payload)  # it was checked against other code, as in apply
        channel = DELETE_CHANNEL if kind is CommandKind.DELETE else row["channel"]
        invocation = Invocation(channel, payload, sender, row["time_ms"], seed, live.index + 1)
        if kind is CommandKind.REPAIR:
            return repaired(instance_now, invocation)
        fires = kind in (CommandKind.ALARM, CommandKind.ANSWER, CommandKind.CONNECT, CommandKind.DISCONNECT)
        return instance_now.fire(invocation) if fires else instance_now.run(invocation)

    def _upgrade(self, program: Program, invocation: Invocation) -> Outcome:
        live = self.live
        assert live.instance is not None, "only living documents are upgraded"
        assert live.program is not None, "a living document has code"
        instance, outcome = program.upgrade(live.id, live.instance.dump(), live.program, invocation)
        if instance is not None:
            live.program, live.instance, live.code_hash = program, instance, program.code_hash
        return outcome

    def _compare(self, at: str, what: str, logged: str, replayed: str) -> None:
        if logged != replayed:
            self.verdict.differences.append(Difference(at, what, logged, replayed))


def repaired(instance: Instance, invocation: Invocation) -> Outcome:
    """What an operator's repair comes to; REJECTED where its patch does not fit the state that was come to."""
    try:
        instance.check_repair(invocation)
    except (InvalidPatch, TooLarge) as error:
        return Outcome(Code.REJECTED, b"{}", error=error.message)
    return instance.repair(invocation)


def replay(exported: dict[str, Any], progress: Callable[[int], None] = lambda done: None) -> Verdict:
    """Run an exported history again. Raises InvalidRequest when the file can not be replayed at all, ClusterError for its
    code.
    """
    run = Replay(exported)
    commands = exported["commands"]
    try:
        run.begin()
        for done, row in enumerate(commands, 1):
            run.step(row)
            progress(done)
        run.close()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"command {run.verdict.commands + 1} of the export is not readable: {error!r}") from None
    verdict = run.verdict
    complete = exported["position"] == {"epoch": run.live.epoch, "index": run.live.index}
    if not exported["whole"] or not complete:
        verdict.chain = "not compared: the file does not hold the whole history"
    elif exported["chain"] == run.live.chain.hex():
        verdict.chain = "verified"
    else:
        verdict.chain = "differs"
    verdict.state_bytes = len(run.live.instance.dump()) if run.live.instance is not None else 0
    return verdict
