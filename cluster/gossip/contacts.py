"""With whom to compare tables, and when: at joining, after changes, now and then, and with those that are missing.

Whoever gives up on the dead after seconds stays apart from the other half of a partition until a restart. The dead, and seeds
that are not there, are tried for as long as they are remembered, each with growing waits, one at a time: that is cheap enough
to go on for a day.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import Endpoint, MemberChange
from cluster.gossip.member import accusation
from cluster.gossip.members import Members
from cluster.gossip.messages import State
from cluster.gossip.outbox import Outbox
from cluster.gossip.probe import endpoint_of
from cluster.gossip.sync import open_comparison
from cluster.ids import NodeId

if TYPE_CHECKING:
    import random

JOIN_RETRY_FIRST_MS: Final = 250
SYNCS_AFTER_CHANGE: Final = 5
"""The wait before the next comparison starts at sync interval / 2^this whenever membership changed, and doubles from there:
with few members the news may run out before everybody has met."""
HEAL_INTERVAL_MS: Final = 1_000
"""At most one comparison at once with a member that came back, in this time: halves that heal return by the hundred."""

DOUBLINGS_TO_INTERVAL: Final = 4
"""The first waits are reconnect interval / 2^this, doubling: nodes that boot together form islands of those that met first,
and should not stay so for a whole interval."""


class Missing:
    """The waits between attempts to reach each of those that are missing.

    Invariant: bounded by the targets of the last `take`; one target at a time.
    """

    __slots__ = ("_config", "_tries")

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self._tries: dict[Endpoint, tuple[int, int]] = {}
        """When each target is due, and the wait that follows."""

    @property
    def first_ms(self) -> int:
        return max(1, self._config.reconnect_interval_ms >> DOUBLINGS_TO_INTERVAL)

    def take(self, targets: Iterable[Endpoint], now_ms: int) -> Endpoint | None:
        """The target that has been due for longest, if any is. Targets that are gone are forgotten, with their waits."""
        self._tries = {target: self._tries.get(target, (now_ms, self.first_ms)) for target in targets}
        if not self._tries:
            return None
        target = min(self._tries, key=lambda each: self._tries[each][0])
        due_ms, wait_ms = self._tries[target]
        if due_ms > now_ms:
            return None
        self._tries[target] = (now_ms + wait_ms, min(2 * wait_ms, self._config.reconnect_interval_ms_max))
        return target

    def wait_ms(self, now_ms: int) -> int:
        """Until the next attempt."""
        if not self._tries:
            return self._config.reconnect_interval_ms
        return max(self.first_ms, min(due_ms for due_ms, _ in self._tries.values()) - now_ms)


class Contacts:
    """Opens comparisons. `deadline_ms` is when the next one, or the next attempt to reach somebody missing, is due."""

    __slots__ = (
        "_at_seed",
        "_config", "_doublings", "_heal_ms", "_join_retry_ms", "_members", "_missing", "_missing_ms", "_outbox", "_random",
        "_seeds", "_sync_ms",
    )  # fmt: skip

    def __init__(
        self,
        members: Members,
        outbox: Outbox,
        config: GossipConfig,
        seeds: tuple[Endpoint, ...],
        source: random.Random,
        now_ms: int,
    ) -> None:
        self._members = members
        self._outbox = outbox
        self._config = config
        self._seeds = seeds
        self._at_seed: dict[Endpoint, NodeId] = {}
        self._random = source
        self._missing = Missing(config)
        self._missing_ms = now_ms + self._jittered(self._missing.first_ms)
        self._sync_ms = now_ms
        self._join_retry_ms = JOIN_RETRY_FIRST_MS
        self._doublings = 0
        self._heal_ms = now_ms

    @property
    def deadline_ms(self) -> int:
        return min(self._sync_ms, self._missing_ms)

    def changed(self, change: MemberChange, now_ms: int) -> None:
        """Somebody is new, died or came back: compare sooner, and at once with who was away."""
        before, after = change.before, change.member.state
        if before is None or State.DEAD in (before, after):
            self._doublings = 0
            self._sync_ms = min(self._sync_ms, now_ms + self._sync_wait_ms())
        if after is State.DEAD:
            self._missing_ms = min(self._missing_ms, now_ms + self._jittered(self._missing.first_ms))
        elif before is State.DEAD and self._heal_ms <= now_ms:
            self._heal_ms = now_ms + HEAL_INTERVAL_MS
            self.compare_with((change.member.address.host, change.member.address.gossip_port))

    def tick(self, now_ms: int) -> None:
        if self._sync_ms <= now_ms:
            live = self._members.live()
            if live:
                self._join_retry_ms = JOIN_RETRY_FIRST_MS
                self._sync_ms = now_ms + self._sync_wait_ms()
                self._doublings = min(self._doublings + 1, SYNCS_AFTER_CHANGE)
                self.compare_with(endpoint_of(self._random.choice(live)))
            else:
                self._sync_ms = now_ms + self._jittered(self._join_retry_ms)
                self._join_retry_ms = min(self._join_retry_ms * 2, self._config.reconnect_interval_ms)
                seeds = self._absent_seeds()
                if seeds:
                    self.compare_with(self._random.choice(seeds))
        if self._missing_ms <= now_ms:
            self._try_missing(now_ms)
            self._missing_ms = now_ms + self._jittered(self._missing.wait_ms(now_ms))

    def _try_missing(self, now_ms: int) -> None:
        """Try one of those that are missing; a dead one also by datagram, in case only streams are broken."""
        if self._members.leaving:
            return
        dead = {endpoint_of(member): member for member in self._members.dead()}
        target = self._missing.take([*dead, *self._absent_seeds()], now_ms)
        if target is None:
            return
        if target in dead:
            self._outbox.send(target, accusation(dead[target]))
        self.compare_with(target)

    def compare_with(self, target: Endpoint) -> None:
        """Open a comparison now."""
        if not self._members.leaving:
            self._outbox.request(target, open_comparison(self._members))

    def _absent_seeds(self) -> list[Endpoint]:
        own = (self._members.own.address.host, self._members.own.address.gossip_port)
        return [seed for seed in self._seeds if seed != own and not self._is_present(seed)]

    def _is_present(self, seed: Endpoint) -> bool:
        """Whether somebody who is live is at this address. The table is walked only when nobody is remembered to be there."""
        member = self._members.get(self._at_seed[seed]) if seed in self._at_seed else None
        if member is not None and endpoint_of(member) == seed:
            return member.state <= State.SUSPECT
        found = next((member for member in self._members.live() if endpoint_of(member) == seed), None)
        if found is not None:
            self._at_seed[seed] = found.alive.node
        return found is not None

    def _sync_wait_ms(self) -> int:
        interval_ms = self._config.sync_interval_scaled_ms(self._members.size)
        return self._jittered(interval_ms >> (SYNCS_AFTER_CHANGE - self._doublings))

    def _jittered(self, interval_ms: int) -> int:
        return max(1, int(interval_ms * self._random.uniform(0.75, 1.25)))
