"""The gateway's stand-in, seen by the vendor's own client over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import databento
import databento_dbn as dbn
import numpy as np
import polars as pl
import pytest
from databento.common.error import BentoError
from databento.live.protocol import DatabentoLiveProtocol

from sandbox.databento_gateway import DatabentoGateway
from sandbox.databento_records import LAYOUTS
from sandbox.faults import GATEWAY_KINDS, Fault, FaultKind, Faults
from sandbox.playback import Playback
from streams.recording import QUOTE_SCHEMA, RecordingError

ROOT: Final = Path(__file__).parents[2]
KEY: Final = "db-unittestapikey1234567890FFFFF"
MINI: Final = "EQUS.MINI"
SECOND: Final = 1_000_000_000
MS: Final = 1_000_000
START: Final = 1_781_703_000 * SECOND
PX: Final = 207 * SECOND

Row = tuple[int, int | None, int | None, int | None, int | None, int | None, int]
"""ts, ts_event, bid_px, ask_px, bid_sz, ask_sz, flags: what a record must bring back."""


def frame(rows: list[Row]) -> pl.DataFrame:
    columns = ["ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz", "flags"]
    return pl.DataFrame(rows, schema={c: QUOTE_SCHEMA[c] for c in columns}, orient="row")


def quotes(n: int, *, every_ns: int = MS, start: int = START) -> pl.DataFrame:
    """Quotes whose bid price tells their number."""
    return frame(
        [
            (start + i * every_ns, start + i * every_ns - 70_000, PX + i, PX + i + SECOND,
             (i + 1) * SECOND, (i + 2) * SECOND, 128)
            for i in range(n)
        ]
    )  # fmt: skip


ODD: Final = frame(
    [
        (START, START - 5, PX, PX + 1, SECOND, 2 * SECOND, 128),
        (START, None, PX, None, SECOND, None, 130),
        (START + 1, START + 9, None, PX, None, 4_294_967_295 * SECOND, 0),
        (START + 2, START, None, None, None, None, 8),
        (START + SECOND, START, PX, PX, 0, 0, 4),
    ]
)
"""Ties, an unknown and a later ts_event, lone sides, an empty book, the largest and no size."""


class Client(DatabentoLiveProtocol):
    """The vendor's protocol class, which keeps what it gets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"api_key": KEY, "dataset": MINI, **options})
        self.records: list[Any] = []
        self.arrived: list[float] = []
        self.header: Any = None

    def received_metadata(self, metadata: dbn.Metadata) -> None:
        super().received_metadata(metadata)
        self.header = metadata

    def received_record(self, record: Any) -> None:
        self.records.append(record)
        self.arrived.append(time.monotonic())

    @property
    def quotes(self) -> list[Any]:
        return [record for record in self.records if hasattr(record, "bid_px_00")]

    @property
    def numbers(self) -> list[int]:
        return [record.bid_px_00 - PX for record in self.quotes]

    def said(self, code: Any) -> list[Any]:
        return [r for r in self.records if isinstance(r, dbn.SystemMsg) and r.code == code]

    @property
    def errors(self) -> list[Any]:
        return [record.code for record in self.records if isinstance(record, dbn.ErrorMsg)]

    async def until(self, true: Callable[[], Any], secs: float = 3.0) -> None:
        async with asyncio.timeout(secs):
            while not true():
                await asyncio.sleep(0.002)

    async def end(self) -> None:
        """Wait until the session is over, in peace."""
        async with asyncio.timeout(3.0):
            await self.disconnected

    async def broken(self) -> BaseException:
        """Wait until the session is over, with an error."""
        async with asyncio.timeout(3.0):
            return cast(
                BaseException, (await asyncio.gather(self.disconnected, return_exceptions=True))[0]
            )


async def connect(gateway: DatabentoGateway, **options: Any) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(**options), gateway.host, gateway.port)
    try:
        # The vendor's class leaves ``authenticated`` open when the connection ends before it.
        async with asyncio.timeout(3.0):
            ends: set[asyncio.Future[Any]] = {client.authenticated, client.disconnected}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not client.authenticated.done():
            raise ConnectionError("closed before the login was answered")
        client.authenticated.result()
    except BaseException:
        client.transport.abort()
        raise
    return client


@asynccontextmanager
async def session(
    gateway: DatabentoGateway, schema: str = "mbp-1", start: Any = None, **options: Any
) -> AsyncIterator[Client]:
    client = await connect(gateway, **options)
    client.subscribe(schema=schema, symbols="NVDA", start=start, subscription_id=0)
    client.start()
    try:
        yield client
    finally:
        client.transport.close()
        await asyncio.gather(client.disconnected, return_exceptions=True)


def fast(source: Any, **options: Any) -> DatabentoGateway:
    """A gateway that sends everything at once, and closes."""
    fixed = {"keys": [KEY], "speed": math.inf, "at_end": "close", "max_seconds": 10.0}
    return DatabentoGateway(source, **{**fixed, **options})


def paced(source: Any, **options: Any) -> DatabentoGateway:
    return DatabentoGateway(source, **{"keys": [KEY], "max_seconds": 10.0, **options})


