"""Nobody is sent what only somebody else may see: in no view, no patch and no answer of the document with secrets.

Every secret says whose it is. Rows change hands and faces in one command, so a secret is its owner's at every position at which
it is in the state at all: whoever is sent another's, in whatever form, was sent what he could never see.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call
from chaos.checkers.violation import Violation
from cluster.session.operations import Delta

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE = "hands"
_SECRET = re.compile(rb"for (\w+@sim)")


class Secrets(Checker):
    """See the module."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.looked_at = 0

    def changed(self, client: str, watch: int, delta: Delta) -> None:
        if self.world.watches.name_of(client, watch)[0] == SPACE:
            self.world.marks["hidden_changes"] += delta.body == b"[]"
            self._look(client, delta.body)

    def answered(self, call: Call) -> None:
        if call.name[0] == SPACE and call.reply is not None:
            self._look(call.client, call.reply.payload)

    def _look(self, client: str, sent: bytes) -> None:
        who = self.world.principals[client]
        self.looked_at += 1
        for owner in _SECRET.findall(sent):
            if owner.decode() != who:
                raise Violation("secrets", f"{who} is sent what is for {owner.decode()}: {sent[:300]!r}")
