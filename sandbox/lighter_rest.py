"""The stand-in's REST API: the endpoints that a maker needs, and what goes wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from sandbox.faults import Fault, FaultKind
from sandbox.lighter_account import LighterAccount, LighterOrder
from sandbox.lighter_api import Api
from sandbox.lighter_engine import Engine
from sandbox.lighter_limits import LighterLimits, weight_of
from sandbox.lighter_market import MARKET_ACCOUNT, Json, Market
from sandbox.lighter_messages import (
    account_json,
    order_book_detail_json,
    order_book_json,
    order_json,
    simple_order_json,
    trade_json,
)
from sandbox.lighter_transactions import ApiError
from sinks.simulated import TIER_FEES_PPM

__all__ = ["Rest"]

_ALL: Final = 255
_NAP_SECS: Final = 0.005
_API: Final = "/api/v1"
_FIREWALL: Final = "<!DOCTYPE html><html><head><title>Human Verification</title></head></html>"
_NOBODY: Final = "0x0000000000000000000000000000000000000000"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_TIER_NUMBERS: Final = {"standard": 0, "premium": 1, "plus": 2}


class Rest:
    """Answers requests with what the market, the accounts and the engine hold."""

    def __init__(
        self,
        market: Market,
        accounts: Mapping[int, LighterAccount],
        engine: Engine,
        api: Api,
        limits: LighterLimits,
        tier: str,
        now: Callable[[], int],
        take: Callable[[FaultKind], Fault | None],
        active: Callable[[FaultKind], Fault | None],
        authorise: Callable[[str, int], str],
    ) -> None:
        """``authorise`` says why a token does not open an account, or nothing."""
        self._market = market
        self._accounts = accounts
        self._engine = engine
        self._api = api
        self._limits = limits
        self._tier = tier
        self._now = now
        self._take = take
        self._active = active
        self._authorise = authorise

    def routes(self) -> list[web.RouteDef]:
        """The endpoints."""
        gets: dict[str, Callable[[web.Request], Json]] = {
            "orderBooks": self._order_books,
            "orderBookDetails": self._order_book_details,
            "orderBookOrders": self._order_book_orders,
            "recentTrades": self._recent_trades,
            "nextNonce": self._next_nonce,
            "apikeys": self._api_keys,
            "account": self._account,
            "accountActiveOrders": self._active_orders,
            "accountInactiveOrders": self._inactive_orders,
            "accountLimits": self._account_limits,
            "tx": self._tx,
        }
        return [
            web.get("/", self._plain(self._status)),
            web.get("/info", self._plain(self._info)),
            *(web.get(f"{_API}/{name}", self._plain(get)) for name, get in gets.items()),
            web.post(f"{_API}/sendTx", self._send_tx),
            web.post(f"{_API}/sendTxBatch", self._send_tx_batch),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Count requests, turn refusals into answers, and do what is to go wrong."""
        if request.path == "/stream":
            return await handler(request)
        answer = await self._answer(request, handler)
        late = self._active("delay")
        if late:
            await asyncio.sleep(late.amount)
        while self._active("stall"):
            await asyncio.sleep(_NAP_SECS)
        return answer

    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        wrong = self._fault()
        if wrong is not None:
            return wrong
        weight = weight_of(request.path) if self._limits.weighted else 1
        is_send = request.path.startswith(f"{_API}/sendTx")
        # With weights, transactions count on the account alone.
        if not (is_send and self._limits.weighted) and not self._api.address.admit(
            self._now(), weight
        ):
            return _error(23000, "Too Many Requests!", 429)
        try:
            return await handler(request)
        except ApiError as error:
            return _error(error.code, error.message, 429 if error.code == 23000 else 400)
        except web.HTTPNotFound:
            return _error(29404, "not found", 404)

    def _fault(self) -> web.Response | None:
        if self._active("refuse"):
            return _error(29500, "unavailable", 503)
        if self._take("http_429"):
            return _error(23000, "Too Many Requests!", 429)
        if self._take("http_405"):
            headers = {"x-amzn-waf-action": "captcha"}
            return web.Response(
                text=_FIREWALL, content_type="text/html", status=405, headers=headers
            )
        fault = self._take("http_5xx")
        if fault is not None:
            return _error(29500, "internal server error", int(fault.text or 500))
        return None

    def _plain(self, get: Callable[[web.Request], Json]) -> _Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.json_response({"code": 200, **get(request)})

        return handler

    # ------------------------------------------------------------ transactions

    async def _send_tx(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        answer = self._api.submit(form.get("tx_type"), form.get("tx_info"), counted=True)
        return self._acknowledge(request, answer)

    async def _send_tx_batch(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        answer = self._api.submit_batch(form.get("tx_types"), form.get("tx_infos"), counted=True)
        return self._acknowledge(request, answer)

    def _acknowledge(self, request: web.Request, answer: Json) -> web.StreamResponse:
        if self._take("lost_ack") and request.transport is not None:
            request.transport.close()
        return web.json_response(answer)

    # ------------------------------------------------------------ the venue

    def _status(self, _: web.Request) -> Json:
        return {"status": 200, "network_id": 304, "timestamp": self._now() // 1_000_000_000}

    def _info(self, _: web.Request) -> Json:
        return {"contract_address": _NOBODY}

    def _order_books(self, request: web.Request) -> Json:
        return {"order_books": [order_book_json(m) for m in self._asked(request)]}

    def _order_book_details(self, request: web.Request) -> Json:
        details = [order_book_detail_json(m) for m in self._asked(request)]
        return {"order_book_details": details, "spot_order_book_details": []}

    def _asked(self, request: web.Request) -> list[Market]:
        """The markets that a request is about."""
        if request.query.get("filter", "all") not in ("all", "perp"):
            return []
        wanted = _number(request, "market_id", _ALL)
        if wanted not in (_ALL, self._market.id):
            raise ApiError(21602, "invalid market index")
        return [self._market]

    def _order_book_orders(self, request: web.Request) -> Json:
        self._asked(request)
        limit = _number(request, "limit", 250, most=250)
        market = self._market
        rows: dict[bool, list[LighterOrder]] = {True: [], False: []}
        for is_ask, side in ((True, market.ask), (False, market.bid)):
            if side is not None:
                rows[is_ask].append(_of_others(market, side, is_ask=is_ask))
        for account in self._accounts.values():
            for order in account.live():
                rows[order.is_ask].append(order)
        rows[True].sort(key=lambda order: order.price)
        rows[False].sort(key=lambda order: -order.price)
        asks, bids = (
            [simple_order_json(market, order) for order in rows[is_ask][:limit]]
            for is_ask in (True, False)
        )
        return {"total_asks": len(rows[True]), "asks": asks,
                "total_bids": len(rows[False]), "bids": bids}  # fmt: skip

    def _recent_trades(self, request: web.Request) -> Json:
        self._asked(request)
        limit = _number(request, "limit", 100, most=100)
        recent = self._market.recent[:limit]
        return {"trades": [trade_json(self._market, trade) for trade in recent]}

    # ------------------------------------------------------------ accounts

    def _next_nonce(self, request: web.Request) -> Json:
        account, key = self._found(request), _number(request, "api_key_index")
        if key not in account.nonces:
            raise ApiError(21109, "api key not found")
        return {"nonce": account.nonces[key]}

    def _api_keys(self, request: web.Request) -> Json:
        account, wanted = self._found(request), _number(request, "api_key_index", _ALL)
        keys = [
            {
                "account_index": account.index,
                "api_key_index": key,
                "nonce": account.nonces[key],
                "public_key": public,
                "transaction_time": 0,
            }
            for key, public in account.keys.items()
            if wanted in (_ALL, key)
        ]
        if not keys:
            raise ApiError(21109, "api key not found")
        return {"api_keys": keys}

    def _account(self, request: web.Request) -> Json:
        if request.query.get("by") != "index":
            raise ApiError(20001, "invalid param : by")  # nobody here has an L1 address
        account = self._by_index(_number(request, "value"))
        return {"total": 1, "accounts": [account_json(self._market, account)]}

    def _active_orders(self, request: web.Request) -> Json:
        account = self._private(request)
        return {"orders": [order_json(self._market, order) for order in account.live()]}

    def _inactive_orders(self, request: web.Request) -> Json:
        account = self._private(request)
        limit = _number(request, "limit", most=100)
        start = _number(request, "cursor", 0)
        ended = [order for order in reversed(account.orders) if not order.is_live]
        page = ended[start : start + limit]
        more = {"next_cursor": str(start + limit)} if start + limit < len(ended) else {}
        return {"orders": [order_json(self._market, order) for order in page], **more}

    def _account_limits(self, request: web.Request) -> Json:
        self._private(request)
        maker, taker = TIER_FEES_PPM[self._tier]
        return {
            "max_llp_percentage": 0,
            "max_llp_amount": "0",
            "user_tier": str(_TIER_NUMBERS[self._tier]),
            "user_tier_name": self._tier,
            "can_create_public_pool": False,
            "current_maker_fee_tick": maker,
            "current_taker_fee_tick": taker,
            "effective_lit_stakes": "0",
            "leased_lit": "0",
            "user_tier_last_update": 0,
            "bo_user_tier_name": "standard",
            "bo_fee_rate": 1,
        }

    def _tx(self, request: web.Request) -> Json:
        by, value = request.query.get("by"), request.query.get("value", "")
        if by not in ("hash", "sequence_index"):
            raise ApiError(20001, "invalid param : by")
        for row in self._engine.txs.values():
            if value in (row["hash"] if by == "hash" else str(row["sequence_index"]),):
                return {**row, "committed_at": 0, "verified_at": 0}
        raise ApiError(21500, "transaction not found")

    def _found(self, request: web.Request) -> LighterAccount:
        return self._by_index(_number(request, "account_index"))

    def _by_index(self, index: int) -> LighterAccount:
        account = self._accounts.get(index)
        if account is None:
            raise ApiError(21100, "account not found")
        return account

    def _private(self, request: web.Request) -> LighterAccount:
        account = self._found(request)
        token = request.headers.get("Authorization") or request.query.get("auth", "")
        if not token:
            raise ApiError(20001, "invalid param : auth field is required")
        refusal = self._authorise(token, account.index)
        if refusal:
            raise ApiError(20001, refusal)
        return account


def _of_others(market: Market, side: tuple[int, int], *, is_ask: bool) -> LighterOrder:
    """The best level as one order: the recording knows no more of it."""
    return LighterOrder(
        account=MARKET_ACCOUNT, client_index=0, is_ask=is_ask, price=side[0], base=side[1], kind=0,
        tif=1, reduce_only=False, expiry_ms=0, created_ns=market.changed_ns,
        updated_ns=market.changed_ns, status="open",
    )  # fmt: skip


def _number(
    request: web.Request, name: str, default: int | None = None, *, most: int | None = None
) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or (most is not None and int(text) > most):
        raise ApiError(20001, f"invalid param : {name}")
    return int(text)


def _error(code: int, message: str, status: int) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
