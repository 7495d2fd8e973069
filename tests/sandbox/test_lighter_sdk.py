"""The official SDK, unmodified, against the Lighter stand-in in a thread of its own."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_venue import LighterVenue

pytestmark = [
    # The SDK imports the old client of websockets.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ACCOUNT, KEY, MARKET = 1234, 5, 110
LOOSE = LighterLimits.of_tier("premium").without_rates()


@pytest.fixture(scope="module")
def lighter() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("lighter")


@pytest.fixture(scope="module")
def keys(lighter: Any) -> tuple[str, str]:
    private, public, error = lighter.create_api_key()
    assert not error
    return private, public


@pytest.fixture
def venue(keys: tuple[str, str]) -> Iterator[LighterVenue]:
    prepared = LighterVenue(accounts={ACCOUNT: {KEY: keys[1]}}, tier="premium", limits=LOOSE)
    with prepared.run_in_thread():
        prepared.push_quote("200.500", "201")
        yield prepared
    assert not [t for t in threading.enumerate() if t.name == "lighter-venue"]


@asynccontextmanager
async def signer(lighter: Any, venue: LighterVenue, private: str) -> AsyncIterator[Any]:
    client = lighter.SignerClient(venue.rest_url, ACCOUNT, {KEY: private})
    try:
        yield client
    finally:
        await client.api_client.close()


def settled(venue: LighterVenue, *wanted: int) -> list[dict[str, Any]]:
    """Wait until the orders with these client indexes are the ones that are open."""
    deadline = time.monotonic() + 3.0
    while True:
        rows = venue.open_orders(ACCOUNT)
        if [order["client_order_index"] for order in rows] == [*wanted]:
            return rows
        assert time.monotonic() < deadline, rows
        time.sleep(0.01)


def test_the_key_is_checked(lighter: Any, venue: LighterVenue, keys: tuple[str, str]) -> None:
    async def run() -> None:
        async with signer(lighter, venue, keys[0]) as client:
            assert client.check_client() is None
        other, _, _ = lighter.create_api_key()
        async with signer(lighter, venue, other) as client:
            assert client.check_client() is not None
        # Nothing else in this process may sign with the wrong key.
        async with signer(lighter, venue, keys[0]):
            pass

    asyncio.run(run())


def test_orders_are_placed_modified_and_cancelled(
    lighter: Any, venue: LighterVenue, keys: tuple[str, str]
) -> None:
    async def run() -> None:
        async with signer(lighter, venue, keys[0]) as client:
            _, answer, error = await client.create_order(MARKET, 7, 100, 200_000, False, 0, 2)
            assert error is None
            assert answer.code == 200
            assert answer.volume_quota_remaining == 999
            assert settled(venue, 7)[0]["price"] == "200.000"
            _, answer, error = await client.modify_order(MARKET, 7, 120, 200_100)
            assert error is None
            _, answer, error = await client.cancel_order(MARKET, 7)
            assert error is None
            settled(venue)
            _, answer, error = await client.create_order(
                MARKET, 8, 100, 300_000, False, 1, 0, order_expiry=0
            )
            assert error is None
            assert venue.position(ACCOUNT) == 0  # takers wait 200 ms
            deadline = time.monotonic() + 3.0
            while not venue.fills(ACCOUNT):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert venue.position(ACCOUNT) == 100_000_000
            assert venue.fills(ACCOUNT)[0]["taker_fee"] == 280
            ahead = int(time.time() * 1000) + 600_000
            _, answer, error = await client.cancel_all_orders(
                client.CANCEL_ALL_TIF_SCHEDULED, ahead
            )
            assert error is None
            while not venue.cancel_all_time(ACCOUNT):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert venue.cancel_all_time(ACCOUNT) == ahead
            assert venue.next_nonce(ACCOUNT, KEY) == 6

    asyncio.run(run())


def test_a_refusal_is_told_and_the_nonce_stays_in_step(
    lighter: Any, venue: LighterVenue, keys: tuple[str, str]
) -> None:
    async def run() -> None:
        async with signer(lighter, venue, keys[0]) as client:
            _, answer, error = await client.create_order(MARKET, 7, 10, 200_000, False, 0, 2)
            assert answer is None
            assert "code=21706" in error
            venue.faults.trigger("nonce_rejected")
            _, _, error = await client.create_order(MARKET, 7, 100, 200_000, False, 0, 2)
            assert "code=21104 message='invalid nonce'" in error
            _, answer, _ = await client.create_order(MARKET, 7, 100, 200_000, False, 0, 2)
            assert answer.code == 200

    asyncio.run(run())


def test_a_signed_order_goes_over_the_websocket_and_in_a_batch(
    lighter: Any, venue: LighterVenue, keys: tuple[str, str]
) -> None:
    async def run() -> None:
        async with signer(lighter, venue, keys[0]) as client, aiohttp.ClientSession() as http:
            own: dict[str, Any] = {"nonce": 1, "api_key_index": KEY}
            kind, info, _, _ = client.sign_create_order(MARKET, 7, 100, 200_000, False, 0, 2, **own)
            auth, _ = client.create_auth_token_with_expiry(600, api_key_index=KEY)
            async with http.ws_connect(venue.ws_url) as socket:
                assert (await socket.receive_json())["type"] == "connected"
                channel = f"account_all_orders/{ACCOUNT}"
                await socket.send_json({"type": "subscribe", "channel": channel, "auth": auth})
                assert (await socket.receive_json())["orders"] == {}
                data = {"id": "7", "tx_type": kind, "tx_info": json.loads(info)}
                await socket.send_json({"type": "jsonapi/sendtx", "data": data})
                told = [await socket.receive_json() for _ in range(2)]
                assert {frame["type"] for frame in told} == {
                    "jsonapi/sendtx", "update/account_all_orders",
                }  # fmt: skip
            signed = [
                client.sign_create_order(
                    MARKET, 8, 100, 199_000, False, 0, 2, nonce=2, api_key_index=KEY
                ),
                client.sign_cancel_order(MARKET, 7, nonce=3, api_key_index=KEY),
            ]
            answer = await client.send_tx_batch(
                tx_types=[tx[0] for tx in signed], tx_infos=[tx[1] for tx in signed]
            )
            assert answer.code == 200
            assert len(answer.tx_hash) == 2
            settled(venue, 8)

    asyncio.run(run())


def test_the_rest_client_reads_every_endpoint(
    lighter: Any, venue: LighterVenue, keys: tuple[str, str]
) -> None:
    async def run() -> None:
        async with signer(lighter, venue, keys[0]) as client:
            auth, _ = client.create_auth_token_with_expiry(600, api_key_index=KEY)
            await client.create_order(MARKET, 7, 100, 200_000, False, 0, 2)
            settled(venue, 7)
            orders = lighter.OrderApi(client.api_client)
            account = lighter.AccountApi(client.api_client)
            detail = (await orders.order_book_details(market_id=MARKET)).order_book_details[0]
            assert (detail.symbol, detail.min_base_amount) == ("NVDA", "0.050")
            assert (await orders.order_books()).order_books[0].market_id == MARKET
            shown = await orders.order_book_orders(market_id=MARKET, limit=10)
            assert [o.price for o in shown.bids] == ["200.500", "200.000"]
            assert (await orders.recent_trades(market_id=MARKET, limit=10)).trades == []
            active = await orders.account_active_orders(
                account_index=ACCOUNT, market_id=MARKET, authorization=auth
            )
            assert [o.client_order_index for o in active.orders] == [7]
            ended = await orders.account_inactive_orders(
                account_index=ACCOUNT, limit=10, authorization=auth
            )
            assert ended.orders == []
            told = (await account.account(by="index", value=str(ACCOUNT))).accounts[0]
            assert told.total_order_count == 1
            held = await account.apikeys(account_index=ACCOUNT, api_key_index=KEY)
            assert held.api_keys[0].public_key == keys[1].removeprefix("0x")
            limits = await account.account_limits(account_index=ACCOUNT, authorization=auth)
            assert (limits.current_maker_fee_tick, limits.current_taker_fee_tick) == (40, 280)
            nonce = await lighter.TransactionApi(client.api_client).next_nonce(
                account_index=ACCOUNT, api_key_index=KEY
            )
            assert nonce.nonce == 2
            assert (await lighter.RootApi(client.api_client).status()).network_id == 304

    asyncio.run(run())


def test_the_websocket_client_follows_the_book_and_the_account(
    lighter: Any, venue: LighterVenue
) -> None:
    books: list[Any] = []
    accounts: list[Any] = []
    shutdowns: list[int] = []
    client = lighter.WsClient(
        ws_url=venue.ws_url,
        order_book_ids=[MARKET],
        account_ids=[ACCOUNT],
        on_order_book_update=lambda market, book: books.append((market, json.dumps(book))),
        on_account_update=lambda account, state: accounts.append((account, state)),
        on_shutdown=shutdowns.append,
    )

    async def run() -> None:
        follow = asyncio.create_task(client.run_async())
        async with asyncio.timeout(3.0):
            while not (books and accounts):
                await asyncio.sleep(0.01)
            venue.push_quote("200.600", "201")
            while len(books) < 2:
                await asyncio.sleep(0.01)
        venue.faults.trigger("shutdown", amount=0.05)
        async with asyncio.timeout(3.0):
            await follow

    asyncio.run(run())
    assert books[0][0] == str(MARKET)
    assert [level["price"] for level in json.loads(books[-1][1])["bids"]] == ["200.600"]
    assert accounts[0][1]["account"] == ACCOUNT
    assert shutdowns == [50]
