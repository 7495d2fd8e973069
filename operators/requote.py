"""Requote: lets a state through only when it is worth new orders."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from operators.budget import Budget, BudgetLimits
from operators.operator import Link, Operator, clock_of, link
from operators.state import State, seq_of
from operators.tap import Tape
from streams.events import Anchor, Decision, Inventory, OrderUpdate, Refusal, Residual

__all__ = ["moved", "refused", "requote", "same_target", "widened_bps"]

_LEAST_WIDENED_BPS = 1.0
_FEEDS = ("signal", "target")


def moved(
    anchor: float,
    last_anchor: float,
    residual: float,
    last_residual: float,
    signal_skew_factor: float,
    threshold: float,
) -> bool:
    """Tell whether anchor or signal impact moved by the threshold since the last quote; a step.

    Units: threshold a fraction of the anchor, 5 bps = 0.0005. The anchor's move is measured against
    the anchor that was quoted, the signal's impact against the present one.
    """
    if last_anchor == 0.0:
        return True
    if abs(anchor - last_anchor) / last_anchor >= threshold:
        return True
    if signal_skew_factor == 0.0 or anchor == 0.0:
        return False
    return abs(residual - last_residual) * abs(signal_skew_factor) / anchor >= threshold


def surely_unmoved(
    last_anchor: float, last_residual: float, signal_skew_factor: float, threshold: float
) -> tuple[float, float, float, float]:
    """Least and greatest anchor, and least and greatest residual, between which ``moved`` is false.

    Beyond them it may be either. Rounding is allowed for, so that what is within surely is.
    """
    share = threshold * 0.999 - 1e-12
    if not (last_anchor > 0.0 and share > 0.0):
        return math.inf, -math.inf, math.inf, -math.inf
    low, high = last_anchor * (1.0 - share), last_anchor * (1.0 + share)
    reach = math.inf
    if signal_skew_factor != 0.0:
        reach = share * low / abs(signal_skew_factor) - 1e-12 * (1.0 + abs(last_residual))
    return low, high, last_residual - reach, last_residual + reach


def widened_bps(threshold_bps: float, factor: float) -> float:
    """Requote threshold while a budget is low: times the factor, of at least 1 bp; a step."""
    if factor <= 1.0:
        return threshold_bps
    if threshold_bps < _LEAST_WIDENED_BPS:
        return _LEAST_WIDENED_BPS * factor
    return threshold_bps * factor


def same_target(one: Decision, other: Decision) -> bool:
    """Tell whether two targets want the same levels and were made at the same position."""
    return (
        one.bid_px == other.bid_px
        and one.ask_px == other.ask_px
        and one.bid_levels == other.bid_levels
        and one.ask_levels == other.ask_levels
        and one.position == other.position
        and one.action == other.action
    )


def refused(refusal: Refusal, seq: int, ts: int, *, action: Any = "withdraw") -> Decision:
    """Make the decision that a refusal leads to, with the values it was judged by."""
    return Decision(
        seq=seq,
        ts=ts,
        action=action,
        reason=f"{refusal.by} {refusal.reason}",
        signal_seq=refusal.seq if refusal.by == "signal" and refusal.seq else None,
        signal_ts=refusal.ts if refusal.by == "signal" and refusal.seq else None,
        target_seq=refusal.seq if refusal.by == "target" and refusal.seq else None,
        target_ts=refusal.ts if refusal.by == "target" and refusal.seq else None,
        refused_bid_px=refusal.bid_px,
        refused_ask_px=refusal.ask_px,
        refused_bid_sz=refusal.bid_sz,
        refused_ask_sz=refusal.ask_sz,
        refused_value=refusal.value,
        refused_limit=refusal.limit,
    )


def requote(
    *,
    threshold_bps: float,
    signal_skew_factor: float,
    inventory: Observable[Inventory],
    price: Operator[tuple[Residual, Anchor], Decision],
    only_changes: bool = False,
    limits: BudgetLimits | None = None,
    orders: Sequence[Observable[OrderUpdate]] = (),
    refused_tape: Tape | None = None,
) -> Operator[State, Decision]:
    """Price a state when it moved enough since the last quote, or when nothing of ours is out.

    What counts as moved: ``moved``, and a change of the half-spread's widening. It also prices when
    an order ended in a way that voids the last quote (``Inventory.resets``), and when no order of
    ours is open or in flight. Only a decision that quotes a side becomes the last quote: after both
    sides were dropped the state of the quote before stays. A refusal withdraws at once; the same
    refusal met again (for a feed: of the same quote) is only counted. With ``only_changes`` a
    target that equals the last one is only counted as well.

    With ``limits`` (and the changes of our ``orders`` that count against them, a stream a market)
    the threshold widens when a budget runs low: ``operators.budget.widening``, ``widened_bps``.

    ``refused_tape`` is where refused states are written down, also those that are only counted.

    ``price`` is the pipeline that a state worth it runs through; it must answer synchronously.

    Shape: none or one out per state, synchronous, stamped with the graph's present.
    Errors: RuntimeError on subscription with ``limits`` and without the graph's clock.
    """
    threshold = threshold_bps / 10_000.0

    def operator(source: Observable[State]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            clock: Any = scheduler if hasattr(scheduler, "now_ns") else None
            budget = None
            if limits is not None:
                budget = Budget(limits, clock_of(scheduler, "requote with a budget").now_ns)
            into_price: Callable[[tuple[Residual, Anchor]], None]
            working = resets = unmoved = 0
            quoted = False
            last_anchor = last_residual = 0.0
            low, high, residual_low, residual_high = surely_unmoved(0.0, 0.0, 0.0, 0.0)
            last_widening = 1.0
            last_target: Decision | None = None
            last_refusal: tuple[str, str, int] | None = None
            threshold_now: float | None = threshold_bps if budget is not None else None

            def on_inventory(now: Inventory) -> None:
                nonlocal working, resets, quoted, last_target
                working = now.working
                if now.resets != resets:
                    quoted, resets, last_target = False, now.resets, None

            def on_priced(decision: Decision) -> None:
                nonlocal quoted, last_anchor, last_residual, unmoved, last_target
                nonlocal low, high, residual_low, residual_high
                if (
                    only_changes
                    and last_target is not None
                    and (working or decision.action != "quote")
                    and same_target(decision, last_target)
                ):
                    unmoved += 1
                    return
                if decision.action == "quote":
                    assert decision.anchor is not None
                    assert decision.residual is not None
                    quoted = True
                    last_anchor, last_residual = decision.anchor, decision.residual
                    low, high, residual_low, residual_high = surely_unmoved(
                        last_anchor, last_residual, signal_skew_factor, threshold
                    )
                last_target = decision
                ts = decision.ts if clock is None else max(decision.ts, clock.now_ns)
                if unmoved or threshold_now is not None or ts != decision.ts:
                    decision = replace(
                        decision, ts=ts, unmoved=unmoved, threshold_bps=threshold_now
                    )
                    unmoved = 0
                emit(decision)

            def worthwhile(
                priced: abc.ObserverBase[tuple[Residual, Anchor]], _: object = None
            ) -> abc.DisposableBase:
                nonlocal into_price
                into_price = priced.on_next
                return Disposable()

            def withdraw(state: State) -> None:
                nonlocal quoted, unmoved, last_refusal, last_target
                signal, anchor = state
                refusal = anchor if type(anchor) is Refusal else signal
                assert type(refusal) is Refusal
                seq, ts = seq_of(state), max(signal.ts, anchor.ts)
                if not seq:
                    return  # Neither feed has said anything: there is no input to answer.
                if refused_tape is not None:
                    refused_tape.write(state, refused_tape.buffer, -1)
                by = refusal.by
                this = by, refusal.reason, refusal.seq if by in _FEEDS else 0
                if this == last_refusal:
                    unmoved += 1
                    return
                quoted, last_refusal, last_target = False, this, None
                if clock is not None:
                    ts = max(ts, clock.now_ns)
                emit(replace(refused(refusal, seq, ts), unmoved=unmoved))
                unmoved = 0

            def on_next(state: State) -> None:
                nonlocal unmoved, last_refusal, last_widening, threshold_now
                signal, anchor = state
                if type(signal) is not Residual or type(anchor) is not Anchor:
                    withdraw(state)
                    return
                if quoted and working and anchor.widening == last_widening:
                    price, residual = anchor.price, signal.residual
                    # Nearly every state ends here, four comparisons instead of a call.
                    if low <= price <= high and residual_low <= residual <= residual_high:
                        unmoved += 1
                        return
                    worth = moved(
                        price, last_anchor, residual, last_residual, signal_skew_factor, threshold
                    )
                    if worth and budget is not None:
                        factor = budget.factor(clock.now_ns)
                        if factor > 1.0:
                            widened = widened_bps(threshold_bps, factor) / 10_000.0
                            worth = moved(
                                price, last_anchor, residual, last_residual,
                                signal_skew_factor, widened,
                            )  # fmt: skip
                    if not worth:
                        unmoved += 1
                        return
                last_refusal, last_widening = None, anchor.widening
                if budget is not None:
                    threshold_now = widened_bps(threshold_bps, budget.factor(clock.now_ns))
                into_price((signal, anchor))

            subscriptions = CompositeDisposable(
                # Side inputs first: a state must find them in place when it arrives.
                inventory.subscribe(on_inventory, observer.on_error, scheduler=scheduler)
            )
            if budget is not None:
                for changes in orders:
                    subscriptions.add(
                        changes.subscribe(budget.listener(), observer.on_error, scheduler=scheduler)
                    )
            subscriptions.add(
                price(Observable(worthwhile)).subscribe(
                    on_priced, observer.on_error, scheduler=scheduler
                )
            )
            subscriptions.add(
                link(source, on_next, observer.on_error, observer.on_completed, scheduler)
            )
            return subscriptions

        return Link(subscribe)

    return operator
