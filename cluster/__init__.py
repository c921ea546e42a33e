"""Moot keeps documents alive: what a document's author imports, and the map of the tree.

    from cluster import Command, Document, anyone, field, on, read

Everything that an author needs is a name of this package; a name is looked up when it is first used, so tools that only want
`cluster.ids` do not load the document runtime.

    Command      the running command: sender, now, random, index, new_id(), after(), at(), every(), ask(), cancel(),
                 emit()
    Document     the base class of all documents            on      what may write: construct, message, alarm, answer, http
    Event        the base class of what is emitted
    Record       the base class of an author's values       read    functions that may not: gate, policy, view, http
    Refused      the base class of declared refusals        field   state: public, private, visible
    Table Text OrderedSet   containers of state             anyone  the gate that admits everybody
    Tally        a number that many add to                  latest  the newest rows, as the window of a table
    Principal    who acts                                   StaleEdit   a Text edit of a past that is no longer kept
    Random       what ctx.random is                         Before      in an upgrade hook: the old fields
    Blob         a file in the state, seen by its hash
    Maybe        a value, or nothing: what answers come as  Presence    what connections show each other
    Request Response        HTTP, as handlers see it        BadRequest  a refusal: the request can not be read

Reading order is request order; a module imports only from layers below its own.

    cli/          the command `moot`
    node/         the composition root: clocks, sockets, disks around the pump
    gateway/      public gRPC                    transport/   frames between nodes          client/   the Python client
    pump/         one turn: drain, step, one write batch, one fsync, one frame per peer
    router/       key -> the node that leads     placement/   repair, drain, balance, split
    shard/        one replica of one shard: raft and documents -> effects
    session/      both halves of the client protocol: sequence, resume, credit
    storage/      raft log, records, history; the engines under them
    documents/    the deterministic runtime: bundles, budget, state, views
    raft/         consensus                      gossip/      who is alive                  shardmap/ key hash and intervals
    ids.py        names                          errors.py    every error                   config.py settings of a node
    simulate/     a cluster of one inside a test, and pytest_plugin.py for pytest
    replay/      the past of a document, from its history
    stubs/        typed clients, generated from a schema                    web/         the page of `moot dev`
    examples/     document types that work: counter, text, chat, tictactoe, poll, cards, auction, dice, assistant, visitors
    v1/           code generated from proto/cluster/v1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.documents.context import Command, Random
    from cluster.documents.declare import Before, Document, anyone, field, on, read
    from cluster.documents.maybe import Maybe
    from cluster.documents.presence import Presence
    from cluster.documents.requests import BadRequest, Request, Response
    from cluster.documents.state import Blob, Event, OrderedSet, Record, Refused, StaleEdit, Table, Tally, Text, latest
    from cluster.ids import Principal

__version__ = "0.1.0"
__all__ = [
    "BadRequest",
    "Before",
    "Blob",
    "Command",
    "Document",
    "Event",
    "Maybe",
    "OrderedSet",
    "Presence",
    "Principal",
    "Random",
    "Record",
    "Refused",
    "Request",
    "Response",
    "StaleEdit",
    "Table",
    "Tally",
    "Text",
    "anyone",
    "field",
    "latest",
    "on",
    "read",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cluster.documents.facades import AUTHOR_NAMES

    globals().update(AUTHOR_NAMES)
    return AUTHOR_NAMES[name]
