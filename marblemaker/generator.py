"""Synthetic sessions: a seeded, NVDA-like pair of feeds written as a recording.

The same parameters give the same quotes on every machine: randomness is raw PCG64 bits, and what
is made of them is + − × ÷, floor and one square root per parameter, all exact in IEEE doubles.
Nothing calls exp, log or sin, and nothing is summed in an order that a CPU may choose. Parquet
bytes are a matter of the Polars version besides, so the manifest names it.

    python -m marblemaker.generator recordings/nvda-cash-session.toml --out DIR
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from marblemaker.session_parameters import (
    MILLISECOND,
    SECOND,
    Jump,
    Oddity,
    Session,
    read_session,
)
from streams.events import Feed
from streams.instant import iso
from streams.instrument import UNIT, Instrument
from streams.recording import (
    MANIFEST,
    QUOTE_SCHEMA,
    FrameWriter,
    Manifest,
    read_manifest,
    write_manifest,
)

__all__ = ["generate", "main"]

VERSION: Final = "1"
"""Of the algorithm: it changes whenever the same parameters give other quotes."""

BATCH_ROWS: Final = 131_072
"""Quotes made at a time; bounds memory and changes nothing else."""

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Knots: TypeAlias = tuple[tuple[float, float], ...]
_SIGNAL_FLAGS: Final = 128
"""Databento F_LAST: the last record of its event."""

_COMPONENTS: Final = (
    "path", "basis", "lag", "sweeps",
    "signal activity", "signal arrivals", "signal quotes", "signal planted",
    "target activity", "target arrivals", "target quotes", "target planted",
)  # fmt: skip
"""One random stream each. New ones go to the end, so that they leave the others as they were."""

_RATE: Final[Knots] = (
    (0.0, 10.0), (0.008, 6.0), (0.02, 3.0), (0.0385, 1.3), (0.15, 0.9), (0.35, 0.3), (0.45, 0.12),
    (0.55, 0.12), (0.65, 0.35), (0.9, 0.9), (0.97, 1.2), (0.992, 3.0), (1.0, 12.0),
)  # fmt: skip
"""Quote rate along the cash session, as (fraction of it, multiple of a mid-morning rate)."""
_RATE_BEFORE: Final = {"signal": 0.05, "target": 0.25}
_RATE_AFTER: Final = {"signal": 0.0, "target": 0.6}

_VOLATILITY: Final[Knots] = (
    (0.0, 3.5), (0.0385, 1.5), (0.35, 0.8), (0.45, 0.55), (0.55, 0.55), (0.9, 1.0), (1.0, 1.6),
)  # fmt: skip
"""Volatility along the cash session, as (fraction of it, multiple of the session's)."""
_VOLATILITY_OUTSIDE: Final = 0.3


# ---------------------------------------------------------------- randomness


_BELL_DEVIATION: Final = 65_536.0 / math.sqrt(3.0)


class _Bits:
    """A stream of random numbers made of PCG64's raw bits.

    numpy promises that raw bits stay the same from version to version; it does not promise that
    for the distributions of ``Generator``, and some of those call libm.
    """

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self._source = np.random.PCG64(seed)

    def raw(self, count: int) -> npt.NDArray[np.uint64]:
        return np.asarray(self._source.random_raw(count), dtype=np.uint64)

    def uniform(self, count: int) -> Floats:
        """Give doubles in [0, 1)."""
        top = self.raw(count) >> np.uint64(11)
        return top.astype(np.float64) * 2.0**-53

    def bell(self, count: int) -> Floats:
        """Give draws of mean 0 and deviation 1: the sum of four uniforms, within ±3.5."""
        parts = self.raw(count).view(np.uint16).reshape(count, 4).astype(np.int64)
        total = parts[:, 0] + parts[:, 1] + parts[:, 2] + parts[:, 3]
        return (total - 2 * 65_535).astype(np.float64) / _BELL_DEVIATION


class _Held:
    """Uniforms that stay for a while: each is drawn anew with ``chance``, else the last again."""

    def __init__(self, seed: np.random.SeedSequence, chance: float) -> None:
        self._bits = _Bits(seed)
        self._chance = chance
        self._last = 0.5

    def next(self, count: int) -> Floats:
        raw = self._bits.raw(count)
        fresh = (raw >> np.uint64(32)).astype(np.float64) * 2.0**-32
        drawn = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32 < self._chance
        at = np.maximum.accumulate(np.where(drawn, np.arange(count), -1))
        held = np.where(at >= 0, fresh[at], self._last)
        if count:
            self._last = float(held[-1])
        return held


def _streams(seed: int) -> dict[str, np.random.SeedSequence]:
    children = np.random.SeedSequence(seed).spawn(len(_COMPONENTS))
    return dict(zip(_COMPONENTS, children, strict=True))


# ---------------------------------------------------------------- curves


def _along(knots: Knots, at: Floats) -> Floats:
    """Interpolate linearly; written out because np.interp may fuse its multiply and add."""
    x = np.array([knot[0] for knot in knots])
    y = np.array([knot[1] for knot in knots])
    left = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(knots) - 2)
    share = (at - x[left]) / (x[left + 1] - x[left])
    return np.asarray(y[left] + (y[left + 1] - y[left]) * share)


