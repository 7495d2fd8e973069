"""From a question about a run (a time, an input, an order, an expression) to what it is about."""

from __future__ import annotations

import re
from typing import Any, Final

import polars as pl
from msgspec import Struct

from marblemaker.when import parse_when
from marblemaker.why_run import Row, RunFolder, WhyError
from streams.instant import iso
from streams.recording import did_you_mean

__all__ = ["Found", "find"]

_ORDER: Final = re.compile(r"(?:order\s*#?|#)\s*([0-9]+)", re.IGNORECASE)
_ACTING: Final = ("quote", "withdraw", "retract")


class Found(Struct):
    """What a question is about: a decision, or an instant at which there was none."""

    row: Row | None
    """The decision, of ``decisions.parquet``."""
    ts: int
    seq: int | None
    """The input, where one was named or the instant is its own."""
    note: str = ""
    order: int | None = None


def find(
    run: RunFolder, question: str | int | None, *, last: bool, where: str | None, nth: int
) -> Found:
    """Find what a question is about.

    Errors: WhyError, WhenError for times outside the run, unknown orders and bad expressions.
    """
    asked = sum((question is not None, last, where is not None))
    if asked != 1:
        raise WhyError(
            "ask one thing: a time, an input (seq N), an order (order N), --last, or --where EXPR"
        )
    if last:
        return _last(run)
    if where is not None:
        return _where(run, where, nth)
    assert question is not None
    if isinstance(question, int):
        return _at(run, question)
    if order := _ORDER.fullmatch(question.strip()):
        return _order(run, int(order[1]))
    when = parse_when(question, run.manifest, run.calendar)
    return _at(run, when.ts) if when.ts is not None else _input(run, when.seq or 0)


def _last(run: RunFolder) -> Found:
    scan = run.scan("decisions")
    assert scan is not None
    rows = scan.tail(1).collect().to_dicts()
    if not rows:
        raise WhyError(f"{run.folder} holds no decisions; ask about an instant to see why")
    return Found(rows[0], rows[0]["ts"], rows[0]["seq"])


def _where(run: RunFolder, where: str, nth: int) -> Found:
    scan = run.scan("decisions")
    assert scan is not None
    columns = scan.collect_schema().names()
    if nth < 1:
        raise WhyError(f"--nth counts from 1, was {nth}")
    try:
        found = (
            scan.with_row_index("row of decisions")
            .filter(pl.sql_expr(where))
            .select("row of decisions")
            .collect()
            .to_series()
        )
    except pl.exceptions.ColumnNotFoundError as error:
        named = re.search(r'"([^"]+)"', str(error))
        name = named[1] if named else str(error).splitlines()[0]
        raise WhyError(
            f"--where {where!r}: decisions have no column {name!r}{did_you_mean(name, columns)}; "
            f"they have {', '.join(columns)}"
        ) from None
    except pl.exceptions.PolarsError as error:
        raise WhyError(
            f"--where {where!r} is no condition on decisions ({str(error).splitlines()[0]}); write "
            f"an SQL expression such as \"action = 'withdraw' and position > 0\""
        ) from None
    if not len(found):
        raise WhyError(f"--where {where!r}: no decision of {run.folder} is so; loosen it")
    if nth > len(found):
        raise WhyError(f"--where {where!r}: only {len(found)} decisions are so, --nth was {nth}")
    rows = scan.slice(int(found[nth - 1]), 1).collect().to_dicts()
    note = f"match {nth} of {len(found):,} of {where}"
    return Found(rows[0], rows[0]["ts"], rows[0]["seq"], note)


def _at(run: RunFolder, ts: int) -> Found:
    first, end = run.manifest.first_ts, run.manifest.last_ts
    if first is None or end is None:
        raise WhyError(f"{run.folder} has no inputs, so nothing was decided")
    final = run.scan("decisions")
    assert final is not None
    latest = final.select("ts").tail(1).collect().to_series().to_list()
    end = max(end, *latest) if latest else end
    if not first <= ts <= end:
        raise WhyError(f"{iso(ts)} is outside the run, which went from {iso(first)} to {iso(end)}")
    rows = run.last("decisions", "ts", ts)
    return Found(rows[0] if rows else None, ts, None)


def _input(run: RunFolder, seq: int) -> Found:
    found = run.input_row(seq)
    if found is None:
        raise WhyError(
            f"seq {seq} is no input of the run, which has {run.first_seq} to {run.last_seq}; an "
            f'order is asked for with "order {seq}"'
        )
    rows = run.rows("decisions", pl.col("seq") == seq)
    name, row = found
    if not rows:
        return Found(None, row["ts"], seq, f"seq {seq} is of {name}; no decision was made from it")
    best = next((one for one in rows if one["ts"] == row["ts"]), rows[0])
    others = [one for one in rows if one is not best]
    note = ""
    if others:
        note = "from this input also: " + ", ".join(
            f"{one['action']} at {iso(one['ts'])[11:]}" for one in others
        )
    return Found(best, best["ts"], seq, note)


def _order(run: RunFolder, n: int) -> Found:
    rows = run.rows("orders", pl.col("n") == n)
    if not rows:
        scan = run.scan("orders")
        count: Any = 0 if scan is None else scan.select(pl.len()).collect().item()
        raise WhyError(f"order {n} is not in the run, which sent {count:,} orders, numbered from 1")
    order = rows[0]
    if order["px"] is None:
        raise WhyError(
            f"order {n} was a market order that closed the position on a stop at "
            f"{iso(order['ts'])}; no decision sent it"
        )
    created = run.rows("trace/orders", pl.col("n") == n, pl.col("ts") == order["ts"])
    px, side = (created[0] if created else order)["px"], order["side"]
    name = "bid" if side == "BUY" else "ask"
    before = run.last(
        "decisions", "ts", order["ts"], pl.col("action").is_in(list(_ACTING)), count=64
    )
    if not before:
        raise WhyError(f"order {n} was sent at {iso(order['ts'])}, before the first decision")
    wants = [row for row in before if px in _levels(row, name)]
    row = wants[-1] if wants else before[-1]
    note = f"order {n}: {side} {'' if wants else '(not at a price of this decision) '}"
    later = order["ts"] - row["ts"]
    if later:
        note += f"sent {later} ns after it, when the venue's answers had made room"
    else:
        note += "sent by it"
    return Found(row, row["ts"], row["seq"], note, n)


def _levels(row: Row, side: str) -> list[int]:
    px = row[f"{side}_px"]
    if px is None:
        return []
    step = row["level_step"] * (-1 if side == "bid" else 1)
    return [px + i * step for i in range(max(row[f"{side}_levels"], 1))]
