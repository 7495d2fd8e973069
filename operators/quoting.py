"""Quoting: the graph from two feeds and our own orders to decisions, itself an operator.

signal ─ event_time ─ frozen ─ mid ─ collar ─ split ─ residual ─ age ─┐
                                                                      ├─ combine_latest ─┐
target ─ event_time ─ frozen ─ mid ─ collar ─ anchor ─ age ───────────┘                  │
                                                                                         │
┌────────────────────────────────────────────────────────────────────────────────────────┘
└─ session ─ basis ─ fair_value ─ risk ─ kill_switch ─ requote( skew ─ ladder ) ─ throttle ─►
                                   ▲                       ▲                         ▲
orders ─ inventory ────────────────┴───────────────────────┘          orders ─ budget┘
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

from msgspec import Struct
from reactivex import Observable, abc
from reactivex import operators as ops

from operators.anchor import anchor
from operators.budget import BudgetLimits
from operators.combine import combine_latest
from operators.fair_value import fair_value
from operators.guards.age import age
from operators.guards.basis import basis
from operators.guards.collar import collar
from operators.guards.event_time import event_time
from operators.guards.frozen import frozen
from operators.guards.kill_switch import kill_switch
from operators.guards.risk import RiskLimits, risk
from operators.guards.schedule import Schedule
from operators.guards.session import Outside, session
from operators.guards.split import split
from operators.inventory import inventory
from operators.ladder import ladder
from operators.mid import mid
from operators.operator import Link, Operator
from operators.refusals import divert_refusals
from operators.requote import requote
from operators.residual import Baseline, residual
from operators.skew import skew
from operators.starting import starting_with
from operators.state import State
from operators.tap import NO_TAPS, Taps, tap
from operators.throttle import Retract, retract_sides, retract_to_reach, throttle
from operators.tick_ladder import tick_ladder
from operators.weighted import weighted
from operators.without_own import without_own
from streams.events import (
    Anchor,
    Decision,
    Feed,
    Inventory,
    Mid,
    OrderUpdate,
    Quote,
    Refusal,
    Residual,
    Status,
    Trade,
)
from streams.instrument import Instrument

__all__ = [
    "Guards", "LadderParameters", "Parameters", "Preset", "price_of", "quoting", "retract_of",
]  # fmt: skip

Preset = Literal["composite", "tutorial", "fair_value", "ladder"]


class Guards(Struct, frozen=True, kw_only=True):
    """What the guards are built from; ``None`` leaves one out. Units: ns, bps."""

    max_signal_age_ns: int | None = None
    max_quiet_signal_age_ns: int | None = None
    max_signal_age_outside_ns: int | None = None
    max_target_age_ns: int | None = None
    dead_ns: int | None = None
    max_ahead_ns: int | None = None
    max_signal_behind_ns: int | None = None
    max_target_behind_ns: int | None = None
    frozen_ns: int | None = None
    locked: bool = True
    """Whether a locked book may be quoted on."""
    collar_bps: float | None = None
    collar_confirm_ns: int = 0
    split_break_ns: int | None = None
    max_basis_bps: float | None = None
    schedule: Schedule | None = None
    """Sessions of the signal's market."""
    outside: Outside = "withdraw"
    widening: float = 1.0
    risk: RiskLimits | None = None


class LadderParameters(Struct, frozen=True, kw_only=True):
    """What the tick ladder is built from; see ``operators.tick_ladder``."""

    tick: int
    """The strategy's tick, 1e-9 quote currency."""
    base_spread_ticks: int
    max_inventory: int
    """1e-9 base units."""
    num_levels: int
    min_edge_ticks: int
    cancel_distance_ticks: int
    maker_fee_ppm: int = 0


