"""From settings to what the compiled loop is told."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marblemaker.calendar import opens_ns
from marblemaker.compiled.layout import (
    FEED_PARAMETERS,
    FEEDS,
    MOST_ROWS,
    OTHERS,
    PARAMETERS,
    SHADOWS,
    SIGNAL,
    TARGET,
)
from marblemaker.settings import Settings, SettingsError
from marblemaker.wiring import budget_of, latency_of, limits_of, parameters_of, replace_policy_of
from operators.quoting import Guards, Parameters
from sinks.fills import FillModel
from sinks.order_sink import LONGEST_WAIT_NS
from sinks.simulated import TIER_FEES_PPM
from streams.recording import Manifest

__all__ = ["FILL_MODELS", "Told", "told"]

_NS: Final = 10**9
_OFF: Final = -1
_FAR_NS: Final = 2**62
"""Stands for no limit on event time, as in the operator."""
BASELINES: Final = {"first": 1, "session": 2, "ewma": 3}
OUTSIDE: Final = {"withdraw": 0, "widen": 1, "target_only": 2}
REPLACES: Final = {"cancel_create": 0, "keep": 1, "cancel_all": 2, "modify": 3}
FILL_MODELS: Final[dict[FillModel, int]] = {"touch": 0, "cross": 1, "queue": 2}
_BATCH: Final = 15
_MOST: Final = 2**61
"""What fits 64 bits with all that is added to it."""


class Told(NamedTuple):
    """Parameters of the run and its feeds, when sessions open and close, the signals' weights."""

    parameters: NDArray[Any]
    feeds: NDArray[Any]
    edges: NDArray[np.int64]
    opens: NDArray[np.int64]
    weights: NDArray[np.float64]


def told(
    settings: Settings,
    manifest: Manifest,
    *,
    traced: bool,
    most_rows: int,
    bounds: bool,
    recorded: bool,
) -> Told:
    """Spell out settings for a recording; those that are not done have been refused before."""
    built = parameters_of(settings, manifest)
    g, schedule = built.guards, built.guards.schedule
    tutorial = built.preset == "tutorial"
    p = np.zeros(1, PARAMETERS)
    altered = built.preset == "fair_value" or (schedule is not None and g.outside != "withdraw")
    baseline = settings.strategy.signal_baseline
    values: dict[str, Any] = {
        "others": len(built.baselines) - 1,
        "tutorial": tutorial,
        "fair_value": built.preset == "fair_value",
        "tick_size": built.instrument.tick_size,
        "lot_size": built.instrument.lot_size,
        "trade_size": built.trade_size,
        "max_position": built.max_position,
        "count_working": tutorial,
        "stay_passive": built.preset == "fair_value",
        "baseline": BASELINES[baseline] if isinstance(baseline, str) else 0,
        "half_life_ns": round(settings.strategy.baseline_half_life_secs * _NS),
        "has_basis": g.max_basis_bps is not None,
        "has_schedule": schedule is not None and not tutorial,
        "outside": OUTSIDE[g.outside],
        "interval_ns": built.min_interval_ns,
        "retracts": not tutorial,
        "on_reject_resubmit": tutorial,
        "on_cancel_resubmit": built.on_cancel_resubmit,
        "without_own": built.anchor_without_own,
        "traced": traced,
        "most_rows": min(most_rows, MOST_ROWS),
        "states_traced": altered and not tutorial,
        "scale": built.instrument.price_scale,
        "half_spread_bps": built.half_spread_bps,
        "inventory_skew_factor": built.inventory_skew_factor,
        "signal_skew_factor": built.signal_skew_factor,
        "threshold_bps": built.requote_threshold_bps,
        "threshold": built.requote_threshold_bps / 10_000.0,
        "basis_bps": g.max_basis_bps or 0.0,
        "set_price": 0.0 if isinstance(baseline, str) else baseline,
        "widening": g.widening,
        **_risk(built),
        **_ladder(built),
        **_sink(settings, recorded),
        **_venue(settings, built),
        "shadows": SHADOWS if bounds else 0,
        **_budget(settings, built),
    }
    for name, value in values.items():
        _check(name, value)
        p[0][name] = value
    session = baseline == "session"
    span = manifest.first_ts or 0, manifest.last_ts or 0
    return Told(
        parameters=p,
        feeds=_feeds(g),
        edges=np.array([] if schedule is None else schedule.edges, np.int64),
        opens=np.array(opens_ns(*span) if session else [], np.int64),
        weights=np.array(built.weights),
    )


def _check(name: str, value: Any) -> None:
    if isinstance(value, int) and value > _MOST:
        raise SettingsError(
            f"--engine compiled counts up to {_MOST} in settings (sizes 1e-9, times in ns), "
            f"{name} is {value}; use --engine rx"
        )


def _or_off(value: int | None) -> int:
    return _OFF if value is None else value


def _risk(built: Parameters) -> dict[str, Any]:
    limits = built.guards.risk
    if limits is None:
        return {"has_risk": 0, "risk_notional": _OFF, "risk_loss": _OFF}
    return {
        "has_risk": 1,
        "risk_position": _or_off(limits.max_position),
        "risk_orders": _or_off(limits.max_orders),
        "risk_rejects": _or_off(limits.max_rejects),
        "risk_notional": _or_off(limits.max_notional),
        "risk_loss": _or_off(limits.max_loss),
        "risk_scheduled": built.guards.schedule is not None,
        "cooldown_ns": limits.cooldown_ns,
    }


