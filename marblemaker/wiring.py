"""Wiring: from settings to what the graph, the venue and the account are built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import asdict

from marblemaker.calendar import default_calendar, opens_ns, sessions_ns
from marblemaker.settings import Settings, parse_duration_ns
from operators.budget import BudgetLimits
from operators.guards.risk import RiskLimits
from operators.guards.schedule import Schedule
from operators.quoting import Guards, LadderParameters, Parameters
from operators.residual import (
    Baseline,
    ewma_baseline,
    first_baseline,
    session_baseline,
    set_baseline,
)
from sinks.fills import FillModel
from sinks.journal import Journal
from sinks.limits import TIER_LIMITS, Limits, VenueAccount
from sinks.order_sink import OrderSink, ReplacePolicy
from sinks.simulated import TIER_FEES_PPM, TIER_LATENCY, Latency, SimulatedVenue
from sinks.venue import Venue
from streams.clock import Clock
from streams.events import AccountEvent, Decision, OrderUpdate
from streams.instrument import to_units
from streams.recording import Manifest

__all__ = [
    "budget_of",
    "calendar_of",
    "latency_of",
    "limits_of",
    "order_sink_of",
    "parameters_of",
    "replace_policy_of",
    "simulated_venue_of",
    "venue_account_of",
]

_NS: Final = 10**9
# Databento's bbo and cbbo rows are samples: their event time is the last trade's, however old.
_SAMPLED_SCHEMAS: Final = ("bbo", "cbbo")


def parameters_of(settings: Settings, manifest: Manifest) -> Parameters:
    """Turn settings into what the graph is built from, for the span of a recording."""
    s = settings.strategy
    ladder = None
    if s.preset == "ladder":
        ladder = LadderParameters(
            tick=settings.ladder_tick,
            base_spread_ticks=s.base_spread_ticks,
            max_inventory=settings.max_inventory,
            num_levels=s.num_levels,
            min_edge_ticks=s.min_edge_ticks,
            cancel_distance_ticks=s.cancel_distance_ticks,
            maker_fee_ppm=TIER_FEES_PPM[settings.venue.tier][0],
        )
    interval_ns = s.refresh_interval_ns if ladder is not None else round(s.min_interval_ms * 10**6)
    baseline = _baseline(settings, manifest)
    return Parameters(
        instrument=settings.target_instrument,
        preset=s.preset,
        trade_size=settings.trade_size,
        max_position=settings.max_position,
        half_spread_bps=s.half_spread_bps,
        inventory_skew_factor=settings.inventory_skew_factor,
        signal_skew_factor=settings.signal_skew_factor,
        requote_threshold_bps=settings.requote_threshold_bps,
        baselines=(baseline,) * len(settings.signal_instruments),
        set_baseline=None if isinstance(s.signal_baseline, str) else s.signal_baseline,
        weights=settings.weights,
        min_interval_ns=interval_ns,
        on_cancel_resubmit=s.on_cancel_resubmit,
        anchor_without_own=s.anchor_without_own,
        guards=_guards(settings, manifest),
        budget=None if s.preset == "tutorial" else budget_of(settings),
        ladder=ladder,
    )


def _baseline(settings: Settings, manifest: Manifest) -> Baseline:
    kind = settings.strategy.signal_baseline
    if not isinstance(kind, str):
        return set_baseline(kind)
    if kind == "ewma":
        return ewma_baseline(round(settings.strategy.baseline_half_life_secs * _NS))
    if kind == "session":
        first, last = _span(manifest)
        return session_baseline(opens_ns(first, last))
    return first_baseline()


def _span(manifest: Manifest) -> tuple[int, int]:
    return manifest.first_ts or 0, manifest.last_ts or 0


def calendar_of(settings: Settings) -> str:
    """Name of the calendar that the session guard keeps: as set, or the signal's market's."""
    if settings.session.calendar != "auto":
        return settings.session.calendar
    return default_calendar(settings.signal_instrument.venue)


def _schedule(settings: Settings, manifest: Manifest) -> Schedule | None:
    calendar = calendar_of(settings)
    if calendar == "24/7":
        return None
    session = settings.session
    skip_open, skip_close = (
        round(secs * _NS) for secs in (session.skip_open_secs, session.skip_close_secs)
    )
    first, last = _span(manifest)
    sessions = [
        (open_ + skip_open, close - skip_close)
        # A day more on either side: a timer of the close, or of the next open, may lie beyond.
        for open_, close in sessions_ns(calendar, first - 86_400 * _NS, last + 7 * 86_400 * _NS)
    ]
    return Schedule([(open_, close) for open_, close in sessions if open_ < close])


def _guards(settings: Settings, manifest: Manifest) -> Guards:
    g, r = settings.guards, settings.risk
    money = {
        "max_notional": _amount(r.max_notional, "risk.max_notional"),
        "max_loss": _amount(r.max_loss, "risk.max_loss"),
    }
    schedule = _schedule(settings, manifest)
    if settings.strategy.preset == "tutorial":
        # Exactly the reference, unless the user asks for a limit on money.
        if not any(money.values()):
            return Guards()
        limits = RiskLimits(**money, cooldown_ns=round(r.cooldown_secs * _NS))
        return Guards(risk=limits, schedule=schedule)
    return Guards(
        max_signal_age_ns=_ns(g.max_signal_age_secs),
        max_quiet_signal_age_ns=_ns(g.max_quiet_signal_age_secs),
        max_signal_age_outside_ns=_ns(g.max_signal_age_outside_secs),
        max_target_age_ns=_ns(g.max_target_age_secs),
        dead_ns=_ns(g.dead_after_secs),
        max_ahead_ns=_ns(g.max_ahead_secs),
        max_signal_behind_ns=_behind(settings, manifest, "signal"),
        max_target_behind_ns=_behind(settings, manifest, "target"),
        frozen_ns=_ns(g.frozen_after_secs),
        locked=g.locked == "quote",
        collar_bps=g.collar_bps,
        collar_confirm_ns=round(g.collar_confirm_ms * 10**6),
        split_break_ns=_ns(g.split_break_secs),
        max_basis_bps=settings.max_basis_bps,
        schedule=schedule,
        outside=settings.session.outside,
        widening=settings.session.widening,
        risk=RiskLimits(
            max_position=settings.max_position,
            max_orders=r.max_orders,
            max_rejects=r.max_rejects_per_minute,
            cooldown_ns=round(r.cooldown_secs * _NS),
            **money,
        ),
    )


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * _NS)


def _amount(text: str | None, what: str) -> int | None:
    return None if text is None else to_units(text, what)


def _behind(settings: Settings, manifest: Manifest, feed: str) -> int | None:
    schema = str(manifest.sources.get(feed, {}).get("schema", ""))
    return None if schema.startswith(_SAMPLED_SCHEMAS) else _ns(settings.guards.max_behind_secs)


def budget_of(settings: Settings) -> BudgetLimits | None:
    """What the account may send, for the graph; ``None`` when nothing is limited."""
    v = settings.venue
    tier = TIER_LIMITS[v.tier] if v.limits == "tier" else None
    per_minute, quota = v.transactions_per_minute, v.volume_quota
    if tier is not None:
        per_minute = tier.transactions_per_minute if per_minute is None else per_minute
        quota = tier.volume_quota if quota is None else quota
    if per_minute is None and quota is None:
        return None
    return BudgetLimits(
        transactions_per_minute=per_minute,
        volume_quota=quota,
        horizon_ns=round(v.quota_horizon_secs * _NS),
    )


def venue_account_of(settings: Settings) -> VenueAccount:
    """What the simulated venue allows the account; shared by all its markets."""
    return VenueAccount(**asdict(limits_of(settings)))


def limits_of(settings: Settings) -> Limits:
    """Limits of the account: each as set, or the tier's."""
    v = settings.venue
    tier = TIER_LIMITS[v.tier] if v.limits == "tier" else None
    budget = budget_of(settings)
    return Limits(
        transactions_per_minute=None if budget is None else budget.transactions_per_minute,
        volume_quota=None if budget is None else budget.volume_quota,
        orders_per_account=(
            v.max_orders_per_account
            if v.max_orders_per_account is not None or tier is None
            else tier.orders_per_account
        ),
        orders_per_market=(
            v.max_orders_per_market
            if v.max_orders_per_market is not None or tier is None
            else tier.orders_per_market
        ),
    )


