"""The page of `moot dev` in a browser: what its forms send, and what is seen then."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from tests.web.browser import CHROMIUM, browsing
from tests.web.serving import serving

ERRANDS = Path(__file__).with_name("errands.py")
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; these tests are about a page in a browser")


async def test_a_page_answers_asks_asks_views_for_something_and_sends_files(tmp_path: Path) -> None:
    path = tmp_path / "errands.py"
    shutil.copy(ERRANDS, path)
    picture = tmp_path / "pixel.png"
    picture.write_bytes(PIXEL)
    async with (
        serving(path) as page,
        browsing(f"http://127.0.0.1:{page.port}/?as=alice&as=ben", tmp_path) as tab,
    ):
        await tab.press(0, "Create the document")
        for text in ("tea", "teapot", "steam"):
            await tab.press(0, "say", text=text)
            await tab.until(f"seat(1).querySelector('.view').innerText.includes('{text}')")

        # arguments: typed, with their defaults, and each principal's own
        assert await tab.run("formOf(0, 'arguments of found').querySelector('[name=limit]').placeholder") == "2"
        assert await tab.run("formOf(0, 'arguments of lines').querySelector('[name=latest]').placeholder") == "2"
        await tab.run("type(0, 'arguments of found', { word: 'tea' })")
        await tab.until("seat(0).querySelector('.view').innerText.includes('found')")
        assert not await tab.run("seat(1).querySelector('.view').innerText.includes('found')")
        await tab.run("type(0, 'arguments of found', { limit: 'many' })")
        await tab.until("seat(0).querySelector('.outcome').innerText.includes('INVALID_ARGUMENTS')")
        await tab.run("type(1, 'arguments of lines', { latest: '3' })")
        await tab.until("seat(1).querySelectorAll('.view tbody tr').length === 3")
        assert await tab.run("seat(0).querySelectorAll('.view tbody tr').length") == 2

        # an ask: shown to whom it is addressed, and answered by a form of its type
        await tab.press(0, "offer", to="ben@local", what="milk")
        await tab.until("!seat(1).querySelector('.asks').hidden")
        assert await tab.run("seat(0).querySelector('.asks').hidden")
        assert "milk" in await tab.run("seat(1).querySelector('.asks').innerText")
        await tab.press(1, "answer settled", price="7", note="", when="1")
        await tab.until("seat(1).querySelector('.asks').hidden")
        assert "later" in await tab.until("seat(1).querySelector('.outcome').innerText")
        assert "7" in await tab.until("seat(0).querySelector('.view').innerText")

        # a file: chosen, sent, and shown to both
        await tab.choose('form[aria-label="hang"] input[type=file]', picture)
        await tab.until("formOf(0, 'hang').querySelector('input').files.length === 1")
        await tab.press(0, "hang")
        await tab.until("seat(1).querySelector('.view img') !== null")
        await tab.until("seat(1).querySelector('.view img').complete && seat(1).querySelector('.view img').naturalWidth === 1")
        assert tab.complaints == []
