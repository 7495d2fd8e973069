"""Live: the graph on real sockets, every input recorded before it is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, cast

from msgspec import Struct
from msgspec.structs import replace
from reactivex import Observer

from marblemaker.boundary import Boundary
from marblemaker.kill import KillFile
from marblemaker.live_log import Rate, live_log
from marblemaker.settings import Settings, SettingsError, as_used, instruments_of
from marblemaker.status import Standing
from marblemaker.trace import Trace, finish_trace
from marblemaker.versions import versions
from marblemaker.wall import now_ns
from marblemaker.wiring import (
    budget_of,
    order_sink_of,
    parameters_of,
    simulated_venue_of,
)
from operators.budget import Budget
from operators.quoting import quoting
from operators.tap import NO_TAPS
from sinks.dry import DryVenue
from sinks.journal import Journal
from sinks.lighter import LighterError, LighterVenue
from sinks.lighter_rest import LighterRest, MarketDetails, RestError
from sinks.lighter_signer import Signer, SigningError
from sinks.limits import TIER_LIMITS
from sinks.order_sink import OrderSink
from sinks.orders import ADOPTED
from sinks.quote_view import quote_view
from sinks.recorder import Recorder
from sinks.simulated import SilentVenue, SimulatedVenue
from sinks.venue import Command, Venue
from streams.clock import Clock, no_thread_timers
from streams.databento import DatabentoFeed
from streams.events import AccountEvent, Decision, Quote, Status
from streams.feed import Emit, Feed
from streams.instrument import UNIT, format_units
from streams.lighter import LighterFeed, LighterSocket, Pace
from streams.pump import ACCOUNT, SIGNAL, STATUS, TARGET, TRADE, Event, Inputs, Market, Pump
from streams.recording import FILES, FileEntry, Manifest, Recording

__all__ = ["Endpoints", "LiveError", "LiveRun", "Mode", "endpoints_of"]

Mode = Literal["dry", "paper", "live", "record"]

_NS: Final = 10**9
_SPAN_NS: Final = 3 * 86_400 * _NS
"""How far ahead a run's sessions are known at its start."""
_KILL_POLL_SECS: Final = 1.0
_DEAD_MAN_SECS: Final = 300.0
"""The venue's least: it cancels everything of the account if we are silent for so long."""

# Lighter docs, "Get started", copies of Aug/Sep 2026.
_URLS: Final = {
    "mainnet": ("https://mainnet.zklighter.elliot.ai", "wss://mainnet.zklighter.elliot.ai/stream"),
    "testnet": ("https://testnet.zklighter.elliot.ai", "wss://testnet.zklighter.elliot.ai/stream"),
}
_CHAINS: Final = {"mainnet": 304, "testnet": 300}

_log = logging.getLogger("marblemaker.live")


class LiveError(RuntimeError):
    """A live run cannot start, or ended by a failure of ours."""


class Endpoints(Struct, frozen=True, kw_only=True):
    """Where a run connects to, and as whom. Secrets are never shown, logged or recorded."""

    databento_key: str
    gateway: str | None
    rest_url: str
    ws_url: str
    chain_id: int
    account_index: int | None = None
    api_key_index: int | None = None
    private_key: str | None = None

    def __repr__(self) -> str:
        """Tell where, never with what."""
        return f"Endpoints(gateway={self.gateway!r}, rest_url={self.rest_url!r})"


