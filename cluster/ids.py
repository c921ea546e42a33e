"""Names of things: nodes, shards, replicas, documents, principals, positions.

Every name that crosses a wire or reaches a disk is checked here, once, on the way in. Below this module
names are trusted. Nothing here knows about clocks, sockets or storage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

from cluster.errors import InvalidName

NodeId = NewType("NodeId", str)
ShardId = NewType("ShardId", int)
ReplicaId = NewType("ReplicaId", int)
"""One copy of one shard for its whole life. Never reused, not even after a wipe (reference trap 12)."""
Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)

SYSTEM_SHARD = ShardId(0)

SPACE_BYTES_MAX = 63
KEY_BYTES_MAX = 512
AGENT_BYTES_MAX = 256
CHANNEL_BYTES_MAX = 63
NAMES_KEPT_MAX = 4096
"""Legal names that are remembered, so that each is looked at once. A refusal is not."""

_SPACE = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_CHANNEL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}\Z")
_NODE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A document's place. Ordered: a later epoch is after every index of an earlier one.

    epoch: rises when history is cut or replaced (delete and recreate, restore, unsafe recovery).
    index: the document's own command counter, 0 before creation. It is not the Raft index.
    """

    epoch: int
    index: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.index}"


@dataclass(frozen=True, slots=True, order=True)
class Principal:
    """Who acts: `agent@authority`, for example `alice@acme`."""

    agent: str
    authority: str

    def __str__(self) -> str:
        return f"{self.agent}@{self.authority}"

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Read `agent@authority`. Raises InvalidName; nothing is affected."""
        agent, at, authority = text.rpartition("@")
        if not at or not agent or not authority:
            raise InvalidName(f"principal {text!r} is not of the form agent@authority")
        _check_text("principal", text, AGENT_BYTES_MAX)
        return cls(agent, authority)


@dataclass(frozen=True, slots=True, order=True)
class DocumentId:
    """A document's address: `space/key`."""

    space: str
    key: str

    def __str__(self) -> str:
        return f"{self.space}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> DocumentId:
        """Read `space/key`. Raises InvalidName; nothing is affected."""
        space, slash, key = text.partition("/")
        if not slash:
            raise InvalidName(f"document address {text!r} is not of the form space/key")
        check_space(space)
        check_key(key)
        return cls(space, key)


@lru_cache(NAMES_KEPT_MAX)
def check_space(name: str) -> None:
    """Raise InvalidName unless `name` is a lower-case identifier of at most 63 characters."""
    if not _SPACE.match(name):
        raise InvalidName(f"space name {name!r} must match [a-z][a-z0-9_-]* with at most {SPACE_BYTES_MAX} characters")


def check_key(key: str) -> None:
    """Raise InvalidName unless `key` is 1..512 bytes of UTF-8 without control characters or lone surrogates."""
    _check_text("document key", key, KEY_BYTES_MAX)


@lru_cache(NAMES_KEPT_MAX)
def check_channel(name: str) -> None:
    """Raise InvalidName unless `name` can be the name of a handler."""
    if not _CHANNEL.match(name):
        raise InvalidName(f"channel name {name!r} must match [A-Za-z][A-Za-z0-9_]* with at most {CHANNEL_BYTES_MAX} characters")


def check_node(name: str) -> None:
    """Raise InvalidName unless `name` is a lower-case host-like name of at most 63 characters."""
    if not _NODE.match(name):
        raise InvalidName(f"node name {name!r} must match [a-z0-9][a-z0-9._-]* with at most 63 characters")


def _check_text(what: str, text: str, bytes_max: int) -> None:
    if text.isascii() and text.isprintable():
        size = len(text)
    else:
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise InvalidName(f"{what} contains a lone surrogate") from None
        if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text):
            raise InvalidName(f"{what} contains a control character")
    if not 1 <= size <= bytes_max:
        raise InvalidName(f"{what} must have 1 to {bytes_max} bytes, has {size}")