def _on_grid(grid: Floats, step: int, elapsed: Ints) -> Floats:
    """Read a curve that is known every ``step`` ns, linearly in between."""
    left = elapsed // step
    share = (elapsed - left * step).astype(np.float64) / step
    return np.asarray(grid[left] + (grid[left + 1] - grid[left]) * share)


def _profile(session: Session, at: Ints, knots: Knots, before: float, after: float) -> Floats:
    """Give a multiple that depends on the time of day."""
    share = (at - session.open).astype(np.float64) / float(session.close - session.open)
    inside = _along(knots, np.clip(share, 0.0, 1.0))
    return np.where(share < 0.0, before, np.where(share >= 1.0, after, inside))


class _Steps:
    """A sum of sudden moves: a level that is constant between instants."""

    def __init__(self, moves: Sequence[tuple[int, float]]) -> None:
        ordered = sorted(moves)
        self._at = np.array([at for at, _ in ordered], dtype=np.int64)
        self._level = np.cumsum(np.array([0.0, *(size for _, size in ordered)]))

    def level(self, at: Ints) -> Floats:
        return np.asarray(self._level[np.searchsorted(self._at, at, side="right")])


# ---------------------------------------------------------------- planted features


class _Feature(NamedTuple):
    """Something at a known time, as the manifest will tell it."""

    name: str
    feeds: tuple[Feed, ...]
    first: int
    last: int
    details: dict[str, Any]


class _Plan(Struct):
    """All that is planted: what is told, when quotes come for it, and by how much prices move."""

    features: list[_Feature]
    arrivals: dict[Feed, list[int]]
    moves: dict[Feed, list[tuple[int, float]]]


def _plan(session: Session, seed: np.random.SeedSequence) -> _Plan:
    plan = _Plan([], {"signal": [], "target": []}, {"signal": [], "target": []})
    feeds: tuple[Feed, ...] = ("signal", "target")
    plan.features.append(_Feature("cash_session", feeds, session.open, session.close, {}))
    for jump in session.jumps:
        _plant_jump(plan, session, jump)
    _plant_sweeps(plan, session, _Bits(seed))
    for oddity in session.oddities:
        _plant_oddity(plan, oddity)
    for feed, arrivals in plan.arrivals.items():
        start, end = session.span(feed)
        for at in arrivals:
            if not start <= at < end:
                raise ValueError(
                    f"a planted quote of the {feed} at {iso(at)} is outside of its session "
                    f"({iso(start)} to {iso(end)}); move the jump or oddity that asks for it"
                )
    plan.features.sort(key=lambda feature: (feature.first, feature.name))
    return plan


