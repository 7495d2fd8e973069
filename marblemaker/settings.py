"""Settings: one TOML file, ``--set`` over it, a recording's own settings and defaults under it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

from streams.instrument import Instrument, format_units, to_units
from streams.recording import Manifest, did_you_mean

__all__ = [
    "Settings",
    "SettingsError",
    "instruments_of",
    "load_settings",
    "parse_duration_ns",
    "read_document",
    "with_overrides",
]


class SettingsError(ValueError):
    """A setting is unknown, of the wrong kind or impossible."""


class Signal(Struct, frozen=True, kw_only=True):
    """The feed that we trust to move first."""

    instrument: str = "NVDA.EQUS"


class Target(Struct, frozen=True, kw_only=True):
    """The market that we quote."""

    instrument: str = "NVDA-PERP.LIGHTER"
    price_decimals: int | None = None
    size_decimals: int | None = None
    min_base_amount: str | None = None
    min_quote_amount: str | None = None


class Strategy(Struct, frozen=True, kw_only=True):
    """What is quoted, and when anew."""

    preset: Literal["composite", "tutorial"] = "composite"
    trade_size: str | None = None
    max_position: str = "0.20"
    half_spread_bps: float = 25.0
    inventory_skew_factor: float = 2.0
    signal_skew_factor: float = 55.0
    signal_baseline: float | str = "first"
    baseline_half_life_secs: float = 1800.0
    requote_threshold_bps: float = 5.0
    min_interval_ms: float = 0.0
    expire_time_secs: float | None = None
    on_cancel_resubmit: bool = False
    flatten_on_stop: bool | None = None


class VenueSettings(Struct, frozen=True, kw_only=True):
    """Where orders go."""

    kind: Literal["simulated", "lighter"] = "simulated"
    fill_model: Literal["touch", "cross"] = "touch"
    latency: float | str = 0.0
    tier: Literal["standard", "plus", "premium"] = "standard"


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


# The market's record as of September 2026; a live run loads it from the venue instead.
_NVDA_PERP: Final = Instrument(
    symbol="NVDA-PERP",
    venue="LIGHTER",
    price_decimals=3,
    size_decimals=3,
    min_base_amount=to_units("0.050", "min_base_amount"),
)
_TRADE_SIZE: Final = "0.05"
_BASELINES: Final = ("first", "session", "ewma")
_DECIMAL_STRINGS: Final = {
    "target.min_base_amount",
    "target.min_quote_amount",
    "strategy.trade_size",
    "strategy.max_position",
}
_DURATIONS_NS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that a run is made from. All of it goes to the run's manifest; no secrets here."""

    signal: Signal = field(default_factory=Signal)
    target: Target = field(default_factory=Target)
    strategy: Strategy = field(default_factory=Strategy)
    venue: VenueSettings = field(default_factory=VenueSettings)
    databento: Databento = field(default_factory=Databento)
    lighter: Lighter = field(default_factory=Lighter)

    @property
    def signal_instrument(self) -> Instrument:
        """The signal; its prices are taken as they come."""
        symbol, venue = _split_id("signal.instrument", self.signal.instrument)
        return Instrument(symbol=symbol, venue=venue)

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
        """Size of each quote, 1e-9: as set, else the market's minimum, else 0.05."""
        if self.strategy.trade_size is not None:
            return to_units(self.strategy.trade_size, "strategy.trade_size")
        return self.target_instrument.min_base_amount or to_units(_TRADE_SIZE, "trade_size")

    @property
    def max_position(self) -> int:
        """Hard cap on the net position, 1e-9."""
        return to_units(self.strategy.max_position, "strategy.max_position")

    @property
    def latency_ns(self) -> int:
        """How long a command takes to the venue, ns."""
        return parse_duration_ns(self.venue.latency, "venue.latency")

    @property
    def flatten_on_stop(self) -> bool:
        """Close the position with a market order on stop: as set, else only in ``tutorial``."""
        wanted = self.strategy.flatten_on_stop
        return self.strategy.preset == "tutorial" if wanted is None else wanted

    def check(self) -> None:
        """Refuse what is impossible.

        Errors: SettingsError with the key, its value and the rule.
        """
        s, instrument = self.strategy, self.target_instrument
        self._check_numbers()
        trade_size, max_position = self._units("trade_size"), self._units("max_position")
        lot = instrument.lot_size
        if trade_size <= 0 or trade_size % lot:
            raise SettingsError(
                f"strategy.trade_size {format_units(trade_size)} must be a positive multiple of "
                f"{format_units(lot)} ({instrument.id} has {instrument.size_decimals} decimals)"
            )
        if trade_size < instrument.min_base_amount:
            raise SettingsError(
                f"strategy.trade_size {format_units(trade_size)} is below the market's minimum of "
                f"{format_units(instrument.min_base_amount)}; raise it to at least that"
            )
        if max_position < trade_size:
            raise SettingsError(
                f"strategy.max_position {format_units(max_position)} is below trade_size "
                f"{format_units(trade_size)}: not one order could ever be sent; raise max_position "
                f"or lower trade_size"
            )
        if isinstance(s.signal_baseline, str) and s.signal_baseline not in _BASELINES:
            raise SettingsError(
                f"strategy.signal_baseline must be a price or one of {', '.join(_BASELINES)}, "
                f"was {s.signal_baseline!r}{did_you_mean(s.signal_baseline, _BASELINES)}"
            )
        if self.latency_ns < 0:
            raise SettingsError(f"venue.latency must not be negative, was {self.venue.latency!r}")
        if self.venue.kind == "lighter":
            raise SettingsError(
                'venue.kind "lighter" sends orders and is for live runs; a replay takes "simulated"'
            )
        self.signal_instrument  # noqa: B018 - refuses a malformed id

    def _units(self, name: Literal["trade_size", "max_position"]) -> int:
        try:
            return self.trade_size if name == "trade_size" else self.max_position
        except ValueError as error:
            raise SettingsError(str(error)) from error

    def _check_numbers(self) -> None:
        s = self.strategy
        rules: list[tuple[str, float | None, float, bool]] = [
            ("half_spread_bps", s.half_spread_bps, 0.0, True),
            ("requote_threshold_bps", s.requote_threshold_bps, 0.0, True),
            ("min_interval_ms", s.min_interval_ms, 0.0, True),
            ("baseline_half_life_secs", s.baseline_half_life_secs, 0.0, False),
            ("expire_time_secs", s.expire_time_secs, 0.0, False),
            ("inventory_skew_factor", s.inventory_skew_factor, -math.inf, True),
            ("signal_skew_factor", s.signal_skew_factor, -math.inf, True),
        ]
        if not isinstance(s.signal_baseline, str):
            rules.append(("signal_baseline", s.signal_baseline, 0.0, False))
        for name, value, least, inclusive in rules:
            if value is None:
                continue
            if not math.isfinite(value) or value < least or (value == least and not inclusive):
                rule = "a finite number" + (
                    "" if least == -math.inf else " of at least 0" if inclusive else " above 0"
                )
                raise SettingsError(f"strategy.{name} must be {rule}, was {value!r}")


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
    _check_keys(document, str(path))
    return document


