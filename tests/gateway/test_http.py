"""Documents over HTTP: what clients are answered, what is hidden from them, and what never gets as far as a document."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from cluster.documents.bundle import Bundle
from cluster.errors import NotLeader, Overloaded
from cluster.gateway import http_server
from cluster.gateway.limits import Limits
from tests.gateway.http_serving import Answered, Browser, browsing
from tests.gateway.serving import eventually

NOTES = '''"""Notes."""
from html import escape
from cluster import (
    BadRequest, Command, Document, Principal, Record, Refused, Request, Response, anyone, field, on, read
)


class Full(Refused):
    """No more notes."""


class Note(Record):
    text: str
    stars: int = 0


class Notes(Document):
    """A few notes, for everybody of acme."""

    notes: list[Note] = field.public()

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.authority == "acme"

    @read.http("/")
    def page(self, who: Principal, request: Request) -> Response:
        return Response(f"<p>{escape(str(who))}</p>", media_type="text/html; charset=utf-8")

    @read.http("/echo/{number}/{word}")
    def echo(self, request: Request, number: int, word: str) -> str:
        return f"{number + 1}|{word}|{sorted(request.query.items())}|{sorted(request.headers.items())}|{request.path}"

    @read.http("/notes")
    def all(self) -> list[Note]:
        return list(self.notes)

    @read.http("/bug")
    def bug(self) -> str:
        return self.notes[99].text

    @read.http("/loop")
    def loop(self) -> str:
        n = 0
        while True:
            n += 1

    @read.http("/writes")
    def writes(self) -> str:
        self.notes.append(Note("written by a read"))
        return "written"

    @read.http("/bytes")
    def bytes_(self) -> Response:
        return Response(bytes([0, 255]), headers={"cache-control": "max-age=5", "etag": '"mine"'})

    @on.http("/notes")
    def add(self, ctx: Command, request: Request) -> int:
        if len(self.notes) >= 3:
            raise Full(len(self.notes))
        self.notes.append(request.json(Note))
        return len(self.notes)

    @on.http("/notes", method="DELETE")
    def clear(self, ctx: Command) -> None:
        self.notes.clear()

    @on.http("/raw")
    def raw(self, ctx: Command, request: Request) -> str:
        return f"{len(request.body)} {request.media_type} {ctx.sender}"

    @on.http("/broken")
    def broken(self, ctx: Command) -> None:
        self.notes.append(Note("rolled back"))
        self.notes[99].text = ""
'''
FILES = (
    ("notes/__init__.py", NOTES.encode()),
    ("notes/static/page.css", b"p { color: red }"),
    ("notes/static/run.py", b"raise SystemExit"),
    ("notes/static/sub/a.b.json", b"{}"),
)
NOTE = json.dumps({"text": "hello"}).encode()
JSON = {"content-type": "application/json"}


async def notes(browser: Browser) -> Browser:
    browser.backend.deploy("notes", Bundle("notes", FILES))
    browser.backend.create("notes", "one", "alice@acme")
    return browser


async def test_a_page_is_read_with_a_tag_by_which_it_is_not_sent_twice() -> None:
    async with browsing() as browser:
        await notes(browser)
        page = await browser.get("/notes/one/")
        assert (page.status, page.body) == (200, b"<p>alice@acme</p>")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "private, no-cache"
        assert page.headers["moot-position"] == "1.1"
        again = await browser.get("/notes/one/", {"if-none-match": page.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await browser.request("HEAD", "/notes/one/")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "17")


async def test_every_answer_forbids_frames_foreign_scripts_and_guesses_of_its_type() -> None:
    async with browsing() as browser:
        await notes(browser)
        answers = [
            await browser.get("/notes/one/"),
            await browser.get("/notes/two/"),
            await browser.post("/notes/one/notes", NOTE, JSON),
            await browser.get("/", {"host": "evil.example"}),
        ]
        for answer in answers:
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers


async def test_parameters_of_the_path_and_query_reach_the_handler_and_secrets_do_not() -> None:
    async with browsing() as browser:
        await notes(browser)
        browser.who = ""
        secrets = {"cookie": "a=b", "authorization": "Bearer x", "accept": "text/plain", "x-forwarded-for": "1.2.3.4"}
        answer = await browser.get("/notes/one/echo/41/a%20%C3%A9?b=2&a=%3D&as=bob%40acme&a=3", secrets)
        assert answer.body.decode() == "42|a é|[('a', '3'), ('b', '2')]|[('accept', 'text/plain')]|/echo/41/a é"
        assert (await browser.get("/notes/one/echo/x/y?as=bob@acme")).status == 404


async def test_a_write_is_one_command_and_its_answer_json() -> None:
    async with browsing() as browser:
        await notes(browser)
        first = await browser.post("/notes/one/notes", NOTE, JSON)
        assert (first.status, first.json, first.headers["cache-control"]) == (200, 1, "no-store")
        assert first.headers["moot-position"] == "1.2"
        assert (await browser.get("/notes/one/notes")).json == [{"text": "hello", "stars": 0}]
        cleared = await browser.request("DELETE", "/notes/one/notes")
        assert (cleared.status, cleared.body) == (204, b"")
        assert (await browser.get("/notes/one/notes")).json == []


async def test_under_one_idempotency_key_a_request_runs_once_and_another_under_it_is_refused() -> None:
    async with browsing() as browser:
        await notes(browser)
        named = {**JSON, "idempotency-key": "k1"}
        answers = [await browser.post("/notes/one/notes", NOTE, named) for _ in range(3)]
        assert [(answer.status, answer.json, answer.headers["moot-position"]) for answer in answers] == [(200, 1, "1.2")] * 3
        other = await browser.post("/notes/one/notes", b'{"text":"other"}', named)
        assert (other.status, other.reason) == (422, "KEY_REUSED")
        browser.who = "bob@acme"
        assert (await browser.post("/notes/one/notes", NOTE, named)).json == 2, "bob's key is another one"
        assert len((await browser.get("/notes/one/notes")).json) == 2


async def test_errors_of_authors_are_typed() -> None:
    async with browsing() as browser:
        await notes(browser)
        for _ in range(3):
            assert (await browser.post("/notes/one/notes", NOTE, JSON)).status == 200
        full = await browser.post("/notes/one/notes", NOTE, JSON)
        assert (full.status, full.reason) == (409, "HANDLER_REFUSED")
        assert full.error["details"] == {"name": "Full", "arguments": "[3]"}
        await browser.request("DELETE", "/notes/one/notes")
        unfit = await browser.post("/notes/one/notes", b'{"txt":1}', JSON)
        assert (unfit.status, unfit.error["details"]["name"]) == (400, "BadRequest")
        for answer in (await browser.get("/notes/one/bug"), await browser.post("/notes/one/broken")):
            assert (answer.status, answer.reason) == (500, "HANDLER_FAILED")
            assert re.fullmatch("[0-9a-f]{16}", answer.error["details"]["error_id"])
            assert b"IndexError" not in answer.body
        loop = await browser.get("/notes/one/loop")
        assert (loop.status, loop.reason, loop.error["details"]) == (500, "BUDGET_EXCEEDED", {"limit": "steps"})
        assert (await browser.get("/notes/one/writes")).reason == "HANDLER_FAILED"
        assert (await browser.get("/notes/one/notes")).json == [], "what failed, or only read, has written nothing"
        told = {failure.channel for failure in browser.backend.node.failures}
        assert {"http GET /bug", "http GET /writes", "-http"} <= told


def same(one: Answered, other: Answered) -> bool:
    return (one.status, one.headers, one.body) == (other.status, other.headers, other.body)


async def test_whom_the_gate_does_not_admit_finds_what_whoever_asks_for_nothing_finds() -> None:
    """Byte for byte, whatever is asked: pages, files, hooks, paths and methods that the class has and has not."""
    async with browsing() as browser:
        await notes(browser)
        browser.who = "eve@elsewhere"
        nothing = await browser.get("/notes/nothing/")
        assert (nothing.status, nothing.reason) == (404, "NOT_FOUND")
        for path in ("", "notes", "static/page.css", "bug", "none", "raw"):
            assert same(await browser.get(f"/notes/one/{path}"), nothing), path
            assert same(await browser.post(f"/notes/one/{path}", NOTE, JSON), nothing), path
            assert same(await browser.request("PUT", f"/notes/one/{path}"), nothing), path
        assert same(await browser.post("/notes/nothing/notes", NOTE, JSON), nothing)
        assert same(await browser.get("/nowhere/one/"), nothing)
        browser.who = "alice@acme"
        assert same(await browser.get("/notes/one/none"), nothing)
        assert same(await browser.post("/notes/one/none"), nothing)


async def test_who_is_admitted_is_told_what_methods_a_path_has() -> None:
    async with browsing() as browser:
        await notes(browser)
        for method, path, allow in (
            ("PUT", "notes", "DELETE, GET, HEAD, POST"),
            ("GET", "raw", "POST"),
            ("POST", "static/page.css", "GET, HEAD"),
            ("POST", "", "GET, HEAD"),
        ):
            answer = await browser.request(method, f"/notes/one/{path}")
            assert (answer.status, answer.reason, answer.headers["allow"]) == (405, "UNKNOWN_ROUTE", allow)
        for method in ("OPTIONS", "TRACE", "BREW"):
            answer = await browser.request(method, "/notes/one/notes")
            assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, PATCH, POST, PUT")
        after = await browser.get("/notes/one/")
        assert after.headers["moot-position"] == "1.1", "nothing of it was logged"


async def test_files_are_served_by_their_exact_path_and_never_run() -> None:
    async with browsing() as browser:
        await notes(browser)
        sheet = await browser.get("/notes/one/static/page.css")
        assert (sheet.status, sheet.body) == (200, b"p { color: red }")
        assert sheet.headers["content-type"] == "text/css; charset=utf-8"
        assert sheet.headers["cache-control"] == "private, no-cache"
        tag = sheet.headers["etag"]
        assert (await browser.get("/notes/one/static/page.css", {"if-none-match": f'"x", {tag}'})).status == 304
        forever = await browser.get(f"/notes/one/static/page.css?v={tag[1:-1]}")
        assert "immutable" in forever.headers["cache-control"]
        assert (await browser.get("/notes/one/static/run.py")).body == b"raise SystemExit"
        assert (await browser.get("/notes/one/static/sub/a.b.json")).headers["content-type"] == "application/json"
        for path in ("static", "static/", "static/page", "static/sub", "static/page.css/", "static//page.css", "__init__.py"):
            assert (await browser.get(f"/notes/one/{path}")).status == 404, path
        for path in (
            "static/../__init__.py",
            "static/%2e%2e/__init__.py",
            "static/..%2f__init__.py",
            "static/%2Fetc",
            "./notes",
        ):
            assert (await browser.get(f"/notes/one/{path}")).status == 400, path


async def test_a_key_is_one_part_of_the_path_whatever_is_in_it() -> None:
    async with browsing() as browser:
        browser.backend.deploy("notes", Bundle("notes", FILES))
        for key, written in (("a/b", "a%2Fb"), ("é ?&#", "%C3%A9%20%3F%26%23"), ("%41", "%2541")):
            browser.backend.create("notes", key, "alice@acme")
            assert (await browser.get(f"/notes/{written}/")).status == 200
            moved = await browser.get(f"/notes/{written}?as=alice@acme")
            assert (moved.status, moved.headers["location"]) == (307, f"/notes/{written}/?as=alice@acme")
        for path in (
            "/",
            "/notes",
            "/notes/",
            "/Notes/one/",
            "/notes/%00/",
            "//one/",
            "/favicon.ico",
            "/notes/" + "k" * 600 + "/",
        ):
            assert (await browser.get(path)).status == 404, path
        assert (await browser.get("//evil.example/%2e%2e?as=a@b")).status == 404
        assert (await browser.get("/notes/" + "k" * 600 + "/")).status == 404


async def test_who_asks_is_named_once_and_is_not_the_cluster() -> None:
    async with browsing() as browser:
        await notes(browser)
        browser.who = ""
        refused = await browser.get("/notes/one/")
        assert (refused.status, refused.reason) == (401, "UNAUTHENTICATED")
        assert "?as=" in refused.error["next"]
        assert (await browser.get("/notes/one/?as=bob@acme")).body == b"<p>bob@acme</p>"
        assert (await browser.get("/notes/one/?as=bob@acme", {"moot-principal": "alice@acme"})).status == 401
        for name in ("bob", "system:time@moot", "", "@", "a@b%7f"):
            assert (await browser.get(f"/notes/one/?as={name}")).status == 401, name


async def test_what_a_page_names_is_asked_for_by_whom_the_page_was_for() -> None:
    async with browsing() as browser:
        await notes(browser)
        browser.who = ""
        page = f"http://127.0.0.1:{browser.port}/notes/one/?as=bob@acme"
        sent = await browser.post("/notes/one/raw", b"x", {"referer": page})
        assert sent.body == b"1  bob@acme"
        image = await browser.get("/notes/one/static/page.css", {"referer": page, "sec-fetch-dest": "image"})
        assert image.status == 200
        sheet = await browser.get("/notes/one/static/page.css", {"referer": page, "sec-fetch-dest": "style"})
        assert (sheet.status, sheet.headers["location"]) == (307, "/notes/one/static/page.css?as=bob%40acme")
        for foreign in (
            "http://evil.example/?as=bob@acme",
            "http://evil.example/http://127.0.0.1:1/?as=bob@acme",
            "about:blank",
        ):
            assert (await browser.post("/notes/one/raw", b"x", {"referer": foreign})).status == 401, foreign


async def test_other_sites_and_other_names_of_this_machine_are_refused() -> None:
    """A foreign name that resolves to 127.0.0.1 (DNS rebinding), and foreign pages that send forms here."""
    async with browsing() as browser:
        await notes(browser)
        for headers in (
            {"host": f"evil.example:{browser.port}"},
            {"host": "127.0.0.1"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": f"http://127.0.0.1:{browser.port + 1}"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            answer = await browser.post("/notes/one/notes?as=alice@acme", NOTE, {**JSON, **headers})
            assert (answer.status, answer.reason) == (403, "PERMISSION_DENIED"), headers
        assert browser.backend.commands() == 0
        own = {
            "origin": f"http://localhost:{browser.port}",
            "host": f"localhost:{browser.port}",
            "sec-fetch-site": "same-origin",
        }
        assert (await browser.post("/notes/one/notes", NOTE, {**JSON, **own})).status == 200


async def test_what_is_too_large_is_refused_by_the_limit_that_it_exceeds() -> None:
    async with browsing() as browser:
        await notes(browser)
        assert (await browser.post("/notes/one/raw", b"\xff" * (256 * 1024))).body == b"262144  alice@acme"
        for method, path, body, headers, status, limit in (
            ("POST", "raw", b"x" * (256 * 1024 + 1), {}, 413, "request_body_bytes_max"),
            ("GET", "echo/1/" + "x" * 2000, b"", {}, 414, "request_path_bytes_max"),
            ("GET", "echo/1/x?q=" + "x" * 9000, b"", {}, 414, "request_query_bytes_max"),
            ("GET", "echo/1/x", b"", {"accept": "x" * 3000}, 431, "request_header_bytes_max"),
            ("POST", "raw", b"", {"idempotency-key": "x" * 65}, 431, "request_header_bytes_max"),
        ):
            answer = await browser.request(method, f"/notes/one/{path}", body, headers)
            assert (answer.status, answer.reason, answer.error["details"]["limit"]) == (status, "TOO_LARGE", limit)
        unended = f"POST /notes/one/raw HTTP/1.1\r\nhost: 127.0.0.1:{browser.port}\r\nmoot-principal: a@acme\r\n"
        said = await browser.raw(f"{unended}content-length: 99999999999\r\nconnection: close\r\n\r\n".encode())
        assert said.status == 413, "by what it says, before it has sent it"
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        chunked = await browser.raw(f"{unended}transfer-encoding: chunked\r\nconnection: close\r\n\r\n".encode() + chunk * 5)
        assert chunked.status == 413


async def test_waiting_is_worth_it_where_retry_after_says_so() -> None:
    async with browsing(Limits(unary_timeout_ms=200)) as browser:
        await notes(browser)
        browser.backend.failing = [NotLeader("not here"), NotLeader("nor here")]
        assert (await browser.get("/notes/one/")).status == 200, "the edge has tried again by itself"
        browser.backend.failing = [Overloaded("full", retry_after_ms=2500)]
        full = await browser.get("/notes/one/")
        assert (full.status, full.headers["retry-after"], full.error["retryable"]) == (429, "3", True)
        browser.backend.mute = True
        late = await browser.get("/notes/one/")
        assert (late.status, late.reason, late.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        lost = await browser.post("/notes/one/raw", b"x")
        assert (lost.status, lost.reason, lost.error["applied"]) == (504, "OUTCOME_UNKNOWN", "unknown")
        assert "Idempotency-Key" in lost.error["next"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\x16\x03\x01garbage\r\n\r\n",
        b"GET /notes/one/ HTTP/9.9\r\n\r\n",
        b"GET /notes/one/ HTTP/1.1\r\n\r\n",
        b"GET /notes/one/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /notes/one/raw HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST /notes/one/raw HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_garbage_gets_an_error_and_the_next_request_its_answer(garbage: bytes) -> None:
    async with browsing() as browser:
        await notes(browser)
        assert (await browser.raw(garbage)).status in (400, 403, 431, 501)
        assert (await browser.get("/notes/one/")).status == 200


async def test_a_connection_that_brings_no_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow senders of a head hold nothing for long."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_MS", 100)
    async with browsing() as browser:
        for begun in (b"", b"GET / HTTP/1.1\r\nhost: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", browser.port)
            writer.write(begun)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()


async def test_stopping_answers_what_is_under_way() -> None:
    async with browsing(Limits(unary_timeout_ms=300)) as browser:
        await notes(browser)
        browser.backend.mute = True
        asked = asyncio.create_task(browser.get("/notes/one/"))
        await eventually(lambda: any(operation.channel == "-http" for operation in browser.backend.seen))
    assert (await asked).status == 503
