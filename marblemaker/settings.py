"""Settings: one TOML file, ``--set`` over it, a recording's own settings and defaults under it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

from operators.guards.session import Outside
from operators.quoting import Preset
from operators.tick_ladder import half_spread_px
from streams.instrument import UNIT, Instrument, format_units, to_units
from streams.recording import Manifest, did_you_mean

__all__ = [
    "DECIMAL_STRINGS",
    "Settings",
    "SettingsError",
    "as_used",
    "check_keys",
    "for_market",
    "instruments_of",
    "load_settings",
    "parse_duration_ns",
    "parse_value",
    "read_document",
    "settings_of",
    "with_overrides",
]


class SettingsError(ValueError):
    """A setting is unknown, of the wrong kind or impossible."""


class Signal(Struct, frozen=True, kw_only=True):
    """The feed that we trust to move first."""

    instrument: str = "NVDA.EQUS"
    others: list[str] = field(default_factory=list)
    """Further signals, in the order of their files ``signal_2`` …."""
    weights: list[float] | None = None
    """Share of each signal in the residual, the first one's first; equal when not set."""


class Target(Struct, frozen=True, kw_only=True):
    """The market that we quote."""

    instrument: str = "NVDA-PERP.LIGHTER"
    price_decimals: int | None = None
    size_decimals: int | None = None
    min_base_amount: str | None = None
    min_quote_amount: str | None = None


class Strategy(Struct, frozen=True, kw_only=True):
    """What is quoted, and when anew. ``None`` stands for the preset's own default."""

    preset: Preset = "composite"
    trade_size: str | None = None
    max_position: str | None = None
    half_spread_bps: float = 25.0
    inventory_skew_factor: float | None = None
    signal_skew_factor: float | None = None
    signal_baseline: float | str = "first"
    baseline_half_life_secs: float = 1800.0
    requote_threshold_bps: float | None = None
    min_interval_ms: float = 0.0
    expire_time_secs: float | None = None
    on_cancel_resubmit: bool = False
    flatten_on_stop: bool | None = None
    anchor_without_own: bool = False
    # The ladder's own, with the names and defaults of the tick-based market maker.
    base_spread_ticks: int = 2
    max_inventory: int | str | None = None
    order_size: int | str | None = None
    num_levels: int = 3
    min_edge_ticks: int = 1
    cancel_distance_ticks: int = 10
    tick_size: int = 25
    refresh_interval_ns: int = 100_000_000
    tick_value: float | None = None


class GuardSettings(Struct, frozen=True, kw_only=True):
    """When quotes are taken away because of what comes in; "off" switches one off."""

    max_signal_age_secs: float | None = 30.0
    max_quiet_signal_age_secs: float | None = None
    max_signal_age_outside_secs: float | None = 300.0
    max_target_age_secs: float | None = 60.0
    dead_after_secs: float = 30.0
    max_ahead_secs: float | None = 1.0
    max_behind_secs: float | None = 10.0
    frozen_after_secs: float | None = 60.0
    locked: Literal["withdraw", "quote"] = "withdraw"
    collar_bps: float | None = 100.0
    collar_confirm_ms: float = 500.0
    split_break_secs: float | None = 3600.0
    max_basis_bps: float | str | None = "auto"


class SessionSettings(Struct, frozen=True, kw_only=True):
    """When the signal's market is open, and what to do while it is not."""

    calendar: str = "auto"
    outside: Outside = "withdraw"
    widening: float = 3.0
    skip_open_secs: float = 0.0
    skip_close_secs: float = 0.0


class RiskSettings(Struct, frozen=True, kw_only=True):
    """When everything is taken away because of what we did."""

    max_notional: str | None = None
    max_orders: int | None = 100
    max_loss: str | None = None
    max_rejects_per_minute: int | None = 30
    cooldown_secs: float = 60.0
    kill_file: str | None = None


class OrderSettings(Struct, frozen=True, kw_only=True):
    """How orders are worked."""

    replace: Literal["cancel_create", "modify", "keep"] = "cancel_create"
    in_flight_timeout_secs: float = 5.0
    stop_timeout_secs: float = 10.0


