"""The Lighter stand-in over its real sockets, with transactions made by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import polars as pl
import pytest
from msgspec.structs import replace

from sandbox.faults import Faults
from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_venue import LighterVenue
from sandbox.playback import Playback
from sinks.limits import Limits
from sinks.simulated import Latency
from streams.events import BUY, SELL
from streams.recording import (
    QUOTE_SCHEMA,
    TRADES_SCHEMA,
    Manifest,
    file_entry,
    write_manifest,
)

ACCOUNT, OTHER, KEY, MARKET = 1234, 77, 5, 110
PUBLIC = "ab" * 40
LOOSE = LighterLimits.of_tier("standard").without_rates()
AT_ONCE = Latency()
IOC, GTT, POST_ONLY = 0, 1, 2
SECOND = 1_000_000_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def token(account: int = ACCOUNT, key: int = KEY, ahead: int = 600) -> str:
    return f"{int(time.time()) + ahead}:{account}:{key}:{'0e' * 80}"


def signed(nonce: int, **fields: Any) -> dict[str, Any]:
    """What all transactions have; a field that is given twice is the given one."""
    common: dict[str, Any] = {
        "AccountIndex": ACCOUNT,
        "ApiKeyIndex": KEY,
        "ExpiredAt": now_ms() + 599_000,
        "Nonce": nonce,
        "Sig": base64.b64encode(bytes(80)).decode(),
        "L2TxAttributes": None,
    }
    return {**common, **fields}


def create(nonce: int, client: int = 7, **fields: Any) -> tuple[int, dict[str, Any]]:
    """A post-only buy of 0.100 at 200.000."""
    own = {
        "MarketIndex": MARKET, "ClientOrderIndex": client, "BaseAmount": 100, "Price": 200_000,
        "IsAsk": 0, "Type": 0, "TimeInForce": POST_ONLY, "ReduceOnly": 0, "TriggerPrice": 0,
        "OrderExpiry": now_ms() + 3_600_000,
    }  # fmt: skip
    return 14, signed(nonce, **{**own, **fields})


def take(nonce: int, client: int = 8, **fields: Any) -> tuple[int, dict[str, Any]]:
    own = {"TimeInForce": IOC, "OrderExpiry": 0, "Price": 300_000}
    return create(nonce, client, **{**own, **fields})


def cancel(nonce: int, index: int = 7, **fields: Any) -> tuple[int, dict[str, Any]]:
    return 15, signed(nonce, **{"MarketIndex": MARKET, "Index": index, **fields})


def cancel_all(
    nonce: int, tif: int = 0, at_ms: int = 0, **fields: Any
) -> tuple[int, dict[str, Any]]:
    return 16, signed(nonce, **{"TimeInForce": tif, "Time": at_ms, **fields})


def modify(nonce: int, index: int = 7, **fields: Any) -> tuple[int, dict[str, Any]]:
    own = {"MarketIndex": MARKET, "Index": index, "BaseAmount": 150, "Price": 200_500,
           "TriggerPrice": 0}  # fmt: skip
    return 17, signed(nonce, **{**own, **fields})


class Wire:
    """One WebSocket, and everything that came in on it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self.broken: list[str] = []
        self.closed: int | None = None
        self._read = 0
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self.socket:
            try:
                self.seen.append(json.loads(message.data))
            except ValueError:
                self.broken.append(message.data)
            self._news.set()
        self.closed = self.socket.close_code or 0
        self._news.set()

    async def until(self, what: Any, secs: float = 3.0) -> None:
        async with asyncio.timeout(secs):
            while not what():
                self._news.clear()
                await self._news.wait()

    async def next(self, kind: str = "", secs: float = 3.0) -> dict[str, Any]:
        """The next frame of a type; what comes before it is skipped."""
        async with asyncio.timeout(secs):
            while True:
                while self._read < len(self.seen):
                    frame = self.seen[self._read]
                    self._read += 1
                    if not kind or frame.get("type") == kind:
                        return frame
                self._news.clear()
                await self._news.wait()

    async def say(self, **frame: Any) -> None:
        await self.socket.send_str(json.dumps(frame))

    async def subscribe(self, channel: str, auth: str | None = None) -> dict[str, Any]:
        await self.say(type="subscribe", channel=channel, **({"auth": auth} if auth else {}))
        return await self.next(f"subscribed/{channel.split('/')[0]}")

    async def send(self, kind: int, info: dict[str, Any]) -> dict[str, Any]:
        """Send a transaction and wait for its own answer."""
        name = f"{kind}-{info['Nonce']}-{len(self.seen)}"
        await self.say(type="jsonapi/sendtx", data={"id": name, "tx_type": kind, "tx_info": info})
        await self.until(lambda: any(frame.get("id") == name for frame in self.seen))
        return next(frame for frame in self.seen if frame.get("id") == name)

    async def refused(self, tx: tuple[int, dict[str, Any]]) -> int:
        answer = await self.send(*tx)
        return int(answer["error"]["code"])

    async def order(self, status: str, client: int = 7) -> dict[str, Any]:
        """Wait for an order to be told with a status."""
        while True:
            frame = await self.next("update/account_all_orders")
            for row in frame["orders"][str(MARKET)]:
                if row["status"] == status and row["client_order_index"] == client:
                    return dict(row)

    async def stop(self) -> None:
        await self.socket.close()
        await self._task


