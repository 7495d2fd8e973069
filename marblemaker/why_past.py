"""The past of one moment of a run: what every operator remembered, read from a few rows of it."""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from marblemaker.why_orders import Moment, inventory_before, resets_between, updates_before
from marblemaker.why_run import Row, RunFolder, as_quote, books
from marblemaker.why_situation import FeedPast, Situation
from operators.budget import MINUTE_NS, Budget
from operators.guards.collar import believed
from operators.guards.schedule import NEVER_NS
from operators.mid import mid_price
from operators.requote import widened_bps
from streams.events import Anchor, Decision, OrderUpdate, Refusal, Residual
from streams.instrument import marked_pnl

__all__ = ["made_at", "moment_of", "situation_of"]

_SOURCES: Final = ("signal", "target", "session", "basis", "risk", "kill switch")
_FEEDS: Final = ("signal", "target")
_BOOKS: Final = (64, 4_096, 65_536)


def moment_of(run: RunFolder, row: Row) -> Moment:
    """When a row of ``decisions`` or ``trace/wanted`` came about, and by which feed's quote."""
    seq, ts = row["seq"], row["ts"]
    if not row["reason"].startswith(("risk ", "kill switch ")):
        for name in (*run.signals, "target"):
            if run.rows(name, pl.col("seq") == seq, pl.col("ts") == ts):
                return Moment(seq, ts, name)
    return Moment(seq, ts, None)


def made_at(run: RunFolder, row: Row) -> tuple[Moment, Row | None]:
    """When the target of a decision was made, and the row that requote let through.

    For what the throttle released that is earlier than the decision.
    """
    wanted = run.rows("trace/wanted", pl.col("seq") == row["seq"], pl.col("ts") <= row["ts"])
    if not wanted or row["action"] == "refuse":
        return moment_of(run, row), None
    same = [one for one in wanted if one["ts"] == row["ts"] and one["action"] == row["action"]]
    made = same[-1] if same else wanted[-1]
    return moment_of(run, made), made


def rows_before(
    run: RunFolder, name: str, at: Moment, *conditions: pl.Expr, count: int
) -> list[Row]:
    """The last rows of ``decisions`` or ``trace/wanted`` from before a moment."""

    def is_before(row: Row) -> bool:
        if at.trigger is not None:
            return bool(row["seq"] < at.seq)
        return bool((row["ts"], row["seq"]) < (at.ts, at.seq))

    rows = [row for row in run.last(name, "ts", at.ts, *conditions, count=count + 8)]
    same = [row for row in rows if row["ts"] == at.ts and row["seq"] == at.seq]
    found = [row for row in rows if is_before(row)]
    if at.trigger is None and len(same) > 1:
        found += same[:-1]
    if len(found) < count:
        earlier = run.last(name, "ts", at.ts - 1, *conditions, count=count)
        found = [row for row in earlier if row["ts"] < at.ts and row["seq"] <= at.seq] + [
            row for row in found if row["ts"] == at.ts
        ]
    return found[-count:]


def situation_of(
    run: RunFolder, at: Moment, *, made: Row | None = None, released_ns: int | None = None
) -> tuple[Situation, list[str]]:
    """All that an evaluation depended on, and what could not be found out.

    ``made`` is what requote let through then, if anything.
    """
    p, notes = run.parameters, list[str]()
    signals = [feed_past(run, name, at, i) for i, name in enumerate(run.signals)]
    target = feed_past(run, "target", at, 0)
    if p.anchor_without_own:
        target.known = False
        notes.append("target: our own quotes were taken out of its book, its flips are not told")
    risk = p.guards.risk
    money = risk is not None and risk.max_loss is not None
    inventory, rejects = inventory_before(run, at, money=money)
    s = Situation(
        now=at.ts, signals=signals, target=target, trigger=at.trigger, inventory=inventory,
        rejects=rejects, released_ns=released_ns,
    )  # fmt: skip
    _of_requote(run, at, s)
    _of_throttle(run, at, s)
    _of_guards(run, at, s, made)
    if risk is not None and (money or risk.max_notional is not None):
        sound = run.last("trace/target", "seq", at.seq, pl.col("mid").is_not_null())
        if sound:
            s.mark = (sound[0]["bid_px"] + sound[0]["ask_px"]) // 2
    if money:
        s.pnl_at_open = _pnl_at_open(run, at)
    if p.budget is not None:
        _of_budget(run, at, s, made, notes)
    return s, notes


