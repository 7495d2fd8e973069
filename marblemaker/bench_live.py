"""Bench of the live pipeline: from the socket to the decision, and from there to the wire.

The venues are stand-ins in a process of their own, on loopback and with nothing limited; what is
measured is a live run as it is, recorder on, orders signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from marblemaker.console import Console
from marblemaker.importing import import_frames
from marblemaker.live import Endpoints, LiveError, LiveRun
from marblemaker.settings import Settings, instruments_of, load_settings
from marblemaker.versions import versions
from sandbox.databento_gateway import DatabentoGateway
from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_venue import LighterVenue
from sandbox.playback import Playback
from sinks.lighter_rest import MarketDetails
from sinks.venue import Cancel, Command, Create, Modify
from streams.events import AccountEvent, Decision
from streams.feed import Emit, Feed
from streams.instrument import format_units
from streams.pump import STATUS, TRADE
from streams.recording import Recording

__all__ = ["RATES", "bench_live"]

RATES: Final = (1_000, 10_000)

_WARM_UP_SECS: Final = 4.0
_LEAD_SECS: Final = 15.0
"""How much earlier the market moves than the run is there: it opens its signer meanwhile."""
_MARGIN_SECS: Final = 5.0
_TICK_SECS: Final = 0.001
_END_SECS: Final = 10.0

_SIGNAL_SHARE: Final = 0.6
"""Of all quotes, as in the bundled session."""
_MID: Final = 200.0
_MOVES_PER_SEC: Final = 20.0
"""How often a second the price moves by a basis point; a requote follows from either feed."""
_FOLD_BPS: Final = 20.0
_FIRST_TS: Final = 1_781_712_000 * 10**9
"""Of the recording that the stand-ins play now, whatever it is; ns since 1970."""

_OVERRIDES: Final = (
    "session.calendar=24/7", "strategy.requote_threshold_bps=1", "strategy.half_spread_bps=50",
    "strategy.signal_skew_factor=200", "strategy.trade_size=0.1", "strategy.max_position=0.4",
    # The stand-in allows everything, and the budget is still kept.
    "venue.transactions_per_minute=1000000", "venue.volume_quota=5000000",
    "venue.quota_horizon_secs=60",
)  # fmt: skip

_SIGNAL, _TARGET, _ACCOUNT = "signal feed", "target feed", "account socket"
"""Names of a run's tasks that hold a connection."""
_FEEDS: Final = {"signal": _SIGNAL, "target": _TARGET, "account": _ACCOUNT}

_KINDS: Final[dict[type[Command], str]] = {Create: "create", Cancel: "cancel", Modify: "modify"}

# Nobody's: the stand-ins know these and no venue does.
_KEY: Final = "db-" + "s" * 24 + "boxes"
_ACCOUNT_INDEX: Final = 1
_API_KEY_INDEX: Final = 4
_CHAIN: Final = 300

_TITLES: Final = {
    "signal_to_decision": "socket to decision, signal quotes",
    "target_to_decision": "socket to decision, target quotes",
    "quote_to_decision": "socket to decision, both",
    "quote_to_graph_done": "socket to graph done, every quote",
    "decision_to_wire": "decision to wire",
    "signing": "  of it signing, one message",
    "loop_pause": "event loop late",
    "loop_pause_while_signing": "event loop late while signing",
}
_MEASURED: Final = (
    "socket to decision: from the return of the read that completed a quote, before anything of it "
    "is parsed, to the decision's arrival at the order sink; quotes that decided something",
    "socket to graph done: the same quotes and those that decided nothing, until the graph is "
    "through with all that the read brought",
    "decision to wire: from the decision to the signed message's handing to the WebSocket's send; "
    "it includes waiting for messages before it; orders sent upon a venue's answer are left out",
    "event loop late: how much later than asked a task that sleeps 1 ms at a time goes on; the "
    "system's timers of whole ms are part of it",
    "not in it: the network, the kernel, and the wait of bytes for the loop's next look at sockets",
)


def bench_live(
    secs: float, console: Console, rates: Sequence[int] = RATES
) -> tuple[dict[str, Any], list[str]]:
    """Measure a live run for ``secs`` at each rate of quotes a second; give figures and a table.

    Each rate has a run and stand-ins of its own, and some seconds of warm-up that do not count.

    Units: µs in the figures.
    Errors: LiveError if a run cannot start or fails; KeyboardInterrupt if it was interrupted.
    """
    found = {}
    for rate in rates:
        console.note(f"{rate:,} quotes a second for {secs:g} s")
        with tempfile.TemporaryDirectory(prefix="marble-bench-") as folder:
            found[str(rate)] = _measured(rate, secs, Path(folder))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    result = {
        "secs": secs,
        "measured": list(_MEASURED),
        "rates": found,
        "machine": machine,
        "versions": versions(),
    }
    return result, _table(result)


