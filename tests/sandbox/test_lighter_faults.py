"""What the Lighter stand-in does wrong on purpose, as a client sees it."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from tests.sandbox.test_lighter_venue import (
    ACCOUNT,
    KEY,
    MARKET,
    cancel,
    create,
    opened,
    token,
)

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("kind", ["drop", "rst", "session_restart"])
async def test_every_connection_is_cut_and_a_new_one_is_served(kind: str) -> None:
    async with opened() as (venue, client):
        wires = [await client.wire() for _ in range(2)]
        venue.faults.trigger(kind)  # type: ignore[arg-type]
        for wire in wires:
            await wire.until(lambda wire=wire: wire.closed is not None)
        assert wires[0].closed == (1012 if kind == "session_restart" else 1006)
        assert (await (await client.wire()).subscribe(f"ticker/{MARKET}"))["nonce"] > 1


async def test_a_restarted_session_counts_offsets_anew_but_not_nonces() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        for n in range(3):
            venue.push_quote("200", f"20{n + 1}")
            before = await wire.subscribe(f"order_book/{MARKET}")
            await wire.say(type="unsubscribe", channel=f"order_book/{MARKET}")
        venue.faults.trigger("session_restart")
        await wire.until(lambda: wire.closed is not None)
        after = await (await client.wire()).subscribe(f"order_book/{MARKET}")
        assert after["offset"] < before["offset"]
        assert after["order_book"]["nonce"] == before["order_book"]["nonce"]


async def test_a_stall_sends_nothing_and_then_everything_at_once() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        await wire.subscribe(f"ticker/{MARKET}")
        venue.faults.trigger("stall", for_secs=0.3)
        had = len(wire.seen)
        for n in range(5):
            venue.push_quote("200", f"20{n + 1}")
        await asyncio.sleep(0.15)
        assert len(wire.seen) == had
        asks = [(await wire.next("update/ticker"))["ticker"]["a"]["price"] for _ in range(5)]
        assert asks == [f"20{n + 1}.000" for n in range(5)]


async def test_a_delay_sends_everything_late() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        await wire.subscribe(f"ticker/{MARKET}")
        venue.faults.trigger("delay", for_secs=0.1, amount=0.25)
        started = time.monotonic()
        venue.push_quote("200", "202")
        await wire.next("update/ticker")
        assert time.monotonic() - started > 0.24


async def test_a_message_is_sent_twice_or_after_the_next_one_or_as_rubbish() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        nonce = (await wire.subscribe(f"ticker/{MARKET}"))["nonce"]

        async def nonces(count: int) -> list[int]:
            return [(await wire.next("update/ticker"))["nonce"] - nonce for _ in range(count)]

        venue.faults.trigger("duplicate", text="ticker")
        venue.push_quote("200", "202")
        assert await nonces(2) == [1, 1]
        venue.faults.trigger("reorder", text="ticker")
        venue.push_quote("200", "203")
        venue.push_quote("200", "204")
        assert await nonces(2) == [3, 2]
        venue.faults.trigger("malformed", text="trade")  # waits for its kind of channel
        venue.push_quote("200", "205")
        assert await nonces(1) == [4]
        await wire.subscribe(f"trade/{MARKET}")
        venue.push_trade("200", "1")
        await wire.until(lambda: wire.broken)
        assert wire.broken[0].startswith('{"type":"update/trade"')


async def test_answers_to_requests_are_late_as_well() -> None:
    async with opened() as (venue, client):
        venue.faults.trigger("delay", for_secs=1.0, amount=0.2)
        started = time.monotonic()
        await client.get("/info")
        assert time.monotonic() - started > 0.19


async def test_a_gap_shows_in_the_begin_nonce() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        nonce = (await wire.subscribe(f"order_book/{MARKET}"))["order_book"]["nonce"]
        venue.faults.trigger("gap")
        venue.push_quote("200", "202")
        await asyncio.sleep(0.08)
        venue.push_quote("200", "203")
        update = (await wire.next("update/order_book"))["order_book"]
        assert update["begin_nonce"] == nonce + 1
        assert update["nonce"] == nonce + 2


async def test_who_connects_is_turned_away_for_a_while() -> None:
    async with opened() as (venue, client):
        venue.faults.trigger("refuse", for_secs=0.2)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await client.wire()
        assert (await client.get("/info"))[0] == 503
        await asyncio.sleep(0.2)
        await client.wire()


async def test_requests_are_answered_with_an_error() -> None:
    async with opened() as (venue, client):
        venue.faults.trigger("http_429")
        assert await client.get("/info") == (
            429, {"code": 23000, "message": "Too Many Requests!"},
        )  # fmt: skip
        venue.faults.trigger("http_5xx", text="503")
        assert (await client.get("/info"))[0] == 503
        venue.faults.trigger("http_405")
        async with client.http.get(f"{venue.rest_url}/info") as answer:
            assert answer.status == 405
            assert answer.content_type == "text/html"
            assert answer.headers["x-amzn-waf-action"] == "captcha"
        assert (await client.get("/info"))[0] == 200


async def test_a_lost_ack_hides_that_the_order_was_taken() -> None:
    async with opened() as (venue, client):
        wire = await client.trader()
        venue.faults.trigger("lost_ack")
        kind, info = create(1)
        await wire.say(type="jsonapi/sendtx", data={"id": "1", "tx_type": kind, "tx_info": info})
        await wire.order("open")
        assert not any(frame.get("id") == "1" for frame in wire.seen)
        venue.faults.trigger("lost_ack")
        kind, info = cancel(2)
        with pytest.raises(aiohttp.ClientError):
            await client.post("sendTx", tx_type=kind, tx_info=json.dumps(info))
        await wire.order("canceled")
        assert venue.next_nonce(ACCOUNT, KEY) == 3


async def test_a_late_fill_is_told_after_the_cancel_of_the_rest() -> None:
    async with opened(fill_model="queue") as (venue, client):
        wire = await client.trader()
        await wire.send(*create(1, Price=200_600))
        await wire.order("open")
        venue.faults.trigger("late_fill", amount=0.2)
        venue.push_trade("200.600", "0.040", -1)
        assert venue.position(ACCOUNT) == 40_000_000
        await wire.send(*cancel(2))
        assert (await wire.order("canceled"))["filled_base_amount"] == "0.040"
        assert not any(frame.get("type") == "update/account_all_trades" for frame in wire.seen)
        trade = (await wire.next("update/account_all_trades"))["trades"][str(MARKET)][0]
        assert trade["size"] == "0.040"


async def test_a_nonce_is_refused_though_right_and_a_quota_said_to_be_spent() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        venue.faults.trigger("nonce_rejected")
        assert await wire.refused(create(1)) == 21104
        venue.faults.trigger("quota_spent")
        assert await wire.refused(create(1)) == 23000
        assert venue.next_nonce(ACCOUNT, KEY) == 1
        assert (await wire.send(*create(1)))["code"] == 200


async def test_a_shutdown_is_announced_and_then_closes() -> None:
    async with opened() as (venue, client):
        wire = await client.wire()
        venue.faults.trigger("shutdown", amount=0.1)
        assert await wire.next("shutdown") == {"type": "shutdown", "close_in_ms": 100}
        assert wire.closed is None
        await wire.until(lambda: wire.closed is not None)
        assert wire.closed == 1001


async def test_a_token_expires_early() -> None:
    async with opened() as (venue, client):
        venue.faults.trigger("token_expiry")
        status, answer = await client.get(
            "/api/v1/accountActiveOrders", token(), account_index=ACCOUNT
        )
        assert (status, answer["message"]) == (400, "invalid auth: expired token")
        wire = await client.wire()
        await wire.subscribe(f"account_all_orders/{ACCOUNT}", token())
