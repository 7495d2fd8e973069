"""Settings: what is impossible or contradicts itself is refused by name, with the rule."""

from __future__ import annotations

from typing import Any

import pytest

from marblemaker.settings import (
    SettingsError,
    check_keys,
    for_market,
    load_settings,
    with_overrides,
)
from marblemaker.wiring import budget_of, calendar_of, latency_of, parameters_of, venue_account_of
from streams.recording import Manifest
from tests.sessions import START, settings

MILLISECOND = 1_000_000


@pytest.mark.parametrize(
    ("section", "key", "value", "rule"),
    [
        ("strategy", "half_spread_bps", -1.0, "of at least 0 and at most 5000"),
        ("strategy", "half_spread_bps", 6000.0, "of at least 0 and at most 5000"),
        ("strategy", "half_spread_bps", float("nan"), "a finite number"),
        ("strategy", "requote_threshold_bps", -0.5, "of at least 0"),
        ("strategy", "min_interval_ms", -1.0, "of at least 0"),
        ("strategy", "baseline_half_life_secs", 0.0, "above 0"),
        ("strategy", "expire_time_secs", 0.0, "above 0"),
        ("strategy", "signal_skew_factor", float("inf"), "a finite number"),
        ("strategy", "base_spread_ticks", 0, "of at least 1"),
        ("strategy", "num_levels", 0, "of at least 1 and at most 100"),
        ("strategy", "min_edge_ticks", -1, "of at least 0"),
        ("strategy", "cancel_distance_ticks", 0, "of at least 1"),
        ("strategy", "tick_size", 0, "of at least 1"),
        ("strategy", "refresh_interval_ns", -1, "of at least 0"),
        ("strategy", "tick_value", 0.0, "above 0"),
        ("guards", "max_signal_age_secs", 0.0, "above 0"),
        ("guards", "max_target_age_secs", -1.0, "above 0"),
        ("guards", "dead_after_secs", 0.0, "above 0"),
        ("guards", "max_ahead_secs", 0.0, "above 0"),
        ("guards", "max_behind_secs", 0.0, "above 0"),
        ("guards", "frozen_after_secs", 0.0, "above 0"),
        ("guards", "collar_bps", 0.0, "above 0"),
        ("guards", "collar_confirm_ms", 0.0, "above 0"),
        ("guards", "split_break_secs", 0.0, "above 0"),
        ("guards", "max_basis_bps", -5.0, "above 0"),
        ("session", "widening", 0.5, "of at least 1 and at most 100"),
        ("session", "skip_open_secs", -1.0, "of at least 0"),
        ("session", "skip_close_secs", -1.0, "of at least 0"),
        ("risk", "max_orders", 0, "of at least 1"),
        ("risk", "max_rejects_per_minute", 0, "of at least 1"),
        ("risk", "cooldown_secs", 0.0, "above 0"),
        ("orders", "in_flight_timeout_secs", 0.0, "of at least 0.1"),
        ("orders", "stop_timeout_secs", 0.0, "above 0"),
        ("venue", "transactions_per_minute", 1, "of at least 4"),
        ("venue", "volume_quota", 0, "of at least 1"),
        ("venue", "quota_horizon_secs", 1.0, "of at least 60"),
        ("venue", "max_orders_per_market", 0, "of at least 1"),
        ("venue", "max_orders_per_account", 0, "of at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name_with_the_range(
    section: str, key: str, value: float, rule: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**{section: {key: value}})
    told = str(refused.value)
    assert told.startswith(f"{section}.{key} must be a finite number")
    assert rule in told
    assert repr(value) in told


@pytest.mark.parametrize(
    ("sections", "what", "why"),
    [
        (
            {"strategy": {"min_interval_ms": 31_000.0}},
            "strategy.min_interval_ms is 31 s, longer than guards.max_signal_age_secs (30 s)",
            "too old",
        ),
        (
            {"guards": {"collar_confirm_ms": 40_000.0}},
            "guards.collar_confirm_ms is 40 s, longer than guards.max_signal_age_secs (30 s)",
            "too old",
        ),
        (
            {"strategy": {"preset": "ladder", "refresh_interval_ns": 40_000 * MILLISECOND}},
            "strategy.refresh_interval_ns is 40 s",
            "too old",
        ),
        (
            {"guards": {"max_quiet_signal_age_secs": 10.0}},
            "guards.max_quiet_signal_age_secs (10 s) is below max_signal_age_secs (30 s)",
            "less time",
        ),
        (
            {"strategy": {"preset": "ladder", "num_levels": 11}},
            "strategy.cancel_distance_ticks is 10, but the last of 11 levels",
            "wider than the distance at which it is cancelled",
        ),
        (
            {"strategy": {"preset": "ladder", "min_edge_ticks": 4}},
            "strategy.min_edge_ticks is 4, but even the last level stands only 3 ticks",
            "no level could ever have the edge",
        ),
        (
            {"strategy": {"preset": "ladder", "inventory_skew_factor": 1.5}},
            'strategy.inventory_skew_factor is a share in the preset "ladder"',
            "from 0 to 1",
        ),
        (
            {"strategy": {"preset": "ladder", "order_size": 60}},
            "strategy.max_inventory 50 is below order_size 60",
            "not one order could ever be sent",
        ),
        (
            {
                "strategy": {
                    "preset": "ladder",
                    "min_edge_ticks": 0,
                    "base_spread_ticks": 1,
                    "tick_size": 1,
                }
            },
            "strategy.base_spread_ticks 1 of 1 price steps",
            "bid and ask would stand at one price",
        ),
        (
            {"strategy": {"preset": "ladder"}, "risk": {"max_orders": 5}},
            "strategy.num_levels 3 is 6 orders, above risk.max_orders (5)",
            "trip at once",
        ),
        (
            {"strategy": {"preset": "fair_value"}, "session": {"outside": "target_only"}},
            'session.outside "target_only" leaves the signal out',
            "centred on it",
        ),
        (
            {"strategy": {"preset": "fair_value"}, "signal": {"instrument": "SPY.EQUS"}},
            "centres quotes for NVDA-PERP.LIGHTER on the price of SPY.EQUS",
            "guards.max_basis_bps",
        ),
        (
            {"strategy": {"expire_time_secs": 60.0}, "venue": {"limits": "tier"}},
            "strategy.expire_time_secs is 60 s, but with venue.limits",
            "21711",
        ),
        (
            {"signal": {"others": ["SMH.EQUS"], "weights": [1.0]}},
            "signal.weights has 1 numbers for 2 signals",
            "one for each",
        ),
        (
            {"signal": {"others": ["SMH.EQUS"], "weights": [0.8, 0.3]}},
            "signal.weights must be finite numbers that add up to 1",
            "1.1",
        ),
        (
            {"signal": {"others": ["SMH.EQUS"]}, "strategy": {"signal_baseline": 200.0}},
            "strategy.signal_baseline is the price 200, but there are 2 signals",
            "first, session or ewma",
        ),
        (
            {"signal": {"others": ["SMH.EQUS"]}, "strategy": {"preset": "tutorial"}},
            'the preset "tutorial" has one signal',
            "leave the others out",
        ),
        (
            {"signal": {"others": [f"S{i}.EQUS" for i in range(7)]}},
            "signal.others names 7 further signals",
            "there may be 6",
        ),
        (
            {"session": {"calendar": "NYSEE"}},
            "session.calendar",
            "did you mean NYSE",
        ),
        ({"guards": {"max_basis_bps": "some"}}, "guards.max_basis_bps", '"auto" or "off"'),
        ({"risk": {"max_loss": "0"}}, "risk.max_loss", "above 0"),
        ({"risk": {"max_notional": "-5"}}, "risk.max_notional", "above 0"),
        ({"risk": {"max_loss": 5}}, "risk.max_loss must be a decimal string", '"5"'),
        ({"venue": {"latency": "fast"}}, "venue.latency", "duration"),
        ({"venue": {"fill_model": "hope"}}, "venue.fill_model", "hope"),
        ({"orders": {"replace": "cancel_all"}}, "orders.replace", "cancel_all"),
        ({"guards": {"max_signal_age": 3}}, "unknown key guards.max_signal_age", "age_secs?"),
        ({"guard": {}}, "unknown section or key 'guard'", "guards"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(
    sections: dict[str, Any], what: str, why: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        _checked(sections)
    assert what in str(refused.value)
    assert why in str(refused.value)


def _checked(sections: dict[str, Any]) -> None:
    check_keys(sections, "settings")
    settings(**sections)


def test_off_switches_a_guard_off() -> None:
    chosen = load_settings(overrides=["guards.collar_bps=off", "guards.max_signal_age_secs=false"])
    assert chosen.guards.collar_bps is None
    assert chosen.guards.max_signal_age_secs is None
    guards = parameters_of(chosen, Manifest()).guards
    assert guards.collar_bps is None
    assert guards.max_signal_age_ns is None


def test_the_ladder_has_the_defaults_of_the_tick_based_market_maker() -> None:
    chosen = settings(strategy={"preset": "ladder"})
    parameters = parameters_of(chosen, Manifest())
    assert parameters.ladder is not None
    assert parameters.ladder.base_spread_ticks == 2
    assert parameters.inventory_skew_factor == 0.5
    assert parameters.ladder.max_inventory == parameters.max_position == 50 * 10**9
    assert parameters.trade_size == 5 * 10**9
    assert parameters.ladder.num_levels == 3
    assert parameters.ladder.min_edge_ticks == 1
    assert parameters.ladder.cancel_distance_ticks == 10
    # 25 price steps of the venue's 0.001.
    assert parameters.ladder.tick == 25 * MILLISECOND
    assert parameters.min_interval_ns == 100_000_000
    assert parameters.signal_skew_factor == 0.0
    assert chosen.tick_value == 0.025


def test_the_ladder_takes_the_common_size_and_limit_where_its_own_are_not_set() -> None:
    chosen = settings(strategy={"preset": "ladder", "trade_size": "0.1", "max_position": "0.4"})
    assert (chosen.trade_size, chosen.max_position) == (100_000_000, 400_000_000)
    chosen = settings(
        strategy={"preset": "ladder", "order_size": "0.2", "trade_size": "0.1",
                  "max_inventory": 2, "max_position": "1"}
    )  # fmt: skip
    assert (chosen.trade_size, chosen.max_position) == (200_000_000, 1_000_000_000)
    assert chosen.max_inventory == 2_000_000_000


@pytest.mark.parametrize(
    ("preset", "factors"),
    [
        ("composite", (2.0, 55.0, 5.0)),
        ("tutorial", (2.0, 55.0, 5.0)),
        ("fair_value", (2.0, 0.0, 5.0)),
        ("ladder", (0.5, 0.0, 0.0)),
    ],
)
def test_each_preset_has_factors_of_its_own(preset: str, factors: tuple[float, ...]) -> None:
    chosen = settings(strategy={"preset": preset})
    assert factors == (
        chosen.inventory_skew_factor, chosen.signal_skew_factor, chosen.requote_threshold_bps
    )  # fmt: skip
    chosen = settings(
        strategy={"preset": preset, "inventory_skew_factor": 0.25, "signal_skew_factor": 7.0}
    )
    assert (chosen.inventory_skew_factor, chosen.signal_skew_factor) == (0.25, 7.0)


def test_the_tutorial_has_no_guards_and_no_budget_unless_money_is_limited() -> None:
    limited = {"transactions_per_minute": 60, "volume_quota": 1000}
    parameters = parameters_of(settings(strategy={"preset": "tutorial"}, venue=limited), Manifest())
    assert parameters.budget is None
    assert parameters.guards.risk is None
    assert parameters.guards.max_signal_age_ns is None
    assert parameters.guards.schedule is None
    chosen = settings(strategy={"preset": "tutorial"}, risk={"max_loss": "5"})
    guards = parameters_of(chosen, Manifest()).guards
    assert guards.risk is not None
    assert guards.risk.max_loss == 5 * 10**9
    assert guards.risk.max_rejects is None


def test_limits_come_from_the_tier_and_single_ones_go_before_it() -> None:
    assert budget_of(settings()) is None
    standard = budget_of(settings(venue={"limits": "tier"}))
    assert standard is not None
    assert (standard.transactions_per_minute, standard.volume_quota) == (60, None)
    premium = settings(venue={"limits": "tier", "tier": "premium", "volume_quota": 500})
    budget = budget_of(premium)
    assert budget is not None
    assert (budget.transactions_per_minute, budget.volume_quota) == (4000, 500)
    assert venue_account_of(premium).quota_left == 500


def test_latency_is_one_time_for_all_or_the_tiers() -> None:
    one = latency_of(settings(venue={"latency": "150ms"}))
    assert (one.maker_ns, one.cancel_ns, one.taker_ns) == (150 * MILLISECOND,) * 3
    tiers = latency_of(settings(venue={"latency": "tier"}))
    assert (tiers.maker_ns, tiers.cancel_ns, tiers.taker_ns) == (
        200 * MILLISECOND, 200 * MILLISECOND, 300 * MILLISECOND
    )  # fmt: skip
    premium = latency_of(settings(venue={"latency": "tier", "tier": "premium"}))
    assert (premium.maker_ns, premium.taker_ns) == (0, 200 * MILLISECOND)


def test_the_calendar_is_that_of_the_signals_market_unless_set() -> None:
    assert calendar_of(settings()) == "XNYS"
    assert calendar_of(settings(signal={"instrument": "BTC.LIGHTER"})) == "24/7"
    assert calendar_of(settings(session={"calendar": "XLON"})) == "XLON"


def test_a_session_can_be_cut_at_both_ends() -> None:
    # Wednesday 2026-06-17: 13:30 to 20:00 UTC.
    from streams.recording import FileEntry

    entry = FileEntry(rows=1, sha256="", first_ts=START, last_ts=START)
    manifest = Manifest(files={"signal": entry})
    chosen = settings(session={"skip_open_secs": 60.0, "skip_close_secs": 120.0})
    schedule = parameters_of(chosen, manifest).guards.schedule
    assert schedule is not None
    second = 10**9
    assert not schedule.is_open(START + 60 * second - 1)
    assert schedule.is_open(START + 60 * second)
    close = START + 23_400 * second
    assert schedule.is_open(close - 120 * second - 1)
    assert not schedule.is_open(close - 120 * second)


def test_sampled_quotes_are_never_far_behind() -> None:
    """A bbo row's event time is the last trade's, however old that is."""
    manifest = Manifest(sources={"signal": {"schema": "bbo-1s"}, "target": {"schema": "mbp-1"}})
    guards = parameters_of(settings(), manifest).guards
    assert guards.max_signal_behind_ns is None
    assert guards.max_target_behind_ns == 10 * 10**9


def test_a_market_has_sections_of_its_own_over_the_common_ones() -> None:
    document = {
        "strategy": {"half_spread_bps": 10.0, "trade_size": "0.1"},
        "markets": {"X-PERP.LIGHTER": {"strategy": {"half_spread_bps": 3.0}}},
    }
    assert for_market(document, None) == {"strategy": document["strategy"]}
    own = for_market(document, "X-PERP.LIGHTER")
    assert own == {"strategy": {"half_spread_bps": 3.0, "trade_size": "0.1"}}
    assert for_market(document, "Y.LIGHTER") == {"strategy": document["strategy"]}
    with pytest.raises(SettingsError, match=r"unknown key strategy\.half_spread_bp "):
        with_overrides({}, ["strategy.half_spread_bp=3"])
