"""The live feed of Databento, against gateways that really listen and misbehave by script."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import databento_dbn
import numpy as np
import polars as pl
import pytest

from sandbox.databento_gateway import DatabentoGateway
from sandbox.faults import FaultKind
from streams import databento as module
from streams.databento import DatabentoError, DatabentoFeed
from streams.dbn_quotes import DbnQuotes
from streams.events import Quote, Status, Trade
from streams.feed import Backoff, Feed
from streams.instrument import UNIT
from streams.recording import QUOTE_SCHEMA

dbn: Any = databento_dbn
"""Its stubs take the values of enums for the enums themselves."""

KEY = "db-unittestapikey1234567890FFFFF"
T0 = 1_781_700_000_000_000_000
SECOND = 1_000_000_000
NVDA, AMD = 11667, 11670
UNDEF, UNDEF_TS = dbn.UNDEF_PRICE, dbn.UNDEF_TIMESTAMP
RTYPES = {"cmbp-1": 177, "tcbbo": 194, "bbo-1s": 195, "bbo-1m": 196, "cbbo-1s": 192, "cbbo-1m": 193}
SCHEMAS = ["mbp-1", "tbbo", *RTYPES]
QUICK = (0.01, 0.02)

Event: TypeAlias = Quote | Trade | Status


# ---------------------------------------------------------------- what a gateway sends


def header(version: int = 3, *, ts_out: bool = False) -> bytes:
    metadata: bytes = dbn.Metadata(
        dataset="EQUS.MINI", start=T0, stype_in=None, stype_out=dbn.SType.INSTRUMENT_ID,
        schema=None, ts_out=ts_out, version=version,
    ).encode()  # fmt: skip
    return metadata


def mapping(name: str, id: int, *, meant: str = "") -> bytes:
    raw = dbn.SType.RAW_SYMBOL
    return bytes(dbn.SymbolMappingMsg(0, id, T0, raw, name, raw, meant or name, UNDEF_TS, UNDEF_TS))


def record(
    at: int = 0,
    bid: int = 180_010_000_000,
    ask: int = 180_020_000_001,
    sizes: tuple[int, int] = (300, 2**32 - 1),
    *,
    schema: str = "mbp-1",
    id: int = NVDA,
    flags: int = 128,
    ts_event: int | None = None,
    ts_recv: int | None = None,
    sequence: int = 9,
    action: str = "A",
    **more: int,
) -> bytes:
    common: dict[str, Any] = {
        "publisher_id": 95, "instrument_id": id, "price": 180_000_000_000, "size": 1,
        "ts_recv": T0 + at if ts_recv is None else ts_recv, "side": dbn.Side.BID, "flags": flags,
        "ts_event": T0 + at - 7 if ts_event is None else ts_event, **more,
    }  # fmt: skip
    pair = dbn.BidAskPair(bid, ask, *sizes, 1, 2)
    both = dbn.ConsolidatedBidAskPair(bid, ask, *sizes, 60, 2)
    if schema in ("cmbp-1", "tcbbo"):
        common |= {"action": dbn.Action(action), "rtype": RTYPES[schema]}
        return bytes(dbn.CMBP1Msg(**common, levels=both))
    if schema.startswith("bbo"):
        return bytes(dbn.BBOMsg(**common, rtype=RTYPES[schema], levels=pair))
    if schema.startswith("cbbo"):
        return bytes(dbn.CBBOMsg(**common, rtype=RTYPES[schema], levels=both))
    common |= {"action": dbn.Action(action), "depth": 0, "ts_in_delta": 5, "sequence": sequence}
    return bytes(dbn.MBP1Msg(**common, levels=pair))


def system(code: str, text: str = "something") -> bytes:
    return bytes(dbn.SystemMsg(T0, text, getattr(dbn.SystemCode, code)))


def error(code: str, text: str = "something", *, is_last: bool = True) -> bytes:
    return bytes(dbn.ErrorMsg(T0, text, is_last, getattr(dbn.ErrorCode, code)))


OPENING = header() + mapping("NVDA", NVDA)


# ---------------------------------------------------------------- a gateway with a script


def pairs(line: bytes) -> dict[str, str]:
    fields = (field.partition("=") for field in line.decode().strip().split("|"))
    return {name: value for name, _, value in fields}


class Talk:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.auth: dict[str, str] = {}
        self.subscriptions: list[dict[str, str]] = []

    async def open(self, answer: str = "success=1|session_id=77") -> None:
        await self.send(b"lsg_version=0.8.0\ncram=abcd1234\n")
        self.auth = pairs(await self.reader.readline())
        await self.send(f"{answer}\n".encode())

    async def subscribed(self) -> None:
        while not (line := await self.reader.readline()).startswith(b"start_session"):
            assert line
            self.subscriptions.append(pairs(line))

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def stay(self) -> None:
        await self.reader.read()


Script: TypeAlias = Callable[[Talk], Awaitable[None]]


class Gateway:
    """Plays a script to each connection, the last one to all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._tasks: list[asyncio.Task[None]] = []
        self.talks: list[Talk] = []

    async def __aenter__(self) -> Gateway:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self.talks:
            talk.writer.transport.abort()
        await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 5)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        script = self._scripts[min(len(self.talks), len(self._scripts) - 1)]
        self.talks.append(talk)
        try:
            await script(talk)
        except (ConnectionError, AssertionError):
            pass
        finally:
            writer.close()


