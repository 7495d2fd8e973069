"""ahead(): the same batches, each read while the one before is in use."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from marblemaker.ahead import ahead


def test_the_same_items_in_the_same_order() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []


def test_the_next_is_read_while_one_is_in_use_and_no_more_than_that() -> None:
    read: list[int] = []
    begun = [threading.Event() for _ in range(4)]

    def batches() -> Iterator[int]:
        for n in range(4):
            read.append(n)
            begun[n].set()
            yield n

    with closing(ahead(batches())) as items:
        assert next(items) == 0
        assert begun[1].wait(5.0), "the next one is read without being asked for"
        assert read == [0, 1]


def test_an_error_comes_after_the_items_before_it() -> None:
    def batches() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("row 7 goes back")

    items = ahead(batches())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="row 7"):
        next(items)


def test_closing_leaves_no_thread_behind_even_if_what_is_read_fails() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise ValueError("nobody asked for this one")

    with closing(ahead(batches())) as items:
        next(items)

    assert not [t for t in threading.enumerate() if t.name.startswith("marble-read")]