class Client:
    """A client of the stand-in: REST and any number of WebSockets."""

    def __init__(self, venue: LighterVenue) -> None:
        self.venue = venue
        self.http = aiohttp.ClientSession()
        self._wires: list[Wire] = []

    async def wire(self, query: str = "") -> Wire:
        wire = Wire(await self.http.ws_connect(self.venue.ws_url + query, autoclose=True))
        self._wires.append(wire)
        assert (await wire.next())["type"] == "connected"
        return wire

    async def trader(self) -> Wire:
        """A wire that hears of its orders, trades, positions and transactions."""
        wire = await self.wire()
        for channel in ("orders", "trades", "positions"):
            await wire.subscribe(f"account_all_{channel}/{ACCOUNT}", token())
        await wire.subscribe(f"account_tx/{ACCOUNT}", token())
        return wire

    async def get(self, path: str, auth: str = "", **query: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": auth} if auth else {}
        url = f"{self.venue.rest_url}{path}"
        async with self.http.get(url, params=query, headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, name: str, **form: Any) -> tuple[int, dict[str, Any]]:
        url = f"{self.venue.rest_url}/api/v1/{name}"
        async with self.http.post(url, data=form) as answer:
            return answer.status, await answer.json()

    async def close(self) -> None:
        for wire in self._wires:
            await wire.stop()
        await self.http.close()


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[LighterVenue, Client]]:
    """A venue with a market of 200.500 to 201.000, and a client of it."""
    settings = {
        "accounts": {ACCOUNT: {KEY: PUBLIC, KEY + 1: PUBLIC}, OTHER: {KEY: PUBLIC}},
        "limits": LOOSE, "latency": AT_ONCE, "faults": Faults.none(), **settings,
    }  # fmt: skip
    async with LighterVenue(None, **settings) as venue:
        venue.push_quote("200.500", "201", "2", "3")
        client = Client(venue)
        try:
            yield venue, client
        finally:
            await client.close()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert left == []


pytestmark = pytest.mark.asyncio


# ---------------------------------------------------------------- orders


async def test_an_order_is_accepted_rests_fills_and_is_told_on_every_channel() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        await wire.subscribe(f"trade/{MARKET}")
        await wire.subscribe(f"user_stats/{ACCOUNT}")

        ack = await wire.send(*create(1))
        assert ack["type"] == "jsonapi/sendtx"
        assert ack["code"] == 200
        assert len(ack["tx_hash"]) == 80
        assert "volume_quota_remaining" not in ack  # Standard has no quota
        order = await wire.order("open")
        assert order["order_index"] == (MARKET + 1 << 48) + 2**48 - 1  # the first bid
        assert order["price"] == "200.000"
        assert order["initial_base_amount"] == order["remaining_base_amount"] == "0.100"
        assert [o["client_order_index"] for o in venue.open_orders(ACCOUNT)] == [7]

        venue.push_quote("199.500", "200", "2", "3")
        order = await wire.order("filled")
        assert order["filled_base_amount"] == "0.100"
        assert order["filled_quote_amount"] == "20.000000"
        private = (await wire.next("update/account_all_trades"))["trades"][str(MARKET)][0]
        position = (await wire.next("update/account_all_positions"))["positions"][str(MARKET)]
        assert (position["sign"], position["position"]) == (1, "0.100")
        assert position["avg_entry_price"] == "200.000"
        public = next(f for f in wire.seen if f.get("type") == "update/trade")["trades"][0]
        assert public == private
        assert private["bid_client_id"] == 7
        assert private["bid_account_id"] == ACCOUNT
        assert private["is_maker_ask"] is False
        assert "maker_fee" not in private  # zero at Standard
        assert venue.position(ACCOUNT) == 100_000_000
        assert venue.open_orders(ACCOUNT) == []


