"""Databento's live feed: the best bid and offer of the symbols of one session, as they arrive.

The official client opens and authenticates the session; its stream is cut into records here, one
batch to a network read, because the client would make an object and several calls of each record.
Its reconnecting is not used: it does not reconnect after a clean close, never backs off, and can
hang for good. A new session is made here instead, and the gap is replayed where the gateway can.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from streams.dbn_quotes import (
    FIELDS,
    MAX_TS,
    QUOTE_SCHEMAS,
    RECORD_BYTES,
    TS_OUT_BYTES,
    UNDEF_PRICE,
    UNDEF_TS,
    read_mapping,
    read_text,
    rtype_name,
)
from streams.events import Quote, Status, StatusKind
from streams.feed import Backoff, Emit
from streams.instrument import UNIT

if TYPE_CHECKING:
    from databento.live.protocol import DatabentoLiveProtocol

__all__ = ["DatabentoError", "DatabentoFeed"]

_PORT: Final = 13000
"""Source: the official client's default; the host is made as it makes it, too."""
_CONNECT_SECS: Final = 10.0
_AUTH_SECS: Final = 30.0
"""Both limits are the official client's."""
_GRACE_SECS: Final = 5.0
"""How long a heartbeat may be late, as in the vendor's Rust client."""
_CLOSE_SECS: Final = 1.0
_REPLAY_MARGIN_NS: Final = 1_000_000_000
"""How much earlier than the last record a replay begins: it is cut by ts_event, which goes back
now and then (22 ms were seen), and what comes twice is removed by ts_recv."""
_FRUITLESS_REPLAYS: Final = 2
"""After so many replaying sessions in a row that end without any record, none is asked for."""

# Source: Databento, "Live API", system and error codes.
_HEARTBEAT, _SLOW_READER, _REPLAY_COMPLETED, _END_OF_INTERVAL = 0, 2, 3, 4
_AUTH_FAILED, _KEY_DEACTIVATED, _UNRESOLVED, _BAD_SUBSCRIPTION = 1, 2, 4, 5
_AGED_OUT, _NO_CODE = 8, 255
_CLOSING: Final = frozenset({1, 2, 3, 5, 6, 8})
"""Errors after which the gateway closes the session."""
_PASSING: Final = re.compile(
    r"\b(again|internal|limit|limits|maintenance|temporar\w+|timed? ?out|too many|unavailable)\b",
    re.I,
)
"""Words of refusals that another attempt can mend, as the gateway sends no code with them."""

_ERROR, _MAPPING, _SYSTEM = 21, 22, 23
# Source: the DBN encoding, as the vendor's library writes it.
_HEADER_BYTES: Final = 8
_LEAST_HEADER: Final = 100
_MOST_HEADER: Final = 1 << 20
_TS_OUT_AT: Final = {1: 60, 2: 52, 3: 52}
"""Where the header of each version says whether there is a ``ts_out``."""
_MIN_RECORD_BYTES: Final = 16
_CONTROL_BYTES: Final = {
    (_ERROR, False): 320, (_MAPPING, False): 176, (_SYSTEM, False): 320,
    (_ERROR, True): 80, (_MAPPING, True): 80, (_SYSTEM, True): 80,
}  # fmt: skip
"""Length of what is no quote, by record type and whether it is of version 1."""
_ERROR_CODE_AT: Final = 318
_IS_LAST_AT: Final = 319
_SYSTEM_CODE_AT: Final = 319

_Row: TypeAlias = tuple[int, ...]
"""Fields of a record in the order of ``FIELDS``: rtype, id, ts_event, flags, ts_recv and so on."""
_Key: TypeAlias = tuple[int, ...]
_TS_EVENT, _TS_RECV = 2, 4


def _row_struct() -> struct.Struct:
    """Make the reader of one record from the table that the reader of files uses."""
    codes = {"u1": "B", "<u4": "I", "<u8": "Q", "<i8": "q"}
    layout, at = "<", 0
    for kind, offset in FIELDS.values():
        layout += f"{offset - at}x{codes[kind]}"
        at = offset + struct.calcsize(f"<{codes[kind]}")
    return struct.Struct(f"{layout}{RECORD_BYTES - at}x")


