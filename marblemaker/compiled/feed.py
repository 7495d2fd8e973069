"""A feed's chain: event_time, frozen, mid, collar, split, residual or anchor, and age."""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.clock import cancel, is_open, next_edge, schedule
from marblemaker.compiled.layout import (
    AGE_SIGNAL,
    FEED_LINES,
    NEVER,
    SIGNAL,
    SIGNAL_AGED,
    TARGET,
    World,
)
from marblemaker.compiled.machine import compiled, hot
from operators.books import LOCKED
from operators.guards.age import LIVE, QUIET

__all__ = [
    "chain", "disconnected", "judge_age", "sign_of_life", "tell_feed", "wait_for_age",
]  # fmt: skip

NULL = t.NULL_WORD
_SNAPSHOT = 32
NOT_JUDGED = -1


@compiled
def refuse(
    v: Any, by: int, seq: int, ts: int, reason: int, bid: int, ask: int, bid_sz: int, ask_sz: int
) -> None:
    """Make a value a refusal of this quote, without what was judged."""
    v.is_refusal, v.seq, v.ts, v.by, v.reason = 1, seq, ts, by, reason
    v.bid_px, v.ask_px, v.bid_sz, v.ask_sz = bid, ask, bid_sz, ask_sz
    v.has_value = v.has_limit = 0


@compiled
def judged(v: Any, value: float, limit: float) -> None:
    """Add what was judged, and against what."""
    v.has_value, v.has_limit, v.value, v.limit = 1, 1, value, limit


@hot
def refused_before_mid(
    p: Any, g: Any, f: Any, v: Any, source: int, seq: int, ts: int, ts_event: int,
    bid: int, ask: int, bid_sz: int, ask_sz: int, flags: int,
) -> bool:  # fmt: skip
    """Judge a quote by event_time, frozen and its book; tell whether ``v`` is a refusal now."""
    if g.event_time and ts_event != NULL:
        ahead = ts_event - ts
        if not -g.behind_ns <= ahead <= g.ahead_ns and (ahead > 0 or not flags & _SNAPSHOT):
            reason = t.AHEAD if ahead > 0 else t.BEHIND
            refuse(v, source, seq, ts, reason, bid, ask, bid_sz, ask_sz)
            limit = g.ahead_ns if ahead > 0 else -g.behind_ns
            judged(v, steps.seconds_ahead(ts_event, ts), limit / 1e9)
            return True
    if g.frozen_ns >= 0:
        if (
            not f.seen_one
            or bid != f.frozen_bid
            or ask != f.frozen_ask
            or bid_sz != f.frozen_bid_sz
            or ask_sz != f.frozen_ask_sz
        ):
            f.frozen_since, f.seen_one, f.is_frozen = ts, 1, 0
            f.frozen_bid, f.frozen_ask = bid, ask
            f.frozen_bid_sz, f.frozen_ask_sz = bid_sz, ask_sz
        elif steps.frozen_too_long(ts - f.frozen_since, g.frozen_ns):
            if not f.is_frozen:
                f.is_frozen, f.refused_seq, f.refused_ts = 1, seq, ts
            # It stays the refusal of the first quote that was refused.
            refuse(v, source, f.refused_seq, f.refused_ts, t.FROZEN, bid, ask, bid_sz, ask_sz)
            judged(v, (f.refused_ts - f.frozen_since) / 1e9, g.frozen_ns / 1e9)
            return True
    if bid == NULL or ask == NULL:
        reason = t.NO_ASK if bid != NULL else t.NO_BID
        if bid == NULL and ask == NULL:
            reason = t.MISSING
        refuse(v, source, seq, ts, reason, bid, ask, bid_sz, ask_sz)
        return True
    if not p.tutorial:
        fault = steps.book_fault(
            bid, ask, 1 if bid_sz == NULL else bid_sz, 1 if ask_sz == NULL else ask_sz
        )
        if fault and not (fault == LOCKED and g.locked):
            refuse(v, source, seq, ts, fault, bid, ask, bid_sz, ask_sz)
            return True
    return False


