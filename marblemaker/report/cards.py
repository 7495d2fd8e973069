"""Cards: what is told of a decision when somebody points at it, in the words of ``marble why``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marblemaker.formulas import formulas
from marblemaker.settings import Settings
from streams.instant import iso
from streams.instrument import format_units

__all__ = ["card", "span"]


def card(row: Mapping[str, Any], settings: Settings | None) -> list[str]:
    """Lines on one row of ``decisions.parquet``: what, on which inputs, by which formulas."""
    lines = [f"{row['action']} · seq {row['seq']} · {iso(row['ts'])}"]
    if row["reason"]:
        what = "because" if row["action"] in ("withdraw", "refuse") else "reason"
        lines.append(f"{what}: {row['reason']}{_judged(row)}")
    sides = _sides(row)
    if sides:
        lines.append(sides)
    for side in ("bid", "ask"):
        if row[f"{side}_note"]:
            lines.append(f"no {side}: {row[f'{side}_note']}")
    lines += _inputs(row)
    if settings is not None:
        lines += [f"{one.name}: {one.text}" for one in formulas(row, settings)]
    book = _book(row)
    if book:
        lines.append(book)
    if row["threshold_bps"] is not None:
        lines.append(f"requote threshold {row['threshold_bps']:g} bps (budget)")
    if row["unmoved"]:
        lines.append(f"{row['unmoved']:,} evaluations before it changed nothing")
    return lines


def span(ns: int) -> str:
    """Write a length of time, exactly, in a unit that is easy to read.

    >>> span(131_810_880), span(0), span(30_000_000_001)
    ('131.81088 ms', '0 ns', '30.000000001 s')
    """
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if abs(ns) >= size:
            whole, rest = divmod(abs(ns), size)
            decimals = f"{rest:0{len(str(size)) - 1}d}".rstrip("0")
            sign = "−" if ns < 0 else ""
            return f"{sign}{whole}{'.' if decimals else ''}{decimals} {unit}"
    return f"{ns} ns".replace("-", "−")


def _judged(row: Mapping[str, Any]) -> str:
    value, limit = row["refused_value"], row["refused_limit"]
    if value is None:
        return ""
    return f" ({value:.9g}{'' if limit is None else f', limit {limit:.9g}'})"


def _sides(row: Mapping[str, Any]) -> str:
    told = []
    for side in ("bid", "ask"):
        px = row[f"{side}_px"]
        if px is not None:
            qty = "" if row["qty"] is None else f" × {format_units(row['qty'])}"
            levels = row[f"{side}_levels"]
            more = f" ({levels} levels)" if levels > 1 else ""
            told.append(f"{side} {format_units(px)}{qty}{more}")
    return "   ".join(told)


def _inputs(row: Mapping[str, Any]) -> list[str]:
    lines = []
    for feed in ("signal", "target"):
        if row[f"{feed}_ts"] is None or row[f"{feed}_mid"] is None:
            continue
        age = span(row["ts"] - row[f"{feed}_ts"])
        lines.append(f"{feed} mid {row[f'{feed}_mid']!r} · seq {row[f'{feed}_seq']} · {age} old")
    return lines


def _book(row: Mapping[str, Any]) -> str:
    known = ("refused_bid_px", "refused_ask_px", "refused_bid_sz", "refused_ask_sz")
    if all(row[name] is None for name in known):
        return ""
    sides = []
    for side in ("bid", "ask"):
        px, size = row[f"refused_{side}_px"], row[f"refused_{side}_sz"]
        told = "none" if px is None else format_units(px)
        sides.append(f"{side} {told}{'' if size is None else f' × {format_units(size)}'}")
    return f"refused book: {', '.join(sides)}"
