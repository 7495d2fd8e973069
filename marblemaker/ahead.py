"""Ahead: the next batch is read while this one is worked on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

__all__ = ["ahead"]

Batch = TypeVar("Batch")

_END = object()


def ahead(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Yield what ``batches`` yields, each read on a thread of its own while the last is in use.

    Close it when it is not run to its end, as ``contextlib.closing`` does.

    Shape: the same items in the same order; one more than asked for is held.
    Errors: what ``batches`` raises, after the items before it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="marble-read") as reader:
        following = reader.submit(next, batches, _END)
        while (batch := following.result()) is not _END:
            following = reader.submit(next, batches, _END)
            yield cast(Batch, batch)
