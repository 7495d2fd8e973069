"""Split: refuses a price that stands to the one before the break as a stock split would."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Feed, Mid, Refusal

__all__ = ["SPLITS", "split", "split_of"]

# Ratios at which exchanges list splits; 5:4 and 4:3 are left out, an overnight move looks the same.
SPLITS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
TOLERANCE = 0.05
"""How far an overnight move may take the price from the bare ratio."""


def split_of(before: float, now: float) -> float:
    """Which split would take ``before`` to about ``now``: 10.0 for ten for one; a step.

    0.1 stands for one for ten (a reverse split), 0.0 for no split at all.
    """
    ratio = before / now
    for split in SPLITS:
        if abs(ratio / split - 1.0) <= TOLERANCE:
            return split
        if abs(ratio * split - 1.0) <= TOLERANCE:
            return 1.0 / split
    return 0.0


def split(
    feed: Feed, *, break_ns: int, baseline: float | None = None
) -> Operator[Mid | Refusal, Mid | Refusal]:
    """Refuse mids that look like a split against the last one before a break of ``break_ns``.

    Against a baseline from before the split the residual would be a fiction: the quotes would be
    off by the ratio. With a ``baseline`` that was set by hand the first mid is judged against it.
    Mids are believed again as soon as they fit the price from before.

    Units: ns; ``value`` of the refusal is price before / price now, ``limit`` the split's ratio.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Mid | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Mid | Refusal], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            before = 0.0 if baseline is None else baseline
            judge_from = 0

            def on_next(value: Mid | Refusal) -> None:
                nonlocal before, judge_from
                if type(value) is not Mid:
                    emit(value)
                    return
                if value.ts >= judge_from and before:
                    ratio = split_of(before, value.mid)
                    if ratio:
                        emit(
                            Refusal(
                                value.seq, value.ts, feed, "looks like a split",
                                value.bid_px, value.ask_px, None, None,
                                before / value.mid, ratio,
                            )
                        )  # fmt: skip
                        return
                before, judge_from = value.mid, value.ts + break_ns
                emit(value)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
