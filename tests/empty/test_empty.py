"""What many share because they have nothing: it stays empty."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.empty import NO_ENTRIES, NO_ITEMS


@pytest.mark.parametrize(
    "put",
    [
        lambda: NO_ITEMS.append(1),
        lambda: NO_ITEMS.extend([1]),
        lambda: NO_ITEMS.insert(0, 1),
        lambda: NO_ITEMS.__iadd__([1]),
        lambda: NO_ITEMS.__setitem__(slice(0), [1]),
        lambda: NO_ENTRIES.__setitem__(1, 1),
        lambda: NO_ENTRIES.setdefault(1, 1),
        lambda: NO_ENTRIES.update({1: 1}),
        lambda: NO_ENTRIES.update(one=1),
        lambda: NO_ENTRIES.__ior__({1: 1}),
    ],
)
def test_nobody_puts_anything_into_what_all_share(put: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        put()
    assert (NO_ITEMS, NO_ENTRIES) == ([], {})


def test_what_is_shared_reads_and_clears_like_any_empty_container() -> None:
    NO_ITEMS.clear()
    del NO_ITEMS[:0]
    NO_ENTRIES.clear()
    assert (list(NO_ITEMS), NO_ENTRIES | {1: 2}) == ([], {1: 2})
    assert (NO_ENTRIES.get(1), NO_ENTRIES.pop(1, None), list(NO_ENTRIES.items())) == (None, None, [])


def test_what_is_copied_from_the_shared_ones_can_be_filled() -> None:
    items, entries = NO_ITEMS.copy(), NO_ENTRIES | {1: 2}
    items.append(1)
    items.append(2)
    entries[2] = 3
    assert (items, entries) == ([1, 2], {1: 2, 2: 3})