def row_of(record: Any) -> Row:
    def known(value: int, undefined: int) -> int | None:
        return None if value == undefined else value

    bid = known(record.bid_px_00, dbn.UNDEF_PRICE)
    ask = known(record.ask_px_00, dbn.UNDEF_PRICE)
    return (
        record.ts_recv,
        known(record.ts_event, dbn.UNDEF_TIMESTAMP),
        bid,
        ask,
        None if bid is None else record.bid_sz_00 * SECOND,
        None if ask is None else record.ask_sz_00 * SECOND,
        int(record.flags),
    )


# ---------------------------------------------------------------- what comes through

TYPES: Final[dict[str, Any]] = {
    "mbp-1": dbn.MBP1Msg, "tbbo": dbn.MBP1Msg, "cmbp-1": dbn.CMBP1Msg, "tcbbo": dbn.CMBP1Msg,
    "bbo-1s": dbn.BBOMsg, "bbo-1m": dbn.BBOMsg, "cbbo-1s": dbn.CBBOMsg, "cbbo-1m": dbn.CBBOMsg,
}  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("schema", LAYOUTS)
@pytest.mark.parametrize("compression", [dbn.Compression.NONE, dbn.Compression.ZSTD], ids=str)
@pytest.mark.parametrize("ts_out", [False, True], ids=["bare", "ts_out"])
async def test_every_schema_brings_back_every_quote(
    schema: str, compression: Any, ts_out: bool
) -> None:
    before = time.time_ns()
    async with (
        fast(ODD, restamp=False) as gateway,
        session(gateway, schema, compression=compression, ts_out=ts_out) as client,
    ):
        await client.end()

    assert [row_of(record) for record in client.quotes] == ODD.rows()
    assert {type(record) for record in client.quotes} == {TYPES[schema]}
    assert {record.instrument_id for record in client.quotes} == {11_667}
    assert {record.publisher_id for record in client.quotes} == {95}
    assert client.header.version == 3
    assert client.header.ts_out is ts_out
    if ts_out:
        outs = [record.ts_out for record in client.records]
        assert all(before - SECOND < out < time.time_ns() + SECOND for out in outs)
        assert outs == sorted(outs)


@pytest.mark.asyncio
async def test_records_are_byte_for_byte_the_vendors_own() -> None:
    ids: dict[str, Any] = {"publisher_id": 95, "instrument_id": 11_667}
    when: dict[str, Any] = {"ts_event": START - 5, "ts_recv": START}
    pair = dbn.BidAskPair(PX, PX + 1, 1, 2, 0, 0)
    both = dbn.ConsolidatedBidAskPair(PX, PX + 1, 1, 2, 95, 95)
    none: Any = dbn.Side.NONE
    blank: dict[str, Any] = {"price": dbn.UNDEF_PRICE, "size": 0, "side": none, "flags": 128}
    add: Any = dbn.Action.ADD
    trade: Any = dbn.Action.TRADE
    made = {**blank, "price": PX + 1, "size": 1, "action": trade}
    wanted: dict[str, Any] = {
        "mbp-1": dbn.MBP1Msg(**ids, **when, **blank, action=add, depth=0, ts_in_delta=0,
                             sequence=0, levels=cast(Any, pair)),
        "tbbo": dbn.MBP1Msg(**ids, **when, **made, depth=0, ts_in_delta=0, sequence=0,
                            levels=cast(Any, pair)),
        "cmbp-1": dbn.CMBP1Msg(rtype=177, **ids, **when, **blank, action=add, ts_in_delta=0,
                               levels=cast(Any, both)),
        "bbo-1s": dbn.BBOMsg(rtype=195, **ids, **when, **blank, sequence=0,
                             levels=cast(Any, pair)),
    }  # fmt: skip
    for schema, record in wanted.items():
        async with fast(ODD[:1], restamp=False) as gateway, session(gateway, schema) as client:
            await client.end()
        assert [bytes(got) for got in client.quotes] == [bytes(record)], schema


def test_the_bundled_recording_reaches_the_official_client_whole() -> None:
    records: list[Any] = []
    folder = ROOT / "recordings" / "nvda-cash-session"
    with fast(folder, restamp=False).run_in_thread() as gateway:
        live = databento.Live(key=KEY, gateway=gateway.host, port=gateway.port)
        live.subscribe(MINI, "mbp-1", "nvda")
        live.add_callback(records.append)
        live.start()
        live.block_for_close(timeout=10.0)

    assert live.symbology_map == {11_667: "NVDA"}
    assert [type(record) for record in records[:3]] == [
        dbn.SystemMsg, dbn.SymbolMappingMsg, dbn.MBP1Msg,
    ]  # fmt: skip
    raw = b"".join(bytes(record) for record in records[2:])
    got = np.frombuffer(raw, np.dtype(dbn.MBP1Msg._dtypes))
    wanted = pl.read_parquet(folder / "signal.parquet")
    assert len(got) == wanted.height == 89_887
    assert (got["ts_recv"] == wanted["ts"].to_numpy()).all()
    assert (got["flags"] == wanted["flags"].to_numpy()).all()
    for side in ("bid", "ask"):
        px = wanted[f"{side}_px"].fill_null(dbn.UNDEF_PRICE).to_numpy()
        assert (got[f"{side}_px_00"] == px).all()
        sizes = wanted[f"{side}_sz"].fill_null(0).to_numpy()
        assert (got[f"{side}_sz_00"].astype(np.int64) * SECOND == sizes).all()


