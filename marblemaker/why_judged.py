"""What every guard judged at one moment: the value, its limit, and whether it let pass."""

from __future__ import annotations

from typing import Any, Final

import polars as pl
from msgspec import Struct

from marblemaker.why_run import RunFolder
from marblemaker.why_situation import FeedPast, Outcome, Situation
from operators.books import LOCKED, book_fault
from operators.guards.age import LIVE, age_limit_ns, life
from operators.guards.basis import basis_bps
from operators.guards.collar import jump_bps
from operators.guards.event_time import seconds_ahead
from operators.guards.risk import notional
from operators.guards.schedule import NEVER_NS
from operators.mid import mid_price
from streams.events import Anchor, Decision, Mid, Refusal, Residual
from streams.instant import iso
from streams.instrument import format_units, marked_pnl

__all__ = ["Margin", "Verdict", "margins", "verdicts"]

_SIGNS: Final = ("heartbeat", "sibling")


def number(value: float) -> str:
    """A judged value for people; its field has all of it."""
    return f"{value:.6g}".replace("-", "−")


class Verdict(Struct, frozen=True):
    """What one guard judged."""

    scope: str
    """``signal``, ``signal_2`` …, ``target``, ``both`` or ``side``."""
    guard: str
    """Its name: ``collar``, ``basis``, ``risk.max_orders`` …"""
    passed: bool | None
    """``None`` where it was not asked, because one before it had refused."""
    value: float | None
    limit: float | None
    unit: str
    text: str
    """The same for people."""


class Margin(Struct, frozen=True):
    """How long it would have taken until a guard refuses if nothing more came."""

    what: str
    at_ns: int
    """When, ns since the Unix epoch."""
    margin_ns: int
    """How long after the decision."""


def verdicts(run: RunFolder, s: Situation, outcome: Outcome) -> list[Verdict]:
    """Every guard that is switched on, in the order of the graph."""
    p = run.parameters
    found: list[Verdict] = []
    for past in (*s.signals, s.target):
        found += _tutorial(past) if p.preset == "tutorial" else _feed(run, s, past)
    return found + _together(run, s, outcome)


def _tutorial(past: FeedPast) -> list[Verdict]:
    quote = past.quote
    if quote is None:
        return []
    both = quote.bid_px is not None and quote.ask_px is not None
    told = "both sides there" if both else "a side is missing"
    return [Verdict(past.name, "book", both, None, None, "", told)]


def _feed(run: RunFolder, s: Situation, past: FeedPast) -> list[Verdict]:
    quote, name = past.quote, past.name
    if quote is None:
        return [Verdict(name, "feed", False, None, None, "", "nothing heard yet")]
    g = run.parameters.guards
    refused = past.emitted.reason if type(past.emitted) is Refusal else ""
    found: list[Verdict] = []

    def add(
        guard: str, reasons: tuple[str, ...], value: float | None, limit: float | None,
        unit: str, text: str,
    ) -> None:  # fmt: skip
        stopped = any(not v.passed for v in found)
        passed = None if stopped else refused not in reasons
        found.append(Verdict(name, guard, passed, value, limit, unit, text))

    behind = g.max_target_behind_ns if name == "target" else g.max_signal_behind_ns
    if g.max_ahead_ns is not None or behind is not None:
        ahead = None if quote.ts_event is None else seconds_ahead(quote.ts_event, quote.ts)
        low = "−∞" if behind is None else number(-behind / 1e9)
        high = "∞" if g.max_ahead_ns is None else number(g.max_ahead_ns / 1e9)
        told = "no event time" if ahead is None else f"{number(ahead)} of {low} … {high} s"
        limit = None if behind is None else -behind / 1e9
        if ahead is not None and ahead > 0 and g.max_ahead_ns is not None:
            limit = g.max_ahead_ns / 1e9
        add("event time", ("event time in the future", "event time far behind"), ahead, limit,
            "s", told)  # fmt: skip
    if g.frozen_ns is not None:
        same = past.book_before == (quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz)
        stood = (quote.ts - past.book_since) / 1e9 if same else 0.0
        add("frozen", ("frozen",), stood, g.frozen_ns / 1e9, "s",
            f"unchanged for {number(stood)} of {number(g.frozen_ns / 1e9)} s")  # fmt: skip
    bid, ask = quote.bid_px, quote.ask_px
    faults = ("missing", "no bid", "no ask", "zero price", "zero size", "crossed", "locked")
    told = "sound"
    if bid is None or ask is None:
        told = "a side is missing"
    elif fault := book_fault(
        bid, ask,
        1 if quote.bid_sz is None else quote.bid_sz, 1 if quote.ask_sz is None else quote.ask_sz,
    ):  # fmt: skip
        told = "locked, which may be quoted" if fault == LOCKED and g.locked else "unsound"
    add("book", faults, None, None, "", refused if refused in faults else told)
    if bid is None or ask is None:
        return found + _age(run, s, past)
    middle = mid_price(bid, ask)
    if g.collar_bps is not None:
        jump = jump_bps(middle, past.accepted) if past.accepted else 0.0
        told = f"{number(jump)} of ±{number(g.collar_bps)} bps"
        add("collar", ("jump not confirmed",), jump, g.collar_bps, "bps", told)
    if name != "target" and g.split_break_ns is not None:
        if past.before and quote.ts >= past.judge_from:
            ratio = past.before / middle
            add("split", ("looks like a split",), ratio, None, "", f"ratio {number(ratio)}")
        else:
            add("split", ("looks like a split",), None, None, "", "no break before it")
    return found + _age(run, s, past)


