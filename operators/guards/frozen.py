"""Frozen: refuses a book that keeps being repeated without ever changing."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Feed, Quote, Refusal

__all__ = ["frozen", "is_frozen"]


def is_frozen(unchanged_ns: int, limit_ns: int) -> bool:
    """Tell whether a book that is still being repeated has stood for too long; a step."""
    return unchanged_ns > limit_ns


def frozen(feed: Feed, limit_ns: int) -> Operator[Quote | Refusal, Quote | Refusal]:
    """Refuse the repetition of a book whose prices and sizes have not changed for ``limit_ns``.

    A feed that says nothing is a matter of age; one that says the same again and again may have
    lost its source. Any change makes it sound again; until then the refusal stays that of the first
    quote that was refused. Refusals pass.

    Units: ns; ``value`` and ``limit`` of the refusal in seconds.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Quote | Refusal]) -> Observable[Quote | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Quote | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            emit = observer.on_next
            since, bid, ask, bid_sz, ask_sz = 0, None, None, None, None
            fresh = True
            refusal: Refusal | None = None

            def on_next(quote: Quote | Refusal) -> None:
                nonlocal since, bid, ask, bid_sz, ask_sz, fresh, refusal
                if type(quote) is not Quote:
                    emit(quote)
                    return
                if (
                    fresh
                    or quote.bid_px != bid
                    or quote.ask_px != ask
                    or quote.bid_sz != bid_sz
                    or quote.ask_sz != ask_sz
                ):
                    since, fresh, refusal = quote.ts, False, None
                    bid, ask = quote.bid_px, quote.ask_px
                    bid_sz, ask_sz = quote.bid_sz, quote.ask_sz
                elif is_frozen(quote.ts - since, limit_ns):
                    if refusal is None:
                        refusal = Refusal(
                            quote.seq, quote.ts, feed, "frozen", bid, ask, bid_sz, ask_sz,
                            (quote.ts - since) / 1e9, limit_ns / 1e9,
                        )  # fmt: skip
                    emit(refusal)
                    return
                emit(quote)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
