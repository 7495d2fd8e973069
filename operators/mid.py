"""Mid: the middle of a sound book, or why there is none."""

from reactivex import Observable, abc

from operators.books import FAULTS, LOCKED, book_fault
from operators.operator import Link, Operator, link
from streams.events import Feed, Mid, Quote, Refusal

__all__ = ["mid", "mid_price", "mid_price_1e16"]


def mid_price(bid_px: int, ask_px: int) -> float:
    """Middle of two prices of 1e-9, in quote currency; a step."""
    return (bid_px / 1e9 + ask_px / 1e9) / 2.0


def mid_price_1e16(bid_px: int, ask_px: int) -> float:
    """Middle of two prices as NautilusTrader computes it; a step.

    It keeps a price as an integer of 1e-16 and makes a double of *that*, which above 2**53 of them
    loses the last bits: some 14,757 at two decimals. A product of doubles rounds the same way.
    """
    return (bid_px * 1e7 / 1e16 + ask_px * 1e7 / 1e16) / 2.0


def mid(
    feed: Feed, *, tutorial: bool = False, locked: bool = True
) -> Operator[Quote | Refusal, Mid | Refusal]:
    """Take the middle of each book; a book without one becomes a refusal with what it was.

    Refused are a missing side, a zero price, a zero size, a crossed book, and with
    ``locked=False`` a locked one. As the ``tutorial`` preset has it only a missing side is refused,
    and the arithmetic is ``mid_price_1e16``. Refusals pass.

    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Quote | Refusal]) -> Observable[Mid | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Mid | Refusal], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            middle = mid_price_1e16 if tutorial else mid_price

            def on_next(quote: Quote | Refusal) -> None:
                if type(quote) is not Quote:
                    emit(quote)  # type: ignore[arg-type]
                    return
                bid, ask = quote.bid_px, quote.ask_px
                if bid is None or ask is None:
                    lone = "no ask" if bid is not None else "no bid"
                    emit(_refusal(quote, feed, "missing" if bid is None and ask is None else lone))
                    return
                # Nearly every book is sound, which takes no call to see; ``book_fault`` says what
                # is wrong with the others.
                bid_sz, ask_sz = quote.bid_sz, quote.ask_sz
                if not tutorial and not (
                    0 < bid < ask and bid_sz and bid_sz > 0 and ask_sz and ask_sz > 0
                ):
                    fault = book_fault(
                        bid, ask, 1 if bid_sz is None else bid_sz, 1 if ask_sz is None else ask_sz
                    )
                    if fault and not (fault == LOCKED and locked):
                        emit(_refusal(quote, feed, FAULTS[fault]))
                        return
                emit(Mid(quote.seq, quote.ts, middle(bid, ask), bid, ask))

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator


def _refusal(quote: Quote, feed: Feed, reason: str) -> Refusal:
    return Refusal(
        quote.seq, quote.ts, feed, reason, quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz
    )
