"""Residual: how far the signal's mid stands from its baseline."""

import math
from collections.abc import Callable, Sequence

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Mid, Refusal, Residual

__all__ = [
    "Baseline",
    "ewma_baseline",
    "ewma_weight",
    "first_baseline",
    "residual",
    "residual_of",
    "session_baseline",
    "set_baseline",
]

_NEVER_NS = 2**63 - 1

Baseline = Callable[[], Callable[[int, float], float]]
"""Makes one subscription's baseline: a function from (ts in ns, mid) to the baseline to use."""


def residual_of(mid: float, baseline: float) -> float:
    """Deviation of a mid from its baseline as a fraction, 1e-4 = 1 bp; a step."""
    return mid / baseline - 1.0


def ewma_weight(elapsed_ns: int, half_life_ns: int) -> float:
    """Weight that is left of a value after ``elapsed_ns``: 2 ** -(elapsed / half-life); a step.

    Powers come from halving, which is exact, and a series in + × ÷ for the rest, so that every
    engine and machine gets the same bits (a library's exp2 does not promise that). Its error is
    below 1e-15.
    """
    halvings = elapsed_ns // half_life_ns
    if halvings > 60:
        return 0.0
    x = -(elapsed_ns - halvings * half_life_ns) / half_life_ns * 0.6931471805599453
    term = 1.0
    total = 1.0
    for k in range(1, 20):
        term = term * x / k
        total = total + term
    for _ in range(halvings):
        total = total * 0.5
    return total


def ewma_of(weight: float, baseline: float, previous_mid: float) -> float:
    """Move a baseline towards the mid that held until now; a step."""
    return weight * baseline + (1.0 - weight) * previous_mid


def set_baseline(price: float) -> Baseline:
    """Measure against a price that is given, in quote currency."""
    if not (math.isfinite(price) and price > 0.0):
        raise ValueError(f"the baseline must be a positive price, was {price!r}")
    return lambda: lambda ts, mid: price


def first_baseline() -> Baseline:
    """Measure against the first mid that is seen."""

    def start() -> Callable[[int, float], float]:
        first = math.nan

        def baseline(ts: int, mid: float) -> float:
            nonlocal first
            if first != first:
                first = mid
            return first

        return baseline

    return start


def session_baseline(opens_ns: Sequence[int]) -> Baseline:
    """Measure against the first mid at or after each session's open.

    ``opens_ns`` are the opens in ascending order, ns; before the first of them, the first mid
    serves.
    """
    opens = tuple(opens_ns)
    if list(opens) != sorted(set(opens)):
        raise ValueError("opens_ns must be in ascending order without repeats")

    def start() -> Callable[[int, float], float]:
        first, following, next_ns = math.nan, 0, -1

        def baseline(ts: int, mid: float) -> float:
            nonlocal first, following, next_ns
            if ts >= next_ns:
                first = mid
                while following < len(opens) and ts >= opens[following]:
                    following += 1
                next_ns = opens[following] if following < len(opens) else _NEVER_NS
            return first

        return baseline

    return start


def ewma_baseline(half_life_ns: int) -> Baseline:
    """Measure against an average of earlier mids that forgets with ``half_life_ns``.

        weight   = 2 ** -(elapsed / half_life_ns)
        baseline = weight × baseline + (1 − weight) × previous mid

    Only earlier mids enter, so a jump shows in full on the quote that made it.

    Errors: ValueError if the half-life is not positive.
    Source: previous-point EMA, Zumbach & Müller, "Operators on inhomogeneous time series",
        Int. J. Theoretical and Applied Finance 4(1), 2001.
    """
    if half_life_ns <= 0:
        raise ValueError(f"half_life_ns must be a positive number of ns, was {half_life_ns!r}")

    def start() -> Callable[[int, float], float]:
        average, last_mid, last_ts = math.nan, math.nan, 0

        def baseline(ts: int, mid: float) -> float:
            nonlocal average, last_mid, last_ts
            if average != average:
                average = mid
            else:
                average = ewma_of(ewma_weight(ts - last_ts, half_life_ns), average, last_mid)
            last_mid, last_ts = mid, ts
            return average

        return baseline

    return start


def residual(baseline: Baseline) -> Operator[Mid | Refusal, Residual | Refusal]:
    """Measure each mid against a baseline; refusals pass.

        residual = mid / baseline − 1

    Shape: one out per input, synchronous; with the first mid as baseline the first is 0.0. Each
        subscription has a baseline of its own.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Residual | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Residual | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            emit = observer.on_next
            measure = baseline()

            def on_next(value: Mid | Refusal) -> None:
                if type(value) is not Mid:
                    emit(value)  # type: ignore[arg-type]
                    return
                mid = value.mid
                level = measure(value.ts, mid)
                emit(Residual(value.seq, value.ts, mid, level, residual_of(mid, level)))

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
