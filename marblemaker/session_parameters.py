"""What a synthetic session is made from: its parameters, and their TOML file."""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from streams.events import Feed
from streams.instrument import Instrument

__all__ = ["MILLISECOND", "SECOND", "Jump", "Kind", "Oddity", "Session", "read_session"]

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000

Kind: TypeAlias = Literal[
    "gap", "no_bid", "no_ask", "empty", "zero_bid_size", "zero_ask_size", "crossed", "locked",
    "same_instant", "one_ns_apart",
]  # fmt: skip

_BPS_MAX: Final = 2000
"""Largest move that a parameter may ask for; with more, prices could fall to zero."""


class Jump(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """News: the signal moves within milliseconds, the target follows."""

    at: int
    """First quote of the signal that shows it, ns."""
    bps: float
    """Size and direction, of the start price."""
    target_delay_ms: int = 600
    """Until the target's first and largest step, four fifths of the jump in one update."""

    def __post_init__(self) -> None:
        """Refuse a jump that goes nowhere known, or back in time.

        Errors: ValueError with the value and the rule.
        """
        if not abs(self.bps) <= _BPS_MAX:
            raise ValueError(f"bps of a jump must be within ±{_BPS_MAX}, was {self.bps!r}")
        if self.target_delay_ms < 0:
            raise ValueError(
                f"target_delay_ms must not be negative, was {self.target_delay_ms!r}; "
                f"the signal moves first"
            )


class Oddity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of unusual quotes at a known time."""

    kind: Kind
    feed: Literal["signal", "target", "both"]
    at: int
    """First quote of it, ns."""
    lasts_ms: int = 0
    """Until its last quote; every quote in between is affected."""
    quotes: int = 0
    """Quotes planted on each feed, evenly from first to last; besides those that come anyway."""

    def __post_init__(self) -> None:
        """Refuse a stretch that cannot be.

        Errors: ValueError with the value and the rule.
        """
        for name in ("lasts_ms", "quotes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, was {getattr(self, name)!r}")
        if self.kind == "gap" and self.quotes:
            raise ValueError(f"a gap has no quotes, was given {self.quotes}; leave quotes out")
        if self.kind in ("same_instant", "one_ns_apart") and self.lasts_ms:
            raise ValueError(
                f"{self.kind} has no lasts_ms, was given {self.lasts_ms}; leave it out"
            )


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a synthetic session is made from."""

    seed: int
    open: int
    """Start of the cash session, ns."""
    close: int
    """End of the cash session and of the signal, ns."""
    signal_start: int
    target_start: int
    target_end: int
    """The perpetual trades on before and after the cash session, ns."""
    signal_quotes: int
    """Quotes of the signal before gaps are cut and oddities planted."""
    target_quotes: int
    """Quotes of the target before oddities are planted."""
    signal_instrument: Instrument = Instrument(
        symbol="NVDA", venue="EQUS", price_decimals=2, size_decimals=0
    )
    target_instrument: Instrument = Instrument(
        symbol="NVDA-PERP",
        venue="LIGHTER",
        price_decimals=3,
        size_decimals=3,
        min_base_amount=50_000_000,
        min_quote_amount=10_000_000_000,
    )
    start_price: float = 207.0
    """Fair value when the target starts, and the level that it is weakly pulled to."""
    volatility_bps: float = 120.0
    """Standard deviation of the fair value's move over the cash session, without jumps."""
    pull_secs: float = 6000.0
    """Time scale of the pull to the start price."""
    basis_bps: float = 3.0
    """Standard deviation of the target's premium over the signal."""
    basis_secs: float = 600.0
    """Time scale on which the premium comes back to zero."""
    lag_ms_min: int = 50
    lag_ms_max: int = 400
    """By how much the target follows the signal, slowly changing between the two."""
    target_spread_bps_min: float = 2.0
    target_spread_bps_max: float = 6.0
    sweeps: int = 0
    """How often the target's book alone gaps away and comes back, at random times."""
    sweep_bps_min: float = 28.0
    sweep_bps_max: float = 50.0
    jumps: tuple[Jump, ...] = ()
    oddities: tuple[Oddity, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be generated.

        Errors: ValueError with the value, the rule and what it was held against.
        """
        self._check_times()
        positive = ("start_price", "pull_secs", "basis_secs", "target_spread_bps_min")
        for name in positive:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number, was {getattr(self, name)!r}")
        counted = ("seed", "signal_quotes", "target_quotes", "sweeps", "lag_ms_min")
        for name in (*counted, "volatility_bps", "basis_bps", "sweep_bps_min"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"{name} must be from 0 to 2**63, was {getattr(self, name)!r}")
        for name in ("volatility_bps", "basis_bps", "sweep_bps_max", "target_spread_bps_max"):
            if not getattr(self, name) <= _BPS_MAX:
                raise ValueError(f"{name} must be at most {_BPS_MAX}, was {getattr(self, name)!r}")
        for low in ("lag_ms_min", "target_spread_bps_min", "sweep_bps_min"):
            high = low.removesuffix("min") + "max"
            if getattr(self, high) < getattr(self, low):
                raise ValueError(
                    f"{high} must be at least {low} ({getattr(self, low)!r}), "
                    f"was {getattr(self, high)!r}"
                )

    def _check_times(self) -> None:
        names = ("target_start", "signal_start", "open", "close", "target_end")
        for before, after in pairwise(names):
            if getattr(self, before) > getattr(self, after):
                raise ValueError(
                    f"{after} ({getattr(self, after)}) must not be before {before} "
                    f"({getattr(self, before)}); the order is {', '.join(names)}"
                )
        if self.target_start < 0 or self.target_end - self.target_start > 7 * 86_400 * SECOND:
            raise ValueError(
                f"a session lies after 1970 and lasts at most seven days, was target_start "
                f"{self.target_start} to target_end {self.target_end}"
            )
        if self.close - self.open < SECOND:
            raise ValueError(
                f"close must be at least a second after open, was {self.close - self.open} ns"
            )

    def span(self, feed: Feed) -> tuple[int, int]:
        """Give the feed's first instant and the first instant after it, ns."""
        if feed == "signal":
            return self.signal_start, self.close
        return self.target_start, self.target_end


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_session(path: Path) -> Session:
    """Read a session's parameters from TOML; instants are offset date-times or integers of ns.

    Errors: ValueError naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        return msgspec.convert(_instants_as_ns(document), Session)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _instants_as_ns(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _instants_as_ns(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_instants_as_ns(item) for item in value]
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{value} has no offset from UTC; write {value.isoformat()}Z")
    elapsed: timedelta = value - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * SECOND + elapsed.microseconds * 1000
