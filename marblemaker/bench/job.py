"""The job that every peer does, in numbers, and what is told of one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from msgspec import Struct, field

from marblemaker.settings import Settings
from streams.instrument import Instrument

__all__ = ["NOT_HERE", "Job", "NotHereError", "Ran", "job_of"]


NOT_HERE: Final = 3
"""Exit code of a run: the peer cannot run here, and says why."""


class NotHereError(Exception):
    """What a peer needs is not there; the text says what, and the way out."""


class Job(Struct, frozen=True, kw_only=True):
    """The rules of the preset ``tutorial``, for who cannot read our settings."""

    half_spread_bps: float
    inventory_skew_factor: float
    """Price units per base unit of position."""
    signal_skew_factor: float
    """Price units per unit of residual."""
    requote_threshold_bps: float
    trade_size: int
    """1e-9 base units, as ``max_position``."""
    max_position: int
    signal: Instrument
    target: Instrument

    @property
    def threshold(self) -> float:
        """The requote threshold as a fraction of the anchor."""
        return self.requote_threshold_bps / 10_000.0


def job_of(settings: Settings) -> Job:
    """Take from the settings what all peers know."""
    return Job(
        half_spread_bps=settings.strategy.half_spread_bps,
        inventory_skew_factor=settings.inventory_skew_factor,
        signal_skew_factor=settings.signal_skew_factor,
        requote_threshold_bps=settings.requote_threshold_bps,
        trade_size=settings.trade_size,
        max_position=settings.max_position,
        signal=settings.signal_instrument,
        target=settings.target_instrument,
    )


class Ran(Struct, kw_only=True):
    """What one run of a peer did, and how long it took."""

    quotes: int = 0
    """Quotes that it went through, of both feeds."""
    requotes: int | None = None
    """How often it priced and sent; ``None`` where the peer does not tell, or quotes nothing."""
    orders: int | None = None
    fills: int | None = None
    version: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """By step: ``read``, ``convert``, ``loop``, and ``in_all``, from files to results."""
    told: dict[str, float] = field(default_factory=dict)
    """Further figures of this peer."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        started = perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - started