def latency_of(settings: Settings) -> Latency:
    """How long commands take to the venue: one time for all, or the tier's."""
    latency = settings.venue.latency
    if latency == "tier":
        return TIER_LATENCY[settings.venue.tier]
    ns = parse_duration_ns(latency, "venue.latency")
    return Latency(maker_ns=ns, cancel_ns=ns, taker_ns=ns)


def simulated_venue_of(
    settings: Settings,
    answer: Callable[[AccountEvent], None],
    *,
    account: VenueAccount | None = None,
    compare: Sequence[FillModel] = (),
) -> SimulatedVenue:
    """The simulated venue of a market; ``account`` is shared by those of one session."""
    return SimulatedVenue(
        settings.target_instrument,
        answer,
        fill_model=settings.venue.fill_model,
        latency=latency_of(settings),
        tier=settings.venue.tier,
        account=venue_account_of(settings) if account is None else account,
        compare=compare,
    )


def order_sink_of(
    settings: Settings,
    venue: Venue,
    journal: Journal,
    *,
    clock: Clock,
    notify: Callable[[OrderUpdate], None],
    on_decision: Callable[[Decision], None],
) -> OrderSink:
    """The order sink of a market, live and in a replay the same, written down in ``journal``."""
    return OrderSink(
        venue,
        max_position=settings.max_position,
        expire_ns=_ns(settings.strategy.expire_time_secs),
        replace=replace_policy_of(settings),
        flatten=settings.flatten_on_stop,
        clock=clock,
        in_flight_ns=round(settings.orders.in_flight_timeout_secs * _NS),
        stop_ns=round(settings.orders.stop_timeout_secs * _NS),
        notify=notify,
        on_order=journal.order,
        on_fill=journal.fill,
        on_decision=on_decision,
        on_adopted=journal.ledger.adopt,
    )


def replace_policy_of(settings: Settings) -> ReplacePolicy:
    """What becomes of an order whose level moved."""
    return "cancel_all" if settings.strategy.preset == "tutorial" else settings.orders.replace
