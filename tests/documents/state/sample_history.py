"""A fixed history over every type; prints the digest of its dumps and canonical writes. Run in processes of its own."""

from __future__ import annotations

import enum
import hashlib
import random
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from cluster.documents.state import (
    FieldOptions,
    Journal,
    OrderedSet,
    Record,
    StateRoot,
    Table,
    Text,
    encode,
    field_spec,
    operations,
)
from cluster.ids import Principal


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


class Part(Record):
    name: str
    weight: float = 0.0
    notes: list[str] = FieldOptions(default=())  # type: ignore[assignment]


DECLARED: dict[str, tuple[Any, Any]] = {
    "count": (int, 0),
    "ratio": (float, 0.5),
    "flag": (bool, False),
    "title": (str, ""),
    "blob": (bytes, b""),
    "price": (Decimal, Decimal("1.50")),
    "at": (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    "span": (timedelta, timedelta(0)),
    "unique": (uuid.UUID, uuid.UUID(int=7)),
    "kind": (Kind | None, None),
    "mode": (Literal["fast", "slow"], "fast"),
    "owner": (Principal, Principal("ann", "acme")),
    "parts": (list[Part], []),
    "ages": (dict[Principal, int], {}),
    "kinds": (dict[Kind, list[int]], {}),
    "tags": (OrderedSet[str], ()),
    "table": (Table[Part], FieldOptions(key="name")),
    "rows": (Table[Part], FieldOptions()),
    "body": (Text, "Grüße"),
}


def command(root: StateRoot, draw: random.Random) -> None:
    number = draw.getrandbits(40)
    word = "".join(draw.choice("abé😀/~") for _ in range(5))
    who = Principal(draw.choice("abc"), "acme")
    root.set("count", number)
    root.set("ratio", number / 7)
    root.set("flag", number % 2 == 0)
    root.set("title", word)
    root.set("blob", word.encode())
    root.set("price", Decimal(number) / 1000)
    root.set("at", datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number % 10**10))
    root.set("span", timedelta(microseconds=number))
    root.set("unique", uuid.UUID(int=number))
    root.set("kind", draw.choice([None, Kind.ONE, Kind.TWO]))
    root.set("mode", draw.choice(["fast", "slow"]))
    root.set("owner", who)
    root.get("parts").append(Part(word, number / 3, [word])).notes.append("more")
    root.get("ages").put(who, number)
    root.get("kinds").put(draw.choice(list(Kind)), [number % 10])
    root.get("tags").add(word)
    root.get("table").put(Part(word[:1], 1.5))
    root.get("rows").put(Part(word)).weight = 2
    body = root.get("body")
    body.splice(draw.randrange(len(body) + 1), 0, word)
    if number % 3 == 0:
        root.get("ages").pop(who)
        root.get("tags").pop()
        root.get("parts").sort(key=lambda part: part.name)
        body.splice(1, 2, "-", base=max(body.earliest_base, root._journal.index - 5))


def main() -> None:
    draw = random.Random(20260101)
    journal = Journal()
    journal.splices_retained_max = 20
    specs = {name: field_spec(name, kind, value, owner=Part) for name, (kind, value) in DECLARED.items()}
    root = StateRoot(specs, journal)
    digest = hashlib.blake2b(digest_size=16)
    for index in range(1, 101):
        journal.begin(index=index, new_id=lambda: draw.getrandbits(64))
        command(root, draw)
        if index % 7 == 0:
            journal.rollback()
        else:
            changes = journal.commit()
            digest.update(changes.writes)
            digest.update(encode(operations(changes, specs)))
        digest.update(root.dump())
        digest.update(str(root.size_bytes()).encode())
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
