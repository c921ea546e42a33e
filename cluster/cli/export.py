"""A document's history as a file, and its verification without a cluster: what `doc log --export` writes and `doc replay`
reads.

The file is JSON: the document's address, the code of every version that ran, and every command with its time, seed, code and
answer. Replay runs the commands again, in order, with nothing else at hand, and compares how each ended, what it answered
and, where the whole past is in the file, the document's chain, which also binds every write. What differs is named, first
difference first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.documents.bundle import code_hash
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import CONSTRUCT_CHANNEL, DELETE_CHANNEL, Code, Instance, Invocation, Outcome, Program
from cluster.errors import InvalidRequest
from cluster.ids import DocumentId, Principal
from cluster.shard.commands import SEED_OWN_BYTES, Command, CommandKind
from cluster.shard.document import LiveDocument, Ran

FORMAT: Final = 1
PAGE: Final = 500

KINDS: Final = {
    "COMMAND_KIND_CREATE": CommandKind.CREATE,
    "COMMAND_KIND_MESSAGE": CommandKind.SEND,
    "COMMAND_KIND_DELETE": CommandKind.DELETE,
    "COMMAND_KIND_UPGRADE": CommandKind.UPGRADE,
}


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


def export_of(
    document: DocumentId, commands: list[Any], bundles: dict[bytes, bytes], inspected: Any, *, whole: bool
) -> dict[str, Any]:
    """The file's content, from AdminService's answers. whole: the commands begin with the document's first one ever."""
    return {
        "format": FORMAT,
        "document": str(document),
        "position": {"epoch": inspected.position.epoch, "index": inspected.position.index},
        "chain": inspected.chain.hex(),
        "whole": whole,
        "bundles": {name.hex(): base64.b64encode(bundle).decode() for name, bundle in bundles.items()},
        "commands": [command_row(command) for command in commands],
    }


def command_row(command: Any) -> dict[str, Any]:
    """One command of a history as plain values."""
    return {
        "position": {"epoch": command.position.epoch, "index": command.position.index},
        "kind": KINDS[_kind_name(command.kind)].name.lower(),
        "sender": command.sender,
        "channel": command.channel,
        "payload": command.payload.decode(),
        "time_ms": command.time_ms,
        "seed": command.seed.hex(),
        "code": command.code,
        "answer": command.answer.decode(),
        "code_hash": command.code_hash.hex(),
    }


def _kind_name(kind: int) -> str:
    from cluster.v1 import admin_pb2

    return admin_pb2.CommandKind.Name(kind)  # type: ignore[arg-type]


def read_export(path: Path) -> dict[str, Any]:
    """A file of `export_of`. Raises InvalidRequest for anything else, OSError when it can not be read."""
    try:
        exported = json.loads(path.read_text())
        assert isinstance(exported, dict)
        if exported["format"] != FORMAT:
            raise InvalidRequest(f"{path} has format {exported['format']}, this release reads {FORMAT}")
        for name in ("document", "position", "chain", "whole", "bundles", "commands"):
            exported[name]
    except (ValueError, KeyError, AssertionError) as error:
        raise InvalidRequest(f"{path} is not an exported history: {error!r}") from None
    return exported


class _Replay:
    """One document, run again."""

    def __init__(self, exported: dict[str, Any]) -> None:
        self._exported = exported
        self._loader = BundleLoader()
        self._programs: dict[str, Program] = {}
        self.live = LiveDocument(DocumentId.parse(exported["document"]))
        self.verdict = Verdict(exported["document"])
        self._ran: Ran | None = None

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

    def step(self, row: dict[str, Any]) -> None:
        """Run one command and compare it with its row."""
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
        if kind is CommandKind.CREATE:
            instance = self.program(row["code_hash"]).new(live.id)
            outcome = instance.run(Invocation(CONSTRUCT_CHANNEL, payload, sender, row["time_ms"], seed, 1))
            if outcome.code is Code.OK:
                live.instance = instance
                live.epoch += 1
                live.index = 0
            return outcome
        instance_now: Instance | None = live.instance
        if instance_now is None:
            raise InvalidRequest("the export has a message before the document's creation: nothing can be replayed")
        channel = DELETE_CHANNEL if kind is CommandKind.DELETE else row["channel"]
        return instance_now.run(Invocation(channel, payload, sender, row["time_ms"], seed, live.index + 1))

    def _compare(self, at: str, what: str, logged: str, replayed: str) -> None:
        if logged != replayed:
            self.verdict.differences.append(Difference(at, what, logged, replayed))


def replay(exported: dict[str, Any], progress: Callable[[int], None] = lambda done: None) -> Verdict:
    """Run an exported history again. Raises InvalidRequest when the file can not be replayed at all, ClusterError for its
    code.
    """
    run = _Replay(exported)
    commands = exported["commands"]
    if commands and commands[0]["position"]["index"] != 1:
        raise InvalidRequest(f"the export begins at index {commands[0]['position']['index']}: replay needs it from creation on")
    if commands:
        run.live.epoch = max(0, commands[0]["position"]["epoch"] - 1)
    try:
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
