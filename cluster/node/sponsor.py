"""A member of the cluster answers who introduces itself: registers it, and tells it all that was decided.

Any member can, also one that leads nothing: the decision is a message to the system document. Everything is checked before it
is asked for, and again where it is decided, so that two who join under one name are told apart.

Invariant: a refusal changes nothing, on either side.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

import cluster
from cluster.errors import ClockSkewed, ClusterError, HandlerRefused, InvalidRequest, ReleaseMismatch, Unavailable, WrongCluster
from cluster.ids import NodeId
from cluster.node.decisions import Decisions
from cluster.node.registering import as_listed
from cluster.pump.pump import Pump
from cluster.session.failures import failure_of
from cluster.shard.system import nodes as requests
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import RegisteredNode
from cluster.transport.introduction import Introduced
from cluster.transport.peer_wire import PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Introduction

SKEW_MS_MAX = 2_000
"""A newcomer's clock may be off by this much: time in documents is the leader's, and anybody may lead."""
_log = logging.getLogger(__name__)


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Sponsor:
    """One member. clock_ms: Unix milliseconds."""

    def __init__(self, cluster_id: bytes, pump: Pump, decisions: Decisions, clock_ms: Callable[[], int] = wall_ms) -> None:
        self._cluster_id = cluster_id
        self._pump = pump
        self._decisions = decisions
        self._clock_ms = clock_ms

    async def answer(self, introduction: Introduction) -> Introduced:
        """What to tell whoever introduces itself."""
        try:
            await self._admit(introduction)
            decisions = self._pump.directory.encode()
            return Introduced(self._cluster_id.hex(), decisions, self._clock_ms(), cluster.__version__)
        except ClusterError as error:
            level = logging.DEBUG if error.retryable else logging.WARNING
            _log.log(level, "%s at %s:%d: %s", introduction.node, introduction.host, introduction.peer_port, error.message)
            return Introduced("", b"", self._clock_ms(), cluster.__version__, failure_of(error))
        except Exception as error:  # another release may have asked what this one does not take
            _log.exception("an introduction of %s failed", introduction.node)
            failed = InvalidRequest(f"the introduction failed: {type(error).__name__}")
            return Introduced("", b"", self._clock_ms(), cluster.__version__, failure_of(failed))

    async def _admit(self, introduction: Introduction) -> None:
        """Raises ClusterError."""
        self._check(introduction)
        if not self._pump.directory.decisions.nodes:
            raise Unavailable("this cluster is just being made", retry_after_ms=500)
        newcomer = _node_of(introduction)
        nodes = self._pump.directory.decisions.nodes
        if registry.registered(nodes, newcomer) is nodes:
            return
        if registry.find(nodes, newcomer.node) is None:
            self._check_clock(introduction)
        try:
            answer = await self._decisions.decide("node", as_listed(newcomer))
        except HandlerRefused as error:
            # Somebody else was registered meanwhile: once this node knows it too, it says itself what is wrong.
            registry.registered(self._pump.directory.decisions.nodes, newcomer)
            raise Unavailable(error.message, retry_after_ms=200) from None
        await self._decisions.learned(answer["version"])

    def _check(self, introduction: Introduction) -> None:
        if introduction.version_max < PROTOCOL_VERSION_MIN or introduction.version_min > PROTOCOL_VERSION_MAX:
            raise ReleaseMismatch(
                f"release {introduction.release} speaks protocol {introduction.version_min} to {introduction.version_max}, and "
                f"{self._pump.node} with release {cluster.__version__} speaks {PROTOCOL_VERSION_MIN} to "
                f"{PROTOCOL_VERSION_MAX}: start a release that is nearer to that of the cluster",
                release=cluster.__version__,
            )
        if introduction.cluster_id not in ("", self._cluster_id.hex()):
            raise WrongCluster(
                f"the data directory belongs to cluster {introduction.cluster_id}, and {self._pump.node} to "
                f"{self._cluster_id.hex()}",
                found=introduction.cluster_id,
            )

    def _check_clock(self, introduction: Introduction) -> None:
        skew_ms = introduction.wall_ms - self._clock_ms()
        if abs(skew_ms) > SKEW_MS_MAX:
            ahead = "ahead of" if skew_ms > 0 else "behind"
            raise ClockSkewed(
                f"its clock is {abs(skew_ms) / 1000:.1f} s {ahead} that of {self._pump.node}, and "
                f"{SKEW_MS_MAX / 1000:.0f} s is the limit: set it (NTP), then start the node again",
                skew_ms=skew_ms,
            )


def _node_of(introduction: Introduction) -> RegisteredNode:
    """Raises InvalidName or InvalidRequest for one that can not be a node."""
    fields = as_listed(
        RegisteredNode(
            NodeId(introduction.node),
            registry.Standing.ACTIVE,
            _directory(introduction.directory),
            introduction.host,
            introduction.peer_port,
            introduction.gossip_port,
            introduction.client_port,
            introduction.host_label,
            introduction.zone,
        )
    )
    try:
        request = msgspec.convert(fields, type=requests.Register)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    requests.check(request)
    return request.node_at(wall_ms())


def _directory(digits: str) -> bytes:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise InvalidRequest("the identity of a directory is written in hexadecimal digits") from None
