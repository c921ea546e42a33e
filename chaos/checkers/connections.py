"""Connections: each is told to its document once when it comes and once when it goes, and when all is quiet the document knows
just those of the applications that watch it.

The document writes down what it is told. What it keeps of connections itself, where no author sees it, must say the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from chaos.checkers.checker import Checker
from chaos.checkers.history import Name
from chaos.checkers.violation import Violation
from cluster.session.operations import Failure

if TYPE_CHECKING:
    pass

SPACE = "lobby"
REFUSALS = ("HANDLER_REFUSED",)
"""How a watch of such a document may end, beside what ends any watch."""


def may_end_so(name: Name, failure: Failure) -> bool:
    """Whether the document's own code has refused the watch."""
    return name[0] == SPACE and failure.reason in REFUSALS


class Connections(Checker):
    """See the module."""

    def ended(self, client: str, watch: int, failure: Failure) -> None:
        if failure.reason in REFUSALS:
            self.world.marks["connects_refused"] += 1

    def behind(self) -> list[str]:
        """Where a document does not know who watches it, or knows somebody who does not."""
        views = {name: view for name, view in self.world.final_views().items() if name[0] == SPACE}
        watching: dict[Name, Counter[str]] = {name: Counter() for name in views}
        for client in self.world.clients:
            for name in client.watching:
                if name in watching:
                    watching[name][client.principal] += 1
        late = []
        for name, view in views.items():
            here = Counter(view["here"].values())
            if here != watching[name]:
                late.append(f"{'/'.join(name)} knows {dict(here)}, it is watched by {dict(watching[name])}")
        return late

    def finished(self) -> None:
        for name, view in self.world.final_views().items():
            if name[0] == SPACE:
                self._told_in_turn(name, view)
        for node in self.world.running():
            for shard, replica in node.pump.replicas.items():
                for name in self.world.documents_of(shard) if replica.serves else ():
                    live = replica.cache.peek(*name) if name[0] == SPACE else None
                    if live is None or live.instance is None:
                        continue
                    known = {connection: str(who) for connection, who in live.instance.connections().items()}
                    shown = self.world.final_views()[name]["here"]
                    if known != shown:
                        raise Violation("connections", f"{'/'.join(name)} keeps {known}, its code was told {shown}")

    def _told_in_turn(self, name: Name, view: Any) -> None:
        there: set[str] = set()
        for told in view["heard"]:
            comes, connection = told[0] == "+", told[1:]
            if comes == (connection in there):
                what = "came and was there" if comes else "went and was not there"
                raise Violation("connections", f"{'/'.join(name)}: {connection} {what}: {view['heard']}")
            there ^= {connection}
            self.world.marks["connects_told" if comes else "disconnects_told"] += 1
        if there != set(view["here"]):
            raise Violation("connections", f"{'/'.join(name)}: {view['here']} are here, of those told {there} are left")
