"""A stand-in for Databento's live gateway on this machine, fed from a recording.

The official client connects to it without a change. It is a test instrument: it speaks the vendor's
protocol in the clear, does wrong what ``Faults`` ask for, and ends by itself.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, deque
from collections.abc import Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

import numpy as np

from sandbox.databento_records import Market, Quotes
from sandbox.databento_session import LINE_BYTES_MAX, AtEnd, Service, Session
from sandbox.faults import Fault, Faults
from sandbox.playback import Playback
from sandbox.threads import in_thread

__all__ = ["DatabentoGateway"]

_POLL_SECS: Final = 0.01
_FAREWELL_SECS: Final = 0.5
_FIRST_ID: Final = 11_667
_PUBLISHER_ID: Final = 95  # EQUS.MINI.EQUS
_BREAKS: Final = ("drop", "rst", "session_restart")


class DatabentoGateway:
    """Serves recorded quotes to Databento clients on 127.0.0.1.

    ``async with`` runs it on the running loop; ``with gateway.run_in_thread()`` on a loop of its
    own, for clients that block theirs. An instance runs once.

    A client sees what the vendor's gateway shows: it must hold a key, subscribes by schema
    (``LAYOUTS``) and symbol before or after it starts its session, gets acknowledgements and symbol
    mappings, then the quotes as time has it, with heartbeats in silence. The market moves on while
    nobody listens: who comes back goes on at the present, or asks for the past with ``start=``.

    Faults: ``drop``, ``rst``, ``session_restart`` close all sessions, and for ``for_secs`` nobody
    gets in again; with a ``text`` that reaches the clients as a fatal error before. ``refuse``:
    nothing listens for ``for_secs``, or the next ``count`` connections are closed at once; with a
    ``text`` logins fail with it instead. ``malformed``: a record that cannot be decoded; with the
    text ``cut`` half a record, then FIN. ``stall``, ``delay``, ``duplicate``, ``reorder``, ``gap``,
    ``slow_reader``: as in ``faults``; the last not at infinite speed, where nobody can be slow.
    """

    def __init__(
        self,
        quotes: Quotes,
        *,
        keys: Collection[str],
        dataset: str = "EQUS.MINI",
        symbol: str | None = None,
        publisher_id: int = _PUBLISHER_ID,
        speed: float = 1.0,
        playback: Playback | None = None,
        autostart: bool = True,
        restamp: bool = True,
        at_end: AtEnd = "stay",
        faults: Faults | None = None,
        seed: int = 0,
        port: int = 0,
        max_seconds: float = 3600.0,
        slow_after_bytes: int = 4 << 20,
        send_buffer_bytes: int | None = None,
        connections_per_second: int | None = None,
    ) -> None:
        """Read the quotes; nothing listens yet.

        Args:
            quotes: a recording, whose signals are served, or frames with its columns.
            keys: API keys that open a session.
            symbol: the name of a single frame, or another name for the recording's first signal.
            speed: recorded seconds per second; ``math.inf`` sends as fast as the reader takes it.
            playback: a market clock shared with another stand-in, instead of ``speed``.
            autostart: whether the first session starts the playback if nobody has.
            restamp: stamps as if the quotes were made now, at their distance from the recorded
                ts_event; otherwise as recorded, and ``start=`` means recorded time.
            at_end: after the last quote ``stay`` and send heartbeats, or ``close`` the session.
            seed: fixes the challenges.
            port: 0 takes a free one.
            max_seconds: it ends by itself after this long.
            slow_after_bytes: what may wait to be sent before a reader counts as too slow.
            send_buffer_bytes: size of the system's buffer before that; its default is megabytes.
            connections_per_second: more than these from one address are closed at once.

        Errors: RecordingError or ValueError if the quotes cannot be served; ValueError if a key is
            too short to have a bucket id.
        """
        for key in keys:
            if len(key) < 5 or not key.isascii():
                raise ValueError(
                    f"keys must be ASCII of at least 5 characters, of which the last 5 are the "
                    f"bucket id; got one of {len(key)}"
                )
        market = Market(quotes, symbol)
        if playback is None:
            first = int(market.ts[0]) if len(market) else 0
            playback = Playback(first, speed)
        self._service = Service(
            market=market,
            playback=playback,
            faults=faults or Faults.none(),
            keys=frozenset(keys),
            dataset=dataset,
            publisher_id=publisher_id,
            restamp=restamp,
            autostart=autostart,
            at_end=at_end,
            slow_after_bytes=slow_after_bytes,
            challenges=random.Random(seed),
            instrument_ids=np.arange(len(market.symbols), dtype=np.uint32) + np.uint32(_FIRST_ID),
        )
        self.host: Final = "127.0.0.1"
        self.port = port
        """Where it listens, once it runs."""
        self._max_seconds = max_seconds
        self._send_buffer_bytes = send_buffer_bytes
        self._connections_per_second = connections_per_second
        self._arrivals: dict[str, deque[float]] = {}
        self._closed_until = 0.0
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._numbers = 0
        self._failures: list[BaseException] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._finished = asyncio.Event()

    @property
    def playback(self) -> Playback:
        """The market's clock."""
        return self._service.playback

    @property
    def faults(self) -> Faults:
        """What goes wrong; ``trigger`` one at any time."""
        return self._service.faults

    @property
    def counts(self) -> Counter[str]:
        """What happened: connections, refused, sessions, records, skipped, heartbeats."""
        return self._service.counts

    @property
    def instrument_ids(self) -> dict[str, int]:
        """The number that each symbol has now."""
        return dict(
            zip(self._service.market.symbols, self._service.instrument_ids.tolist(), strict=True)
        )

    def renumber(self) -> None:
        """Give every symbol another number; running sessions are told before their next quote."""
        ids = self._service.instrument_ids
        self._service.instrument_ids = ids + np.uint32(len(ids))

    async def finished(self) -> None:
        """Wait until it has ended by itself, after ``max_seconds``."""
        await self._finished.wait()

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> DatabentoGateway:
        """Listen, from here until the end of the block or ``max_seconds``."""
        if self._supervisor is not None:
            raise RuntimeError("a gateway runs once; make another for another run")
        await self._listen()
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every session with FIN, and leave nothing behind."""
        assert self._supervisor is not None
        self._supervisor.cancel()
        try:
            await asyncio.wait({self._supervisor})
        finally:
            await self._shut()
        if not self._supervisor.cancelled() and (failure := self._supervisor.exception()):
            raise failure
        if self._failures:
            # What broke a session is this program's fault and must be seen.
            raise self._failures[0]

    def run_in_thread(self) -> AbstractContextManager[DatabentoGateway]:
        """Run it on a loop and thread of its own, until the end of the block."""
        return in_thread(self, "databento-gateway")

    async def _supervise(self) -> None:
        """Do what concerns all sessions at once, until the time is up."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._max_seconds
        try:
            while loop.time() < end:
                now = self.playback.elapsed_secs()
                if any(session.serving for session in self._sessions.values()):
                    for kind in _BREAKS:
                        if fault := self.faults.take(kind, now):
                            self._break(fault)
                await self._open_or_close(now)
                await asyncio.sleep(_POLL_SECS)
            await self._shut()
        finally:
            self._finished.set()

    def _break(self, fault: Fault) -> None:
        if fault.kind == "session_restart":
            self.renumber()
        self._closed_until = asyncio.get_running_loop().time() + fault.for_secs
        for session in self._sessions.values():
            if session.serving:
                session.close(reset=fault.kind == "rst", last_words=fault.text)

    async def _open_or_close(self, now: float | None) -> None:
        refusal = self.faults.active("refuse", now)
        closed = asyncio.get_running_loop().time() < self._closed_until
        if closed or (refusal is not None and not refusal.text):
            self._stop_listening()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, limit=LINE_BYTES_MAX
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut(self) -> None:
        self._stop_listening()
        for session in self._sessions.values():
            session.close()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=_FAREWELL_SECS)
        tasks = list(self._sessions)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._finished.set()

    # ------------------------------------------------------------ connections

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        now = self.playback.elapsed_secs()
        fault = self.faults.active("refuse", now) or self.faults.take("refuse", now)
        turned_away = fault.text if fault is not None else ""
        if (fault is not None and not turned_away) or self._too_many(writer):
            self.counts["refused"] += 1
            writer.close()
            return
        if self._send_buffer_bytes is not None:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        # TCP_NODELAY is asyncio's own default.
        self._numbers += 1
        session = Session(self._service, reader, writer, turned_away)
        task = asyncio.get_running_loop().create_task(session.run(self._numbers))
        self._sessions[task] = session
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sessions.pop(task, None)
        if not task.cancelled() and (failure := task.exception()):
            self._failures.append(failure)

    def _too_many(self, writer: asyncio.StreamWriter) -> bool:
        if self._connections_per_second is None:
            return False
        now = asyncio.get_running_loop().time()
        arrivals = self._arrivals.setdefault(writer.get_extra_info("peername")[0], deque())
        while arrivals and arrivals[0] <= now - 1.0:
            arrivals.popleft()
        if len(arrivals) >= self._connections_per_second:
            return True
        arrivals.append(now)
        return False
