"""Pictures through real processes: sent, seen, read by whom they are shown to, and there after the leader has died."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Blob
from cluster.errors import InvalidRequest, TooLarge, UnknownBlob
from cluster.session.client_events import Settings
from cluster.session.operations import Consistency
from cluster.v1 import documents_pb2 as wire
from tests.cli.terminal import moot
from tests.end_to_end.wire_calls import Refusal, call

PATIENT = Settings(operation_timeout_ms=20_000)
PICTURE = Blob(bytes(range(256)) * 1000, "image/png")


async def test_a_picture_outlives_the_leader_and_is_read_by_those_who_see_it(folder: Path) -> None:
    async with LiveCluster(folder, shards=2) as live:
        await live.deploy("album", example("album"))
        leader = await live.leader_of("album", "wall")
        others = [node for node in live.nodes if node is not leader]
        async with (
            live.client(*others, principal="alice@acme", settings=PATIENT) as alice,
            live.client(*others, principal="bob@acme", settings=PATIENT) as bob,
        ):
            wall = alice.document("album", "wall")
            answer = await wall.send("hang", {"picture": PICTURE, "caption": "all bytes"})
            assert answer.value == PICTURE.hash
            with pytest.raises(TooLarge, match="at most 262144"):
                await wall.send("hang", b'{"picture":{"data":"%b"}}' % (b"AAAA" * 90_000))

            await live.kill(leader)
            found = await wall.blob(PICTURE.hash)
            assert (found.data, found.media_type) == (PICTURE.data, "image/png")
            his = bob.document("album", "wall")
            for hash in (PICTURE.hash, Blob(b"never").hash):
                with pytest.raises(UnknownBlob):
                    await his.blob(hash)
            with pytest.raises(InvalidRequest):
                await his.blob("../etc/passwd")
            shown = await wall.send("show", {"hash": PICTURE.hash, "cover": True})
            (photo,) = (await his.read()).value["photos"].values()
            assert photo["picture"] == {"hash": PICTURE.hash, "size": 256_000, "media_type": "image/png"}
            assert (await his.blob(PICTURE.hash)).data == PICTURE.data
            anywhere = await his.blob(PICTURE.hash, consistency=Consistency.AT_LEAST, at_least=shown.position)
            assert anywhere == PICTURE
        live.start_all()
        await live.healthy()
        replicas = await live.converged("album", "wall", shown.position.index)
        assert len({bytes(replica.record_hash) for replica in replicas.values()}) == 1, "the same bytes, replayed or not"
        assert {replica.state_bytes > PICTURE.size for replica in replicas.values()} == {True}
        survivor, bob_himself = others[0].address, (("moot-principal", "bob@acme"),)
        request = wire.ReadBlobRequest(document=wire.Document(space="album", key="wall"), hash=PICTURE.hash)
        answered = await call(survivor, "ReadBlob", request, bob_himself)
        assert isinstance(answered, bytes)
        response = wire.ReadBlobResponse.FromString(answered)
        assert (response.data, response.media_type) == (PICTURE.data, "image/png")
        request.hash = Blob(b"never").hash
        refused = await call(survivor, "ReadBlob", request, bob_himself)
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.reason, refused.applied) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_BLOB", "no")
        saved = folder / "saved.png"
        options = ("--output", str(saved), "--as", "bob@acme", "--address", survivor)
        done = moot("doc", "blob", "album/wall", PICTURE.hash, *options, "--json", cwd=folder)
        assert done.json == {
            "document": "album/wall", "hash": PICTURE.hash, "size": 256_000, "media_type": "image/png", "output": str(saved),
        }  # fmt: skip
        assert saved.read_bytes() == PICTURE.data
