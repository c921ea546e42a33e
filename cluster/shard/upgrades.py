"""A document's move to other code: what the leader proposes at its first touch, and what apply makes of it.

Every step of a document along its space's timeline is one logged command, which names the code that it starts from: whoever
proposes it a second time changes nothing. A step whose hook fails leaves the document on its old code, and the number of the
deployment is remembered with it, so that it is not tried again before there is another.

Invariant: what apply does is a function of the document and the command. What nodes know (plans, who compiled what) decides
only what is proposed, and when.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from cluster.documents.runtime import UPGRADE_CHANNEL, Code, Invocation, Outcome, Program
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import ClusterError, RejectedError
from cluster.ids import Principal
from cluster.session.table import Answer, payload_digest
from cluster.shard.commands import Command, CommandKind
from cluster.shard.deployments import DEPLOYMENTS_KEPT_MAX, Space
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument

UPGRADER = str(Principal("upgrade", "moot"))
"""Who sends the commands that a leader makes. Gateways let nobody act for the authority `moot`."""


class UpgradeOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of an upgrade. before: hash of the code that it starts from, hexadecimal. deployment: its number in the
    space.
    """

    before: str
    deployment: int


_decode_order = msgspec.json.Decoder(UpgradeOrder).decode


# -- apply ---------------------------------------------------------------------------------------------------------------


def check_order(live: LiveDocument, command: Command) -> None:
    """Raise RejectedError for an upgrade that was done or has failed meanwhile: two leaders may propose the same one."""
    order = _order_of(command)
    if order.before != live.code_hash.hex() or command.code_hash == live.code_hash:
        raise RejectedError(f"{live.id} runs other code meanwhile")
    if live.upgrade_failed >= order.deployment:
        raise RejectedError(f"{live.id} was tried with this deployment already")


def run(live: LiveDocument, command: Command, program: Program, invocation: Invocation) -> Outcome:
    """Give the document the code of the command, or note that this failed. What the hooks see is in the invocation."""
    assert live.instance is not None, "only living documents are upgraded"
    assert live.program is not None, "a living document has code"
    instance, outcome = program.upgrade(live.id, live.instance.dump(), live.program, invocation)
    if instance is None or outcome.code is not Code.OK:
        live.upgrade_failed = _order_of(command).deployment
    else:
        live.program, live.instance, live.code_hash = program, instance, command.code_hash
        live.upgraded_index = invocation.index
        live.upgrade_failed = 0
    return outcome


def spelt_anew(live: LiveDocument, command: Command) -> bytes:
    """The payload of a message that was checked against other code, as the document's code spells it. Raises what it
    refuses.
    """
    assert live.program is not None, "only living documents take messages"
    return live.program.check(command.channel, command.payload)


def spelt_otherwise(live: LiveDocument, command: Command, stored: Answer) -> bool:
    """Whether a repeated command may differ from what was answered only because other code lies between the two, which may
    spell the same payload in other bytes. Then the first answer stands. What code an earlier epoch had is not known any more.
    """
    if stored.epoch != live.epoch or stored.index <= live.upgraded_index:
        return True
    if command.code_hash == live.code_hash or command.kind != CommandKind.SEND:
        return False
    if not live.alive:
        return True  # how its code spelt it can not be seen any more
    try:
        payload = spelt_anew(live, command)
    except ClusterError:
        return False
    return payload_digest(command.kind, command.channel, payload) == stored.digest


def _order_of(command: Command) -> UpgradeOrder:
    try:
        return _decode_order(command.payload)
    except msgspec.DecodeError as error:
        raise RejectedError(f"that orders no upgrade: {error}") from None


# -- the leader ----------------------------------------------------------------------------------------------------------


class Upgrades:
    """What one shard's leader proposes so that documents get the code of their space.

    compiled: whether a quorum of the shard's voters reports a code compiled. queued: commands that go into the log before the
    one that touched their document.
    """

    __slots__ = ("_compiled", "_directory", "coming", "queued")

    def __init__(self, directory: Directory, compiled: Callable[[bytes], bool]) -> None:
        self._directory = directory
        self._compiled = compiled
        self.coming: dict[tuple[str, str], bytes] = NO_ENTRIES
        """Code of documents whose upgrade is proposed and not applied yet: what follows is checked against it."""
        self.queued: list[Command] = NO_ITEMS

    def code_of(self, live: LiveDocument) -> bytes:
        """The code that a living document has, or will once what is proposed here is applied. Queues what that takes."""
        name = (live.id.space, live.id.key)
        if self.coming and (coming := self.coming.get(name)) is not None:
            return coming
        space = self._directory.find_space(live.id.space)
        revision = self._directory.compilations.revision
        code = live.code_hash
        if space is None or live.frozen or live.upgrade_failed >= space.deployments:
            live.settled = revision
            return code
        for _ in range(DEPLOYMENTS_KEPT_MAX):
            following = space.next_code(live.id.key, code, directly=bool(live.upgrade_failed))
            if following is None or not self._ready(following):
                break
            self._queue(live, code, following, space)
            code = following
        if code == live.code_hash:
            live.settled = revision
        else:
            if not self.coming:
                self.coming = {}
            self.coming[name] = code
        return code

    def _ready(self, code_hash: bytes) -> bool:
        """Whether documents may get this code now. If not, the pump asks who has it."""
        if self._compiled(code_hash):
            return True
        self._directory.compilations.want(code_hash)
        return False

    def _queue(self, live: LiveDocument, before: bytes, code_hash: bytes, space: Space) -> None:
        payload = msgspec.json.encode(UpgradeOrder(before.hex(), space.deployments))
        document = live.id
        name = (document.space, document.key)
        self.queue(Command(CommandKind.UPGRADE, *name, UPGRADE_CHANNEL, payload, UPGRADER, b"", 0, 0, code_hash))

    def queue(self, command: Command) -> None:
        """Have a command go into the log before the one that is being looked at."""
        if not self.queued:
            self.queued = []
        self.queued.append(command)

    def take(self) -> list[Command]:
        """What is to be proposed before anything else."""
        queued, self.queued = self.queued, NO_ITEMS
        return queued

    def over(self, command: Command) -> None:
        """A proposed upgrade was applied, or refused by Raft."""
        self.coming.pop((command.space, command.key), None)

    def reset(self) -> None:
        """Leadership ended: nothing is on its way any more."""
        self.coming.clear()
        self.queued = NO_ITEMS
