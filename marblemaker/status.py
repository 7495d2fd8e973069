"""Status: how a live run stands, on one line."""

from __future__ import annotations

from msgspec import Struct

from sinks.quote_view import QuoteView
from streams.events import Decision
from streams.instrument import format_units

__all__ = ["Standing", "status_line"]


class Standing(Struct, frozen=True, kw_only=True):
    """How a live run stands at one instant."""

    mode: str
    inputs: int
    inputs_per_second: float
    signal_age_secs: float | None
    target_age_secs: float | None
    lag_ms: float
    view: QuoteView | None
    decision: Decision | None
    quota_left: int | None
    in_last_minute: int | None
    backlog_rows: int
    backlog_ms: float


def status_line(standing: Standing) -> str:
    """Everything a trader glances at."""
    s = standing
    parts = [
        s.mode.upper(),
        f"signal {_secs(s.signal_age_secs)} target {_secs(s.target_age_secs)}",
        f"lag {s.lag_ms:.0f} ms",
        f"{s.inputs:,} in ({s.inputs_per_second:,.0f}/s)",
    ]
    if s.view is not None:
        bid = format_units(s.view.bids[0].px or 0) if s.view.bids else "-"
        ask = format_units(s.view.asks[0].px or 0) if s.view.asks else "-"
        parts.append(f"{bid} / {ask}, position {format_units(s.view.position)}")
        if s.view.pending_acks:
            parts.append(f"{s.view.pending_acks} not acknowledged")
    if s.decision is not None:
        parts.append(f"{s.decision.action} {s.decision.reason}".strip())
    if s.quota_left is not None:
        parts.append(f"quota {s.quota_left:,}")
    if s.in_last_minute is not None:
        parts.append(f"{s.in_last_minute} sent in a minute")
    if s.backlog_rows:
        parts.append(f"recorder {s.backlog_rows:,} rows behind")
    return "  ".join(parts)


def _secs(age: float | None) -> str:
    return "none" if age is None else f"{age:.1f} s"
