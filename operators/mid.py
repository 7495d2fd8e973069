"""Mid: the middle of a sound book, or why there is none."""

from reactivex import Observable, abc

from operators.books import FAULTS, book_fault
from operators.operator import Operator
from streams.events import Feed, Mid, Quote, Refusal

__all__ = ["mid", "mid_price"]


def mid_price(bid_px: int, ask_px: int) -> float:
    """Middle of two prices of 1e-9, in quote currency; a step."""
    return (bid_px / 1e9 + ask_px / 1e9) / 2.0


def mid(feed: Feed, *, strict: bool = True) -> Operator[Quote, Mid | Refusal]:
    """Take the middle of each book; a book without one becomes a refusal with what it was.

    With ``strict`` a zero price, a zero size and a crossed book are refused as well; without it,
    as in the tutorial preset, only a missing side is.

    Shape: one out per quote, synchronous.
    """

    def operator(source: Observable[Quote]) -> Observable[Mid | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Mid | Refusal], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(quote: Quote) -> None:
                bid, ask = quote.bid_px, quote.ask_px
                if bid is None or ask is None:
                    lone = "no ask" if bid is not None else "no bid"
                    emit(_refusal(quote, feed, "missing" if bid is None and ask is None else lone))
                    return
                if strict:
                    bid_sz, ask_sz = quote.bid_sz, quote.ask_sz
                    fault = book_fault(
                        bid, ask, 1 if bid_sz is None else bid_sz, 1 if ask_sz is None else ask_sz
                    )
                    if fault:
                        emit(_refusal(quote, feed, FAULTS[fault]))
                        return
                emit(Mid(quote.seq, quote.ts, mid_price(bid, ask)))

            return source.subscribe(
                on_next, observer.on_error, observer.on_completed, scheduler=scheduler
            )

        return Observable(subscribe)

    return operator


def _refusal(quote: Quote, feed: Feed, reason: str) -> Refusal:
    return Refusal(
        quote.seq, quote.ts, feed, reason, quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz
    )
