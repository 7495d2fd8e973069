"""What a person (or a script) sees of a command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from marblemaker.settings import Settings
from streams.instant import iso
from streams.instrument import format_units

__all__ = ["DONE", "FAILED", "INTERRUPTED", "WRONG_USE", "Console", "summary_lines"]

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command."""

_LINE_EVERY_SECONDS = 5.0


class Console:
    """Prints results to standard output, everything else to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        """With ``as_json`` a result is one JSON document."""
        self.as_json = as_json

    def result(self, document: Any, lines: Sequence[str]) -> None:
        """Print what a command found."""
        print(json.dumps(document, indent=2) if self.as_json else "\n".join(lines))

    def error(self, message: str, code: int) -> int:
        """Print what went wrong; give the exit code back."""
        if self.as_json:
            print(json.dumps({"error": message, "exit_code": code}))
        print(f"marble: {message}", file=sys.stderr)
        return code

    def note(self, message: str) -> None:
        """Print something along the way."""
        print(message, file=sys.stderr)

    @contextmanager
    def progress(self, title: str, unit: str = "events") -> Iterator[Any]:
        """Give a callback for progress: a bar on a terminal, a line now and then elsewhere.

        ``unit`` is what is counted.
        """
        if sys.stderr.isatty():
            with self._bar(title, unit) as update:
                yield update
            return
        started = last = time.monotonic()

        def line(done: int, total: int | None = None, ts: int | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < _LINE_EVERY_SECONDS:
                return
            last = now
            rate = done / (now - started)
            text = f"{title}: {done:,}{'' if total is None else f' of {total:,}'}"
            text += f", {_rate(rate)} {unit}/s"
            if ts is not None:
                text += f", at {iso(ts)}"
            if total is not None:
                text += f", {max(total - done, 0) / rate:.0f} s left"
            self.note(text)

        yield line

    @contextmanager
    def _bar(self, title: str, unit: str) -> Iterator[Any]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        started = time.monotonic()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn(f"{{task.fields[rate]}} {unit}/s"),
            TextColumn("{task.fields[at]}"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            transient=True,
            refresh_per_second=4,
        ) as progress:
            task = progress.add_task(title, total=None, rate="", at="")

            def update(done: int, total: int | None = None, ts: int | None = None) -> None:
                rate = done / max(time.monotonic() - started, 1e-9)
                at = "" if ts is None else iso(ts)[11:23]
                progress.update(task, completed=done, total=total, rate=_rate(rate), at=at)

            yield update


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _quoting(settings: Settings) -> str:
    s, size = settings.strategy, format_units(settings.trade_size)
    if s.preset == "ladder":
        tick = format_units(settings.ladder_tick)
        return f"{s.num_levels} levels of {size} a side, {s.base_spread_ticks} ticks of {tick} wide"
    return f"{size} a side, ±{s.half_spread_bps:g} bps"


def _bounds_lines(bounds: dict[str, Any]) -> list[str]:
    lines = ["  the same orders under each fill model"]
    lines.append(f"    {'':14}{'fills':>8}{'bought':>12}{'sold':>12}{'position':>12}{'P&L':>16}")
    for name, one in bounds.items():
        lines.append(
            f"    {name:14}{one['fills']:>8,}{one['bought']:>12}{one['sold']:>12}"
            f"{one['position']:>12}{one['pnl']:>16}"
        )
    return lines


def _budget_lines(budget: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if budget["per_minute"] is not None:
        lines.append(
            f"  requests   {budget['transactions']:,} sent, at most {budget['busiest_minute']:,} "
            f"in a minute of {budget['per_minute']:,} allowed"
        )
    if budget["volume_quota"] is not None:
        if budget["quota_exhausted_at"] is not None:
            told = f"EXHAUSTED at {budget['quota_exhausted_at']}"
        else:
            told = f"never exhausted (lowest {budget['quota_lowest']:,})"
        gone = budget["quota_gone_at_present_rate"]
        rate = f"at the last rate gone at {gone}" if gone else "at the last rate it lasts"
        lines.append(
            f"  quota      {budget['volume_quota']:,} at first, {budget['quota_spent']:,} spent, "
            f"{budget['quota_earned']:,} earned, {budget['quota_left']:,} left: {told}; {rate}"
        )
    return lines


def summary_lines(summary: dict[str, Any], settings: Settings) -> list[str]:
    """Tell a trader what a run did."""
    inputs, orders, fills = summary["inputs"], summary["orders"], summary["fills"]
    first, last = summary["first_ts"], summary["last_ts"]
    venue = summary["venue"]
    if summary["fill_model"]:
        venue += f", fills on {summary['fill_model']}"
    decisions = ", ".join(f"{n:,} {name}" for name, n in summary["decisions"].items()) or "none"
    statuses = ", ".join(f"{n:,} {name.lower()}" for name, n in orders.items() if name != "total")
    makers = ", ".join(f"{n:,} {name}" for name, n in fills.items() if name != "total")
    lines = [
        f"REPLAY  {summary['signal']} → {summary['target']}   preset {summary['preset']}, "
        f"venue {venue}",
        f"  session    {iso(first)} to {iso(last)}",
        f"  inputs     {inputs['signal']:,} signal and {inputs['target']:,} target quotes, "
        f"{inputs['account']:,} answers of the venue; {summary['ties']:,} ties between feeds",
        f"  quoting    {_quoting(settings)}, at most {format_units(settings.max_position)}",
        f"  decisions  {decisions}",
        f"  orders     {orders['total']:,}: {statuses}" if orders["total"] else "  orders     none",
        f"  fills      {fills['total']:,}: {makers}" if fills["total"] else "  fills      none",
        f"  traded     bought {summary['bought']}, sold {summary['sold']}; "
        f"position between {summary['max_short']} and {summary['max_long']}, "
        f"at the end {summary['position']}",
        f"  P&L        {summary['pnl']} after fees of {summary['fees']}: "
        f"realised {summary['realised']}, unrealised {summary['unrealised']} at {summary['mark']}",
    ]
    if summary["markouts"]:
        after = ", ".join(
            f"{mark['bps']:+.1f} bps after {horizon}"
            for horizon, mark in summary["markouts"].items()
            if mark["bps"] is not None
        )
        lines.append(f"  markouts   {after} (positive is good for us)")
    lines.append("             fills and P&L are of the fill model, not a promise")
    if summary["bounds"]:
        lines += _bounds_lines(summary["bounds"])
    if summary["budget"]:
        lines += _budget_lines(summary["budget"])
    withdrawn = summary["reasons"]
    if withdrawn:
        lines.append("  not quoted because")
        lines += [f"    {n:>9,}  {reason}" for reason, n in withdrawn.items()]
    if summary["anomalies"]:
        lines.append("  venue said, and it did not fit")
        lines += [f"    {n:>9,}  {what}" for what, n in summary["anomalies"].items()]
    lines += [
        f"  speed      {summary['events_per_second']:,} events/s, {summary['seconds']} s in all",
        f"  digest     {summary['digest']}",
        f"  run        {summary['run']}",
    ]
    return lines
