"""Anchor: the price our quotes are centred on before skew."""

from reactivex import Observable, abc

from operators.operator import Operator
from streams.events import Anchor, Mid, Refusal
from streams.instrument import round_ticks

__all__ = ["anchor", "anchor_price"]


def anchor_price(mid: float, scale: float) -> float:
    """Round a mid to the price precision, halves away from zero; a step.

    Units: quote currency; scale in ticks per unit of price.
    """
    return round_ticks(mid, scale) / scale


def anchor(scale: float) -> Operator[Mid | Refusal, Anchor | Refusal]:
    """Round each mid to the price precision; refusals pass.

    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Anchor | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Anchor | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(value: Mid | Refusal) -> None:
                if type(value) is not Mid:
                    emit(value)  # type: ignore[arg-type]
                    return
                emit(Anchor(value.seq, value.ts, value.mid, anchor_price(value.mid, scale)))

            return source.subscribe(
                on_next, observer.on_error, observer.on_completed, scheduler=scheduler
            )

        return Observable(subscribe)

    return operator