_READ_ROW: Final = _row_struct().unpack_from


class DatabentoError(RuntimeError):
    """The gateway refused what was asked for, and asking again would not help."""


class _GapError(Exception):
    """The session is over, for a reason that a new one may not have."""

    def __init__(self, reason: str, *, replay_refused: bool = False) -> None:
        super().__init__(reason)
        self.replay_refused = replay_refused


class DatabentoFeed:
    """Quotes of one or several symbols of one dataset, in one session, each to its own ``Emit``.

    A row with both sides undefined says that the book was cleared; it becomes a quote without
    sides. Trades carry the book too and are quotes like others. A record is left out, and counted,
    for the reasons for which the import of a file leaves it out.

    After a gap (closed, reset, silent, malformed or refused by the gateway) a new session follows,
    later each time as ``backoff`` says. With ``resume`` it asks for a replay from a second before
    the last record, and what was already emitted is removed: per symbol, all before the last
    ``ts_recv``, and at it as many equal records as were received. A gateway that refuses the
    replay is asked for a session without; what may be missing is then told and counted.

    ``counts``: ``attempts``, ``sessions`` (that streamed), ``gaps`` (attempts that ended), ``gaps
    not replayed``, ``received`` (quote records), ``quotes`` (emitted), ``overlap removed``,
    ``unknown instrument``, ``negative price``, ``undefined ts_recv``, ``impossible timestamp``,
    ``other record``, ``mappings``, ``heartbeats``, ``slow reader warnings``, and ``gateway error
    N`` by code. All of ``received`` is in ``quotes`` or in one of the five after it.

    Statuses: ``connect`` when the session streams, ``disconnect`` with the reason after every
    attempt, ``heartbeat`` for the gateway's heartbeats and ends of intervals, ``notice`` for the
    rest. Quotes that are replayed come after ``connect``; a ``notice`` says when they are over.

    Units: prices and sizes 1e-9, from whole units of size; times ns.
    Shape: one call of an ``Emit`` per network read and symbol.
    Errors: ValueError on call for what cannot be asked for; DatabentoError out of ``run`` if the
        key, the dataset, the schema or a symbol is refused. What an ``Emit`` raises ends ``run``.
    """

    def __init__(
        self,
        *,
        key: str,
        dataset: str,
        schema: str,
        symbols: Mapping[str, Emit],
        status: Emit,
        gateway: str | None = None,
        source: str = "signal",
        heartbeat_secs: int = 10,
        backoff: Backoff | None = None,
        resume: bool = True,
        on_count: Callable[[str, int], None] | None = None,
    ) -> None:
        """Check what can be checked without the gateway.

        ``gateway`` is ``host:port``, the vendor's for the dataset when not given. ``on_count`` is
        told each addition to ``counts``.
        """
        if not key.strip():
            raise ValueError("the Databento key is empty; give the one from the vendor's portal")
        if not dataset or set(dataset) & set("|=\n \t"):
            raise ValueError(f"dataset must be a code such as EQUS.MINI, was {dataset!r}")
        if schema not in QUOTE_SCHEMAS:
            raise ValueError(
                f"schema {schema!r} holds no best bid and offer; "
                f"choose one of {', '.join(QUOTE_SCHEMAS)}"
            )
        if heartbeat_secs < 1:
            raise ValueError(f"heartbeat_secs must be at least 1 s, was {heartbeat_secs!r}")
        if not symbols:
            raise ValueError("symbols must name at least one symbol, such as NVDA")
        self.counts: Counter[str] = Counter()
        self._key = key.strip()
        self._dataset = dataset
        self._schema = schema
        self._by_recv = schema.startswith(("bbo", "cbbo"))
        self._status = status
        self._source = source
        self._heartbeat_secs = heartbeat_secs
        self._backoff = backoff or Backoff()
        self._resume = resume
        self._on_count = on_count
        self._given_gateway = gateway is not None
        self._host, self._port = _address(gateway, dataset)
        self._routes: dict[str, _Route] = {}
        for symbol, emit in symbols.items():
            name = symbol.upper()  # as the client sends it
            if not name.strip() or set(name) & set(",|=\n") or name == "ALL_SYMBOLS":
                raise ValueError(f"a symbol must be a single raw symbol, was {symbol!r}")
            if name in self._routes:
                raise ValueError(f"symbol {name} is given twice; symbols are upper case")
            self._routes[name] = _Route(name, emit)
        self._mark: int | None = None
        self._fruitless = 0
        self._refused = ""

    def __repr__(self) -> str:
        """Say what it streams; never the key."""
        return f"DatabentoFeed({self._dataset} {self._schema} {','.join(self._routes)})"

    async def run(self) -> None:
        """Stream until cancelled, session after session."""
        import databento.live.protocol  # noqa: F401  (half a second, before anything streams)

        clock = asyncio.get_running_loop().time
        while True:
            self._count("attempts")
            start = self._replay_start()
            stream = _Stream(self, start)
            try:
                await self._session(stream, start)
            except _GapError as gap:
                self._backoff.lasted(0.0 if stream.since is None else clock() - stream.since)
                self._after(stream, gap)
                wait = self._backoff.next()
                self._count("gaps")
                self._say("disconnect", f"{gap}; next attempt in {wait:.2f} s")
                await asyncio.sleep(wait)
            except DatabentoError as error:
                self._say("disconnect", str(error))
                raise

    async def _session(self, stream: _Stream, start: int | None) -> None:
        """Hold one session; it ends with _GapError, or DatabentoError if there is no use."""
        wire = await self._connect(stream)
        try:
            await self._authenticate(wire)
            wire.client.subscribe(self._schema, list(self._routes), start=start)
            wire.client.start()
            silence = self._heartbeat_secs + _GRACE_SECS
            while not await wire.over_by(wire.heard + silence):
                if wire.silence() >= silence:
                    raise _GapError(f"no sign of life for {silence:g} s, the connection is dead")
            raise wire.failure
        finally:
            await wire.close()

    async def _connect(self, stream: _Stream) -> _Wire:
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(_CONNECT_SECS):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self._client(), stream), self._host, self._port
                )
        except TimeoutError:
            raise _GapError(f"{where} does not answer within {_CONNECT_SECS:g} s") from None
        except socket.gaierror as error:
            self._require_known_dataset(where)
            raise _GapError(f"the name {self._host} does not resolve ({error.strerror})") from None
        except OSError as error:
            raise _GapError(f"{where} cannot be reached ({error.strerror or error})") from None
        return wire

    def _client(self) -> DatabentoLiveProtocol:
        from databento.live.protocol import DatabentoLiveProtocol

        return DatabentoLiveProtocol(
            api_key=self._key, dataset=self._dataset, heartbeat_interval_s=self._heartbeat_secs
        )

    async def _authenticate(self, wire: _Wire) -> None:
        answer = wire.client.authenticated
        waited: set[asyncio.Future[Any]] = {answer, wire.over}
        await asyncio.wait(waited, timeout=_AUTH_SECS, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            refusal = answer.exception()
            if refusal is not None:
                raise self._refusal(str(refusal))
            wire.stream.session = answer.result() or "unknown"
        elif wire.over.done():
            raise wire.failure
        else:
            raise _GapError(f"the gateway did not open the session within {_AUTH_SECS:g} s")

    def _refusal(self, text: str) -> Exception:
        """Tell a refusal for good from one that may pass."""
        text = self._clean(text)
        if _PASSING.search(text):
            return _GapError(f"the gateway refused the session: {text}")
        return DatabentoError(
            f"Databento refused a session on {self._dataset} at {self._host}:{self._port}: {text}; "
            f"the key must be valid and licensed for live data of the dataset. Check the key "
            f"(32 characters, beginning with db-), the dataset's name and its licence"
        )

    def _require_known_dataset(self, where: str) -> None:
        """Refuse a dataset that neither the name servers nor the client have heard of."""
        from databento.common.publishers import Dataset

        known = sorted(str(each.value) for each in Dataset)
        if self._given_gateway or self._dataset in known:
            return
        raise DatabentoError(
            f"dataset {self._dataset!r} is not known: {where} does not resolve, and the client has "
            f"no dataset of this name; a dataset must be one of the vendor's, such as EQUS.MINI. "
            f"Correct its name, or upgrade the databento package if it is new"
        )

    # ------------------------------------------------------------ the gap

    def _replay_start(self) -> int | None:
        """From when the next session is to replay, if it is to."""
        if not self._resume or self._mark is None or self._refused:
            return None
        return max(0, self._mark - _REPLAY_MARGIN_NS)

    def _after(self, stream: _Stream, gap: _GapError) -> None:
        """Learn from a session that ended whether the next may replay."""
        if stream.start is None or (stream.since is None and not gap.replay_refused):
            return
        self._fruitless = 0 if stream.fruitful else self._fruitless + 1
        if gap.replay_refused:
            self._refused = str(gap)
        elif self._fruitless >= _FRUITLESS_REPLAYS:
            self._refused = f"{self._fruitless} sessions with a replay ended without any record"

    def _streaming(self, stream: _Stream) -> None:
        """Tell that a session streams, and what it leaves out."""
        self._count("sessions")
        text = f"{self._dataset} {self._schema}, session {stream.session}"
        if stream.start is not None:
            text += f", with a replay from {stream.start} on"
        self._say("connect", text)
        if stream.start is None and self._mark is not None:
            why = f"the replay was refused: {self._refused}" if self._refused else "resume is off"
            self._count("gaps not replayed")
            self._say("notice", f"quotes after {self._mark} until now may be missing; {why}")

    def _reached(self, row: _Row) -> None:
        """Note the newest record: from a little before it the next session is to replay."""
        ts_event, ts_recv = row[_TS_EVENT], row[_TS_RECV]
        self._mark = ts_recv if self._by_recv else min(ts_event, ts_recv)  # undefined is large
        self._refused = ""

    # ------------------------------------------------------------ what the stream tells

    def _gateway_error(self, code: int, text: str, stream: _Stream) -> Exception | None:
        """Count an error of the gateway; return what ends the session for it, if it does."""
        text = self._clean(text)
        self._count(f"gateway error {code}")
        self._say("notice", f"gateway error {code}: {text}")
        if code in (_AUTH_FAILED, _KEY_DEACTIVATED):
            return self._refusal_by_code(code, text, "the key must be valid. Check the key")
        if code == _BAD_SUBSCRIPTION and stream.start is None:
            return self._refusal_by_code(
                code, text, f"the dataset must offer {self._schema}. Choose another schema"
            )
        if code == _UNRESOLVED and (lost := self._unresolved(text)):
            return self._refusal_by_code(
                code,
                text,
                f"{' and '.join(lost)} must be a raw symbol of the dataset. Correct its spelling",
            )
        if code in _CLOSING:
            refused = stream.start is not None and code in (_BAD_SUBSCRIPTION, _AGED_OUT)
            return _GapError(f"gateway error {code}: {text}", replay_refused=refused)
        return None

    def _refusal_by_code(self, code: int, text: str, remedy: str) -> DatabentoError:
        return DatabentoError(
            f"Databento refused {self._schema} of {', '.join(self._routes)} in {self._dataset} at "
            f"{self._host}:{self._port} with error {code}: {text}; {remedy}"
        )

    def _unresolved(self, text: str) -> list[str]:
        """Which symbols a resolution error is about, of those that never were resolved."""
        never = [name for name, route in self._routes.items() if not route.resolved]
        words = set(text.upper().replace(",", " ").replace("'", " ").replace('"', " ").split())
        named = [name for name in self._routes if name in words or f"{name}." in words]
        return [name for name in never if name in named] if named else never

    def _clean(self, text: str) -> str:
        """Take the key out of a text of the gateway."""
        return text.replace(self._key, "***")

    def _say(self, kind: StatusKind, text: str = "") -> None:
        self._status((Status(0, 0, self._source, kind, text),))

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            self.counts[what] += number
            if self._on_count is not None:
                self._on_count(what, number)


def _address(gateway: str | None, dataset: str) -> tuple[str, int]:
    if gateway is None:
        return f"{dataset.lower().replace('.', '-')}.lsg.databento.com", _PORT
    host, _, port = gateway.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"gateway must be host:port, such as 127.0.0.1:13000, was {gateway!r}")
    return host.strip("[]"), int(port)


