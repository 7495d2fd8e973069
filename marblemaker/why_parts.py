"""The parts of an explanation: feeds, requote, throttle and orders at one moment."""

from __future__ import annotations

import polars as pl

from marblemaker.formulas import Formula, number
from marblemaker.why_orders import Moment, fate_of, sent_by, working_before
from marblemaker.why_past import made_at, refusal_of, resets_since, rows_before
from marblemaker.why_run import Row, RunFolder
from marblemaker.why_situation import Evaluator, Outcome, Situation
from marblemaker.why_told import FeedUse, OrderUse, Requote, Throttle
from operators.throttle import release_ns
from streams.events import SIDE_NAMES, Anchor, Quote, Refusal, Residual
from streams.instant import iso

__all__ = ["feed_use", "feeds_of", "requote_of", "sent_of", "throttle_of", "working_of"]


def feeds_of(s: Situation, now: int) -> list[FeedUse]:
    """The latest quote of each feed, and what came of it."""
    found = []
    for past in (*s.signals, s.target):
        quote = past.quote
        if quote is None:
            continue
        use = feed_use(past.name, quote, now, past.name == s.trigger)
        value = past.emitted
        if type(value) is Residual:
            use.mid, use.baseline, use.residual = value.mid, value.baseline, value.residual
        elif type(value) is Anchor:
            use.mid, use.anchor = value.mid, value.price
        elif type(value) is Refusal:
            use.refused = value.reason
        found.append(use)
    return found


def feed_use(name: str, quote: Quote, now: int, triggered: bool) -> FeedUse:
    """A feed's quote at an instant, ns."""
    event = quote.ts_event
    return FeedUse(
        name=name, seq=quote.seq, ts=quote.ts, ts_event=event, age_ns=now - quote.ts,
        event_age_ns=None if event is None else now - event, bid_px=quote.bid_px,
        ask_px=quote.ask_px, bid_sz=quote.bid_sz, ask_sz=quote.ask_sz, triggered=triggered,
    )  # fmt: skip


# ---------------------------------------------------------------- requote


def requote_of(run: RunFolder, at: Moment, s: Situation, outcome: Outcome) -> Requote | None:
    """Why the state of a moment was worth new orders, or not; ``None`` if it was refused."""
    signal, anchor = outcome.state
    p = run.parameters
    bps = p.requote_threshold_bps if s.threshold_bps is None else s.threshold_bps
    if type(signal) is not Residual or type(anchor) is not Anchor:
        return None
    r = Requote(text="", threshold_bps=bps)
    quotes = rows_before(run, "trace/wanted", at, pl.col("action") == "quote", count=1)
    if not quotes:
        r.text = "let through: never quoted before"
        return r
    last = quotes[0]
    r.last_seq, r.last_ts = last["seq"], last["ts"]
    was, before = last["anchor"], last["residual"]
    r.anchor_bps = abs(anchor.price - was) / was * 10_000.0 if was else None
    if p.signal_skew_factor and anchor.price:
        impact = abs(signal.residual - before) * abs(p.signal_skew_factor) / anchor.price
        r.signal_bps = impact * 10_000.0
    r.formulas = _moves(anchor.price, was, signal.residual, before, p.signal_skew_factor)
    text = _void(run, at, s)
    if text:
        r.text = f"let through: {text}"
    elif not s.inventory.working:
        r.text = "let through: no order of ours was open or in flight"
    elif anchor.widening != s.last_widening:
        r.text = f"let through: the half-spread is now × {anchor.widening}"
    else:
        told = []
        if r.anchor_bps is not None:
            told.append(f"anchor moved {r.anchor_bps:.4f} of {bps:g} bps")
        if r.signal_bps is not None:
            told.append(f"signal impact {r.signal_bps:.4f} of {bps:g} bps")
        through = not outcome.kind.endswith("below the threshold")
        r.text = ("let through: " if through else "below the threshold: ") + ", ".join(told)
    if bps > p.requote_threshold_bps:
        r.text += f" (widened from {p.requote_threshold_bps:g} bps: a budget is low)"
    return r


def _moves(
    price: float, was: float, residual: float, before: float, factor: float
) -> list[Formula]:
    found = []
    if was:
        move = abs(price - was) / was
        left = f"abs({number(price)} − {number(was)}) / {number(was)}"
        found.append(Formula("anchor move", f"{left} = {number(move)}", move))
    if factor and price:
        move = abs(residual - before) * abs(factor) / price
        left = f"abs({number(residual)} − {number(before)}) × {number(abs(factor))} / "
        left += number(price)
        found.append(Formula("signal move", f"{left} = {number(move)}", move))
    return found