def _ladder(built: Parameters) -> dict[str, Any]:
    ladder = built.ladder
    if ladder is None:
        return {}
    return {
        "ladder": 1,
        "only_changes": 1,
        "tick": ladder.tick,
        "base_spread_ticks": ladder.base_spread_ticks,
        "max_inventory": ladder.max_inventory,
        "num_levels": ladder.num_levels,
        "least_edge": ladder.min_edge_ticks * ladder.tick,
        "reach": ladder.cancel_distance_ticks * ladder.tick,
    }


def _sink(settings: Settings, recorded: bool) -> dict[str, Any]:
    expire = settings.strategy.expire_time_secs
    in_flight_ns = round(settings.orders.in_flight_timeout_secs * _NS)
    latency = latency_of(settings)
    longest_ns = max(latency.maker_ns, latency.cancel_ns, latency.taker_ns)
    return {
        "replaces": REPLACES[replace_policy_of(settings)],
        "expire_ns": _OFF if expire is None else round(expire * _NS),
        "flatten": settings.flatten_on_stop,
        "stop_ns": round(settings.orders.stop_timeout_secs * _NS),
        "max_batch": _BATCH,
        "in_flight_ns": in_flight_ns,
        "recorded": recorded,
        # Over a limit the venue refuses cancels and modifies of orders that work.
        "asks": recorded
        or longest_ns >= min(in_flight_ns, LONGEST_WAIT_NS)
        or budget_of(settings) is not None,
    }


def _venue(settings: Settings, built: Parameters) -> dict[str, Any]:
    latency, fees = latency_of(settings), TIER_FEES_PPM[settings.venue.tier]
    limits = limits_of(settings)
    return {
        "fill_model": FILL_MODELS[settings.venue.fill_model],
        "maker_ns": latency.maker_ns,
        "cancel_ns": latency.cancel_ns,
        "taker_ns": latency.taker_ns,
        "maker_ppm": fees[0],
        "taker_ppm": fees[1],
        "live_in_account": _or_off(limits.orders_per_account),
        "live_in_market": _or_off(limits.orders_per_market),
        "min_base": built.instrument.min_base_amount,
        "min_quote": built.instrument.min_quote_amount,
    }


def _budget(settings: Settings, built: Parameters) -> dict[str, Any]:
    limits = budget_of(settings)
    if limits is None:
        return {"per_minute": _OFF, "volume_quota": _OFF}
    horizon, exact = limits.horizon_ns, 2**53
    if horizon > exact:
        raise SettingsError(
            f"--engine compiled takes a venue.quota_horizon_secs of up to {exact // _NS}, it is "
            f"{settings.venue.quota_horizon_secs}; use --engine rx"
        )
    return {
        "has_budget": True,
        "paced": built.budget is not None,
        "per_minute": _or_off(limits.transactions_per_minute),
        "volume_quota": _or_off(limits.volume_quota),
        "quota_per": limits.quota_per,
        "max_quota": limits.max_quota,
        "horizon_ns": horizon,
    }


def _feeds(g: Guards) -> NDArray[Any]:
    for name in (
        "max_signal_age_ns", "max_quiet_signal_age_ns", "max_signal_age_outside_ns",
        "max_target_age_ns", "dead_ns", "frozen_ns", "collar_confirm_ns", "split_break_ns",
        "max_ahead_ns", "max_signal_behind_ns", "max_target_behind_ns",
    ):  # fmt: skip
        _check(name, getattr(g, name))
    feeds = np.zeros(FEEDS, FEED_PARAMETERS)
    for source, behind, age in (
        (SIGNAL, g.max_signal_behind_ns, g.max_signal_age_ns),
        (TARGET, g.max_target_behind_ns, g.max_target_age_ns),
    ):
        f = feeds[source]
        f["event_time"] = g.max_ahead_ns is not None or behind is not None
        f["ahead_ns"] = _FAR_NS if g.max_ahead_ns is None else g.max_ahead_ns
        f["behind_ns"] = _FAR_NS if behind is None else behind
        f["frozen_ns"] = _or_off(g.frozen_ns)
        f["locked"] = g.locked
        f["collar"], f["collar_bps"] = g.collar_bps is not None, g.collar_bps or 0.0
        f["confirm_ns"] = g.collar_confirm_ns
        f["age"] = age is not None
        if age is not None:
            f["limit_ns"] = age
            f["dead_ns"] = age if g.dead_ns is None else g.dead_ns
            f["quiet_ns"], f["outside_ns"] = _OFF, age
    f = feeds[SIGNAL]
    f["split"], f["break_ns"] = g.split_break_ns is not None, g.split_break_ns or 0
    if g.max_signal_age_ns is not None:
        f["quiet_ns"] = _or_off(g.max_quiet_signal_age_ns)
        f["scheduled"] = g.schedule is not None
        if g.max_signal_age_outside_ns is not None:
            f["outside_ns"] = g.max_signal_age_outside_ns
    feeds[OTHERS:] = f
    return feeds
