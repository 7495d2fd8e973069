"""The Lighter stand-in: its REST API and WebSocket on this machine, around a recorded market.

The official SDK works against it unchanged. What it does not do: verify signatures (their shape
is checked), give the venue's own transaction hashes, match accounts with each other, show depth
beyond the best level, trigger orders, pay funding, liquidate.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from aiohttp import web

from sandbox.faults import Fault, FaultKind, Faults
from sandbox.lighter_account import LighterAccount
from sandbox.lighter_api import Api
from sandbox.lighter_auth import token_refusal
from sandbox.lighter_channels import Channels
from sandbox.lighter_engine import Engine
from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_market import Json, Market
from sandbox.lighter_messages import order_json, trade_json
from sandbox.lighter_recording import market_events
from sandbox.lighter_rest import Rest
from sandbox.lighter_ws import Hub
from sandbox.playback import Playback
from sandbox.threads import in_thread
from sinks.fills import FillModel
from sinks.simulated import TIER_LATENCY, Latency, SimulatedVenue
from streams.clock import NEVER
from streams.events import BUY, SELL, Quote, Trade
from streams.instrument import Instrument, to_units

__all__ = ["LighterVenue"]

_Result = TypeVar("_Result")

_LONGEST_NAP_SECS: Final = 0.05
"""A clock that was handed in may jump, so nobody sleeps longer while something is due."""
_FAULT_EVERY_SECS: Final = 0.02
_CALL_SECS: Final = 10.0
_SHUTDOWN_SECS: Final = 1.0


class LighterVenue:
    """A Lighter of one market and some accounts on 127.0.0.1.

    The market is the target of a recording, or what ``push_quote`` and ``push_trade`` say. Faults
    are asked of ``faults`` all the time, so ``faults.trigger`` works while it runs: ``text`` limits
    ``gap`` (the order book without it), ``malformed``, ``reorder`` and ``duplicate`` to updates of
    one kind of channel, and is the status of ``http_5xx``. Each of these four happens to one
    connection; ``drop``, ``rst``, ``session_restart`` and ``shutdown`` to all WebSockets;
    ``delay``, ``stall`` and ``refuse`` to requests as well.

    It runs on the loop that enters it. The SDK's native calls block their thread, so a test of them
    uses ``run_in_thread``; all methods here may be called from any thread.
    """

    def __init__(
        self,
        recording: Path | None = None,
        *,
        market_id: int = 110,
        symbol: str = "NVDA",
        price_decimals: int = 3,
        size_decimals: int = 3,
        min_base_amount: str = "0.050",
        min_quote_amount: str = "10",
        accounts: Mapping[int, Mapping[int, str]],
        collateral: str = "100000",
        tier: str = "standard",
        limits: LighterLimits | None = None,
        latency: Latency | None = None,
        fill_model: FillModel = "touch",
        playback: Playback | None = None,
        faults: Faults | None = None,
        clock: Callable[[], int] | None = None,
        cancel_all_lag_ms: int = 100,
        port: int = 0,
        seed: int = 0,
        max_seconds: float | None = None,
    ) -> None:
        """Prepare the venue; ``async with`` opens it.

        ``accounts`` holds the public keys by account and key index. ``limits`` and ``latency`` are
        the tier's when not set. ``clock`` (ns since 1970) is the wall's when not set. A
        ``playback`` of one's own is started by whom it belongs to. ``max_seconds`` ends the
        recording after so many of its seconds; the last quote stays. ``seed`` shifts the ids of
        orders and trades, which at the venue start anywhere.

        Errors: KeyError for an unknown tier.
        """
        self._recording = recording
        self._instrument = Instrument(
            symbol=symbol, venue="LIGHTER", price_decimals=price_decimals,
            size_decimals=size_decimals,
            min_base_amount=to_units(min_base_amount, "min_base_amount"),
            min_quote_amount=to_units(min_quote_amount, "min_quote_amount"),
        )  # fmt: skip
        self.faults: Final = Faults() if faults is None else faults
        limits = LighterLimits.of_tier(tier) if limits is None else limits
        self._own_playback = playback is None
        self._playback = Playback(0) if playback is None else playback
        self._clock = self._playback.now_ns if clock is None else clock
        self._last_ns = 0
        self._limits = limits
        self._max_seconds = max_seconds
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.rest_url = ""
        """Where the REST API is; empty before it is open."""
        self.ws_url = ""
        """Where the WebSocket is."""

        self._market = Market(market_id, symbol, self._instrument, seed=seed)
        money = to_units(collateral, "collateral") // 10 ** (9 - self._market.quote_decimals)
        self._accounts: dict[int, LighterAccount] = {}
        self._hub = Hub(
            self._accounts, market_id, limits, self._now, self._take, self._active, self._authorise
        )
        self._channels = Channels(self._market, self._accounts, self._hub, self._now, self._take)
        self._engine = Engine(
            self._market, self._accounts, latency=latency or TIER_LATENCY[tier], tier=tier,
            cancel_all_lag_ns=cancel_all_lag_ms * 1_000_000, tell=self._channels.tell,
        )  # fmt: skip
        for index, keys in accounts.items():
            core = SimulatedVenue(
                self._instrument, partial(self._engine.answer, index), fill_model=fill_model,
                tier=tier,
            )  # fmt: skip
            self._accounts[index] = LighterAccount(index, dict(keys), core, limits, money)
        self._api = Api(
            self._market,
            self._accounts,
            self._engine,
            limits,
            self._now,
            self._take,
            self._wake.set,
        )
        self._hub.api, self._hub.snapshots = self._api, self._channels
        self._rest = Rest(
            self._market, self._accounts, self._engine, self._api, limits, tier, self._now,
            self._take, self._active, self._authorise,
        )  # fmt: skip

    # ------------------------------------------------------------ open and close

    async def __aenter__(self) -> LighterVenue:
        """Open the sockets and start the market."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        app = web.Application(middlewares=[self._rest.guard])
        app.add_routes([*self._rest.routes(), web.get("/stream", self._hub.handle)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.rest_url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/stream"
        runs = [self._keep_time(), self._keep_faults()]
        if self._recording is not None:
            runs.append(self._play(self._recording))
        elif self._own_playback:
            self._playback.start()
        self._tasks = [asyncio.create_task(run) for run in runs]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and the sockets.

        Errors: what the playing of the recording or the engine failed with, if anything.
        """
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._channels.close()
        await self._hub.close()
        assert self._runner is not None
        await self._runner.cleanup()
        self._loop = self._thread_id = None
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    def run_in_thread(self) -> AbstractContextManager[LighterVenue]:
        """Run the venue on a loop in a thread of its own while the context lasts."""
        return in_thread(self, "lighter-venue")

    # ------------------------------------------------------------ the market

    def push_quote(
        self,
        bid_px: str | None,
        ask_px: str | None,
        bid_sz: str | None = "1",
        ask_sz: str | None = "1",
    ) -> None:
        """Set the best bid and offer, decimals as text; ``None`` for an absent side."""

        def units(text: str | None, name: str) -> int | None:
            return None if text is None else to_units(text, name)

        prices = units(bid_px, "bid_px"), units(ask_px, "ask_px")
        sizes = units(bid_sz, "bid_sz"), units(ask_sz, "ask_sz")
        self._call(lambda: self._engine.on_quote(self._now(), *prices, *sizes))

    def push_trade(self, px: str, qty: str, side: int = 0) -> None:
        """Let others trade, decimals as text; ``side`` is the taker's."""
        if side not in (BUY, SELL, 0):
            raise ValueError(f"side of a trade must be BUY, SELL or 0, was {side!r}")

        def trade() -> None:
            now = self._now()
            event = Trade(0, now, now, to_units(px, "px"), to_units(qty, "qty"), side)
            self._engine.on_trade(now, event)

        self._call(trade)

    async def _play(self, recording: Path) -> None:
        events = market_events(recording, self._instrument)
        last_ts = NEVER
        for event in events:
            if last_ts == NEVER and self._max_seconds is not None:
                last_ts = event.ts + round(self._max_seconds * 1e9)
            if self._own_playback and not self._playback.started:
                self._playback = Playback(event.ts, start_ns=self._playback.now_ns())
            if event.ts > last_ts:
                return
            await self._playback.sleep_until(event.ts)
            at = max(self._engine.now_ns, min(self._playback.wall_ns(event.ts), self._now()))
            if isinstance(event, Quote):
                self._engine.on_quote(at, event.bid_px, event.ask_px, event.bid_sz, event.ask_sz)
            else:
                self._engine.on_trade(at, event)
            await asyncio.sleep(0)  # at a high speed nobody waits, and the others must run

    # ------------------------------------------------------------ what a test looks at

    def open_orders(self, account: int) -> list[Json]:
        """Live orders of an account, as the venue writes them."""
        return self._call(
            lambda: [order_json(self._market, o) for o in self._accounts[account].live()]
        )

    def orders(self, account: int) -> list[Json]:
        """All orders of an account, gone ones as well."""
        return self._call(
            lambda: [order_json(self._market, o) for o in self._accounts[account].orders]
        )

    def fills(self, account: int) -> list[Json]:
        """All trades of an account, as the venue writes them."""
        return self._call(
            lambda: [trade_json(self._market, t) for t in self._accounts[account].trades]
        )

    def position(self, account: int) -> int:
        """Signed position, 1e-9 base units."""
        return self._call(lambda: self._accounts[account].position.size * self._instrument.lot_size)

    def next_nonce(self, account: int, key: int) -> int:
        """The nonce that the venue expects next."""
        return self._call(lambda: self._accounts[account].nonces[key])

    def quota(self, account: int) -> int | None:
        """Volume quota that is left; ``None`` for an account without one."""
        return self._call(lambda: self._accounts[account].allowance.quota_left)

    def cancel_all_time(self, account: int) -> int:
        """When the dead-man's switch fires, ms since 1970; 0 when it is not armed."""
        return self._call(lambda: self._accounts[account].cancel_all_ms)

    def connections(self) -> int:
        """How many WebSockets are open."""
        return self._call(lambda: len(self._hub.connections))

    def set_active(self, active: bool) -> None:
        """Let the market take orders, or not."""
        self._call(lambda: setattr(self._market, "active", active))

    def _call(self, action: Callable[[], _Result]) -> _Result:
        """Do something on the venue's loop, from whichever thread."""
        loop = self._loop
        if loop is None or threading.get_ident() == self._thread_id:
            result = action()
            self._wake.set()
            return result

        async def run() -> _Result:
            return self._call(action)

        return asyncio.run_coroutine_threadsafe(run(), loop).result(_CALL_SECS)

    # ------------------------------------------------------------ time and faults

    def _now(self) -> int:
        self._last_ns = max(self._last_ns, self._clock(), self._engine.now_ns)
        return self._last_ns

    async def _keep_time(self) -> None:
        """Let the engine do what falls due between the market's events."""
        while True:
            self._wake.clear()
            self._engine.advance(self._now())
            due = self._engine.next_due_ns
            wait = None if due == NEVER else min((due - self._now()) / 1e9, _LONGEST_NAP_SECS)
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue

    async def _keep_faults(self) -> None:
        """Do to all connections at once what is due."""
        while True:
            await asyncio.sleep(_FAULT_EVERY_SECS)
            if self._take("drop"):
                self._hub.cut(reset=False)
            if self._take("rst"):
                self._hub.cut(reset=True)
            if self._take("session_restart"):
                self._channels.renumber()
                await self._hub.close(1012, "service restart")
            fault = self._take("shutdown")
            if fault is not None:
                await self._hub.shutdown(fault.amount or _SHUTDOWN_SECS)

    def _take(self, kind: FaultKind) -> Fault | None:
        return self.faults.take(kind, self._playback.elapsed_secs())

    def _active(self, kind: FaultKind) -> Fault | None:
        return self.faults.active(kind, self._playback.elapsed_secs())

    def _authorise(self, token: str, account: int) -> str:
        if self._take("token_expiry"):
            return "invalid auth: expired token"
        return token_refusal(
            token,
            account=account,
            keys={index: held.keys for index, held in self._accounts.items()},
            now_s=self._now() // 1_000_000_000,
            longest_s=self._limits.token_secs,
        )
