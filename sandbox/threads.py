"""Threads: a stand-in on a loop of its own, for clients that block theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

__all__ = ["in_thread"]

Server = TypeVar("Server")


@contextmanager
def in_thread(server: AbstractAsyncContextManager[Server], name: str) -> Iterator[Server]:
    """Enter ``server`` on a loop and thread of its own; it is left at the end of the block.

    Errors: what the server raised, on entering or later.
    """
    ready = threading.Event()
    entered: list[Server] = []
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failures: list[BaseException] = []

    async def serve() -> None:
        end = asyncio.Event()
        async with server as running:
            entered.append(running)
            ends.append((asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as failure:
            failures.append(failure)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    ready.wait()
    try:
        if not failures:
            yield entered[0]
    finally:
        for loop, end in ends:
            if not loop.is_closed():
                loop.call_soon_threadsafe(end.set)
        thread.join()
    if failures:
        raise failures[0]
