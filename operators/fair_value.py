"""Fair value: centre the quotes on the signal, and keep the target's book beside it."""

from msgspec.structs import replace
from reactivex import Observable, abc

from operators.anchor import anchor_price
from operators.operator import Link, Operator, link
from operators.state import State
from streams.events import Anchor, Residual

__all__ = ["fair_value"]


def fair_value(scale: float) -> Operator[State, State]:
    """Put the signal's mid, rounded to the target's price precision, in the anchor's place.

    The target's mid and best prices stay for what needs them: the basis limit and post-only. States
    with a refusal, or without a signal, pass.

    Units: scale in ticks per unit of price.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[State]) -> Observable[State]:
        def subscribe(
            observer: abc.ObserverBase[State], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(state: State) -> None:
                signal, anchor = state
                if type(signal) is Residual and type(anchor) is Anchor and signal.seq:
                    emit((signal, replace(anchor, price=anchor_price(signal.mid, scale))))
                else:
                    emit(state)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