class Parameters(Struct, frozen=True, kw_only=True):
    """What the graph is built from."""

    instrument: Instrument
    """The target."""
    preset: Preset
    trade_size: int
    """Size of each quote, 1e-9 base units."""
    max_position: int
    """Hard cap on the net position, 1e-9 base units."""
    half_spread_bps: float
    inventory_skew_factor: float
    """Price units per base unit of position; in the ladder a factor of 0 to 1."""
    signal_skew_factor: float
    """Price units per unit of residual."""
    requote_threshold_bps: float
    baselines: tuple[Baseline, ...]
    """One for each signal."""
    set_baseline: float | None = None
    """The baseline, when it was set by hand."""
    weights: tuple[float, ...] = (1.0,)
    """One for each signal."""
    min_interval_ns: int = 0
    """Shortest time between two targets; 0 for none."""
    on_cancel_resubmit: bool = False
    anchor_without_own: bool = False
    """Take our own quotes out of the target's book."""
    position: int = 0
    """Position at the start, 1e-9 base units."""
    guards: Guards = Guards()
    budget: BudgetLimits | None = None
    ladder: LadderParameters | None = None


def quoting(
    parameters: Parameters,
    *,
    target: Observable[Quote],
    orders: Observable[OrderUpdate],
    status: Observable[Status] | None = None,
    trades: Observable[Trade] | None = None,
    more_signals: Sequence[Observable[Quote]] = (),
    account_orders: Sequence[Observable[OrderUpdate]] | None = None,
    taps: Taps = NO_TAPS,
) -> Operator[Quote, Decision]:
    """Turn the signal's quotes, with the target's and our orders beside them, into decisions.

    ``composite``: either feed triggers, nothing is quoted before both have a sound book, and a book
    that is one-sided, crossed, zero or missing withdraws the quotes until it is sound again.

    ``fair_value``: the same, centred on the signal's mid and never through the target's book.

    ``ladder``: several levels a side around the target's mid, in ticks; the signal's guards hold.

    ``tutorial``: the rules of NautilusTrader's CompositeMarketMaker, flaws included. Only a target
    quote triggers, the residual is 0 before the first signal, and only a book without a side is
    refused (it is skipped, and what works stays). Of the guards only risk limits that are set and
    the kill switch apply.

    ``account_orders``: the changes that count against the account's budget, a stream a market; by
    default only ours. ``taps`` are told what the stages hand on.

    Shape: see ``requote`` and ``throttle``. Subscribe with the graph's clock as scheduler.
    """
    spend = [orders] if account_orders is None else list(account_orders)

    def operator(signal: Observable[Quote]) -> Observable[Decision]:
        p = parameters
        book = target.pipe(without_own(orders)) if p.anchor_without_own else target
        if p.preset == "tutorial":
            return _tutorial(p, signal, book, orders, status, spend, taps)
        states = _states(p, [signal, *more_signals], book, status, trades, taps)
        return states.pipe(_decide(p, orders, status, spend, taps))

    return operator


# ---------------------------------------------------------------- from quotes to states


def _states(
    p: Parameters,
    signals: Sequence[Observable[Quote]],
    target: Observable[Quote],
    status: Observable[Status] | None,
    trades: Observable[Trade] | None,
    taps: Taps,
) -> Observable[State]:
    g = p.guards
    measured = [_residuals(p, i, signals, status) for i in range(len(signals))]
    residuals, left_tape = measured[0], taps.signal(0)
    if len(measured) > 1:
        seen = [one.pipe(tap(taps.signal(i))) for i, one in enumerate(measured)]
        residuals, left_tape = weighted(seen, p.weights), taps.weighted
    centre: list[Operator[Any, Any]] = [anchor(p.instrument.price_scale)]
    if g.max_target_age_ns is not None:
        centre.append(
            age(
                "target", limit_ns=g.max_target_age_ns, dead_ns=g.dead_ns, status=status,
                signs=trades,
            )
        )  # fmt: skip
    anchors: Observable[Anchor | Refusal] = _mids(p, "target", target).pipe(*centre)
    # Until a feed has spoken, its place is taken by the reason why there is nothing to quote on.
    no_signal: Operator[Residual | Refusal, Residual | Refusal]
    no_signal = starting_with(Refusal(0, 0, "signal", "missing"))
    no_target: Operator[Anchor | Refusal, Anchor | Refusal]
    no_target = starting_with(Refusal(0, 0, "target", "missing"))
    together: list[Operator[Any, Any]] = []
    if g.schedule is not None:
        together.append(session(g.schedule, outside=g.outside, widening=g.widening))
    if g.max_basis_bps is not None:
        together.append(basis(g.max_basis_bps))
    if p.preset == "fair_value":
        together.append(fair_value(p.instrument.price_scale))
    both = combine_latest(
        no_signal(residuals), no_target(anchors), left_tape=left_tape, right_tape=taps.target
    )
    states: Observable[State] = both.pipe(*together)
    return states


