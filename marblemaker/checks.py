"""Checks of settings: what is impossible is refused by name and with the rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from marblemaker.calendar import sessions_ns
from marblemaker.settings import BASELINES, SettingsError, parse_duration_ns
from streams.dbn_quotes import QUOTE_SCHEMAS
from streams.instrument import format_units, to_units
from streams.pump import MAX_SIGNALS
from streams.recording import did_you_mean

if TYPE_CHECKING:
    from marblemaker.settings import Settings

__all__ = ["check"]

_INF: Final = math.inf
_MIN_EXPIRY_SECS: Final = 300.0  # Lighter refuses an expiry nearer than 5 minutes (21711).


class _Range(NamedTuple):
    """Where a number may lie; ``above`` leaves the lower end out."""

    least: float = -_INF
    most: float = _INF
    above: bool = False

    def text(self) -> str:
        word = "above" if self.above else "of at least"
        low = "" if self.least == -_INF else f"{word} {self.least:g}"
        high = "" if self.most == _INF else f"at most {self.most:g}"
        return " and ".join(part for part in (low, high) if part)

    def holds(self, value: float) -> bool:
        if not math.isfinite(value) or value > self.most:
            return False
        return value > self.least if self.above else value >= self.least


_ANY: Final = _Range()
_NOT_NEGATIVE: Final = _Range(0.0)
_POSITIVE: Final = _Range(0.0, above=True)
_COUNT: Final = _Range(1.0)

_RANGES: Final[dict[str, _Range]] = {
    "strategy.half_spread_bps": _Range(0.0, 5_000.0),
    "strategy.requote_threshold_bps": _Range(0.0, 10_000.0),
    "strategy.min_interval_ms": _NOT_NEGATIVE,
    "strategy.baseline_half_life_secs": _POSITIVE,
    "strategy.expire_time_secs": _POSITIVE,
    "strategy.inventory_skew_factor": _ANY,
    "strategy.signal_skew_factor": _ANY,
    "strategy.base_spread_ticks": _COUNT,
    "strategy.num_levels": _Range(1.0, 100.0),
    "strategy.min_edge_ticks": _NOT_NEGATIVE,
    "strategy.cancel_distance_ticks": _COUNT,
    "strategy.tick_size": _COUNT,
    "strategy.refresh_interval_ns": _NOT_NEGATIVE,
    "strategy.tick_value": _POSITIVE,
    "guards.max_signal_age_secs": _POSITIVE,
    "guards.max_quiet_signal_age_secs": _POSITIVE,
    "guards.max_signal_age_outside_secs": _POSITIVE,
    "guards.max_target_age_secs": _POSITIVE,
    "guards.dead_after_secs": _POSITIVE,
    "guards.max_ahead_secs": _POSITIVE,
    "guards.max_behind_secs": _POSITIVE,
    "guards.frozen_after_secs": _POSITIVE,
    "guards.collar_bps": _POSITIVE,
    "guards.collar_confirm_ms": _POSITIVE,
    "guards.split_break_secs": _POSITIVE,
    "guards.max_basis_bps": _POSITIVE,
    "session.widening": _Range(1.0, 100.0),
    "session.skip_open_secs": _NOT_NEGATIVE,
    "session.skip_close_secs": _NOT_NEGATIVE,
    "risk.max_orders": _COUNT,
    "risk.max_rejects_per_minute": _COUNT,
    "risk.cooldown_secs": _POSITIVE,
    "orders.in_flight_timeout_secs": _Range(0.1),
    "orders.stop_timeout_secs": _POSITIVE,
    "venue.transactions_per_minute": _Range(4.0),
    "venue.volume_quota": _COUNT,
    "venue.quota_horizon_secs": _Range(60.0),
    "venue.max_orders_per_market": _COUNT,
    "venue.max_orders_per_account": _COUNT,
}


def check(settings: Settings) -> None:
    """Refuse what is impossible or contradicts itself.

    Errors: SettingsError with the key, its value and the rule.
    """
    _check_ranges(settings)
    _check_names(settings)
    try:
        _check_sizes(settings)
        _check_money(settings)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error
    _check_signals(settings)
    _check_contradictions(settings)
    if settings.strategy.preset == "ladder":
        _check_ladder(settings)


def _check_ranges(settings: Settings) -> None:
    for name, allowed in _RANGES.items():
        section, key = name.split(".")
        value = getattr(getattr(settings, section), key)
        if value is None or isinstance(value, str):
            continue
        if not allowed.holds(value):
            # Of a number without bounds only this can be wrong.
            rule = f"a finite number {allowed.text()}".rstrip()
            raise SettingsError(f"{name} must be {rule}, was {value!r}")


def _check_names(settings: Settings) -> None:
    s = settings.strategy
    if isinstance(s.signal_baseline, str):
        if s.signal_baseline not in BASELINES:
            raise SettingsError(
                f"strategy.signal_baseline must be a price or one of {', '.join(BASELINES)}, "
                f"was {s.signal_baseline!r}{did_you_mean(s.signal_baseline, BASELINES)}"
            )
    elif not _POSITIVE.holds(s.signal_baseline):
        raise SettingsError(
            f"strategy.signal_baseline must be a finite number above 0, was {s.signal_baseline!r}"
        )
    basis = settings.guards.max_basis_bps
    if isinstance(basis, str) and basis != "auto":
        raise SettingsError(
            f'guards.max_basis_bps must be a number of bps, "auto" or "off", was {basis!r}'
        )
    latency = settings.venue.latency
    if latency != "tier" and parse_duration_ns(latency, "venue.latency") < 0:
        raise SettingsError(f"venue.latency must not be negative, was {latency!r}")
    schema = settings.databento.schema
    if schema not in QUOTE_SCHEMAS:
        raise SettingsError(
            f"databento.schema must be one of {', '.join(QUOTE_SCHEMAS)}, was {schema!r}"
            f"{did_you_mean(schema, QUOTE_SCHEMAS)}"
        )
    if settings.session.calendar not in ("auto", "24/7", "XNYS"):
        try:
            sessions_ns(settings.session.calendar, 0, 0)
        except ValueError as error:
            raise SettingsError(f"session.calendar: {error}") from None


def _check_sizes(settings: Settings) -> None:
    s, instrument = settings.strategy, settings.target_instrument
    ladder = s.preset == "ladder"
    size_key = "strategy.order_size" if ladder else "strategy.trade_size"
    limit_key = "strategy.max_inventory" if ladder else "strategy.max_position"
    size, limit = settings.trade_size, settings.max_position
    lot = instrument.lot_size
    if size <= 0 or size % lot:
        raise SettingsError(
            f"{size_key} {format_units(size)} must be a positive multiple of "
            f"{format_units(lot)} ({instrument.id} has {instrument.size_decimals} decimals)"
        )
    if size < instrument.min_base_amount:
        raise SettingsError(
            f"{size_key} {format_units(size)} is below the market's minimum of "
            f"{format_units(instrument.min_base_amount)}; raise it to at least that"
        )
    if limit < size:
        raise SettingsError(
            f"{limit_key} {format_units(limit)} is below {size_key.split('.')[1]} "
            f"{format_units(size)}: not one order could ever be sent; raise "
            f"{limit_key.split('.')[1]} or lower {size_key.split('.')[1]}"
        )


def _check_money(settings: Settings) -> None:
    for key in ("max_notional", "max_loss"):
        text = getattr(settings.risk, key)
        if text is not None and to_units(text, f"risk.{key}") <= 0:
            raise SettingsError(f'risk.{key} must be an amount above 0 or "off", was {text!r}')


def _check_signals(settings: Settings) -> None:
    signal, count = settings.signal, len(settings.signal_instruments)
    if count > MAX_SIGNALS:
        raise SettingsError(
            f"signal.others names {count - 1} further signals; there may be {MAX_SIGNALS - 1}"
        )
    if signal.weights is not None:
        if len(signal.weights) != count:
            raise SettingsError(
                f"signal.weights has {len(signal.weights)} numbers for {count} signals (instrument "
                f"and others); give one for each"
            )
        total = math.fsum(signal.weights)
        if not all(map(math.isfinite, signal.weights)) or abs(total - 1.0) > 1e-9:
            raise SettingsError(
                f"signal.weights must be finite numbers that add up to 1, add up to {total!r}"
            )
    if count > 1 and not isinstance(settings.strategy.signal_baseline, str):
        raise SettingsError(
            f"strategy.signal_baseline is the price {settings.strategy.signal_baseline:g}, but "
            f"there are {count} signals with prices of their own; use first, session or ewma"
        )
    if count > 1 and settings.strategy.preset == "tutorial":
        raise SettingsError(
            'signal.others: the preset "tutorial" has one signal, as its original; use another '
            "preset or leave the others out"
        )


def _check_contradictions(settings: Settings) -> None:
    s, g = settings.strategy, settings.guards
    age = g.max_signal_age_secs
    if age is not None and s.preset != "tutorial":
        for name, seconds, what in (
            ("strategy.min_interval_ms", s.min_interval_ms / 1e3, "a target held back that long"),
            ("guards.collar_confirm_ms", g.collar_confirm_ms / 1e3, "a jump confirmed that late"),
            *(
                [("strategy.refresh_interval_ns", s.refresh_interval_ns / 1e9, "a refresh so rare")]
                if s.preset == "ladder"
                else []
            ),
        ):
            if seconds > age:
                raise SettingsError(
                    f"{name} is {seconds:g} s, longer than guards.max_signal_age_secs ({age:g} s): "
                    f"{what} would rest on a signal that is too old; lower the first or raise the "
                    f"second"
                )
        quiet = g.max_quiet_signal_age_secs
        if quiet is not None and quiet < age:
            raise SettingsError(
                f"guards.max_quiet_signal_age_secs ({quiet:g} s) is below max_signal_age_secs "
                f"({age:g} s): a quiet feed would be given less time than any; raise it to at "
                f"least that"
            )
    if s.preset == "fair_value":
        if settings.session.outside == "target_only":
            raise SettingsError(
                'session.outside "target_only" leaves the signal out, but the preset "fair_value" '
                'is centred on it; use "withdraw" or "widen"'
            )
        if g.max_basis_bps == "auto" and not settings.same_underlying:
            raise SettingsError(
                f'the preset "fair_value" centres quotes for {settings.target.instrument} on the '
                f"price of {settings.signal.instrument}, which by its name is another thing; set "
                f"guards.max_basis_bps to the distance that is right, or choose another preset"
            )
    expire = s.expire_time_secs
    if settings.venue.limits == "tier" and expire is not None and expire < _MIN_EXPIRY_SECS:
        raise SettingsError(
            f"strategy.expire_time_secs is {expire:g} s, but with venue.limits the venue refuses "
            f"orders that expire within {_MIN_EXPIRY_SECS:g} s (21711); raise it or switch one off"
        )


def _check_ladder(settings: Settings) -> None:
    s = settings.strategy
    factor = settings.inventory_skew_factor
    if not 0.0 <= factor <= 1.0:
        raise SettingsError(
            f'strategy.inventory_skew_factor is a share in the preset "ladder" and must be from 0 '
            f"to 1, was {factor!r}"
        )
    widest = s.base_spread_ticks / 2 + s.num_levels - 1
    if widest > s.cancel_distance_ticks:
        raise SettingsError(
            f"strategy.cancel_distance_ticks is {s.cancel_distance_ticks}, but the last of "
            f"{s.num_levels} levels (num_levels) stands {widest:g} ticks from the mid with "
            f"base_spread_ticks = {s.base_spread_ticks}: the ladder is wider than the distance at "
            f"which it is cancelled; raise the distance, or take fewer levels or a smaller spread"
        )
    if s.base_spread_ticks / 2 + s.num_levels - 1 < s.min_edge_ticks:
        raise SettingsError(
            f"strategy.min_edge_ticks is {s.min_edge_ticks}, but even the last level stands only "
            f"{widest:g} ticks from the mid: no level could ever have the edge; lower it, or raise "
            f"base_spread_ticks or num_levels"
        )
    if s.min_edge_ticks == 0 and settings.ladder_half_px == 0:
        raise SettingsError(
            f"strategy.base_spread_ticks {s.base_spread_ticks} of {s.tick_size} price steps "
            f"(tick_size) is no half-spread at all, and strategy.min_edge_ticks is 0: bid and ask "
            f"would stand at one price; raise one of the three"
        )
    most = settings.risk.max_orders
    if most is not None and 2 * s.num_levels > most:
        raise SettingsError(
            f"strategy.num_levels {s.num_levels} is {2 * s.num_levels} orders, above "
            f"risk.max_orders ({most}): the guard would trip at once; change one of the two"
        )