def _void(run: RunFolder, at: Moment, s: Situation) -> str:
    """Why the last quote no longer stands, if it does not."""
    if s.quoted:
        return ""
    latest = rows_before(run, "trace/wanted", at, pl.col("anchor").is_null(), count=1)
    quotes = rows_before(run, "trace/wanted", at, pl.col("action") == "quote", count=1)
    if latest and quotes and latest[0]["seq"] >= quotes[0]["seq"] and refusal_of(latest[0]):
        row = latest[0]
        return f"withdrawn since the last quote, at {iso(row['ts'])} ({row['reason']})"
    ended = resets_since(run, quotes, at)
    if ended:
        return f"the last quote was void, order {ended[-1].n} was {ended[-1].state}"
    return "the last quote was void"


# ---------------------------------------------------------------- throttle


def throttle_of(
    run: RunFolder, at: Moment, s: Situation, evaluator: Evaluator, row: Row | None
) -> Throttle | None:
    """What the throttle held back before; ``None`` where there is none."""
    p = run.parameters
    if not p.min_interval_ns and p.budget is None:
        return None
    t = Throttle(text="", interval_ns=p.min_interval_ns)
    quotes = rows_before(run, "decisions", at, pl.col("action") == "quote", count=1)
    since = quotes[0]["ts"] if quotes else (run.manifest.first_ts or 0) - 1
    t.last_ns = quotes[0]["ts"] if quotes else None
    held = pl.col("action") == "hold"
    holds = run.rows("decisions", pl.col("ts") >= since, pl.col("ts") <= at.ts, held)
    seq = quotes[0]["seq"] if quotes else 0
    holds = [one for one in holds if one["seq"] > seq and one["seq"] <= at.seq]
    if row is not None and row["action"] == "hold":
        holds = [one for one in holds if (one["seq"], one["ts"]) != (row["seq"], row["ts"])]
    t.holds = len(holds)
    t.held_since_ns = holds[0]["ts"] if holds else None
    t.released = row is not None and row["reason"] == "throttle released"
    waits = f"{t.holds} held back since {iso(holds[0]['ts'])}" if holds else "nothing held back"
    t.text = f"{waits} since the last target"
    if holds:
        t.text = f"{t.holds} held back since the last target, the first at {iso(holds[0]['ts'])}"
    if t.released:
        t.text += "; this one was let go by its timer"
        t.due_ns = at.ts
    elif row is not None and row["action"] == "hold":
        by_time = t.last_ns is not None and release_ns(t.last_ns, p.min_interval_ns) > at.ts
        t.due_ns = evaluator.due_ns if by_time or p.budget is None else None
        t.text += f"; this one was held, by the {row['reason']}"
    elif t.last_ns is not None:
        t.due_ns = release_ns(t.last_ns, p.min_interval_ns)
    return t


# ---------------------------------------------------------------- orders


def working_of(run: RunFolder, at: Moment) -> list[OrderUse]:
    """What was open or in flight before a moment."""
    return [
        OrderUse(
            n=update.n, side=SIDE_NAMES[update.side], px=update.px, qty=update.leaves,
            state=update.state,
        )
        for update in working_before(run, at)
    ]  # fmt: skip


def sent_of(run: RunFolder, at: Moment, row: Row) -> list[OrderUse]:
    """What a decision had sent until the next one, and what became of it."""
    if row["action"] not in ("quote", "withdraw", "retract"):
        return []
    acting = pl.col("action").is_in(["quote", "withdraw", "retract"])
    after = run.first("decisions", "ts", row["ts"], acting)
    same = run.rows("decisions", pl.col("ts") == row["ts"], pl.col("seq") > row["seq"], acting)
    following = [*same, *after]
    until = None
    if following:
        until = made_at(run, following[0])[0]
        if following[0]["ts"] != until.ts:
            until = Moment(following[0]["seq"], following[0]["ts"], None)
    updates = sent_by(run, at, until)
    fates = fate_of(run, sorted({update.n for update in updates}))
    asked = {"pending_new": "create", "pending_cancel": "cancel", "pending_modify": "modify"}
    found = []
    for update in updates:
        fate = fates.get(update.n)
        found.append(
            OrderUse(
                n=update.n, side=SIDE_NAMES[update.side], px=update.px, qty=update.leaves,
                state=update.state, asked=asked.get(update.state, update.state),
                status=None if fate is None else fate["status"],
                filled=None if fate is None else fate["filled"],
                ts_last=None if fate is None else fate["ts_last"],
            )
        )  # fmt: skip
    return found
