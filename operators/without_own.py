"""Without own: the target's book less our own quotes, so that we do not follow ourselves."""

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from operators.operator import Link, Operator, link
from streams.events import BUY, OrderUpdate, Quote

__all__ = ["others_size", "without_own"]

_RESTING = frozenset({"open", "pending_cancel", "pending_modify"})


def others_size(displayed: int, ours: int) -> int:
    """What others show at a price at which we rest, 1e-9 base units; a step."""
    return displayed - ours if displayed > ours else 0


def without_own(orders: Observable[OrderUpdate]) -> Operator[Quote, Quote]:
    """Take our resting orders out of each quote.

    Where others rest at the best price too, only its size shrinks. Where the best price is ours
    alone the next one is not in a BBO: the last best price of that side that was not ours alone
    stands in, with an unknown size. If there was none, or the market has gone through it since, the
    side is absent.

    Use it where our orders are in the recorded or live book; a replay that simulates fills on a
    book without us has nothing to take out.

    Shape: one out per quote, synchronous.
    """

    def operator(source: Observable[Quote]) -> Observable[Quote]:
        def subscribe(
            observer: abc.ObserverBase[Quote], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            resting: dict[int, tuple[int, int, int]] = {}
            ours: dict[tuple[int, int], int] = {}
            others_bid: int | None = None
            others_ask: int | None = None

            def on_update(update: OrderUpdate) -> None:
                before = resting.pop(update.n, None)
                if before is not None:
                    side, px, leaves = before
                    ours[side, px] -= leaves
                    if not ours[side, px]:
                        del ours[side, px]
                if update.px is not None and update.leaves and update.state in _RESTING:
                    resting[update.n] = (update.side, update.px, update.leaves)
                    at = update.side, update.px
                    ours[at] = ours.get(at, 0) + update.leaves

            def on_next(quote: Quote) -> None:
                nonlocal others_bid, others_ask
                bid, ask = quote.bid_px, quote.ask_px
                our_bid = ours.get((BUY, bid), 0) if bid is not None and ours else 0
                our_ask = ours.get((-BUY, ask), 0) if ask is not None and ours else 0
                if not our_bid and not our_ask:
                    others_bid, others_ask = bid, ask
                    emit(quote)
                    return
                bid_sz, ask_sz = quote.bid_sz, quote.ask_sz
                bid_from_before = ask_from_before = False
                if our_bid:
                    bid_sz = None if bid_sz is None else others_size(bid_sz, our_bid)
                    if bid_sz == 0:
                        bid, bid_sz, bid_from_before = others_bid, None, True
                if our_ask:
                    ask_sz = None if ask_sz is None else others_size(ask_sz, our_ask)
                    if ask_sz == 0:
                        ask, ask_sz, ask_from_before = others_ask, None, True
                # A best price from before must not outlive a market that went through it: it was
                # not the best any more when ours became it, or it meets the other side.
                if bid_from_before and bid is not None and bid > (quote.bid_px or 0):
                    bid = None
                if ask_from_before and ask is not None and ask < (quote.ask_px or 0):
                    ask = None
                if bid is not None and ask is not None and bid >= ask:
                    if bid_from_before:
                        bid = None
                    if ask_from_before:
                        ask = None
                others_bid, others_ask = bid, ask
                emit(replace(quote, bid_px=bid, ask_px=ask, bid_sz=bid_sz, ask_sz=ask_sz))

            return CompositeDisposable(
                orders.subscribe(on_update, observer.on_error, scheduler=scheduler),
                link(source, on_next, observer.on_error, observer.on_completed, scheduler),
            )

        return Link(subscribe)

    return operator