def streams(*parts: bytes, end: str = "stay") -> Script:
    """Open a session properly, send, and then stay, close or reset."""

    async def script(talk: Talk) -> None:
        await talk.open()
        await talk.subscribed()
        await talk.send(*parts)
        if end == "stay":
            await talk.stay()
        elif end == "reset":
            await asyncio.sleep(0.03)
            talk.reset()

    return script


# ---------------------------------------------------------------- what the feed makes of it


class Heard:
    """All that a feed emits."""

    def __init__(self) -> None:
        self.batches: dict[str, list[list[Quote]]] = {}
        self.statuses: list[Status] = []
        self.order: list[Event] = []

    def of(self, name: str) -> Callable[[Sequence[Event]], None]:
        def emit(events: Sequence[Event]) -> None:
            quotes = [event for event in events if isinstance(event, Quote)]
            assert len(quotes) == len(events) > 0
            self.batches.setdefault(name, []).append(quotes)
            self.order.extend(events)

        return emit

    def status(self, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event, Status)
            assert (event.seq, event.ts, event.source) == (0, 0, "signal")
            self.statuses.append(event)
            self.order.append(event)

    def quotes(self, name: str = "NVDA") -> list[Quote]:
        return [quote for batch in self.batches.get(name, []) for quote in batch]

    def texts(self, kind: str) -> list[str]:
        return [status.text for status in self.statuses if status.kind == kind]


def feed_of(at: Gateway | int, heard: Heard, **options: Any) -> DatabentoFeed:
    port = at if isinstance(at, int) else at.port
    names = options.pop("names", ["NVDA"])
    settings: dict[str, Any] = {
        "key": KEY, "dataset": "EQUS.MINI", "schema": "mbp-1", "status": heard.status,
        "symbols": {name: heard.of(name) for name in names}, "gateway": f"127.0.0.1:{port}",
        "backoff": Backoff(*QUICK),
    }  # fmt: skip
    return DatabentoFeed(**settings | options)


def of_a_gateway(task: asyncio.Task[Any]) -> bool:
    file: str = getattr(task.get_coro(), "cr_code").co_filename  # noqa: B009
    return file == __file__ or "sandbox" in file