def _sections() -> dict[str, list[str]]:
    return {
        section.name: [f.name for f in msgspec.structs.fields(section.type)]
        for section in msgspec.structs.fields(Settings)
    }


def _check_keys(document: Mapping[str, Any], where: str) -> None:
    sections = _sections()
    every = [f"{section}.{key}" for section, keys in sections.items() for key in keys]
    for section, body in document.items():
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
    value: Any = raw.strip()
    if f"{section}.{key}" not in _DECIMAL_STRINGS:
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            value = value.strip("\"'")
    else:
        value = value.strip("\"'")
    document = {section: {key: value}}
    _check_keys(document, "--set")
    return document


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
        document = _merge(document, config)
    document = with_overrides(document, overrides)
    expire = document.get("strategy", {}).get("expire_time_secs")
    if expire == "off" or expire is False:
        document["strategy"]["expire_time_secs"] = None
    for name in _DECIMAL_STRINGS:
        section, key = name.split(".")
        value = document.get(section, {}).get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise SettingsError(
                f'{name} must be a decimal string, was the number {value!r}; write "{value}"'
            )
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise SettingsError(f"{place.rstrip('`') or 'settings'}: {problem}") from None
    settings.check()
    return settings


def instruments_of(settings: Settings) -> dict[str, Instrument]:
    """The two instruments by role."""
    return {"signal": settings.signal_instrument, "target": settings.target_instrument}