class VenueSettings(Struct, frozen=True, kw_only=True):
    """Where orders go, and what it allows."""

    kind: Literal["simulated", "lighter"] = "simulated"
    fill_model: Literal["touch", "cross", "queue"] = "touch"
    latency: float | str = 0.0
    tier: Literal["standard", "plus", "premium"] = "standard"
    limits: Literal["none", "tier"] = "none"
    transactions_per_minute: int | None = None
    volume_quota: int | None = None
    quota_horizon_secs: float = 23_400.0
    max_orders_per_market: int | None = None
    max_orders_per_account: int | None = None


class Databento(Struct, frozen=True, kw_only=True):
    """The signal's vendor."""

    dataset: str = "EQUS.PLUS"
    schema: str = "mbp-1"
    gateway: str | None = None


class Lighter(Struct, frozen=True, kw_only=True):
    """The target's venue."""

    environment: Literal["testnet", "mainnet"] = "testnet"
    rest_url: str | None = None
    ws_url: str | None = None
    tag: int = 1
    """Marks the orders of this strategy: two on one account have different ones."""


# The market's record as of September 2026; a live run loads it from the venue instead.
_NVDA_PERP: Final = Instrument(
    symbol="NVDA-PERP",
    venue="LIGHTER",
    price_decimals=3,
    size_decimals=3,
    min_base_amount=to_units("0.050", "min_base_amount"),
)
_TRADE_SIZE: Final = "0.05"
_MAX_POSITION: Final = "0.20"
_ORDER_SIZE: Final = "5"
_MAX_INVENTORY: Final = "50"
BASELINES: Final = ("first", "session", "ewma")
_PRESET_DEFAULTS: Final[dict[str, tuple[float, float, float]]] = {
    # inventory_skew_factor, signal_skew_factor, requote_threshold_bps
    "composite": (2.0, 55.0, 5.0),
    "tutorial": (2.0, 55.0, 5.0),
    "fair_value": (2.0, 0.0, 5.0),
    "ladder": (0.5, 0.0, 0.0),
}
_AUTO_BASIS_BPS: Final = 500.0
DECIMAL_STRINGS: Final = {
    "target.min_base_amount",
    "target.min_quote_amount",
    "strategy.trade_size",
    "strategy.max_position",
    "risk.max_notional",
    "risk.max_loss",
}
"""Keys whose amounts are written as texts, so that no digit is lost."""
_OR_WHOLE_NUMBERS: Final = {"strategy.max_inventory", "strategy.order_size"}
_DURATIONS_NS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that a run is made from. All of it goes to the run's manifest; no secrets here."""

    signal: Signal = field(default_factory=Signal)
    target: Target = field(default_factory=Target)
    strategy: Strategy = field(default_factory=Strategy)
    guards: GuardSettings = field(default_factory=GuardSettings)
    session: SessionSettings = field(default_factory=SessionSettings)
    risk: RiskSettings = field(default_factory=RiskSettings)
    orders: OrderSettings = field(default_factory=OrderSettings)
    venue: VenueSettings = field(default_factory=VenueSettings)
    databento: Databento = field(default_factory=Databento)
    lighter: Lighter = field(default_factory=Lighter)

    @property
    def signal_instrument(self) -> Instrument:
        """The (first) signal; its prices are taken as they come."""
        return self.signal_instruments[0]

    @property
    def signal_instruments(self) -> list[Instrument]:
        """All signals, the first one first."""
        pairs = [_split_id("signal.instrument", self.signal.instrument)]
        pairs += [_split_id("signal.others", other) for other in self.signal.others]
        return [Instrument(symbol=symbol, venue=venue) for symbol, venue in pairs]

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of each signal in the residual."""
        count = 1 + len(self.signal.others)
        if self.signal.weights is None:
            return (1.0 / count,) * count
        return tuple(self.signal.weights)

    @property
    def target_instrument(self) -> Instrument:
        """The market that is quoted, with its decimals and minimums."""
        symbol, venue = _split_id("target.instrument", self.target.instrument)
        known = _NVDA_PERP if self.target.instrument == _NVDA_PERP.id else None
        price_decimals, size_decimals = self.target.price_decimals, self.target.size_decimals
        if known is not None:
            price_decimals = known.price_decimals if price_decimals is None else price_decimals
            size_decimals = known.size_decimals if size_decimals is None else size_decimals
        if price_decimals is None or size_decimals is None:
            raise SettingsError(
                f"target.price_decimals and target.size_decimals are not known for "
                f"{self.target.instrument}; set them to the market's own"
            )
        minimum = self.target.min_base_amount
        try:
            return Instrument(
                symbol=symbol,
                venue=venue,
                price_decimals=price_decimals,
                size_decimals=size_decimals,
                min_base_amount=(
                    to_units(minimum, "target.min_base_amount")
                    if minimum is not None
                    else known.min_base_amount
                    if known is not None
                    else 0
                ),
                min_quote_amount=to_units(
                    self.target.min_quote_amount or "0", "target.min_quote_amount"
                ),
            )
        except ValueError as error:
            raise SettingsError(str(error)) from error

    @property
    def trade_size(self) -> int:
        """Size of each quote, 1e-9: as set, else the market's minimum, else 0.05.

        In the ladder ``order_size``, else ``trade_size``, else 5.
        """
        s = self.strategy
        if s.preset == "ladder":
            size = s.order_size if s.order_size is not None else s.trade_size
            return to_units(str(_ORDER_SIZE if size is None else size), "strategy.order_size")
        if s.trade_size is not None:
            return to_units(s.trade_size, "strategy.trade_size")
        return self.target_instrument.min_base_amount or to_units(_TRADE_SIZE, "trade_size")

    @property
    def max_position(self) -> int:
        """Hard cap on the net position, 1e-9; in the ladder no more than ``max_inventory``."""
        s = self.strategy
        if s.preset == "ladder":
            cap = self.max_inventory
            return cap if s.max_position is None else min(cap, self._max_position)
        return self._max_position

    @property
    def _max_position(self) -> int:
        return to_units(self.strategy.max_position or _MAX_POSITION, "strategy.max_position")

    @property
    def max_inventory(self) -> int:
        """Inventory at which the ladder's skew is full, 1e-9: as set, else ``max_position``, 50."""
        s = self.strategy
        most = s.max_inventory if s.max_inventory is not None else s.max_position
        return to_units(str(_MAX_INVENTORY if most is None else most), "strategy.max_inventory")

    @property
    def inventory_skew_factor(self) -> float:
        """As set, else the preset's."""
        set_ = self.strategy.inventory_skew_factor
        return _PRESET_DEFAULTS[self.strategy.preset][0] if set_ is None else set_

    @property
    def signal_skew_factor(self) -> float:
        """As set, else the preset's."""
        set_ = self.strategy.signal_skew_factor
        return _PRESET_DEFAULTS[self.strategy.preset][1] if set_ is None else set_

    @property
    def requote_threshold_bps(self) -> float:
        """As set, else the preset's."""
        set_ = self.strategy.requote_threshold_bps
        return _PRESET_DEFAULTS[self.strategy.preset][2] if set_ is None else set_

    @property
    def max_basis_bps(self) -> float | None:
        """Limit of the basis guard; "auto" guards where signal and target are one underlying."""
        wanted = self.guards.max_basis_bps
        if not isinstance(wanted, str):
            return wanted
        return _AUTO_BASIS_BPS if self.same_underlying else None

    @property
    def same_underlying(self) -> bool:
        """Whether the target is a derivative of the signal, by the names: NVDA-PERP of NVDA."""
        return self.target_instrument.symbol.split("-")[0] == self.signal_instrument.symbol

    @property
    def ladder_tick(self) -> int:
        """The ladder's tick, 1e-9 quote currency; ``tick_size`` counts the venue's price steps."""
        return self.strategy.tick_size * self.target_instrument.tick_size

    @property
    def ladder_half_px(self) -> int:
        """The ladder's half-spread, 1e-9 quote currency, on the venue's tick."""
        step = self.target_instrument.tick_size
        return half_spread_px(self.strategy.base_spread_ticks, self.ladder_tick) // step * step

    @property
    def tick_value(self) -> float:
        """Value of one ladder tick: as set, else a tick on one unit of base."""
        set_ = self.strategy.tick_value
        return self.ladder_tick / UNIT if set_ is None else set_

    @property
    def flatten_on_stop(self) -> bool:
        """Close the position with a market order on stop: as set, else only in ``tutorial``."""
        wanted = self.strategy.flatten_on_stop
        return self.strategy.preset == "tutorial" if wanted is None else wanted


