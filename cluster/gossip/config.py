"""Settings of gossip and the figures that follow from the size of the cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cluster.errors import ConfigurationInvalid

MEMBERS_MAX: Final = 16_384
"""Members that one node remembers, dead ones included. A newcomer beyond it takes the place of the longest dead, or none."""
REMOVED_MAX: Final = 65_536
"""Removed node ids that stay fenced off; the oldest fence goes first."""
PACKET_BYTES_MAX: Final = 1400
"""A datagram fits an Ethernet frame, so that it is lost alone and never as one fragment of many."""
SMALL_MEMBERS_MAX: Final = 5
"""Up to this size every member is probed in every period, and two have to agree on a death: with few witnesses each of
them has to look."""
SMALL_MEMBERS_LEAVE: Final = 8
"""From this size on a cluster is small no longer. In between it stays what it was, so that one flapping node does not switch
everybody to and fro."""


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """Timing of one node's gossip. The defaults suit one data centre.

    probe_interval_ms: the protocol period; every figure of detection is a multiple of it.
    probe_timeout_ms: how long a direct answer may take. At most half the interval: the indirect round needs the rest.
    indirect_probes: how many helpers are asked when the direct answer is missing (k of the paper).
    suspicion_multiplier, suspicion_multiplier_max: shortest suspicion = multiplier * max(1, log10 n) periods; a lonely
        accuser waits `suspicion_multiplier_max` times that. By default a small cluster gives two seconds: a process that stood
        still for so long is back in time to refute.
    confirmations: independent accusers that shrink the longest suspicion to the shortest.
    gossip_interval_ms, gossip_fanout: how often, and to how many, news is sent beside the probes.
    transmit_multiplier: every piece of news is sent multiplier * ceil(log10(n + 1)) times by each node, in small clusters to
        up to twice as many members.
    sync_interval_ms: full comparison with a random member; longer above 32 members.
    reconnect_interval_ms, reconnect_interval_ms_max: wait between two attempts to reach the same dead member or absent seed,
        so that partitions heal by themselves; it starts at the first and doubles up to the second.
    accusation_interval_ms: at most one "you are held dead" per peer in this time.
    dead_retention_ms: how long the dead are remembered, and retried. They are taught to others for half of it.
    """

    probe_interval_ms: int = 400
    probe_timeout_ms: int = 160
    indirect_probes: int = 3
    suspicion_multiplier: int = 5
    suspicion_multiplier_max: int = 6
    confirmations: int = 2
    gossip_interval_ms: int = 100
    gossip_fanout: int = 3
    transmit_multiplier: int = 4
    sync_interval_ms: int = 30_000
    reconnect_interval_ms: int = 5_000
    reconnect_interval_ms_max: int = 20_000
    accusation_interval_ms: int = 1_000
    dead_retention_ms: int = 24 * 3600 * 1000

    def __post_init__(self) -> None:
        """Raises ConfigurationInvalid."""
        for name in self.__slots__:
            if getattr(self, name) < (0 if name in {"indirect_probes", "confirmations"} else 1):
                raise ConfigurationInvalid(f"gossip.{name} must be positive, is {getattr(self, name)}")
        if self.probe_timeout_ms * 2 > self.probe_interval_ms:
            raise ConfigurationInvalid("gossip.probe_timeout_ms must be at most half of gossip.probe_interval_ms")

    def probe_timeout_at_rtt_ms(self, rtt_high_ms: float | None) -> int:
        """How long a direct answer of a peer may take whose round trips rarely exceed this; None if nobody knows yet.

        Far peers get more time, up to half of the period; near ones are taken to the indirect round earlier, not before half
        the usual time.
        """
        if rtt_high_ms is None:
            return self.probe_timeout_ms
        return int(min(self.probe_interval_ms // 2, max(self.probe_timeout_ms // 2, rtt_high_ms * 2)))

    @staticmethod
    def helper_timeout_ms(interval_ms: int, timeout_ms: int, rtt_high_ms: float) -> int:
        """How long a helper may wait for the target, for its nack to be back before the asker's period ends (trap 1)."""
        return max(1, int(min(0.8 * timeout_ms, interval_ms - timeout_ms - 2 * rtt_high_ms)))

    @property
    def early_ms(self) -> int:
        """How far ahead of its time a probe period may begin when the process is awake anyway."""
        return self.probe_interval_ms // 5

    def suspicion_min_ms(self, members: int) -> int:
        scale = max(1.0, math.log10(max(1, members)))
        return int(self.suspicion_multiplier * scale * self.probe_interval_ms)

    def suspicion_max_ms(self, members: int) -> int:
        return self.suspicion_min_ms(members) * self.suspicion_multiplier_max

    def confirmations_expected(self, members: int) -> int:
        """Confirmations worth waiting for. None below four members: accuser and subject leave at most one other."""
        return min(self.confirmations, members - 2) if members >= 4 else 0

    def transmits_max(self, members: int) -> int:
        spread = self.transmit_multiplier * math.ceil(math.log10(members + 1))
        return max(spread, min(members - 1, 2 * self.transmit_multiplier))

    def sync_interval_scaled_ms(self, members: int) -> int:
        return self.sync_interval_ms * (1 if members <= 32 else math.ceil(math.log2(members) - 5) + 1)


class Profile:
    """Whether the cluster is small, with hysteresis."""

    __slots__ = ("small",)

    def __init__(self) -> None:
        self.small = True

    def adapt(self, members: int) -> None:
        if members <= SMALL_MEMBERS_MAX:
            self.small = True
        elif members >= SMALL_MEMBERS_LEAVE:
            self.small = False

    def probes_per_period(self, members: int) -> int:
        return members - 1 if self.small else 1