@pytest.mark.asyncio
async def test_an_empty_book_clears_and_a_trade_schema_trades() -> None:
    for schema, actions in (("mbp-1", "AAARA"), ("tbbo", "TTTTT")):
        async with fast(ODD) as gateway, session(gateway, schema) as client:
            await client.end()
        assert "".join(str(record.action) for record in client.quotes) == actions


def test_a_size_that_databento_cannot_send_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quote 0 .* bid_sz = 500000000 of 1e-9"):
        fast(frame([(START, None, PX, PX + 1, SECOND // 2, SECOND, 0)]))


def test_a_feed_that_goes_back_in_time_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"NVDA: row 3: ts .* must not go back"):
        fast(pl.concat([quotes(3), quotes(3)]))


# ---------------------------------------------------------------- time


@pytest.mark.asyncio
async def test_quotes_come_at_their_time_with_stamps_of_now() -> None:
    async with paced(quotes(6, every_ns=60 * MS)) as gateway, session(gateway) as client:
        await client.until(lambda: len(client.quotes) == 6)

    playback = gateway.playback
    for i, record in enumerate(client.quotes):
        assert record.ts_recv == playback.wall_ns(START + i * 60 * MS)
        assert record.ts_recv - record.ts_event == 70_000
    first, last = client.arrived[-6], client.arrived[-1]
    assert last - first == pytest.approx(0.3, abs=0.08)


@pytest.mark.asyncio
async def test_a_faster_playback_waits_less_and_can_keep_the_recorded_stamps() -> None:
    feed = quotes(6, every_ns=SECOND)
    async with (
        paced(feed, speed=50.0, restamp=False) as gateway,
        session(gateway) as client,
    ):
        await client.until(lambda: len(client.quotes) == 6)

    assert client.arrived[-1] - client.arrived[-6] == pytest.approx(0.1, abs=0.05)
    assert [record.ts_recv for record in client.quotes] == feed["ts"].to_list()


@pytest.mark.asyncio
async def test_an_unknown_ts_event_stays_so_only_where_it_is_the_last_trades() -> None:
    feed = frame([(START, None, PX, PX + 1, SECOND, SECOND, 0)])
    for schema, undefined in (("mbp-1", False), ("bbo-1s", True)):
        async with fast(feed) as gateway, session(gateway, schema) as client:
            await client.end()
        assert (client.quotes[0].ts_event == dbn.UNDEF_TIMESTAMP) is undefined


@pytest.mark.asyncio
async def test_who_comes_back_goes_on_at_the_present() -> None:
    async with paced(quotes(100, every_ns=5 * MS)) as gateway:
        async with session(gateway) as client:
            await client.until(lambda: len(client.quotes) > 10)
        await asyncio.sleep(0.1)
        async with session(gateway) as again:
            await again.until(lambda: len(again.numbers) > 10)

    assert again.numbers[0] > client.numbers[-1] + 10
    assert again.numbers == list(range(again.numbers[0], again.numbers[-1] + 1))


@pytest.mark.asyncio
async def test_at_infinite_speed_the_present_is_where_the_last_session_ended() -> None:
    faults = Faults([Fault(kind="malformed", at=0.0, text="cut")])
    async with fast(quotes(10_000), faults=faults) as gateway:
        async with session(gateway) as client:
            await client.end()
        async with session(gateway) as again:
            await again.end()

    assert client.numbers == list(range(4095))
    assert again.numbers == list(range(4096, 10_000))


@pytest.mark.asyncio
async def test_a_shared_playback_that_starts_later_loses_nothing() -> None:
    playback = Playback(START - SECOND, speed=10.0)
    async with (
        paced(quotes(5), playback=playback, autostart=False) as gateway,
        session(gateway) as client,
    ):
        await asyncio.sleep(0.05)
        assert not client.quotes
        playback.start()
        await client.until(lambda: len(client.quotes) == 5)

    assert client.quotes[0].ts_recv == playback.start_ns + SECOND // 10


@pytest.mark.asyncio
@pytest.mark.parametrize("restamp", [True, False])
async def test_an_intraday_replay_joins_the_present_without_gap_or_repeat(restamp: bool) -> None:
    feed = quotes(60, every_ns=5 * MS)
    async with paced(feed, restamp=restamp) as gateway:
        async with session(gateway) as client:
            await client.until(lambda: len(client.quotes) > 20)
        since = client.quotes[10].ts_event
        again = await connect(gateway)
        for schema in ("mbp-1", "bbo-1s"):
            again.subscribe(schema=schema, symbols="NVDA", start=since)
        again.start()
        await again.until(lambda: again.numbers[-2:] == [59, 59])
        again.transport.close()
        await again.end()

    for kind in (dbn.MBP1Msg, dbn.BBOMsg):
        numbers = [record.bid_px_00 - PX for record in again.quotes if isinstance(record, kind)]
        assert numbers == list(range(10, 60))
    completed = again.said(dbn.SystemCode.REPLAY_COMPLETED)
    assert [message.msg for message in completed] == [
        "Finished mbp-1 replay", "Finished bbo-1s replay",
    ]  # fmt: skip
    at = again.records.index(completed[0])
    assert 10 < sum(isinstance(record, dbn.MBP1Msg) for record in again.records[:at]) < 50


@pytest.mark.asyncio
async def test_a_replay_at_infinite_speed_repeats_what_was_sent_stamps_included() -> None:
    faults = Faults([Fault(kind="malformed", at=0.0, text="cut")])
    async with fast(quotes(10_000), faults=faults) as gateway:
        async with session(gateway) as client:
            await client.end()
        since = client.quotes[1000].ts_event
        async with session(gateway, start=since) as again:
            await again.end()

    assert again.numbers[-1] == 9_999
    assert again.numbers == list(range(again.numbers[0], 10_000))
    assert again.numbers[0] <= 1000
    by_number = {record.bid_px_00: bytes(record) for record in again.quotes}
    assert all(by_number[record.bid_px_00] == bytes(record) for record in client.quotes[1000:])
    stamps = [record.ts_recv for record in again.quotes]
    assert stamps == sorted(stamps)


@pytest.mark.asyncio
async def test_silence_is_filled_with_heartbeats_and_nothing_else_is() -> None:
    feed = pl.concat([quotes(20, every_ns=10 * MS), quotes(1, start=START + 2 * SECOND)])
    beat = cast(Any, 0.15)
    async with paced(feed) as gateway, session(gateway, heartbeat_interval_s=beat) as client:
        await client.until(lambda: len(client.said(dbn.SystemCode.HEARTBEAT)) == 2)

    assert len(client.quotes) == 20
    last_quote, first_beat, second_beat = client.arrived[-3:]
    assert first_beat - last_quote == pytest.approx(0.15, abs=0.07)
    assert second_beat - first_beat == pytest.approx(0.15, abs=0.07)
    assert client.records[-1].is_heartbeat()


@pytest.mark.asyncio
async def test_a_sampled_schema_says_when_an_interval_is_over() -> None:
    async with (
        paced(quotes(30, every_ns=SECOND // 10), speed=20.0, restamp=False) as gateway,
        session(gateway, "bbo-1s") as client,
    ):
        await client.until(lambda: len(client.said(dbn.SystemCode.END_OF_INTERVAL)) >= 2)

    for end in client.said(dbn.SystemCode.END_OF_INTERVAL):
        at = client.records.index(end)
        before = [r.ts_recv for r in client.records[:at] if isinstance(r, dbn.BBOMsg)]
        after = [r.ts_recv for r in client.records[at:] if isinstance(r, dbn.BBOMsg)]
        assert end.ts_event % SECOND == 0
        assert max(before) >= end.ts_event - SECOND // 10
        assert all(ts > end.ts_event for ts in after)


# ---------------------------------------------------------------- protocol


async def raw(gateway: DatabentoGateway) -> tuple[Any, asyncio.StreamWriter, str]:
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    assert (await reader.readline()).startswith(b"lsg_version=")
    return reader, writer, (await reader.readline()).decode().strip().removeprefix("cram=")


def answer(challenge: str, key: str = KEY) -> str:
    return f"{hashlib.sha256(f'{challenge}|{key}'.encode()).hexdigest()}-{key[-5:]}"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"api_key": "db-unittestapikey1234567890XXXXX"}, "Authentication failed"),
        ({"api_key": "db-anothertestapikey12345678FFFFF"}, "Authentication failed"),
        ({"dataset": "XNAS.ITCH"}, "serves EQUS.MINI, not XNAS.ITCH"),
    ],
)
async def test_who_does_not_belong_here_is_turned_away(options: Any, text: str) -> None:
    async with fast(quotes(1)) as gateway:
        with pytest.raises(BentoError, match=text):
            await connect(gateway, **options)
        assert gateway.counts["refused"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", ["challenge", "bucket"])
async def test_a_wrong_answer_is_answered_and_the_connection_closed(wrong: str) -> None:
    async with fast(quotes(1)) as gateway:
        reader, writer, challenge = await raw(gateway)
        given = answer(challenge + "x" if wrong == "challenge" else challenge)
        if wrong == "bucket":
            given = given.replace("-FFFFF", "-FFFFE")
        writer.write(f"auth={given}|dataset={MINI}\n".encode())
        assert await reader.read() == b"success=0|error=Authentication failed.\n"
        writer.close()


@pytest.mark.asyncio
async def test_fields_may_come_in_another_order_and_the_start_bare() -> None:
    async with fast(quotes(3)) as gateway:
        reader, writer, challenge = await raw(gateway)
        writer.write(
            f"encoding=dbn|client=Rust/1.0|dataset={MINI}|auth={answer(challenge)}\n"
            f"symbols=NVDA|stype_in=raw_symbol|schema=mbp-1\nstart_session\n".encode()
        )
        assert await reader.readline() == b"success=1|session_id=1\n"
        data = await reader.read()
        writer.close()

    decoder = dbn.DBNDecoder()
    assert len([r for r in decoder.write_and_decode(data) if isinstance(r, dbn.MBP1Msg)]) == 3
    assert len(data) == 128 + 320 + 176 + 3 * 80


@pytest.mark.asyncio
async def test_each_session_has_a_challenge_of_its_own_that_the_seed_repeats() -> None:
    challenges = []
    for _ in range(2):
        async with fast(quotes(1), seed=7) as gateway:
            for _ in range(2):
                _, writer, challenge = await raw(gateway)
                challenges.append(challenge)
                writer.close()
    assert len(set(challenges)) == 2
    assert challenges[:2] == challenges[2:]


@pytest.mark.asyncio
async def test_two_sessions_at_once_are_numbered_and_get_the_same() -> None:
    async with (
        paced(quotes(20, every_ns=2 * MS), autostart=False) as gateway,
        session(gateway) as one,
        session(gateway, "bbo-1s", ts_out=True) as two,
    ):
        gateway.playback.start(gateway.playback.now_ns() + 20 * MS)
        await one.until(lambda: len(one.quotes) == 20)
        await two.until(lambda: len(two.quotes) == 20)
        assert [one.authenticated.result(), two.authenticated.result()] == ["1", "2"]

    assert one.numbers == two.numbers == list(range(20))


@pytest.mark.asyncio
async def test_the_header_is_the_same_in_every_session_but_for_its_start() -> None:
    headers = []
    async with fast(quotes(1)) as gateway:
        for _ in range(2):
            async with session(gateway) as client:
                await client.end()
            headers.append(client.header)

    fields = ("version", "dataset", "schema", "limit", "stype_in", "stype_out", "ts_out",
              "symbols", "partial", "not_found", "mappings")  # fmt: skip
    assert [getattr(headers[0], f) for f in fields] == [getattr(headers[1], f) for f in fields]
    assert headers[0].start < headers[1].start


@pytest.mark.asyncio
async def test_many_symbols_come_in_several_lines_and_only_they_are_served() -> None:
    feeds = {f"S{i}": quotes(2, start=START + i) for i in range(1100)}
    wanted = [f"S{i}" for i in range(1001)]
    async with fast(feeds) as gateway:
        client = await connect(gateway)
        assert len(client.subscribe(schema="mbp-1", symbols=wanted)) == 3
        client.start()
        await client.end()

    assert len(client.said(dbn.SystemCode.SUBSCRIPTION_ACK)) == 1
    mapped = [r for r in client.records if isinstance(r, dbn.SymbolMappingMsg)]
    assert [record.stype_in_symbol for record in mapped] == wanted
    names = {record.instrument_id: record.stype_in_symbol for record in mapped}
    assert sorted(names[r.instrument_id] for r in client.quotes) == sorted(wanted * 2)
    stamps = [record.ts_recv for record in client.quotes]
    assert stamps == sorted(stamps)


@pytest.mark.asyncio
async def test_a_subscription_after_the_start_is_served_from_then_on() -> None:
    feeds = {"NVDA": quotes(60, every_ns=5 * MS), "TSLA": quotes(60, every_ns=5 * MS)}
    async with paced(feeds) as gateway, session(gateway) as client:
        await client.until(lambda: len(client.quotes) > 10)
        client.subscribe(schema="mbp-1", symbols="TSLA", start=0, subscription_id=1)
        client.subscribe(
            schema="mbp-1", symbols=[11_667], stype_in="instrument_id", subscription_id=2
        )
        await client.until(lambda: client.numbers[-2:] == [59, 59])

    acks = [message.msg for message in client.said(dbn.SystemCode.SUBSCRIPTION_ACK)]
    assert acks == [f"Subscription request {i} for mbp-1 data succeeded" for i in range(3)]
    other = [r.bid_px_00 - PX for r in client.quotes if r.instrument_id == 11_668]
    assert other == list(range(other[0], 60))
    assert other[0] > 10
    assert not client.said(dbn.SystemCode.REPLAY_COMPLETED)
    own = [r.bid_px_00 - PX for r in client.quotes if r.instrument_id == 11_667]
    assert own == list(range(60))


@pytest.mark.asyncio
async def test_two_schemas_of_one_session_come_in_the_order_of_the_tape() -> None:
    async with fast(quotes(3)) as gateway:
        client = await connect(gateway)
        client.subscribe(schema="mbp-1", symbols="NVDA")
        client.subscribe(schema="bbo-1s", symbols="NVDA")
        client.start()
        await client.end()
    assert client.numbers == [0, 0, 1, 1, 2, 2]
    assert [type(record) for record in client.quotes] == [dbn.MBP1Msg, dbn.BBOMsg] * 3


@pytest.mark.asyncio
async def test_everything_is_a_symbol_too() -> None:
    async with fast({"NVDA": quotes(2), "TSLA": quotes(2)}) as gateway:
        client = await connect(gateway)
        client.subscribe(schema="tbbo")
        client.start()
        await client.end()
    assert [record.instrument_id for record in client.quotes] == [11_667, 11_668] * 2


@pytest.mark.asyncio
async def test_an_unknown_symbol_is_told_and_the_rest_is_served() -> None:
    async with fast(quotes(3)) as gateway:
        client = await connect(gateway)
        client.subscribe(schema="mbp-1", symbols=["AAPL", "NVDA", "MSFT"])
        client.start()
        error = await client.broken()

    failed = [record for record in client.records if isinstance(record, dbn.ErrorMsg)]
    assert client.errors == [dbn.ErrorCode.SYMBOL_RESOLUTION_FAILED] * 2
    assert [bool(record.is_last) for record in failed] == [False, True]
    assert client.numbers == [0, 1, 2]
    assert "AAPL" in str(error)


@pytest.mark.asyncio
async def test_a_schema_without_quotes_ends_the_session() -> None:
    async with paced(quotes(3)) as gateway, session(gateway, "mbo") as client:
        error = await client.broken()
    assert client.errors == [dbn.ErrorCode.INVALID_SUBSCRIPTION]
    assert "Schema 'mbo' is not served" in str(error)


@pytest.mark.asyncio
async def test_too_many_connections_in_a_second_are_closed_at_once() -> None:
    async with fast(quotes(1), connections_per_second=2) as gateway:
        connections = [await asyncio.open_connection(gateway.host, gateway.port) for _ in range(4)]
        greetings = [await reader.readline() for reader, _ in connections]
        for _, writer in connections:
            writer.close()
    assert [bool(greeting) for greeting in greetings] == [True, True, False, False]


# ---------------------------------------------------------------- slow readers


@pytest.mark.asyncio
@pytest.mark.parametrize("behaviour", [None, "warn"])
async def test_a_reader_that_falls_behind_loses_quotes_or_gets_them_late(
    behaviour: str | None,
) -> None:
    feed = quotes(40_000, every_ns=10_000)
    gateway = paced(feed, slow_after_bytes=100_000, send_buffer_bytes=50_000)
    async with gateway, session(gateway, slow_reader_behavior=behaviour) as client:
        await client.until(lambda: client.quotes)
        transport = client.transport
        transport.pause_reading()
        await asyncio.sleep(0.5)
        # What the reader does not take waits on the tape, not in memory.
        assert gateway.counts["records"] < 20_000
        transport.resume_reading()
        await client.until(
            lambda: (
                len(client.quotes) + gateway.counts["skipped"] == 40_000
                and (behaviour == "warn" or isinstance(client.records[-1], dbn.ErrorMsg))
            )
        )

    numbers = client.numbers
    assert numbers == sorted(set(numbers))
    if behaviour == "warn":
        assert len(numbers) == 40_000
        assert len(client.said(dbn.SystemCode.SLOW_READER_WARNING)) >= 1
    else:
        assert set(client.errors) == {dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING}
        assert gateway.counts["skipped"] > 10_000


@pytest.mark.asyncio
@pytest.mark.parametrize(("schema", "loses"), [("mbp-1", True), ("tbbo", False)])
async def test_a_reader_can_be_called_slow(schema: str, loses: bool) -> None:
    faults = Faults([Fault(kind="slow_reader", at=0.05, for_secs=0.1)])
    async with (
        paced(quotes(60, every_ns=5 * MS), faults=faults) as gateway,
        session(gateway, schema) as client,
    ):
        await client.until(lambda: 59 in client.numbers)

    assert bool(client.errors) is loses
    assert bool(client.said(dbn.SystemCode.SLOW_READER_WARNING)) is not loses
    assert len(client.quotes) == 60 - gateway.counts["skipped"]
    assert (gateway.counts["skipped"] > 5) is loses


# ---------------------------------------------------------------- faults


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "numbers"),
    [
        (Fault(kind="duplicate", at=0.0, count=2), [0, 0, 1, 1, 2, 3, 4, 5]),
        (Fault(kind="gap", at=0.0, count=2), [2, 3, 4, 5]),
        (Fault(kind="reorder", at=0.0, count=2), [1, 0, 3, 2, 4, 5]),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
@pytest.mark.parametrize("speed", [1.0, math.inf])
async def test_records_are_repeated_lost_or_swapped(
    fault: Fault, numbers: list[int], speed: float
) -> None:
    feed = quotes(6, every_ns=20 * MS)
    async with (
        paced(feed, speed=speed, at_end="close", faults=Faults([fault])) as gateway,
        session(gateway) as client,
    ):
        await client.end()
    assert client.numbers == numbers
    assert gateway.faults.happened == {fault.kind: 2}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["drop", "rst"])
async def test_a_session_is_dropped_and_the_door_stays_shut_for_a_while(kind: FaultKind) -> None:
    faults = Faults([Fault(kind=kind, at=0.05, for_secs=0.15)])
    async with paced(quotes(100, every_ns=5 * MS), faults=faults) as gateway:
        async with session(gateway) as client:
            error = await client.broken()
        assert error is None if kind == "drop" else isinstance(error, ConnectionResetError)
        with pytest.raises(ConnectionRefusedError):
            await connect(gateway)
        await asyncio.sleep(0.2)
        async with session(gateway) as again:
            await again.until(lambda: again.numbers)

    assert client.numbers == list(range(len(client.numbers)))
    assert again.numbers[0] > client.numbers[-1] + 20


@pytest.mark.asyncio
async def test_every_session_is_dropped_and_the_next_one_with_a_count_of_two() -> None:
    faults = Faults([Fault(kind="drop", text="Internal error", count=2)])
    async with paced(quotes(2), faults=faults) as gateway:
        async with session(gateway) as one, session(gateway) as two:
            await one.until(lambda: one.quotes)
            faults.trigger("drop")
            for client in (one, two):
                assert "Internal error" in str(await client.broken())
        async with session(gateway) as three:
            assert "Internal error" in str(await three.broken())
            assert three.errors == [dbn.ErrorCode.INTERNAL_ERROR]


@pytest.mark.asyncio
async def test_a_stall_is_silence_without_heartbeats_and_then_everything_at_once() -> None:
    faults = Faults([Fault(kind="stall", at=0.05, for_secs=0.3)])
    beat = cast(Any, 0.1)
    async with (
        paced(quotes(40, every_ns=10 * MS), faults=faults) as gateway,
        session(gateway, heartbeat_interval_s=beat) as client,
    ):
        await client.until(lambda: len(client.quotes) == 40)

    assert client.numbers == list(range(40))
    assert not client.said(dbn.SystemCode.HEARTBEAT)
    pauses = [b - a for a, b in zip(client.arrived, client.arrived[1:], strict=False)]
    assert max(pauses) == pytest.approx(0.3, abs=0.08)


@pytest.mark.asyncio
async def test_a_delay_brings_everything_later_and_its_stamps_tell() -> None:
    faults = Faults([Fault(kind="delay", at=0.0, for_secs=0.25, amount=0.1)])
    async with (
        paced(quotes(40, every_ns=10 * MS), faults=faults) as gateway,
        session(gateway, ts_out=True) as client,
    ):
        await client.until(lambda: len(client.quotes) == 40)

    late = [(record.ts_out - record.ts_recv) / SECOND for record in client.quotes]
    assert late[0] == pytest.approx(0.1, abs=0.03)
    assert late[-1] < 0.05
    assert client.numbers == list(range(40))


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["", "cut"])
async def test_a_malformed_record_ends_the_session(text: str) -> None:
    faults = Faults([Fault(kind="malformed", at=0.03, text=text)])
    async with (
        paced(quotes(40, every_ns=10 * MS), faults=faults) as gateway,
        session(gateway) as client,
    ):
        await client.broken()
    assert 0 < len(client.quotes) < 30