def as_used(settings: Settings) -> dict[str, Any]:
    """Spell out settings for a run's manifest, with the preset's own values where none were set."""
    document: dict[str, Any] = msgspec.to_builtins(settings)
    strategy = document["strategy"]
    for key in ("inventory_skew_factor", "signal_skew_factor", "requote_threshold_bps"):
        strategy[key] = getattr(settings, key)
    if settings.strategy.preset == "ladder":
        strategy["order_size"] = format_units(settings.trade_size)
        strategy["max_inventory"] = format_units(settings.max_inventory)
    else:
        strategy["max_position"] = settings.strategy.max_position or _MAX_POSITION
    return document


def parse_duration_ns(value: float | str, what: str) -> int:
    """Read a duration: text with a unit (``"200ms"``, ``"1.5s"``), or a number of milliseconds.

    Errors: SettingsError naming ``what``.
    """
    text = f"{value}ms" if not isinstance(value, str) else value.strip()
    number = text.rstrip("nuµms")
    unit = text[len(number) :]
    try:
        scale = _DURATIONS_NS[unit]
        return to_units(number, what) * scale // 10**9
    except (KeyError, ValueError):
        raise SettingsError(
            f'{what} must be a duration such as "200ms", "1.5s" or a number of milliseconds, '
            f"was {value!r}"
        ) from None