@hot
def disbelieved(
    g: Any, f: Any, v: Any, source: int, seq: int, ts: int, bid: int, ask: int, mid: float
) -> bool:
    """Judge a mid by collar and split; tell whether ``v`` is a refusal now."""
    if g.collar:
        if f.accepted:
            sound, f.candidate, f.candidate_since = steps.believed(
                mid, ts, f.accepted, f.candidate, f.candidate_since, g.collar_bps, g.confirm_ns
            )
            if not sound:
                refuse(v, source, seq, ts, t.JUMP, bid, ask, NULL, NULL)
                judged(v, steps.jump_bps(mid, f.accepted), g.collar_bps)
                return True
        f.accepted, f.candidate = mid, 0.0
    if g.split:
        if ts >= f.judge_from and f.before:
            ratio = steps.split_of(f.before, mid)
            if ratio:
                refuse(v, source, seq, ts, t.SPLIT, bid, ask, NULL, NULL)
                judged(v, f.before / mid, ratio)
                return True
        f.before, f.judge_from = mid, ts + g.break_ns
    return False


@compiled
def baseline(p: Any, f: Any, opens: Any, ts: int, mid: float) -> float:
    """The baseline that a mid of the signal is measured against."""
    if p.baseline == 0:
        return p.set_price
    if p.baseline == 3:
        if f.average != f.average:
            f.average = mid
        else:
            weight = steps.ewma_weight(ts - f.last_ts, p.half_life_ns)
            f.average = steps.ewma_of(weight, f.average, f.last_mid)
        f.last_mid, f.last_ts = mid, ts
        return f.average
    if f.first != f.first:
        f.first = mid
    if p.baseline == 2 and f.following < len(opens) and ts >= opens[f.following]:
        f.first = mid
        while f.following < len(opens) and ts >= opens[f.following]:
            f.following += 1
    return f.first


@hot
def chain(
    p: Any, g: Any, f: Any, v: Any, opens: Any, source: int, seq: int, ts: int, ts_event: int,
    bid: int, ask: int, bid_sz: int, ask_sz: int, flags: int,
) -> None:  # fmt: skip
    """Run a quote through its feed's chain; ``v`` becomes what reaches age."""
    if refused_before_mid(
        p, g, f, v, source, seq, ts, ts_event, bid, ask, bid_sz, ask_sz, flags
    ):  # fmt: skip
        return
    mid = steps.mid_price_1e16(bid, ask) if p.tutorial else steps.mid_price(bid, ask)
    if disbelieved(g, f, v, source, seq, ts, bid, ask, mid):
        return
    v.is_refusal, v.seq, v.ts, v.mid = 0, seq, ts, mid
    if source == SIGNAL:
        v.level = baseline(p, f, opens, ts, mid)
        v.residual = steps.residual_of(mid, v.level)
    else:
        v.bid_px, v.ask_px = bid, ask
        if p.tutorial:
            v.level = steps.anchor_price_1e16(mid, p.scale)
        else:
            v.level = steps.anchor_price(mid, p.scale)


# ---------------------------------------------------------------- what a feed is taken for


@compiled
def refuse_age(w: World, source: int, reason: int, limit_ns: int) -> None:
    """Refuse a feed for its age; the caller hands it on."""
    f, now = w.feeds[source], w.state[0].now
    f.refused = reason
    aged = SIGNAL_AGED + source
    by = TARGET if source == TARGET else SIGNAL
    refuse(w.values[aged], by, w.values[source].seq, now, reason, NULL, NULL, NULL, NULL)
    judged(w.values[aged], (now - f.since) / 1e9, limit_ns / 1e9)
    f.latest = aged