async def test_the_keys_of_orders_trades_and_positions_are_those_that_were_captured() -> None:
    order_keys = set(
        [
            "order_index",
            "client_order_index",
            "order_id",
            "client_order_id",
            "market_index",
            "owner_account_index",
            "initial_base_amount",
            "price",
            "nonce",
            "remaining_base_amount",
            "is_ask",
            "base_size",
            "base_price",
            "filled_base_amount",
            "filled_quote_amount",
            "side",
            "type",
            "time_in_force",
            "reduce_only",
            "trigger_price",
            "order_expiry",
            "status",
            "trigger_status",
            "trigger_time",
            "parent_order_index",
            "parent_order_id",
            "to_trigger_order_id_0",
            "to_trigger_order_id_1",
            "to_cancel_order_id_0",
            "integrator_fee_collector_index",
            "integrator_taker_fee",
            "integrator_maker_fee",
            "block_height",
            "timestamp",
            "created_at",
            "updated_at",
            "transaction_time",
        ]
    )
    trade_keys = set(
        [
            "trade_id",
            "trade_id_str",
            "tx_hash",
            "type",
            "market_id",
            "size",
            "price",
            "usd_amount",
            "ask_id",
            "ask_id_str",
            "bid_id",
            "bid_id_str",
            "ask_client_id",
            "ask_client_id_str",
            "bid_client_id",
            "bid_client_id_str",
            "ask_account_id",
            "bid_account_id",
            "is_maker_ask",
            "block_height",
            "timestamp",
            "transaction_time",
            "taker_position_size_before",
            "taker_entry_quote_before",
            "taker_initial_margin_fraction_before",
            "maker_position_size_before",
            "maker_entry_quote_before",
            "maker_initial_margin_fraction_before",
            "maker_fee",
        ]
    )
    position_keys = set(
        [
            "market_id",
            "symbol",
            "initial_margin_fraction",
            "open_order_count",
            "pending_order_count",
            "position_tied_order_count",
            "sign",
            "position",
            "avg_entry_price",
            "position_value",
            "unrealized_pnl",
            "realized_pnl",
            "liquidation_price",
            "total_funding_paid_out",
            "margin_mode",
            "allocated_margin",
            "total_discount",
        ]
    )
    async with opened(tier="premium") as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1))
        order = await wire.order("open")
        assert order_keys <= set(order)
        venue.push_quote("199", "200")
        trade = (await wire.next("update/account_all_trades"))["trades"][str(MARKET)][0]
        assert trade_keys == set(trade)
        assert trade["maker_fee"] == 40  # ppm of the value
        position = (await wire.next("update/account_all_positions"))["positions"][str(MARKET)]
        assert position_keys == set(position)


async def test_post_only_that_would_cross_is_accepted_and_then_cancelled() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        assert (await wire.send(*create(1, Price=201_000)))["code"] == 200  # locked is crossed
        order = await wire.order("canceled-post-only")
        assert order["filled_base_amount"] == order["remaining_base_amount"] == "0.000"
        assert venue.next_nonce(ACCOUNT, KEY) == 2
        tx = (await wire.next("update/account_tx"))["txs"][0]
        assert tx["status"] == 2
        assert json.loads(tx["event_info"])["to"]["st"] == 5


async def test_orders_that_take_fill_at_the_opposite_best_or_end_without() -> None:
    async with opened(tier="plus") as (venue, client):
        wire = await client.trader()
        await wire.send(*take(1, 1))
        await wire.order("filled", 1)
        await wire.send(*take(2, 2, Price=200_999))
        await wire.order("canceled-not-enough-liquidity", 2)
        await wire.send(*take(3, 3, Type=1, Price=200_999))
        await wire.order("canceled-too-much-slippage", 3)
        await wire.send(*create(4, 4, TimeInForce=GTT, Price=201_500))
        await wire.order("filled", 4)
        await wire.send(*create(5, 5, TimeInForce=GTT, Price=200_900))
        await wire.order("open", 5)
        fills = venue.fills(ACCOUNT)
        assert [fill["price"] for fill in fills] == ["201.000", "201.000"]
        assert all(fill["taker_fee"] == 50 and fill["is_maker_ask"] for fill in fills)
        # Good till time that does not cross rests until a modify makes it take.
        await wire.send(*modify(6, 5, Price=201_000, BaseAmount=200))
        order = await wire.order("filled", 5)
        assert order["filled_base_amount"] == "0.200"


async def test_reduce_only_orders_end_with_the_position() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        assert await wire.refused(create(1, ReduceOnly=1)) == 21738
        await wire.send(*take(1, 1))
        await wire.order("filled", 1)
        await wire.send(*create(2, 2, ReduceOnly=1, IsAsk=1, Price=202_000))
        await wire.order("open", 2)
        close = {"IsAsk": 1, "Price": 1_000, "ReduceOnly": 1, "BaseAmount": 0}
        await wire.send(*take(3, 3, **close))  # the whole position
        rows = (await wire.next("update/account_all_orders"))["orders"][str(MARKET)]
        assert {r["client_order_index"]: r["status"] for r in rows} == {
            3: "filled", 2: "canceled-reduce-only",
        }  # fmt: skip
        assert venue.position(ACCOUNT) == 0


async def test_a_modify_sets_the_total_loses_priority_and_counts_versions() -> None:
    async with opened(fill_model="queue") as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1, Price=200_500))
        opened_as = await wire.order("open")
        venue.push_trade("200.500", "2.040", SELL)  # 2 stood before us, 0.040 is ours
        assert (await wire.order("open"))["filled_base_amount"] == "0.040"
        await wire.send(*modify(2, Price=200_500, BaseAmount=150))
        order = await wire.order("open")
        assert order["order_index"] == opened_as["order_index"]
        assert order["order_version"] == 1
        assert (order["initial_base_amount"], order["remaining_base_amount"]) == ("0.150", "0.110")
        venue.push_trade("200.500", "2", SELL)  # again 2 stood before us
        assert venue.open_orders(ACCOUNT)[0]["filled_base_amount"] == "0.040"
        await wire.send(*modify(3, BaseAmount=120, Price=200_600, L2TxAttributes={"8": 9}))
        assert (await wire.order("open"))["order_version"] == 9
        await wire.send(*modify(4, BaseAmount=130, Price=200_600, L2TxAttributes={"8": 9}))
        assert (await wire.next("update/account_tx"))["txs"][0]["status"] == 2
        failed = [f["txs"][0] for f in wire.seen if f.get("type") == "update/account_tx"]
        await wire.until(lambda: sum(f.get("type") == "update/account_tx" for f in wire.seen) == 4)
        failed = [f["txs"][0] for f in wire.seen if f.get("type") == "update/account_tx"]
        assert failed[-1]["status"] == 0
        assert json.loads(failed[-1]["event_info"])["ae"].startswith("21715")