def _residuals(
    p: Parameters,
    i: int,
    signals: Sequence[Observable[Quote]],
    status: Observable[Status] | None,
) -> Observable[Residual | Refusal]:
    g = p.guards
    steps: list[Operator[Any, Any]] = [residual(p.baselines[i])]
    if g.max_signal_age_ns is not None:
        siblings = [other for k, other in enumerate(signals) if k != i]
        steps.append(
            age(
                "signal",
                limit_ns=g.max_signal_age_ns,
                quiet_limit_ns=g.max_quiet_signal_age_ns,
                dead_ns=g.dead_ns,
                schedule=g.schedule,
                outside_limit_ns=g.max_signal_age_outside_ns,
                status=status,
                signs=siblings[0].pipe(ops.merge(*siblings[1:])) if siblings else None,
            )
        )
    measured: Observable[Residual | Refusal] = _mids(p, "signal", signals[i]).pipe(*steps)
    return measured


def _mids(p: Parameters, feed: Feed, quotes: Observable[Quote]) -> Observable[Mid | Refusal]:
    g = p.guards
    steps: list[Operator[Any, Any]] = []
    behind = g.max_signal_behind_ns if feed == "signal" else g.max_target_behind_ns
    if g.max_ahead_ns is not None or behind is not None:
        steps.append(event_time(feed, max_ahead_ns=g.max_ahead_ns, max_behind_ns=behind))
    if g.frozen_ns is not None:
        steps.append(frozen(feed, g.frozen_ns))
    steps.append(mid(feed, locked=g.locked))
    if g.collar_bps is not None:
        steps.append(collar(feed, collar_bps=g.collar_bps, confirm_ns=g.collar_confirm_ns))
    if g.split_break_ns is not None and feed == "signal":
        steps.append(split(feed, break_ns=g.split_break_ns, baseline=p.set_baseline))
    mids: Observable[Mid | Refusal] = quotes.pipe(*steps)
    return mids