@compiled
def judge_age(w: World, source: int) -> tuple[bool, int]:
    """Judge how old a feed is; tell whether it is to be handed on, and when to look again.

    The caller hands it on first and sets the timer then: timers are fired in order of creation.
    """
    f, g, now = w.feeds[source], w.feed_parameters[source], w.state[0].now
    limit, edge = g.limit_ns, NEVER
    if g.scheduled:
        limit = steps.age_limit_ns(is_open(w, now), g.limit_ns, g.outside_ns)
        edge = next_edge(w, now)
    quiet = limit if g.quiet_ns < 0 else max(g.quiet_ns, limit)
    last_sign = max(f.heard, f.since)
    verdict = steps.life(now - f.since, limit, quiet, now - last_sign, g.dead_ns)
    emits = False
    if verdict == LIVE:
        if f.refused:
            f.refused, f.latest, emits = 0, source, True
        due = f.since + limit
        if now >= due:
            due = min(f.since + quiet, last_sign + g.dead_ns)
    else:
        reason = t.QUIET if verdict == QUIET else t.DEAD
        if reason != f.refused:
            refuse_age(w, source, reason, quiet if verdict == QUIET else limit)
            emits = True
        due = last_sign + g.dead_ns if verdict == QUIET else edge
    return emits, min(due, edge)


@compiled
def disconnected(w: World, source: int) -> bool:
    """Refuse a feed until it speaks again; tell whether that is news."""
    f = w.feeds[source]
    if not f.has_spoken or f.refused == t.DISCONNECTED:
        return False
    cancel(w, AGE_SIGNAL + source)
    f.waiting = 0
    refuse_age(w, source, t.DISCONNECTED, w.feed_parameters[source].limit_ns)
    return True


@compiled
def sign_of_life(w: World, source: int) -> bool:
    """Note that a feed lives; tell whether it must be judged anew."""
    f = w.feeds[source]
    f.heard = w.state[0].now
    return f.refused == t.DEAD or f.refused == t.QUIET


@compiled
def wait_for_age(w: World, source: int, due: int) -> None:
    """Have age look at a feed again."""
    w.feeds[source].waiting = due < NEVER
    if due < NEVER:
        schedule(w, AGE_SIGNAL + source, due)


# ---------------------------------------------------------------- output


@compiled
def refusal_words(w: World, v: Any, out: Any, doubles: Any, line: int, k: int) -> None:
    """Write a refusal, field by field, from a line on."""
    out[line, k], out[line + 1, k] = v.seq, v.ts
    out[line + 2, k], out[line + 3, k] = w.source_words[v.by], w.reason_words[v.reason]
    out[line + 4, k], out[line + 5, k] = v.bid_px, v.ask_px
    out[line + 6, k], out[line + 7, k] = v.bid_sz, v.ask_sz
    out[line + 8, k] = out[line + 9, k] = NULL
    if v.has_value:
        doubles[line + 8, k] = v.value
    if v.has_limit:
        doubles[line + 9, k] = v.limit


@hot
def tell_feed(w: World, source: int) -> None:
    """Write down what a feed hands on."""
    s = w.state[0]
    if not w.parameters[0].traced:
        return
    v = w.values[w.feeds[source].latest]
    if source == SIGNAL:
        k = s.signal_rows
        out, doubles, widths = w.signal_out, w.signal_out_doubles, w.signal_out_widths
    else:
        k = s.target_rows
        out, doubles, widths = w.target_out, w.target_out_doubles, w.target_out_widths
    if v.is_refusal:
        refusal_words(w, v, out, doubles, 0, k)
        widths[k] = FEED_LINES
    else:
        out[0, k], out[1, k] = v.seq, v.ts
        doubles[2, k], doubles[3, k] = v.mid, v.level
        if source == SIGNAL:
            doubles[4, k] = v.residual
            widths[k] = 5
        else:
            out[4, k], out[5, k] = v.bid_px, v.ask_px
            doubles[6, k] = v.widening
            widths[k] = 7
    if source == SIGNAL:
        s.signal_rows += 1
    else:
        s.target_rows += 1
    if k + 1 >= w.parameters[0].most_rows:
        s.full = 1
