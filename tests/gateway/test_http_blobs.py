"""The files of a document's state over HTTP: to whom they are given, and how they stand in a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cluster.documents.state.blob import Blob, as_sent
from cluster.examples import album
from cluster.session.operations import Kind, Operation
from tests.gateway.http_serving import Answered, Browser, browsing

ALBUM = Path(album.__file__).read_text()
PICTURE = Blob(bytes(range(256)) * 1000, "image/png")


def send(browser: Browser, channel: str, payload: object, who: str = "alice@acme") -> None:
    node = browser.backend.node
    replies: list[Any] = []
    operation = Operation(1, Kind.SEND.value, "album", "wall", who, channel, json.dumps(payload).encode(), os.urandom(16))
    node.submit(node.open_stream(replies.extend), [operation], [])
    node.run()
    assert replies[0].failure is None, replies[0].failure


async def got(browser: Browser, hash: str, who: str = "alice@acme", **headers: str) -> Answered:
    browser.who = who
    return await browser.get(f"/album/wall/-blob/{hash}", {name.replace("_", "-"): value for name, value in headers.items()})


async def test_a_picture_is_given_to_whom_it_is_shown_and_is_nothing_to_everybody_else() -> None:
    async with browsing() as browser:
        browser.backend.deploy("album", ALBUM)
        browser.backend.create("album", "wall", "alice@acme")
        send(browser, "hang", {"picture": as_sent(PICTURE)})
        shown = await got(browser, PICTURE.hash)
        assert (shown.status, shown.headers["content-type"], shown.body) == (200, "image/png", PICTURE.data)
        hidden, absent = [await got(browser, hash, "bob@acme") for hash in (PICTURE.hash, Blob(b"never").hash)]
        assert (hidden.status, hidden.body) == (404, absent.body)
        missing = await browser.get(f"/album/none/-blob/{PICTURE.hash}")
        assert missing.body == absent.body
        send(browser, "show", {"hash": PICTURE.hash})
        seen = await got(browser, PICTURE.hash, "bob@acme")
        assert seen.body == PICTURE.data
        again = await got(browser, PICTURE.hash, "bob@acme", if_none_match=seen.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert (await browser.request("HEAD", f"/album/wall/-blob/{PICTURE.hash}")).headers["content-length"] == "256000"


async def test_a_file_that_a_browser_could_run_is_saved_instead() -> None:
    async with browsing() as browser:
        browser.backend.deploy("album", ALBUM)
        browser.backend.create("album", "wall", "alice@acme")
        for media_type in ("text/html", "image/svg+xml", "text/javascript", "application/pdf"):
            script = Blob(b"<script>alert(1)</script>", media_type)
            send(browser, "hang", {"picture": as_sent(script)})
            answer = await got(browser, script.hash)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment;")
            assert answer.headers["x-content-type-options"] == "nosniff"
            send(browser, "take_down", {"hash": script.hash})


async def test_what_can_not_be_a_hash_is_a_path_like_any_other() -> None:
    async with browsing() as browser:
        browser.backend.deploy("album", ALBUM)
        browser.backend.create("album", "wall", "alice@acme")
        for path in ("-blob/", "-blob/tea", "-blob/" + "A" * 64, "-blob/" + "a" * 64 + "/x", "-blobs/" + "a" * 64):
            assert (await browser.get(f"/album/wall/{path}")).status == 404
        assert (await browser.post(f"/album/wall/-blob/{PICTURE.hash}")).status == 404
