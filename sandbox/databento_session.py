"""One client's session with the stand-in for Databento's gateway, from greeting to close."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import socket
import struct
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Final, Literal, TypeAlias

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
import zstandard
from msgspec import Struct, field

from sandbox.databento_records import (
    LAYOUTS,
    Ints,
    Market,
    Records,
    error,
    from_stamp,
    interleaved,
    mapping,
    metadata,
    system,
)
from sandbox.faults import Faults
from sandbox.playback import END_OF_TIME, Playback

__all__ = ["AtEnd", "Service", "Session"]

AtEnd: TypeAlias = Literal["stay", "close"]

LINE_BYTES_MAX: Final = 1 << 20  # five hundred symbols of 70 characters and more
POLL_SECS: Final = 0.02
_CHUNK_ROWS: Final = 4096
_HANDSHAKE_SECS: Final = 30.0  # as long as the official client waits
_FAREWELL_SECS: Final = 0.5
_HEARTBEAT_SECS: Final = 30.0  # the official client's own default
_WRITE_BUFFER_BYTES: Final = 1 << 18
# A quote's ts_event may lie this much before its ts_recv and still be found by a replay.
_REPLAY_MARGIN_NS: Final = 60_000_000_000
_GREETING: Final = "lsg_version=0.8.0\n"
_RESET: Final = struct.pack("ii", 1, 0)

_Mask: TypeAlias = npt.NDArray[np.bool_]


class Service(Struct, kw_only=True):
    """What all sessions of one gateway share."""

    market: Market
    playback: Playback
    faults: Faults
    keys: Collection[str]
    dataset: str
    publisher_id: int
    restamp: bool
    autostart: bool
    at_end: AtEnd
    slow_after_bytes: int
    challenges: random.Random
    instrument_ids: npt.NDArray[np.uint32]
    """By index of the symbol; a new array when the symbols are numbered anew."""
    furthest: int = 0
    """How far the sessions that have ended came: where an unpaced playback goes on."""
    counts: Counter[str] = field(default_factory=Counter)
    stamps: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Of an unpaced playback: when each quote was first sent, so that a replay repeats it."""
    stamped: int = 0
    """How many of ``stamps`` are known."""

    def stamp_until(self, row: int) -> None:
        """Give quotes before ``row`` that nobody has been sent yet the stamp of now."""
        if not len(self.stamps):
            self.stamps = np.zeros(len(self.market), dtype=np.int64)
        if row > self.stamped:
            self.stamps[self.stamped : row] = self.playback.now_ns()
            self.stamped = row

    @property
    def unpaced(self) -> bool:
        """Whether quotes go out as fast as they are read."""
        return math.isinf(self.playback.speed)


class _Replay(Struct, frozen=True):
    """A subscription's wish for what was before the session."""

    schema: str
    mask: _Mask
    start: int


class _Invalid(Exception):
    """A subscription that ends the session."""


