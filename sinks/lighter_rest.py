"""Lighter's REST calls that orders need: what rests, what traded, what we hold, what the market is.

Every answer is the venue's JSON as it came, except where a type of ours says more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import aiohttp
from msgspec import Struct

from streams.instrument import UNIT_DECIMALS, Instrument, to_units

__all__ = [
    "AccountLimits",
    "Json",
    "LighterRest",
    "MarketDetails",
    "RestError",
    "SendAnswer",
    "position_of",
]

Json: TypeAlias = Mapping[str, Any]

_PAGE: Final = 100
"""Rows a page; the venue refuses more."""

_log: Final = logging.getLogger("marblemaker.lighter")


class RestError(RuntimeError):
    """A call failed."""

    def __init__(
        self, what: str, code: int, text: str, *, limited: bool = False, ambiguous: bool = False
    ) -> None:
        """Say what was asked, and what the venue made of it."""
        super().__init__(f"{what}: {code} {text}")
        self.code = code
        """The venue's code, or the HTTP status when there is none; 0 when nothing came back."""
        self.text = text
        self.limited = limited
        """Too many requests: the venue wants a pause."""
        self.ambiguous = ambiguous
        """It is not known whether the venue did what was asked."""


class MarketDetails(Struct, frozen=True, kw_only=True):
    """What a market takes, as the venue says."""

    market_id: int
    symbol: str
    market_type: str
    status: str
    """``active`` when it trades."""
    price_decimals: int
    size_decimals: int
    min_base_amount: int
    """1e-9 base units."""
    min_quote_amount: int
    """1e-9 quote currency."""
    last_trade_px: int | None
    """1e-9; ``None`` before the first trade."""
    force_reduce_only: bool = False
    trading_hours: str = ""
    multiplier: str = ""
    """Presumably for splits (uncertain)."""

    @property
    def tick_size(self) -> int:
        """Smallest price step, 1e-9 quote currency."""
        return int(10 ** (UNIT_DECIMALS - self.price_decimals))

    @property
    def lot_size(self) -> int:
        """Smallest size step, 1e-9 base units."""
        return int(10 ** (UNIT_DECIMALS - self.size_decimals))

    @property
    def obstacle(self) -> str:
        """Why nothing may be quoted here now; empty when it may."""
        if self.status != "active":
            return f"21605 market status is {self.status}"
        return "21740 market is reduce-only" if self.force_reduce_only else ""

    def instrument(self, venue: str = "LIGHTER") -> Instrument:
        """The market as the graph knows it."""
        return Instrument(
            symbol=self.symbol, venue=venue, price_decimals=self.price_decimals,
            size_decimals=self.size_decimals, min_base_amount=self.min_base_amount,
            min_quote_amount=self.min_quote_amount,
        )  # fmt: skip

    @classmethod
    def read(cls, detail: Json) -> MarketDetails:
        """Read an entry of ``orderBookDetails``."""
        config = detail.get("market_config") or {}
        last = detail.get("last_trade_price")
        return cls(
            market_id=int(detail["market_id"]),
            symbol=str(detail["symbol"]),
            market_type=str(detail.get("market_type", "perp")),
            status=str(detail["status"]),
            price_decimals=int(_first(detail, "price_decimals", "supported_price_decimals")),
            size_decimals=int(_first(detail, "size_decimals", "supported_size_decimals")),
            min_base_amount=to_units(str(detail["min_base_amount"]), "min_base_amount"),
            min_quote_amount=to_units(str(detail["min_quote_amount"]), "min_quote_amount"),
            last_trade_px=to_units(f"{float(last):.9f}", "last_trade_price") if last else None,
            force_reduce_only=bool(config.get("force_reduce_only", False)),
            trading_hours=str(config.get("trading_hours") or ""),
            multiplier=str(_first(detail, "multiplier", default=config.get("multiplier") or "")),
        )