async def test_a_modify_across_the_spread_loses_the_order() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1))
        await wire.send(*modify(2, Price=201_000))
        await wire.order("canceled-post-only")
        assert venue.open_orders(ACCOUNT) == []


async def test_a_modify_below_what_has_filled_closes_the_order_as_filled() -> None:
    async with opened(fill_model="queue") as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1, Price=200_600, BaseAmount=500))
        venue.push_trade("200.600", "0.200", SELL)
        assert (await wire.order("open"))["filled_base_amount"] == "0.000"
        await wire.send(*modify(2, Price=200_600, BaseAmount=150))
        assert (await wire.order("filled"))["filled_base_amount"] == "0.200"
        assert venue.open_orders(ACCOUNT) == []


async def test_a_cancel_by_either_id_and_of_what_is_gone() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1))
        await wire.send(*cancel(2))
        assert (await wire.order("canceled"))["remaining_base_amount"] == "0.000"
        await wire.send(*create(3))  # a client index is free again once its order is gone
        index = (await wire.order("open"))["order_index"]
        await wire.send(*cancel(4, index))
        await wire.order("canceled")
        # Gone but known: accepted, and it fails in the engine. Never known: refused.
        assert (await wire.send(*cancel(5)))["code"] == 200
        await wire.until(
            lambda: any(
                f.get("type") == "update/account_tx" and f["txs"][0]["nonce"] == 5
                for f in wire.seen
            )
        )
        tx = next(
            f["txs"][0] for f in wire.seen
            if f.get("type") == "update/account_tx" and f["txs"][0]["nonce"] == 5
        )  # fmt: skip
        assert tx["status"] == 0
        assert json.loads(tx["event_info"])["ae"] == "21709 order is inactive"
        assert venue.next_nonce(ACCOUNT, KEY) == 6
        assert await wire.refused(cancel(6, 999)) == 21700
        assert venue.next_nonce(ACCOUNT, KEY) == 6


async def test_asks_count_up_and_bids_down_within_the_market() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        for n, side in enumerate((1, 0, 1, 0), start=1):
            await wire.send(*create(n, n, IsAsk=side, Price=202_000 if side else 200_000))
        base = (MARKET + 1) << 48
        assert [order["order_index"] - base for order in venue.open_orders(ACCOUNT)] == [
            1, 2**48 - 1, 2, 2**48 - 2,
        ]  # fmt: skip


async def test_cancel_all_takes_everything_away_and_disarms_the_switch() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        for n in (1, 2, 3):
            await wire.send(*create(n, n, Price=200_000 - n))
        await wire.send(*cancel_all(4, 1, now_ms() + 400_000))
        assert venue.cancel_all_time(ACCOUNT) > 0
        await wire.send(*cancel_all(5, L2TxAttributes={"5": MARKET}))
        assert venue.open_orders(ACCOUNT) == []
        assert venue.cancel_all_time(ACCOUNT) == 0
        assert await wire.refused(cancel_all(6, 3)) == 21713
        assert await wire.refused(cancel_all(6, 1, now_ms() + 200_000)) == 21714
        assert await wire.refused(cancel_all(6, 1, now_ms() + 16 * 86_400_000)) == 21714
        assert await wire.refused(cancel_all(6, L2TxAttributes={"5": 3})) == 21602


async def test_the_dead_mans_switch_fires_and_refuses_orders_meanwhile() -> None:
    ahead = 0
    async with opened(clock=lambda: time.time_ns() + ahead, cancel_all_lag_ms=300) as (
        venue,
        client,
    ):
        wire = await client.trader()
        await wire.send(*create(1))
        await wire.send(*cancel_all(2, 1, now_ms() + 301_000))
        due = venue.cancel_all_time(ACCOUNT)
        await wire.send(*cancel_all(3, 2))  # abort
        assert venue.cancel_all_time(ACCOUNT) == 0
        await wire.send(*cancel_all(4, 1, due))
        _, answer = await client.get("/api/v1/account", by="index", value=ACCOUNT)
        assert answer["accounts"][0]["cancel_all_time"] == due
        await asyncio.sleep(0.1)
        assert len(venue.open_orders(ACCOUNT)) == 1

        ahead = 301 * SECOND
        assert await wire.refused(create(5, 8)) == 21122
        assert await wire.refused(modify(5)) == 21122
        await wire.order("canceled")
        assert venue.cancel_all_time(ACCOUNT) == 0
        later = now_ms() + ahead // 1_000_000 + 600_000
        assert (await wire.send(*create(5, 8, OrderExpiry=later)))["code"] == 200


