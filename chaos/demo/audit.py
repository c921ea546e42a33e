"""What must be true of the demo's document afterwards, asked of every node by itself.

Lost and duplicated are judged by the document's own history, not by its text: the history must hold one creation and then every
transaction once, in order, with the very payload that was sent. The text must follow from it, and the records must be equal.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.live.processes import LiveCluster
from cluster.cli.local import LocalNode
from cluster.client import Consistency
from cluster.ids import Position

PAGE: Final = 500
CONVERGED_TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class Audit:
    """One look at all nodes.

    lost, duplicated: transactions missing from, or too many in, the history of the worst node. in_order: every one is in its
    place with its payload. text_matches: on every node, linearizable through its gateway and from its own replica.
    hashes_equal: all replicas have the same record at one position. trouble: what was wrong, in words.
    """

    lost: int = 0
    duplicated: int = 0
    in_order: bool = True
    text_matches: bool = True
    hashes_equal: bool = True
    position: str = ""
    trouble: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled, reordered or different."""
        sound = self.in_order and self.text_matches and self.hashes_equal
        return not self.lost and not self.duplicated and sound and not self.trouble

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "in_order": self.in_order,
            "text_matches": self.text_matches,
            "hashes_equal": self.hashes_equal,
            "position": self.position,
            "trouble": self.trouble,
        }


async def audit(live: LiveCluster, space: str, key: str, text: str, payloads: list[bytes]) -> Audit:
    """Look at every node. text: what the document must hold. payloads: the messages that were acknowledged, in order."""
    found = Audit()
    inspected = await live.converged(space, key, 1 + len(payloads), CONVERGED_TIMEOUT_S)
    positions = {(answer.position.epoch, answer.position.index) for answer in inspected.values()}
    found.position = ", ".join(f"{epoch}.{index}" for epoch, index in sorted(positions))
    if len({answer.record_hash for answer in inspected.values()}) != 1:
        found.hashes_equal = False
        found.trouble.append("records differ: " + ", ".join(f"{n} {a.record_hash.hex()[:16]}" for n, a in inspected.items()))
    if len({answer.chain for answer in inspected.values()}) != 1:
        found.hashes_equal = False
        found.trouble.append("chains differ")
    await asyncio.gather(*(_one_node(live, node, space, key, text, payloads, found) for node in live.nodes))
    for node in await live.holders(space, key):
        async with live.client(node) as client:
            judge_history(node.node_id, await _history(client, space, key), payloads, found)
    return found


async def _one_node(
    live: LiveCluster, node: LocalNode, space: str, key: str, text: str, payloads: list[bytes], found: Audit
) -> None:
    async with live.client(node) as client:
        linearizable = await client.read(space, key)
        local = await client.read(space, key, consistency=Consistency.AT_LEAST, at_least=Position(1, 1 + len(payloads)))
        for how, answer in (("linearizable", linearizable), ("a replica", local)):
            if answer.value["body"] != text:
                found.text_matches = False
                found.trouble.append(f"{node.node_id}, {how}: the text differs at {answer.position}")


async def _history(client: Any, space: str, key: str) -> list[Any]:
    commands: list[Any] = []
    while True:
        answer = await client.admin(
            "ReadHistory", document={"space": space, "key": key}, from_index=1 + len(commands), limit=PAGE
        )
        commands += answer.commands
        if len(answer.commands) < PAGE:
            return commands


def judge_history(node: str, commands: list[Any], payloads: list[bytes], found: Audit) -> None:
    """commands: as HistoryCommand. Expects a creation and then exactly the payloads."""
    count = len(commands) - 1
    found.lost = max(found.lost, len(payloads) - count)
    found.duplicated = max(found.duplicated, count - len(payloads))
    if len(commands) != 1 + len(payloads):
        found.trouble.append(f"{node}: the history has {count} messages, {len(payloads)} were acknowledged")
    for place, (command, payload) in enumerate(zip(commands[1:], payloads, strict=False)):
        if command.code != "OK" or json.loads(command.payload) != json.loads(payload) or command.position.index != place + 2:
            found.in_order = False
            found.trouble.append(
                f"{node}: message {place} is not in its place (index {command.position.index}, {command.code})"
            )
            return