def _age(run: RunFolder, s: Situation, past: FeedPast) -> list[Verdict]:
    limits = _age_limits(run, s.now, past.name)
    quote = past.quote
    if limits is None or quote is None:
        return []
    age = s.now - quote.ts
    refused = type(past.emitted) is Refusal and past.emitted.reason in (
        "quiet", "dead", "disconnected",
    )  # fmt: skip
    told = f"{format_units(age)} of {format_units(limits[0])} s"
    if type(past.emitted) is Refusal and refused:
        told = f"{past.emitted.reason}: {told}"
    return [Verdict(past.name, "age", not refused, age / 1e9, limits[0] / 1e9, "s", told)]


def _age_limits(run: RunFolder, now: int, name: str) -> tuple[int, int, int] | None:
    """Limit, limit while quiet, and when silence is death, ns; ``None`` without the guard."""
    g = run.parameters.guards
    if run.parameters.preset == "tutorial":
        return None
    if name == "target":
        limit = g.max_target_age_ns
        return None if limit is None else (limit, limit, limit if g.dead_ns is None else g.dead_ns)
    limit = g.max_signal_age_ns
    if limit is None:
        return None
    dead = limit if g.dead_ns is None else g.dead_ns
    if g.schedule is not None:
        outside = limit if g.max_signal_age_outside_ns is None else g.max_signal_age_outside_ns
        limit = age_limit_ns(g.schedule.is_open(now), limit, outside)
    quiet = limit if g.max_quiet_signal_age_ns is None else max(g.max_quiet_signal_age_ns, limit)
    return limit, quiet, dead


def margins(run: RunFolder, s: Situation) -> list[Margin]:
    """When each feed would have become too old, and when the session turns."""
    found: list[Margin] = []
    for past in (*s.signals, s.target):
        limits = _age_limits(run, s.now, past.name)
        quote = past.quote
        aged = type(past.emitted) is Refusal and past.emitted.reason in (
            "quiet", "dead", "disconnected",
        )  # fmt: skip
        if limits is None or quote is None or aged:
            continue
        limit, quiet, dead = limits
        sign = max(quote.ts, _last_sign(run, s.now, past.name))
        at = max(quote.ts + limit, min(quote.ts + quiet, sign + dead))
        assert life(at - quote.ts, limit, quiet, at - sign, dead) != LIVE
        assert life(at - 1 - quote.ts, limit, quiet, at - 1 - sign, dead) == LIVE
        found.append(Margin(f"{past.name} too old", at, at - s.now))
    schedule = run.parameters.guards.schedule
    if schedule is not None and run.parameters.preset != "tutorial":
        edge = schedule.next_edge(s.now)
        if edge < NEVER_NS:
            what = "session closes" if schedule.is_open(s.now) else "session opens"
            found.append(Margin(what, edge, edge - s.now))
    if not run.has_trace:
        return []
    return found


def _last_sign(run: RunFolder, now: int, name: str) -> int:
    """When a feed last gave a sign of life that is no quote of it."""
    kind = pl.col("kind").is_in(_SIGNS)
    feed = "target" if name == "target" else "signal"
    signs = run.last("status", "ts", now, pl.col("source") == feed, kind)
    if name == "target":
        signs += run.last("trades", "ts", now)
    else:
        for other in run.signals:
            if other != name:
                signs += run.last(other, "ts", now)
    return max((row["ts"] for row in signs), default=0)