# ---------------------------------------------------------------- feeds


def feed_past(run: RunFolder, name: str, at: Moment, i: int) -> FeedPast:
    """What a feed's chain remembered when its latest quote came."""
    p, g = run.parameters, run.parameters.guards
    past = FeedPast(name, quote=run.quote(name, at.seq))
    if past.quote is not None and past.quote.ts > at.ts:
        past.quote = next(iter(map(as_quote, run.last(name, "ts", at.ts))), None)
    if past.quote is None:
        return past
    trace, seq = f"trace/{name}", past.quote.seq
    emitted = run.last(trace, "seq", at.seq, pl.col("ts") <= at.ts)
    if not emitted and p.preset != "tutorial":
        past.known = False
        return past
    accepted = run.last(trace, "seq", seq - 1, pl.col("mid").is_not_null())
    since = accepted[0]["seq"] if accepted else 0
    if accepted:
        past.accepted = past.before = accepted[0]["mid"]
        if g.split_break_ns is not None:
            past.judge_from = accepted[0]["ts"] + g.split_break_ns
    elif p.set_baseline is not None:
        past.before = p.set_baseline
    if g.collar_bps is not None:
        _follow_collar(run, past, trace, since)
    if name != "target":
        measure = p.baselines[i]()
        if accepted:
            # Twice: an average moves to the mid that held, at the same instant by nothing.
            ts, level = accepted[0]["ts"], accepted[0]["baseline"]
            past.previous = ts, accepted[0]["mid"], level
            measure(ts, level)
            measure(ts, accepted[0]["mid"])
        level = measure(past.quote.ts, 1.0)
        own = level == 1.0 and (not accepted or accepted[0]["baseline"] != 1.0)
        past.measure = (lambda ts, mid: mid) if own else (lambda ts, mid: level)
    if g.frozen_ns is not None:
        _remember_book(run, past)
    if emitted:
        past.emitted = _emitted(run, past, emitted[0], name)
    return past


def _follow_collar(run: RunFolder, past: FeedPast, trace: str, since: int) -> None:
    """Follow the refusals since the last mid that was believed: a level may wait."""
    g, quote = run.parameters.guards, past.quote
    assert quote is not None
    assert g.collar_bps is not None
    waiting = pl.col("reason").is_in(["jump not confirmed", "looks like a split"])
    rows = run.rows(trace, (pl.col("seq") > since) & (pl.col("seq") < quote.seq), waiting)
    if not rows:
        return
    raw = {one.seq: one for one in run.quotes(past.name, rows[0]["seq"] - 1, quote.seq - 1)}
    for row in rows:
        one = raw[row["seq"]]
        assert one.bid_px is not None
        assert one.ask_px is not None
        value = mid_price(one.bid_px, one.ask_px)
        if row["reason"] == "looks like a split":
            past.accepted, past.candidate = value, 0.0
            continue
        _, past.candidate, past.since = believed(
            value, one.ts, past.accepted, past.candidate, past.since,
            g.collar_bps, g.collar_confirm_ns,
        )  # fmt: skip


def _remember_book(run: RunFolder, past: FeedPast) -> None:
    """Find the book before, and since when it had been that."""
    quote = past.quote
    assert quote is not None
    for count in _BOOKS:
        before = [
            as_quote(row)
            for row in run.last(
                past.name, "seq", quote.seq - 1, _in_time(run, past.name), count=count
            )
        ]
        if not before:
            return
        all_books = books(before)
        past.book_before = all_books[-1]
        start = len(before)
        while start and all_books[start - 1] == past.book_before:
            start -= 1
        if start or len(before) < count:
            past.book_since = before[start].ts
            return
    past.book_since = before[0].ts


