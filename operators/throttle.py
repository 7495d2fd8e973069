"""Throttle: at most one new target per window of event time, the freshest at the trailing edge."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.budget import FAR_NS, Budget, BudgetLimits
from operators.operator import Link, Operator, clock_of, link
from operators.tick_ladder import levels_in_reach
from streams.events import BUY, SELL, Decision, OrderUpdate

__all__ = [
    "Retract",
    "levels_through",
    "release_ns",
    "retract_sides",
    "retract_to_reach",
    "same_levels",
    "throttle",
]

Retract = Callable[[Decision, Decision], Decision | None]
"""From what was sent last and what is wanted now: what of the first may still stand meanwhile, as
a ``retract``; ``None`` when nothing needs to go."""


def release_ns(last_ns: int, interval_ns: int) -> int:
    """When the next target may go out; a step."""
    return last_ns + interval_ns


def levels_through(side: int, px: int, step: int, levels: int, centre: float) -> int:
    """How many of the first levels stand at the centre or beyond it: they would trade at a loss.

    A step. Units: 1e-9, the centre in quote currency.
    """
    for i in range(levels):
        if side * (centre - (px - side * step * i) / 1e9) > 0.0:
            return i
    return levels


def retract_to_reach(distance: int | None) -> Retract:
    """Take away sides that are not wanted, levels that the new centre has met, and those too far.

    Too far is further than ``distance`` (1e-9) from the best price of their side; ``None``: never.
    """

    def left(
        side: int, sent_px: int | None, levels: int, step: int, wanted: Decision
    ) -> tuple[int | None, int]:
        """First price and number of the levels of a side that may stand."""
        px = wanted.bid_px if side == BUY else wanted.ask_px
        if sent_px is None or px is None:
            return None, 0
        if wanted.bid is not None and wanted.ask is not None:
            met = levels_through(side, sent_px, step, levels, (wanted.bid + wanted.ask) / 2.0)
            sent_px, levels = sent_px - side * step * met, levels - met
        best = wanted.target_bid_px if side == BUY else wanted.target_ask_px
        if distance is not None and best is not None:
            levels = levels_in_reach(side, sent_px, step, levels, best, distance)
        return (sent_px, levels) if levels else (None, 0)

    def retract(sent: Decision, wanted: Decision) -> Decision | None:
        bid_px, bids = left(BUY, sent.bid_px, sent.bid_levels, sent.level_step, wanted)
        ask_px, asks = left(SELL, sent.ask_px, sent.ask_levels, sent.level_step, wanted)
        return _retracted(sent, wanted, bid_px, ask_px, bids, asks)

    return retract


retract_sides: Retract = retract_to_reach(None)
"""Take away sides that are not wanted any more, and those that the new centre has met."""


def _retracted(
    sent: Decision, wanted: Decision, bid_px: int | None, ask_px: int | None, bids: int, asks: int
) -> Decision | None:
    if bids == sent.bid_levels and asks == sent.ask_levels:
        return None
    return replace(
        wanted, action="retract", reason="taken away at once", bid_px=bid_px, ask_px=ask_px,
        bid_levels=bids, ask_levels=asks, level_step=sent.level_step, qty=sent.qty, unmoved=0,
    )  # fmt: skip


def same_levels(one: Decision, other: Decision) -> bool:
    """Tell whether two targets want the same orders."""
    return (
        one.bid_px == other.bid_px
        and one.ask_px == other.ask_px
        and one.bid_levels == other.bid_levels
        and one.ask_levels == other.ask_levels
        and one.qty == other.qty
    )


def throttle(
    interval_ns: int,
    *,
    limits: BudgetLimits | None = None,
    orders: Sequence[Observable[OrderUpdate]] = (),
    retract: Retract = retract_sides,
) -> Operator[Decision, Decision]:
    """Let a target through when the last went out at least ``interval_ns`` ago, else hold it back.

    With ``limits`` (and the changes of our ``orders`` that count against them, a stream a market)
    also when the budget cannot pay for it yet. The freshest held target goes out when both allow
    it, decided at that instant; one that was overtaken never does. What takes quotes away
    (``withdraw``) and what only reports passes at once, and a withdrawal also drops what is held.
    Every held target is reported as a ``hold``, once; what it takes away (``retract``) goes at
    once.

    Units: ns of the graph's clock.
    Shape: in time order, synchronous or at the trailing edge; completes after what is held went.
    Errors: ValueError here if the interval is negative; RuntimeError on subscription if the
        scheduler is not the graph's clock and there is something to throttle.
    """
    if interval_ns < 0:
        raise ValueError(f"interval_ns must be a number of ns, 0 for none, was {interval_ns!r}")

    def operator(source: Observable[Decision]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "throttle")
            emit = observer.on_next
            budget = None if limits is None else Budget(limits, clock.now_ns)
            last_ns: int | None = None
            sent: Decision | None = None
            held: Decision | None = None
            due_ns = 0
            completed = False
            unreported = 0
            timer = SerialDisposable()

            def allowed_ns(decision: Decision, now: int) -> int:
                """When a target may go: now, or later."""
                due = now if last_ns is None else max(now, release_ns(last_ns, interval_ns))
                if budget is not None:
                    cost = decision.bid_levels + decision.ask_levels
                    due = max(due, budget.earliest_ns(now, cost))
                return due

            def wait(due: int) -> None:
                nonlocal due_ns
                due_ns = due
                # What only a fill can pay for has no time: its notice looks again.
                never = due - clock.now_ns >= FAR_NS
                timer.disposable = None if never else clock.schedule_ns(due, release)

            def looking_again(
                count: Callable[[OrderUpdate], None],
            ) -> Callable[[OrderUpdate], None]:
                def on_update(update: OrderUpdate) -> None:
                    count(update)
                    if held is not None:
                        due = allowed_ns(held, clock.now_ns)
                        if due != due_ns:
                            wait(due)

                return on_update

            def pass_on(decision: Decision, now: int) -> None:
                nonlocal held, last_ns, sent
                held, last_ns, sent = None, now, decision
                emit(counted(decision))

            def counted(decision: Decision) -> Decision:
                """Add the held targets that were not reported one by one."""
                nonlocal unreported
                if unreported:
                    decision = replace(decision, unmoved=decision.unmoved + unreported)
                    unreported = 0
                return decision

            def release(_: abc.SchedulerBase, __: object = None) -> None:
                decision, now = held, clock.now_ns
                if decision is not None:
                    due = allowed_ns(decision, now)
                    if due > now:
                        wait(due)
                        return
                    pass_on(replace(decision, ts=now, reason="throttle released", unmoved=0), now)
                if completed:
                    observer.on_completed()

            def on_completed() -> None:
                nonlocal completed
                completed = True
                if held is None:
                    observer.on_completed()

            def on_next(decision: Decision) -> None:
                nonlocal held, sent, unreported
                if decision.action != "quote":
                    if decision.action == "withdraw":
                        held, sent = None, None
                        timer.disposable = None
                    emit(counted(decision))
                    return
                now = clock.now_ns
                due = allowed_ns(decision, now)
                if due <= now:
                    timer.disposable = None
                    pass_on(decision, now)
                    return
                if held is None or due != due_ns:
                    wait(due)
                again, held = held is not None and same_levels(held, decision), decision
                if again:
                    unreported += 1 + decision.unmoved
                else:
                    waits = last_ns is None or now >= release_ns(last_ns, interval_ns)
                    reason = "budget" if waits else "throttle"
                    emit(counted(replace(decision, action="hold", reason=reason)))
                if sent is not None:
                    retracted = retract(sent, decision)
                    if retracted is not None:
                        sent = retracted
                        emit(retracted)

            subscriptions = CompositeDisposable(timer)
            if budget is not None:
                for changes in orders:
                    subscriptions.add(
                        changes.subscribe(
                            looking_again(budget.listener()), observer.on_error, scheduler=scheduler
                        )
                    )
            subscriptions.add(link(source, on_next, observer.on_error, on_completed, scheduler))
            return subscriptions

        return Link(subscribe)

    return operator if interval_ns or limits is not None else (lambda source: source)
