"""Weighted: several signals as one."""

from collections.abc import Sequence

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from operators.operator import Link
from streams.events import Refusal, Residual

__all__ = ["weighted", "weighted_sum"]


def weighted_sum(residuals: Sequence[float], weights: Sequence[float]) -> float:
    """Σ weight × residual, added in order; a step."""
    total = 0.0
    for i in range(len(weights)):
        total = total + weights[i] * residuals[i]
    return total


def weighted(
    signals: Sequence[Observable[Residual | Refusal]], weights: Sequence[float]
) -> Observable[Residual | Refusal]:
    """Combine the residuals of several signals by weight; the first one's mid stands for them.

    Each signal is measured against its own baseline, so prices of different sizes mix. A refusal of
    one signal refuses the whole; of several, the first signal's.

    Shape: one out per input once every signal has spoken, synchronous; completes when all have.
    Errors: ValueError if there are not as many weights as signals.
    """
    if len(weights) != len(signals):
        raise ValueError(f"{len(signals)} signals need as many weights, got {list(weights)!r}")

    def subscribe(
        observer: abc.ObserverBase[Residual | Refusal], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        emit = observer.on_next
        latest: list[Residual | Refusal | None] = [None] * len(signals)
        completed = 0

        def listen(i: int) -> abc.DisposableBase:
            def on_next(value: Residual | Refusal) -> None:
                latest[i] = value
                residuals: list[float] = []
                seq = ts = 0
                for one in latest:
                    if one is None:
                        return
                    seq, ts = max(seq, one.seq), max(ts, one.ts)
                    if type(one) is Residual:
                        residuals.append(one.residual)
                if len(residuals) < len(latest):
                    emit(next(one for one in latest if type(one) is Refusal))
                    return
                first = latest[0]
                assert type(first) is Residual
                emit(Residual(seq, ts, first.mid, first.baseline, weighted_sum(residuals, weights)))

            return signals[i].subscribe(
                on_next, observer.on_error, on_completed, scheduler=scheduler
            )

        def on_completed() -> None:
            nonlocal completed
            completed += 1
            if completed == len(signals):
                observer.on_completed()

        return CompositeDisposable(*(listen(i) for i in range(len(signals))))

    return Link(subscribe)