async def test_an_order_expires_by_itself() -> None:
    ahead = 0
    async with opened(clock=lambda: time.time_ns() + ahead) as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1, OrderExpiry=now_ms() + 310_000))
        await wire.order("open")
        ahead = 311 * SECOND
        await wire.order("canceled-expired")
        assert venue.open_orders(ACCOUNT) == []


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("tx", "code"),
    [
        ((9, {}), 21505),
        (create(1, Sig="AAAA"), 21120),
        (create(1, Price="200"), 21501),
        (create(1, L2TxAttributes=[1]), 21501),
        (create(1, ExpiredAt=1), 21501),
        (create(1, AccountIndex=99), 21100),
        (create(1, ApiKeyIndex=9), 21109),
        (create(0), 21104),
        (create(2), 21104),
        (create(1, MarketIndex=3), 21602),
        (create(1, ClientOrderIndex=2**48), 21727),
        (create(1, BaseAmount=0), 21701),
        (create(1, BaseAmount=2**48), 21701),
        (create(1, Price=0), 21702),
        (create(1, Price=2**32), 21702),
        (create(1, IsAsk=2), 21703),
        (create(1, Type=2), 21704),
        (create(1, TimeInForce=4), 21705),
        (create(1, Type=1), 21705),
        (create(1, BaseAmount=49), 21706),
        (create(1, BaseAmount=60, Price=150_000), 21706),
        (create(1, OrderExpiry=now_ms() + 60_000), 21711),
        (create(1, OrderExpiry=now_ms() + 31 * 86_400_000), 21711),
        (create(1, OrderExpiry=-1), 21711),
        (take(1, OrderExpiry=now_ms() + 600_000), 21711),
        (create(1, TriggerPrice=5), 21729),
        (create(1, ReduceOnly=2), 21740),
        (modify(1), 21700),
        (cancel_all(1, 0, 5), 21714),
    ],
)
async def test_what_the_api_refuses_has_its_code_and_uses_no_nonce(
    tx: tuple[int, dict[str, Any]], code: int
) -> None:
    async with opened() as (venue, client):
        status, answer = await client.post("sendTx", tx_type=tx[0], tx_info=json.dumps(tx[1]))
        assert (status, answer["code"]) == (400, code)
        assert answer["message"]
        assert venue.next_nonce(ACCOUNT, KEY) == 1


async def test_what_depends_on_what_was_sent_before_is_refused_with_its_code() -> None:
    limits = replace(LOOSE, account=Limits(orders_per_account=3, orders_per_market=2))
    async with opened(limits=limits) as (venue, client):
        wire = await client.wire()
        await wire.send(*create(1))
        assert await wire.refused(create(2)) == 21728
        assert await wire.refused(modify(2, BaseAmount=1)) == 21706
        assert await wire.refused(modify(2, BaseAmount=0)) == 21701
        await wire.send(*create(2, 2))
        assert await wire.refused(create(3, 3)) == 21718
        venue.set_active(False)
        assert await wire.refused(create(3, 3)) == 21605
        assert await wire.refused(modify(3)) == 21605
        assert (await wire.send(*cancel(3)))["code"] == 200