class _Route:
    """Where the quotes of one symbol go, and which of them a replay would repeat."""

    __slots__ = ("emit", "expected", "last", "name", "quotes", "resolved", "rows", "tail")

    def __init__(self, name: str, emit: Emit) -> None:
        self.name = name
        self.emit = emit
        self.resolved = False
        self.quotes: list[Quote] = []
        self.rows: list[_Row] = []
        self.last = -1
        """The highest ts_recv of all records so far."""
        self.tail: list[_Key] = []
        """What was received with it."""
        self.expected: Counter[_Key] | None = None
        """What a replay has yet to repeat of the tail; ``None`` when nothing is repeated."""

    def repeated(self, row: _Row) -> bool:
        """Say whether a replayed record was received before."""
        if self.expected is None or row[_TS_RECV] > self.last:
            self.expected = None
            return False
        if row[_TS_RECV] < self.last:
            return True
        key = _key(row)
        if not self.expected[key]:
            return False
        self.expected[key] -= 1
        return True

    def flush(self) -> None:
        """Emit what arrived together."""
        rows, quotes = self.rows, self.quotes
        self.rows, self.quotes = [], []
        newest = max(row[_TS_RECV] for row in rows)
        if newest >= self.last:
            keys = [_key(row) for row in rows if row[_TS_RECV] == newest]
            if newest > self.last:
                self.tail, self.last = keys, newest
            else:
                self.tail += keys
        self.emit(quotes)


