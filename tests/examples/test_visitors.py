"""The visitors' book as its readers, writers and deliverers use it."""

from __future__ import annotations

import pytest

from cluster import BadRequest, Principal
from cluster.errors import UnknownRoute
from cluster.examples.visitors import TEXT_CHARACTERS_MAX, Closed, Visitors

SCRIPT = "<script>alert('x')</script>"


def test_what_is_signed_stands_on_the_page_and_in_the_feed() -> None:
    book = Visitors.simulate(by="owner@acme")
    ann, bob = book.visitor("ann@acme"), book.visitor("bob@acme")
    signed = ann.http.post("/sign", form={"text": "  Lovely & quiet.  "})
    assert (signed.status, signed.headers["location"]) == (303, ".")
    page = bob.http.get("/")
    assert (page.status, page.media_type) == (200, "text/html; charset=utf-8")
    assert "Lovely &amp; quiet." in page.text
    assert "You are <b>bob@acme</b>" in page.text
    (entry,) = bob.http.get("/feed").json
    assert entry == {"author": "ann@acme", "text": "Lovely & quiet.", "day": "2030-01-01"}


def test_an_entry_can_bring_no_markup_into_the_page() -> None:
    book = Visitors.simulate(by="owner@acme")
    book.visitor("eve@acme").http.post("/sign", form={"text": SCRIPT})
    page = book.visitor("bob@acme").http.get("/").text
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in page


@pytest.mark.parametrize("form", [{}, {"text": "   "}, {"text": "x" * (TEXT_CHARACTERS_MAX + 1)}, {"words": "hello"}])
def test_an_entry_without_words_or_with_too_many_is_a_bad_request(form: dict[str, str]) -> None:
    book = Visitors.simulate(by="owner@acme")
    with pytest.raises(BadRequest):
        book.visitor("ann@acme").http.post("/sign", form=form)
    assert book.visitor("ann@acme").http.get("/feed").json == []


def test_a_closed_book_is_read_and_not_written() -> None:
    book = Visitors.simulate(by="owner@acme")
    ann, owner = book.visitor("ann@acme"), book.visitor("owner@acme")
    ann.close()
    ann.http.post("/sign", form={"text": "only the owner closes it"})
    owner.close()
    with pytest.raises(Closed):
        ann.http.post("/sign", form={"text": "too late"})
    assert "The book is closed." in ann.http.get("/").text


def test_deliveries_come_by_a_hook_and_are_collected() -> None:
    book = Visitors.simulate(by="owner@acme")
    post = book.visitor("carrier@post").http
    assert post.post("/parcels", json={"parcel": "P1", "weight_grams": 300}).json == 1
    assert post.post("/parcels", json={"parcel": "P2"}).json == 2
    with pytest.raises(BadRequest):
        post.post("/parcels", json={"parcel": 7})
    assert post.request("DELETE", "/parcels/P1").status == 204
    assert book.visitor("ann@acme").view()["parcels"] == {"P2": 0}


def test_its_files_are_served_as_they_are() -> None:
    ann = Visitors.simulate(by="owner@acme").visitor("ann@acme")
    sheet = ann.http.get("/static/page.css")
    assert sheet.media_type == "text/css; charset=utf-8"
    assert sheet.text.startswith("body {")
    assert ann.http.get("/static/page.css", headers={"if-none-match": sheet.headers["etag"]}).status == 304
    for path in ("/static/", "/static/nothing.css", "/static/../__init__.py", "/static/page.css/", "/__init__.py"):
        with pytest.raises(UnknownRoute):
            ann.http.get(path)


def test_whoever_comes_first_opens_the_book_and_replay_agrees() -> None:
    book = Visitors.simulate(by=None)
    first = book.visitor("first@acme")
    assert first.http.get("/feed").json == []
    first.http.post("/sign", form={"text": "hello"})
    assert first.view()["owner"] == str(Principal("first", "acme"))
    assert book.replay().equal