def endpoints_of(settings: Settings, mode: Mode, environ: dict[str, str]) -> Endpoints:
    """Read what a run connects to from the settings, and the secrets from the environment.

    Errors: SettingsError naming the variable that is missing and what needs it.
    """
    environment = settings.lighter.environment
    rest_url, ws_url = _URLS[environment]
    key = environ.get("DATABENTO_API_KEY", "")
    if not key:
        raise SettingsError(
            "DATABENTO_API_KEY is not set in the environment; the signal's feed needs it. Set it, "
            "or see the pipeline without keys: marble live --sandbox"
        )
    for url in (settings.lighter.rest_url, settings.lighter.ws_url):
        if environment == "testnet" and url is not None and "mainnet" in url:
            raise SettingsError(
                f"{url} is mainnet, but lighter.environment is testnet; set that to mainnet, with "
                f"the consents it needs, or leave the address out"
            )
    prefix = "LIGHTER_TESTNET_" if environment == "testnet" else "LIGHTER_"
    values: dict[str, Any] = {}
    if mode == "live":
        for name, field in (
            ("ACCOUNT_INDEX", "account_index"),
            ("API_KEY_INDEX", "api_key_index"),
            ("API_SECRET", "private_key"),
        ):
            value = environ.get(prefix + name, "")
            if not value:
                raise SettingsError(
                    f"{prefix}{name} is not set in the environment; orders on {environment} need it"
                )
            if field != "private_key":
                if not value.isdigit():
                    raise SettingsError(f"{prefix}{name} must be a whole number")
                values[field] = int(value)
            else:
                values[field] = value
    return Endpoints(
        databento_key=key,
        gateway=settings.databento.gateway,
        rest_url=settings.lighter.rest_url or rest_url,
        ws_url=settings.lighter.ws_url or ws_url,
        chain_id=_CHAINS[environment],
        **values,
    )