def _table(result: dict[str, Any]) -> list[str]:
    lines = [
        f"live run against stand-ins on loopback, {result['secs']:g} s each, recorder on; "
        f"{result['machine']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    ]
    for rate, figures in result["rates"].items():
        lines += [
            "",
            f"{int(rate):,} quotes a second offered, {figures['quotes_per_second']:,} delivered; "
            f"{figures['decisions']:,} decisions, {figures['messages']:,} messages, "
            f"{figures['transactions']:,} transactions",
            f"{'µs':38}{'samples':>10}{'p50':>10}{'p99':>10}{'p99.9':>10}{'longest':>10}",
        ]
        for name, title in _TITLES.items():
            row = figures["us"][name]
            values = "".join(
                f"{'-' if row[key] is None else format(row[key], ','):>10}"
                for key in ("p50", "p99", "p99.9", "longest")
            )
            lines.append(f"{title:38}{row['samples']:>10,}{values}")
    return [*lines, "", *_MEASURED]


# ---------------------------------------------------------------- what is measured


class _Probe:
    """Instants of one run, ns of a clock that only goes forward, and what lies between them."""

    def __init__(self) -> None:
        self.on = False
        self.since = self.until = 0
        self.samples: dict[str, list[int]] = {name: [] for name in _TITLES}
        self.quotes = self.decisions = self.messages = self.transactions = 0
        self.decided: int | None = None
        """When what is being submitted was decided; ``None``: it follows from no decision."""
        self._unread: dict[str, int] = {}
        self._frame: dict[str, int] = {}
        self._cause: tuple[str, int] | None = None
        self._due: dict[tuple[str, int], int] = {}
        self._signing = 0
        self._signed = 0

    def start(self) -> None:
        self.on, self.since = True, time.perf_counter_ns()

    def stop(self) -> None:
        if self.on:
            self.on, self.until = False, time.perf_counter_ns()

    def arrived(self, connection: str) -> None:
        """Bytes were read. Those whose frame nobody has taken keep the earlier instant."""
        self._unread.setdefault(connection, time.perf_counter_ns())

    def taken(self, connection: str) -> None:
        """The consumer has come to what was read: what it finds now arrived then."""
        at = self._unread.pop(connection, None)
        if at is not None:
            self._frame[connection] = at

    def begin(self, connection: str) -> None:
        """Quotes of a connection are being delivered."""
        at = self._frame.get(connection)
        self._cause = None if at is None else (connection, at)

    def end(self, quotes: int) -> None:
        """They have been delivered."""
        if self._cause is not None and self.on:
            self.quotes += quotes
            took = time.perf_counter_ns() - self._cause[1]
            self.samples["quote_to_graph_done"] += [took] * quotes
        self._cause = self.decided = None

    def decide(self, decision: Decision) -> None:
        """A decision has come to the sink."""
        now = time.perf_counter_ns()
        if decision.action in ("hold", "refuse"):
            return
        self.decided = now
        if not self.on:
            return
        self.decisions += 1
        if self._cause is not None:
            connection, at = self._cause
            feed = "signal" if connection == _SIGNAL else "target"
            self.samples[f"{feed}_to_decision"].append(now - at)
            self.samples["quote_to_decision"].append(now - at)

    def submitted(self, commands: Sequence[Command]) -> None:
        """Commands were given to the venue."""
        if self.decided is not None:
            for command in commands:
                kind = _KINDS.get(type(command))
                if kind is not None:
                    self._due[kind, command.n] = self.decided

    def sent(self, going: Sequence[tuple[Any, Any]]) -> None:
        """A message with these transactions is given to the WebSocket."""
        now = time.perf_counter_ns()
        decided = {self._due.pop((tx.kind, tx.n), None) for tx, _ in going}
        if not self.on:
            return
        self.messages += 1
        self.transactions += len(going)
        # One sample for each decision that has something in the message.
        self.samples["decision_to_wire"] += [now - at for at in decided if at is not None]

    @contextlib.contextmanager
    def signing(self) -> Iterator[None]:
        """Something is being signed meanwhile."""
        began = time.perf_counter_ns()
        self._signing += 1
        try:
            yield
        finally:
            self._signing -= 1
            self._signed = time.perf_counter_ns()
            if self.on:
                self.samples["signing"].append(self._signed - began)

    async def tick(self) -> None:
        """Note how late the event loop is, until cancelled."""
        while True:
            began = time.perf_counter_ns()
            await asyncio.sleep(_TICK_SECS)
            late = time.perf_counter_ns() - began - round(_TICK_SECS * 1e9)
            if self.on:
                self.samples["loop_pause"].append(max(late, 0))
                if self._signing or self._signed >= began:
                    self.samples["loop_pause_while_signing"].append(max(late, 0))

    def figures(self) -> dict[str, Any]:
        secs = (self.until - self.since) / 1e9
        return {
            "quotes_per_second": round(self.quotes / secs) if secs else 0,
            "decisions": self.decisions,
            "messages": self.messages,
            "transactions": self.transactions,
            "us": {name: _percentiles(values) for name, values in self.samples.items()},
        }


def _percentiles(ns: Sequence[int]) -> dict[str, int | None]:
    if not ns:
        return {"samples": 0, "p50": None, "p99": None, "p99.9": None, "longest": None}
    p50, p99, p999, longest = np.percentile(ns, (50.0, 99.0, 99.9, 100.0)) / 1e3
    return {
        "samples": len(ns),
        "p50": round(p50),
        "p99": round(p99),
        "p99.9": round(p999),
        "longest": round(longest),
    }


_connection: ContextVar[str] = ContextVar("connection")


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that tells of every read of a run's connections before it is parsed."""

    def __init__(self, probe: _Probe) -> None:
        super().__init__()
        self._probe = probe

    async def create_connection(
        self, protocol_factory: Callable[[], Any], *args: Any, **options: Any
    ) -> Any:
        name = _connection.get("")

        def observed() -> Any:
            protocol = protocol_factory()
            if name in _FEEDS.values():
                buffered = isinstance(protocol, asyncio.BufferedProtocol)
                self._observe(protocol, "buffer_updated" if buffered else "data_received", name)
            return protocol

        return await super().create_connection(observed, *args, **options)

    def _observe(self, protocol: Any, method: str, name: str) -> None:
        parse, probe = getattr(protocol, method), self._probe

        def read(data: Any) -> None:
            probe.arrived(name)
            if name == _SIGNAL:
                # It is parsed here and now; a WebSocket's frames wait for their reader.
                probe.taken(name)
            parse(data)

        setattr(protocol, method, read)


class _MeasuredRun(LiveRun):
    """A live run that is as it is, and tells the probe."""

    probe: _Probe

    def _start(self, work: Awaitable[Any], name: str) -> None:
        before = _connection.set(name)
        super()._start(work, name)
        _connection.reset(before)

    async def _stream(
        self,
        loop: asyncio.AbstractEventLoop,
        feeds: Sequence[tuple[str, Feed]],
        for_secs: float | None,
    ) -> None:
        ticking = loop.create_task(self.probe.tick())
        loop.call_later(_WARM_UP_SECS, self.probe.start)
        try:
            await super()._stream(loop, feeds, for_secs)
        finally:
            ticking.cancel()

    def stop(self, why: str) -> None:
        self.probe.stop()
        super().stop(why)

    def _raw(self, name: str) -> Callable[[bytes], None]:
        record, probe, connection = super()._raw(name), self.probe, _FEEDS[name]

        def stamped(data: bytes) -> None:
            probe.taken(connection)
            record(data)

        return stamped

    def _emit(self, feed: str, kind: int) -> Emit:
        emit, probe, connection = super()._emit(feed, kind), self.probe, _FEEDS[feed]
        if kind in (STATUS, TRADE):
            return emit

        def stamped(events: Sequence[Any]) -> None:
            probe.begin(connection)
            try:
                emit(events)
            finally:
                probe.end(len(events))

        return stamped

    def _on_decision(self, decision: Decision) -> None:
        self.probe.decide(decision)
        super()._on_decision(decision)

    def _on_account(self, event: AccountEvent) -> None:
        self.probe.decided = None
        super()._on_account(event)

    def _after_delivery(self) -> None:
        self.probe.decided = None
        super()._after_delivery()

    async def _open_lighter(self, details: MarketDetails) -> tuple[Any, int]:
        venue, position = await super()._open_lighter(details)
        probe = self.probe
        submit, transmit, send, sign = (
            venue.submit, venue._transmit, venue._send, venue._signer.sign,
        )  # fmt: skip
        going: list[tuple[Any, Any]] = []

        def submitted(ts: int, commands: Sequence[Command]) -> None:
            probe.submitted(commands)
            submit(ts, commands)

        async def transmitted(transactions: Sequence[tuple[Any, Any]]) -> None:
            going[:] = transactions
            await transmit(transactions)

        async def sent(message: Mapping[str, Any]) -> None:
            probe.sent(going)
            await send(message)

        async def signed(requests: Any, nonce: int) -> Any:
            with probe.signing():
                return await sign(requests, nonce)

        venue.submit, venue._transmit, venue._send = submitted, transmitted, sent
        venue._signer.sign = signed
        return venue, position


def _measured(rate: int, secs: float, folder: Path) -> dict[str, Any]:
    settings = load_settings(overrides=list(_OVERRIDES))
    whole = _WARM_UP_SECS + secs
    recording = _market(rate, _LEAD_SECS + whole + _MARGIN_SECS, folder, settings)
    probe = _Probe()

    async def main(endpoints: Endpoints) -> _MeasuredRun:
        run = _MeasuredRun(settings, folder / "run", mode="live", endpoints=endpoints)
        run.probe = probe
        await run.run(for_secs=whole)
        return run

    def loop() -> asyncio.AbstractEventLoop:
        return _Loop(probe)

    with (
        _stand_ins(recording) as endpoints,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        work: Coroutine[Any, Any, _MeasuredRun] = main(endpoints)
        run = runner.run(work)
    if run.interrupted:
        raise KeyboardInterrupt
    if run.failed is not None:
        raise LiveError(run.failed)
    return probe.figures()


# ---------------------------------------------------------------- the market


def _market(rate: int, secs: float, folder: Path, settings: Settings) -> Path:
    """A recording of one price that both feeds quote, at random instants of the given rate."""
    random = np.random.default_rng(rate)
    n = round(rate * secs)
    ts = _FIRST_TS + np.cumsum(random.exponential(1e9 / rate, n)).astype(np.int64)
    # A walk that keeps within some basis points of its start, so that no guard steps in.
    steps = random.normal(0.0, (_MOVES_PER_SEC / rate) ** 0.5, n)
    walk = np.abs((np.cumsum(steps) + _FOLD_BPS) % (4 * _FOLD_BPS) - 2 * _FOLD_BPS) - _FOLD_BPS
    mid = np.rint(_MID * (1.0 + walk / 10_000.0) * 1e3).astype(np.int64) * 1_000_000
    is_signal = random.random(n) < _SIGNAL_SHARE
    files = []
    for name, chosen, half, lot in (
        ("signal", is_signal, 10_000_000, 10**9), ("target", ~is_signal, 20_000_000, 10**6),
    ):  # fmt: skip
        # A changed size makes every quote one that is worth telling.
        size = random.integers(100, 2_000, (2, int(chosen.sum()))) * lot
        frame = pl.DataFrame({
            "ts": ts[chosen], "bid_px": mid[chosen] - half, "ask_px": mid[chosen] + half,
            "bid_sz": size[0], "ask_sz": size[1],
        })  # fmt: skip
        path = folder / f"{name}.parquet"
        frame.write_parquet(path)
        files.append(path)
    out = folder / "market"
    import_frames(files[0], files[1], instruments_of(settings), out)
    return out


@contextlib.contextmanager
def _stand_ins(recording: Path) -> Iterator[Endpoints]:
    """Both venues in a process of their own, until the end of the block or of this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "marblemaker.bench_live", str(recording)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise LiveError("the stand-ins of the venues could not be started")
        yield msgspec.json.decode(line, type=Endpoints)
    finally:
        process.stdin.close()
        try:
            process.wait(_END_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _serve(recording: Path) -> None:
    """Open both stand-ins, say where on standard output, and end with standard input."""
    from lighter.signer_client import create_api_key

    # An interrupt of the terminal is the bench's, which then ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    private, public, error = create_api_key()  # type: ignore[no-untyped-call]
    if error is not None:
        raise LiveError(f"no key could be made: {error}")
    manifest = Recording.open(recording).manifest
    target = manifest.instruments["target"]
    playback = Playback(manifest.first_ts or 0)
    gateway = DatabentoGateway(
        recording, keys=[_KEY], dataset="EQUS.PLUS", symbol=manifest.instruments["signal"].symbol,
        playback=playback, max_seconds=3600.0,
    )  # fmt: skip
    venue = LighterVenue(
        recording, symbol=target.symbol.removesuffix("-PERP"),
        price_decimals=target.price_decimals, size_decimals=target.size_decimals,
        min_base_amount=format_units(target.min_base_amount),
        accounts={_ACCOUNT_INDEX: {_API_KEY_INDEX: public}}, tier="premium",
        limits=LighterLimits(), playback=playback,
    )  # fmt: skip
    with gateway.run_in_thread(), venue.run_in_thread():
        playback.start()
        endpoints = Endpoints(
            databento_key=_KEY, gateway=f"{gateway.host}:{gateway.port}", rest_url=venue.rest_url,
            ws_url=venue.ws_url, chain_id=_CHAIN, account_index=_ACCOUNT_INDEX,
            api_key_index=_API_KEY_INDEX, private_key=private,
        )  # fmt: skip
        sys.stdout.write(json.dumps(msgspec.to_builtins(endpoints)) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