async def test_a_cancel_all_waits_for_the_one_before() -> None:
    slow = Latency(cancel_ns=SECOND // 5)
    async with opened(latency=slow) as (_, client):
        wire = await client.wire()
        await wire.send(*cancel_all(1))
        assert await wire.refused(cancel_all(2)) == 21712
        await asyncio.sleep(0.3)
        assert (await wire.send(*cancel_all(2)))["code"] == 200


async def test_nonces_are_kept_by_key_and_may_be_skipped_when_asked_for() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        await wire.send(*create(1, 1, ApiKeyIndex=KEY + 1))
        assert venue.next_nonce(ACCOUNT, KEY) == 1
        assert venue.next_nonce(ACCOUNT, KEY + 1) == 2
        await wire.send(*create(1_000, 2, L2TxAttributes={"4": 1}))
        assert await wire.refused(create(999, 3, L2TxAttributes={"4": 1})) == 21104
        _, answer = await client.get("/api/v1/nextNonce", account_index=ACCOUNT, api_key_index=KEY)
        assert answer == {"code": 200, "nonce": 1_001}


async def test_quota_is_spent_and_then_one_transaction_every_15_seconds_is_free() -> None:
    limits = replace(LOOSE, account=Limits(volume_quota=2))
    async with opened(limits=limits) as (venue, client):
        wire = await client.wire()
        assert (await wire.send(*create(1, 1)))["volume_quota_remaining"] == 1
        assert (await wire.send(*modify(2, 1, Price=200_100)))["volume_quota_remaining"] == 0
        free = await wire.send(*create(3, 2))
        assert free["volume_quota_remaining"] == 0
        assert "didn't use volume quota" in free["message"]
        assert await wire.refused(create(4, 3)) == 23000
        assert (await wire.send(*cancel(4, 2)))["code"] == 200  # cancels are free
        venue.push_quote("199", "200")  # $20.01 traded earns 6 units at $3
        assert venue.quota(ACCOUNT) == 10  # 0.150 × 200.1 = 30.015


async def test_transactions_and_requests_over_the_rate_are_refused() -> None:
    limits = LighterLimits.of_tier("standard")
    async with opened(limits=limits) as (venue, client):
        wire = await client.wire()
        for n in range(1, 31):
            assert (await wire.send(*create(n, n)))["code"] == 200
        for _ in range(30):
            status, _ = await client.get("/info")
            assert status == 200
        status, answer = await client.get("/info")  # transactions and requests share 60 a minute
        assert (status, answer["code"]) == (429, 23000)
        assert await wire.refused(cancel(31, 1)) == 23000
        assert venue.next_nonce(ACCOUNT, KEY) == 31


# ---------------------------------------------------------------- batches


async def test_a_batch_is_one_request_and_each_order_succeeds_or_fails_alone() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        txs = [create(1, 1), create(2, 1), cancel(3, 1), create(4, 2)]
        data = {
            "id": "b",
            "tx_types": json.dumps([kind for kind, _ in txs]),
            "tx_infos": json.dumps([json.dumps(info) for _, info in txs]),
        }
        await wire.say(type="jsonapi/sendtxbatch", data=data)
        ack = await wire.next("jsonapi/sendtxbatch")
        assert (ack["id"], ack["code"], len(ack["tx_hash"])) == ("b", 200, 4)
        await wire.order("open", 2)
        assert [o["client_order_index"] for o in venue.open_orders(ACCOUNT)] == [2]
        assert venue.next_nonce(ACCOUNT, KEY) == 5
        done = [f["txs"][0] for f in wire.seen if f.get("type") == "update/account_tx"]
        failed = next(tx for tx in done if tx["nonce"] == 2)
        assert failed["status"] == 0
        assert "21728" in json.loads(failed["event_info"])["ae"]


@pytest.mark.parametrize(
    ("txs", "code"),
    [
        ([create(1, 1), create(1, 2)], 21105),
        ([create(1, 1), create(3, 2)], 21104),
        ([create(1, 1), create(2, 2, ApiKeyIndex=KEY + 1)], 21121),
        ([create(n, n) for n in range(1, 17)], 21514),
        ([create(1, 1, Price=0), create(2, 2, Price=0)], 21702),
        ([], 20001),
    ],
)
async def test_a_batch_that_is_wrong_as_a_whole_is_refused(
    txs: list[tuple[int, dict[str, Any]]], code: int
) -> None:
    async with opened() as (venue, client):
        status, answer = await client.post(
            "sendTxBatch",
            tx_types=json.dumps([kind for kind, _ in txs]),
            tx_infos=json.dumps([json.dumps(info) for _, info in txs]),
        )
        assert (status, answer["code"]) == (400, code)
        assert venue.next_nonce(ACCOUNT, KEY) == 1
        status, answer = await client.post("sendTxBatch", tx_types="[14]", tx_infos="[]")
        assert answer["code"] == 21513


# ---------------------------------------------------------------- the market's channels


async def test_the_ticker_tells_every_nonce_and_the_book_tells_it_in_batches() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        first = await wire.subscribe(f"ticker/{MARKET}")
        assert first["channel"] == f"ticker:{MARKET}"
        assert first["ticker"]["b"] == {"price": "200.500", "size": "2.000"}
        book = await wire.subscribe(f"order_book/{MARKET}")
        assert book["order_book"]["begin_nonce"] == 0
        assert book["order_book"]["asks"] == [{"price": "201.000", "size": "3.000"}]
        nonce = book["order_book"]["nonce"]
        venue.push_quote("200.600", "201", "2", "3")
        venue.push_quote("200.600", None, "4", None)
        tickers = [await wire.next("update/ticker") for _ in range(2)]
        assert [t["nonce"] for t in tickers] == [nonce + 1, nonce + 2]
        assert tickers[1]["ticker"]["a"] == {"price": "", "size": ""}
        update = (await wire.next("update/order_book"))["order_book"]
        assert (update["begin_nonce"], update["nonce"]) == (nonce, nonce + 2)
        assert update["asks"] == [{"price": "201.000", "size": "0.000"}]
        assert update["bids"] == [
            {"price": "200.500", "size": "0.000"}, {"price": "200.600", "size": "4.000"},
        ]  # fmt: skip
        venue.push_trade("200.600", "1.5", BUY)
        update = (await wire.next("update/order_book"))["order_book"]
        assert update["begin_nonce"] == nonce + 2


async def test_a_public_trade_is_told_and_kept() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        assert (await wire.subscribe(f"trade/{MARKET}"))["trades"] == []
        venue.push_trade("200.750", "1.5", BUY)
        trade = (await wire.next("update/trade"))["trades"][0]
        assert (trade["price"], trade["size"], trade["usd_amount"]) == (
            "200.750", "1.500", "301.125000",
        )  # fmt: skip
        assert trade["is_maker_ask"] is True
        _, answer = await client.get("/api/v1/recentTrades", market_id=MARKET, limit=10)
        assert answer["trades"] == [trade]
        stats = (await wire.subscribe(f"market_stats/{MARKET}"))["market_stats"]
        assert (stats["last_trade_price"], stats["mark_price"]) == ("200.750", "200.750")
        everything = (await wire.subscribe("market_stats/all"))["market_stats"]
        assert everything == {str(MARKET): stats}


def record(folder: Path) -> Path:
    """Three quotes 100 ms apart and a trade between them."""
    at = [1_781_702_401_000_000_000 + n * 100_000_000 for n in range(3)]
    columns = [name for name in QUOTE_SCHEMA if name != "seq"]
    quotes = pl.DataFrame(
        [
            (ts, ts, 200 * SECOND + n * SECOND, 210 * SECOND, SECOND, SECOND, 0)
            for n, ts in enumerate(at)
        ],
        schema={name: QUOTE_SCHEMA[name] for name in columns},
        orient="row",
    )
    trades = pl.DataFrame(
        [(at[1] + 50_000_000, None, 201 * SECOND, 2 * SECOND, "SELL", "x")],
        schema={name: TRADES_SCHEMA[name] for name in TRADES_SCHEMA if name != "seq"},
        orient="row",
    )
    manifest = Manifest()
    for name, rows in (("target", quotes), ("trades", trades)):
        rows.write_parquet(folder / f"{name}.parquet")
        span = rows["ts"][0], rows["ts"][-1]
        manifest.files[name] = file_entry(folder / f"{name}.parquet", rows.height, span)
    write_manifest(folder, manifest)
    return folder


async def test_a_recording_is_the_market_and_its_playback_paces_it(tmp_path: Path) -> None:
    playback = Playback(1_781_702_401_000_000_000, speed=2.0)
    settings: dict[str, Any] = {"accounts": {ACCOUNT: {KEY: PUBLIC}}, "limits": LOOSE}
    async with LighterVenue(record(tmp_path), playback=playback, **settings) as venue:
        client = Client(venue)
        wire = await client.wire()
        first = await wire.subscribe(f"ticker/{MARKET}")
        assert first["ticker"]["b"] == {"price": "", "size": ""}  # it has not been started
        await wire.subscribe(f"trade/{MARKET}")
        start = playback.start()
        bids = [(await wire.next("update/ticker")) for _ in range(4)]
        # The trade moves the nonce, so the second quote is told once more.
        assert [told["ticker"]["b"]["price"] for told in bids] == [
            "200.000", "201.000", "201.000", "202.000",
        ]  # fmt: skip
        passed = [told["last_updated_at"] - start // 1_000 for told in bids]
        assert passed == pytest.approx([0, 50_000, 75_000, 100_000], abs=1)
        assert next(f for f in wire.seen if f["type"] == "update/trade")["trades"][0]["size"] == (
            "2.000"
        )
        await client.close()


async def test_a_recording_ends_after_so_many_seconds(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accounts": {ACCOUNT: {KEY: PUBLIC}}, "limits": LOOSE}
    async with LighterVenue(record(tmp_path), max_seconds=0.11, **settings) as venue:
        client = Client(venue)
        await asyncio.sleep(0.3)
        wire = await client.wire()
        first = await wire.subscribe(f"ticker/{MARKET}")
        assert first["ticker"]["b"]["price"] == "201.000"  # the last quote stays
        await client.close()


# ---------------------------------------------------------------- the WebSocket's manners


async def test_errors_of_the_websocket_have_their_codes() -> None:
    limits = replace(LOOSE, subscriptions=2)
    async with opened(limits=limits) as (_, client):
        wire = await client.wire()

        async def error(**frame: Any) -> tuple[int, str]:
            await wire.say(**frame)
            await wire.until(lambda: "error" in wire.seen[-1])
            told = wire.seen.pop()["error"]
            wire._read = min(wire._read, len(wire.seen))
            return told.get("code", 0), told["message"]

        await wire.socket.send_str("{")
        await wire.until(lambda: "error" in wire.seen[-1])
        assert wire.seen.pop()["error"]["code"] == 30000
        assert (await error(type="nonsense"))[0] == 30001
        assert (await error(type="subscribe", channel="ticker/3"))[0] == 30005
        assert (await error(type="subscribe", channel="order_book"))[0] == 30005
        assert (await error(type="unsubscribe", channel=f"ticker/{MARKET}"))[0] == 30002
        await wire.subscribe(f"ticker/{MARKET}")
        assert await error(type="subscribe", channel=f"ticker/{MARKET}") == (
            30003, f"Already Subscribed to : ticker:{MARKET}",
        )  # fmt: skip
        private = f"account_all_orders/{ACCOUNT}"
        assert await error(type="subscribe", channel=private) == (
            20001, f"invalid param : auth field is required: account_all_orders:{ACCOUNT}",
        )  # fmt: skip
        for bad, text in (
            (token(ahead=-1), "expired token"),
            (token(ahead=9 * 3600), "invalid deadline"),
            (token(account=OTHER), "account index mismatch"),
            (token(key=9), "api key not found"),
            ("rubbish", "invalid token"),
        ):
            told = await error(type="subscribe", channel=private, auth=bad)
            assert told == (0, f"invalid auth: {text}")
        await wire.subscribe(private, token())
        assert (await error(type="subscribe", channel="height"))[0] == 23001
        await wire.say(type="unsubscribe", channel=f"ticker/{MARKET}")
        assert (await wire.next("unsubscribed"))["channel"] == f"ticker:{MARKET}"


async def test_a_ping_is_answered_and_a_client_that_answers_none_is_left() -> None:
    limits = replace(LOOSE, ping_secs=0.1, pong_secs=0.1)
    async with opened(limits=limits) as (venue, client):
        wire = await client.wire()
        await wire.say(type="ping")
        await wire.next("pong")
        await wire.next("ping")
        await wire.say(type="pong")
        await wire.next("ping")
        await wire.until(lambda: wire.closed is not None)
        assert wire.closed == 1008
        await asyncio.sleep(0.02)
        assert venue.connections() == 0


async def test_a_silent_client_is_left() -> None:
    async with opened(limits=replace(LOOSE, idle_secs=0.1)) as (_, client):
        wire = await client.wire()
        await wire.until(lambda: wire.closed is not None)


async def test_too_many_messages_close_the_connection_but_transactions_do_not_count() -> None:
    limits = replace(LOOSE, messages_per_minute=3)
    async with opened(limits=limits) as (_, client):
        wire = await client.wire()
        for n in range(1, 6):
            await wire.send(*create(n, n))
        for _ in range(4):
            await wire.say(type="ping")
        await wire.until(lambda: wire.closed is not None)
        assert wire.closed == 1008
        assert wire.seen[-1]["error"]["code"] == 30009


async def test_a_client_that_never_reads_does_not_keep_the_venue_open() -> None:
    limits = replace(LOOSE, backlog=100)
    async with LighterVenue(accounts={ACCOUNT: {KEY: PUBLIC}}, limits=limits) as venue:
        host, port = venue.rest_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(
            b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        while not venue.connections():
            await asyncio.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 3.0
    writer.close()
    del reader


async def test_connections_are_limited_and_a_readonly_one_takes_no_transactions() -> None:
    async with opened(limits=replace(LOOSE, connections=1)) as (_, client):
        wire = await client.wire("?readonly=true")
        assert await wire.refused(create(1)) == 30006
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            await client.wire()


# ---------------------------------------------------------------- REST


async def test_private_requests_need_a_token_of_the_account() -> None:
    async with opened() as (_, client):
        wire = await client.wire()
        await wire.send(*create(1, 1))
        await wire.send(*create(2, 2, Price=201_500))
        path = "/api/v1/accountActiveOrders"
        status, answer = await client.get(path, account_index=ACCOUNT)
        assert (status, answer["code"]) == (400, 20001)
        status, answer = await client.get(path, token(OTHER), account_index=ACCOUNT)
        assert status == 400
        _, answer = await client.get(path, token(), account_index=ACCOUNT, market_id=MARKET)
        assert [order["client_order_index"] for order in answer["orders"]] == [1]
        _, answer = await client.get(
            "/api/v1/accountInactiveOrders", token(), account_index=ACCOUNT, limit=10
        )
        assert [order["status"] for order in answer["orders"]] == ["canceled-post-only"]
        status, answer = await client.get(
            "/api/v1/accountInactiveOrders", token(), account_index=ACCOUNT, limit=101
        )
        assert answer["code"] == 20001
        _, answer = await client.get("/api/v1/accountLimits", token(), account_index=ACCOUNT)
        assert (answer["user_tier_name"], answer["current_maker_fee_tick"]) == ("standard", 0)


async def test_public_requests_show_the_market_the_keys_and_transactions() -> None:
    async with opened() as (_, client):
        assert (await client.get("/"))[1]["status"] == 200
        assert "contract_address" in (await client.get("/info"))[1]
        book = (await client.get("/api/v1/orderBooks"))[1]["order_books"][0]
        assert (book["min_base_amount"], book["min_quote_amount"]) == ("0.050", "10.000000")
        detail = (await client.get("/api/v1/orderBookDetails", market_id=MARKET))[1]
        assert detail["order_book_details"][0]["price_decimals"] == 3
        wire = await client.wire()
        ack = await wire.send(*create(1))
        shown = (await client.get("/api/v1/orderBookOrders", market_id=MARKET, limit=9))[1]
        assert [order["price"] for order in shown["bids"]] == ["200.500", "200.000"]
        tx = (await client.get("/api/v1/tx", by="hash", value=ack["tx_hash"]))[1]
        assert (tx["type"], tx["status"], tx["nonce"]) == (14, 2, 1)
        assert (await client.get("/api/v1/tx", by="hash", value="00"))[1]["code"] == 21500
        keys = (await client.get("/api/v1/apikeys", account_index=ACCOUNT, api_key_index=KEY))[1]
        assert keys["api_keys"][0]["public_key"] == PUBLIC
        assert (await client.get("/api/v1/candlesticks"))[0] == 404
        assert (await client.get("/api/v1/account", by="index", value=5))[1]["code"] == 21100


async def test_accounts_do_not_hear_of_each_other_and_latency_is_the_tiers() -> None:
    async with opened(latency=None) as (venue, client):
        wire = await client.trader()
        started = time.monotonic()
        await wire.send(*create(1))
        await wire.send(*create(1, 9, AccountIndex=OTHER))
        assert time.monotonic() - started < 0.15  # the answer does not wait for the engine
        await wire.order("open")
        assert time.monotonic() - started > 0.19  # Standard
        await asyncio.sleep(0.05)
        orders = [f for f in wire.seen if f.get("type") == "update/account_all_orders"]
        assert len(orders) == 1
        assert len(venue.open_orders(OTHER)) == 1
