"""Finding the node that must be asked, through whichever answers: the leader of a shard, or all nodes at once.

Leaders change and nodes die while an operator works. A call here is one that may be repeated, so it follows the hints of
NOT_LEADER, goes on at the other nodes when one does not answer, and gives up when its time is over and not before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from cluster.cli.output import CommandFailed, Exit, Unreachable
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError, NotLeader, OutcomeUnknown, RetryableError, Unavailable

PAUSE_S: Final = 0.1
CALL_TIMEOUT_S: Final = 5.0
SLOWER_S: Final = 0.3
"""How long after the first answer others are waited for."""
UNREACHABLE_NEXT: Final = "look: moot status; start nodes: moot up, moot restart N; or name one: --address host:port"


async def gateways(addresses: Sequence[str]) -> dict[str, str]:
    """Every known node and where its gateway is: where it was reached, else where it says it is. Those that were reached come
    first. Raises Unreachable."""
    statuses = await _first_answers(addresses)
    tried = [f"{address}: {error.message}" for address, error in statuses.items() if isinstance(error, ClusterError)]
    reached = {status.node_id: address for address, status in statuses.items() if not isinstance(status, ClusterError)}
    for address in reached.values():
        try:
            listed = await ask_one(address, "ListNodes")
        except ClusterError as error:
            tried.append(f"{address}: {error.message}")
            continue
        return {**reached, **{node.node_id: node.gateway_address for node in listed.nodes if node.node_id not in reached}}
    raise Unreachable(f"no node answered ({'; '.join(tried)})", UNREACHABLE_NEXT)


async def _first_answers(addresses: Sequence[str]) -> dict[str, Any]:
    """GetStatus of those that answer about as fast as the first one; a node that hangs is not waited for."""

    async def one(address: str) -> None:
        try:
            answers[address] = await ask_one(address, "GetStatus")
            somebody.set()
        except ClusterError as error:
            answers[address] = error

    answers: dict[str, Any] = {}
    somebody = asyncio.Event()
    asking = [asyncio.ensure_future(one(address)) for address in addresses]
    first = asyncio.ensure_future(somebody.wait())
    everybody = asyncio.gather(*asking)
    await asyncio.wait((first, everybody), return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(asking, timeout=SLOWER_S)
    for task in (first, *asking):
        task.cancel()
    await asyncio.gather(first, everybody, return_exceptions=True)
    return answers


async def ask_all(places: dict[str, str], method: str, **fields: Any) -> dict[str, Any]:
    """What each node answers: its message, or the ClusterError that came instead."""

    async def one(address: str) -> Any:
        try:
            return await ask_one(address, method, **fields)
        except ClusterError as error:
            return error

    return dict(zip(places, await asyncio.gather(*map(one, places.values())), strict=True))


class ShardLeader:
    """The leader of one shard, wherever it is just now.

    places: every known node and its gateway. deadline: by time.monotonic().
    """

    def __init__(self, shard: int, places: dict[str, str], deadline: float) -> None:
        self.shard = shard
        self._places = places
        self._deadline = deadline
        self._address = next(iter(places.values()))
        self._hinted = ""
        """The node that was said to lead, while that has not answered."""
        self._unreached: dict[str, str] = {}
        """What came of asking such a node."""
        self.trouble = ""
        """Why the last attempt did not succeed; empty when it did."""

    async def attempt(self, method: str, **fields: Any) -> Any:
        """The leader's answer to one call, or None when it is worth asking again after a pause (`trouble` says why).

        Raises ClusterError for an answer that asking again does not change.
        """
        left_s = self._deadline - time.monotonic()
        try:
            answer = await ask_one(
                self._address, method, timeout_s=max(0.2, min(CALL_TIMEOUT_S, left_s)), shard_id=self.shard, **fields
            )
        except NotLeader as error:
            self._hinted = error.details.get("leader", "")
            nobody = f"{self._address} does not lead shard {self.shard}, and nobody is known to"
            self.trouble = self._unreached.get(self._hinted, f"{self._hinted} is said to lead" if self._hinted else nobody)
            said = error.details.get("leader_gateway_address", "")
            self._go_on(self._places.get(self._hinted, said))
            return None
        except (Unavailable, OutcomeUnknown) as error:
            self.trouble = f"{self._address}: {error.message}"
            if self._hinted:
                self.trouble = f"{self._hinted} is said to lead shard {self.shard} and can not be reached at {self.trouble}"
                self._unreached[self._hinted], self._hinted = self.trouble, ""
            self._go_on("")
            return None
        except RetryableError as error:
            self.trouble = error.message
            return None
        self.trouble = self._hinted = ""
        return answer

    async def ask(self, method: str, **fields: Any) -> Any:
        """The leader's answer. Raises ClusterError, and CommandFailed when nobody who leads has answered in time."""
        while True:
            answer = await self.attempt(method, **fields)
            if answer is not None:
                return answer
            if time.monotonic() >= self._deadline:
                raise CommandFailed(
                    f"no leader of shard {self.shard} has answered in time; at last: {self.trouble}",
                    state="what was asked may have been done",
                    next_step=f"moot shards show {self.shard}; then send the same again",
                    code=Exit.UNREACHABLE,
                    reason="NO_LEADER",
                )
            await asyncio.sleep(PAUSE_S)

    def _go_on(self, hint: str) -> None:
        """To the node that is said to lead, else to the next one."""
        if hint and hint != self._address:
            self._address = hint
            return
        addresses = list(self._places.values())
        place = addresses.index(self._address) + 1 if self._address in addresses else 0
        self._address = addresses[place % len(addresses)]
