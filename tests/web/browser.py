"""A page in a headless Chromium, by its DevTools protocol over a WebSocket of our own: what a test types and sees."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_S = 40.0
_LISTENING = re.compile(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/")
_HELPERS = """
window.seat = (number) => document.querySelectorAll(".seat")[number];
window.formOf = (number, label) => seat(number).querySelector(`form[aria-label="${label}"]`);
window.type = (number, label, values) => {
  for (const [name, value] of Object.entries(values)) {
    const input = formOf(number, label).querySelector(`[name="${name}"]`);
    input.value = value;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }
};
window.press = (number, label, values) => { type(number, label, values); formOf(number, label).requestSubmit(); };
"""


class Tab:
    """One page. complaints: what its script threw and did not catch."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """A DevTools command, to its result."""
        self._calls += 1
        number = self._calls
        self._send(json.dumps({"id": number, "method": method, "params": parameters}).encode())
        while True:
            told = json.loads(await asyncio.wait_for(self._receive(), TIMEOUT_S))
            if told.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(told["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if told.get("id") == number:
                assert "error" not in told, (method, told)
                return told["result"]

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of an expression once it is true."""
        look = f"const look = () => {{ const value = ({script}); value ? done(value) : setTimeout(look, 20); }}; look();"
        return await self.run(f"new Promise((done) => {{ {look} }})")

    async def press(self, seat: int, label: str, **values: str) -> None:
        """Type into the form of this name, and submit it, as the principal on the left (0) or on the right (1)."""
        await self.until(f"formOf({seat}, {json.dumps(label)}) !== null")
        await self.run(f"press({seat}, {json.dumps(label)}, {json.dumps(values)})")

    async def choose(self, selector: str, path: Path) -> None:
        """Choose a file for an input."""
        document = await self.call("DOM.getDocument", depth=0)
        found = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])

    def _send(self, text: bytes) -> None:
        """One text frame (RFC 6455). A client masks what it sends; with zeros it is as it was."""
        length = struct.pack(">BBQ", 0x81, 0x80 | 127, len(text))
        self._writer.write(length + bytes(4) + text)

    async def _receive(self) -> bytes:
        """The next message, of as many frames as it has."""
        parts = []
        while True:
            first, size = await self._reader.readexactly(2)
            if size >= 126:
                form, count = (">H", 2) if size == 126 else (">Q", 8)
                (size,) = struct.unpack(form, await self._reader.readexactly(count))
            parts.append(await self._reader.readexactly(size))
            if first & 0x80:
                return b"".join(parts)


@asynccontextmanager
async def browsing(url: str, folder: Path) -> AsyncIterator[Tab]:
    """A browser of its own at a page. folder: for its profile."""
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *options,
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        port = await asyncio.wait_for(_port(process), TIMEOUT_S)
        reader, writer = await _connected(port, await _page_of(port))
        tab = Tab(reader, writer)
        for domain in ("Page", "Runtime", "DOM"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.addScriptToEvaluateOnNewDocument", source=_HELPERS)
        await tab.call("Page.navigate", url=url)
        await tab.until("document.readyState === 'complete' && document.querySelectorAll('.seat').length === 2")
        yield tab
        writer.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if found := _LISTENING.search(line):
            return int(found[1])
    raise AssertionError("the browser ended before it listened")


async def _page_of(port: int) -> str:
    """The path of the page's WebSocket."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /json/list HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length:\s*(\d+)", head, re.IGNORECASE)
            assert length is not None, head
            listed = json.loads(await reader.readexactly(int(length[1])))
            writer.close()
            pages = [target["webSocketDebuggerUrl"] for target in listed if target["type"] == "page"]
            if pages:
                return "/" + str(pages[0]).split("/", 3)[3]
            await asyncio.sleep(0.05)


async def _connected(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    key = base64.b64encode(os.urandom(16)).decode()
    head = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    head += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
    writer.write("\r\n".join(head).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in answer.split(b"\r\n")[0], answer
    return reader, writer