def _split_id(what: str, text: str) -> tuple[str, str]:
    symbol, dot, venue = text.rpartition(".")
    if not (symbol and dot and venue):
        raise SettingsError(f"{what} must be SYMBOL.VENUE such as NVDA.EQUS, was {text!r}")
    return symbol, venue


# ---------------------------------------------------------------- loading


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML settings file and check that it has only known keys.

    Errors: SettingsError if it is missing, no TOML, or has an unknown key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"settings file {path} cannot be read: {error.strerror or error}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
    check_keys(document, str(path))
    return document


_MARKETS: Final = "markets"
_SWITCHES: Final = {
    "strategy": ["expire_time_secs"],
    "guards": [
        f.name for f in msgspec.structs.fields(GuardSettings)
        if f.name not in ("dead_after_secs", "locked", "collar_confirm_ms")
    ],
    "risk": ["max_notional", "max_orders", "max_loss", "max_rejects_per_minute", "kill_file"],
    "venue": [
        "transactions_per_minute", "volume_quota", "max_orders_per_market",
        "max_orders_per_account",
    ],
}  # fmt: skip
"""Keys that "off" (or false) switches off."""


def _sections() -> dict[str, list[str]]:
    return {
        section.name: [f.name for f in msgspec.structs.fields(section.type)]
        for section in msgspec.structs.fields(Settings)
    }


def for_market(document: Mapping[str, Any], market: str | None) -> dict[str, Any]:
    """Lay a market's own sections, ``[markets."X-PERP.LIGHTER".strategy]``, over the common ones.

    ``market`` is the target's id; ``None`` gives the common ones alone.
    """
    common = {section: body for section, body in document.items() if section != _MARKETS}
    own = document.get(_MARKETS, {}).get(market, {}) if market is not None else {}
    return _merge(common, own)