def _tutorial(
    p: Parameters,
    signal: Observable[Quote],
    target: Observable[Quote],
    orders: Observable[OrderUpdate],
    status: Observable[Status] | None,
    spend: Sequence[Observable[OrderUpdate]],
    taps: Taps,
) -> Observable[Decision]:
    def subscribe(
        observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        sound: Operator[Mid | Refusal, Mid] = divert_refusals(observer)
        see_residual: Operator[Residual, Residual] = tap(taps.signal(0))
        see_anchor: Operator[Anchor, Anchor] = tap(taps.target)
        measure = cast(Operator[Mid, Residual], residual(p.baselines[0]))
        centre = cast(Operator[Mid, Anchor], anchor(p.instrument.price_scale, tutorial=True))
        # A residual of 0 stands in until the first signal: the flaw is copied on purpose.
        no_signal = starting_with(Residual(0, 0, 0.0, 0.0, 0.0))
        residuals = no_signal(
            see_residual(measure(sound(signal.pipe(mid("signal", tutorial=True)))))
        )
        anchors = see_anchor(centre(sound(target.pipe(mid("target", tutorial=True)))))
        pairs: Observable[tuple[Anchor, Residual]] = anchors.pipe(ops.with_latest_from(residuals))
        decisions = pairs.pipe(ops.map(_signal_first), _decide(p, orders, status, spend, taps))
        return decisions.subscribe(observer, scheduler=scheduler)

    return Link(subscribe)


def _signal_first(pair: tuple[Anchor, Residual]) -> State:
    return pair[1], pair[0]


# ---------------------------------------------------------------- from states to decisions


def _decide(
    p: Parameters,
    orders: Observable[OrderUpdate],
    status: Observable[Status] | None,
    spend: Sequence[Observable[OrderUpdate]],
    taps: Taps,
) -> Operator[State, Decision]:
    g = p.guards
    ours: Observable[Inventory] = orders.pipe(
        inventory(
            position=p.position,
            # The tutorial quotes again at once after a reject; at a price that keeps being
            # rejected that is a storm, so the others wait for the next move instead.
            on_reject_resubmit=p.preset == "tutorial",
            on_cancel_resubmit=p.on_cancel_resubmit,
        )
    )
    steps: list[Operator[Any, Any]] = []
    if g.risk is not None:
        steps.append(risk(g.risk, ours, schedule=g.schedule))
    if status is not None:
        steps.append(kill_switch(status))
    # What the two feeds say is written down; so is here what became something else, or was refused.
    altered = p.preset == "fair_value" or (g.schedule is not None and g.outside != "withdraw")
    if altered:
        steps.append(tap(taps.states))
    steps += [
        requote(
            threshold_bps=p.requote_threshold_bps,
            signal_skew_factor=p.signal_skew_factor,
            inventory=ours,
            price=price_of(p, ours),
            only_changes=p.preset == "ladder",
            limits=p.budget,
            orders=spend,
            refused_tape=None if altered else taps.states,
        ),
        tap(taps.wanted),
        throttle(
            p.min_interval_ns,
            limits=p.budget,
            orders=spend,
            retract=retract_of(p),
        ),
    ]

    def operator(states: Observable[State]) -> Observable[Decision]:
        decisions: Observable[Decision] = states.pipe(*steps)
        return decisions

    return operator


def retract_of(p: Parameters) -> Retract:
    """What a target that is held back takes away at once: in the tutorial nothing."""
    if p.preset == "tutorial":
        return _no_retract
    if p.ladder is None:
        return retract_sides
    return retract_to_reach(p.ladder.cancel_distance_ticks * p.ladder.tick)


def _no_retract(_: Decision, __: Decision) -> Decision | None:
    return None


def price_of(
    p: Parameters, ours: Observable[Inventory]
) -> Operator[tuple[Residual, Anchor], Decision]:
    """What a state that is worth it is priced by: skew, and the ladder of the preset."""
    max_notional = None if p.guards.risk is None else p.guards.risk.max_notional
    levels: Operator[Any, Decision]
    if p.ladder is not None:
        shift = skew(p.signal_skew_factor, 0.0)
        levels = tick_ladder(
            scale=p.instrument.price_scale,
            tick_size=p.instrument.tick_size,
            tick=p.ladder.tick,
            base_spread_ticks=p.ladder.base_spread_ticks,
            inventory_skew_factor=p.inventory_skew_factor,
            max_inventory=p.ladder.max_inventory,
            max_position=p.max_position,
            order_size=p.trade_size,
            num_levels=p.ladder.num_levels,
            min_edge_ticks=p.ladder.min_edge_ticks,
            cancel_distance_ticks=p.ladder.cancel_distance_ticks,
            maker_fee_ppm=p.ladder.maker_fee_ppm,
            max_notional=max_notional,
        )
    else:
        shift = skew(p.signal_skew_factor, p.inventory_skew_factor)
        levels = ladder(
            scale=p.instrument.price_scale,
            tick_size=p.instrument.tick_size,
            half_spread_bps=p.half_spread_bps,
            trade_size=p.trade_size,
            max_position=p.max_position,
            count_working=p.preset == "tutorial",
            max_notional=max_notional,
            stay_passive=p.preset == "fair_value",
        )

    def price(states: Observable[tuple[Residual, Anchor]]) -> Observable[Decision]:
        return states.pipe(ops.with_latest_from(ours), shift, levels)

    return price
