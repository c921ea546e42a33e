"""A document type for tests of everything around documents: a list of numbers and their sum. A plain implementation of the
runtime protocol, so that these tests do not depend on how authors' code is compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any

import msgspec

from cluster.documents.runtime import (
    DELETE_CHANNEL,
    AnswersNoRequests,
    ArmsNothing,
    Code,
    Invocation,
    KeepsNoBlobs,
    Outcome,
    Program,
    Projection,
    ReadFailure,
    Settings,
    ShowsNobody,
    TakesNoRepair,
)
from cluster.errors import ApplyHalted, InvalidArguments, InvalidBundle, InvalidPayload, StorageDamaged, UnknownChannel
from cluster.ids import DocumentId, Principal
from cluster.shard.system.program import bundle_hash

BUNDLE = b"tally 1"


class TallyProgram:
    """Channels: add(amount), refuse(), halt() (a fault that is not an answer, while the test wants it). A bundle is
    `tally VERSION`; no document gets to one that ends in `broken`.
    """

    def __init__(self, bundle: bytes, halts: Callable[[], bool]) -> None:
        self._hash = bundle_hash(bundle)
        self._version = int(bundle.split()[1])
        self.fails_upgrades = bundle.endswith(b"broken")
        self._halts = halts
        self.settings_now = Settings()

    @property
    def code_hash(self) -> bytes:
        return self._hash

    @property
    def settings(self) -> Settings:
        return self.settings_now

    @property
    def creates_missing(self) -> bool:
        return False

    def schema(self) -> dict[str, Any]:
        return {"version": self._version}

    def check(self, channel: str, payload: bytes) -> bytes:
        if channel not in ("", "add", "refuse", "halt"):
            raise UnknownChannel(f"no channel {channel!r}")
        try:
            value = msgspec.json.decode(payload, type=dict[str, int])
        except msgspec.DecodeError as error:
            raise InvalidPayload(str(error)) from error
        return msgspec.json.encode(value)

    def new(self, document: DocumentId) -> TallyInstance:
        return TallyInstance([], self._halts)

    def upgrade(
        self, document: DocumentId, state: bytes, before: Program, invocation: Invocation
    ) -> tuple[TallyInstance | None, Outcome]:
        if self.fails_upgrades:
            return None, Outcome(Code.FAILED, b'{"error_id":"0"}', error="the hook failed")
        return self.load(document, state), Outcome(Code.OK, b"null", state)

    def load(self, document: DocumentId, state: bytes) -> TallyInstance:
        try:
            return TallyInstance(msgspec.msgpack.decode(state, type=list[int]), self._halts)
        except msgspec.DecodeError as error:
            raise StorageDamaged(str(error)) from error


class TallyInstance(AnswersNoRequests, ArmsNothing, KeepsNoBlobs, ShowsNobody, TakesNoRepair):
    """The numbers in order of arrival. Principals of the authority `outside` are not admitted."""

    def __init__(self, numbers: list[int], halts: Callable[[], bool]) -> None:
        self.numbers = numbers
        self._halts = halts

    def run(self, invocation: Invocation) -> Outcome:
        if not self.admits(invocation.sender):
            return Outcome(Code.DENIED, b"{}")
        if invocation.channel == DELETE_CHANNEL:
            return Outcome(Code.OK, b"null")
        value = msgspec.json.decode(invocation.payload)
        if invocation.channel == "refuse":
            return Outcome(Code.REFUSED, b'{"name":"No","message":"no","arguments":{}}')
        if invocation.channel == "halt":
            if self._halts():
                raise ApplyHalted("a fault that is not an answer")
            return Outcome(Code.OK, b"null")
        amount = value.get("amount", 0)
        self.numbers.append(amount)
        writes = b"%d" % amount
        return Outcome(Code.OK, b"%d" % sum(self.numbers), writes, amount, 16, 1)

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(self.numbers)

    def size_bytes(self) -> int:
        return 9 * len(self.numbers)

    def admits(self, who: Principal) -> bool:
        return who.authority != "outside"

    classes_vary = False

    def arguments(self, raw: bytes) -> bytes:
        if raw not in (b"", b"{}"):
            raise InvalidArguments("this document has no views")
        return b""

    def visibility_class(self, who: Principal) -> Hashable:
        return None

    def view(self, who: Principal, arguments: bytes = b"") -> bytes:
        return msgspec.json.encode({"numbers": self.numbers})

    def projection(self, who: Principal, arguments: bytes = b"") -> Projection:
        return _Whole(self, who)

    def read_failures(self) -> list[ReadFailure]:
        return []

    def patch_since(self, changes: list[Any], who: Principal) -> bytes | None:
        return msgspec.json.encode([{"op": "add", "path": "/numbers/-", "value": amount} for amount in changes])


class _Whole:
    def __init__(self, instance: TallyInstance, who: Principal) -> None:
        self._instance, self._who = instance, who

    def fork(self) -> Projection:
        return self

    def advance(self, changes: list[Any], who: Principal | None = None, arguments: bytes | None = None) -> bytes:
        return b'[{"op":"replace","path":"","value":' + self.full() + b"}]"

    def full(self) -> bytes:
        return self._instance.view(self._who)


class TallyLoader:
    """Compiles the bundles that begin with `tally`."""

    def __init__(self, halts: Callable[[], bool] = lambda: False) -> None:
        self._halts = halts

    def load(self, bundle: bytes) -> TallyProgram:
        if not bundle.startswith(b"tally"):
            raise InvalidBundle("not a tally")
        return TallyProgram(bundle, self._halts)


def session_id(number: int, made_ms: int = 1_000) -> bytes:
    """A session id as clients make them: time first."""
    return made_ms.to_bytes(6, "big") + blake2b(number.to_bytes(4, "big"), digest_size=10).digest()