# ---------------------------------------------------------------- both together


def _together(run: RunFolder, s: Situation, outcome: Outcome) -> list[Verdict]:
    p = run.parameters
    g, refusal = p.guards, outcome.state[1]
    by = refusal.by if type(refusal) is Refusal else ""
    stopped = by if by in ("session", "basis", "risk", "kill switch") else ""
    found: list[Verdict] = []
    if g.schedule is not None and p.preset != "tutorial":
        is_open = g.schedule.is_open(s.now)
        told = "open"
        if not is_open:
            last = g.schedule.last_edge(s.now)
            told = "closed" if last is None else f"closed {format_units(s.now - last)} s ago"
            told += {
                "withdraw": "",
                "widen": ", half-spread widened",
                "target_only": ", no signal",
            }[g.outside]
        else:
            edge = g.schedule.next_edge(s.now)
            told += f" until {iso(edge)[:19]}Z" if edge < NEVER_NS else ""
        found.append(
            Verdict("both", "session", is_open or g.outside != "withdraw", None, None, "", told)
        )
    signal, target = _mid_of(_in_force(s, outcome, 0)), _mid_of(_in_force(s, outcome, -1))
    if g.max_basis_bps is not None and p.preset != "tutorial":
        if signal is None or target is None:
            found.append(Verdict("both", "basis", None, None, g.max_basis_bps, "bps", "not asked"))
        else:
            apart = basis_bps(target, signal)
            found.append(
                Verdict(
                    "both", "basis", -g.max_basis_bps <= apart <= g.max_basis_bps, apart,
                    g.max_basis_bps, "bps",
                    f"{number(apart)} of ±{number(g.max_basis_bps)} bps",
                )
            )  # fmt: skip
    if g.risk is not None:
        found += _risk(s, g.risk, refusal if by == "risk" else None)
    killed = s.killed is not None
    found.append(
        Verdict(
            "both", "kill switch", not killed, None, None, "",
            f"killed: {s.killed}" if killed else "released",
        )
    )  # fmt: skip
    assert not stopped or any(v.passed is False for v in found)
    return found + _sides(outcome.wanted)


def _in_force(s: Situation, outcome: Outcome, which: int) -> Any:
    """The signal's (0) or the target's (-1) value as the guards on both saw it."""
    return s.signals[0].emitted if which == 0 else s.target.emitted


def _mid_of(value: Any) -> float | None:
    return value.mid if type(value) in (Mid, Residual, Anchor) else None


def _risk(s: Situation, limits: Any, refusal: Any) -> list[Verdict]:
    held = s.inventory
    rows: list[tuple[str, str, float | None, float | None, str]] = [
        ("max_position", "position beyond the limit", held.position / 1e9,
         _units(limits.max_position), "base"),
        ("max_orders", "too many orders", float(held.working), _float(limits.max_orders), "orders"),
        ("max_rejects", "reject storm", float(s.rejects), _float(limits.max_rejects), "in 60 s"),
    ]  # fmt: skip
    if limits.max_notional is not None:
        value = None if s.mark is None else notional(held.position, s.mark) / 1e9
        rows.append(("max_notional", "notional beyond the limit", value,
                     _units(limits.max_notional), "quote"))  # fmt: skip
    if limits.max_loss is not None:
        loss = None
        if s.mark is not None:
            pnl = marked_pnl(held.cash, held.fees, held.position, s.mark)
            loss = -(pnl - s.pnl_at_open) / 1e9
        rows.append(("max_loss", "loss beyond the limit", loss, _units(limits.max_loss), "quote"))
    found = []
    for name, reason, value, limit, unit in rows:
        if limit is None:
            continue
        passed = refusal is None or refusal.reason != reason
        if not passed:
            value = refusal.value
        told = "?" if value is None else number(value)
        found.append(
            Verdict("both", f"risk.{name}", passed, value, limit, unit,
                    f"{told} of {number(limit)} {unit}")
        )  # fmt: skip
    return found


def _units(value: int | None) -> float | None:
    return None if value is None else value / 1e9


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _sides(wanted: Decision | None) -> list[Verdict]:
    if wanted is None or wanted.anchor is None:
        return []
    return [
        Verdict(
            "side", side, px is not None, None, None, "",
            ("wanted" if px is not None else "left out") + (f" ({note})" if note else ""),
        )
        for side, px, note in (
            ("bid", wanted.bid_px, wanted.bid_note), ("ask", wanted.ask_px, wanted.ask_note),
        )
    ]  # fmt: skip