class LiveRun:
    """One live run of one market: feeds, boundary, recorder, graph, sink, venue."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        *,
        mode: Mode,
        endpoints: Endpoints,
        on_status: Callable[[Standing], None] = lambda standing: None,
        status_secs: float = 1.0,
        resume: Path | None = None,
    ) -> None:
        """Name the parts; nothing is opened before ``run``.

        ``resume``: an earlier run whose inputs are gone through first, so that baselines, orders
        and position stand where it ended. They are recorded again: the new run holds all of it.
        """
        self.settings = settings
        self.folder = out
        self.mode: Mode = mode
        self.why_ended = ""
        self.failed: str | None = None
        """What went wrong on our side; the exit code is 1 then."""
        self.interrupted = False
        self.decisions = 0
        self.last_decision: Decision | None = None
        self._endpoints = endpoints
        self._on_status = on_status
        self._status_secs = status_secs
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._venue_stop: Callable[[float], Awaitable[None]] | None = None
        self._last_quote = {"signal": 0, "target": 0}
        self._rate = Rate()
        self._recorder: Recorder | None = None
        self._sink: OrderSink | None = None
        self._journal: Journal | None = None
        self._trace: Trace | None = None
        # Not the graph's affair, and milliseconds of work: the event loop shall not wait for it.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="marble-trace")
        self._traced: Future[None] = Future()
        self._traced.set_result(None)
        self._lag_ns = 0
        self._pace = Pace()
        self._boundary: Boundary
        self._real: Venue
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._held: list[tuple[int, Sequence[Any]]] | None = None
        """What the venue says before an earlier run was gone through; ``None``: nothing waits."""
        self._resume = None if resume is None else Recording.open(resume)

    # ------------------------------------------------------------ the run

    async def run(self, *, for_secs: float | None = None) -> dict[str, Any]:
        """Run until stopped, or for so many seconds; return the summary.

        Errors: LiveError if it cannot start. What fails later is in ``failed``.
        """
        loop = asyncio.get_running_loop()
        self._install_signals(loop)
        rest = LighterRest(
            self._endpoints.rest_url,
            account_index=self._endpoints.account_index or 0,
            api_key_index=self._endpoints.api_key_index or 0,
            token=self._no_token,
        )
        try:
            details = await self._market(rest)
        finally:
            await rest.close()
        self.settings = _with_market(self.settings, details)
        try:
            with live_log(self._graph_ns) as log:
                self._log_file = log
                return await self._run(loop, details, for_secs)
        finally:
            await self._close()
            # Only now: a second signal shall not interrupt what writes the manifest.
            for name in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.remove_signal_handler(name)

    async def _run(
        self, loop: asyncio.AbstractEventLoop, details: MarketDetails, for_secs: float | None
    ) -> dict[str, Any]:
        self._held = []
        real: Venue | None = None
        position: int | None = None
        if self.mode == "live":
            try:
                real, position = await self._open_lighter(details)
            except (RestError, SigningError, LighterError) as error:
                raise LiveError(f"the account could not be opened: {error}") from error
        try:
            feeds = self._feeds(details)
        except ValueError as error:
            raise LiveError(f"the feeds cannot be asked for that: {error}") from error
        started = now_ns()
        first_ts = started if self._resume is None else self._resume.manifest.first_ts or started
        manifest = self._manifest({}, "running")
        span = FileEntry(rows=0, sha256="", first_ts=first_ts, last_ts=started + _SPAN_NS)
        recorder = self._recorder = Recorder(
            self.folder, _names(self.settings), on_failure=self._threadsafe_fail(loop)
        )
        recorder.start(manifest, started=started)
        self._log_file.open(self.folder / "log.jsonl")
        with no_thread_timers():
            _log.info("%s run of %s starts", self.mode, self.settings.target.instrument)
            self._journal = Journal(self.folder, account=False)
            self._trace = self._new_trace()
            market = Market(len(self.settings.signal_instruments))
            self._clock = clock = Clock(first_ts)
            self._build(clock, market, recorder, span, real)
            self._catch_up(details, position)
            await self._stream(loop, feeds, for_secs)
            await self._close()
        return self._finish(manifest)

    def _new_trace(self) -> Trace | None:
        if self.mode == "record":
            return None
        return Trace(
            self.folder,
            signals=len(self.settings.signal_instruments),
            fair_value=self.settings.strategy.preset == "fair_value",
        )

    async def _market(self, rest: LighterRest) -> MarketDetails:
        symbol = self.settings.target_instrument.symbol.removesuffix("-PERP")
        try:
            return await rest.market(symbol)
        except RestError as error:
            way_out = (
                "too many requests from here: wait a minute and start again"
                if error.limited
                else "check lighter.environment, lighter.rest_url and target.instrument"
            )
            raise LiveError(
                f"the market {symbol} could not be read from {self._endpoints.rest_url}: {error}; "
                f"{way_out}"
            ) from error

    async def _no_token(self) -> str:
        raise LiveError("a call about the account was made without an account")

    def _build(
        self,
        clock: Clock,
        market: Market,
        recorder: Recorder,
        span: FileEntry,
        real: Venue | None,
    ) -> None:
        """Wire pump, graph and sink; ``real`` is the venue where it is no simulated one."""
        settings, journal = self.settings, self._journal
        assert journal is not None
        names = {kind: name for name, kind in FILES.items()}

        def record(kind: int, event: Quote | Event) -> None:
            recorder.record(event, names[kind])

        simulated: SimulatedVenue | DryVenue | None = None
        if self.mode == "paper":
            simulated = simulated_venue_of(settings, lambda event: pump.answer(event))
        elif self.mode in ("dry", "record"):
            simulated = DryVenue(lambda event: pump.answer(event))
        venues = () if simulated is None else (simulated,)
        self._pump = pump = Pump(clock, *venues, markets=[market])
        pump.record = record
        self._boundary = Boundary(
            pump, on_delivered=self._after_delivery, on_error=self._on_graph_error
        )
        if self.mode == "record":
            return
        self._real = cast(Venue, simulated if real is None else real)
        venue = self._venue = _Behind(SilentVenue() if self._resume is not None else self._real)
        self._sink = sink = order_sink_of(
            settings,
            venue,
            journal,
            clock=clock,
            notify=pump.notify,
            on_decision=self._on_decision,
        )
        parameters = parameters_of(settings, Manifest(files={"span": span}))
        graph = quoting(
            parameters,
            target=market.target,
            orders=market.orders,
            status=market.status,
            trades=market.trades,
            more_signals=market.signals[1:],
            taps=NO_TAPS if self._trace is None else self._trace.taps,
        )
        if self._trace is not None:
            market.orders.subscribe(Observer(self._trace.order))
        market.account.subscribe(Observer(self._on_account))
        self._graph = market.signals[0].pipe(graph).subscribe(sink, scheduler=clock)
        limits = budget_of(settings)
        self._budget = None if limits is None else Budget(limits, clock.now_ns)
        if self._budget is not None:
            market.orders.subscribe(Observer(self._budget.listener()))

    def _catch_up(self, details: MarketDetails, position: int | None) -> None:
        """Go through the run that is resumed, then take what the venue has said meanwhile."""
        if self._resume is not None and self._sink is not None:
            self._go_through(self._resume)
            self._venue.now = self._real
        held, self._held = self._held or [], None
        if self._resume is not None and self._sink is not None:
            # What became of the orders since is not known: the sink asks for each.
            for kind in ("disconnect", "connect"):
                self._deliver(ACCOUNT, [_account(kind, "resumed")])
        for kind_, events in held:
            self._deliver(kind_, events)
        if position is not None:
            px = details.last_trade_px
            self._deliver(ACCOUNT, [_account("position", ADOPTED, qty=position, px=px)])

    def _go_through(self, recording: Recording) -> None:
        """Deliver an earlier run's inputs, all but its stop."""
        inputs = recording.inputs(self.settings.target_instrument, recorded=True)
        for batch, _ in inputs:
            stops = [getattr(event, "kind", "") == "stop" for event in batch.events]
            if any(stops):
                batch = _without_stop(batch)
            batch.seq = None
            self._pump.run(batch)
            self._boundary.inputs += len(batch.kind)
            if self._trace is not None:
                self._trace.take()()

    async def _open_lighter(self, details: MarketDetails) -> tuple[Any, int]:
        """The real venue, reconciled; and the position that it holds for us."""
        e = self._endpoints
        assert e.account_index is not None
        assert e.api_key_index is not None
        assert e.private_key is not None
        signer = Signer(
            url=e.rest_url, account_index=e.account_index, api_key_index=e.api_key_index,
            private_key=e.private_key, now_ns=now_ns, chain_id=e.chain_id,
        )  # fmt: skip
        self._closing.append(signer.close)
        await signer.open()
        token = [await signer.token()]
        rest = LighterRest(
            e.rest_url, account_index=e.account_index, api_key_index=e.api_key_index,
            token=signer.token,
        )  # fmt: skip
        self._closing.append(rest.close)
        a = e.account_index

        def on_status(kind: Literal["connect", "disconnect"], text: str) -> None:
            _log.info("account %s %s", kind, text)
            venue.on_connection(kind, text)

        socket = LighterSocket(
            e.ws_url,
            channels=[],
            private=[
                f"account_all_orders/{a}", f"account_all_trades/{a}", f"account_all_positions/{a}",
                f"user_stats/{a}", f"account_tx/{a}",
            ],
            on_frame=lambda frame: venue.on_frame(frame),
            on_raw=self._raw("account"),
            on_status=on_status,
            auth=lambda: token[0], pace=self._pace, now=lambda: now_ns() / 1e9,
        )  # fmt: skip

        async def keep_token() -> None:
            while True:
                await asyncio.sleep(30.0)
                token[0] = await signer.token()

        venue = LighterVenue(
            signer=signer, rest=rest, send=socket.send, market=details,
            answer=lambda event: self._deliver(ACCOUNT, [event]), tag=self.settings.lighter.tag,
            now_ns=now_ns, settle_secs=1.0, dead_man_secs=_DEAD_MAN_SECS, mark=self._mark,
            on_market=self._on_market,
        )  # fmt: skip
        self._start(socket.run(), "account socket")
        self._start(keep_token(), "auth token")
        found = await venue.start()
        if found.obstacle:
            raise LiveError(f"{details.symbol} cannot be quoted now: {found.obstacle}")
        self.settings = _with_account(self.settings, found.limits.tier)
        self._start(venue.run(), "order venue")

        self._venue_stop = venue.stop
        _log.info("reconciled: %s", found)
        return venue, found.position

    # ------------------------------------------------------------ inputs

    def _feeds(self, details: MarketDetails) -> list[tuple[str, Feed]]:
        e, s = self._endpoints, self.settings
        symbols: dict[str, Emit] = {
            instrument.symbol: self._emit("signal", SIGNAL + k)
            for k, instrument in enumerate(s.signal_instruments)
        }
        signal_feed = DatabentoFeed(
            key=e.databento_key, dataset=s.databento.dataset, schema=s.databento.schema,
            symbols=symbols, status=self._emit("signal", STATUS), gateway=e.gateway,
        )  # fmt: skip
        target_feed = LighterFeed(
            e.ws_url, market_id=details.market_id, price_decimals=details.price_decimals,
            size_decimals=details.size_decimals, quotes=self._emit("target", TARGET),
            trades=self._emit("target", TRADE), status=self._emit("target", STATUS),
            raw=self._raw("target"), pace=self._pace,
        )  # fmt: skip
        return [("signal feed", signal_feed), ("target feed", target_feed)]

    def _emit(self, feed: str, kind: int) -> Emit:
        is_quotes = kind not in (STATUS, TRADE)

        def emit(events: Sequence[Any]) -> None:
            if is_quotes and events:
                now = now_ns()
                self._last_quote[feed] = now
                made = events[-1].ts_event
                if made is not None:
                    self._lag_ns = now - made
            for event in events:
                if isinstance(event, Status) and event.kind not in ("heartbeat", "sibling"):
                    _log.info("%s %s %s", event.source, event.kind, event.text)
            self._deliver(kind, events)

        return emit

    def _raw(self, name: str) -> Callable[[bytes], None]:
        def record(data: bytes) -> None:
            if self._recorder is not None:
                self._recorder.record_raw(name, now_ns(), data)

        return record

    def _deliver(self, kind: int, events: Sequence[Any]) -> None:
        if self._held is not None:
            self._held.append((kind, events))
            return
        if self.failed is not None and kind != ACCOUNT:
            return
        self._boundary.deliver(kind, events)
        self._rate.count(len(events))

    def _on_graph_error(self, error: Exception) -> None:
        _log.error("the graph failed", exc_info=error)
        self._fail(f"the graph failed: {error!r}")

    def _after_delivery(self) -> None:
        if self._sink is not None and self._sink.error is not None and self.failed is None:
            self._fail(f"the graph failed: {self._sink.error!r}")
        if self._sink is not None and self._sink.finished:
            self._finished.set()

    def _on_account(self, event: AccountEvent) -> None:
        assert self._journal is not None
        assert self._sink is not None
        self._journal.account(event)
        if event.kind == "stop":
            self._graph.dispose()
        self._sink.on_account(event)

    def _on_decision(self, decision: Decision) -> None:
        assert self._journal is not None
        self._journal.decision(decision)
        if self._trace is not None:
            self._trace.decision(decision)
        self.decisions += 1
        self.last_decision = decision

    # ------------------------------------------------------------ running and stopping

    async def _stream(
        self,
        loop: asyncio.AbstractEventLoop,
        feeds: Sequence[tuple[str, Feed]],
        for_secs: float | None,
    ) -> None:
        self._finished = asyncio.Event()
        for name, feed in feeds:
            self._start(feed.run(), name)
        self._start(self._report(), "status")
        if self.settings.risk.kill_file is not None:
            self._start(self._watch_kill_file(Path(self.settings.risk.kill_file)), "kill file")
        timer = None if for_secs is None else loop.call_later(for_secs, self.stop, "time is over")
        await self._stopping.wait()
        if timer is not None:
            timer.cancel()
        await self._wind_down()

    def stop(self, why: str) -> None:
        """Begin to stop: cancel all, wait for the venue within the bound, write the manifest."""
        if not self._stopping.is_set():
            self.why_ended = why
            _log.info("stopping: %s", why)
            self._stopping.set()

    def _fail(self, why: str) -> None:
        if self.failed is None:
            self.failed = why
            _log.error("%s", why)
        self.stop(why)

    def _threadsafe_fail(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def fail(why: str) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._fail, why)

        return fail

    async def _wind_down(self) -> None:
        """Cancel everything, and wait for the venue to confirm it."""
        if self._sink is None:
            return
        stop = AccountEvent(seq=0, ts=0, kind="stop", reason=self.why_ended)
        self._boundary.deliver(ACCOUNT, [stop])
        if not self._sink.stopping:  # the stop itself failed in the graph
            self._sink.stop(self._clock.now_ns)
        within = self.settings.orders.stop_timeout_secs + 1.0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._finished.wait(), within)
        if self._venue_stop is not None:
            await self._venue_stop(within)

    async def _close(self) -> None:
        """Let go of everything that is open; a second time there is nothing left to do."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing, self._closing = self._closing, []
        for close in reversed(closing):
            await close()
        if hasattr(self, "_boundary"):
            self._boundary.close()

    def _start(self, work: Awaitable[Any], name: str) -> None:
        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._fail(f"{name}: {error}")
            else:
                if not self._stopping.is_set():
                    self._fail(f"{name} ended by itself")

        self._tasks.append(asyncio.ensure_future(guarded()))

    def _install_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def on_signal(name: str) -> None:
            self.interrupted = True
            if self._stopping.is_set():
                _log.warning("%s again: still cancelling, the bound holds", name)
            self.stop(name)

        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, on_signal, number.name)

    async def _watch_kill_file(self, path: Path) -> None:
        watched = KillFile(path)
        while True:
            change = watched.changed()
            if change is not None:
                kind, text = change
                self._deliver(STATUS, [Status(0, 0, "operator", kind, text)])
            await asyncio.sleep(_KILL_POLL_SECS)

    # ------------------------------------------------------------ what people see

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._status_secs)
            self._on_status(self.standing())
            if self._journal is not None:
                self._journal.flush()
            self._write_trace()

    def _write_trace(self) -> None:
        """Digest and write what operators have put out since, on a thread of its own."""
        if self._trace is None or not self._traced.done():
            return
        self._traced.result()
        self._traced = self._disk.submit(self._trace.take())

    def standing(self) -> Standing:
        """How the run stands at this instant."""
        now = now_ns()
        assert self._recorder is not None
        rows, backlog_ms = self._recorder.backlog
        view = None
        if self._sink is not None and self._journal is not None:
            view = quote_view(self._sink, self._journal.ledger)
        budget = getattr(self, "_budget", None)
        return Standing(
            mode=self.mode,
            inputs=self._boundary.inputs,
            inputs_per_second=self._rate.per_second(now),
            signal_age_secs=_age(now, self._last_quote["signal"]),
            target_age_secs=_age(now, self._last_quote["target"]),
            lag_ms=self._lag_ns / 1e6,
            view=view,
            decision=self.last_decision,
            quota_left=None if budget is None else budget.quota_left,
            in_last_minute=None if budget is None else budget.in_last_minute(now),
            backlog_rows=rows,
            backlog_ms=backlog_ms,
        )

    def _on_market(self, text: str) -> None:
        """Tell it; what the venue does not take is refused by ``LighterVenue`` meanwhile."""
        _log.warning("the market changed: %s", text)
        self._deliver(STATUS, [Status(0, 0, "target", "notice", f"the market changed: {text}")])

    def _mark(self) -> int | None:
        if self._sink is None or self._sink.fair_value is None:
            return None
        return round(self._sink.fair_value * _NS)

    def _graph_ns(self) -> int:
        clock = getattr(self, "_clock", None)
        return 0 if clock is None else clock.now_ns

    # ------------------------------------------------------------ the end

    def _manifest(self, files: dict[str, FileEntry], ended: str) -> Manifest:
        return Manifest(
            mode=self.mode,
            ended=ended,
            instruments=instruments_of(self.settings),
            settings=as_used(self.settings),
            sources={"signal": {"schema": self.settings.databento.schema}},
            versions=versions(),
            files=files,
        )

    def _finish_trace(self, manifest: Manifest, digest: str) -> None:
        """Write the rest of the trace; without it the run is whole, and cannot be proven."""
        self._disk.shutdown(wait=True)
        if self._trace is None:
            return
        names = [name for name in manifest.files if name in FILES]
        try:
            self._traced.result()
            finish_trace(self._trace, self.folder, manifest, digest, names=names)
        except Exception as error:
            # Whatever it is, the manifest that says how the run ended must still be written.
            _log.error("the trace is not whole, so the run cannot be proven: %s", error)

    def _finish(self, manifest: Manifest) -> dict[str, Any]:
        assert self._recorder is not None
        assert self._journal is not None
        files = self._recorder.close() | self._journal.close()
        ended = "complete" if self.failed is None else f"failed: {self.failed}"
        manifest = self._manifest(files, ended)
        left = [] if self._sink is None else [o.n for o in self._sink.left]
        ledger = self._journal.ledger
        summary = {
            "mode": self.mode,
            "target": self.settings.target.instrument,
            "inputs": {name: entry.rows for name, entry in files.items() if name in FILES},
            "decisions": {
                name: n for name, n in sorted(self._journal.counts.items()) if " " not in name
            },
            "reasons": dict(sorted(self._journal.reasons.items())),
            "orders": {
                name.removeprefix("orders "): n
                for name, n in sorted(self._journal.counts.items())
                if " " in name
            },
            "fills": ledger.fills.total(),
            "position": format_units(0 if self._sink is None else self._sink.orders.position),
            "anomalies": {
                what: n
                for what, n in ({} if self._sink is None else self._sink.orders.anomalies).items()
                if n
            },
            "left_working": left,
            "why_ended": self.why_ended,
            "ended": ended,
            "digest": self._journal.digest(),
        }
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        self._finish_trace(manifest, str(summary["digest"]))
        self._recorder.finish(manifest)
        return summary


class _Behind:
    """A venue behind which another can take its place."""

    def __init__(self, now: Venue) -> None:
        self.now = now

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        self.now.submit(ts, commands)


def _account(kind: str, reason: str, **fields: Any) -> AccountEvent:
    return AccountEvent(seq=0, ts=0, kind=kind, reason=reason, **fields)  # type: ignore[arg-type]


def _without_stop(batch: Inputs) -> Inputs:
    """A batch of a recording less the operator's stop: what is resumed has not stopped."""
    keep: list[int] = []
    events = iter(batch.events)
    kept_events: list[Event] = []
    for row, kind in enumerate(batch.kind):
        if kind in (ACCOUNT, STATUS, TRADE):
            event = next(events)
            if isinstance(event, AccountEvent) and event.kind == "stop":
                continue
            kept_events.append(event)
        keep.append(row)
    columns = (
        batch.kind, batch.ts, batch.ts_event, batch.bid_px, batch.ask_px, batch.bid_sz,
        batch.ask_sz, batch.flags,
    )  # fmt: skip
    kept: list[Any] = [[column[row] for row in keep] for column in columns]
    without = Inputs(*kept)
    without.events = kept_events
    return without


