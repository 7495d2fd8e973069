"""Frozen: refuses a book that keeps being repeated without ever changing."""

import math
from typing import cast

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
            # The quote that first showed the book of now; before any, one that equals no other.
            first = Quote(0, 0, None, *cast(tuple[int, int, int, int], (math.nan,) * 4), 0)
            refusal: Refusal | None = None

            def on_next(quote: Quote | Refusal) -> None:
                nonlocal first, refusal
                if type(quote) is not Quote:
                    emit(quote)
                    return
                if (
                    quote.bid_px != first.bid_px
                    or quote.ask_px != first.ask_px
                    or quote.bid_sz != first.bid_sz
                    or quote.ask_sz != first.ask_sz
                ):
                    first, refusal = quote, None
                elif is_frozen(quote.ts - first.ts, limit_ns):
                    if refusal is None:
                        refusal = Refusal(
                            quote.seq, quote.ts, feed, "frozen",
                            quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz,
                            (quote.ts - first.ts) / 1e9, limit_ns / 1e9,
                        )  # fmt: skip
                    emit(refusal)
                    return
                emit(quote)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
