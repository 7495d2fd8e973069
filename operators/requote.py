"""Requote: lets a state through only when it is worth new orders."""

from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from operators.operator import Operator
from streams.events import Anchor, Decision, Inventory, Refusal, Residual

__all__ = ["State", "moved", "refused", "requote"]

State: TypeAlias = tuple[Residual | Refusal, Anchor | Refusal]
"""The latest of the signal and the latest of the target."""


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


def refused(refusal: Refusal, seq: int, ts: int, *, action: Any = "withdraw") -> Decision:
    """Make the decision that a refused book leads to, with the values it was judged by."""
    return Decision(
        seq=seq,
        ts=ts,
        action=action,
        reason=f"{refusal.feed} {refusal.reason}",
        signal_seq=refusal.seq if refusal.feed == "signal" and refusal.seq else None,
        signal_ts=refusal.ts if refusal.feed == "signal" and refusal.seq else None,
        target_seq=refusal.seq if refusal.feed == "target" and refusal.seq else None,
        target_ts=refusal.ts if refusal.feed == "target" and refusal.seq else None,
        refused_bid_px=refusal.bid_px,
        refused_ask_px=refusal.ask_px,
        refused_bid_sz=refusal.bid_sz,
        refused_ask_sz=refusal.ask_sz,
    )


def requote(
    *,
    threshold_bps: float,
    signal_skew_factor: float,
    inventory: Observable[Inventory],
    price: Operator[tuple[Residual, Anchor], Decision],
) -> Operator[State, Decision]:
    """Price a state when it moved enough since the last quote, or when nothing of ours is out.

    What counts as moved: ``moved``. It also prices when an order ended in a way that voids the
    last quote (``Inventory.resets``), and when no order of ours is open or in flight. Only a
    decision that quotes a side becomes the last quote: after both sides were dropped the state of
    the quote before stays. A refused book withdraws at once.

    ``price`` is the pipeline that a state worth it runs through; it must answer synchronously.

    Shape: none or one out per state, synchronous.
    """
    threshold = threshold_bps / 10_000.0

    def operator(source: Observable[State]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            into_price: Callable[[tuple[Residual, Anchor]], None]
            working = resets = seen_resets = unmoved = 0
            quoted = False
            last_anchor = last_residual = 0.0

            def on_inventory(now: Inventory) -> None:
                nonlocal working, resets
                working, resets = now.working, now.resets

            def on_priced(decision: Decision) -> None:
                nonlocal quoted, last_anchor, last_residual, unmoved
                if decision.action == "quote":
                    assert decision.anchor is not None
                    assert decision.residual is not None
                    quoted = True
                    last_anchor, last_residual = decision.anchor, decision.residual
                if unmoved:
                    decision = replace(decision, unmoved=unmoved)
                    unmoved = 0
                emit(decision)

            def worthwhile(
                priced: abc.ObserverBase[tuple[Residual, Anchor]], _: object = None
            ) -> abc.DisposableBase:
                nonlocal into_price
                into_price = priced.on_next
                return Disposable()

            def on_next(state: State) -> None:
                nonlocal quoted, seen_resets, unmoved
                signal, anchor = state
                if type(signal) is not Residual or type(anchor) is not Anchor:
                    refusal = anchor if type(anchor) is Refusal else signal
                    assert type(refusal) is Refusal
                    seq, ts = max(signal.seq, anchor.seq), max(signal.ts, anchor.ts)
                    if not seq:
                        return  # Neither feed has said anything: there is no input to answer.
                    quoted = False
                    emit(replace(refused(refusal, seq, ts), unmoved=unmoved))
                    unmoved = 0
                    return
                if seen_resets != resets:
                    quoted, seen_resets = False, resets
                if (
                    quoted
                    and working
                    and not moved(
                        anchor.price,
                        last_anchor,
                        signal.residual,
                        last_residual,
                        signal_skew_factor,
                        threshold,
                    )
                ):
                    unmoved += 1
                    return
                into_price((signal, anchor))

            # Side inputs first: a state must find them in place when it arrives.
            return CompositeDisposable(
                inventory.subscribe(on_inventory, observer.on_error, scheduler=scheduler),
                price(Observable(worthwhile)).subscribe(
                    on_priced, observer.on_error, scheduler=scheduler
                ),
                source.subscribe(
                    on_next, observer.on_error, observer.on_completed, scheduler=scheduler
                ),
            )

        return Observable(subscribe)

    return operator
