"""What an explanation holds."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from marblemaker.formulas import Formula
from marblemaker.why_flips import Flip
from marblemaker.why_judged import Margin, Verdict

__all__ = ["Explanation", "FeedUse", "OrderUse", "Requote", "Throttle"]


class FeedUse(Struct, kw_only=True):
    """A feed's latest quote, and what its operators made of it."""

    name: str
    seq: int
    ts: int
    ts_event: int | None
    age_ns: int
    """How old it was at the decision."""
    event_age_ns: int | None
    """The same by the venue's time."""
    bid_px: int | None
    """The book, 1e-9; our own quotes in it."""
    ask_px: int | None
    bid_sz: int | None
    ask_sz: int | None
    triggered: bool
    """Whether it was this quote that led to the decision."""
    mid: float | None = None
    baseline: float | None = None
    residual: float | None = None
    anchor: float | None = None
    refused: str | None = None
    """Why nothing could be made of it."""


class Requote(Struct, kw_only=True):
    """Why a state was worth new orders, or not."""

    text: str
    threshold_bps: float
    """In force: above the setting's while a budget is low."""
    anchor_bps: float | None = None
    """How far the anchor had moved since the last quote, of the anchor then."""
    signal_bps: float | None = None
    """How far the signal's impact had moved, of the anchor now."""
    formulas: list[Formula] = []
    last_seq: int | None = None
    """The last quote, which it is measured against."""
    last_ts: int | None = None


class Throttle(Struct, kw_only=True):
    """What was held back before."""

    text: str
    interval_ns: int
    last_ns: int | None = None
    """When a target last went out."""
    due_ns: int | None = None
    """When the next one may."""
    holds: int = 0
    """Targets that were held back since, told one by one."""
    held_since_ns: int | None = None
    released: bool = False
    """Whether this decision is one that was let go by the timer."""


class OrderUse(Struct, kw_only=True):
    """An order of ours, at the decision or because of it."""

    n: int
    side: str
    px: int | None
    qty: int
    """Open or in flight then, 1e-9 base units; for an order that was sent, its size."""
    state: str
    asked: str = ""
    """``create``, ``cancel`` or ``modify``, for what the decision sent."""
    status: str | None = None
    """What became of it: FILLED, CANCELED, REJECTED, EXPIRED, OPEN."""
    filled: int | None = None
    ts_last: int | None = None


class Explanation(Struct, kw_only=True):
    """All that led to one decision, or to none. Prices, sizes in 1e-9, instants in ns."""

    run: str
    mode: str
    signal: str
    target: str
    preset: str
    question: str
    ts: int
    at: str
    seq: int | None
    kind: str
    """What came out, in words: ``quote both sides``, ``withdraw: signal locked``, ``nothing new:
    below the threshold`` …"""
    decision: dict[str, Any] | None
    """The row of ``decisions.parquet``; ``None`` where nothing was decided."""
    in_force: dict[str, Any] | None = None
    """The decision in force, where nothing was decided."""
    trigger: str
    feeds: list[FeedUse] = []
    formulas: list[Formula] = []
    guards: list[Verdict] = []
    requote: Requote | None = None
    throttle: Throttle | None = None
    working: list[OrderUse] = []
    """What was open or in flight then."""
    sent: list[OrderUse] = []
    """What the decision sent, and what became of it."""
    position: int | None = None
    last_fill: OrderUse | None = None
    """The order that was filled last before it, with what was filled then; ``ts_last`` is when."""
    flips: list[Flip] = []
    margins: list[Margin] = []
    silence: list[str] = []
    """Why there was no (new) quote."""
    checked: bool | None = None
    """Whether evaluating the situation anew gave what was recorded, bit for bit; ``None`` if that
    could not be tried."""
    notes: list[str] = []

    def lines(self, *, colour: bool = False) -> list[str]:
        """The same for people: one screen, at most 100 columns."""
        from marblemaker.why_text import lines

        return lines(self, colour=colour)

    def json(self) -> dict[str, Any]:
        """The same as plain values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document