def _in_time(run: RunFolder, name: str) -> pl.Expr:
    """Rows that the event-time guard lets through: they never reach the one for frozen books."""
    g = run.parameters.guards
    behind = g.max_target_behind_ns if name == "target" else g.max_signal_behind_ns
    ahead_by = pl.col("ts_event") - pl.col("ts")
    sound = pl.lit(True)
    if g.max_ahead_ns is not None:
        sound = sound & (ahead_by <= g.max_ahead_ns)
    if behind is not None:
        snapshot = (pl.col("flags").cast(pl.Int64) // 32 % 2 == 1) & (ahead_by <= 0)
        sound = sound & ((ahead_by >= -behind) | snapshot)
    return pl.col("ts_event").is_null() | sound


def _emitted(run: RunFolder, past: FeedPast, row: Row, name: str) -> Any:
    if row["by"] is None:
        if name != "target":
            return Residual(row["seq"], row["ts"], row["mid"], row["baseline"], row["residual"])
        return Anchor(
            row["seq"], row["ts"], row["mid"], row["anchor"], row["bid_px"], row["ask_px"]
        )
    refusal = Refusal(
        row["seq"], row["ts"], row["by"], row["reason"], value=row["value"], limit=row["limit"]
    )
    if row["reason"] in ("quiet", "dead", "disconnected"):
        return refusal
    quote = run.quote(name, row["seq"])
    if quote is None or quote.seq != row["seq"]:
        return refusal
    sizes: tuple[Any, Any] = (quote.bid_sz, quote.ask_sz)
    if row["reason"] in ("jump not confirmed", "looks like a split"):
        sizes = (None, None)
    return Refusal(
        row["seq"], row["ts"], row["by"], row["reason"], quote.bid_px, quote.ask_px, *sizes,
        row["value"], row["limit"],
    )  # fmt: skip


# ---------------------------------------------------------------- requote and throttle


def as_decision(row: Row) -> Decision:
    """A row as the event that it was."""
    return Decision(**row)


def refusal_of(row: Row) -> tuple[str, str, int] | None:
    """Who refused, why, and which quote, of a row that a refusal led to."""
    if row["action"] != "withdraw" or row["anchor"] is not None:
        return None
    by = next(one for one in _SOURCES if row["reason"].startswith(f"{one} "))
    seq = (row["signal_seq"] or row["target_seq"] or 0) if by in _FEEDS else 0
    return by, row["reason"].removeprefix(f"{by} "), seq


def _widening(run: RunFolder, ts: int) -> float:
    g = run.parameters.guards
    if g.schedule is None or g.outside != "widen" or g.schedule.is_open(ts):
        return 1.0
    return g.widening


def _of_requote(run: RunFolder, at: Moment, s: Situation) -> None:
    marks = (pl.col("action") == "quote") | pl.col("anchor").is_null()
    standing = rows_before(run, "trace/wanted", at, marks, count=1)
    latest = rows_before(run, "trace/wanted", at, count=1)
    if latest:
        s.last_refusal = refusal_of(latest[0])
        if s.last_refusal is None:
            s.last_target = as_decision(latest[0])
    if not standing or standing[0]["action"] != "quote":
        s.last_target = s.last_target if not resets_since(run, latest, at) else None
        return
    row = standing[0]
    s.last_anchor, s.last_residual = row["anchor"], row["residual"]
    s.last_widening = _widening(run, latest[0]["ts"])
    s.quoted = True
    if resets_since(run, [row], at):
        s.quoted = False
    if resets_since(run, latest, at):
        s.last_target = None


def resets_since(run: RunFolder, rows: list[Row], at: Moment) -> list[OrderUpdate]:
    """Orders whose end made the last quote void since a row."""
    return resets_between(run, moment_of(run, rows[0]), at) if rows else []


def _of_throttle(run: RunFolder, at: Moment, s: Situation) -> None:
    p = run.parameters
    if not p.min_interval_ns and p.budget is None:
        return
    quotes = rows_before(run, "decisions", at, pl.col("action") == "quote", count=1)
    if quotes:
        s.last_ns = quotes[0]["ts"]
    acts = pl.col("action").is_in(["quote", "retract", "withdraw"])
    latest = rows_before(run, "decisions", at, acts, count=1)
    if latest and latest[0]["action"] != "withdraw":
        s.sent = as_decision(latest[0])
    wanted = rows_before(run, "trace/wanted", at, count=1)
    if wanted and wanted[0]["action"] == "quote":
        last_sent = quotes[0]["seq"] if quotes else 0
        if wanted[0]["seq"] > last_sent:
            s.held = as_decision(wanted[0])


# ---------------------------------------------------------------- guards on both, budget


def _of_guards(run: RunFolder, at: Moment, s: Situation, made: Row | None) -> None:
    p = run.parameters
    told = "" if made is None else made["reason"]
    if told.startswith("kill switch "):
        s.killed = told.removeprefix("kill switch ")
    else:
        before = pl.col("seq") < at.seq if at.trigger is not None else pl.col("ts") <= at.ts
        orders = run.last(
            "status", "ts", at.ts, pl.col("source") == "operator",
            pl.col("kind").is_in(["kill", "release"]), before,
        )  # fmt: skip
        if orders and orders[0]["kind"] == "kill":
            s.killed = orders[0]["text"] or "on"
    latest = rows_before(run, "trace/wanted", at, count=1)
    refusal = refusal_of(latest[0]) if latest else None
    limits = p.guards.risk
    if limits is not None and refusal is not None and refusal[0] == "risk":
        row = latest[0]
        until = row["ts"] + limits.cooldown_ns
        if refusal[1] == "loss beyond the limit":
            until = max(until, _next_open(run, row["ts"]))
        if at.ts < until:
            s.tripped = refusal[1], row["refused_value"], row["refused_limit"]


def _next_open(run: RunFolder, ts: int) -> int:
    schedule = run.parameters.guards.schedule
    if schedule is None:
        return NEVER_NS
    edge = schedule.next_edge(ts)
    while edge < NEVER_NS and not schedule.is_open(edge):
        edge = schedule.next_edge(edge)
    return edge


def _pnl_at_open(run: RunFolder, at: Moment) -> int:
    """Profit up to the open of the session, or to the first target of the run."""
    schedule = run.parameters.guards.schedule
    opened = 0 if schedule is None else schedule.opened(at.ts)
    first = run.first("trace/target", "ts", opened - 1, pl.col("mid").is_not_null())
    if not first:
        return 0
    start = max(opened, run.manifest.first_ts or 0)
    held = run.last("trace/target", "ts", start, pl.col("mid").is_not_null())
    row = held[0] if held else first[0]
    mark = (row["bid_px"] + row["ask_px"]) // 2
    then, _ = inventory_before(run, Moment(row["seq"], max(row["ts"], opened), None), money=True)
    return marked_pnl(then.cash, then.fees, then.position, mark)


def _of_budget(
    run: RunFolder, at: Moment, s: Situation, made: Row | None, notes: list[str]
) -> None:
    """What the budget allowed: by what was recorded, or counted anew where that is exact."""
    p = run.parameters
    limits = p.budget
    assert limits is not None
    shared = run.manifest.sources.get("account", {}).get("shared_with")
    exact = limits.volume_quota is None and not shared
    s.budget_due = at.ts
    if exact:
        budget = Budget(limits, at.ts)
        count = budget.listener()
        recent = (pl.col("ts") > at.ts - MINUTE_NS) & (pl.col("ts") < at.ts)
        for row in [*run.rows("trace/orders", recent), *updates_before(run, at)]:
            count(OrderUpdate(**{k: row[k] for k in OrderUpdate.__struct_fields__}))
        s.threshold_bps = widened_bps(p.requote_threshold_bps, budget.factor(at.ts))
        s.budget_due = budget.earliest_ns(at.ts, 2)
        return
    what = "with other markets" if shared else "and paced by the whole past"
    notes.append(f"the budget is shared {what}" if shared else f"the volume quota is spent {what}")
    s.threshold_bps = p.requote_threshold_bps
    if made is not None and made["threshold_bps"] is not None:
        s.threshold_bps = made["threshold_bps"]
    rows = run.rows("decisions", pl.col("seq") == at.seq, pl.col("ts") == at.ts)
    sent = any(row["action"] == "quote" for row in rows)
    held = any(row["reason"] == "budget" for row in rows) or s.held is not None
    if held and not sent:
        s.budget_due = at.ts + 1