def _age(now: int, then: int) -> float | None:
    return None if not then else (now - then) / 1e9


def _names(settings: Settings) -> list[str]:
    signals = ["signal", *(f"signal_{i}" for i in range(2, len(settings.signal_instruments) + 1))]
    return [*signals, "target", "trades", "status", "account"]


def _with_account(settings: Settings, tier: str) -> Settings:
    """Take the account's tier, and with it the limits that its orders have to keep."""
    found = tier.lower() if tier.lower() in TIER_LIMITS else settings.venue.tier
    return replace(settings, venue=replace(settings.venue, limits="tier", tier=found))


def _with_market(settings: Settings, details: MarketDetails) -> Settings:
    """Take decimals and minimums from the venue.

    Errors: SettingsError if the settings say otherwise.
    """
    t = settings.target
    for key, said, found in (
        ("price_decimals", t.price_decimals, details.price_decimals),
        ("size_decimals", t.size_decimals, details.size_decimals),
    ):
        if said is not None and said != found:
            raise SettingsError(
                f"target.{key} is {said} in the settings, the venue says {found}; leave it out, a "
                f"live run takes the venue's"
            )
    settings = replace(
        settings,
        target=replace(
            t,
            price_decimals=details.price_decimals,
            size_decimals=details.size_decimals,
            min_base_amount=format_units(details.min_base_amount),
            min_quote_amount=format_units(details.min_quote_amount),
        ),
    )
    return _with_size(settings, details)


def _with_size(settings: Settings, details: MarketDetails) -> Settings:
    """See that orders are worth what the venue asks of them: a size that was not set is raised.

    Errors: SettingsError if a size that was set is too small at the market's last price.
    """
    px, lot = details.last_trade_px, details.lot_size
    if px is None or not details.min_quote_amount:
        return settings
    # A twentieth to spare, for the price may fall.
    least = -(-details.min_quote_amount * UNIT * 21 // (20 * px * lot)) * lot
    if settings.trade_size >= least:
        return settings
    worth = format_units(details.min_quote_amount)
    if settings.strategy.preset == "ladder" or settings.strategy.trade_size is not None:
        raise SettingsError(
            f"orders of {format_units(settings.trade_size)} are worth less than the {worth} that "
            f"the market asks for (21706) at its last price of {format_units(px)}, or nearly; set "
            f"a size of at least {format_units(least)}"
        )
    return replace(settings, strategy=replace(settings.strategy, trade_size=format_units(least)))
