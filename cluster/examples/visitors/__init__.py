"""A visitors' book that is a web site: a page with a form, a feed, files of its own, and a hook for deliveries from elsewhere.

The page is at /visitors/KEY/ of any node that serves HTTP; whoever comes to a new key opens that book.
"""

from __future__ import annotations

from html import escape

from cluster import (
    BadRequest,
    Command,
    Document,
    Principal,
    Record,
    Refused,
    Request,
    Response,
    Table,
    anyone,
    field,
    latest,
    on,
    read,
)

HTML = "text/html; charset=utf-8"
TEXT_CHARACTERS_MAX = 500
ENTRIES_SHOWN = 50


class Closed(Refused):
    """The book is closed."""


class Entry(Record):
    author: Principal
    text: str
    day: str


class Delivery(Record):
    """What a delivery service tells the hook."""

    parcel: str
    weight_grams: int = 0


class Visitors(Document, on_missing="create"):
    """Entries that everybody may read and write."""

    gate = anyone

    owner: Principal = field.public()
    closed: bool = field.public(False)
    entries: Table[Entry] = field.public(window=latest(ENTRIES_SHOWN))
    parcels: dict[str, int] = field.public({})

    @on.construct
    def open(self, ctx: Command) -> None:
        self.owner = ctx.sender

    @read.http("/")
    def page(self, who: Principal) -> Response:
        """The book as a page."""
        rows = "".join(
            f"<li><b>{escape(str(entry.author))}</b> <time>{entry.day}</time><p>{escape(entry.text)}</p></li>"
            for entry in self.entries.latest(ENTRIES_SHOWN)
        )
        form = "<p>The book is closed.</p>" if self.closed else FORM
        return Response(PAGE.format(who=escape(str(who)), form=form, rows=rows), media_type=HTML)

    @read.http("/feed")
    def feed(self) -> list[Entry]:
        """The entries as JSON, the newest last."""
        return list(self.entries.latest(ENTRIES_SHOWN))

    @on.http("/sign")
    def sign(self, ctx: Command, request: Request) -> Response:
        """The form of the page."""
        text = request.form().get("text", "").strip()
        if not 1 <= len(text) <= TEXT_CHARACTERS_MAX:
            raise BadRequest(f"an entry has 1 to {TEXT_CHARACTERS_MAX} characters")
        if self.closed:
            raise Closed()
        self.entries.put(Entry(ctx.sender, text, ctx.now.isoformat()[:10]))
        return Response(status=303, headers={"location": "."})

    @on.http("/parcels")
    def delivered(self, ctx: Command, request: Request) -> int:
        """A webhook: a parcel has come. Answers how many there are."""
        delivery = request.json(Delivery)
        self.parcels[delivery.parcel] = delivery.weight_grams
        return len(self.parcels)

    @on.http("/parcels/{parcel}", method="DELETE")
    def collected(self, ctx: Command, parcel: str) -> None:
        """A parcel was collected."""
        self.parcels.pop(parcel, None)

    @on.message
    def close(self, ctx: Command) -> None:
        """The owner closes the book."""
        if ctx.sender == self.owner:
            self.closed = True


FORM = """<form method="post" action="sign">
<label>Your words <textarea name="text" maxlength="500" required></textarea></label>
<button>Sign</button>
</form>"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Visitors</title>
<link rel="stylesheet" href="static/page.css">
<link rel="icon" href="static/pen.svg">
<script src="static/page.js" defer></script>
<h1>Visitors</h1>
<p>You are <b>{who}</b>.</p>
{form}
<ul id="entries">{rows}</ul>
</html>
"""