def _key(row: _Row) -> _Key:
    """What tells records of one ts_recv apart; a replay may change flags and ids."""
    return (row[_TS_EVENT], *row[_TS_RECV + 1 :])


class _Stream:
    """Cuts the bytes of one session into records and passes on what they say."""

    def __init__(self, feed: DatabentoFeed, start: int | None) -> None:
        self._feed = feed
        self.start = start
        self.session = "unknown"
        self.since: float | None = None
        """When it began to stream, by the event loop's clock."""
        self.fruitful = False
        """Whether it brought any quote, or a whole replay."""
        self.last_error = ""
        self._rest = b""
        self._unresolved: list[str] = []
        """Errors of symbols, until the last of those that come together."""
        self._version = 0
        """Of the stream, once its header has come."""
        self._rtype = QUOTE_SCHEMAS[feed._schema]
        self._size = RECORD_BYTES
        self._routes: dict[int, _Route] = {}
        self._fresh: list[_Route] = []
        """Routes with something to flush, the first to get it first."""
        self._newest: _Row | None = None
        for route in feed._routes.values():
            route.expected = None if start is None else Counter(route.tail)

    def feed(self, data: bytes) -> None:
        """Take in what one network read brought; all that is sound of it is emitted."""
        if self._rest:
            data = self._rest + data
        at = 0
        try:
            if not self._version:
                at = self._header(data)
            if self._version:
                at = self._records(data, at)
        except (_GapError, DatabentoError):
            self._flush()
            raise
        self._rest = data[at:]
        self._flush()

    @property
    def partial(self) -> int:
        """How many bytes of an unfinished record (or header) it holds."""
        return len(self._rest)

    def _header(self, data: bytes) -> int:
        """Read the header once it is whole; return where it ends, 0 before."""
        start = data[:_HEADER_BYTES]
        if start[:3] != b"DBN"[: len(start)]:
            raise _GapError(f"the stream begins with {start!r}, not with a DBN header")
        if len(start) < _HEADER_BYTES:
            return 0
        version, length = start[3], int.from_bytes(start[4:], "little")
        if version not in _TS_OUT_AT or not _LEAST_HEADER <= length <= _MOST_HEADER:
            raise _GapError(f"the DBN header of version {version} and {length} bytes is not known")
        end = _HEADER_BYTES + length
        if len(data) < end:
            return 0
        self._version = version
        self._size = RECORD_BYTES + (TS_OUT_BYTES if data[_TS_OUT_AT[version]] else 0)
        self.since = asyncio.get_running_loop().time()
        self._feed._streaming(self)
        return end

    def _records(self, data: bytes, at: int) -> int:
        """Take in all whole records; return where they end. This is the hot path."""
        end, quote_rtype, quote_size = len(data), self._rtype, self._size
        get_route = self._routes.get
        received = unknown = overlap = 0
        try:
            while at < end:
                size = data[at] * 4
                if size < _MIN_RECORD_BYTES:
                    raise _GapError(f"a record says that it is {size} bytes long")
                if at + size > end:
                    break
                rtype = data[at + 1]
                if rtype != quote_rtype:
                    self._flush()
                    self._other(rtype, data[at : at + size])
                    at += size
                    continue
                if size != quote_size:
                    raise _GapError(f"a quote is {size} bytes long, must be {quote_size}")
                row = _READ_ROW(data, at)
                at += size
                received += 1
                _, number, ts_event, flags, ts_recv, _, bid, ask, bid_sz, ask_sz = row
                route = get_route(number)
                if ts_recv > MAX_TS or MAX_TS < ts_event != UNDEF_TS or bid < 0 or ask < 0:
                    self._feed._count(_fault(row))
                elif route is None:
                    unknown += 1
                elif route.expected is not None and route.repeated(row):
                    overlap += 1
                else:
                    if not route.rows:
                        self._fresh.append(route)
                    route.rows.append(row)
                    route.quotes.append(
                        Quote(
                            0,
                            0,
                            None if ts_event == UNDEF_TS else ts_event,
                            None if bid == UNDEF_PRICE else bid,
                            None if ask == UNDEF_PRICE else ask,
                            None if bid == UNDEF_PRICE else bid_sz * UNIT,
                            None if ask == UNDEF_PRICE else ask_sz * UNIT,
                            flags,
                        )
                    )
                    self._newest = row
        finally:
            self.fruitful = self.fruitful or received > 0
            self._feed._count("received", received)
            self._feed._count("unknown instrument", unknown)
            self._feed._count("overlap removed", overlap)
        return at

    def _flush(self) -> None:
        if self._newest is not None:
            self._feed._reached(self._newest)
            self._newest = None
        fresh, self._fresh = self._fresh, []
        for route in fresh:
            self._feed._count("quotes", len(route.quotes))
            route.flush()

    def _other(self, rtype: int, raw: bytes) -> None:
        """Take in a record that is no quote."""
        if rtype not in (_ERROR, _MAPPING, _SYSTEM):
            self._feed._count("other record")
            return
        least = _CONTROL_BYTES[rtype, self._version == 1]
        if len(raw) < least:
            raise _GapError(
                f"a {rtype_name(rtype)} is {len(raw)} bytes long, must be at least {least}"
            )
        if rtype == _MAPPING:
            self._map(*read_mapping(raw, self._version))
        elif rtype == _SYSTEM:
            self._system(*self._message(raw, _SYSTEM_CODE_AT))
        else:
            # Several errors can come together; only 0 says that another follows.
            is_last = self._version == 1 or raw[_IS_LAST_AT] != 0
            self._error(*self._message(raw, _ERROR_CODE_AT), is_last=is_last)

    def _message(self, raw: bytes, code_at: int) -> tuple[int, str]:
        """Read code and text; the oldest version has no codes, so there the text must tell."""
        if self._version > 1:
            return raw[code_at], read_text(raw[16:code_at])
        text = read_text(raw[16:80])
        return _HEARTBEAT if text == "Heartbeat" else _NO_CODE, text

    def _map(self, number: int, asked: str, meant: str) -> None:
        """Follow a symbol mapping; it holds until the next for its id or for the symbol."""
        feed = self._feed
        feed._count("mappings")
        routes = feed._routes
        route = routes.get(asked) or routes.get(meant)
        before = self._routes.pop(number, None)
        if route is None:
            if before is not None:
                feed._say("notice", f"instrument {number} is no longer {before.name}")
            return
        for old in [other for other, known in self._routes.items() if known is route]:
            del self._routes[old]
            feed._say("notice", f"{route.name} is now instrument {number}, was {old}")
        self._routes[number] = route
        route.resolved = True

    def _system(self, code: int, text: str) -> None:
        feed = self._feed
        if code == _HEARTBEAT:
            feed._count("heartbeats")
            feed._say("heartbeat")
        elif code == _END_OF_INTERVAL:
            feed._say("heartbeat", "end of interval")
        elif code == _SLOW_READER:
            feed._count("slow reader warnings")
            feed._say("notice", f"the gateway finds us slow: {feed._clean(text)}")
        elif code == _REPLAY_COMPLETED:
            self.fruitful = True
            for route in feed._routes.values():
                route.expected = None
            feed._say("notice", "the replay is complete")

    def _error(self, code: int, text: str, *, is_last: bool) -> None:
        self.last_error = self._feed._clean(text)
        if code == _UNRESOLVED:  # one for each symbol: they are judged together
            self._unresolved.append(self.last_error)
            if not is_last:
                return
            text = " ".join(self._unresolved)
            self._unresolved.clear()
        failure = self._feed._gateway_error(code, text, self)
        if failure is not None:
            raise failure