class AccountLimits(Struct, frozen=True):
    """Tier and fees of the account."""

    tier: str
    maker_fee_ppm: int
    taker_fee_ppm: int


class SendAnswer(Struct, frozen=True):
    """What ``sendTx`` or ``sendTxBatch`` said: accepted by the API, not yet executed."""

    hashes: tuple[str, ...]
    quota_left: int | None


def position_of(position: Json) -> int:
    """Signed size of a Position object, 1e-9 base units, long positive."""
    size = to_units(str(position["position"]), "position")
    return size * (-1 if int(position.get("sign", 1)) < 0 else 1)


def _first(detail: Json, *keys: str, default: object = None) -> Any:
    for key in keys:
        if detail.get(key) is not None:
            return detail[key]
    if default is None:
        raise KeyError(keys[0])
    return default


class LighterRest:
    """REST calls for one account, over one HTTP session."""

    def __init__(
        self,
        url: str,
        *,
        account_index: int,
        api_key_index: int,
        token: Callable[[], Awaitable[str]],
        timeout_secs: float = 10.0,
    ) -> None:
        """Name the venue and the account; nothing is opened before the first call.

        ``token`` gives the auth token for calls about the account (``Signer.token``).
        """
        self.calls = 0
        """Requests made: they count against the account's limits like orders do."""
        self.account_index = account_index
        self._url = url.rstrip("/")
        self._api_key_index = api_key_index
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout_secs)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the HTTP session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------ markets

    async def markets(self) -> list[MarketDetails]:
        """Details of every perpetual market that the venue describes completely."""
        body = await self._get("orderBookDetails", {"filter": "perp"})
        found = []
        for detail in body.get("order_book_details") or []:
            try:
                found.append(MarketDetails.read(detail))
            except (KeyError, ValueError, TypeError) as error:
                _log.warning("market %s left out: %r", detail.get("symbol"), error)
        return found

    async def market(self, market: int | str) -> MarketDetails:
        """Details of one market, by id or symbol.

        Errors: RestError, also when there is no such market or its details make no sense.
        """
        params = {"market_id": str(market)} if isinstance(market, int) else {"filter": "perp"}
        body = await self._get("orderBookDetails", params)
        for key in ("order_book_details", "spot_order_book_details"):
            for detail in body.get(key) or []:
                if detail.get("market_id" if isinstance(market, int) else "symbol") == market:
                    try:
                        return MarketDetails.read(detail)
                    except (KeyError, ValueError, TypeError) as error:
                        raise RestError(f"market {market}", 0, f"not understood: {error}") from None
        raise RestError(f"market {market}", 29404, "not among orderBookDetails")

    # ------------------------------------------------------------ the account

    async def next_nonce(self) -> int:
        """The nonce that the venue expects of our key."""
        body = await self._get(
            "nextNonce",
            {"account_index": str(self.account_index), "api_key_index": str(self._api_key_index)},
        )
        nonce = body.get("nonce")
        if not isinstance(nonce, int):
            raise RestError("nextNonce", 0, f"no nonce in the answer, but {nonce!r}")
        return nonce

    async def limits(self) -> AccountLimits:
        """Tier and fees."""
        body = await self._get(
            "accountLimits", {"account_index": str(self.account_index)}, auth=True
        )
        return AccountLimits(
            str(body.get("user_tier_name") or body.get("user_tier") or ""),
            int(body.get("current_maker_fee_tick") or 0),
            int(body.get("current_taker_fee_tick") or 0),
        )

    async def account(self) -> Json:
        """The account with its positions."""
        params = {"by": "index", "value": str(self.account_index)}
        body = await self._get("account", params, auth=True)
        for account in body.get("accounts") or []:
            if int(account.get("account_index", account.get("index", -1))) == self.account_index:
                return account  # type: ignore[no-any-return]
        raise RestError(f"account {self.account_index}", 21100, "account not found")

    async def position(self, market_id: int) -> int:
        """Signed position in a market, 1e-9 base units; one that is not listed is flat."""
        for position in (await self.account()).get("positions") or []:
            if int(position["market_id"]) == market_id:
                return position_of(position)
        return 0

    async def active_orders(self, market_id: int) -> list[Json]:
        """Every order of the account that rests in a market."""
        params = {"account_index": str(self.account_index), "market_id": str(market_id)}
        return await self._pages("accountActiveOrders", params, "orders", lambda _: False, 100)

    async def inactive_orders(
        self, market_id: int, enough: Callable[[Sequence[Json]], bool], pages: int = 10
    ) -> list[Json]:
        """Ended orders, newest first (uncertain), page by page until ``enough`` or ``pages``."""
        params = {
            "account_index": str(self.account_index),
            "market_id": str(market_id),
            "limit": str(_PAGE),
        }
        return await self._pages("accountInactiveOrders", params, "orders", enough, pages)

    async def trades(
        self, market_id: int, enough: Callable[[Sequence[Json]], bool], pages: int = 10
    ) -> list[Json]:
        """Trades of the account in a market, newest first, page by page."""
        params = {
            "account_index": str(self.account_index),
            "market_id": str(market_id),
            "sort_by": "trade_id",
            "sort_dir": "desc",
            "limit": str(_PAGE),
        }
        return await self._pages("trades", params, "trades", enough, pages)

    # ------------------------------------------------------------ transactions

    async def send(self, transactions: Sequence[tuple[int, str]]) -> SendAnswer:
        """Send signed transactions, ``(tx_type, tx_info)`` each: the way without a socket."""
        if len(transactions) == 1:
            tx_type, tx_info = transactions[0]
            form = {"tx_type": str(tx_type), "tx_info": tx_info}
            body = await self._call("POST", "sendTx", data=form)
        else:
            form = {
                "tx_types": json.dumps([tx_type for tx_type, _ in transactions]),
                "tx_infos": json.dumps([tx_info for _, tx_info in transactions]),
            }
            body = await self._call("POST", "sendTxBatch", data=form)
        hashes = body.get("tx_hash") or ()
        quota = body.get("volume_quota_remaining")
        return SendAnswer(
            (hashes,) if isinstance(hashes, str) else tuple(hashes),
            None if quota is None else int(quota),
        )

    # ------------------------------------------------------------ HTTP

    async def _pages(
        self,
        path: str,
        params: Mapping[str, str],
        key: str,
        enough: Callable[[Sequence[Json]], bool],
        pages: int,
    ) -> list[Json]:
        rows: list[Json] = []
        cursor = ""
        for _ in range(pages):
            body = await self._get(
                path, {**params, "cursor": cursor} if cursor else params, auth=True
            )
            page = body.get(key) or []
            rows += page
            following = str(body.get("next_cursor") or "")
            if not page or not following or following == cursor or enough(rows):
                break
            cursor = following
        return rows

    async def _get(self, path: str, params: Mapping[str, str], *, auth: bool = False) -> Json:
        headers = {"Authorization": await self._token()} if auth else {}
        return await self._call("GET", path, params=params, headers=headers)

    async def _call(self, method: str, path: str, **arguments: Any) -> Json:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        self.calls += 1
        try:
            async with self._session.request(
                method, f"{self._url}/api/v1/{path}", **arguments
            ) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RestError(path, 0, f"no answer: {error!r}", ambiguous=True) from None
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            # 405 with a page of HTML is the firewall in front of the venue.
            raise RestError(
                path, status, "the answer is not JSON", limited=status in (405, 429),
                ambiguous=status >= 500 or status == 200,
            )  # fmt: skip
        code = int(body.get("code") or status)
        if status == 200 and code in (0, 200):
            return body
        raise RestError(
            path, code, str(body.get("message") or f"HTTP {status}"),
            limited=status in (405, 429) or code in (405, 429) or 23000 <= code < 24000,
            ambiguous=status >= 500 or 29500 <= code < 30000,
        )  # fmt: skip
