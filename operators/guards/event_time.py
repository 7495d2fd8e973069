"""Event time: refuses quotes whose venue time cannot be right, or lies far behind."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Feed, Quote, Refusal

__all__ = ["event_time", "seconds_ahead"]

_SNAPSHOT = 32


def seconds_ahead(ts_event: int, ts: int) -> float:
    """How far the venue's time is ahead of ours, in seconds; behind is negative; a step."""
    return (ts_event - ts) / 1e9


def event_time(
    feed: Feed, *, max_ahead_ns: int | None, max_behind_ns: int | None
) -> Operator[Quote, Quote | Refusal]:
    """Refuse a quote made in the future, or so long ago that the feed must be backed up.

    A quote without an event time passes, and so does a snapshot (flag 32) however old it is: it
    tells what still holds. ``None`` switches one of the two off.

    Units: ns; ``value`` and ``limit`` of the refusal in seconds, ahead is positive.
    Shape: one out per quote, synchronous.
    """

    def operator(source: Observable[Quote]) -> Observable[Quote | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Quote | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            emit = observer.on_next
            ahead = 2**62 if max_ahead_ns is None else max_ahead_ns
            behind = -(2**62) if max_behind_ns is None else -max_behind_ns

            def on_next(quote: Quote) -> None:
                ts_event = quote.ts_event
                if ts_event is None or behind <= ts_event - quote.ts <= ahead:
                    emit(quote)
                elif ts_event > quote.ts:
                    emit(_refusal(quote, feed, "event time in the future", ahead))
                elif quote.flags & _SNAPSHOT:
                    emit(quote)
                else:
                    emit(_refusal(quote, feed, "event time far behind", behind))

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator


def _refusal(quote: Quote, feed: Feed, reason: str, limit_ns: int) -> Refusal:
    assert quote.ts_event is not None
    return Refusal(
        quote.seq, quote.ts, feed, reason, quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz,
        seconds_ahead(quote.ts_event, quote.ts), limit_ns / 1e9,
    )  # fmt: skip
