"""Orders on Lighter: against a small exchange that loses, delays, refuses and repeats on demand."""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

import sinks.lighter
from sinks.lighter import LighterError, LighterVenue, Start
from sinks.lighter_rest import LighterRest, MarketDetails
from sinks.lighter_signer import SCHEDULED, Signer
from sinks.orders import QUERIED, Orders
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.events import BUY, SELL, AccountEvent

ACCOUNT, KEY_INDEX, MARKET, TAG, RUN = 123, 5, 110, 7, 1_000
NOW_MS = 1_800_000_000_000
KEY = "0x" + "ca11ab1e" * 10
TICK = LOT = 1_000_000
PX = 207_100 * TICK
QTY = 50 * LOT
DETAIL: dict[str, Any] = {
    "symbol": "NVDA", "market_id": MARKET, "market_type": "perp", "status": "active",
    "min_base_amount": "0.050", "min_quote_amount": "10.000000", "size_decimals": 3,
    "price_decimals": 3, "last_trade_price": 207.1, "market_config": {"force_reduce_only": False},
}  # fmt: skip
NOT_LIVE = "not active"


def index(n: int, run: int = RUN, tag: int = TAG) -> int:
    return tag << 32 | (run + n) & (2**32 - 1)


def create(n: int, side: int = BUY, px: int | None = PX, qty: int = QTY) -> Create:
    return Create(n, side, px, qty, None)


def decimal(units: int) -> str:
    return f"{units // 1000}.{units % 1000:03d}"


class Listener(Protocol):
    def on_frame(self, frame: dict[str, Any]) -> None: ...


