"""Which nodes have said that they compiled which code.

A leader moves documents to other code only when a quorum of its shard's voters could run it: else the entry would commit and
then stall apply where the code is missing, and a leader's death would stop the shard.

Invariant: a node is listed under a code only if it said so since its connection last broke. It is an opinion that decides when
an upgrade is proposed, and never what it does.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.ids import NodeId


class Compilations:
    """One node's knowledge. wanted: codes that a leader here waits for. revision: rises with what may let an upgrade begin."""

    __slots__ = ("_heard", "own", "revision", "wanted")

    def __init__(self) -> None:
        self._heard: dict[bytes, set[NodeId]] = {}
        self.own: set[bytes] = set()
        self.wanted: dict[bytes, None] = {}
        self.revision = 1

    def heard(self, node: NodeId, code_hash: bytes) -> bool:
        """A node has compiled this; says whether that is news."""
        nodes = self._heard.setdefault(code_hash, set())
        if node in nodes:
            return False
        nodes.add(node)
        self.revision += 1
        return True

    def forget_node(self, node: NodeId) -> None:
        """Its connection broke: it may come back with another disk."""
        for nodes in self._heard.values():
            nodes.discard(node)

    def keep(self, codes: Iterable[bytes]) -> None:
        """Only these can still be asked for."""
        kept = set(codes)
        self._heard = {code: nodes for code, nodes in self._heard.items() if code in kept}
        self.wanted = {code: None for code in self.wanted if code in kept}
        self.own &= kept
        self.revision += 1

    def has(self, node: NodeId, code_hash: bytes) -> bool:
        """Whether a node said that it has compiled this."""
        return node in self._heard.get(code_hash, ())

    def want(self, code_hash: bytes) -> None:
        """A leader here would go on if it knew who has this."""
        self.wanted[code_hash] = None