def _fault(row: _Row) -> str:
    """Say why a record is left out."""
    if row[_TS_RECV] == UNDEF_TS:
        return "undefined ts_recv"
    if row[_TS_RECV] > MAX_TS or MAX_TS < row[_TS_EVENT] != UNDEF_TS:
        return "impossible timestamp"
    return "negative price"


class _Wire(asyncio.BufferedProtocol):
    """The socket: the official client speaks on it until the session is open, then we listen."""

    def __init__(self, client: DatabentoLiveProtocol, stream: _Stream) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.client = client
        self.stream = stream
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is closed."""
        self.failure: Exception = _GapError("the connection was closed")
        """Why it is, or will be."""
        self._failed = False
        self.heard = self._loop.time()
        """When the last bytes arrived; at first, when it was made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection to the client."""
        self._transport = cast(asyncio.Transport, transport)
        self.client.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Read into the client's buffer, which is its own for as long as it authenticates."""
        self._buffer = self.client.get_buffer(sizehint)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read; what goes wrong with it ends the connection."""
        self.heard = self._loop.time()
        if self._failed:
            return
        try:
            if self.client.authenticated.done():
                self.stream.feed(bytes(memoryview(self._buffer)[:nbytes]))
            else:
                self._converse(nbytes)
        except Exception as error:
            self._fail(error)
            self._abort()

    def _converse(self, nbytes: int) -> None:
        try:
            self.client.buffer_updated(nbytes)
        except Exception as error:  # of whatever kind the client raises for a line it cannot read
            reason = self.stream._feed._clean(str(error))
            raise _GapError(f"the gateway's greeting cannot be read ({reason})") from None

    def connection_lost(self, exc: Exception | None) -> None:
        """Say why, unless that is known."""
        self.client.connection_lost(exc)
        for future in (self.client.authenticated, self.client.disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # asyncio complains of those that nobody looked at
        if exc is not None:
            reason = getattr(exc, "strerror", None) or exc
            self._fail(_GapError(f"the connection was lost ({reason})"))
        reason = "the gateway closed the connection"
        if self.stream.partial:
            reason += f" within a record, of which {self.stream.partial} bytes came"
        if self.stream.last_error:
            reason += f", after the error: {self.stream.last_error}"
        self._fail(_GapError(reason))
        if not self.over.done():
            self.over.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Keep the first failure: what follows is its consequence."""
        if not self._failed:
            self.failure, self._failed = error, True

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def silence(self) -> float:
        """Seconds since the last bytes."""
        return self._loop.time() - self.heard

    async def over_by(self, deadline: float) -> bool:
        """Wait for the end of the connection, at most until ``deadline``; say whether it came."""
        await asyncio.wait({self.over}, timeout=max(0.0, deadline - self._loop.time()))
        return self.over.done()

    async def close(self) -> None:
        """Close the socket, and wait until it is."""
        self._abort()
        await asyncio.wait({self.over}, timeout=_CLOSE_SECS)
