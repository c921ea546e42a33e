"""The bounds of one gateway, each with a name. Beyond a bound the caller gets a typed refusal; nothing is dropped silently.

These bound the edge: what one connection can make a node hold. What a document accepts is bounded by its space's settings,
which are logged; a gateway's bounds are node configuration and never decide an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import ConfigurationInvalid

IDEMPOTENCY_KEY_BYTES_MADE = 16
IDEMPOTENCY_KEY_BYTES_MAX = 64
CLIENT_NAME_BYTES_MAX = 128
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
PAGE_TOKEN_BYTES_MAX = 2048
NUMBER_MAX = 2**53 - 1
"""Largest sequence, epoch or index that is believed: far above any real one, and exact in every client's number type."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a gateway.

    frame_bytes_max: one received message; enforced by gRPC before anything is decoded.
    operations_max: operations in one session frame.
    open_operations_max: operations of one session whose reply has not left yet.
    watches_max: watches of one session.
    payload_bytes_max: one payload.
    watch_credit_bytes: credit of a watch that asks for none in particular; watch_credit_bytes_max: the most that counts.
    response_frame_bytes: a session frame takes no further event beyond this (one event may be larger than it).
    outgoing_bytes_pause: with more than this waiting to be written, a session's frames are not read.
    outgoing_bytes_max: with more than this waiting, a session is ended: its reader is too slow.
    write_timeout_ms: a frame that can not be written for this long ends its session.
    open_timeout_ms: a session must open within this time of its first byte.
    unary_timeout_ms: for a unary call that comes without a deadline.
    calls_max: RPCs under way in the whole gateway. unary_open_max: unary operations waiting for the backend.
    """

    frame_bytes_max: int = 4 * 1024 * 1024
    operations_max: int = 4096
    open_operations_max: int = 16384
    watches_max: int = 1024
    payload_bytes_max: int = 1024 * 1024
    watch_credit_bytes: int = 256 * 1024
    watch_credit_bytes_max: int = 4 * 1024 * 1024
    response_frame_bytes: int = 1024 * 1024
    outgoing_bytes_pause: int = 2 * 1024 * 1024
    outgoing_bytes_max: int = 32 * 1024 * 1024
    write_timeout_ms: int = 30_000
    open_timeout_ms: int = 10_000
    unary_timeout_ms: int = 30_000
    calls_max: int = 10_000
    unary_open_max: int = 16384

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigurationInvalid(f"gateway limit {name} must be at least 1, is {getattr(self, name)}")
        if self.payload_bytes_max >= self.frame_bytes_max:
            raise ConfigurationInvalid("gateway limit payload_bytes_max must be below frame_bytes_max")
        if self.outgoing_bytes_pause >= self.outgoing_bytes_max:
            raise ConfigurationInvalid("gateway limit outgoing_bytes_pause must be below outgoing_bytes_max")
