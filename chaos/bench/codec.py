"""What a frame of operations costs to encode and to decode: msgspec arrays against protobuf messages. Prints one table.

    python -m chaos.bench.codec

This is the measurement behind decision record 0002. One frame carries 256 sends of 100 bytes each; both sides make the same
objects a node works with, so decoding includes their construction.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable

import msgspec

from cluster.session.operations import Kind, Operation
from cluster.v1 import documents_pb2

PAYLOAD = b'{"text":"' + b"x" * 89 + b'"}'
REPEATS = 5


def structs(count: int) -> list[Operation]:
    return [
        Operation(
            id=number,
            kind=Kind.SEND,
            space="chat",
            key=f"room-{number % 16}",
            principal="alice@acme",
            channel="say",
            payload=PAYLOAD,
            session=b"s" * 16,
            sequence=number,
        )
        for number in range(1, count + 1)
    ]


def protobufs(operations: list[Operation]) -> documents_pb2.SessionRequest:
    return documents_pb2.SessionRequest(
        operations=[
            documents_pb2.Operation(
                id=operation.id,
                document=documents_pb2.Document(space=operation.space, key=operation.key),
                sequence=operation.sequence,
                send=documents_pb2.Send(channel=operation.channel, payload=operation.payload),
            )
            for operation in operations
        ]
    )


def read_protobuf(frame: bytes) -> list[Operation]:
    """A frame of the public protocol, turned into what the node works with."""
    request = documents_pb2.SessionRequest.FromString(frame)
    return [
        Operation(
            id=operation.id,
            kind=Kind.SEND,
            space=operation.document.space,
            key=operation.document.key,
            principal="alice@acme",
            channel=operation.send.channel,
            payload=operation.send.payload,
            session=b"s" * 16,
            sequence=operation.sequence,
        )
        for operation in request.operations
    ]


def microseconds(work: Callable[[], object], operations: int, loops: int) -> float:
    """Best of several runs, per operation: the best has the least of other processes in it."""
    return min(timeit.repeat(work, number=loops, repeat=REPEATS)) / loops / operations * 1e6


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m chaos.bench.codec", description="Cost of a frame of operations.")
    parser.add_argument("--operations", type=int, default=256)
    parser.add_argument("--loops", type=int, default=200)
    options = parser.parse_args(arguments)
    operations = structs(options.operations)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(list[Operation])
    packed = encoder.encode(operations)
    message = protobufs(operations).SerializeToString()
    assert decoder.decode(packed) == read_protobuf(message) == operations
    print(f"{options.operations} sends of {len(PAYLOAD)} B a frame, microseconds per operation")
    print("                 encode    decode   bytes per operation")
    for name, encode, decode, size in (
        ("msgspec", lambda: encoder.encode(operations), lambda: decoder.decode(packed), len(packed)),
        ("protobuf", lambda: protobufs(operations).SerializeToString(), lambda: read_protobuf(message), len(message)),
    ):
        costs = [microseconds(work, options.operations, options.loops) for work in (encode, decode)]
        print(f"{name:<12}{costs[0]:>11.2f}{costs[1]:>10.2f}{size / options.operations:>12.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