@pytest.mark.asyncio
async def test_logins_can_be_refused_in_three_ways() -> None:
    async with paced(quotes(1)) as gateway:
        gateway.faults.trigger("refuse", text="Too many sessions.")
        with pytest.raises(BentoError, match="Too many sessions"):
            await connect(gateway)

        gateway.faults.trigger("refuse")
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        assert await reader.read() == b""
        writer.close()

        gateway.faults.trigger("refuse", for_secs=0.1)
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await connect(gateway)
        await asyncio.sleep(0.1)
        async with session(gateway) as client:
            await client.until(lambda: client.quotes)


@pytest.mark.asyncio
async def test_after_a_session_restart_the_symbol_has_another_number() -> None:
    faults = Faults([Fault(kind="session_restart", at=0.05)])
    async with paced(quotes(100, every_ns=2 * MS), faults=faults) as gateway:
        async with session(gateway) as client:
            await client.end()
        async with session(gateway) as again:
            await again.until(lambda: again.quotes)
        assert {record.instrument_id for record in client.quotes} == {11_667}
        assert {record.instrument_id for record in again.quotes} == {11_668}
        assert gateway.instrument_ids == {"NVDA": 11_668}


@pytest.mark.asyncio
async def test_a_new_number_within_a_session_is_told_before_its_first_quote() -> None:
    async with paced(quotes(60, every_ns=5 * MS)) as gateway, session(gateway) as client:
        await client.until(lambda: len(client.quotes) > 10)
        gateway.renumber()
        await client.until(lambda: 59 in client.numbers)

    current = None
    for record in client.records:
        if isinstance(record, dbn.SymbolMappingMsg):
            current = record.instrument_id
        elif not isinstance(record, dbn.SystemMsg):
            assert record.instrument_id == current
    assert current == 11_668