class Stand:
    """An exchange with one market: REST on 127.0.0.1, its socket is ``send`` and ``frame``."""

    def __init__(self) -> None:
        self.nonce = 40
        self.orders: dict[int, dict[str, Any]] = {}
        self.trades: list[dict[str, Any]] = []
        self.position = 0
        self.detail = dict(DETAIL)
        self.cancel_all_time = 0
        self.messages: list[Mapping[str, Any]] = []
        self.txs: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.time = 0
        self.faults: list[str] = []
        """What happens to the next messages: deaf, mute, quiet, or a code and text."""
        self.rest_faults: dict[str, list[web.Response]] = {}
        self.quiet = False
        """Nothing is told on the channels."""
        self.shape: Callable[[dict[str, Any]], dict[str, Any]] = lambda ack: ack
        self.venue: Listener | None = None
        self.quota = 1_000
        self.url = ""
        self.held: list[dict[str, Any]] = []
        self.hold = False

    # ------------------------------------------------------------ socket

    def frame(self, frame: dict[str, Any]) -> None:
        if self.hold:
            self.held.append(frame)
        elif self.venue is not None:
            self.venue.on_frame(json.loads(json.dumps(frame)))

    async def send(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "broken":
            raise ConnectionError("gone")
        if fault == "deaf":
            return
        data = message["data"]
        if message["type"] == "jsonapi/sendtx":
            txs = [(data["tx_type"], data["tx_info"])]
        else:
            infos = [json.loads(info) for info in json.loads(data["tx_infos"])]
            txs = list(zip(json.loads(data["tx_types"]), infos, strict=True))
        asyncio.get_running_loop().call_soon(self._take, message, txs, fault)

    def _take(self, message: Mapping[str, Any], txs: list[tuple[int, Any]], fault: str) -> None:
        ack: dict[str, Any] = {"type": message["type"], "id": message["data"]["id"]}
        if fault.isdigit():
            ack["error"] = {"code": int(fault), "message": "refused"}
        else:
            code, text = self.api(txs)
            if code == 200:
                ack |= {"code": 200, "tx_hash": ["aa"], "volume_quota_remaining": self.quota}
            else:
                ack |= {"code": code, "message": text}
        if fault not in ("mute", "broken after"):
            self.frame(self.shape(ack))

    # ------------------------------------------------------------ API and engine

    def api(self, txs: Sequence[tuple[int, Any]]) -> tuple[int, str]:
        for i, (_, info) in enumerate(txs):
            if info["Nonce"] != self.nonce + i:
                return 21104, "invalid nonce"
        self.nonce += len(txs)
        for tx_type, info in txs:
            assert info["AccountIndex"] == ACCOUNT
            assert info["ApiKeyIndex"] == KEY_INDEX
            self.txs.append({"type": tx_type, **info})
            self.quota -= tx_type != 15
            {14: self._create, 15: self._cancel, 16: self._cancel_all, 17: self._modify}[tx_type](
                info
            )
        return 200, ""

    def _create(self, info: dict[str, Any]) -> None:
        self.rest(
            info["ClientOrderIndex"], info["Price"], info["BaseAmount"], is_ask=bool(info["IsAsk"])
        )

    def rest(self, client: int, px: int, base: int, *, is_ask: bool = False) -> dict[str, Any]:
        order_index = (MARKET + 1) << 48 | len(self.orders) + 1
        order = {
            "order_index": order_index, "client_order_index": client, "market_index": MARKET,
            "owner_account_index": ACCOUNT, "price": decimal(px), "is_ask": is_ask,
            "initial_base_amount": decimal(base), "remaining_base_amount": decimal(base),
            "filled_base_amount": "0.000", "status": "open", "order_version": 0,
            "created_at": NOW_MS,
        }  # fmt: skip
        self.orders[order_index] = order
        self.publish(order)
        return order

    def find(self, number: int) -> dict[str, Any] | None:
        for order in reversed(self.orders.values()):
            if number in (order["order_index"], order["client_order_index"]):
                return order
        return None

    def _cancel(self, info: dict[str, Any]) -> None:
        order = self.find(info["Index"])
        if order is None or order["status"] != "open":
            self.fail(info, NOT_LIVE)
        else:
            self.end(order, "canceled")

    def _modify(self, info: dict[str, Any]) -> None:
        order = self.find(info["Index"])
        if order is None or order["status"] != "open":
            self.fail(info, NOT_LIVE)
            return
        filled = round(float(order["filled_base_amount"]) * 1000)
        order |= {
            "price": decimal(info["Price"]), "initial_base_amount": decimal(info["BaseAmount"]),
            "order_version": order["order_version"] + 1,
            "remaining_base_amount": decimal(max(info["BaseAmount"] - filled, 0)),
        }  # fmt: skip
        if info["BaseAmount"] <= filled:
            order["status"] = "filled"
        self.publish(order)

    def _cancel_all(self, info: dict[str, Any]) -> None:
        self.cancel_all_time = info["Time"] if info["TimeInForce"] == SCHEDULED else 0
        if info["TimeInForce"] == 0:
            for order in self.orders.values():
                if order["status"] == "open":
                    self.end(order, "canceled")

    def fail(self, info: dict[str, Any], text: str) -> None:
        event = json.dumps({"ae": json.dumps({"code": 21715, "message": text})})
        row = {
            "hash": "x", "status": 0, "nonce": info["Nonce"], "api_key_index": KEY_INDEX,
            "account_index": ACCOUNT, "event_info": event, "info": json.dumps(info),
        }  # fmt: skip
        self.tell({"type": "update/account_tx", "channel": "account_tx:123", "txs": [row]})

    def end(self, order: dict[str, Any], status: str) -> None:
        order["status"] = status
        self.publish(order)

    def fill(self, client: int, base: int, *, fee: int | None = 28, told: bool = True) -> None:
        order = self.find(client)
        assert order is not None
        filled = round(float(order["filled_base_amount"]) * 1000) + base
        total = round(float(order["initial_base_amount"]) * 1000)
        order |= {
            "filled_base_amount": decimal(filled), "remaining_base_amount": decimal(total - filled),
            "status": "filled" if filled == total else "open",
        }  # fmt: skip
        is_ask = order["is_ask"]
        mine, theirs = ("ask", "bid") if is_ask else ("bid", "ask")
        px = round(float(order["price"]) * 1000)
        trade = {
            "trade_id": 900 + len(self.trades), "market_id": MARKET, "size": decimal(base),
            "price": order["price"], "usd_amount": f"{px * base / 1e6:.6f}", "is_maker_ask": is_ask,
            f"{mine}_id": order["order_index"], f"{mine}_client_id": client,
            f"{mine}_account_id": ACCOUNT, f"{theirs}_id": 1, f"{theirs}_client_id": client,
            f"{theirs}_account_id": 999, "timestamp": NOW_MS + len(self.trades), "taker_fee": 196,
        }  # fmt: skip
        if fee is not None:
            trade["maker_fee"] = fee
        self.trades.append(trade)
        self.position += -base if is_ask else base
        if told:
            self.tell({
                "type": "update/account_all_trades", "channel": "account_all_trades:123",
                "trades": {str(MARKET): [trade]},
            })  # fmt: skip
        self.publish(order)
        self.tell(self.positions())

    def positions(self) -> dict[str, Any]:
        return {
            "type": "update/account_all_positions", "channel": "account_all_positions:123",
            "positions": {str(MARKET): self._position()},
        }  # fmt: skip

    def _position(self) -> dict[str, Any]:
        sign = -1 if self.position < 0 else 1
        return {"market_id": MARKET, "sign": sign, "position": decimal(abs(self.position))}

    def publish(self, order: dict[str, Any]) -> None:
        self.time += 1
        order |= {"updated_at": NOW_MS + self.time, "transaction_time": self.time}
        self.tell({
            "type": "update/account_all_orders", "channel": "account_all_orders:123",
            "orders": {str(MARKET): [dict(order)]},
        })  # fmt: skip

    def tell(self, frame: dict[str, Any]) -> None:
        if not self.quiet:
            self.frame(frame)

    # ------------------------------------------------------------ REST

    async def handle(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/api/v1/")
        self.asked[path] += 1
        if self.rest_faults.get(path):
            return self.rest_faults[path].pop(0)
        if path in ("sendTx", "sendTxBatch"):
            form = await request.post()
            if path == "sendTx":
                txs = [(int(str(form["tx_type"])), json.loads(str(form["tx_info"])))]
            else:
                infos = [json.loads(info) for info in json.loads(str(form["tx_infos"]))]
                txs = list(zip(json.loads(str(form["tx_types"])), infos, strict=True))
            code, text = self.api(txs)
            if code != 200:
                return web.json_response({"code": code, "message": text}, status=400)
            return web.json_response({"code": 200, "tx_hash": "aa"})
        live = [order for order in self.orders.values() if order["status"] == "open"]
        gone = [order for order in self.orders.values() if order["status"] != "open"]
        bodies: dict[str, Any] = {
            "nextNonce": {"nonce": self.nonce},
            "orderBookDetails": {"order_book_details": [self.detail]},
            "accountLimits": {
                "user_tier_name": "Premium", "current_maker_fee_tick": 28,
                "current_taker_fee_tick": 196,
            },
            "account": {"accounts": [{
                "account_index": ACCOUNT, "cancel_all_time": self.cancel_all_time,
                "positions": [self._position()],
            }]},
            "accountActiveOrders": {"orders": live},
            "accountInactiveOrders": {"orders": gone[::-1]},
            "trades": {"trades": self.trades[::-1]},
        }  # fmt: skip
        return web.json_response({"code": 200, **bodies[path]})


class Desk:
    """A venue wired to the stand, with the sink's book of orders behind it."""

    def __init__(self, stand: Stand, signer: Signer, rest: LighterRest, **more: Any) -> None:
        self.stand = stand
        self.said: list[AccountEvent] = []
        self.book = Orders()
        self.market_says: list[str] = []
        self.now_ns = NOW_MS * 1_000_000
        options: dict[str, Any] = {
            "tag": TAG, "run_id": RUN, "ack_timeout_secs": 0.15, "settle_secs": 0.05,
            "reconcile_secs": 60, "on_market": self.market_says.append,
        }  # fmt: skip
        self.venue = LighterVenue(
            signer=signer, rest=rest, send=stand.send, market=MarketDetails.read(DETAIL),
            answer=self._hear, now_ns=lambda: self.now_ns, **{**options, **more},
        )  # fmt: skip
        stand.venue = self.venue

    def _hear(self, event: AccountEvent) -> None:
        self.said.append(event)
        if event.n is not None:
            self.book.apply(event)

    def send(self, *commands: Command) -> None:
        for command in commands:
            if isinstance(command, Create):
                self.book.create(0, command.side, command.px, command.qty)
            elif isinstance(command, Modify):
                order = self.book.working[command.n]
                self.book.ask_modify(0, order, command.px, command.qty - order.filled)
            elif isinstance(command, Cancel) and command.n in self.book.working:
                self.book.ask_cancel(0, self.book.working[command.n])
            elif isinstance(command, Query) and command.n in self.book.working:
                self.book.ask_query(0, self.book.working[command.n])
        before = len(self.said)
        self.venue.submit(0, commands)
        assert len(self.said) == before, "answered from within submit"

    def heard(self, *kinds: str) -> list[tuple[str, int | None, str | None]]:
        return [
            (event.kind, event.n, event.reason)
            for event in self.said
            if event.kind not in ("connect", "disconnect", "position")
            and (not kinds or event.kind in kinds)
        ]

    async def until(self, done: Callable[[], object], secs: float = 3.0) -> None:
        for _ in range(int(secs / 0.005)):
            if done():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"not in time; heard {self.heard()}, counts {self.venue.counts}")

    async def until_heard(self, *kinds: str, count: int = 1) -> None:
        await self.until(lambda: len(self.heard(*kinds)) >= count)

    async def calm(self, secs: float = 0.03) -> None:
        await asyncio.sleep(secs)


Open = Callable[..., Any]


@pytest_asyncio.fixture
async def stand() -> AsyncIterator[Stand]:
    made = Stand()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.venue = None
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FILL_GRACE_SECS", "_RETRY_SECS", "_POSITION_GRACE_SECS"):
        monkeypatch.setattr(sinks.lighter, name, 0.05)


@asynccontextmanager
async def desk_at(
    stand: Stand, *, online: bool = True, starts: bool = True, **more: Any
) -> AsyncIterator[Desk]:
    signer = Signer(
        url=stand.url, account_index=ACCOUNT, api_key_index=KEY_INDEX, private_key=KEY,
        now_ns=lambda: NOW_MS * 1_000_000, chain_id=304,
    )  # fmt: skip
    rest = LighterRest(
        stand.url, account_index=ACCOUNT, api_key_index=KEY_INDEX, token=signer.token,
        timeout_secs=2,
    )  # fmt: skip
    desk = Desk(stand, signer, rest, **more)
    running: asyncio.Task[None] | None = None
    try:
        if starts:
            await desk.venue.start()
        running = asyncio.create_task(desk.venue.run())
        if online:
            desk.venue.on_connection("connect", "")
        yield desk
    finally:
        if running is not None:
            failed = running.done()
            running.cancel()
            results = await asyncio.gather(running, return_exceptions=True)
            assert not failed, results
        await rest.close()
        await signer.close()


# ---------------------------------------------------------------- the usual way


@pytest.mark.asyncio
async def test_an_order_lives_from_ack_to_fill(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        (tx,) = stand.txs
        assert (tx["ClientOrderIndex"], tx["Nonce"], tx["Price"], tx["BaseAmount"]) == (
            index(1), 40, 207_100, 50,
        )  # fmt: skip
        assert (tx["TimeInForce"], tx["IsAsk"]) == (2, 0)
        assert tx["OrderExpiry"] == NOW_MS + 28 * 86_400_000 - 600_000
        stand.fill(index(1), 20)
        stand.fill(index(1), 30, fee=None)
        await desk.calm()
        assert desk.heard() == [("ack", 1, None), ("fill", 1, None), ("fill", 1, None)]
        ack, first, second = (e for e in desk.said if e.n == 1)
        assert (ack.venue_id, ack.quota_left) == (str((MARKET + 1) << 48 | 1), None)
        assert (first.px, first.qty, first.liquidity, first.venue_id) == (
            PX, 20 * LOT, "MAKER", "900",
        )  # fmt: skip
        assert first.fee == -(-4_142_000_000 * 28 // 1_000_000)
        assert second.fee == 0
        assert desk.book.find(1).state == "filled"
        assert [e.qty for e in desk.said if e.kind == "position"] == [20 * LOT, 50 * LOT]
        assert desk.venue.quota_left == 999


@pytest.mark.asyncio
async def test_a_batch_goes_as_one_message_and_cancels_go_first(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        desk.send(create(2, SELL, PX + TICK), create(3), Cancel(1))
        await desk.until_heard("ack", count=3)
        assert [m["type"] for m in stand.messages] == ["jsonapi/sendtx", "jsonapi/sendtxbatch"]
        assert [tx["type"] for tx in stand.txs] == [14, 15, 14, 14]
        assert [tx["Nonce"] for tx in stand.txs] == [40, 41, 42, 43]
        assert ("cancel", 1, "requested") in desk.heard()
        assert desk.heard("ack")[1:] == [("ack", 2, None), ("ack", 3, None)]


@pytest.mark.asyncio
async def test_more_than_fifteen_go_in_several_messages(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(*(create(n) for n in range(1, 18)))
        await desk.until_heard("ack", count=17)
        sizes = [len(json.loads(m["data"].get("tx_types", "[0]"))) for m in stand.messages]
        assert sizes == [15, 2]


@pytest.mark.asyncio
async def test_modifies_are_told_when_the_order_moved(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.fill(index(1), 20)
        await desk.until_heard("fill")
        desk.send(Modify(1, PX - TICK, 70 * LOT))
        await desk.until_heard("modify")
        (moved,) = (e for e in desk.said if e.kind == "modify")
        assert (moved.px, moved.qty) == (PX - TICK, 70 * LOT)
        desk.send(Modify(1, PX - TICK, 70 * LOT))  # nothing but its version changes
        await desk.until_heard("modify", count=2)
        stand.fill(index(1), 30)
        desk.send(Modify(1, PX - TICK, 50 * LOT))
        await desk.until_heard("cancel")
        assert desk.heard("cancel") == [("cancel", 1, "modified to what has filled")]
        assert desk.book.find(1).leaves == 0


@pytest.mark.asyncio
async def test_ends_are_told_with_their_reasons(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        stand.quiet = True
        desk.send(create(1))
        await desk.until(lambda: stand.txs)
        stand.quiet = False
        order = stand.find(index(1))
        assert order is not None
        stand.end(order, "canceled-post-only")  # it never rested
        desk.send(create(2), create(3), create(4), create(5))
        await desk.until_heard("ack", count=4)
        for n, status in ((2, "canceled-expired"), (3, "canceled-margin-not-allowed"),
                          (4, "canceled"), (5, "canceled-post-only")):  # fmt: skip
            order = stand.find(index(n))
            assert order is not None
            stand.end(order, status)
        assert desk.heard("reject", "expire", "cancel") == [
            ("reject", 1, "canceled-post-only: post-only would cross"),
            ("expire", 2, "canceled-expired"),
            ("cancel", 3, "canceled-margin-not-allowed"),
            ("cancel", 4, "canceled"),
            ("cancel", 5, "canceled-post-only"),
        ]


@pytest.mark.asyncio
async def test_a_market_order_is_bounded_by_the_mark(stand: Stand) -> None:
    async with desk_at(stand, mark=lambda: 200_000 * TICK) as desk:
        desk.send(create(1, BUY, None), create(2, SELL, None))
        await desk.until(lambda: len(stand.txs) == 2)
        assert [(tx["Price"], tx["Type"], tx["OrderExpiry"]) for tx in stand.txs] == [
            (202_000, 1, 0), (198_000, 1, 0),
        ]  # fmt: skip
        order = stand.find(index(2))
        assert order is not None
        stand.end(order, "canceled-not-enough-liquidity")


# ---------------------------------------------------------------- refusals


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (create(1, px=PX + 1), "21702 price off the tick (not sent)"),
        (create(1, qty=QTY + 1), "21701 size off the lot (not sent)"),
        (create(1, qty=49 * LOT), "21706 below the minimum base amount (not sent)"),
        (create(1, px=199 * 10**9 // 1000 * 1000 // TICK * TICK), "21706 below the minimum quote "
         "amount (not sent)"),
        (create(1, px=2**32 * TICK), "21702 price 4294967296 ticks is not between 1 and 4294967295 "
         "(not sent)"),
        (Create(1, BUY, PX, QTY, (NOW_MS + 299_999) * 10**6),
         "21711 expiry in 299999 ms is not within 5 minutes and 30 days (not sent)"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_here(stand: Stand, command: Create, reason: str) -> None:
    async with desk_at(stand) as desk:
        desk.send(command)
        await desk.until_heard("reject")
        assert desk.heard() == [("reject", 1, reason)]
        assert not stand.messages


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "shape",
    [
        lambda ack: ack,
        lambda ack: {"type": ack["type"], "data": {k: v for k, v in ack.items() if k != "type"}},
        lambda ack: {k: v for k, v in ack.items() if k != "type"},
        lambda ack: {k: v for k, v in ack.items() if k != "id"},
        lambda ack: {k: v for k, v in ack.items() if k not in ("id", "type", "tx_hash")},
    ],
)
async def test_every_shape_of_answer_is_understood(
    stand: Stand, shape: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    def shaped(ack: dict[str, Any]) -> dict[str, Any]:
        hashes = [one for flight in desk.venue._in_flight.values() for one in flight.hashes]
        made = shape({**ack, "tx_hash": hashes} if ack.get("tx_hash") else ack)
        if "code" in made and made["code"] == 200 and "type" not in made and "id" not in made:
            made["tx_hash"] = hashes
        return made

    async with desk_at(stand) as desk:
        stand.shape = shaped
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.faults = ["21739"]
        desk.send(create(2))
        await desk.until_heard("reject")
        desk.send(create(3))
        await desk.until_heard("ack", count=2)
        assert desk.heard("reject") == [("reject", 2, "21739 refused")]
        assert desk.venue.counts["answers lost"] == 0
        assert [tx["Nonce"] for tx in stand.txs] == [40, 41]
        # At start, and on connect: the nonce of what was refused is used again.
        assert desk.venue.counts["nonce asked for"] == 2


@pytest.mark.asyncio
async def test_refused_cancels_and_modifies_are_told_and_looked_into(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.faults = ["21733"]
        desk.send(Modify(1, PX - TICK, QTY))
        await desk.until_heard("modify_reject")
        stand.faults = ["21715"]
        stand.quiet = True
        order = stand.find(index(1))
        assert order is not None
        stand.end(order, "canceled-self-trade")
        desk.send(Cancel(1))
        await desk.until_heard("cancel")
        assert desk.heard()[1:] == [
            ("modify_reject", 1, "21733 refused"),
            ("cancel_reject", 1, "21715 refused"),
            ("cancel", 1, "canceled-self-trade"),
        ]


@pytest.mark.asyncio
async def test_what_fails_at_the_sequencer_is_told_with_its_text(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        stand.quiet = True
        desk.send(create(1))
        await desk.until(lambda: stand.txs)
        await desk.calm()
        stand.quiet = False
        stand.fail(stand.txs[0], "reduce only")
        assert desk.heard() == [("reject", 1, "21715 reduce only")]
        desk.send(create(2))
        await desk.until_heard("ack")
        stand.quiet = True
        stand.fill(index(2), 50)
        stand.quiet = False
        stand.hold = True
        desk.send(Modify(2, PX, 60 * LOT))
        await desk.until(lambda: len(stand.held) == 2)
        stand.hold = False
        for frame in reversed(stand.held):  # the answer of the API comes first
            stand.frame(frame)
        assert desk.heard("modify_reject") == [("modify_reject", 2, "21715 not active")]


@pytest.mark.asyncio
async def test_over_the_limits_creates_pause_and_cancels_are_tried_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks.lighter, "_LONGEST_RETRY_SECS", 0.05)
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.faults = ["23000"]
        desk.send(create(2))
        await desk.until_heard("reject")
        desk.send(create(3))
        await desk.until_heard("reject", count=2)
        stand.faults = ["429", "23000"]
        desk.send(Cancel(1))
        await desk.until_heard("cancel")
        assert desk.heard("reject") == [
            ("reject", 2, "23000 refused"),
            ("reject", 3, "23000 too many requests: 60 s of the pause left (not sent)"),
        ]
        assert desk.heard("cancel", "cancel_reject") == [("cancel", 1, "requested")]
        assert desk.venue.counts["cancel sent again"] == 2


# ---------------------------------------------------------------- doubt


@pytest.mark.asyncio
async def test_a_create_whose_answer_was_lost_is_found_and_not_sent_again(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        stand.faults = ["mute"]
        stand.quiet = True
        desk.send(create(1))
        await desk.until_heard("ack")
        assert len(stand.txs) == 1
        assert desk.venue.counts["answers lost"] == 1
        stand.quiet = False
        desk.send(create(2))
        await desk.until_heard("ack", count=2)
        assert [tx["Nonce"] for tx in stand.txs] == [40, 41]


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["deaf", "broken"])
async def test_a_create_that_never_arrived_is_rejected(stand: Stand, fault: str) -> None:
    async with desk_at(stand) as desk:
        stand.faults = [fault]
        desk.send(create(1))
        await desk.until_heard("reject")
        assert desk.heard() == [("reject", 1, "not accepted: no answer, nonce unused")]
        desk.send(create(2))
        await desk.until_heard("ack")
        # A cancel has used the nonce up: the create cannot arrive late.
        assert [(tx["type"], tx["Nonce"]) for tx in stand.txs] == [(15, 40), (14, 41)]


@pytest.mark.asyncio
async def test_a_create_given_up_that_shows_after_all_is_cancelled(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        stand.faults = ["deaf"]
        desk.send(create(1))
        await desk.until_heard("reject")
        await desk.until(lambda: stand.txs)
        order = stand.rest(index(1), 207_100, 50)
        await desk.until(lambda: order["status"] == "canceled")
        assert desk.venue.counts["given up and yet there"] == 1


@pytest.mark.asyncio
async def test_a_lost_cancel_is_sent_again(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.faults = ["deaf"]
        desk.send(Cancel(1))
        await desk.until_heard("cancel")
        assert desk.venue.counts["cancel sent again"] == 1


@pytest.mark.asyncio
async def test_a_foreign_nonce_is_asked_for_and_the_create_rejected(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        await desk.calm()
        stand.nonce += 3  # somebody else used the key
        desk.send(create(1))
        await desk.until_heard("reject")
        assert desk.heard() == [("reject", 1, "21104 invalid nonce")]
        stand.nonce += 1
        desk.send(create(2))
        await desk.until_heard("reject", count=2)
        desk.send(create(3))
        await desk.until_heard("ack")


@pytest.mark.asyncio
async def test_of_a_refused_batch_the_nonce_tells_what_was_taken(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        await desk.calm()
        taken = stand.api

        def half(txs: Sequence[tuple[int, Any]]) -> tuple[int, str]:
            stand.api = taken  # type: ignore[method-assign]
            taken(txs[:1])
            return 21706, "too small"

        stand.api = half  # type: ignore[method-assign]
        desk.send(create(1), create(2))
        await desk.until_heard("reject")
        assert desk.heard() == [("ack", 1, None), ("reject", 2, "21706 too small")]


@pytest.mark.asyncio
async def test_a_disconnect_puts_in_doubt_what_was_in_flight(stand: Stand) -> None:
    async with desk_at(stand, ack_timeout_secs=5) as desk:
        desk.send(create(1), create(2))
        await desk.until_heard("ack", count=2)
        stand.faults = ["mute", "deaf"]
        stand.quiet = True
        desk.send(Cancel(1))
        await desk.calm()
        desk.send(create(3))
        await desk.calm()
        desk.venue.on_connection("disconnect", "reset")
        desk.send(create(4), Modify(2, PX - TICK, QTY))
        stand.fill(index(2), 50)
        await desk.calm(0.1)
        desk.venue.on_connection("connect", "")
        desk.send(Query(2), Query(1))
        await desk.until(lambda: not desk.book.working)
        assert [desk.book.find(n).state for n in (1, 2, 3, 4)] == [
            "cancelled", "filled", "rejected", "rejected",
        ]  # fmt: skip
        kinds = [e.kind for e in desk.said]
        assert kinds.index("disconnect") < kinds.index("fill")
        assert kinds.count("connect") == 2
        assert ("reject", 4, "not connected (not sent)") in desk.heard()
        assert ("modify_reject", 2, "not connected (not sent)") in desk.heard()
        assert desk.book.position == 50 * LOT


@pytest.mark.asyncio
async def test_cancels_wait_for_the_connection_and_unsent_creates_do_not(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        desk.send(create(2))  # the loop has not run: it is not sent yet
        desk.venue.on_connection("disconnect", "")
        desk.send(Cancel(1))
        await desk.calm()
        assert desk.heard("reject") == [("reject", 2, "not connected (not sent)")]
        desk.venue.on_connection("connect", "")
        await desk.until_heard("cancel")


@pytest.mark.asyncio
async def test_a_cancel_of_what_was_not_sent_ends_it_here(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1), Cancel(1))
        await desk.until_heard("cancel")
        assert desk.heard() == [("cancel", 1, "requested")]
        assert not stand.txs


# ---------------------------------------------------------------- fills


@pytest.mark.asyncio
async def test_a_fill_that_no_trade_told_is_fetched_before_the_end_is_told(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1), create(2))
        await desk.until_heard("ack", count=2)
        stand.fill(index(1), 20, told=False)
        order = stand.find(index(1))
        assert order is not None
        stand.end(order, "canceled")
        assert desk.heard("fill", "cancel") == []
        await desk.until_heard("cancel")
        assert desk.heard("fill", "cancel") == [("fill", 1, None), ("cancel", 1, "canceled")]
        snapshot = {"type": "subscribed/account_all_trades", "trades": list(stand.trades)}
        stand.frame(snapshot)
        assert len(desk.heard("fill")) == 1
        assert desk.book.position == 20 * LOT


@pytest.mark.asyncio
async def test_trades_of_others_are_not_ours(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        mine = {
            "trade_id": 1, "market_id": MARKET, "size": "0.010", "price": "207.100",
            "usd_amount": "2.071", "is_maker_ask": True, "ask_id": 3, "bid_id": 4,
            "ask_client_id": 0, "bid_client_id": index(1), "ask_account_id": 5,
            "bid_account_id": ACCOUNT, "timestamp": NOW_MS,
        }  # fmt: skip
        for change in (
            {"market_id": 111}, {"bid_account_id": 6}, {"bid_client_id": index(1, tag=8)},
            {"bid_client_id": index(99)},
        ):  # fmt: skip
            stand.frame({"type": "update/account_all_trades", "trades": {"110": [mine | change]}})
        assert desk.heard("fill") == []
        stand.frame({"type": "update/account_all_trades", "trades": {"110": [mine]}})
        (fill,) = (e for e in desk.said if e.kind == "fill")
        assert fill.liquidity == "TAKER"


@pytest.mark.asyncio
async def test_a_trade_between_two_orders_of_ours_is_a_fill_of_each(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1, BUY), create(2, SELL))
        await desk.until_heard("ack", count=2)
        trade = {
            "trade_id": 1, "market_id": MARKET, "size": "0.010", "price": "207.100",
            "usd_amount": "2.071", "is_maker_ask": True, "ask_id": 3, "bid_id": 4,
            "ask_client_id": index(2), "bid_client_id": index(1), "ask_account_id": ACCOUNT,
            "bid_account_id": ACCOUNT, "timestamp": NOW_MS,
        }  # fmt: skip
        for _ in range(2):
            stand.frame({"type": "update/account_all_trades", "trades": [trade]})
        assert sorted(desk.heard("fill")) == [("fill", 1, None), ("fill", 2, None)]
        assert [e.liquidity for e in desk.said if e.kind == "fill"] == ["MAKER", "TAKER"]


@pytest.mark.asyncio
async def test_positions_are_told_when_they_change_and_a_missing_one_is_confirmed(
    stand: Stand,
) -> None:
    async with desk_at(stand) as desk:
        await desk.calm(0.1)

        def told() -> list[int | None]:
            return [e.qty for e in desk.said if e.kind == "position"]

        stand.position = -30
        stand.frame(stand.positions())
        assert told() == []  # a fill may be on its way
        await desk.until(told)
        stand.frame(stand.positions())
        stand.frame({"type": "update/account_all_positions", "positions": {}})
        await desk.calm(0.1)
        assert told() == [-30 * LOT]
        stand.position = 0
        stand.frame({"type": "update/account_all_positions", "positions": {}})
        await desk.until(lambda: len(told()) == 2)
        assert told() == [-30 * LOT, 0]


# ---------------------------------------------------------------- queries


@pytest.mark.asyncio
async def test_queries_are_answered_as_the_contract_says(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1), create(2), create(3), create(4))
        await desk.until_heard("ack", count=4)
        stand.fill(index(2), 50)
        order = stand.find(index(3))
        assert order is not None
        stand.end(order, "canceled-expired")
        stand.quiet = True
        stand.fill(index(1), 20)
        stand.fill(index(4), 50)
        desk.said.clear()
        desk.send(*(Query(n) for n in (1, 2, 3, 4, 9)))
        await desk.until(lambda: len(desk.said) >= 9)
        answers = {
            n: [(e.kind, e.reason, e.qty) for e in desk.said if e.n == n] for n in (1, 2, 3, 4, 9)
        }
        assert answers == {
            1: [("fill", None, 20 * LOT), ("fill", QUERIED, 20 * LOT), ("ack", QUERIED, QTY)],
            2: [("fill", QUERIED, QTY), ("cancel", QUERIED, None)],
            3: [("expire", QUERIED, None)],
            4: [("fill", None, QTY), ("fill", QUERIED, QTY), ("cancel", QUERIED, None)],
            9: [("reject", "21700 unknown order", None)],
        }
        assert stand.asked["accountActiveOrders"] <= 5
        assert desk.book.position == 120 * LOT


@pytest.mark.asyncio
async def test_an_order_that_the_venue_dropped_in_silence_is_rejected(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        stand._create = lambda info: None  # type: ignore[method-assign]
        desk.send(create(1))
        await desk.until(lambda: desk.venue.quota_left)
        desk.send(Query(1))
        await desk.until_heard("reject")
        assert desk.heard() == [("reject", 1, "21700 no such order at the venue")]


@pytest.mark.asyncio
async def test_a_query_is_repeated_until_the_venue_answers(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        await desk.calm(0.1)
        stand.rest_faults["accountActiveOrders"] = [web.Response(status=500)]
        desk.send(Query(1), Query(1))
        await desk.until_heard("ack", count=3)
        assert desk.heard("ack")[1:] == [("ack", 1, QUERIED)] * 2


@pytest.mark.asyncio
async def test_over_the_limits_of_rest_creates_pause_as_well(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        await desk.calm(0.1)
        page = web.Response(text="<html>", status=405, content_type="text/html")
        stand.rest_faults["accountActiveOrders"] = [page]
        desk.send(Query(1))
        await desk.until(lambda: desk.venue.counts["looks failed"])
        desk.send(create(2), Cancel(1))
        await desk.until_heard("cancel")
        assert [str(reason)[:5] for _, _, reason in desk.heard("reject")] == ["23000"]


@pytest.mark.asyncio
async def test_the_nonce_is_asked_for_until_the_venue_tells(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        await desk.calm(0.1)
        stand.rest_faults["nextNonce"] = [web.Response(status=502) for _ in range(2)]
        stand.faults = ["mute"]
        stand.quiet = True
        desk.send(create(1))
        await desk.until_heard("ack")
        assert desk.venue.counts["nonce not told"] == 2


@pytest.mark.asyncio
async def test_an_order_that_rested_and_left_no_trace_is_told_as_cancelled(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.orders.clear()
        desk.send(Query(1))
        await desk.until_heard("cancel")
        assert desk.heard("cancel") == [
            ("cancel", 1, "not among the venue's orders any more"),
        ]
        await desk.until(lambda: [tx for tx in stand.txs if tx["type"] == 15])


# ---------------------------------------------------------------- start, reconcile, stop


@pytest.mark.asyncio
async def test_start_finds_position_and_cancels_what_an_earlier_run_left(stand: Stand) -> None:
    stand.position = -70
    left = stand.rest(index(5, run=500), 207_000, 60)
    other = stand.rest(index(5, tag=9), 207_000, 60)
    manual = stand.rest(0, 207_000, 60)
    async with desk_at(stand, starts=False, online=False) as desk:
        found = await desk.venue.start()
        assert isinstance(found, Start)
        assert (found.position, found.others, found.nonce) == (-70 * LOT, 2, 40)
        assert (found.limits.maker_fee_ppm, found.limits.taker_fee_ppm) == (28, 196)
        (unknown,) = found.unknown
        assert (unknown.client_index, unknown.side, unknown.leaves) == (
            index(5, run=500), BUY, 60 * LOT,
        )  # fmt: skip
        assert left["status"] == "canceled"
        assert {other["status"], manual["status"]} == {"open"}


@pytest.mark.asyncio
async def test_start_can_refuse_or_leave_unknown_orders(stand: Stand) -> None:
    order = stand.rest(index(5, run=500), 207_000, 60)
    async with desk_at(stand, starts=False, online=False, unknown_orders="refuse") as desk:
        with pytest.raises(LighterError, match=rf"tag 7.*: {order['order_index']}\."):
            await desk.venue.start()
    async with desk_at(stand, starts=False, online=False, unknown_orders="ignore") as desk:
        assert len((await desk.venue.start()).unknown) == 1
    assert order["status"] == "open"


@pytest.mark.asyncio
async def test_numbers_go_past_those_of_earlier_runs(stand: Stand) -> None:
    order = stand.rest(index(30), 207_000, 60)
    stand.end(order, "canceled")
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        assert stand.txs[-1]["ClientOrderIndex"] == index(31)


@pytest.mark.asyncio
async def test_start_refuses_a_market_that_is_not_what_was_set(stand: Stand) -> None:
    stand.detail["price_decimals"] = 2
    async with desk_at(stand, starts=False, online=False) as desk:
        with pytest.raises(LighterError, match="price_decimals of market 110 is 2"):
            await desk.venue.start()


@pytest.mark.asyncio
async def test_reconciling_finds_what_no_channel_told(stand: Stand) -> None:
    async with desk_at(stand, reconcile_secs=0.1) as desk:
        desk.send(create(1), create(2))
        await desk.until_heard("ack", count=2)
        stand.quiet = True
        order = stand.find(index(1))
        assert order is not None
        stand.end(order, "canceled")
        stand.fill(index(2), 50)
        stray = stand.rest(index(77), 207_000, 60)
        other = stand.rest(index(77, tag=8), 207_000, 60)
        stand.nonce += 2
        await desk.until(lambda: not desk.book.working)
        assert desk.heard("cancel", "fill") == [("cancel", 1, "canceled"), ("fill", 2, None)] or (
            desk.heard("cancel", "fill") == [("fill", 2, None), ("cancel", 1, "canceled")]
        )
        await desk.until(lambda: stray["status"] == "canceled")
        assert other["status"] == "open"
        assert [e.qty for e in desk.said if e.kind == "position"] == [50 * LOT]


@pytest.mark.asyncio
async def test_stop_takes_only_our_orders_and_disarms_the_switch(stand: Stand) -> None:
    other = stand.rest(index(5, tag=9), 207_000, 60)
    async with desk_at(stand, dead_man_secs=300) as desk:
        desk.send(create(1), create(2))
        await desk.until_heard("ack", count=2)
        await desk.until(lambda: stand.cancel_all_time)
        await desk.venue.stop(2)
        assert sorted(desk.heard("cancel")) == [
            ("cancel", 1, "requested"), ("cancel", 2, "requested"),
        ]  # fmt: skip
        assert other["status"] == "open"
        assert stand.cancel_all_time == 0
        assert desk.venue.dead_man_ms is None
        desk.send(create(3))
        await desk.until_heard("reject")
        assert desk.heard("reject") == [("reject", 3, "stopping (not sent)")]


@pytest.mark.asyncio
async def test_stop_without_a_socket_cancels_by_rest(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        stand.quiet = True
        desk.venue.on_connection("disconnect", "")
        await desk.venue.stop(2)
        assert desk.heard("cancel") == [("cancel", 1, "requested")]
        assert desk.venue.counts["left working"] == 0


@pytest.mark.asyncio
async def test_stop_works_without_run(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        venue = desk.venue
    async with desk_at(stand, starts=False, online=False) as other:
        # Its tasks have been cancelled; a fresh signer and session stand in for the closed ones.
        venue._signer, venue._rest = other.venue._signer, other.venue._rest
        venue._lane = other.venue._lane
        await venue._signer.open()
        stand.venue = venue
        await venue.stop(2)
        assert desk.heard("cancel") == [("cancel", 1, "requested")]


@pytest.mark.asyncio
async def test_two_venues_take_turns_on_one_key(stand: Stand) -> None:
    async with desk_at(stand) as desk:
        signer, rest = desk.venue._signer, desk.venue._rest
        other = Desk(stand, signer, rest, tag=8)
        both = (desk.venue, other.venue)

        class Socket:
            def on_frame(self, frame: dict[str, Any]) -> None:
                for venue in both:
                    venue.on_frame(frame)

        stand.venue = Socket()
        await other.venue.start()
        running = asyncio.create_task(other.venue.run())
        other.venue.on_connection("connect", "")
        stand.faults = ["", "mute", "21739", "", "deaf"]
        for n in range(1, 9):
            desk.send(create(n))
            other.send(create(n, SELL))
            await desk.calm(0.002)
        for one in (desk, other):
            await one.until_heard("ack", "reject", count=8)
        owners = Counter(order["client_order_index"] >> 32 for order in stand.orders.values())
        assert owners == {7: len(desk.book.working), 8: len(other.book.working)}
        await other.venue.stop(2)
        left = Counter(
            order["client_order_index"] >> 32
            for order in stand.orders.values()
            if order["status"] == "open"
        )
        assert left == {7: len(desk.book.working)}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.asyncio
async def test_stop_says_what_is_left_and_keeps_the_switch_armed(stand: Stand) -> None:
    async with desk_at(stand, dead_man_secs=300) as desk:
        desk.send(create(1))
        await desk.until_heard("ack")
        await desk.until(lambda: stand.cancel_all_time)
        stand._cancel = lambda info: None  # type: ignore[method-assign]
        await desk.venue.stop(0.4)
        assert desk.venue.counts["left working"] == 1
        assert stand.cancel_all_time


# ---------------------------------------------------------------- switch and market


@pytest.mark.asyncio
async def test_the_switch_is_armed_renewed_and_armed_again(stand: Stand) -> None:
    async with desk_at(stand, dead_man_secs=300) as desk:
        await desk.until(lambda: stand.cancel_all_time)
        assert stand.cancel_all_time == NOW_MS + 305_000
        await desk.until(lambda: desk.venue.dead_man_ms)
        desk.now_ns += 106 * 10**9
        desk.venue._rearm.set()
        await desk.until(lambda: stand.cancel_all_time == NOW_MS + 106_000 + 305_000)
        await desk.until(lambda: desk.venue.counts["quota spent on cancel-alls"] == 2)
        info = json.dumps({"TimeInForce": 0, "Time": 0})
        row = {"type": 16, "nonce": 5, "api_key_index": 9, "status": 2, "info": info}
        stand.cancel_all_time = 0
        stand.frame({"type": "update/account_tx", "txs": [row]})
        await desk.until(lambda: stand.cancel_all_time)
        desk.send(create(1))
        await desk.until_heard("ack")
        desk.venue.cancel_all()
        await desk.until_heard("cancel")
        await desk.until(lambda: stand.cancel_all_time)


def test_a_switch_below_the_venues_least_is_refused() -> None:
    async def wire(**more: Any) -> None:
        async def token() -> str:
            return ""

        async def send(message: object) -> None: ...

        LighterVenue(
            signer=Signer(url="", account_index=1, api_key_index=5, private_key="",
                          now_ns=lambda: 0),
            rest=LighterRest("", account_index=1, api_key_index=5, token=token), send=send,
            market=MarketDetails.read(DETAIL), answer=lambda event: None, now_ns=lambda: 0, **more,
        )  # fmt: skip

    with pytest.raises(ValueError, match="at least 300"):
        asyncio.run(wire(tag=1, dead_man_secs=299))
    with pytest.raises(ValueError, match="between 1 and 65535"):
        asyncio.run(wire(tag=0))


@pytest.mark.asyncio
async def test_a_market_that_changes_stops_quoting(stand: Stand) -> None:
    async with desk_at(stand, market_secs=0.05) as desk:
        stand.detail["market_config"] = {"force_reduce_only": True}
        await desk.until(lambda: desk.market_says)
        assert desk.market_says == ["NVDA: force_reduce_only is True, was False"]
        desk.send(create(1))
        await desk.until_heard("reject")
        assert desk.heard() == [("reject", 1, "21740 market is reduce-only (not sent)")]
        stand.detail["market_config"] = {}
        await desk.until(lambda: len(desk.market_says) == 2)
        desk.send(create(2))
        await desk.until_heard("ack")
        stand.detail["price_decimals"] = 2
        await desk.until(lambda: len(desk.market_says) == 3)
        desk.send(create(3))
        await desk.until_heard("reject", count=2)
        assert "decimals changed" in str(desk.heard("reject")[1][2])
        desk.send(Cancel(2))
        await desk.until_heard("cancel")


@pytest.mark.asyncio
async def test_nonsense_on_the_socket_is_counted_and_the_key_is_nowhere(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with desk_at(stand) as desk:
        for frame in (
            {}, {"type": "connected"}, {"type": "ping"}, {"error": {"code": 30003}},
            {"error": {"message": "invalid auth"}}, {"type": "jsonapi/sendtx"},
            {"type": "update/account_all_orders", "orders": {"110": [{"status": "open"}, {
                "market_index": MARKET, "order_index": "x"}]}},
            {"type": "update/account_all_trades", "trades": {"110": [{"market_id": MARKET}]}},
            {"type": "update/account_all_positions", "positions": {"110": {"market_id": MARKET}}},
            {"type": "update/account_tx", "txs": [{"nonce": None}]},
            {"type": "update/user_stats", "stats": {"leverage": "0.4"}},
        ):  # fmt: skip
            desk.venue.on_frame(frame)
        assert desk.venue.counts["messages not understood"] == 3
        assert desk.venue.stats == {"leverage": "0.4"}
        stand.faults = ["21739", "deaf"]
        desk.send(create(1))
        await desk.until_heard("reject")
        desk.send(create(2))
        await desk.until_heard("reject", count=2)
        said = [caplog.text, repr(desk.said), repr(desk.venue), repr(vars(desk.venue)),
                *(repr(vars(record)) for record in caplog.records)]  # fmt: skip
        assert not any(KEY[2:] in one for one in said)


# ---------------------------------------------------------------- whatever order it comes in


async def _told(script: random.Random) -> None:
    """Play an exchange's truth in a wild order, twice over in part; the book must end the same."""
    stand = Stand()
    signer = Signer(url="", account_index=ACCOUNT, api_key_index=KEY_INDEX, private_key="",
                    now_ns=lambda: 0)  # fmt: skip
    rest = LighterRest("", account_index=ACCOUNT, api_key_index=KEY_INDEX, token=signer.token)
    desk = Desk(stand, signer, rest)
    desk.venue.on_connection("connect", "")
    stand.hold = True
    count = script.randint(1, 4)
    moved: set[int] = set()
    for n in range(1, count + 1):
        side = script.choice((BUY, SELL))
        desk.send(create(n, side))
        stand.rest(index(n), 207_100, 50, is_ask=side == SELL)
    for _ in range(script.randint(0, 14)):
        n = script.randint(1, count)
        order = stand.find(index(n))
        assert order is not None
        if order["status"] != "open":
            continue
        filled = round(float(order["filled_base_amount"]) * 1000)
        total = round(float(order["initial_base_amount"]) * 1000)
        act = script.choice(("fill", "fill", "modify", "end"))
        if act == "fill":
            stand.fill(index(n), script.randint(1, total - filled))
        elif act == "modify":
            if n in moved:
                continue  # The sink waits for an answer before it asks for the next.
            moved.add(n)
            px, base = 207_000 + script.randint(0, 100), total + script.randint(0, 30)
            desk.send(Modify(n, px * TICK, base * LOT))
            stand._modify({"Index": index(n), "Price": px, "BaseAmount": base})
        else:
            stand.end(order, script.choice(("canceled", "canceled-expired", "canceled-post-only")))
    frames = stand.held + script.sample(stand.held, script.randint(0, len(stand.held)))
    script.shuffle(frames)
    stand.hold = False
    for frame in frames:
        stand.frame(frame)
    fills = [(e.n, e.venue_id) for e in desk.said if e.kind == "fill"]
    assert len(fills) == len(set(fills)) == len(stand.trades)
    assert desk.book.position == stand.position * LOT
    for n in range(1, count + 1):
        truth, order_ = stand.find(index(n)), desk.book.find(n)
        assert truth is not None
        assert order_.filled == round(float(truth["filled_base_amount"]) * 1000) * LOT
        assert (n in desk.book.working) == (truth["status"] == "open")
        if truth["status"] == "open":
            assert order_.px == round(float(truth["price"]) * 1000) * TICK
            assert order_.qty == round(float(truth["initial_base_amount"]) * 1000) * LOT
            assert order_.state == "open"
    signer._thread.shutdown()


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_frames_in_any_order_and_twice_give_the_truth_once(script: random.Random) -> None:
    asyncio.run(_told(script))


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_lost_on_the_way_the_book_ends_as_the_venue_has_it(
    stand: Stand, seed: int
) -> None:
    script = random.Random(seed)
    async with desk_at(stand, ack_timeout_secs=0.05, settle_secs=0.01, reconcile_secs=0.2) as desk:
        n = 0
        for _ in range(30):
            stand.quiet = script.random() < 0.3
            if script.random() < 0.3:
                stand.faults.append(script.choice(("deaf", "mute", "broken", "21739")))
            working = [o for o in desk.book.working.values() if o.state == "open"]
            act = script.random()
            if act < 0.45 or not working:
                n += 1
                desk.send(create(n, script.choice((BUY, SELL))))
            elif act < 0.6:
                desk.send(Cancel(script.choice(working).n))
            elif act < 0.75:
                chosen = script.choice(working)
                if not chosen.asked_qty:
                    desk.send(Modify(chosen.n, PX - script.randint(1, 9) * TICK, chosen.qty + LOT))
            elif act < 0.95:
                live = [o for o in stand.orders.values() if o["status"] == "open"]
                if live:
                    stand.fill(script.choice(live)["client_order_index"], 7)
            else:
                desk.venue.on_connection("disconnect", "")
                await desk.calm(0.01)
                desk.venue.on_connection("connect", "")
            await desk.calm(script.choice((0.0, 0.003, 0.01)))
        stand.quiet, stand.faults = False, []
        await desk.calm(0.3)
        await desk.venue.stop(5)
        for order in list(desk.book.working.values()):
            desk.send(Query(order.n))
        await desk.until(lambda: not desk.book.working)
        assert not [o for o in stand.orders.values() if o["status"] == "open"]
        assert desk.book.position == stand.position * LOT
        fills = [(e.n, e.venue_id) for e in desk.said if e.kind == "fill" and e.reason is None]
        assert len(fills) == len(set(fills)) == len(stand.trades)
        clients = [o["client_order_index"] for o in stand.orders.values()]
        assert len(clients) == len(set(clients))  # no create went out twice