async def run_until(feed: Feed, done: Callable[[], bool], secs: float = 5.0) -> None:
    """Run a feed until something is true, then cancel it; it must leave no task of its own."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(feed.run())
    try:
        async with asyncio.timeout(secs):
            while not done() and not task.done():
                await asyncio.sleep(0.002)
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        await task
    left = [task for task in asyncio.all_tasks() - before if not of_a_gateway(task)]
    assert left == []


async def heard_from(*scripts: Script, count: int, **options: Any) -> tuple[Heard, DatabentoFeed]:
    """Run against the scripts until ``count`` quotes of the first symbol have come."""
    heard = Heard()
    name = options.get("names", ["NVDA"])[0]
    async with Gateway(*scripts) as gateway:
        feed = feed_of(gateway, heard, **options)
        await run_until(feed, lambda: len(heard.quotes(name)) >= count)
    return heard, feed


def quote(at: int, bid: int, ask: int) -> Quote:
    return Quote(0, 0, T0 + at - 7, bid, ask, 300 * UNIT, (2**32 - 1) * UNIT, 128)


# ---------------------------------------------------------------- values


@pytest.mark.asyncio
@pytest.mark.parametrize("schema", SCHEMAS)
async def test_every_schema_comes_out_exactly(schema: str) -> None:
    script = streams(
        OPENING,
        record(1, 180_010_000_001, 180_020_000_003, (5, 7), schema=schema, flags=168),
        record(2, UNDEF, 180_020_000_004, (0, 1), schema=schema, ts_event=UNDEF_TS),
        record(3, 2, UNDEF, (0, 9), schema=schema),
        record(4, UNDEF, UNDEF, (0, 0), schema=schema, action="R"),
        record(5, 0, 1, (0, 2**32 - 1), schema=schema, flags=255, action="T"),
    )

    heard, feed = await heard_from(script, count=5, schema=schema)

    assert heard.quotes() == [
        Quote(0, 0, T0 - 6, 180_010_000_001, 180_020_000_003, 5 * UNIT, 7 * UNIT, 168),
        Quote(0, 0, None, None, 180_020_000_004, None, UNIT, 128),
        Quote(0, 0, T0 - 4, 2, None, 0, None, 128),
        Quote(0, 0, T0 - 3, None, None, None, None, 128),
        Quote(0, 0, T0 - 2, 0, 1, 0, (2**32 - 1) * UNIT, 255),
    ]
    assert feed.counts["received"] == feed.counts["quotes"] == 5


@pytest.mark.asyncio
@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_stream_gives_the_quotes_that_its_recording_gives(
    tmp_path: Path, schema: str
) -> None:
    rng = random.Random(schema)
    prices = [UNDEF, 0, 1, -1, 180_010_000_000, UNDEF - 1]
    times = [UNDEF_TS, 2**63, 5]
    parts = [
        record(
            at,
            rng.choice(prices),
            rng.choice(prices),
            (rng.randrange(2**32), rng.randrange(2**32)),
            schema=schema,
            id=rng.choice([NVDA, NVDA, AMD]),
            flags=rng.randrange(256) | 8,
            ts_event=rng.choice([*times, None, None, None]),
            ts_recv=rng.choice([*times[:2], *[None] * 9]),
        )
        for at in range(400)
    ]
    file = tmp_path / "live.dbn"
    file.write_bytes(OPENING + b"".join(parts))
    reader = DbnQuotes(file, "NVDA")
    rows = [row for frame in reader.batches() for row in frame.rows(named=True)]

    heard, feed = await heard_from(streams(OPENING, *parts), count=len(rows), schema=schema)

    assert len(rows) > 100
    assert heard.quotes() == [
        Quote(0, 0, *(row[name] for name in Quote.__struct_fields__[2:])) for row in rows
    ]
    left_out = {"unknown instrument", "negative price", "undefined ts_recv", "impossible timestamp"}
    assert feed.counts["received"] == 400
    assert sum(feed.counts[reason] for reason in left_out) == 400 - len(rows)


@pytest.mark.asyncio
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("ts_out", [False, True])
async def test_older_versions_and_ts_out_are_understood(version: int, ts_out: bool) -> None:
    more: dict[str, Any] = {"ts_out": T0} if ts_out else {}
    tail = struct.pack("<Q", T0) if ts_out else b""
    mapped, alive = mapping("NVDA", NVDA) + tail, system("HEARTBEAT") + tail
    if version == 1:
        mapped = struct.pack("<BBHIQ22s22s4xQQ", 20, 22, 0, NVDA, T0, b"NVDA", b"NVDA", 0, 0) + tail
        alive = struct.pack("<BBHIQ64s", 20, 23, 0, 0, T0, b"Heartbeat") + tail
    mapped, alive = (bytes([len(part) // 4]) + part[1:] for part in (mapped, alive))
    script = streams(header(version, ts_out=ts_out), mapped, alive, record(1, 5, 6, **more))

    heard, feed = await heard_from(script, count=1)

    assert heard.quotes() == [quote(1, 5, 6)]
    assert feed.counts["heartbeats"] == 1


@pytest.mark.asyncio
async def test_what_arrives_together_is_one_batch_and_records_may_be_cut_anywhere() -> None:
    parts = [record(at, at, at + 1) for at in range(200)]

    async def pieces(talk: Talk) -> None:
        await streams(OPENING, *parts[:150], end="go on")(talk)
        rest = b"".join(parts[150:])
        for at in range(0, len(rest), 61):
            await talk.send(rest[at : at + 61])
            await asyncio.sleep(0)
        await talk.stay()

    heard, _ = await heard_from(pieces, count=200)

    assert heard.quotes() == [quote(at, at, at + 1) for at in range(200)]
    assert max(map(len, heard.batches["NVDA"])) >= 100


@pytest.mark.asyncio
async def test_each_symbol_of_a_session_has_its_own_emit() -> None:
    ids = [NVDA, AMD, NVDA, NVDA, AMD, 1]
    parts = [record(at, at, at + 1, id=id) for at, id in enumerate(ids)]
    script = streams(OPENING, mapping("AMD", AMD), *parts)

    heard, feed = await heard_from(script, count=3, names=["nvda", "AMD"])

    assert [q.bid_px for q in heard.quotes("nvda")] == [0, 2, 3]
    assert [q.bid_px for q in heard.quotes("AMD")] == [1, 4]
    assert feed.counts["unknown instrument"] == 1


@pytest.mark.asyncio
async def test_two_hundred_thousand_records_come_whole_and_in_few_batches() -> None:
    count = 200_000
    rows = np.frombuffer(record() * count, np.uint8).reshape(count, 80).copy()
    rows[:, 48:56] = np.arange(1, count + 1, dtype="<i8").view(np.uint8).reshape(count, 8)

    heard, _ = await heard_from(streams(OPENING, rows.tobytes()), count=count)

    assert [q.bid_px for q in heard.quotes()] == list(range(1, count + 1))
    assert len(heard.batches["NVDA"]) < count / 20


@pytest.mark.asyncio
async def test_whatever_the_bytes_are_the_stream_goes_on_or_ends_as_a_gap() -> None:
    rng = random.Random(7)
    heard = Heard()
    messages = [system("HEARTBEAT"), error("UNSET"), mapping("NVDA", NVDA), record(1), record(2)]
    ends: Counter[str] = Counter()
    for _ in range(3000):
        data = bytearray(OPENING + b"".join(rng.choices(messages, k=6)))
        for _ in range(rng.randrange(30)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 20, 22, 44, 80, rng.randrange(256)])
        stream = module._Stream(feed_of(1, heard), None)
        at = 0
        try:
            while at < len(data):
                size = rng.choice([1, 16, 80, 500, 2000])
                stream.feed(bytes(data[at : at + size]))
                at += size
        except (module._GapError, DatabentoError) as failure:
            ends[type(failure).__name__] += 1
    assert ends["_GapError"] > 200
    assert len(heard.quotes()) > 1000


# ---------------------------------------------------------------- what is asked and told


@pytest.mark.asyncio
async def test_the_gateway_is_asked_for_one_session_with_all_symbols() -> None:
    heard, told = Heard(), Counter[str]()

    def on_count(what: str, number: int) -> None:
        told[what] += number

    async with Gateway(streams(OPENING, record())) as gateway:
        feed = feed_of(gateway, heard, names=["NVDA", "AMD"], heartbeat_secs=7, on_count=on_count)
        await run_until(feed, lambda: bool(heard.quotes()))
        (talk,) = gateway.talks

    digest = hashlib.sha256(f"abcd1234|{KEY}".encode()).hexdigest()
    assert talk.auth["auth"] == f"{digest}-FFFFF"
    assert (talk.auth["dataset"], talk.auth["encoding"]) == ("EQUS.MINI", "dbn")
    assert (talk.auth["ts_out"], talk.auth["compression"]) == ("0", "none")
    assert talk.auth["heartbeat_interval_s"] == "7"
    (asked,) = talk.subscriptions
    assert (asked["schema"], asked["stype_in"], asked["symbols"]) == (
        "mbp-1",
        "raw_symbol",
        "NVDA,AMD",
    )
    assert "start" not in asked
    assert heard.texts("connect") == ["EQUS.MINI mbp-1, session 77"]
    assert isinstance(heard.order[0], Status)  # before any quote
    assert told == feed.counts
    assert told["sessions"] == told["attempts"] == 1


@pytest.mark.asyncio
async def test_messages_of_the_gateway_become_statuses_in_their_place() -> None:
    script = streams(
        OPENING,
        system("SUBSCRIPTION_ACK"),
        system("HEARTBEAT"),
        record(1, 1, 2),
        system("END_OF_INTERVAL"),
        system("SLOW_READER_WARNING", "you are slow"),
        error("SKIPPED_RECORDS_AFTER_SLOW_READING", "skipped 5 records"),
        record(2, 3, 4),
    )

    heard, feed = await heard_from(script, count=2)

    what = [e.bid_px if isinstance(e, Quote) else getattr(e, "kind", "") for e in heard.order]
    assert what == ["connect", "heartbeat", 1, "heartbeat", "notice", "notice", 3]
    assert "you are slow" in heard.texts("notice")[0]
    assert heard.texts("notice")[1] == "gateway error 7: skipped 5 records"
    assert feed.counts["slow reader warnings"] == feed.counts["gateway error 7"] == 1
    assert feed.counts["gaps"] == 0


@pytest.mark.asyncio
async def test_mappings_are_followed_within_a_session() -> None:
    script = streams(
        OPENING,
        record(1, 1, 9),
        mapping("NVDA", 5, meant="NVDA.1"),  # another id for it: the old one is void
        record(2, 2, 9),
        record(3, 3, 9, id=5),
        mapping("AMD", 5),  # its id is another's now
        record(4, 4, 9, id=5),
        mapping("X", NVDA, meant="NVDA"),
        record(5, 5, 9),
        struct.pack("<BBHIQ40x", 14, 32, 0, NVDA, T0),  # a record that nobody asked for
        record(6, 6, 9),
    )

    heard, feed = await heard_from(script, count=4)

    assert [q.bid_px for q in heard.quotes()] == [1, 3, 5, 6]
    assert feed.counts["unknown instrument"] == 2
    assert feed.counts["other record"] == 1
    assert heard.texts("notice") == [
        f"NVDA is now instrument 5, was {NVDA}",
        "instrument 5 is no longer NVDA",
    ]


# ---------------------------------------------------------------- gaps


async def greets_wrongly(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 400 Bad Request\r\n")
    await talk.stay()


async def never_greets(talk: Talk) -> None:
    await talk.stay()


async def closes_at_once(talk: Talk) -> None:
    pass


async def closes_before_the_header(talk: Talk) -> None:
    await talk.open()
    await talk.subscribed()


async def is_full(talk: Talk) -> None:
    await talk.open("success=0|error=User has reached their open connection limit")


GAPS: dict[str, tuple[Script, str]] = {
    "closed": (streams(OPENING, record(), end="close"), "the gateway closed the connection"),
    "reset": (streams(OPENING, record(), end="reset"), "the connection was lost (Connection reset"),
    "silent": (streams(OPENING, record()), "no sign of life for 0.2 s"),
    "silent from the start": (streams(), "no sign of life for 0.2 s"),
    "length of nothing": (streams(OPENING, bytes(80)), "a record says that it is 0 bytes long"),
    "length of a part": (
        streams(OPENING, b"\x13" + record()[1:76]),
        "a quote is 76 bytes long, must be 80",
    ),
    "no header": (streams(b"GET / HTTP/1.1\r\n\r\n"), "begins with b'GET / HT', not with a DBN"),
    "future header": (streams(b"DBN\x09" + bytes(500)), "version 9 and 0 bytes is not known"),
    "short header": (streams(b"DBN\x03\x08\0\0\0" + bytes(8)), "version 3 and 8 bytes is not"),
    "cut record": (
        streams(OPENING, record()[:50], end="close"),
        "closed the connection within a record, of which 50 bytes came",
    ),
    "cut header": (streams(header()[:50], end="close"), "of which 50 bytes came"),
    "broken mapping": (
        streams(header(), b"\x06" + mapping("NVDA", NVDA)[1:24]),
        "a symbol mapping is 24 bytes long, must be at least 176",
    ),
    "fatal error": (streams(OPENING, error("INTERNAL_ERROR", "oops")), "gateway error 6: oops"),
    "error without a code": (
        streams(OPENING, error("UNSET", "oops"), end="close"),
        "closed the connection, after the error: oops",
    ),
    "connection limit": (
        streams(OPENING, error("CONNECTION_LIMIT_EXCEEDED", "too many")),
        "gateway error 3: too many",
    ),
    "full": (is_full, "refused the session: User has reached their open connection limit"),
    "wrong greeting": (greets_wrongly, "the gateway's greeting cannot be read"),
    "no greeting": (never_greets, "did not open the session within 0.2 s"),
    "closed at once": (closes_at_once, "the gateway closed the connection"),
    "closed before the header": (closes_before_the_header, "the gateway closed the connection"),
}  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("name", GAPS)
async def test_every_gap_is_told_and_followed_by_a_new_session(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_SECS", -0.8)
    monkeypatch.setattr(module, "_AUTH_SECS", 0.2)
    script, reason = GAPS[name]
    heard = Heard()
    after = streams(header(), mapping("NVDA", 3), record(SECOND, 77, 78, id=3))
    async with Gateway(script, script, after) as gateway:
        feed = feed_of(gateway, heard, heartbeat_secs=1)
        await run_until(feed, lambda: any(q.bid_px == 77 for q in heard.quotes()))
        assert len(gateway.talks) == 3

    assert len(heard.texts("disconnect")) == feed.counts["gaps"] == 2
    for text in heard.texts("disconnect"):
        assert reason in text
        assert "; next attempt in 0.0" in text
    assert heard.statuses[-1].kind == "connect"
    assert feed.counts["attempts"] == 3


@pytest.mark.asyncio
async def test_heartbeats_alone_keep_a_session_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_SECS", -0.7)

    async def beats(talk: Talk) -> None:
        await streams(OPENING, end="go on")(talk)
        for _ in range(8):
            await asyncio.sleep(0.1)
            await talk.send(system("HEARTBEAT"))
        await talk.send(record())
        await talk.stay()

    heard, feed = await heard_from(beats, count=1, heartbeat_secs=1)

    assert len(heard.texts("heartbeat")) == 8
    assert feed.counts["gaps"] == 0


@pytest.mark.asyncio
async def test_a_gateway_that_is_not_there_is_tried_again_until_it_is() -> None:
    heard = Heard()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        feed = feed_of(port, heard)
        await run_until(feed, lambda: feed.counts["gaps"] >= 3)
    assert f"127.0.0.1:{port} cannot be reached" in heard.texts("disconnect")[0]
    assert feed.counts["sessions"] == 0


@pytest.mark.asyncio
async def test_what_is_sound_before_the_damage_still_counts() -> None:
    script = streams(OPENING, record(1, 1, 2), record(2, 3, 4), bytes(80))
    heard, _ = await heard_from(script, streams(OPENING, record(3, 5, 6)), count=3)
    assert [q.bid_px for q in heard.quotes()] == [1, 3, 5]
    assert [e.kind for e in heard.order[3:5] if isinstance(e, Status)] == ["disconnect", "connect"]


class Spy(Backoff):
    def __init__(self) -> None:
        super().__init__(*QUICK)
        self.calls: list[tuple[str, float]] = []

    def lasted(self, seconds: float) -> None:
        self.calls.append(("lasted", seconds))

    def next(self) -> float:
        self.calls.append(("next", wait := super().next()))
        return wait


@pytest.mark.asyncio
async def test_the_backoff_is_told_how_long_a_session_streamed_and_is_waited_for() -> None:
    async def lasts(talk: Talk) -> None:
        await streams(OPENING, record(), end="go on")(talk)
        await asyncio.sleep(0.1)

    spy = Spy()
    await heard_from(lasts, closes_before_the_header, streams(OPENING, record(9)), count=2,
                     backoff=spy)  # fmt: skip

    assert [name for name, _ in spy.calls] == ["lasted", "next"] * 2
    assert 0.09 < spy.calls[0][1] < 1.0
    assert spy.calls[2][1] == 0.0


# ---------------------------------------------------------------- replays


def started(talk: Talk) -> int | None:
    (asked,) = talk.subscriptions
    return int(asked["start"]) if "start" in asked else None


@pytest.mark.asyncio
async def test_a_replay_is_asked_for_and_what_it_repeats_is_removed() -> None:
    # Two equal records and one more at the last ts_recv; one of the equal ones was not received.
    before = [record(at, at, 99) for at in range(8)] + [record(8, 8, 99), record(8, 9, 99)]
    replayed = [record(at, at, 99, id=3, flags=160) for at in range(5, 8)]
    replayed += [record(8, 8, 99, id=3), record(8, 9, 99, id=3), record(8, 9, 99, id=3)]
    replayed += [record(8, 10, 99, id=3), record(9, 11, 99, id=3, ts_event=T0)]
    heard = Heard()
    async with Gateway(
        streams(OPENING, *before, end="close"),
        streams(
            header(), mapping("NVDA", 3), *replayed, system("REPLAY_COMPLETED"),
            record(2, 12, 99, id=3),  # live again: nothing is held back any more
        ),
    ) as gateway:  # fmt: skip
        feed = feed_of(gateway, heard)
        await run_until(feed, lambda: len(heard.quotes()) >= 14)
        assert [started(talk) for talk in gateway.talks] == [None, T0 + 8 - 7 - SECOND]

    assert [q.bid_px for q in heard.quotes()] == [*range(9), 9, 9, 10, 11, 12]
    assert feed.counts["overlap removed"] == 5
    assert feed.counts["gaps not replayed"] == 0
    assert heard.texts("connect")[1].endswith(f", with a replay from {T0 + 1 - SECOND} on")
    assert heard.texts("notice")[-1] == "the replay is complete"


@pytest.mark.asyncio
async def test_what_one_ts_recv_brought_in_several_reads_is_removed_and_after_the_replay_nothing(
) -> None:  # fmt: skip
    async def in_two_reads(talk: Talk) -> None:
        await streams(OPENING, record(5, 1, 99), end="go on")(talk)
        await asyncio.sleep(0.05)
        await talk.send(record(5, 2, 99))

    heard, feed = await heard_from(
        in_two_reads,
        streams(
            OPENING, record(5, 1, 99), record(5, 2, 99), system("REPLAY_COMPLETED"),
            record(3, 3, 99, flags=136), record(5, 2, 99, flags=136),  # a clock that went back
        ),
        count=4,
    )  # fmt: skip

    assert [q.bid_px for q in heard.quotes()] == [1, 2, 3, 2]
    assert len(heard.batches["NVDA"]) == 3
    assert feed.counts["overlap removed"] == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(12))
async def test_however_often_a_session_breaks_every_record_comes_once(seed: int) -> None:
    rng = random.Random(seed)
    at, rows = 0, []
    for number in range(300):
        at += rng.choice([0, 0, 1, SECOND // 10])
        rows.append((at, rng.choice([NVDA, AMD]), number if rng.random() < 0.7 else 5))
    opening = OPENING + mapping("AMD", AMD)

    def piece(begin: int, end: int) -> list[bytes]:
        # ts_event jumps back and forth by up to half a second
        return [
            record(t, px, 999, id=id, ts_event=T0 + t - (n * 7919) % (SECOND // 2))
            for n, (t, id, px) in list(enumerate(rows))[begin:end]
        ]

    def from_start(talk: Talk) -> int:
        start = started(talk) or 0
        events = [T0 + t - (n * 7919) % (SECOND // 2) for n, (t, _, _) in enumerate(rows)]
        return next((n for n, event in enumerate(events) if event >= start), len(rows))

    def breaking(far: int) -> Script:
        async def script(talk: Talk) -> None:
            await talk.open()
            await talk.subscribed()
            await talk.send(opening, *piece(from_start(talk), far))
            if far == len(rows):
                await talk.send(system("REPLAY_COMPLETED"))
                await talk.stay()

        return script

    cuts = sorted(rng.randrange(1, 300) for _ in range(3))
    heard = Heard()
    async with Gateway(*map(breaking, [*cuts, len(rows)])) as gateway:
        feed = feed_of(gateway, heard, names=["NVDA", "AMD"])
        await run_until(feed, lambda: "the replay is complete" in heard.texts("notice"))

    for name, id in (("NVDA", NVDA), ("AMD", AMD)):
        expected = [px for _, other, px in rows if other == id]
        assert [q.bid_px for q in heard.quotes(name)] == expected
    assert feed.counts["overlap removed"] > 0


@pytest.mark.asyncio
@pytest.mark.parametrize("code", ["INVALID_SUBSCRIPTION", "REPLAY_DATA_AGED_OUT"])
async def test_a_refused_replay_is_given_up_and_what_may_be_missing_is_told(code: str) -> None:
    heard = Heard()
    async with Gateway(
        streams(OPENING, record(5, 1, 2), end="close"),
        streams(header(), error(code, "not so far")),
        streams(OPENING, record(5, 1, 2), record(9, 3, 4), end="close"),
        streams(OPENING, record(9, 3, 4), record(11, 5, 6)),
    ) as gateway:
        feed = feed_of(gateway, heard)
        await run_until(feed, lambda: len(heard.quotes()) >= 4)
        starts = [started(talk) for talk in gateway.talks]

    # Without a replay nothing can repeat; the gap after it is tried with one again.
    assert starts == [None, T0 - 2 - SECOND, None, T0 + 2 - SECOND]
    assert [q.bid_px for q in heard.quotes()] == [1, 1, 3, 5]
    assert feed.counts["gaps not replayed"] == 1
    (missing,) = (text for text in heard.texts("notice") if "may be missing" in text)
    assert f"after {T0 - 2} until now" in missing
    assert "not so far" in missing


@pytest.mark.asyncio
async def test_replays_that_bring_nothing_are_given_up() -> None:
    barren = streams(OPENING, end="close")
    heard = Heard()
    async with Gateway(
        streams(OPENING, record(5), end="close"), barren, barren, streams(OPENING, record(6))
    ) as gateway:
        await run_until(feed_of(gateway, heard), lambda: len(heard.quotes()) >= 2)
        starts = [started(talk) is not None for talk in gateway.talks]
    assert starts == [False, True, True, False]
    assert "2 sessions with a replay ended without any record" in heard.texts("notice")[-1]


@pytest.mark.asyncio
async def test_sampled_schemas_replay_by_ts_recv_and_without_resume_nothing_is_replayed() -> None:
    part = record(5, schema="bbo-1s", ts_event=UNDEF_TS)
    for resume, start in ((True, T0 + 5 - SECOND), (False, None)):
        heard = Heard()
        async with Gateway(
            streams(OPENING, part, end="close"), streams(OPENING, part, record(6, schema="bbo-1s"))
        ) as gateway:
            feed = feed_of(gateway, heard, schema="bbo-1s", resume=resume)
            await run_until(feed, lambda h=heard, n=2 if resume else 3: len(h.quotes()) >= n)  # type: ignore[misc]
            assert started(gateway.talks[1]) == start
        assert feed.counts["gaps not replayed"] == (0 if resume else 1)
    assert heard.texts("notice")[-1].endswith("may be missing; resume is off")


# ---------------------------------------------------------------- refusals


async def refused_by(script: Script, **options: Any) -> tuple[str, Heard]:
    heard = Heard()
    async with Gateway(script) as gateway:
        feed = feed_of(gateway, heard, **options)
        with pytest.raises(DatabentoError) as raised:
            await asyncio.wait_for(feed.run(), 5)
        assert len(gateway.talks) == 1
    assert [status.kind for status in heard.statuses][-1] == "disconnect"
    assert KEY not in repr(heard.statuses) + str(raised.value) + repr(raised.value) + repr(feed)
    return str(raised.value), heard


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"Unknown key {KEY}", "Unknown key ***; the key must be valid"),
        ("A Plus or Unlimited plan is required.", "A Plus or Unlimited plan is required."),
    ],
)
async def test_a_refused_key_ends_the_feed_and_is_not_told(said: str, told: str) -> None:
    async def refuses(talk: Talk) -> None:
        await talk.open(f"success=0|error={said}")
        await talk.stay()

    text, _ = await refused_by(refuses)

    assert text.startswith("Databento refused a session on EQUS.MINI at 127.0.0.1:")
    assert told in text
    assert "Check the key" in text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        ("AUTH_FAILED", f"no {KEY}", "error 1: no ***; the key must be valid"),
        ("API_KEY_DEACTIVATED", "off", "error 2: off; the key must be valid"),
        ("SYMBOL_RESOLUTION_FAILED", "Failed to resolve AMD", "; AMD must be a raw symbol of the"),
        ("SYMBOL_RESOLUTION_FAILED", "none", "; NVDA and AMD must be a raw symbol of the dataset"),
        ("INVALID_SUBSCRIPTION", "no such schema", "EQUS.MINI at 127.0.0.1:"),
    ],
)
async def test_what_no_retry_can_mend_ends_the_feed(code: str, said: str, told: str) -> None:
    text, _ = await refused_by(streams(header(), error(code, said)), names=["NVDA", "AMD"])
    assert told in text
    assert text.startswith("Databento refused mbp-1 of NVDA, AMD in EQUS.MINI")


@pytest.mark.asyncio
async def test_symbols_that_do_not_resolve_are_told_together() -> None:
    script = streams(
        OPENING,
        error("SYMBOL_RESOLUTION_FAILED", "Failed to resolve AMD.", is_last=False),
        error("SYMBOL_RESOLUTION_FAILED", "Failed to resolve TSLA."),
    )
    text, _ = await refused_by(script, names=["NVDA", "AMD", "TSLA"])
    assert text.endswith("; AMD and TSLA must be a raw symbol of the dataset. Correct its spelling")


@pytest.mark.asyncio
async def test_a_symbol_that_was_there_may_fail_to_resolve_later() -> None:
    trouble = error("SYMBOL_RESOLUTION_FAILED", "Failed to resolve symbol: 'NVDA'.")
    _, feed = await heard_from(
        streams(OPENING, record(1), end="close"),
        streams(header(), trouble, mapping("NVDA", NVDA), record(2)),
        count=2,
    )
    assert feed.counts["gateway error 4"] == 1
    assert feed.counts["gaps"] == 1


@pytest.mark.asyncio
async def test_a_dataset_that_nobody_knows_is_refused_and_a_known_one_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def no_name(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    heard = Heard()
    with pytest.raises(DatabentoError, match=r"dataset 'NO\.SUCH' is not known: no-such\.lsg"):
        await asyncio.wait_for(feed_of(1, heard, dataset="NO.SUCH", gateway=None).run(), 5)
    feed = feed_of(1, heard, gateway=None)
    await run_until(feed, lambda: feed.counts["gaps"] >= 2)
    assert asked[1:3] == ["equs-mini.lsg.databento.com"] * 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"key": " "}, "key is empty"),
        ({"dataset": "EQUS MINI"}, "such as EQUS.MINI, was 'EQUS MINI'"),
        ({"schema": "trades"}, "schema 'trades' holds no best bid and offer; choose one of mbp-1"),
        ({"heartbeat_secs": 0}, "at least 1 s, was 0"),
        ({"gateway": "localhost"}, "must be host:port, such as 127.0.0.1:13000, was 'localhost'"),
        ({"gateway": "h:99999"}, "must be host:port"),
        ({"names": []}, "at least one symbol"),
        ({"names": ["NVDA,AMD"]}, "a single raw symbol, was 'NVDA,AMD'"),
        ({"names": ["ALL_SYMBOLS"]}, "a single raw symbol"),
        ({"names": ["NVDA", "nvda"]}, "NVDA is given twice"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_on_call(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        feed_of(13000, Heard(), **wrong)


# ---------------------------------------------------------------- the stand-in for the gateway


def recorded(count: int, step: int = 2_000_000) -> pl.DataFrame:
    """Quotes whose bid tells their number; every third shares its ts with the one before."""
    columns = ["ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz", "flags"]
    rows = [
        (t := T0 + (n - (n % 3 == 2)) * step, t - 7, n, n + UNIT, UNIT, 2 * UNIT, 128)
        for n in range(count)
    ]
    return pl.DataFrame(rows, schema={c: QUOTE_SCHEMA[c] for c in columns}, orient="row")


@pytest.mark.asyncio
@pytest.mark.parametrize("restamp", [False, True])
async def test_a_day_of_troubles_with_the_stand_in_loses_and_repeats_nothing(
    restamp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_SECS", -0.7)
    heard, count = Heard(), 500
    troubles: list[tuple[FaultKind, str]] = [
        ("drop", ""), ("rst", ""), ("session_restart", "maintenance"), ("malformed", ""),
        ("malformed", "cut"), ("drop", "internal error"),
    ]  # fmt: skip
    async with DatabentoGateway(
        {"NVDA": recorded(count), "AMD": recorded(count)}, keys=[KEY], restamp=restamp
    ) as gateway:
        feed = feed_of(gateway.port, heard, names=["NVDA", "AMD"], heartbeat_secs=1)

        def done() -> bool:
            far = len(heard.quotes())
            if troubles and far >= (7 - len(troubles)) * 60 and feed.counts["gaps"] == ended:
                trigger(*troubles.pop(0))
            return min(far, len(heard.quotes("AMD"))) >= count

        ended = 0

        def trigger(kind: FaultKind, text: str) -> None:
            nonlocal ended
            ended += 1
            gateway.faults.trigger(kind, text=text)

        await run_until(feed, done, 10)

    assert troubles == []
    assert feed.counts["gaps"] == len(heard.texts("disconnect")) == 6
    for name in ("NVDA", "AMD"):
        assert [q.bid_px for q in heard.quotes(name)] == list(range(count))
    if not restamp:
        assert [q.ts_event for q in heard.quotes()] == recorded(count)["ts_event"].to_list()
    assert feed.counts["overlap removed"] > 0
    assert feed.counts["gaps not replayed"] == 0


@pytest.mark.asyncio
async def test_the_stand_in_refuses_a_wrong_key_and_an_unknown_symbol() -> None:
    async with DatabentoGateway({"NVDA": recorded(3)}, keys=[KEY]) as gateway:
        feed = feed_of(gateway.port, Heard(), key=KEY[::-1])
        with pytest.raises(DatabentoError, match=r"refused a session .* Authentication failed"):
            await asyncio.wait_for(feed.run(), 5)
        feed = feed_of(gateway.port, Heard(), names=["NVDA", "NVDIA"])
        with pytest.raises(DatabentoError, match="NVDIA must be a raw symbol of the dataset"):
            await asyncio.wait_for(feed.run(), 5)


# ---------------------------------------------------------------- ends


def open_sockets() -> int:
    gc.collect()
    links = (Path("/proc/self/fd") / name for name in [*Path("/proc/self/fd").iterdir()])
    count = 0
    for link in links:
        try:
            count += str(link.readlink()).startswith("socket:")
        except OSError:
            continue
    return count


@pytest.mark.asyncio
@pytest.mark.parametrize("phase", ["greeting", "header", "streaming", "waiting", "at once"])
async def test_cancelling_leaves_no_task_and_no_socket(phase: str) -> None:
    scripts = {
        "greeting": never_greets,
        "header": streams(),
        "streaming": streams(OPENING, record()),
        "waiting": closes_at_once,
        "at once": never_greets,
    }
    heard = Heard()
    async with Gateway(scripts[phase]) as gateway:
        feed = feed_of(gateway, heard, backoff=Backoff(60.0, 60.0))
        before = open_sockets()
        reached: dict[str, Callable[[], bool]] = {
            "greeting": lambda: bool(gateway.talks),
            "header": lambda: bool(gateway.talks and gateway.talks[0].subscriptions),
            "streaming": lambda: bool(heard.quotes()),
            "waiting": lambda: feed.counts["gaps"] == 1,
            "at once": lambda: True,
        }
        await run_until(feed, reached[phase])
        await asyncio.sleep(0.02)  # the gateway's side of it
        assert open_sockets() == before
    assert "disconnect" not in [s.kind for s in heard.statuses] or phase == "waiting"


@pytest.mark.asyncio
async def test_an_emit_that_fails_ends_the_feed_with_its_own_error() -> None:
    def broken(_: Sequence[Event]) -> None:
        raise LookupError("our own fault")

    heard = Heard()
    async with Gateway(streams(OPENING, record())) as gateway:
        feed = feed_of(gateway, heard, symbols={"NVDA": broken})
        with pytest.raises(LookupError, match="our own fault"):
            await asyncio.wait_for(feed.run(), 5)
    assert heard.texts("disconnect") == []
