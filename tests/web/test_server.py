"""The page of `moot dev` over HTTP: what it does for its author, and what it refuses to everybody else."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from cluster.cli.local_commands import example
from cluster.web.server import PAGE_RULES
from tests.web.serving import live, serving

NOTES = '''"""Notes."""
from datetime import timedelta
from cluster import Command, Document, Refused, anyone, field, on


class Full(Refused):
    """No more notes."""


class Notes(Document, version=1):
    """A few notes."""

    gate = anyone

    lines: list[str] = field.public()
    rung: bool = field.public(False)

    @on.message
    def add(self, ctx: Command, line: str) -> int:
        if len(self.lines) == 2:
            raise Full()
        self.lines.append(line[0] + line[1:])
        return len(self.lines)

    @on.message
    def ring(self, ctx: Command) -> None:
        ctx.after(timedelta(milliseconds=200), self.bell)

    @on.alarm
    def bell(self, ctx: Command) -> None:
        self.rung = True
'''


ERRANDS = '''"""Errands."""
from datetime import timedelta
from cluster import Blob, Command, Document, Maybe, Principal, Record, anyone, field, on, read


class Offer(Record):
    what: str
    cents: int


class Errands(Document):
    gate = anyone

    said: list[str] = field.public()
    picture: Blob | None = field.public(None)

    @on.message
    def offer(self, ctx: Command, to: Principal, what: str) -> None:
        ctx.ask(to, Offer(what, 500), then=self.settled, within=timedelta(days=1))

    @on.answer
    def settled(self, ctx: Command, yes: Maybe[bool]) -> str:
        self.said.append(f"{ctx.sender.agent} {yes.get(False)}")
        return "thanks"

    @on.message
    def say(self, ctx: Command, text: str) -> None:
        self.said.append(text)

    @on.message
    def hang(self, ctx: Command, picture: Blob) -> str:
        self.picture = picture
        return picture.hash

    @read.view
    def found(self, word: str, limit: int = 2) -> list[str]:
        return [line for line in self.said if word in line][:limit]
'''


@pytest.fixture(name="errands")
def errands_file(tmp_path: Path) -> Path:
    path = tmp_path / "errands.py"
    path.write_text(ERRANDS)
    return path


@pytest.fixture(name="notes")
def notes_file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.py"
    path.write_text(NOTES)
    return path


def save(path: Path, text: str) -> None:
    """As an editor does."""
    path.write_text(text)


async def test_both_principals_are_pushed_what_each_may_see() -> None:
    async with serving(example("cards")) as page, live(page, "alice") as alice, live(page, "ben@acme") as ben:
        absent = await ben.until("view", lambda state: True)
        assert absent["ended"]["reason"] == "UNKNOWN_DOCUMENT"
        assert (await page.send("alice", "")).status == 200
        assert (await page.send("ben@acme", "sit")).json == {"answer": None, "position": "1.2"}
        assert (await page.send("alice", "deal")).status == 200
        for stream, name in ((alice, "alice@local"), (ben, "ben@acme")):
            state = await stream.until("view", lambda state: state["view"] is not None and state["view"]["top"] is not None)
            assert {held["owner"] for held in state["view"]["hands"].values()} == {name}


async def test_answers_refusals_and_bugs_of_the_author_come_back_typed(notes: Path) -> None:
    async with serving(notes) as page:
        await page.send("alice", "")
        assert (await page.send("alice", "add", line="a")).json["answer"] == 1
        failed = await page.send("alice", "add", line="")
        assert failed.reason == "HANDLER_FAILED"
        assert "notes.py, line 22, in add\n    self.lines.append(line[0] + line[1:])" in failed.json["error"]["frames"]
        await page.send("alice", "add", line="b")
        refused = await page.send("alice", "add", line="c")
        assert (refused.reason, refused.json["error"]["details"]["name"]) == ("HANDLER_REFUSED", "Full")
        assert (await page.send("alice", "add", lime="c")).reason == "INVALID_PAYLOAD"
        assert (await page.send("alice", "sing")).reason == "UNKNOWN_CHANNEL"


async def test_what_is_asked_of_a_person_is_shown_to_that_person_alone_and_answered(errands: Path) -> None:
    async with serving(errands) as page, live(page, "alice") as alice, live(page, "ben") as ben:
        await page.send("alice", "")
        await page.send("alice", "offer", to="ben@local", what="milk")
        asked = (await ben.until("view", lambda state: state["asks"]))["asks"]
        assert [(one["handler"], one["request"]) for one in asked] == [("settled", {"what": "milk", "cents": 500})]
        state = await alice.until("view", lambda state: state["position"] == "1.2")
        assert state["asks"] == []
        answer = {"as": "ben", "key": "main", "ask": asked[0]["ask"], "value": True}
        assert (await page.post("/api/answer", {**answer, "as": "alice"})).reason == "ASK_CLOSED"
        assert (await page.post("/api/answer", {**answer, "value": "perhaps"})).reason == "INVALID_PAYLOAD"
        assert (await page.post("/api/answer", answer)).json == {"answer": "thanks", "position": "1.3"}
        state = await ben.until("view", lambda state: not state["asks"])
        assert state["view"]["said"] == ["ben True"]
        assert (await page.post("/api/answer", answer)).reason == "ASK_CLOSED"


async def test_views_are_asked_with_arguments_now_and_in_the_past(errands: Path) -> None:
    async with serving(errands) as page, live(page, "alice") as alice, live(page, "ben") as ben:
        schema = (await page.get("/api/code")).json["schema"]["views"]["found"]["arguments"]
        assert schema["required"] == ["word"]
        assert schema["properties"]["limit"]["default"] == 2
        await page.send("alice", "")
        for text in ("tea", "teapot", "coffee", "steam"):
            await page.send("alice", "say", text=text)
        assert "found" not in (await alice.until("view", lambda state: state["position"] == "1.5"))["view"]
        wanted = {"as": "alice", "key": "main", "arguments": {"found": {"word": "tea"}}}
        assert (await page.post("/api/arguments", wanted)).status == 200
        state = await alice.until("view", lambda state: state["arguments"])
        assert state["view"]["found"] == ["tea", "teapot"]
        refused = await page.post("/api/arguments", {**wanted, "arguments": {"found": {"word": "tea", "limit": "many"}}})
        assert (refused.reason, refused.json["error"]["details"]["argument"]) == ("INVALID_ARGUMENTS", "limit")
        await page.post("/api/arguments", {**wanted, "arguments": {"found": {"word": "tea", "limit": 9}}})
        state = await alice.until("view", lambda state: len(state["view"]["found"]) == 3)
        assert state["arguments"] == {"found": {"word": "tea", "limit": 9}}
        assert (await ben.until("view", lambda state: state["position"] == "1.5"))["arguments"] == {}
        then = (await page.get("/api/past?key=main&step=3&as=alice&as=ben")).json
        assert then["views"][0]["view"]["found"] == ["tea", "teapot"]
        assert "found" not in then["views"][1]["view"]


async def test_arguments_of_a_view_that_the_newest_code_has_no_more_are_dropped(errands: Path) -> None:
    async with serving(errands) as page, live(page, "alice") as alice:
        await page.send("alice", "")
        await page.send("alice", "say", text="tea")
        await page.post("/api/arguments", {"as": "alice", "key": "main", "arguments": {"found": {"word": "tea"}}})
        await alice.until("view", lambda state: state["arguments"])
        save(errands, ERRANDS.replace("def found(", "def matching("))
        await alice.until("code", lambda code: code["saves"] == 2)
        await page.send("alice", "say", text="coffee")
        state = await alice.until("view", lambda state: state["view"] is not None and len(state["view"]["said"]) == 2)
        assert "found" not in state["view"]
        await page.post("/api/arguments", {"as": "alice", "key": "main", "arguments": {"matching": {"word": "co"}}})
        await alice.until("view", lambda state: state["view"] is not None and state["view"].get("matching") == ["coffee"])


async def test_a_picture_is_given_to_those_who_see_it_and_never_run(errands: Path) -> None:
    async with serving(errands) as page:
        await page.send("alice", "")
        data = base64.b64encode(b"pixels" * 1000).decode()
        hung = await page.send("alice", "hang", picture={"data": data, "media_type": "image/png"})
        shown = await page.get(f"/api/blob?as=ben&key=main&hash={hung.json['answer']}")
        assert (shown.status, shown.headers["content-type"], shown.body) == (200, "image/png", b"pixels" * 1000)
        log = (await page.get("/api/log?key=main")).json["commands"]
        assert len(log[1]["payload"]) < 2100
        written = await page.send("alice", "hang", picture={"data": "PHA+", "media_type": "text/html"})
        saved = await page.get(f"/api/blob?as=ben&key=main&hash={written.json['answer']}")
        assert (saved.headers["content-type"], saved.body) == ("application/octet-stream", b"<p>")
        assert saved.headers["content-disposition"].startswith("attachment;")
        gone = await page.get(f"/api/blob?as=ben&key=main&hash={hung.json['answer']}")
        assert gone.reason == "UNKNOWN_BLOB"
        assert (await page.get("/api/blob?as=ben&key=main&hash=..")).reason == "INVALID_REQUEST"


async def test_time_passes_by_itself(notes: Path) -> None:
    async with serving(notes) as page, live(page, "alice") as alice:
        await page.send("alice", "")
        await page.send("alice", "ring")
        await alice.until("view", lambda state: state["view"] is not None and state["view"]["rung"])


async def test_saving_upgrades_the_document_in_place_whatever_its_version_says(notes: Path) -> None:
    async with serving(notes) as page, live(page, "alice") as alice:
        await page.send("alice", "")
        await page.send("alice", "add", line="kept")
        save(notes, NOTES.replace("    rung: bool", "    colour: str = field.public('red')\n    rung: bool"))
        state = await alice.until("view", lambda state: state["view"] is not None and "colour" in state["view"])
        assert state["view"] == {"lines": ["kept"], "colour": "red", "rung": False}
        save(notes, NOTES)
        await alice.until("view", lambda state: state["view"] is not None and "colour" not in state["view"])
        assert [told["saves"] for told in page.told] == [2, 3]


async def test_code_that_can_not_be_deployed_is_said_in_the_page_and_changes_nothing(notes: Path) -> None:
    async with serving(notes) as page, live(page, "alice") as alice:
        await page.send("alice", "")
        save(notes, NOTES.replace('"""Notes."""', "import time"))
        code = await alice.until("code", lambda code: code["findings"])
        assert code["findings"] == "notes.py:1: ambient-time: module time reads the clock; use ctx.now"
        assert not code["needs_fresh_start"]
        assert (await page.send("alice", "add", line="still here")).json["answer"] == 1
        save(notes, NOTES.replace("lines: list[str]", "lines: dict[str, str]").replace(".append(", ".setdefault("))
        code = await alice.until("code", lambda code: code["needs_fresh_start"])
        assert "write a hook" in code["findings"]
        save(notes, NOTES)
        await alice.until("code", lambda code: code["findings"] == "")


async def test_starting_over_forgets_the_documents_and_takes_the_code_that_had_no_hook(notes: Path) -> None:
    async with serving(notes) as page, live(page, "alice") as alice:
        await page.send("alice", "")
        save(notes, NOTES.replace("lines: list[str]", "lines: dict[str, str]").replace(".append(", ".setdefault("))
        await alice.until("code", lambda code: code["needs_fresh_start"])
        restarted = await page.post("/api/restart", {})
        assert restarted.json["findings"] == ""
        state = await alice.until("view", lambda state: state["ended"] is not None)
        assert state["ended"]["reason"] == "UNKNOWN_DOCUMENT"
        await page.send("alice", "")
        assert (await alice.until("view", lambda state: state["view"] is not None))["view"]["lines"] == {}


async def test_the_past_shows_what_each_principal_saw_then() -> None:
    async with serving(example("cards")) as page:
        await page.send("alice", "")
        await page.send("ben", "sit")
        await page.send("alice", "deal")
        commands = (await page.get("/api/log?key=main")).json["commands"]
        assert [(row["step"], row["kind"], row["sender"]) for row in commands] == [
            (1, "create", "alice@local"),
            (2, "send", "ben@local"),
            (3, "send", "alice@local"),
        ]
        then = (await page.get("/api/past?key=main&step=3&as=alice&as=eve")).json
        assert then["position"] == "1.3"
        assert len(then["views"][0]["view"]["hands"]) == 5
        assert then["views"][1]["view"]["hands"] == {}
        before = (await page.get("/api/past?key=main&step=1&as=alice")).json
        assert before["views"][0]["view"]["players"] == ["alice@local"]
        assert (await page.get("/api/past?key=main&step=4&as=alice")).reason == "INVALID_REQUEST"
        assert (await page.get("/api/log?key=other")).json == {"commands": []}


async def test_a_name_that_resolves_here_is_not_answered(notes: Path) -> None:
    """DNS rebinding: a page of another site lets its own name point to this machine; its requests carry that name."""
    async with serving(notes) as page:
        for host in (f"evil.example:{page.port}", "127.0.0.1", f"127.0.0.1:{page.port + 1}", f"127.0.0.1.evil:{page.port}", ""):
            answer = await page.raw(f"GET /api/code HTTP/1.0\r\nhost: {host}\r\n\r\n".encode())
            assert (answer.status, answer.reason) == (403, "PERMISSION_DENIED"), host
        assert (await page.raw(b"GET / HTTP/1.0\r\n\r\n")).reason == "PERMISSION_DENIED"
        twice = f"GET / HTTP/1.1\r\nhost: localhost:{page.port}\r\nhost: evil.example\r\n\r\n"
        assert (await page.raw(twice.encode())).status in (400, 403)
        assert (await page.get("/", host=f"localhost:{page.port}")).status == 200


async def test_another_site_can_neither_send_nor_read(notes: Path) -> None:
    async with serving(notes) as page:
        body = {"as": "alice", "key": "main", "kind": "create"}
        for origin in ("http://evil.example", "null", f"https://127.0.0.1:{page.port}", f"http://127.0.0.1:{page.port + 1}"):
            assert (await page.post("/api/send", body, origin=origin)).reason == "PERMISSION_DENIED", origin
        assert (await page.get("/api/code", sec_fetch_site="cross-site")).reason == "PERMISSION_DENIED"
        assert (await page.post("/api/send", body, content_type="text/plain")).reason == "INVALID_REQUEST"
        assert (await page.post("/api/send", body, content_type="")).reason == "INVALID_REQUEST"
        assert (await page.get("/api/log?key=main")).json == {"commands": []}
        own = await page.post("/api/send", body, origin=f"http://localhost:{page.port}", sec_fetch_site="same-origin")
        assert own.status == 200
        assert "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"as": 1, "key": "main"}', b'{"as": "alice"}', b"[" * 100_000,
        b'{"as": "alice", "key": "main", "more": 1}', b'{"as": "alice", "key": "main", "kind": "steal"}',
        b'{"as": "", "key": "main"}', b'{"as": "a\\u0000", "key": "main"}', b'{"as": "alice", "key": ""}',
        b'{"as": "upgrade@moot", "key": "main", "kind": "send", "channel": "-upgrade"}',
        b'{"as": "alice", "key": "main", "channel": "add", "parameters": []}',
        b'{"as": "alice", "key": "main", "channel": "add", "parameters": {"line": "\\ud800"}}',
    ],
)  # fmt: skip
async def test_garbage_gets_a_typed_error(notes: Path, body: bytes) -> None:
    async with serving(notes) as page:
        answer = await page.post("/api/send", body)
        assert 400 <= answer.status < 500
        assert answer.reason in (
            "INVALID_REQUEST",
            "INVALID_NAME",
            "UNKNOWN_DOCUMENT",
            "UNKNOWN_CHANNEL",
            "INVALID_PAYLOAD",
            "PERMISSION_DENIED",
        )
        assert (await page.get("/api/code")).status == 200


async def test_paths_methods_and_queries_that_are_not_there_get_a_typed_error(notes: Path) -> None:
    async with serving(notes) as page:
        assert (await page.get("/api/nothing")).reason == "NOT_FOUND"
        assert (await page.get("/../../etc/passwd")).reason == "NOT_FOUND"
        assert (await page.get("/api/send")).reason == "METHOD_NOT_ALLOWED"
        wrong = ["/api/log", "/api/log?key=a&key=b", "/api/past?key=main&step=x&as=a", "/api/past?key=main&step=1"]
        wrong += ["/api/live?as=alice", "/api/live?key=main&as=" + "a" * 600, "/api/past?key=main&step=1" + "&as=a" * 9]
        for path in wrong:
            assert (await page.get(path)).reason in ("INVALID_REQUEST", "INVALID_NAME"), path


async def test_a_body_is_bounded_whatever_it_says_of_itself(notes: Path) -> None:
    async with serving(notes) as page:
        assert (await page.post("/api/send", b"x" * (PAGE_RULES.body_bytes_max + 1))).reason == "TOO_LARGE"
        chunks = b"".join(b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(PAGE_RULES.body_bytes_max // 0x10000 + 1))
        head = f"POST /api/send HTTP/1.1\r\nhost: localhost:{page.port}\r\ncontent-type: application/json\r\n"
        answer = await page.raw(head.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunks)
        assert answer.reason == "TOO_LARGE"


async def test_seats_are_bounded_and_those_that_nobody_looks_from_make_room(notes: Path) -> None:
    async with serving(notes) as page:
        await page.send("alice", "")
        for number in range(40):
            assert (await page.send(f"guest{number}", "ring")).status == 200


async def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_inline(notes: Path) -> None:
    async with serving(notes) as page:
        served = {path: await page.get(path) for path in ("/", "/page.js", "/page.css")}
        for path, answer in served.items():
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            text = answer.body.decode()
            assert not re.search(r"https?://|@import|url\(|\beval\(|innerHTML|document\.write", text), path
        html = served["/"].body.decode()
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", html)
        assert re.findall(r'(?:src|href)="([^"#]*)"', html) == ["data:,", "/page.css", "/page.js"]
        assert '<html lang="en">' in html


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed; this test is about what it says of the page")
def test_the_script_of_the_page_is_valid(tmp_path: Path) -> None:
    script = tmp_path / "page.mjs"
    script.write_bytes(resources.files("cluster.web").joinpath("static", "page.js").read_bytes())
    checked = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_files_of_the_page_are_files_of_the_package() -> None:
    static = resources.files("cluster.web").joinpath("static")
    assert {file.name for file in static.iterdir()} == {"index.html", "page.js", "page.css"}


async def test_pages_and_files_of_a_class_are_served_as_by_a_node() -> None:
    async with serving(example("visitors")) as page:
        hosted = f"host: 127.0.0.1:{page.port}\r\nconnection: close\r\n"
        shown = await page.raw(f"GET /dev/lobby/?as=alice HTTP/1.1\r\n{hosted}\r\n".encode())
        assert (shown.status, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"You are <b>alice@local</b>" in shown.body
        assert "default-src 'self'" in shown.headers["content-security-policy"]
        form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 8\r\n"
        signed = await page.raw(f"POST /dev/lobby/sign?as=ben HTTP/1.1\r\n{hosted}{form}\r\ntext=hey".encode())
        assert signed.status == 303
        feed = await page.raw(f"GET /dev/lobby/feed?as=alice HTTP/1.1\r\n{hosted}\r\n".encode())
        assert [entry["author"] for entry in feed.json] == ["ben@local"]
        sheet = await page.raw(f"GET /dev/lobby/static/page.css?as=alice HTTP/1.1\r\n{hosted}\r\n".encode())
        assert (sheet.status, sheet.headers["content-type"]) == (200, "text/css; charset=utf-8")
        for path, headers, status in (
            ("/dev/lobby/", hosted, 401),
            ("/dev/lobby/?as=moot@moot", hosted, 401),
            ("/dev/lobby/?as=alice", "host: evil.example\r\n", 403),
            ("/other/lobby/?as=alice", hosted, 404),
        ):
            assert (await page.raw(f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode())).status == status, path
        (row,) = [row for row in (await page.get("/api/log?key=lobby")).json["commands"] if row["channel"] == "-http"]
        assert row["sender"] == "ben@local"
        assert "/sign" in row["payload"]
