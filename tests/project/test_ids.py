"""Names are judged once, on the way in, and a name that passed survives the way out and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import ids
from cluster.errors import InvalidName
from cluster.ids import DocumentId, Position, Principal

SPACES = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
PRINTABLE = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
KEYS = st.text(PRINTABLE, min_size=1, max_size=128)
AGENTS = st.text(PRINTABLE, min_size=1, max_size=40)
AUTHORITIES = st.text(PRINTABLE.filter(lambda character: character != "@"), min_size=1, max_size=20)
POSITIONS = st.builds(Position, st.integers(1, 9), st.integers(0, 9))


@given(SPACES, KEYS)
def test_document_address_survives_printing_and_parsing(space: str, key: str) -> None:
    document = DocumentId(space, key)
    assert DocumentId.parse(str(document)) == document


@given(AGENTS, AUTHORITIES)
def test_principal_survives_printing_and_parsing(agent: str, authority: str) -> None:
    principal = Principal(agent, authority)
    assert Principal.parse(str(principal)) == principal


def test_key_may_contain_slashes_and_only_the_first_one_separates() -> None:
    assert DocumentId.parse("chat/a/b") == DocumentId("chat", "a/b")


def test_authority_begins_after_the_last_at_sign() -> None:
    assert Principal.parse("document:mail/bob@acme@moot") == Principal("document:mail/bob@acme", "moot")


@given(POSITIONS, POSITIONS)
def test_positions_order_by_epoch_before_index(left: Position, right: Position) -> None:
    assert (left < right) == ((left.epoch, left.index) < (right.epoch, right.index))


@pytest.mark.parametrize("text", ["", "@", "alice", "alice@", "@acme", "a" * 300 + "@acme", "a\nb@acme", "a\ud800b@acme"])
def test_malformed_principal_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Principal.parse(text)


@pytest.mark.parametrize("text", ["", "chat", "/key", "chat/", "Chat/key", "1chat/key", "ch at/key", "c" * 64 + "/key"])
def test_malformed_document_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        DocumentId.parse(text)


@pytest.mark.parametrize("key", ["", "a\x00", "a\x1fb", "a\x7f", "a\x85b", "\udc80", "k" * 513, "é" * 257])
def test_key_refuses_control_characters_surrogates_and_more_than_512_bytes(key: str) -> None:
    with pytest.raises(InvalidName):
        ids.check_key(key)


@given(st.text(max_size=600))
def test_key_check_accepts_exactly_what_its_sentence_says(key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    controls = any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in key)
    legal = 1 <= size <= ids.KEY_BYTES_MAX and not controls
    try:
        ids.check_key(key)
        accepted = True
    except InvalidName:
        accepted = False
    assert accepted == legal


def test_key_limit_counts_bytes_and_not_characters() -> None:
    ids.check_key("é" * 256)
    ids.check_key("k" * 512)
    with pytest.raises(InvalidName, match="has 514"):
        ids.check_key("é" * 257)


@pytest.mark.parametrize("name", ["chat", "a", "chat-room_2", "a" * 63])
def test_legal_spaces_pass(name: str) -> None:
    ids.check_space(name)


@pytest.mark.parametrize("name", ["chat\n", "chät", "-chat", "_chat", "a" * 64])
def test_space_refuses_what_would_need_quoting(name: str) -> None:
    with pytest.raises(InvalidName):
        ids.check_space(name)


@pytest.mark.parametrize("name", ["send", "sendMessage", "a_1", "X" * 63])
def test_legal_channels_pass(name: str) -> None:
    ids.check_channel(name)


@pytest.mark.parametrize("name", ["", "_private", "1st", "a-b", "a.b", "send\n", "X" * 64])
def test_channel_must_be_able_to_name_a_handler(name: str) -> None:
    with pytest.raises(InvalidName):
        ids.check_channel(name)


@pytest.mark.parametrize("name", ["n1", "node-1.zone-a", "1"])
def test_legal_nodes_pass(name: str) -> None:
    ids.check_node(name)


@pytest.mark.parametrize("name", ["", "N1", ".n1", "n1/..", "n 1", "n1\n", "n" * 64])
def test_node_name_that_could_escape_a_path_or_an_address_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        ids.check_node(name)
