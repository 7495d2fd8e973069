"""Collar: a price that jumps must stand for a while before it is believed."""

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.operator import Operator, clock_of
from streams.events import Feed, Mid, Refusal

__all__ = ["collar", "jump_bps"]


def jump_bps(mid: float, accepted: float) -> float:
    """Distance of a mid from the one last believed, in bps, signed; a step."""
    return (mid / accepted - 1.0) * 10_000.0


def collar(
    feed: Feed, *, collar_bps: float, confirm_ns: int
) -> Operator[Mid | Refusal, Mid | Refusal]:
    """Refuse a mid further than ``collar_bps`` from the last one believed, until it is confirmed.

    A new level is confirmed when it has stood for ``confirm_ns``: every mid since was within the
    collar of the first of them. A timer confirms it if nothing more arrives. A mid back inside the
    collar of the level believed before is believed at once. Refusals pass and confirm nothing.

    Units: bps, ns; ``value`` and ``limit`` of the refusal in bps.
    Shape: one out per input, synchronous, and one more when a timer confirms a level.
    Errors: RuntimeError on subscription without the graph's clock.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Mid | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Mid | Refusal], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "collar")
            emit = observer.on_next
            accepted = candidate = low = high = 0.0
            since = 0
            latest: Mid | None = None  # of the candidate level; None when there is no candidate
            timer = SerialDisposable()

            def believe(mid: float) -> None:
                nonlocal accepted, low, high
                accepted = mid
                # Two comparisons a quote instead of a division; the exact judgement is below.
                width = mid * (collar_bps / 10_000.0) * 0.999
                low, high = mid - width, mid + width

            def confirm(_: abc.SchedulerBase, __: object = None) -> None:
                nonlocal latest
                mid, latest = latest, None
                if mid is not None:
                    believe(mid.mid)
                    emit(mid)

            def on_next(value: Mid | Refusal) -> None:
                nonlocal candidate, since, latest
                if type(value) is not Mid:
                    emit(value)
                    return
                mid = value.mid
                if not low <= mid <= high and accepted:
                    jump = jump_bps(mid, accepted)
                    if abs(jump) > collar_bps:
                        if latest is None or abs(jump_bps(mid, candidate)) > collar_bps:
                            candidate, since = mid, value.ts
                            timer.disposable = clock.schedule_ns(value.ts + confirm_ns, confirm)
                        latest = value
                        if value.ts - since < confirm_ns:
                            emit(
                                Refusal(
                                    value.seq, value.ts, feed, "jump not confirmed",
                                    value.bid_px, value.ask_px, None, None, jump, collar_bps,
                                )
                            )  # fmt: skip
                            return
                if latest is not None:
                    latest = None
                    timer.disposable = None
                believe(mid)
                emit(value)

            return CompositeDisposable(
                timer,
                source.subscribe(
                    on_next, observer.on_error, observer.on_completed, scheduler=scheduler
                ),
            )

        return Observable(subscribe)

    return operator
