"""Lighter's stream: what is said becomes inputs exactly, and what breaks is mended and told."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI
from websockets.http11 import Request, Response

import streams.lighter
from streams.events import BUY, SELL, Quote, Status, Trade
from streams.feed import Backoff
from streams.lighter import LighterBook, LighterFeed, LighterSocket, Pace

Frame = dict[str, Any]

# Captured messages.
TICKER: Frame = {
    "type": "update/ticker", "channel": "ticker:0", "last_updated_at": 1774883844921166,
    "nonce": 9182390020, "timestamp": 1774883844933,
    "ticker": {"s": "ETH", "a": {"price": "2064.48", "size": "0.4950"},
               "b": {"price": "2064.30", "size": "1.0392"}, "last_updated_at": 1774883844921166},
}  # fmt: skip
EMPTY_TICKER: Frame = {
    "type": "subscribed/ticker", "channel": "ticker:0", "nonce": 2475051,
    "timestamp": 1778138582640,
    "ticker": {"a": {"price": "", "size": ""}, "b": {"price": "", "size": ""},
               "last_updated_at": 0, "s": "ADA"},
}  # fmt: skip
BOOK: Frame = {
    "type": "subscribed/order_book", "channel": "order_book:0", "last_updated_at": 1778138389655150,
    "offset": 2164, "timestamp": 1778138582602,
    "order_book": {"code": 0, "asks": [{"price": "2325.00", "size": "99.0000"},
                                       {"price": "2341.25", "size": "340.1028"}],
                   "bids": [{"price": "2000.00", "size": "0.0200"}], "offset": 2164,
                   "nonce": 904845, "last_updated_at": 1778138389655150, "begin_nonce": 0},
}  # fmt: skip
TRADES: Frame = {
    "type": "update/trade", "channel": "trade:0", "nonce": 8630448841, "liquidation_trades": [],
    "trades": [{"trade_id": 16164557907, "trade_id_str": "16164557907", "tx_hash": "019f2b9c",
                "type": "trade", "market_id": 0, "size": "0.1336", "price": "2181.83",
                "usd_amount": "291.492488", "ask_id": 281476612587355, "bid_id": 562948334068259,
                "ask_account_id": 57890, "bid_account_id": 317068, "is_maker_ask": False,
                "block_height": 198321831, "timestamp": 1773854156654, "taker_fee": 196,
                "maker_fee": 28, "transaction_time": 1773854156686065}],
}  # fmt: skip
STATS: Frame = {
    "type": "update/market_stats", "channel": "market_stats:0", "timestamp": 1774883844933,
    "market_stats": {"symbol": "ETH", "market_id": 0, "index_price": "2064.48",
                     "mark_price": "2064.47", "daily_price_high": 2398.0},
}  # fmt: skip


def ticker(nonce: int, bid: str = "2064.30", ask: str = "2064.48", size: str = "1.0000") -> Frame:
    sides = {"a": {"price": ask, "size": size}, "b": {"price": bid, "size": size}}
    return {**TICKER, "nonce": nonce, "ticker": {"last_updated_at": nonce, **sides}}


def book(
    begin: int, nonce: int, *, bids: Sequence[tuple[str, str]] = (), first: bool = False
) -> Frame:
    levels = [{"price": price, "size": size} for price, size in bids]
    return {
        "type": "subscribed/order_book" if first else "update/order_book",
        "channel": "order_book:0",
        "order_book": {"asks": [], "bids": levels, "nonce": nonce, "begin_nonce": begin},
    }


def trades(*ids: int, first: bool = False, **fields: Any) -> Frame:
    base = TRADES["trades"][0]
    kind = "subscribed/trade" if first else "update/trade"
    return {**TRADES, "type": kind, "trades": [{**base, "trade_id": n, **fields} for n in ids]}


class Venue:
    """A scripted stand-in that greets, answers subscriptions and keeps what it hears."""

    def __init__(self) -> None:
        self.url = ""
        self.lines: list[ServerConnection] = []
        self.heard: list[tuple[int, Frame]] = []
        self.paths: list[str] = []
        self.greets = True
        self.refuses: int | None = None
        self.answer: Callable[[Frame], list[Frame]] = self.subscribed
        self.first: dict[str, Frame] = {}

    def subscribed(self, message: Frame) -> list[Frame]:
        if message["type"] != "subscribe":
            return []
        channel = message["channel"].replace("/", ":")
        empty = {"type": f"subscribed/{channel.partition(':')[0]}", "channel": channel}
        return [self.first.get(channel, empty)]

    async def handle(self, line: ServerConnection) -> None:
        self.lines.append(line)
        number = len(self.lines) - 1
        with suppress(ConnectionClosed):
            if self.greets:
                await line.send('{"type":"connected","session_id":"s"}')
            async for message in line:
                read = json.loads(message)
                self.heard.append((number, read))
                for frame in self.answer(read):
                    await line.send(json.dumps(frame))

    def screen(self, line: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        return line.respond(self.refuses, "no\n") if self.refuses else None

    async def say(self, *frames: Frame, line: int = -1) -> None:
        for frame in frames:
            await self.lines[line].send(json.dumps(frame))

    def asked(self, kind: str = "subscribe", line: int | None = None) -> list[str]:
        return [m["channel"] for n, m in self.heard if m["type"] == kind and line in (None, n)]


@asynccontextmanager
async def venue() -> AsyncIterator[Venue]:
    stand_in = Venue()
    async with serve(
        stand_in.handle, "127.0.0.1", 0, process_request=stand_in.screen, close_timeout=0.2
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stand_in.url = f"ws://127.0.0.1:{port}/stream"
        yield stand_in


@asynccontextmanager
async def running(what: LighterSocket | LighterFeed) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(what.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], object], seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.003)


class Heard:
    """A socket, and what its callbacks got, in order."""

    def __init__(self, url: str, *channels: str, **options: Any) -> None:
        self.frames: list[Frame] = []
        self.all: list[tuple[str, Any]] = []
        self.statuses: list[tuple[str, str]] = []

        def on_frame(frame: Frame) -> None:
            self.frames.append(frame)
            self.all.append(("frame", frame))

        def on_status(kind: str, text: str) -> None:
            self.statuses.append((kind, text))

        options.setdefault("backoff", Backoff(0.01, 0.02))
        self.socket = LighterSocket(
            url,
            channels=channels,
            on_frame=on_frame,
            on_raw=lambda raw: self.all.append(("raw", raw)),
            on_status=on_status,
            **options,
        )


class Fed:
    """A feed of market 0, and what it emitted, in order."""

    def __init__(self, url: str, **options: Any) -> None:
        self.out: list[Quote | Trade | Status] = []
        self.stats: list[Frame] = []
        self.calls = 0

        def emit(batch: Sequence[Quote | Trade | Status]) -> None:
            self.calls += 1
            self.out.extend(batch)

        options = {"market_id": 0, "price_decimals": 2, "size_decimals": 4, **options}
        options.setdefault("backoff", Backoff(0.01, 0.02))
        self.feed = LighterFeed(
            url, quotes=emit, trades=emit, status=emit, stats=self.stats.append, **options
        )

    @property
    def quotes(self) -> list[Quote]:
        return [each for each in self.out if isinstance(each, Quote)]

    @property
    def trades(self) -> list[Trade]:
        return [each for each in self.out if isinstance(each, Trade)]

    @property
    def statuses(self) -> list[str]:
        return [each.kind for each in self.out if isinstance(each, Status)]

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.out if isinstance(each, Status)]


# ---------------------------------------------------------------- the connection


@pytest.mark.asyncio
async def test_nothing_is_asked_for_before_the_venue_greets() -> None:
    async with venue() as there:
        there.greets = False
        here = Heard(there.url, "ticker/0", "order_book/0")
        async with running(here.socket):
            await until(lambda: there.lines)
            await there.say({"type": "ping"}, {"type": "error", "code": 30009})
            await until(lambda: here.socket.counts["error 30009"])
            assert there.heard == [(0, {"type": "pong"})]
            assert not here.socket.connected
            assert not here.statuses
            await there.say({"type": "connected"})
            await until(lambda: len(here.frames) == 2)
            assert there.asked() == ["ticker/0", "order_book/0"]
            assert here.socket.connected
            assert [kind for kind, _ in here.statuses] == ["connect"]
            assert "permessage-deflate" in str(there.lines[0].request.headers)
        assert not here.socket.connected


@pytest.mark.asyncio
async def test_a_venue_that_never_greets_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.lighter, "_GREETING_SECS", 0.05)
    async with venue() as there:
        there.greets = False
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: len(there.lines) > 1)
        assert here.statuses[0][0] == "disconnect"
        assert "no greeting within 0.05 s" in here.statuses[0][1]


@pytest.mark.asyncio
async def test_the_bytes_are_seen_before_anything_is_made_of_them() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.frames)
            await there.lines[0].send('{"type": "update/x"')
            await there.say(TICKER)
            await until(lambda: len(here.frames) == 2)
        raws = [value for kind, value in here.all if kind == "raw"]
        assert raws[0] == b'{"type":"connected","session_id":"s"}'
        assert raws[2:] == [b'{"type": "update/x"', json.dumps(TICKER).encode()]
        assert [kind for kind, _ in here.all] == ["raw", "raw", "frame", "raw", "raw", "frame"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bad", ["", "{", "[1, 2]", '"text"', b'{"type": "\xff"}', "[" * 100_000, "null"]
)
async def test_what_is_no_message_is_counted_and_changes_nothing(bad: str | bytes) -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.frames)
            await there.lines[0].send(bad)
            await there.say(TICKER, {"type": "novelty"}, {"no": "type"}, {"type": 7})
            await until(lambda: len(here.frames) == 5)
        assert here.socket.counts["malformed"] == 1
        assert here.socket.counts["unknown"] == 3
        assert len(there.lines) == 1


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' * 100_000])
def test_a_frame_nested_without_end_is_no_message_whatever_the_recursion_limit(deep: str) -> None:
    """In a process of its own: what is tried here is whether it ends."""
    code = (
        "import sys\nsys.setrecursionlimit(100_000)\nfrom streams.lighter import LighterSocket\n"
        "socket = LighterSocket('ws://127.0.0.1/', channels=[], on_frame=print, "
        "on_status=print)\n"
        "assert socket._parsed(sys.stdin.buffer.read()) is None\n"
        "sys.exit(socket.counts['malformed'] != 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=deep.encode(), check=False)
    assert done.returncode == 0


@pytest.mark.asyncio
async def test_a_snapshot_of_megabytes_is_taken() -> None:
    async with venue() as there:
        there.first["x:0"] = {"type": "subscribed/x", "channel": "x:0", "text": "a" * 3_000_000}
        here = Heard(there.url, "x/0")
        async with running(here.socket):
            await until(lambda: here.frames)


@pytest.mark.asyncio
async def test_both_sides_ping_and_are_answered() -> None:
    async with venue() as there:
        there.answer = lambda m: [{"type": "pong"}] if m["type"] == "ping" else there.subscribed(m)
        here = Heard(there.url, "ticker/0", ping_secs=0.05)
        async with running(here.socket):
            await until(lambda: here.socket.counts["pong"] >= 2)
            await there.say({"type": "ping"})
            await until(lambda: (0, {"type": "pong"}) in there.heard)
        assert {"type": "pong"} in here.frames
        assert len(there.lines) == 1


@pytest.mark.asyncio
async def test_silence_ends_a_connection_that_looks_open() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0", silence_secs=0.15, ping_secs=0.05)
        async with running(here.socket):
            await until(lambda: len(there.lines) == 2)
            await until(lambda: here.socket.connected)
        assert [kind for kind, _ in here.statuses] == ["connect", "disconnect", "connect"]
        assert "nothing was heard for 0." in here.statuses[1][1]


@pytest.mark.asyncio
async def test_a_close_is_told_with_what_the_venue_had_said() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.frames)
            await there.say({"type": "error", "code": 30002, "message": "Not Subscribed"})
            await there.lines[0].close(1008, "no pong")
            await until(lambda: len(here.statuses) == 3)
        text = here.statuses[1][1]
        assert "no pong" in text
        assert "30002 Not Subscribed" in text
        assert there.asked(line=1) == ["ticker/0"]


@pytest.mark.asyncio
async def test_at_a_shutdown_the_next_connection_stands_before_the_old_one_goes() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.frames)
            there.greets = False
            await there.say({"type": "shutdown", "close_in_ms": 5000})
            await until(lambda: len(there.lines) == 2)
            # The new one is not greeted yet, so the old one still speaks.
            await there.say(TICKER, line=0)
            await until(lambda: TICKER in here.frames)
            assert here.socket.connected
            await there.say({"type": "connected"}, line=1)
            await until(lambda: there.asked(line=1) == ["ticker/0"])
            await there.lines[0].wait_closed()
            await there.say({"type": "update/ticker", "channel": "ticker:0"}, line=1)
            await until(lambda: len(here.frames) >= 5)
        assert [kind for kind, _ in here.statuses] == ["connect", "disconnect", "connect"]
        assert "restarts" in here.statuses[1][1]
        assert here.socket.counts["handed over"] == 1


@pytest.mark.asyncio
async def test_at_a_shutdown_without_another_connection_the_usual_way_back_is_taken() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.frames)
            there.refuses = 503
            await there.say({"type": "shutdown", "close_in_ms": 100})
            await until(lambda: here.socket.counts["failed"] >= 2)
            assert here.socket.connected
            await there.lines[0].close()
            await until(lambda: not here.socket.connected)
            there.refuses = None
            await until(lambda: here.socket.connected)


class Waits(Backoff):
    """A backoff that keeps what it was told, and hardly waits."""

    def __init__(self) -> None:
        super().__init__(least=0.01, most=1.0)
        self.told: list[float] = []
        self.given: list[float] = []

    def lasted(self, seconds: float) -> None:
        self.told.append(seconds)
        super().lasted(seconds)

    def next(self) -> float:
        self.given.append(super().next())
        return 0.001


@pytest.mark.asyncio
async def test_a_venue_that_connects_and_drops_is_tried_ever_more_rarely() -> None:
    async with venue() as there:
        waits = Waits()
        here = Heard(there.url, "ticker/0", backoff=waits)
        async with running(here.socket):
            for n in range(6):
                await until(lambda n=n: len(here.frames) > n)  # type: ignore[misc]
                await there.lines[n].close()
            await until(lambda: len(waits.given) == 6)
        assert all(0.0 <= seconds < 1.0 for seconds in waits.told)
        assert waits.given[5] > 4 * waits.given[0]


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [403, 429])
async def test_a_refused_connection_is_told_and_an_address_that_overdid_it_waits(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.lighter, "COOLDOWN_SECS", 0.2)
    async with venue() as there:
        there.refuses = status
        here = Heard(there.url, "ticker/0")
        async with running(here.socket):
            await until(lambda: here.statuses)
            assert str(status) in here.statuses[0][1]
            await asyncio.sleep(0.1)
            assert len(there.paths) == 1
            there.refuses = None
            await until(lambda: here.socket.connected)
        assert len(there.paths) == 2


@pytest.mark.asyncio
async def test_a_stream_that_cannot_be_one_ends_the_run() -> None:
    here = Heard("http://127.0.0.1/stream", "ticker/0")
    with pytest.raises(InvalidURI):
        await asyncio.wait_for(here.socket.run(), 1.0)


@pytest.mark.asyncio
async def test_a_fault_of_ours_ends_the_run_and_closes_the_connection() -> None:
    def fail(frame: Frame) -> None:
        raise RuntimeError("ours")

    async with venue() as there:
        socket = LighterSocket(
            there.url, channels=["ticker/0"], on_frame=fail, on_status=lambda *_: None
        )
        with pytest.raises(RuntimeError, match="ours"):
            await asyncio.wait_for(socket.run(), 2.0)
        await asyncio.wait_for(there.lines[0].wait_closed(), 1.0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "moment", ["before the greeting", "while it streams", "between", "taking over"]
)
async def test_cancelling_leaves_no_task_and_no_connection(moment: str) -> None:
    async with venue() as there:
        there.greets = moment != "before the greeting"
        there.refuses = 503 if moment == "between" else None
        here = Heard(there.url, "ticker/0", backoff=Backoff(30.0) if there.refuses else None)
        task = asyncio.create_task(here.socket.run())
        if moment == "before the greeting":
            await until(lambda: there.lines)
        elif moment == "between":
            await until(lambda: here.statuses)
        else:
            await until(lambda: here.frames)
        if moment == "taking over":
            there.greets = False
            await there.say({"type": "shutdown", "close_in_ms": 1000})
            await until(lambda: len(there.lines) == 2)
        told = len(here.statuses)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for line in there.lines:
            await asyncio.wait_for(line.wait_closed(), 1.0)
        assert len(here.statuses) == told
        assert not here.socket.connected
        ours = {t.get_coro().__qualname__ for t in asyncio.all_tasks()}  # type: ignore[union-attr]
        assert not {name for name in ours if "LighterSocket" in name}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_sending_needs_a_connection_and_on_a_read_only_one_no_transaction() -> None:
    async with venue() as there:
        here = Heard(there.url, read_only=True)
        other = Heard(there.url + "?a=b", read_only=True)
        with pytest.raises(ConnectionError, match="not connected"):
            await here.socket.send({"type": "anything"})
        async with running(here.socket), running(other.socket):
            await until(lambda: here.socket.connected and other.socket.connected)
            await here.socket.send({"type": "anything", "n": 2**63})
            with pytest.raises(ValueError, match="read-only"):
                await here.socket.send({"type": "jsonapi/sendtx", "data": {}})
            await until(lambda: there.heard)
        assert there.heard[0][1] == {"type": "anything", "n": 2**63}
        assert set(there.paths) == {"/stream?readonly=true", "/stream?a=b&readonly=true"}
        with pytest.raises(ConnectionError, match="not connected"):
            await here.socket.send({"type": "anything"})


# ---------------------------------------------------------------- subscriptions


@pytest.mark.asyncio
async def test_fifty_channels_are_asked_for_with_at_most_35_unanswered() -> None:
    channels = [f"ticker/{n}" for n in range(50)]
    async with venue() as there:
        there.answer = lambda m: []
        here = Heard(there.url, *channels)
        async with running(here.socket):
            await until(lambda: len(there.heard) == 35)
            await asyncio.sleep(0.05)
            assert there.asked() == channels[:35]
            await there.say(*(there.subscribed(m)[0] for _, m in there.heard[:10]))
            await until(lambda: len(there.heard) == 45)
            await asyncio.sleep(0.05)
            assert there.asked() == channels[:45]


@pytest.mark.asyncio
async def test_channels_that_were_dropped_in_silence_do_not_keep_others_waiting() -> None:
    channels = [f"ticker/{n}" for n in range(50)]
    async with venue() as there:
        there.answer = lambda m: [] if len(there.asked()) <= 40 else there.subscribed(m)
        here = Heard(there.url, *channels, retry_secs=0.1)
        async with running(here.socket):
            await until(lambda: len(here.frames) == 50)
        assert there.asked()[35:50] == channels[35:50]
        assert {frame["channel"] for frame in here.frames} == {f"ticker:{n}" for n in range(50)}
        assert here.socket.counts["asked again"] >= 35


def test_a_minute_holds_so_many_messages_with_some_kept_for_pings() -> None:
    pace = Pace(per_minute=10, reserve=4)
    for at in range(6):
        assert pace.wait(float(at)) == 0.0
        pace.count(float(at))
    assert pace.wait(6.0) == 54.0
    assert pace.wait(6.0, 2) == 55.0
    assert pace.wait(60.0) == 0.0
    pace.count(60.0)
    assert pace.wait(60.5) == 0.5
    with pytest.raises(ValueError, match="at least 2"):
        Pace(per_minute=10, reserve=9)


@pytest.mark.asyncio
async def test_a_full_minute_holds_subscriptions_back_but_no_transaction_and_no_pong() -> None:
    async with venue() as there:
        here = Heard(there.url, *(f"ticker/{n}" for n in range(5)), pace=Pace(8, 5))
        async with running(here.socket):
            await until(lambda: len(here.frames) == 3)
            for n in range(20):
                await here.socket.send({"type": "jsonapi/sendtx", "data": {"id": str(n)}})
            await there.say({"type": "ping"})
            await until(lambda: (0, {"type": "pong"}) in there.heard)
            waits = asyncio.create_task(here.socket.send({"type": "anything"}))
            await asyncio.sleep(0.05)
            assert len(there.asked()) == 3
            assert not waits.done()
            waits.cancel()
        assert [m["type"] for _, m in there.heard].count("jsonapi/sendtx") == 20


@pytest.mark.asyncio
async def test_a_channel_that_is_subscribed_without_an_answer_is_asked_for_anew() -> None:
    def answer(message: Frame) -> list[Frame]:
        if message["type"] == "unsubscribe":
            return [{"type": "unsubscribed", "channel": "ticker:3"}]
        if not there.asked("unsubscribe"):
            return [{"error": {"code": 30003, "message": "Already Subscribed to : ticker:3"}}]
        return there.subscribed(message)

    async with venue() as there:
        there.answer = answer
        here = Heard(there.url, "ticker/3")
        async with running(here.socket):
            await until(lambda: len(here.frames) == 3)
        assert [m["type"] for _, m in there.heard] == ["subscribe", "unsubscribe", "subscribe"]
        assert here.socket.counts["error 30003"] == 1


@pytest.mark.asyncio
async def test_a_resync_counts_as_answered_with_the_snapshot_alone_and_has_its_pace() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/0", retry_secs=0.2)
        async with running(here.socket):
            await until(lambda: here.frames)
            there.answer = lambda m: []
            await here.socket.resubscribe("ticker:0")
            await until(lambda: len(there.heard) == 3)
            await there.say(TICKER)  # of the time before
            there.answer = there.subscribed
            await until(lambda: len(there.heard) == 4)
            await until(lambda: len(here.frames) == 3)
            assert [m["type"] for _, m in there.heard[1:]] == [
                "unsubscribe",
                "subscribe",
                "subscribe",
            ]
            with pytest.raises(KeyError):
                await here.socket.resubscribe("ticker/1")
            await asyncio.sleep(0.2)
            for n in range(3, 5):
                began = asyncio.get_running_loop().time()
                await here.socket.resubscribe("ticker/0")
                await here.socket.resubscribe("ticker/0")
                await until(lambda n=n: len(here.frames) > n)  # type: ignore[misc]
            assert 0.1 < asyncio.get_running_loop().time() - began < 0.4
            assert here.socket.counts["resubscribed"] == 3


ERRORS: list[tuple[Frame, str]] = [
    ({"error": {"code": 30003, "message": "Already Subscribed to : ticker:3"}}, "error 30003"),
    ({"type": "error", "code": 30005, "message": "Invalid Channel"}, "error 30005"),
    ({"type": "error", "error": {"code": 20001, "message":
      "invalid param : auth field is required: account_all_orders:0"}}, "error 20001"),
    ({"error": {"message": "invalid auth: invalid deadline"}}, "error without code"),
    ({"error": "something"}, "error without code"),
    ({"type": "error"}, "error without code"),
    ({"id": "7", "error": {"code": 21739, "message": "not enough margin"}}, "error 21739"),
    ({"type": "error", "code": "30005", "message": None}, "error without code"),
    ({"error": ["odd"]}, "error without code"),
]  # fmt: skip


@pytest.mark.asyncio
async def test_every_shape_of_error_is_counted_and_handed_on() -> None:
    async with venue() as there:
        here = Heard(there.url, "ticker/3")
        async with running(here.socket):
            await until(lambda: here.frames)
            await there.say(*(frame for frame, _ in ERRORS))
            # Transactions are answered to their sender, and are no concern of the connection.
            await there.say({"type": "jsonapi/sendtx", "code": 21727, "message": "invalid"})
            await until(lambda: len(here.frames) == len(ERRORS) + 2)
        assert here.frames[1:-1] == [frame for frame, _ in ERRORS]
        for _, count in ERRORS:
            assert here.socket.counts[count] >= 1
        assert here.socket.counts["error"] == len(ERRORS)
        assert not here.socket.counts["unknown"]
        assert there.asked() == ["ticker/3"]


@pytest.mark.asyncio
async def test_the_short_name_of_an_account_channel_is_known() -> None:
    async with venue() as there:
        there.first["account_orders:0:1234"] = {
            "type": "subscribed/account_orders", "channel": "account_orders:0",
        }  # fmt: skip
        here = Heard(there.url, private=["account_orders/0/1234"], auth=lambda: "t", retry_secs=0.1)
        async with running(here.socket):
            await until(lambda: here.frames)
            await asyncio.sleep(0.15)
        assert len(there.heard) == 1


# ---------------------------------------------------------------- tokens


@pytest.mark.asyncio
async def test_private_channels_get_a_fresh_token_and_a_new_one_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams.lighter, "RENEW_LEAST_SECS", 0.05)
    given: list[str] = []

    def auth() -> str:
        # 0.4 s to live, then an hour.
        given.append(f"{100_000 if not given else 103_600}:1234:5:{len(given)}")
        return given[-1]

    async with venue() as there:
        private = ["account_all_orders/1234", "account_all_trades/1234"]
        here = Heard(there.url, "ticker/0", private=private, auth=auth, now=lambda: 99_999.6)
        async with running(here.socket):
            loop = asyncio.get_running_loop()
            await until(lambda: len(here.frames) == 3)
            began = loop.time()
            await until(lambda: len(there.heard) == 7)
            assert 0.1 < loop.time() - began < 0.35
            await there.lines[0].close()
            await until(lambda: len(there.heard) == 10)
    tokens = [(m["channel"], m.get("auth")) for _, m in there.heard if m["type"] == "subscribe"]
    first, second, third = given
    assert tokens == [
        ("ticker/0", None), (private[0], first), (private[1], first),
        (private[0], second), (private[1], second),
        ("ticker/0", None), (private[0], third), (private[1], third),
    ]  # fmt: skip
    assert there.asked("unsubscribe") == private
    assert here.socket.counts["renewed"] == 2


@pytest.mark.asyncio
async def test_a_token_that_is_given_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.lighter, "RENEW_LEAST_SECS", 0.02)
    given: list[str] = []

    def auth() -> str:
        given.append("1000:1:5:ab" if len(given) < 4 else "9000:1:5:cd")
        return given[-1]

    async with venue() as there:
        here = Heard(there.url, private=["account_all/1"], auth=auth, now=lambda: 999.99)
        async with running(here.socket):
            await until(lambda: len(given) == 4)
            assert len(there.heard) == 1
            await until(lambda: len(there.heard) == 3)
            await asyncio.sleep(0.05)
        assert [m.get("auth") for _, m in there.heard] == ["1000:1:5:ab", None, "9000:1:5:cd"]
        assert len(given) == 5


def lives(token: str, **options: Any) -> float:
    here = Heard("ws://127.0.0.1", private=["account_all/1"], auth=lambda: token, **options)
    here.socket._token = token
    return here.socket._renew_in(0.0)


def test_a_token_is_renewed_15_minutes_ahead_or_at_half_a_shorter_life() -> None:
    assert lives("10000:1:5:ab", now=lambda: 2_800.0) == 7_200 - 900
    assert lives("10000:1:5:ab", now=lambda: 8_800.0) == 600
    assert lives("ro:1:all:10000:ab", now=lambda: 8_800.0) == 600
    for odd in ("", "ab", "x:1:5:ab", "ro:1", "9000:1:5:ab"):
        assert lives(odd, now=lambda: 9_500.0) == streams.lighter.RENEW_BLIND_SECS
    assert lives("10000:1:5:ab") == streams.lighter.RENEW_BLIND_SECS


@pytest.mark.asyncio
async def test_without_a_clock_of_ours_the_venues_tells_when_a_token_dies() -> None:
    async with venue() as there:
        here = Heard(there.url, private=["account_all/1"], auth=lambda: f"{2**40}:1:5:ab")
        async with running(here.socket):
            await until(lambda: here.frames)
            ahead = here.socket._unix_ahead
            assert ahead is not None
            unix = ahead + asyncio.get_running_loop().time()
            assert math.isclose(unix, time.time(), abs_tol=2.0)


@pytest.mark.asyncio
async def test_a_refused_token_is_not_used_again() -> None:
    def answer(message: Frame) -> list[Frame]:
        if message.get("auth") == "1":
            text = "invalid auth: account_all_orders:1"
            return [{"type": "error", "error": {"code": 20001, "message": text}}]
        return there.subscribed(message)

    async with venue() as there:
        there.answer = answer
        tokens = iter("12345")
        here = Heard(
            there.url, private=["account_all_orders/1"], auth=lambda: next(tokens), retry_secs=0.02
        )
        async with running(here.socket):
            await until(lambda: len(here.frames) == 2)
        assert [m["auth"] for _, m in there.heard] == ["1", "2"]


def test_channels_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="need auth"):
        Heard("ws://x", private=["account_all/1"])
    with pytest.raises(ValueError, match="ticker:1 were named again"):
        Heard("ws://x", "ticker/1", "ticker:1")


# ---------------------------------------------------------------- the feed


@pytest.mark.asyncio
async def test_captured_messages_become_inputs_exactly() -> None:
    async with venue() as there:
        there.first = {
            "ticker:0": EMPTY_TICKER, "order_book:0": BOOK, "market_stats:0": STATS,
            "trade:0": {**TRADES, "type": "subscribed/trade", "trades": []},
        }  # fmt: skip
        raws: list[bytes] = []
        here = Fed(there.url, raw=raws.append)
        async with running(here.feed):
            await until(lambda: here.stats and here.feed.book.nonce)
            assert there.asked() == ["ticker/0", "order_book/0", "trade/0", "market_stats/0"]
            await there.say(TICKER, TRADES)
            await there.say(trades(16164557908, is_maker_ask=True, transaction_time=0))
            await until(lambda: len(here.trades) == 2)
        assert here.out == [
            Status(0, 0, "target", "connect", "market 0 quotes, nonce 2475051"),
            Quote(0, 0, None, None, None, None, None, 0),
            Quote(0, 0, 1774883844921166000, 2064_300000000, 2064_480000000,
                  1_039200000, 495000000, 0),
            Trade(0, 0, 1773854156686065000, 2181_830000000, 133600000, SELL),
            Trade(0, 0, 1773854156654000000, 2181_830000000, 133600000, BUY),
        ]  # fmt: skip
        assert here.calls == 5
        assert here.stats == [STATS["market_stats"]]
        assert len(raws) == 8


@pytest.mark.asyncio
async def test_statistics_are_merged() -> None:
    async with venue() as there:
        there.first["market_stats:0"] = STATS
        here = Fed(there.url)
        async with running(here.feed):
            await until(lambda: here.stats)
            await there.say({**STATS, "market_stats": {"mark_price": "1"}})
            await there.say({**STATS, "market_stats": 5})
            await there.say({**STATS, "market_stats": {"mark_price": "2"}})
            await until(lambda: len(here.stats) == 3)
        assert here.stats[1] == {**STATS["market_stats"], "mark_price": "1"}
        assert here.feed.counts["unreadable"] >= 1


@asynccontextmanager
async def quoting(**options: Any) -> AsyncIterator[tuple[Venue, Fed]]:
    """A feed that quotes, at nonce 100 in ticker and book."""
    async with venue() as there:
        there.first = {
            "ticker:0": ticker(100) | {"type": "subscribed/ticker"},
            "order_book:0": book(0, 100, bids=[("2064.30", "1.0000")], first=True),
            "trade:0": trades(1, 2, first=True),
        }
        here = Fed(there.url, **options)
        async with running(here.feed):
            await until(lambda: len(here.out) == 2 and here.feed.book.nonce == 100)
            await until(lambda: here.feed.counts["earlier trade"] == 2)
            yield there, here


@pytest.mark.asyncio
async def test_older_quotes_are_dropped_and_repeated_ones_pass_once_a_second() -> None:
    async with quoting() as (there, here):
        await there.say(ticker(101, bid="2064.00"), ticker(100), ticker(101, bid="2063.00"))
        await there.say(*(ticker(n, bid="2063.00") for n in range(102, 110)))
        await until(lambda: here.feed.counts["repeated ticker"] == 8)
        assert [q.bid_px for q in here.quotes] == [2064_300000000, 2064_000000000, 2063_000000000]
        assert here.feed.counts["stale ticker"] == 1
        await asyncio.sleep(1.0)
        await there.say(ticker(120, bid="2063.00"), ticker(121, bid="2063.00"))
        await until(lambda: here.feed.counts["repeated ticker"] == 9)
        assert here.quotes[-1].ts_event == 120_000
        assert len(here.quotes) == 4
        # Also a nonce that is lower than before the connection ended is news on the next one.
        there.first["ticker:0"] = ticker(50)
        await there.lines[0].close()
        await until(lambda: len(here.quotes) == 5)
        assert here.statuses == ["connect", "disconnect", "connect"]


@pytest.mark.asyncio
async def test_the_book_follows_its_nonces() -> None:
    async with quoting() as (there, here):
        held = here.feed.book
        await there.say(book(100, 105, bids=[("2064.3", "2.5"), ("2064.290", "0.1000")]))
        await until(lambda: held.nonce == 105)
        assert held.best_bid() == (2064_300000000, 2_500000000)
        assert held.best_ask() is None
        await there.say(book(105, 106, bids=[("2064.30", "0.0000"), ("1.00", "0")]))
        await until(lambda: held.nonce == 106)
        assert held.bids == {2064_290000000: 100000000}
        there.refuses = 503
        await there.lines[0].close()
        await until(lambda: "disconnect" in here.statuses)
        assert held.nonce is None
        assert held.best_bid() is None


@pytest.mark.asyncio
async def test_a_gap_drops_the_book_until_a_snapshot_comes_and_a_ticker_ahead_still_counts() -> (
    None
):
    async with quoting() as (there, here):
        there.answer = lambda m: []
        await there.say(ticker(110, bid="2063.00"), book(105, 110))
        await until(lambda: there.asked("unsubscribe") == ["order_book/0"])
        await until(lambda: there.asked()[4:] == ["order_book/0"])
        assert here.feed.book.nonce is None
        assert not here.feed.book.bids
        await there.say(book(110, 111, bids=[("9.00", "1")]))
        await until(lambda: here.feed.counts["early book"] == 1)
        await there.say(book(0, 112, bids=[("8.00", "1")], first=True), book(112, 113))
        await until(lambda: here.feed.book.nonce == 113)
        assert here.feed.book.best_bid() == (8_000000000, 1_000000000)
        assert here.feed.counts["book gap"] == 1
        assert here.statuses == ["connect"]


@pytest.mark.asyncio
async def test_a_gap_that_the_ticker_missed_too_takes_the_last_quote_back() -> None:
    async with quoting() as (there, here):
        await there.say(book(107, 110))
        await until(lambda: here.statuses == ["connect", "disconnect"])
        assert "nonce 100 to 107, the ticker is at 100" in here.texts[1]
        # Still older than what the book has shown.
        await there.say(ticker(106, bid="2060.00"))
        await until(lambda: here.feed.counts["overtaken ticker"] == 1)
        await there.say(ticker(107, bid="2061.00"))
        await until(lambda: len(here.quotes) == 2)
        assert here.statuses == ["connect", "disconnect", "connect"]
        assert here.quotes[-1].bid_px == 2061_000000000


@pytest.mark.asyncio
async def test_a_ticker_that_stops_while_the_book_moves_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams.lighter, "TICKER_LAG_SECS", 0.1)
    async with quoting() as (there, here):
        asks = {"asks": [{"price": "2064.48", "size": "1"}]}
        # The book agrees with the last quote: quiet, not dead.
        agreeing = book(100, 101)
        agreeing["order_book"] |= asks
        await there.say(agreeing, book(101, 102))
        await asyncio.sleep(0.12)
        await there.say(book(102, 103))
        await until(lambda: here.feed.counts["quiet ticker"] == 1)
        there.first["ticker:0"] = ticker(105, bid="2065.00", ask="2066.00")
        await asyncio.sleep(0.12)
        await there.say(book(103, 104, bids=[("2064.40", "1")]))
        await until(lambda: len(here.quotes) == 2)
        assert here.statuses == ["connect", "disconnect", "connect"]
        assert "the ticker stopped at nonce 100, the book is at 103" in here.texts[1]
        assert there.asked("unsubscribe") == ["ticker/0"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bad",
    [
        ticker(101, bid="2064.305"),
        ticker(101, bid="-1.00"),
        ticker(101, bid="many"),
        ticker(101, size="1e-5"),
        ticker(2**62) | {"ticker": {"a": None, "b": None, "last_updated_at": 2**62}},
        {**TICKER, "nonce": None},
        {**TICKER, "ticker": {}},
        {**TICKER, "ticker": {"a": {"price": 2064.48, "size": "1"}, "b": None}},
    ],
)
async def test_a_quote_that_cannot_be_read_takes_the_last_one_back(bad: Frame) -> None:
    async with quoting() as (there, here):
        await there.say(bad)
        await until(lambda: here.statuses == ["connect", "disconnect"])
        await there.say(ticker(102))
        await until(lambda: len(here.quotes) == 2)
        assert here.statuses == ["connect", "disconnect", "connect"]
        assert here.feed.counts["unreadable"] >= 1
        assert len(there.lines) == 1


@pytest.mark.asyncio
async def test_wrong_decimals_are_told() -> None:
    async with venue() as there:
        there.first["ticker:0"] = TICKER
        here = Fed(there.url, price_decimals=1)
        async with running(here.feed):
            await until(lambda: here.out)
        assert not here.quotes
        assert "multiple of 0.1" in here.texts[0]
        assert "check the decimals of market 0" in here.texts[0]


@pytest.mark.asyncio
async def test_a_book_or_trade_that_cannot_be_read_is_left_out() -> None:
    async with quoting() as (there, here):
        await there.say(book(100, 101, bids=[("1.005", "1")]))
        await until(lambda: there.asked("unsubscribe") == ["order_book/0"])
        await until(lambda: here.feed.book.nonce == 100)
        await there.say(trades(3, price="x"), trades(4, market_id=9), trades(5))
        await until(lambda: len(here.trades) == 1)
        assert here.feed.counts["unreadable"] == 3 + 1  # and the stand-in's empty statistics


@pytest.mark.asyncio
async def test_trades_are_told_once_also_those_that_were_missed_between_connections() -> None:
    async with quoting() as (there, here):
        both = trades(4, 3)
        both["trades"][1]["size"] = "0.0003"
        await there.say(both, trades(4))
        liquidation = {**TRADES["trades"][0], "trade_id": 5, "type": "liquidation"}
        await there.say({**trades(4), "liquidation_trades": [liquidation]})
        await there.say({**trades(), "trades": None, "liquidation_trades": None})
        await there.say(trades(6, type="deleverage"))
        await until(lambda: here.feed.counts["trade off the book"] == 1)
        assert [trade.qty for trade in here.trades] == [300000, 133600000, 133600000]
        there.first["trade:0"] = trades(7, 5, 8, 2, first=True)
        await there.lines[0].close()
        await until(lambda: len(here.trades) == 5)
        assert here.feed.counts["trade gap"] == 0
        there.first["trade:0"] = trades(20, 21, first=True)
        await there.lines[1].close()
        await until(lambda: len(here.trades) == 7)
        assert here.feed.counts["trade gap"] == 1


@pytest.mark.asyncio
async def test_only_so_many_trades_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.lighter, "_REMEMBERED_TRADES", 10)
    async with quoting() as (there, here):
        await there.say(trades(*range(100, 150)))
        await until(lambda: len(here.trades) == 50)
        assert sorted(here.feed._seen) == list(range(140, 150))


@pytest.mark.asyncio
async def test_pongs_are_heartbeats_of_a_feed_that_quotes() -> None:
    async with venue() as there:
        there.answer = lambda m: [{"type": "pong"}] if m["type"] == "ping" else there.subscribed(m)
        here = Fed(there.url, ping_secs=0.02)
        async with running(here.feed):
            await until(lambda: here.feed.counts["pong"] > 3)
            assert "heartbeat" not in here.statuses
            await there.say(ticker(100))
            await until(lambda: "heartbeat" in here.statuses)
            before = here.feed.counts["pong"]
            await until(lambda: here.feed.counts["pong"] > before + 3)
        assert here.statuses.count("heartbeat") == 1


@pytest.mark.asyncio
async def test_a_market_that_is_silent_while_pongs_come_is_subscribed_anew() -> None:
    async with quoting(ping_secs=0.1, silence_secs=0.25) as (there, here):
        there.answer = lambda m: [{"type": "pong"}] if m["type"] == "ping" else there.subscribed(m)
        for n in range(8):
            await there.say(ticker(101 + n))
            await asyncio.sleep(0.05)
        assert len(there.asked()) == 4
        await until(lambda: len(there.asked()) == 8)
        await until(lambda: here.feed.book.nonce == 100)
        assert there.asked("unsubscribe") == there.asked()[:4]
        assert here.statuses[0] == "connect"
        assert "disconnect" not in here.statuses
        assert len(here.quotes) == 1


@pytest.mark.asyncio
async def test_a_feed_that_is_refused_says_what_the_venue_says() -> None:
    async with venue() as there:
        there.answer = lambda m: [{"type": "error", "code": 30005, "message": "Invalid Channel"}]
        here = Fed(there.url)
        async with running(here.feed):
            await until(lambda: here.out)
        assert here.out[0] == Status(
            0, 0, "target", "disconnect", "the venue says 30005 Invalid Channel"
        )


def test_an_empty_book_has_no_best() -> None:
    empty = LighterBook()
    assert empty.best_bid() is None
    assert empty.best_ask() is None


def test_decimals_that_1e9_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="price_decimals"):
        Fed("ws://x", price_decimals=10)