def check_keys(document: Mapping[str, Any], where: str) -> None:
    """Refuse unknown sections and keys; ``where`` they stand begins the message.

    Errors: SettingsError with the nearest known name.
    """
    sections = _sections()
    every = [f"{section}.{key}" for section, keys in sections.items() for key in keys]
    for section, body in document.items():
        if section == _MARKETS and isinstance(body, Mapping):
            for market, own in body.items():
                if not isinstance(own, Mapping):
                    raise SettingsError(
                        f"{where}: {_MARKETS}.{market} must hold sections such as "
                        f'[{_MARKETS}."{market}".strategy], was {own!r}'
                    )
                check_keys(own, f'{where}: [{_MARKETS}."{market}"]')
            continue
        if section not in sections:
            hint = _whereabouts(section, every) or did_you_mean(section, sections)
            raise SettingsError(f"{where}: unknown section or key {section!r}{hint}")
        if not isinstance(body, Mapping):
            raise SettingsError(f"{where}: {section} must be a section [{section}], was {body!r}")
        for key in body:
            if key in sections[section]:
                continue
            hint = _whereabouts(key, every) or did_you_mean(key, sections[section])
            raise SettingsError(f"{where}: unknown key {section}.{key}{hint}")


def _whereabouts(key: str, every: Iterable[str]) -> str:
    """Suggest the section that a key belongs to, or nothing."""
    return next((f" (did you mean {name}?)" for name in every if name.endswith(f".{key}")), "")


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, raw = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise SettingsError(f"--set takes section.key=value, was {text!r}")
    document = {section: {key: parse_value(f"{section}.{key}", raw)}}
    check_keys(document, "--set")
    return document


def parse_value(name: str, text: str) -> Any:
    """Read the value of the key ``name`` as ``--set`` gives it: TOML, or a text without quotes."""
    text = text.strip()
    if name not in DECIMAL_STRINGS:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    return text.strip("\"'")


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {section: dict(body) for section, body in under.items()}
    for section, body in over.items():
        merged.setdefault(section, {}).update(body)
    return merged


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {}
    signal, target = manifest.instruments.get("signal"), manifest.instruments.get("target")
    if signal is not None:
        document["signal"] = {"instrument": signal.id}
        others = [
            instrument.id
            for role, instrument in sorted(manifest.instruments.items())
            if role.startswith("signal_")
        ]
        if others:
            document["signal"]["others"] = others
    if target is not None:
        document["target"] = {
            "instrument": target.id,
            "price_decimals": target.price_decimals,
            "size_decimals": target.size_decimals,
        }
        if target.min_base_amount:
            document["target"]["min_base_amount"] = format_units(target.min_base_amount)
        if target.min_quote_amount:
            document["target"]["min_quote_amount"] = format_units(target.min_quote_amount)
    return _merge(document, manifest.settings)


def with_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Lay ``--set section.key=value`` texts over a settings document.

    Errors: SettingsError for a malformed text or an unknown key.
    """
    merged = _merge({}, document)
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    return merged


def load_settings(
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    manifest: Manifest | None = None,
) -> Settings:
    """Put settings together: ``--set``, then the file, then the recording's own, then defaults.

    Errors: SettingsError naming the key, its value and the rule.
    """
    document: dict[str, Any] = _of_manifest(manifest) if manifest is not None else {}
    if config is not None:
        target = manifest.instruments.get("target") if manifest is not None else None
        document = _merge(document, for_market(config, None if target is None else target.id))
    settings = settings_of(with_overrides(document, overrides))
    from marblemaker.checks import check

    check(settings)
    return settings


def settings_of(document: Mapping[str, Any]) -> Settings:
    """Give a document its types; whether the values make sense is not looked at.

    Errors: SettingsError for a value of the wrong kind.
    """
    document = _merge({}, document)
    for section, keys in _SWITCHES.items():
        for key in keys:
            value = document.get(section, {}).get(key)
            if value is False or value == "off":  # not 0, which is out of range
                document[section][key] = None
    for name in DECIMAL_STRINGS:
        section, key = name.split(".")
        value = document.get(section, {}).get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise SettingsError(
                f'{name} must be a decimal string, was the number {value!r}; write "{value}"'
            )
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise SettingsError(f"{place.rstrip('`') or 'settings'}: {problem}") from None


def instruments_of(settings: Settings) -> dict[str, Instrument]:
    """The instruments by role: ``signal``, ``signal_2`` …, ``target``."""
    first, *others = settings.signal_instruments
    more = {f"signal_{i}": other for i, other in enumerate(others, start=2)}
    return {"signal": first, **more, "target": settings.target_instrument}