def _plant_jump(plan: _Plan, session: Session, jump: Jump) -> None:
    size = session.start_price * jump.bps / 10_000.0
    details = {"bps": jump.bps}
    quarters = [jump.at + part * 2 * MILLISECOND for part in range(4)]
    echoes = [jump.at + part * 7 * MILLISECOND for part in range(1, 13)]
    plan.moves["signal"] += [(at, size * 0.25) for at in quarters]
    plan.arrivals["signal"] += quarters + echoes
    plan.features.append(_Feature("jump", ("signal",), quarters[0], quarters[-1], details))

    first = jump.at + jump.target_delay_ms * MILLISECOND
    second = first + 250 * MILLISECOND
    plan.moves["target"] += [(first, size * 0.8), (second, size * 0.2)]
    plan.arrivals["target"] += [first, first + 90 * MILLISECOND, second]
    plan.features.append(_Feature("jump", ("target",), first, second, details))


def _plant_sweeps(plan: _Plan, session: Session, bits: _Bits) -> None:
    """Let the target's book gap away in one update and come back at once or in five steps.

    The instants are whole milliseconds, in the middle 98 % of the cash session.
    """
    room = (session.close - session.open) // MILLISECOND
    for when, size, way, manner in bits.uniform(4 * session.sweeps).reshape(-1, 4).tolist():
        bps = session.sweep_bps_min + (session.sweep_bps_max - session.sweep_bps_min) * size
        bps = float(math.floor(bps * 10.0)) / 10.0 * (1.0 if way < 0.5 else -1.0)
        move = session.start_price * bps / 10_000.0
        at = session.open + math.floor(room * (0.01 + 0.98 * when)) * MILLISECOND
        steps = 1 if manner < 0.5 else 5
        back = [at + (400 + 250 * step) * MILLISECOND for step in range(steps)]
        plan.moves["target"] += [(at, move), *((ts, -move / steps) for ts in back)]
        plan.arrivals["target"] += [at, *back]
        details = {"bps": bps, "back_in_steps": steps}
        plan.features.append(_Feature("sweep", ("target",), at, back[-1], details))


def _plant_oddity(plan: _Plan, oddity: Oddity) -> None:
    lasts = oddity.lasts_ms * MILLISECOND
    if oddity.kind == "one_ns_apart":
        lasts = max(oddity.quotes - 1, 0)
    feeds: tuple[Feed, ...] = ("signal", "target") if oddity.feed == "both" else (oddity.feed,)
    name = "tie" if (oddity.kind, oddity.feed) == ("same_instant", "both") else oddity.kind
    for feed in feeds:
        if oddity.kind == "gap":
            continue
        between = max(oddity.quotes - 1, 1)
        plan.arrivals[feed] += [
            oddity.at + lasts * part // between for part in range(oddity.quotes)
        ]
        if lasts and oddity.kind != "one_ns_apart":
            # A sound quote right after, so that the stretch ends when it says it does.
            plan.arrivals[feed].append(oddity.at + lasts + MILLISECOND)
    plan.features.append(_Feature(name, feeds, oddity.at, oddity.at + lasts, {}))


# ---------------------------------------------------------------- fair value


_GRID: Final = 100 * MILLISECOND
_GRIDS_A_SECOND: Final = SECOND // _GRID


