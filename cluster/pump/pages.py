"""A listing goes from shard to shard: the page token of a client says in which one it goes on, and where."""

from __future__ import annotations

import msgspec

from cluster.errors import InvalidRequest, Unavailable
from cluster.ids import ShardId
from cluster.session.failures import failure_of
from cluster.session.operations import Reply
from cluster.shardmap.map import ShardMap


class _Page(msgspec.Struct):
    """A page of a listing, as `cluster.shard.reading` makes it."""

    documents: msgspec.Raw
    next_page_token: str


_page_decoder = msgspec.json.Decoder(_Page)


def place_of(token: bytes, shards: ShardMap) -> tuple[ShardId, bytes]:
    """Where a listing goes on: the shard, and the token within it. Raises InvalidRequest."""
    first, _, rest = token.decode("ascii", "replace").partition(":")
    try:
        shard = ShardId(int(first)) if first else shards.shards[1].shard
    except ValueError:
        shard = None
    if shard is None or shards.get(shard) is None:
        raise InvalidRequest("the page token is not one of ours")
    return shard, rest.encode()


def next_page(reply: Reply, shard: ShardId, shards: list[ShardId]) -> Reply:
    """Point the token of a page of `shard` at the rest of this shard, or at the next one."""
    try:
        page = _page_decoder.decode(reply.payload)
    except msgspec.DecodeError:
        reply.failure = failure_of(Unavailable("the shard's leader sent a page that can not be read", retry_after_ms=50))
        return reply
    if page.next_page_token:
        page.next_page_token = f"{shard}:{page.next_page_token}"
    else:
        later = [each for each in shards if each > shard]
        page.next_page_token = f"{min(later)}:" if later else ""
    reply.payload = msgspec.json.encode(page)
    return reply