class Session:
    """Serves one connection. ``run`` it once; ``close`` may be called meanwhile."""

    def __init__(
        self,
        service: Service,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        turned_away: str = "",
    ) -> None:
        """Take over a fresh connection; ``turned_away`` says why no key opens it."""
        self.streaming = False
        """Whether the client has started the session."""
        self._service = service
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._wake = asyncio.Event()
        self._lines: list[bytes] = []
        self._gone = False
        self._closing = False
        self._last_words = ""
        self._turned_away = turned_away

        self._ts_out = False
        self._zstd: zstandard.ZstdCompressionObj | None = None
        self._heartbeat_secs = _HEARTBEAT_SECS
        self._warns_only = False
        self._last_sent = 0.0

        self._partial: dict[str, list[str]] = {}
        self._subscribed: dict[str, _Mask] = {}
        self._replays: list[_Replay] = []
        self._mapped: dict[int, int] = {}
        self._ids_told = service.instrument_ids
        self._may_replay = True
        self._row = 0
        self._interval = 0
        self._slow = False
        self._skipped = 0
        self._held: Records | None = None

    @property
    def serving(self) -> bool:
        """Whether it streams and nobody has asked it to end."""
        return self.streaming and not self._closing

    async def run(self, number: int) -> None:
        """Talk to the client until it leaves, breaks the protocol, or ``close`` is called."""
        listening: asyncio.Task[None] | None = None
        try:
            if await self._handshake(number):
                listening = asyncio.create_task(self._listen())
                await self._stream()
                await self._farewell()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client is gone, or talks what nobody understands.
        finally:
            if self.streaming:
                self._service.furthest = max(self._service.furthest, self._row)
            self.streaming = False
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            # asyncio's transport has let go of its loop once the connection is lost.
            with contextlib.suppress(AttributeError):
                self._transport.abort()

    def close(self, *, reset: bool = False, last_words: str = "") -> None:
        """End the session: with RST at once, or with FIN after what was sent.

        ``last_words`` reach the client as a fatal error.
        """
        self._closing = True
        self._last_words = last_words
        if reset:
            with suppress(OSError):
                connection: socket.socket = self._writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        elif not self.streaming:
            self._transport.close()
        self._wake.set()

    # ------------------------------------------------------------ text

    async def _handshake(self, number: int) -> bool:
        """Greet, authenticate, and take subscriptions until the session starts."""
        service = self._service
        async with asyncio.timeout(_HANDSHAKE_SECS):
            await self._outlast_stall()
            challenge = f"{service.challenges.getrandbits(128):032x}"
            self._writer.write(f"{_GREETING}cram={challenge}\n".encode())
            wishes = _fields(await self._reader.readuntil(b"\n"))
            await self._outlast_stall()
            if reason := self._refusal(challenge, wishes):
                service.counts["refused"] += 1
                self._writer.write(f"success=0|error={reason}\n".encode())
                await self._farewell()
                return False
            self._writer.write(f"success=1|session_id={number}\n".encode())
        self._ts_out = wishes.get("ts_out") == "1"
        if wishes.get("compression") == "zstd":
            self._zstd = zstandard.ZstdCompressor(level=1).compressobj()
        with suppress(ValueError):
            wanted = float(wishes.get("heartbeat_interval_s", _HEARTBEAT_SECS))
            self._heartbeat_secs = wanted if wanted > 0 else _HEARTBEAT_SECS
        self._warns_only = wishes.get("slow_reader_behavior") == "warn"
        while not (line := await self._reader.readuntil(b"\n")).startswith(b"start_session"):
            self._lines.append(line)
        return not self._closing

    def _refusal(self, challenge: str, wishes: dict[str, str]) -> str:
        """Why this client may not come in; empty when it may."""
        service = self._service
        if self._turned_away:
            return self._turned_away
        answers = (
            f"{hashlib.sha256(f'{challenge}|{key}'.encode()).hexdigest()}-{key[-5:]}"
            for key in service.keys
        )
        if wishes.get("auth", "") not in answers:
            return "Authentication failed."
        if wishes.get("dataset") != service.dataset:
            return f"This gateway serves {service.dataset}, not {wishes.get('dataset')}."
        if wishes.get("encoding", "dbn") != "dbn":
            return f"Encoding {wishes['encoding']} is not served, only dbn."
        if wishes.get("compression", "none") not in ("none", "zstd"):
            return f"Compression {wishes['compression']} is not served, only none and zstd."
        return ""

    async def _outlast_stall(self) -> None:
        service = self._service
        while service.faults.active("stall", service.playback.elapsed_secs()):
            await asyncio.sleep(POLL_SECS)

    async def _listen(self) -> None:
        """Collect the client's lines until it leaves."""
        with suppress(ConnectionError, ValueError):
            while line := await self._reader.readline():
                self._lines.append(line)
                self._wake.set()
        self._gone = True
        self._wake.set()

    # ------------------------------------------------------------ stream

    async def _stream(self) -> None:
        """Send records until someone ends the session."""
        service, playback = self._service, self._service.playback
        begin = playback.now_ns()
        if service.autostart:
            playback.start(begin)
        if service.unpaced:
            self._row = service.furthest
        elif playback.started:
            present = playback.recorded_ns(begin)
            self._row = int(np.searchsorted(service.market.ts, present, "left"))
            self._interval = present
        self.streaming = True
        service.counts["sessions"] += 1
        await self._outlast_stall()
        self._send(metadata(service.dataset, self._stamp(), ts_out=self._ts_out))
        if not await self._take_lines():
            return
        await self._replay()
        while not (self._gone or self._closing):
            now = playback.elapsed_secs()
            if service.faults.active("stall", now):
                await self._nap(POLL_SECS)
                continue
            if not (await self._take_lines() and await self._send_due(now)):
                return
            if self._row == len(service.market) and service.at_end == "close":
                return
            if self._clock() - self._last_sent >= self._heartbeat_secs:
                service.counts["heartbeats"] += 1
                self._say("Heartbeat", dbn.SystemCode.HEARTBEAT)
            await self._nap(self._secs_to_next(now))

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def _nap(self, secs: float) -> None:
        """Wait, but not past a line of the client or a call of ``close``."""
        alarm = asyncio.get_running_loop().call_later(secs, self._wake.set)
        await self._wake.wait()
        alarm.cancel()
        self._wake.clear()

    def _secs_to_next(self, now: float | None) -> float:
        service = self._service
        if self._row == len(service.market) or now is None or now < 0.0 or self._slow:
            return POLL_SECS
        if service.unpaced:
            return 0.0
        next_ns = service.playback.wall_ns(int(service.market.ts[self._row]))
        secs = (next_ns - service.playback.now_ns()) / 1e9 + self._delay_secs(now)
        return min(max(secs, 0.0), POLL_SECS)

    def _delay_secs(self, now: float | None) -> float:
        fault = self._service.faults.active("delay", now)
        return 0.0 if fault is None else fault.amount

    async def _send_due(self, now: float | None) -> bool:
        """Send what is due, in pieces; false if the session is over."""
        service, playback = self._service, self._service.playback
        if now is None or now < 0.0:
            return True
        self._renumber()
        delay = self._delay_secs(now)
        if service.unpaced:
            if delay:
                await asyncio.sleep(delay)
            rows = self._row, min(self._row + _CHUNK_ROWS, len(service.market))
            whole = self._send_rows(*rows, now)
            self._row = rows[1]
            await self._writer.drain()
            self._release()
            return whole
        present = playback.recorded_ns(playback.now_ns() - round(delay * 1e9))
        due = int(np.searchsorted(service.market.ts, present, "right"))
        if not self._gauge(due, now):
            return True
        while self._row < due:
            end = min(self._row + _CHUNK_ROWS, due)
            whole = self._send_rows(self._row, end, now)
            self._row = end
            if not whole:
                return False
            if self._transport.get_write_buffer_size() > service.slow_after_bytes:
                return True  # The next round judges the reader.
            await asyncio.sleep(0)
        self._release()
        self._end_intervals(present)
        return True

    def _release(self) -> None:
        """After the last quote, send the one that was held back to be swapped with the next."""
        if self._held is not None and self._row == len(self._service.market):
            self._send_records(self._held)
            self._held = None

    def _gauge(self, due: int, now: float | None) -> bool:
        """Judge how the reader keeps up; false if nothing may be sent to it now.

        Who lags loses quotes, and is told when it has caught up; or it is told at once, and gets
        them all later.
        """
        service = self._service
        backlog = self._transport.get_write_buffer_size()
        full = backlog > service.slow_after_bytes // (2 if self._slow else 1)
        slow = full or service.faults.active("slow_reader", now) is not None
        warns = self._warns_only or any(not LAYOUTS[schema].skips for schema in self._subscribed)
        if slow and not self._slow and warns:
            self._say("The client is reading too slowly.", dbn.SystemCode.SLOW_READER_WARNING)
        if slow and not warns and due > self._row:
            self._skipped += due - self._row
            service.counts["skipped"] += due - self._row
            self._row = due
        if not slow and self._skipped:
            self._complain(
                f"Skipped {self._skipped} records after slow reading.",
                dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING,
            )
            self._skipped = 0
        self._slow = slow
        return not slow or (warns and not full)

    def _end_intervals(self, present: int) -> None:
        """Tell subscribers of sampled schemas that an interval is over, after its quotes."""
        for schema in self._subscribed:
            every = LAYOUTS[schema].interval_ns
            if every and self._interval and present // every > self._interval // every:
                end = present // every * every
                stamp = self._service.playback.wall_ns(end) if self._service.restamp else end
                text = f"End of interval for {schema}"
                self._send(system(stamp, text, dbn.SystemCode.END_OF_INTERVAL, **self._out()))
        self._interval = max(self._interval, present)

    async def _replay(self) -> None:
        """Send what was before the session to who asked for it, then say so, once per schema."""
        market, playback = self._service.market, self._service.playback
        for replay in self._replays:
            first = 0
            if not self._service.unpaced and playback.started:
                start = min(max(replay.start - _REPLAY_MARGIN_NS, 0), 2**62)
                recorded = playback.recorded_ns(start) if self._service.restamp else start
                first = int(np.searchsorted(market.ts, recorded, "left"))
            for begin in range(first, self._row, _CHUNK_ROWS):
                if self._gone or self._closing:
                    return
                rows = np.arange(begin, min(begin + _CHUNK_ROWS, self._row))
                records = self._build(rows, replay.schema, replay.mask)[1]
                self._send_records(from_stamp(records, replay.start, replay.schema))
                await self._writer.drain()
                await asyncio.sleep(0)
        for schema in dict.fromkeys(replay.schema for replay in self._replays):
            self._say(f"Finished {schema} replay", dbn.SystemCode.REPLAY_COMPLETED)
        self._replays.clear()
        self._may_replay = False

    # ------------------------------------------------------------ subscriptions

    async def _take_lines(self) -> bool:
        """Act on the client's lines; false if one of them ended the session."""
        lines, self._lines = self._lines, []
        for line in lines:
            try:
                self._subscribe(_fields(line))
            except _Invalid as invalid:
                self._complain(str(invalid), dbn.ErrorCode.INVALID_SUBSCRIPTION)
                return False
        return True

    def _subscribe(self, wish: dict[str, str]) -> None:
        schema, number = wish.get("schema", ""), wish.get("id", "")
        if schema not in LAYOUTS:
            raise _Invalid(
                f"Schema {schema!r} is not served by this gateway, only {', '.join(LAYOUTS)}."
            )
        start: int | None = None
        if wish.get("start"):
            if not wish["start"].isdecimal() or int(wish["start"]) > END_OF_TIME:
                raise _Invalid(f"start must be ns since 1970, was {wish['start']!r}.")
            start = int(wish["start"])
        symbols = self._partial.setdefault(number, [])
        symbols += filter(None, wish.get("symbols", "").split(","))
        if wish.get("is_last", "1") != "1":
            return
        del self._partial[number]
        text = f"Subscription request {number} for {schema} data succeeded"
        self._say(text, dbn.SystemCode.SUBSCRIPTION_ACK)
        mask = self._resolve(symbols, wish.get("stype_in", "raw_symbol"))
        self._announce(np.flatnonzero(mask))
        before = self._subscribed.get(schema)
        self._subscribed[schema] = mask if before is None else mask | before
        # As the vendor's: once the session runs, a wish for the past is ignored.
        if start is not None and self._may_replay:
            self._replays.append(_Replay(schema, mask, start))

    def _resolve(self, symbols: list[str], stype: str) -> _Mask:
        """Say which symbols are meant, and to the client which of its wishes mean none."""
        market, ids = self._service.market, self._service.instrument_ids
        mask: _Mask = np.zeros(len(market.symbols), dtype=np.bool_)
        if "ALL_SYMBOLS" in symbols:
            mask[:] = True
            return mask
        by_name = {
            "raw_symbol": {name: i for i, name in enumerate(market.symbols)},
            "instrument_id": {str(number): i for i, number in enumerate(ids)},
        }.get(stype, {})
        unknown = []
        for symbol in symbols:
            if symbol in by_name:
                mask[by_name[symbol]] = True
            else:
                unknown.append(symbol)
        for symbol in unknown:
            self._complain(
                f"Failed to resolve symbol {symbol!r} of stype {stype}",
                dbn.ErrorCode.SYMBOL_RESOLUTION_FAILED,
                is_last=symbol is unknown[-1],
            )
        return mask

    def _announce(self, symbols: npt.NDArray[np.intp]) -> None:
        """Tell the numbers of symbols that have not been told in this session."""
        ids = self._service.instrument_ids
        for i in map(int, symbols):
            if self._mapped.get(i) != ids[i]:
                self._mapped[i] = int(ids[i])
                name = self._service.market.symbols[i]
                self._send(mapping(self._stamp(), name, int(ids[i]), **self._out()))

    def _renumber(self) -> None:
        if self._ids_told is not self._service.instrument_ids:
            self._ids_told = self._service.instrument_ids
            self._announce(np.array(list(self._mapped), dtype=np.intp))

    # ------------------------------------------------------------ records

    def _send_rows(self, begin: int, end: int, now: float | None) -> bool:
        """Send some quotes with the faults that are due; false if one of them ends the session."""
        if self._service.unpaced:
            self._service.stamp_until(end)
        rows = np.arange(begin, end)
        parts = [self._build(rows, schema, mask) for schema, mask in self._subscribed.items()]
        if not parts:
            return True
        records = interleaved(parts)
        if not len(records):
            return True
        faults = self._service.faults
        rubbish = faults.take("malformed", now)
        records = self._spoil(records, now)
        if rubbish is not None and rubbish.text == "cut":
            data = records.tobytes()
            self._send(data[: len(data) - records.itemsize // 2])
            return False
        if rubbish is not None:
            # A record whose header says that it is 0 bytes long.
            self._send(bytes(records.itemsize))
        self._send_records(records)
        return True

    def _build(self, rows: Ints, schema: str, mask: _Mask) -> tuple[Ints, Records]:
        service = self._service
        market, playback = service.market, service.playback
        if not mask.all():
            rows = rows[mask[market.symbol_of[rows]]]
        stamps: Ints | None = None
        if service.restamp and service.unpaced:
            stamps = service.stamps[rows]
        elif service.restamp:
            stamps = playback.walls_ns(market.ts[rows])
        return rows, market.build(
            rows,
            schema,
            instrument_ids=service.instrument_ids,
            publisher_id=service.publisher_id,
            ts_recv=stamps,
            ts_out=playback.now_ns() if self._ts_out else None,
        )

    def _spoil(self, records: Records, now: float | None) -> Records:
        """Lose, repeat or swap records from the first on, as many as are due."""
        take = self._service.faults.take
        order = list(range(len(records)))
        while order and take("gap", now):
            del order[0]
        repeated = 0
        while repeated < len(order) and take("duplicate", now):
            repeated += 1
        order[:repeated] = [i for i in order[:repeated] for _ in range(2)]
        if self._held is not None and order:
            # The record that was held back goes after the one it stood before.
            records = np.concatenate([records, self._held])
            order.insert(1, len(records) - 1)
            self._held = None
        elif order:
            at = 0
            while at < len(order) and take("reorder", now):
                if at + 1 == len(order):
                    self._held = records[order.pop()][None]
                    break
                order[at], order[at + 1] = order[at + 1], order[at]
                at += 2
        return records[order]

    def _send_records(self, records: Records) -> None:
        if len(records):
            self._service.counts["records"] += len(records)
            self._send(records.tobytes())

    def _stamp(self) -> int:
        """The time of the session's own records: the wall's, or with recorded stamps the tape's."""
        service = self._service
        if service.restamp or not service.playback.started:
            return service.playback.now_ns()
        if not service.unpaced:
            return max(service.playback.recorded_ns(service.playback.now_ns()), 0)
        market = service.market
        return int(market.ts[min(self._row, len(market) - 1)]) if len(market) else 0

    def _out(self) -> dict[str, int]:
        return {"ts_out": self._service.playback.now_ns()} if self._ts_out else {}

    def _say(self, text: str, code: int) -> None:
        self._send(system(self._stamp(), text, code, **self._out()))

    def _complain(self, text: str, code: int, *, is_last: bool = True) -> None:
        self._send(error(self._stamp(), text, code, is_last=is_last, **self._out()))

    def _send(self, data: bytes) -> None:
        if self._zstd is not None:
            data = self._zstd.compress(data) + self._zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        self._last_sent = self._clock()
        self._writer.write(data)

    async def _farewell(self) -> None:
        """Close with FIN, after everything that was sent has left."""
        if self._transport.is_closing():
            return
        if self._last_words:
            self._complain(self._last_words, dbn.ErrorCode.INTERNAL_ERROR)
        if self._zstd is not None:
            self._writer.write(self._zstd.flush())
        self._writer.close()
        async with asyncio.timeout(_FAREWELL_SECS):
            await self._writer.wait_closed()


def _fields(line: bytes) -> dict[str, str]:
    """Read ``a=1|b=2``, in whatever order."""
    text = line.decode("utf-8", "replace").strip()
    return dict(part.partition("=")[::2] for part in text.split("|"))