class _World:
    """Fair values of both feeds at any instant of the session.

        signal = path + jumps
        target = (path a lag ago + jumps, as the target shows them) × (1 + basis) + sweeps

    The path is Brownian on a grid of 100 ms with a weak pull to the start price; basis and lag
    are known every second. All three are linear in between.
    """

    def __init__(
        self, session: Session, seeds: dict[str, np.random.SeedSequence], plan: _Plan
    ) -> None:
        self._origin = session.target_start
        self._seconds = (session.target_end - self._origin) // SECOND + 2
        self._moves = {feed: _Steps(moves) for feed, moves in plan.moves.items()}
        self._path = self._walk(session, _Bits(seeds["path"]))
        self._basis = self._premium(session, _Bits(seeds["basis"]))
        self._lag = self._delay(session, _Bits(seeds["lag"]))

    def _walk(self, session: Session, bits: _Bits) -> Floats:
        steps = self._seconds * _GRIDS_A_SECOND
        at = self._origin + np.arange(steps, dtype=np.int64) * _GRID
        in_session = (session.close - session.open) / _GRID
        scale = session.start_price * session.volatility_bps / 10_000.0 / math.sqrt(in_session)
        outside = _VOLATILITY_OUTSIDE
        moves = bits.bell(steps) * scale * _profile(session, at, _VOLATILITY, outside, outside)
        within = np.cumsum(moves.reshape(-1, _GRIDS_A_SECOND), axis=1)
        jumped = self._moves["signal"].level(at[::_GRIDS_A_SECOND]).tolist()
        level, levels = session.start_price, []
        for move, jump in zip(within[:, -1].tolist(), jumped, strict=True):
            levels.append(level)
            level = level + move - (level + jump - session.start_price) / session.pull_secs
        path = np.array(levels)[:, None] + np.concatenate(
            [np.zeros((self._seconds, 1)), within[:, :-1]], axis=1
        )
        return np.append(path.reshape(-1), level)

    def _premium(self, session: Session, bits: _Bits) -> Floats:
        scale = session.basis_bps / 10_000.0 * math.sqrt(2.0 / session.basis_secs)
        level, levels = 0.0, [0.0]
        for move in (bits.bell(self._seconds) * scale).tolist():
            level = level - level / session.basis_secs + move
            levels.append(level)
        return np.array(levels)

    def _delay(self, session: Session, bits: _Bits) -> Floats:
        low, high = float(session.lag_ms_min), float(session.lag_ms_max)
        level = (low + high) / 2.0
        levels = [level]
        for move in ((bits.uniform(self._seconds) - 0.5) * (high - low) * 0.4).tolist():
            level = min(max(level + move, low), high)
            levels.append(level)
        return np.array(levels) * float(MILLISECOND)

    def fair(self, feed: Feed, at: Ints) -> Floats:
        """Give the fair value at each instant, quote currency."""
        elapsed = at - self._origin
        moved = self._moves[feed].level(at)
        if feed == "signal":
            return _on_grid(self._path, _GRID, elapsed) + moved
        lag = np.floor(_on_grid(self._lag, SECOND, elapsed)).astype(np.int64)
        late = _on_grid(self._path, _GRID, np.maximum(elapsed - lag, 0))
        return (late + moved) * (1.0 + _on_grid(self._basis, SECOND, elapsed))


# ---------------------------------------------------------------- quotes


_SPREAD, _PLACE, _BID_SIZE, _ASK_SIZE, _LATENCY, _MISSING = range(6)


class _Marks:
    """What is random about each quote besides its time: six uniforms a quote, as rows."""

    def __init__(self, seed: np.random.SeedSequence) -> None:
        spread, place, bid_size, ask_size, latency, missing = seed.spawn(6)
        self._held = (
            _Held(spread, 0.15),
            _Held(place, 0.2),
            _Held(bid_size, 0.55),
            _Held(ask_size, 0.55),
        )
        self._free = (_Bits(latency), _Bits(missing))

    def next(self, count: int) -> Floats:
        held = [source.next(count) for source in self._held]
        return np.stack([*held, *(source.uniform(count) for source in self._free)])


