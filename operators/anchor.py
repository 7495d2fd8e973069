"""Anchor: the price our quotes are centred on before skew."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Anchor, Mid, Refusal
from streams.instrument import round_ticks

__all__ = ["anchor", "anchor_price", "anchor_price_1e16"]


def anchor_price(mid: float, scale: float) -> float:
    """Round a mid to the price precision, halves away from zero; a step.

    Units: quote currency; scale in ticks per unit of price.
    """
    return round_ticks(mid, scale) / scale


def anchor_price_1e16(mid: float, scale: float) -> float:
    """Round a mid as NautilusTrader does, whose prices are integers of 1e-16; a step.

    See ``operators.mid.mid_price_1e16`` for where that differs.
    """
    return round_ticks(mid, scale) * (1e16 / scale) / 1e16


def anchor(scale: float, *, tutorial: bool = False) -> Operator[Mid | Refusal, Anchor | Refusal]:
    """Round each mid to the price precision; refusals pass.

    ``tutorial``: with the arithmetic of that preset, ``anchor_price_1e16``.

    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Anchor | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Anchor | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            emit = observer.on_next
            rounded = anchor_price_1e16 if tutorial else anchor_price

            def on_next(value: Mid | Refusal) -> None:
                if type(value) is not Mid:
                    emit(value)  # type: ignore[arg-type]
                    return
                middle = value.mid
                emit(
                    Anchor(
                        value.seq, value.ts, middle, rounded(middle, scale),
                        value.bid_px, value.ask_px,
                    )
                )  # fmt: skip

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
