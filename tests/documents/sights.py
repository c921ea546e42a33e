"""Prints what random commands on the document of secrets_model.py come to: run by test_versions.py, in several Pythons."""

import hashlib
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.documents import bundle  # noqa: E402
from cluster.documents.loader import BundleLoader  # noqa: E402
from cluster.documents.runtime import Invocation  # noqa: E402
from cluster.ids import DocumentId, Principal  # noqa: E402
from tests.documents.secrets_model import PEOPLE, SOURCE  # noqa: E402

SEEDS = 6
COMMANDS = 60
ARGUMENTS = (
    b"{}",
    b'{"mine": {"least": 1}, "pages": {"latest": 1}}',
    b'{"pages_of": {"owner": "a@x"}, "newest": {"latest": 5}}',
)


def command(source: random.Random, index: int) -> tuple[str, dict[str, object]]:
    """One random command."""
    who = f"{source.choice(PEOPLE)}@x"
    place, text = source.randrange(5), f"text {index} \N{SNOWMAN}"
    commands: list[tuple[str, dict[str, object]]] = [
        ("put_card", {"name": source.choice("pqr"), "owner": who, "secret": text, "hidden": text}),
        ("change_card", {"place": place, "secret": text, "owner": who}),
        ("hide_in_card", {"place": place, "hidden": text}),
        ("drop_card", {"place": place}),
        ("put_note", {"owner": who, "text": text}),
        ("put_note", {"owner": who, "text": text}),
        ("change_note", {"place": place, "owner": who, "text": text}),
        ("drop_note", {"place": place}),
        ("sweep", {}),
        ("show", {"open": source.random() < 0.5}),
        ("judge", {"who": who}),
        ("write", {"text": text}),
        ("fail", {"text": text}),
        ("count", {"by": 1 + place}),
    ]
    return source.choice(commands)


def main() -> None:
    program = BundleLoader().load(bundle.from_source(SOURCE).encode())
    for seed in range(SEEDS):
        source = random.Random(seed)
        instance = program.new(DocumentId("stage", "one"))
        instance.run(Invocation("", b"{}", Principal("a", "x"), 0, bytes(32), 1))
        projections = [
            instance.projection(Principal(name, "x"), instance.arguments(given))
            for name, given in zip(PEOPLE, ARGUMENTS, strict=True)
        ]
        for index in range(2, COMMANDS + 2):
            channel, parameters = command(source, index)
            payload = program.check(channel, json.dumps(parameters).encode())
            who = Principal(source.choice(PEOPLE), "x")
            outcome = instance.run(Invocation(channel, payload, who, 0, index.to_bytes(32, "big"), index))
            changes = [] if outcome.changes is None else [outcome.changes]
            patches = [projection.advance(changes) for projection in projections]
            shown = [projection.full() for projection in projections]
            digests = [hashlib.blake2b(part, digest_size=6).hexdigest() for part in (instance.dump(), *patches, *shown)]
            print(json.dumps([seed, channel, outcome.code.name, outcome.answer.decode(), outcome.steps, *digests]))


if __name__ == "__main__":
    main()