def _arrival_counts(session: Session, feed: Feed, seed: np.random.SeedSequence) -> Ints:
    """Share the quotes out among the seconds: by time of day and a slowly changing mood."""
    start, end = session.span(feed)
    total = session.signal_quotes if feed == "signal" else session.target_quotes
    at = start + np.arange((end - start) // SECOND, dtype=np.int64) * SECOND
    rate = _profile(session, at, _RATE, _RATE_BEFORE[feed], _RATE_AFTER[feed])
    mood = _Held(seed, 1.0 / 8.0).next(len(at))
    weight = np.cumsum(rate * (0.03 + 3.88 * (mood * mood * mood)))
    due = np.floor(weight * (float(total) / float(weight[-1])) + 0.5).astype(np.int64)
    return np.diff(due, prepend=0)


class _Arrivals:
    """Random instants of quotes: about half come within milliseconds after another one."""

    def __init__(self, seed: np.random.SeedSequence) -> None:
        leader, follower = seed.spawn(2)
        self._leader = _Held(leader, 0.5)
        self._follower = _Bits(follower)

    def next(self, start: int, first: int, counts: Ints) -> Ints:
        """Give sorted instants in the seconds from ``first`` on, ``counts`` in each."""
        total = int(np.cumsum(counts)[-1])
        behind = self._follower.uniform(total)
        share = self._leader.next(total) + 0.03 * behind * behind
        share = np.where(share >= 1.0, share - 1.0, share)
        seconds = np.repeat(np.arange(first, first + len(counts), dtype=np.int64), counts)
        return np.sort(start + seconds * SECOND + np.floor(share * SECOND).astype(np.int64))


def _batches(counts: Ints, batch_rows: int) -> Iterator[tuple[int, int]]:
    """Cut the seconds into runs of about ``batch_rows`` quotes, at least one second each."""
    due = np.cumsum(counts)
    first, done = 0, 0
    while first < len(counts):
        last = max(int(np.searchsorted(due, done + batch_rows, side="right")), first + 1)
        yield first, last
        first, done = last, int(due[last - 1])


def _signal_book(fair: Floats, marks: Floats, instrument: Instrument) -> tuple[Ints, ...]:
    """Make a spread of 1 to 4 ticks, mostly 1 and 2, and sizes of whole round lots."""
    spread = 1 + np.floor(4.0 * marks[_SPREAD] * marks[_SPREAD]).astype(np.int64)
    center = fair * instrument.price_scale + (marks[_PLACE] - 0.5)
    bid = np.floor(center - spread * 0.5 + 0.5).astype(np.int64)
    sizes = [_skewed(marks[side], 40) + 1 for side in (_BID_SIZE, _ASK_SIZE)]
    tick = instrument.tick_size
    return bid * tick, (bid + spread) * tick, sizes[0] * (100 * UNIT), sizes[1] * (100 * UNIT)


def _target_book(
    fair: Floats, marks: Floats, session: Session, instrument: Instrument
) -> tuple[Ints, ...]:
    """Make a spread within the session's bounds and sizes of at least 50 lots."""
    low, high = session.target_spread_bps_min, session.target_spread_bps_max
    bps = low + (high - low) * marks[_SPREAD]
    ticks = np.floor(fair * instrument.price_scale * bps / 10_000.0 + 0.5).astype(np.int64)
    ticks = np.maximum(ticks, 1)
    bid = np.floor(fair * instrument.price_scale - ticks * 0.5 + 0.5).astype(np.int64)
    sizes = [(_skewed(marks[side], 2000) + 5) * 10 for side in (_BID_SIZE, _ASK_SIZE)]
    tick, lot = instrument.tick_size, instrument.lot_size
    return bid * tick, (bid + ticks) * tick, sizes[0] * lot, sizes[1] * lot


def _skewed(mark: Floats, top: int) -> Ints:
    return np.floor(mark * mark * mark * top).astype(np.int64)


def _latency(feed: Feed, mark: Floats) -> Ints:
    """Give the way from the venue to the collector: often short, now and then milliseconds."""
    fourth = mark * mark * mark * mark
    if feed == "signal":
        return np.floor(40_000.0 + 2_500_000.0 * fourth).astype(np.int64)
    return np.floor(300_000.0 + 9_000_000.0 * fourth).astype(np.int64)


_MISSING_EVENT: Final = 1.0 / 3000.0
"""Share of quotes for which the venue does not say when it made them."""


def _oddly(columns: dict[str, Ints], oddities: Sequence[Oddity], tick: int) -> pl.DataFrame:
    """Apply the oddities to the quotes that fall into them."""
    absent = {name: np.zeros(len(columns["ts"]), dtype=bool) for name in ("bid", "ask")}
    keep = np.ones(len(columns["ts"]), dtype=bool)
    for oddity in oddities:
        last = oddity.at + oddity.lasts_ms * MILLISECOND
        inside = (columns["ts"] >= oddity.at) & (columns["ts"] <= last)
        match oddity.kind:
            case "gap":
                keep &= ~inside
            case "no_bid" | "no_ask" | "empty":
                for side in ("bid", "ask"):
                    if oddity.kind in (f"no_{side}", "empty"):
                        absent[side] |= inside
            case "zero_bid_size" | "zero_ask_size":
                columns["bid_sz" if oddity.kind == "zero_bid_size" else "ask_sz"][inside] = 0
            case "crossed":
                bid = columns["bid_px"][inside]
                columns["bid_px"][inside] = columns["ask_px"][inside] + tick
                columns["ask_px"][inside] = bid
            case "locked":
                columns["bid_px"][inside] = columns["ask_px"][inside]
            case "same_instant" | "one_ns_apart":
                pass
    frame = pl.DataFrame(columns)
    for side, mask in absent.items():
        if mask.any():
            frame = frame.with_columns(
                _nulled(frame[f"{side}_{what}"], mask) for what in ("px", "sz")
            )
    return frame if keep.all() else frame.filter(pl.Series(keep))


def _nulled(values: pl.Series, mask: npt.NDArray[np.bool_]) -> pl.Series:
    nothing = pl.Series(values.name, [None], dtype=values.dtype)
    return nothing.new_from_index(0, len(values)).zip_with(pl.Series(mask), values)


class _Maker:
    """Makes the quotes of one feed, batch by batch."""

    def __init__(
        self,
        session: Session,
        feed: Feed,
        seeds: dict[str, np.random.SeedSequence],
        plan: _Plan,
        world: _World,
    ) -> None:
        self._session, self._feed, self._world = session, feed, world
        self._instrument = (
            session.signal_instrument if feed == "signal" else session.target_instrument
        )
        self._counts = _arrival_counts(session, feed, seeds[f"{feed} activity"])
        self._arrivals = _Arrivals(seeds[f"{feed} arrivals"])
        self._marks = _Marks(seeds[f"{feed} quotes"])
        # Planted quotes have marks of their own, so that they leave the others as they were.
        self._planted = np.sort(np.array(plan.arrivals[feed], dtype=np.int64))
        self._planted_marks = _Marks(seeds[f"{feed} planted"]).next(len(self._planted))
        self._oddities = [o for o in session.oddities if o.feed in (feed, "both")]

    def frames(self, batch_rows: int) -> Iterator[pl.DataFrame]:
        """Yield the quotes in order; the cuts between batches change nothing in them."""
        start, end = self._session.span(self._feed)
        for first, last in _batches(self._counts, batch_rows):
            ts = self._arrivals.next(start, first, self._counts[first:last])
            until = end if last == len(self._counts) else start + last * SECOND
            planted = slice(*np.searchsorted(self._planted, [start + first * SECOND, until]))
            place = np.searchsorted(ts, self._planted[planted], side="right")
            marks = np.insert(
                self._marks.next(len(ts)), place, self._planted_marks[:, planted], axis=1
            )
            yield self._frame(np.insert(ts, place, self._planted[planted]), marks)

    def _frame(self, ts: Ints, marks: Floats) -> pl.DataFrame:
        fair = self._world.fair(self._feed, ts)
        lowest = float(fair.min(initial=math.inf))
        if lowest < 0.1 * self._session.start_price:
            raise ValueError(
                f"the {self._feed}'s fair value falls to {lowest}, below a tenth of start_price "
                f"({self._session.start_price}); lower volatility_bps or the jumps"
            )
        ts_event = ts - _latency(self._feed, marks[_LATENCY])
        if self._feed == "signal":
            book = _signal_book(fair, marks, self._instrument)
        else:
            book = _target_book(fair, marks, self._session, self._instrument)
            ts_event = ts_event // 1000 * 1000  # Lighter stamps in µs.
        columns = {"ts": ts, "ts_event": ts_event}
        columns |= dict(zip(("bid_px", "ask_px", "bid_sz", "ask_sz"), book, strict=True))
        missing = marks[_MISSING] < _MISSING_EVENT
        keep_missing = {"missing": missing.astype(np.int64)}
        frame = _oddly(columns | keep_missing, self._oddities, self._instrument.tick_size)
        flags = _SIGNAL_FLAGS if self._feed == "signal" else 0
        return frame.select(
            "ts",
            _nulled(frame["ts_event"], frame["missing"].to_numpy() == 1),
            "bid_px",
            "ask_px",
            "bid_sz",
            "ask_sz",
            pl.lit(flags, dtype=pl.UInt8).alias("flags"),
        )


# ---------------------------------------------------------------- writing


_SCHEMA: Final = pl.Schema({n: t for n, t in QUOTE_SCHEMA.items() if n != "seq"})
"""Without ``seq``: the feeds are merged by ``ts``, as those of an import."""


class _Told:
    """Counts the quotes of each feature, for the manifest."""

    def __init__(self, feed: Feed, features: Sequence[_Feature]) -> None:
        self._features = [feature for feature in features if feed in feature.feeds]
        self._rows = [0] * len(self._features)
        self._no_event = 0

    def count(self, frame: pl.DataFrame) -> None:
        ts = frame["ts"].to_numpy()
        self._no_event += frame["ts_event"].null_count()
        for number, feature in enumerate(self._features):
            first = np.searchsorted(ts, feature.first, side="left")
            self._rows[number] += int(np.searchsorted(ts, feature.last, side="right") - first)

    def features(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = [
            {
                "name": feature.name,
                "utc": iso(feature.first),
                "first_ts": feature.first,
                "last_ts": feature.last,
                "rows": rows,
                **feature.details,
            }
            for feature, rows in zip(self._features, self._rows, strict=True)
        ]
        return [*told, {"name": "no_ts_event", "rows": self._no_event}]


def generate(parameters: Session, out: Path, *, batch_rows: int = BATCH_ROWS) -> Manifest:
    """Write a synthetic recording into the folder ``out`` and return its manifest.

    The manifest's ``sources`` tell for each feed its parameters and every planted feature with
    its first and last ``ts`` and its number of quotes. An older synthetic recording is replaced.

    Errors: ValueError if a planted quote is outside of its feed's session, or if ``out`` holds a
        recording that is not synthetic.
    """
    seeds = _streams(parameters.seed)
    plan = _plan(parameters, seeds["sweeps"])
    _make_room(out)
    world = _World(parameters, seeds, plan)
    manifest = Manifest(
        mode="synthetic",
        instruments={
            "signal": parameters.signal_instrument,
            "target": parameters.target_instrument,
        },
        versions={"marblemaker.generator": VERSION, "polars": pl.__version__},
    )
    scalars = {
        name: value
        for name, value in msgspec.to_builtins(parameters).items()
        if isinstance(value, int | float)
    }
    feeds: tuple[Feed, ...] = ("signal", "target")
    for feed in feeds:
        told = _Told(feed, plan.features)
        writer = FrameWriter(out, feed, _SCHEMA)
        for frame in _Maker(parameters, feed, seeds, plan, world).frames(batch_rows):
            told.count(frame)
            writer.append(frame)
        manifest.files[feed] = writer.close()
        manifest.sources[feed] = {
            "origin": "synthetic, made by marblemaker.generator; no vendor data",
            "parameters": scalars,
            "features": told.features(),
        }
    write_manifest(out, manifest)
    return manifest


def _make_room(out: Path) -> None:
    """Prepare the folder; without a manifest it is no recording until this one is complete."""
    if (out / MANIFEST).exists():
        mode = read_manifest(out).mode
        if mode != "synthetic":
            raise ValueError(
                f"{out} holds a recording of mode {mode!r}; only a synthetic one is replaced. "
                f"Give another folder"
            )
        (out / MANIFEST).unlink()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder; give one that exists or can be made")
    out.mkdir(parents=True, exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 when the parameters are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m marblemaker.generator", description="Write a synthetic recording."
    )
    parser.add_argument("session", type=Path, help="TOML file with the session's parameters")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    given = parser.parse_args(arguments)
    try:
        manifest = generate(read_session(given.session), given.out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    counts = ", ".join(f"{entry.rows} {feed}" for feed, entry in manifest.files.items())
    sys.stdout.write(f"{given.out}: {counts} quotes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
