"""Inventory: what we hold and what works for us, folded from our orders' changes."""

from reactivex import Observable, abc

from operators.operator import Operator, link
from operators.starting import starting_with
from streams.events import BUY, Inventory, OrderUpdate

__all__ = ["inventory", "voids_last_quote"]


def voids_last_quote(
    update: OrderUpdate, *, on_reject_resubmit: bool = True, on_cancel_resubmit: bool = False
) -> bool:
    """Tell whether an order ended in a way that makes the last quote void."""
    if update.state == "expired":
        return True
    if update.state == "rejected":
        return on_reject_resubmit
    return on_cancel_resubmit and update.state == "cancelled" and not update.requested


def inventory(
    *, position: int = 0, on_reject_resubmit: bool = True, on_cancel_resubmit: bool = False
) -> Operator[OrderUpdate, Inventory]:
    """Fold the changes of our orders into the position and what works on each side.

    With ``on_reject_resubmit`` a rejected order voids the last quote, so that the next state is
    quoted again at once; where a price keeps being rejected, that is once per state.

    Units: position and leaves in 1e-9 base units.
    Shape: one at once, the ``position`` given; then one per update.
    """

    def operator(source: Observable[OrderUpdate]) -> Observable[Inventory]:
        def subscribe(
            observer: abc.ObserverBase[Inventory], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            net, buys, sells, resets = position, 0, 0, 0
            cash = fees = rejects = 0
            leaves: dict[int, int] = {}

            def on_next(update: OrderUpdate) -> None:
                nonlocal net, buys, sells, resets, cash, fees, rejects
                change = update.leaves - leaves.get(update.n, 0)
                if update.leaves:
                    leaves[update.n] = update.leaves
                else:
                    leaves.pop(update.n, None)
                if update.filled:
                    net += update.side * update.filled
                    cash -= update.side * update.filled * (update.fill_px or 0)
                    fees += update.fee
                rejects += update.state == "rejected"
                if update.side == BUY:
                    buys += change
                else:
                    sells += change
                resets += voids_last_quote(
                    update,
                    on_reject_resubmit=on_reject_resubmit,
                    on_cancel_resubmit=on_cancel_resubmit,
                )
                emit(Inventory(net, buys, sells, len(leaves), cash, fees, rejects, resets))

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return starting_with(Inventory(position=position))(Observable(subscribe))

    return operator