def test_the_official_client_reconnects_after_a_reset() -> None:
    faults = Faults([Fault(kind="rst", at=0.1)])
    records: list[Any] = []
    gaps: list[Any] = []
    with paced(quotes(60, every_ns=5 * MS), faults=faults).run_in_thread() as gateway:
        live = databento.Live(
            key=KEY, gateway=gateway.host, port=gateway.port, reconnect_policy="reconnect"
        )
        live.subscribe(MINI, "mbp-1", "NVDA")
        live.add_callback(lambda record: records.append(record))
        live.add_reconnect_callback(lambda start, end: gaps.append((start, end)))
        live.start()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            if records and getattr(records[-1], "bid_px_00", 0) == PX + 59:
                break
            time.sleep(0.01)
        live.stop()
        live.block_for_close(timeout=3.0)
        sessions = gateway.counts["sessions"]

    assert sessions == 2
    assert len(gaps) == 1
    numbers = [r.bid_px_00 - PX for r in records if isinstance(r, dbn.MBP1Msg)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 59


@pytest.mark.asyncio
async def test_the_last_quote_is_not_lost_when_it_was_to_be_swapped() -> None:
    async with (
        fast(quotes(1), faults=Faults([Fault(kind="reorder", at=0.0)])) as gateway,
        session(gateway) as client,
    ):
        await client.end()
    assert client.numbers == [0]


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_goes_wrong_a_client_that_comes_back_sees_only_the_tape(seed: int) -> None:
    faults = Faults.random(seed, GATEWAY_KINDS, 0.4, 12)
    clients: list[Client] = []
    feed = quotes(300, every_ns=2 * MS)
    begin = time.monotonic()
    async with paced(feed, faults=faults) as gateway:
        while time.monotonic() - begin < 0.5:
            try:
                async with session(gateway) as client:
                    clients.append(client)
                    await asyncio.wait({client.disconnected}, timeout=0.3)
            except (OSError, BentoError):
                await asyncio.sleep(0.02)

    tape = set(feed["bid_px"].to_list())
    got = {record.bid_px_00 for client in clients for record in client.quotes}
    assert len(got) > 30
    assert got <= tape
    assert gateway.faults.happened


# ---------------------------------------------------------------- nothing is left behind


@pytest.mark.asyncio
async def test_rubbish_from_one_client_is_no_matter_to_the_others() -> None:
    async with fast(quotes(3)) as gateway:
        for rubbish in (b"\xff\xfe|==\n", b"x" * (3 << 20), b"\n\n\n", b""):
            _, writer, _ = await raw(gateway)
            writer.write(rubbish)
            writer.close()
        starts = ("-1", "9" * 30, "today")
        for lines in ("rubbish", *(f"schema=mbp-1|symbols=NVDA|start={at}" for at in starts)):
            reader, writer, challenge = await raw(gateway)
            login = f"auth={answer(challenge)}|dataset={MINI}"
            writer.write(f"{login}\n{lines}\nstart_session\n".encode())
            assert b"success=1" in await reader.readline()
            decoder = dbn.DBNDecoder()
            last: Any = decoder.write_and_decode(await reader.read())[-1]
            assert last.code == dbn.ErrorCode.INVALID_SUBSCRIPTION
            writer.close()
        async with session(gateway) as client:
            await client.end()
    assert client.numbers == [0, 1, 2]


@pytest.mark.asyncio
async def test_it_leaves_no_task_and_no_socket_whatever_its_clients_do() -> None:
    before = asyncio.all_tasks()
    async with paced(quotes(1000)) as gateway:
        streaming = await connect(gateway)
        streaming.subscribe(schema="mbp-1", symbols="NVDA")
        streaming.start()
        idle = await connect(gateway)
        _, silent, _ = await raw(gateway)
        await streaming.until(lambda: streaming.quotes)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1.5

    await streaming.end()
    await idle.broken()
    silent.close()
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(gateway.host, gateway.port)
    with pytest.raises(RuntimeError, match="runs once"):
        await gateway.__aenter__()


@pytest.mark.asyncio
async def test_a_reader_that_stopped_reading_cannot_keep_it_open() -> None:
    async with fast(quotes(60_000), send_buffer_bytes=50_000) as gateway:
        client = await connect(gateway)
        client.subscribe(schema="mbp-1", symbols="NVDA")
        client.transport.pause_reading()
        client.start()
        await asyncio.sleep(0.1)
        assert gateway.counts["sessions"] == 1
    client.transport.abort()
    assert gateway.counts["records"] < 60_000


@pytest.mark.asyncio
async def test_it_ends_by_itself() -> None:
    async with paced(quotes(3), max_seconds=0.1) as gateway, session(gateway) as client:
        await gateway.finished()
        await client.end()
        with pytest.raises(ConnectionRefusedError):
            await connect(gateway)


def test_its_thread_ends_with_the_block_also_after_an_error() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "databento-gateway"]

    def fail() -> None:
        with paced(quotes(3)).run_in_thread() as gateway:
            assert len(threads()) == 1
            assert gateway.port
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not threads()


def test_a_port_that_is_taken_is_an_error_of_the_caller() -> None:
    with paced(quotes(1)).run_in_thread() as gateway:
        second = paced(quotes(1), port=gateway.port)
        with pytest.raises(OSError, match="in use"):
            second.run_in_thread().__enter__()
