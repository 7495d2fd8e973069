"""Why: what led to one decision of a run, or to none, and what would have changed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from msgspec.structs import astuple

from marblemaker.formulas import (
    Formula,
    baseline_formula,
    formulas,
    mid_formula,
    residual_formula,
)
from marblemaker.why_ask import Found, find
from marblemaker.why_flips import flips
from marblemaker.why_judged import margins, verdicts
from marblemaker.why_orders import Moment, last_fill
from marblemaker.why_parts import (
    feed_use,
    feeds_of,
    requote_of,
    sent_of,
    throttle_of,
    working_of,
)
from marblemaker.why_past import made_at, situation_of
from marblemaker.why_run import Row, RunFolder, WhyError, as_quote
from marblemaker.why_silence import reasons_of
from marblemaker.why_situation import Evaluator, Outcome, Situation
from marblemaker.why_told import Explanation, OrderUse
from sinks.journal import DECISIONS_SCHEMA
from streams.events import Decision, Residual
from streams.instant import iso
from streams.instrument import format_units

__all__ = ["Explanation", "WhyError", "explain"]


def explain(
    run: Path | str,
    question: str | int | None = None,
    *,
    last: bool = False,
    where: str | None = None,
    nth: int = 1,
    absent: bool = False,
) -> Explanation:
    """Explain a decision of a run, or with ``absent`` why there was no (new) quote.

    ``question``: a time (``marblemaker.when``; an int is ns since the Unix epoch) stands for the
    decision in force then, ``"seq 81234"`` for the one made from that input, ``"order 17"`` for the
    one that sent that order. ``last``: the last decision. ``where``: the first (``nth``) decision
    for which an SQL expression over the columns of ``decisions.parquet`` holds.

    Errors: WhyError, WhenError for what the run has no answer to; RecordingError if it is no run.
    """
    folder = RunFolder(Path(run))
    found = find(folder, question, last=last, where=where, nth=nth)
    asked = str(question) if question is not None else (where if where is not None else "--last")
    if absent or found.row is None:
        return _silence(folder, found, asked)
    return _decision(folder, found, found.row, asked)


def _new(run: RunFolder, asked: str, ts: int, seq: int | None, **fields: Any) -> Explanation:
    s = run.settings
    return Explanation(
        run=str(run.folder), mode=run.manifest.mode, signal=s.signal.instrument,
        target=s.target.instrument, preset=s.strategy.preset, question=asked, ts=ts, at=iso(ts),
        seq=seq, **fields,
    )  # fmt: skip


# ---------------------------------------------------------------- a decision


def _decision(run: RunFolder, found: Found, row: Row, asked: str) -> Explanation:
    e = _new(
        run, asked, row["ts"], row["seq"], kind=_kind_of(row), decision=row, trigger="a timer",
        notes=[found.note] if found.note else [], position=row["position"],
    )  # fmt: skip
    if not run.has_trace:
        return _without_trace(run, e, row)
    at, made = made_at(run, row)
    released = row["ts"] if row["reason"] == "throttle released" else None
    s, notes = situation_of(run, at, made=made, released_ns=released)
    e.notes += notes
    evaluator = Evaluator(run.parameters, s)
    outcome = evaluator.evaluate()
    e.checked = any(_same(row, made_row) for made_row in outcome.rows)
    e.trigger = _trigger(at, released)
    e.formulas = _formulas(run, s, row)
    _common(run, e, at, s, outcome, row["ts"])
    now = at if released is None else Moment(row["seq"], row["ts"], None)
    e.throttle = throttle_of(run, now, s, evaluator, row)
    e.sent = sent_of(run, now, row)
    book = s.target.quote
    if book is not None and row["target_bid_px"] is not None and run.parameters.anchor_without_own:
        left = tuple(format_units(row[f"target_{side}_px"]) for side in ("bid", "ask"))
        e.notes.append(f"without our own quotes the target's book was {left[0]} / {left[1]}")
    if e.checked:
        _flips(run, e, evaluator)
        if released is not None:
            e.notes.append("it was held back: flips are of the input that it was made from")
    return e


def _common(
    run: RunFolder, e: Explanation, at: Moment, s: Situation, outcome: Outcome, now: int
) -> None:
    e.feeds = feeds_of(s, now)
    e.guards = verdicts(run, s, outcome)
    e.requote = requote_of(run, at, s, outcome)
    e.working = working_of(run, at)
    e.margins = margins(run, s)
    if e.position is None:
        e.position = s.inventory.position
    told = last_fill(run, at)
    if told is not None:
        fill, order = told
        e.last_fill = OrderUse(
            n=order["n"], side=order["side"], px=fill["px"], qty=order["qty"], state="filled",
            filled=fill["qty"], ts_last=fill["ts"],
        )  # fmt: skip


def _flips(run: RunFolder, e: Explanation, evaluator: Evaluator) -> None:
    settings = run.settings
    e.flips = flips(evaluator, settings.signal_instruments, settings.target_instrument)


def _kind_of(row: Row) -> str:
    if row["action"] == "quote":
        lone = {(True, False): "quote the ask alone", (False, True): "quote the bid alone"}
        return lone.get((row["bid_px"] is None, row["ask_px"] is None), "quote both sides")
    return f"{row['action']}: {row['reason']}"


def _same(row: Row, made: Decision) -> bool:
    """Tell whether a decision is the recorded one, bit for bit; ``unmoved`` only counts."""
    again = dict(zip(DECISIONS_SCHEMA, astuple(made), strict=True))
    return all(
        again[name] == value and repr(again[name]) == repr(value)
        for name, value in row.items()
        if name != "unmoved"
    )


def _trigger(at: Moment, released: int | None) -> str:
    by = f"a quote of {at.trigger}" if at.trigger else "a timer, a command or one of our orders"
    if released is None:
        return by
    return f"the throttle's timer; made at {iso(at.ts)} from {by}"


def _formulas(run: RunFolder, s: Situation, row: Row) -> list[Formula]:
    """Those of the row, and before them those of the signals, which need their books."""
    settings, found = run.settings, list[Formula]()
    told = formulas(row, settings, residuals=_residuals(s))
    if not told or row["signal_seq"] is None:
        return told
    tutorial, ewma = (
        run.parameters.preset == "tutorial",
        settings.strategy.signal_baseline == "ewma",
    )
    for past in s.signals:
        quote, value = past.quote, past.emitted
        if quote is None or type(value) is not Residual or value.seq != quote.seq:
            continue
        assert quote.bid_px is not None
        assert quote.ask_px is not None
        found.append(mid_formula(f"{past.name} mid", quote.bid_px, quote.ask_px, tutorial=tutorial))
        if ewma and past.previous is not None:
            ts, mid, level = past.previous
            half_life_ns = round(settings.strategy.baseline_half_life_secs * 10**9)
            found.append(
                baseline_formula(f"{past.name} baseline", level, mid, quote.ts - ts, half_life_ns)
            )
        if len(s.signals) > 1:
            found.append(residual_formula(f"{past.name} residual", value.mid, value.baseline))
    return found + told


def _residuals(s: Situation) -> list[float]:
    values = [past.emitted.residual for past in s.signals if type(past.emitted) is Residual]
    return values if len(values) == len(s.signals) else []


# ---------------------------------------------------------------- silence


def _silence(run: RunFolder, found: Found, asked: str) -> Explanation:
    """Why there was no (new) quote at an instant, or from an input."""
    entry = run.input_row(found.seq) if found.seq is not None else run.input_before(found.ts)
    assert entry is not None
    name, raw = entry
    seq = raw["seq"]
    before = run.last("decisions", "ts", found.ts, pl.col("seq") <= seq)
    e = _new(
        run, asked, found.ts, seq, kind="", decision=None, in_force=before[0] if before else None,
        trigger=f"a quote of {name}" if name in (*run.signals, "target") else f"an input ({name})",
        notes=[found.note] if found.note else [],
    )  # fmt: skip
    if not run.has_trace:
        e.kind = "nothing new"
        return _without_trace(run, e, e.in_force)
    is_quote = name in (*run.signals, "target")
    if not is_quote:
        e.notes.append(f"seq {seq} is no quote ({name}): states come from quotes and timers")
    quotes = [run.quote(one, seq) for one in (*run.signals, "target")]
    latest = max((q for q in quotes if q is not None), key=lambda q: q.seq, default=None)
    if latest is None:
        e.kind, e.silence = "nothing new: nothing was heard", ["neither feed had said anything"]
        return e
    feed = next(
        one
        for one, q in zip((*run.signals, "target"), quotes, strict=True)
        if q is not None and q.seq == latest.seq
    )
    at = Moment(latest.seq, latest.ts, feed)
    rows = run.rows("trace/wanted", pl.col("seq") == at.seq, pl.col("ts") == at.ts)
    made, released = rows[0] if rows else None, None
    later = before[0] if before and before[0]["ts"] > at.ts else None
    if later is not None:
        # A timer, a command or an order of ours had the last word.
        at, made = made_at(run, later)
        released = later["ts"] if later["reason"] == "throttle released" else None
        e.trigger = _trigger(at, released)
    s, notes = situation_of(run, at, made=made, released_ns=released)
    e.notes += notes
    evaluator = Evaluator(run.parameters, s)
    outcome = evaluator.evaluate()
    e.kind = outcome.kind
    when = at.ts if released is None else released
    recorded = run.rows("decisions", pl.col("seq") == at.seq, pl.col("ts") == when)
    # What a timer made of the same quotes at the same instant comes behind.
    e.checked = len(recorded) >= len(outcome.rows) and all(
        _same(row, one) for row, one in zip(recorded, outcome.rows, strict=False)
    )
    if not outcome.rows and recorded and recorded[0]["action"] in ("quote", "hold", "refuse"):
        e.checked = False
    if later is not None:
        e.checked = any(_same(later, one) for one in outcome.rows)
    quota = run.parameters.budget is not None and run.parameters.budget.volume_quota is not None
    if not e.checked and quota and not recorded and later is None:
        e.kind, e.checked = "nothing new: below the threshold, which a low quota had widened", None
        e.notes.append("no flips are told: how far it had been widened hangs on the whole past")
    _common(run, e, at, s, outcome, found.ts)
    e.throttle = throttle_of(run, at, s, evaluator, recorded[0] if recorded else None)
    e.silence = reasons_of(run, found, at, s, outcome, evaluator, e)
    if e.checked:
        _flips(run, e, evaluator)
    return e


# ---------------------------------------------------------------- runs of earlier versions


def _without_trace(run: RunFolder, e: Explanation, row: Row | None) -> Explanation:
    """What decisions, inputs and orders tell by themselves."""
    e.notes.append(
        "this run has no trace/: guards, what was held and flips are not told; replay it "
        f"(marble replay {run.folder}) and ask the new run"
    )
    if row is None:
        return e
    e.formulas = formulas(row, run.settings)
    for name, seq in (("signal", row["signal_seq"]), ("target", row["target_seq"])):
        rows = [] if seq is None else run.rows(name, pl.col("seq") == seq)
        if rows:
            quote = as_quote(rows[0])
            use = feed_use(name, quote, row["ts"], quote.seq == row["seq"])
            use.mid = row[f"{name}_mid"]
            if name == "signal":
                use.baseline, use.residual = row["baseline"], row["residual"]
            else:
                use.anchor = row["anchor"]
            e.feeds.append(use)
    orders = run.rows("orders", pl.col("ts") == row["ts"])
    e.sent = [
        OrderUse(
            n=order["n"], side=order["side"], px=order["px"], qty=order["qty"], state="",
            asked="create", status=order["status"], filled=order["filled"],
            ts_last=order["ts_last"],
        )
        for order in orders
    ]  # fmt: skip
    return e
