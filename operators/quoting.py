"""Quoting: the graph from two feeds and our own orders to decisions, itself an operator.

signal ─ mid ─ residual ─┐
                         ├─ combine_latest ─ requote( inventory ─ skew ─ ladder ) ─ throttle ─►
target ─ mid ─ anchor ───┘                        ▲
orders ─ inventory ───────────────────────────────┘
"""

from typing import Literal, cast

from msgspec import Struct
from reactivex import Observable, abc
from reactivex import operators as ops

from operators.anchor import anchor
from operators.combine import combine_latest
from operators.inventory import inventory
from operators.ladder import ladder
from operators.mid import mid
from operators.operator import Operator
from operators.refusals import divert_refusals
from operators.requote import State, requote
from operators.residual import Baseline, residual
from operators.skew import skew
from operators.starting import starting_with
from operators.throttle import throttle
from streams.events import (
    Anchor,
    Decision,
    Inventory,
    Mid,
    OrderUpdate,
    Quote,
    Refusal,
    Residual,
)
from streams.instrument import Instrument

__all__ = ["Parameters", "quoting"]


class Parameters(Struct, frozen=True, kw_only=True):
    """What the graph is built from."""

    instrument: Instrument
    """The target."""
    preset: Literal["composite", "tutorial"]
    trade_size: int
    """Size of each quote, 1e-9 base units."""
    max_position: int
    """Hard cap on the net position, 1e-9 base units."""
    half_spread_bps: float
    inventory_skew_factor: float
    """Price units per base unit of position."""
    signal_skew_factor: float
    """Price units per unit of residual."""
    requote_threshold_bps: float
    baseline: Baseline
    min_interval_ns: int = 0
    """Shortest time between two targets; 0 for none."""
    on_cancel_resubmit: bool = False
    position: int = 0
    """Position at the start, 1e-9 base units."""


def quoting(
    parameters: Parameters, *, target: Observable[Quote], orders: Observable[OrderUpdate]
) -> Operator[Quote, Decision]:
    """Turn the signal's quotes, with the target's and our orders beside them, into decisions.

    ``composite``: either feed triggers, nothing is quoted before both have a sound book, and a book
    that is one-sided, crossed, zero or missing withdraws the quotes until it is sound again.

    ``tutorial``: the rules of NautilusTrader's CompositeMarketMaker, flaws included. Only a target
    quote triggers, the residual is 0 before the first signal, and only a book without a side is
    refused (it is skipped, and what works stays).

    Shape: see ``requote`` and ``throttle``. Subscribe with the graph's clock as scheduler.
    """
    build = _tutorial if parameters.preset == "tutorial" else _composite

    def operator(signal: Observable[Quote]) -> Observable[Decision]:
        return build(parameters, signal, target, orders)

    return operator


def _composite(
    p: Parameters,
    signal: Observable[Quote],
    target: Observable[Quote],
    orders: Observable[OrderUpdate],
) -> Observable[Decision]:
    # Until a feed has spoken, its place is taken by the reason why there is nothing to quote on.
    no_signal: Operator[Residual | Refusal, Residual | Refusal]
    no_signal = starting_with(Refusal(0, 0, "signal", "missing"))
    no_target: Operator[Anchor | Refusal, Anchor | Refusal]
    no_target = starting_with(Refusal(0, 0, "target", "missing"))
    residuals = signal.pipe(mid("signal"), residual(p.baseline), no_signal)
    anchors = target.pipe(mid("target"), anchor(p.instrument.price_scale), no_target)
    return combine_latest(residuals, anchors).pipe(_decide(p, orders))


def _tutorial(
    p: Parameters,
    signal: Observable[Quote],
    target: Observable[Quote],
    orders: Observable[OrderUpdate],
) -> Observable[Decision]:
    def subscribe(
        observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        sound: Operator[Mid | Refusal, Mid] = divert_refusals(observer)
        measure = cast(Operator[Mid, Residual], residual(p.baseline))
        centre = cast(Operator[Mid, Anchor], anchor(p.instrument.price_scale, tutorial=True))
        # A residual of 0 stands in until the first signal: the flaw is copied on purpose.
        no_signal = starting_with(Residual(0, 0, 0.0, 0.0, 0.0))
        residuals = no_signal(measure(sound(mid("signal", tutorial=True)(signal))))
        anchors = centre(sound(mid("target", tutorial=True)(target)))
        pairs: Observable[tuple[Anchor, Residual]] = anchors.pipe(ops.with_latest_from(residuals))
        decisions = pairs.pipe(ops.map(_signal_first), _decide(p, orders))
        return decisions.subscribe(observer, scheduler=scheduler)

    return Observable(subscribe)


def _signal_first(pair: tuple[Anchor, Residual]) -> State:
    return pair[1], pair[0]


def _decide(p: Parameters, orders: Observable[OrderUpdate]) -> Operator[State, Decision]:
    ours: Observable[Inventory] = orders.pipe(
        inventory(
            position=p.position,
            # The tutorial quotes again at once after a reject; at a price that keeps being
            # rejected that is a storm, so the composite waits for the next move instead.
            on_reject_resubmit=p.preset == "tutorial",
            on_cancel_resubmit=p.on_cancel_resubmit,
        )
    )

    def price(states: Observable[tuple[Residual, Anchor]]) -> Observable[Decision]:
        return states.pipe(
            ops.with_latest_from(ours),
            skew(p.signal_skew_factor, p.inventory_skew_factor),
            ladder(
                scale=p.instrument.price_scale,
                tick_size=p.instrument.tick_size,
                half_spread_bps=p.half_spread_bps,
                trade_size=p.trade_size,
                max_position=p.max_position,
                count_working=p.preset == "tutorial",
            ),
        )

    def operator(states: Observable[State]) -> Observable[Decision]:
        return states.pipe(
            requote(
                threshold_bps=p.requote_threshold_bps,
                signal_skew_factor=p.signal_skew_factor,
                inventory=ours,
                price=price,
            ),
            throttle(p.min_interval_ns),
        )

    return operator
