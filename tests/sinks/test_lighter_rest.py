"""Lighter's REST calls against a scripted server: forms, pages, errors."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from sinks.lighter_rest import LighterRest, MarketDetails, RestError, position_of

DETAIL: dict[str, Any] = {
    "symbol": "NVDA", "market_id": 110, "market_type": "perp", "status": "active",
    "min_base_amount": "0.050", "min_quote_amount": "10.000000", "supported_size_decimals": 3,
    "supported_price_decimals": 3, "size_decimals": 3, "price_decimals": 3,
    "last_trade_price": 207.1, "market_config": {"force_reduce_only": False, "trading_hours": ""},
}  # fmt: skip
UNIT = 10**9

Answer = Callable[[web.Request, dict[str, str]], web.Response]


class Server:
    """Answers what the test scripts, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], str | None]] = []
        self.script: dict[str, Any] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/api/v1/")
        params = dict(request.query)
        if request.method == "POST":
            params = {key: str(value) for key, value in (await request.post()).items()}
        self.asked.append((path, params, request.headers.get("Authorization")))
        answer = self.script[path]
        made = answer(params) if callable(answer) else answer
        return made if isinstance(made, web.Response) else web.json_response(made)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def rest(server: Server) -> AsyncIterator[LighterRest]:
    async def token() -> str:
        return "a-token"

    made = LighterRest(server.url, account_index=7, api_key_index=5, token=token, timeout_secs=2)
    yield made
    await made.close()


@pytest.mark.asyncio
async def test_market_details_are_exact(server: Server, rest: LighterRest) -> None:
    server.script["orderBookDetails"] = {"code": 200, "order_book_details": [DETAIL]}
    by_id, by_symbol = await rest.market(110), await rest.market("NVDA")
    assert by_id == by_symbol
    assert (by_id.tick_size, by_id.lot_size) == (1_000_000, 1_000_000)
    assert (by_id.min_base_amount, by_id.min_quote_amount) == (50_000_000, 10 * UNIT)
    assert by_id.last_trade_px == 207_100_000_000
    assert by_id.obstacle == ""
    assert by_id.instrument().id == "NVDA.LIGHTER"
    assert [market.symbol for market in await rest.markets()] == ["NVDA"]
    with pytest.raises(RestError, match="29404"):
        await rest.market("TSLA")
    assert server.asked[0] == ("orderBookDetails", {"market_id": "110"}, None)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"status": "inactive"}, "21605 market status is inactive"),
        ({"market_config": {"force_reduce_only": True}}, "21740 market is reduce-only"),
    ],
)
def test_a_market_says_why_it_takes_no_quotes(change: dict[str, Any], obstacle: str) -> None:
    assert MarketDetails.read({**DETAIL, **change}).obstacle == obstacle


@pytest.mark.asyncio
async def test_nonce_limits_and_position(server: Server, rest: LighterRest) -> None:
    server.script |= {
        "nextNonce": {"code": 200, "nonce": 12},
        "accountLimits": {
            "code": 200, "user_tier": "premium", "user_tier_name": "Premium 1",
            "current_maker_fee_tick": 28, "current_taker_fee_tick": 196,
        },
        "account": {
            "code": 200,
            "accounts": [{"account_index": 7, "positions": [
                {"market_id": 110, "sign": -1, "position": "1.500"},
            ]}],
        },
    }  # fmt: skip
    assert await rest.next_nonce() == 12
    limits = await rest.limits()
    assert (limits.tier, limits.maker_fee_ppm, limits.taker_fee_ppm) == ("Premium 1", 28, 196)
    assert await rest.position(110) == -1_500_000_000
    assert await rest.position(111) == 0
    assert server.asked[1][2] == "a-token"
    assert rest.calls == 4


def test_a_position_is_signed_by_its_sign() -> None:
    assert position_of({"position": "0.00000", "sign": -1}) == 0
    assert position_of({"position": "1.5", "sign": 1}) == 1_500_000_000


@pytest.mark.asyncio
async def test_pages_end_when_there_is_enough_or_no_more(server: Server, rest: LighterRest) -> None:
    def page(params: dict[str, str]) -> dict[str, Any]:
        first = int(params.get("cursor", "0"))
        more = str(first + 1) if first < 2 else ""
        return {"code": 200, "orders": [{"order_index": first}], "next_cursor": more}

    server.script["accountInactiveOrders"] = page
    server.script["trades"] = {"code": 200, "trades": None}
    everything = await rest.inactive_orders(110, lambda rows: False)
    assert [row["order_index"] for row in everything] == [0, 1, 2]
    some = await rest.inactive_orders(110, lambda rows: len(rows) >= 2)
    assert [row["order_index"] for row in some] == [0, 1]
    assert await rest.trades(110, lambda rows: False) == []
    assert server.asked[-1][1]["sort_by"] == "trade_id"


@pytest.mark.asyncio
async def test_one_transaction_goes_alone_and_more_go_as_strings_of_json(
    server: Server, rest: LighterRest
) -> None:
    server.script["sendTx"] = {"code": 200, "tx_hash": "aa", "volume_quota_remaining": 9}
    server.script["sendTxBatch"] = {"code": 200, "tx_hash": ["aa", "bb"]}
    one = await rest.send([(14, '{"a":1}')])
    two = await rest.send([(14, '{"a":1}'), (15, '{"b":2}')])
    assert (one.hashes, one.quota_left, two.hashes, two.quota_left) == (
        ("aa",), 9, ("aa", "bb"), None,
    )  # fmt: skip
    assert server.asked[0][1] == {"tx_type": "14", "tx_info": '{"a":1}'}
    assert json.loads(server.asked[1][1]["tx_types"]) == [14, 15]
    assert json.loads(server.asked[1][1]["tx_infos"]) == ['{"a":1}', '{"b":2}']


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("response", "code", "limited", "ambiguous"),
    [
        (web.json_response({"code": 21104, "message": "invalid nonce"}, status=400), 21104, False,
         False),
        (web.json_response({"code": 23000, "message": "too many"}, status=429), 23000, True, False),
        (web.json_response({"code": 23000, "message": "too many"}), 23000, True, False),
        (web.Response(text="<html>captcha</html>", status=405, content_type="text/html"), 405, True,
         False),
        (web.Response(text="bad gateway", status=502), 502, False, True),
        (web.json_response({"code": 29500, "message": "internal"}, status=500), 29500, False, True),
        (web.json_response({"code": 200}), 0, False, False),
    ],
)  # fmt: skip
async def test_errors_say_what_the_venue_said(
    server: Server, rest: LighterRest, response: web.Response, code: int, limited: bool,
    ambiguous: bool,
) -> None:  # fmt: skip
    def again(_: object) -> web.Response:
        return web.Response(
            text=response.text, status=response.status, content_type=response.content_type
        )

    server.script["nextNonce"] = again
    with pytest.raises(RestError) as caught:
        await rest.next_nonce()
    error = caught.value
    assert (error.code, error.limited, error.ambiguous) == (code, limited, ambiguous)


@pytest.mark.asyncio
async def test_no_server_is_an_ambiguous_error(rest: LighterRest, server: Server) -> None:
    rest._url = "http://127.0.0.1:9"
    with pytest.raises(RestError, match="no answer") as caught:
        await rest.next_nonce()
    assert caught.value.ambiguous
