"""From both feeds to a decision: session, basis, fair_value, risk, kill_switch and requote.

A state is two places in ``World.values``: one of the signal, one of the target. A guard that
refuses a state puts its refusal in the target's place, as ``operators.state.refuse_state`` does.
"""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.budget import factor
from marblemaker.compiled.clock import edges_before, is_open, next_edge, opened, schedule
from marblemaker.compiled.feed import refusal_words
from marblemaker.compiled.layout import (
    ALONE,
    ALTERED,
    CLOSED,
    FEED_LINES,
    FEW,
    KILLED,
    NEVER,
    RISK_OVER,
    SESSION_ANEW,
    SESSION_EDGE,
    SIGNAL,
    TARGET,
    TRIPPED,
    WEIGHTED,
    World,
)
from marblemaker.compiled.machine import compiled, hot, inlined
from marblemaker.compiled.pace import throttled
from marblemaker.compiled.price import price
from marblemaker.compiled.sink import decided
from operators.guards.risk import REJECT_WINDOW_NS

__all__ = [
    "kill", "on_orders", "on_pair", "refuse_beside", "risk_over", "session_edge", "start_risk",
    "start_session", "unchanged",
]  # fmt: skip

NULL = t.NULL_WORD
_WITHDRAW, _WIDEN = 0, 1


@compiled
def refuse_state(w: World, i: int, j: int, place: int, by: int, reason: int, ts: int) -> int:
    """Make the value at ``place`` a guard's refusal of a state; return the place."""
    seq = max(w.values[i].seq, w.values[j].seq)
    v = w.values[place]
    v.is_refusal, v.seq, v.ts, v.by, v.reason = 1, seq, ts, by, reason
    v.bid_px = v.ask_px = v.bid_sz = v.ask_sz = NULL
    v.has_value = v.has_limit = 0
    return place


# ---------------------------------------------------------------- session, basis, fair value


@inlined
def start_session(w: World) -> None:
    """Judge the session before the first input."""
    s = w.state[0]
    if w.parameters[0].has_schedule:
        s.is_open = is_open(w, s.now)
        before = edges_before(w.edges, s.now)
        s.closed_ns = w.edges[before - 1] if before else NULL
        if next_edge(w, s.now) < NEVER:
            schedule(w, SESSION_EDGE, next_edge(w, s.now))


@inlined
def session_edge(w: World) -> None:
    """Open or close the session."""
    s = w.state[0]
    s.is_open, s.closed_ns = is_open(w, s.now), s.now
    if next_edge(w, s.now) < NEVER:
        schedule(w, SESSION_EDGE, next_edge(w, s.now))
    if s.is_open:
        # Behind the timers of this very instant: a feed may be too old from now on.
        schedule(w, SESSION_ANEW, s.now)
    else:
        on_pair(w)


@compiled
def on_pair(w: World) -> None:
    """Take the latest of both feeds through the guards on both."""
    p, s = w.parameters[0], w.state[0]
    i = WEIGHTED if p.others else w.feeds[SIGNAL].latest
    j = w.feeds[TARGET].latest
    if p.tutorial:
        # Later signals do not make a new state there: this one is kept as it is.
        w.values[ALONE] = w.values[i]
        i = ALONE
    if p.has_schedule and not s.is_open:
        if p.outside == _WITHDRAW:
            j = refuse_state(w, i, j, CLOSED, t.BY_SESSION, t.CLOSED, s.now)
            if s.closed_ns != NULL:
                w.values[j].has_value = 1
                w.values[j].value = (s.now - s.closed_ns) / 1e9
        elif p.outside == _WIDEN:
            if not w.values[j].is_refusal:
                w.values[ALTERED] = w.values[j]
                w.values[ALTERED].widening = p.widening
                j = ALTERED
        else:
            v = w.values[ALONE]
            v.is_refusal, v.seq, v.ts = 0, 0, w.values[j].ts
            v.mid = v.level = v.residual = 0.0
            i = ALONE
    if not w.values[i].is_refusal and not w.values[j].is_refusal and w.values[i].seq:
        if p.has_basis:
            apart = steps.basis_bps(w.values[j].mid, w.values[i].mid)
            if not -p.basis_bps <= apart <= p.basis_bps:
                now = max(w.values[i].ts, w.values[j].ts)
                j = refuse_state(w, i, j, CLOSED, t.BY_BASIS, t.BEYOND, now)
                v = w.values[j]
                v.has_value, v.has_limit, v.value, v.limit = 1, 1, apart, p.basis_bps
        if p.fair_value and not w.values[j].is_refusal:
            if j != ALTERED:
                w.values[ALTERED] = w.values[j]
                j = ALTERED
            w.values[j].level = steps.anchor_price(w.values[i].mid, p.scale)
    on_state(w, i, j)


# ---------------------------------------------------------------- risk and the kill switch


@compiled
def marked(s: Any) -> int:
    """Profit with the position valued at the target's mid."""
    return steps.pnl_in_parts(s.cash, s.cash_rest, s.fees, s.net, s.mark)


@compiled
def next_open(w: World, ts: int) -> int:
    """When the next session opens after an instant."""
    following = next_edge(w, ts)
    while following < NEVER and not is_open(w, following):
        following = next_edge(w, following)
    return following


@inlined
def start_risk(w: World) -> None:
    """Know the session before the first input."""
    s = w.state[0]
    s.edge = NEVER
    if w.parameters[0].risk_scheduled:
        s.opened, s.edge = opened(w, s.now), next_edge(w, s.now)


@compiled
def mark_to_market(w: World, j: int) -> None:
    """Take the target's mid as what the position is worth; a session starts its own count."""
    s, v = w.state[0], w.values[j]
    if not v.is_refusal:
        first = s.mark == NULL
        s.mark = (v.bid_px + v.ask_px) // 2
        if first:
            # What we held at the start is neither a profit nor a loss.
            s.pnl_at_open = marked(s)
    if s.now >= s.edge:
        s.edge = next_edge(w, s.now)
        if opened(w, s.now) != s.opened:
            s.opened = opened(w, s.now)
            if s.mark != NULL:
                s.pnl_at_open = marked(s)


@compiled
def breach(w: World) -> tuple[int, float, float]:
    """The first limit that is passed, by its reason (-1: none), the value and the limit."""
    p, s = w.parameters[0], w.state[0]
    if p.risk_position >= 0 and abs(s.net) > p.risk_position:
        return t.TOO_MUCH, s.net / 1e9, p.risk_position / 1e9
    if p.risk_orders >= 0 and s.told > p.risk_orders:
        return t.TOO_MANY, float(s.told), float(p.risk_orders)
    rejects = s.rejects_tail - s.rejects_head
    if p.risk_rejects >= 0 and rejects > p.risk_rejects:
        return t.STORM, float(rejects), float(p.risk_rejects)
    if s.mark == NULL:
        return -1, 0.0, 0.0
    if p.risk_notional >= 0 and s.net:
        value = steps.notional(s.net, s.mark)
        if value > p.risk_notional:
            return t.TOO_DEAR, value / 1e9, p.risk_notional / 1e9
    if p.risk_loss >= 0:
        pnl = marked(s) - s.pnl_at_open
        if -pnl > p.risk_loss:
            return t.LOSS, -pnl / 1e9, p.risk_loss / 1e9
    return -1, 0.0, 0.0


@compiled
def judge_risk(w: World) -> None:
    """Trip if a limit is passed."""
    s = w.state[0]
    while s.rejects_head < s.rejects_tail:
        if w.rejected[s.rejects_head] > s.now - REJECT_WINDOW_NS:
            break
        s.rejects_head += 1
    reason, value, limit = breach(w)
    if reason >= 0:
        s.tripped, s.tripped_reason = 1, reason
        s.tripped_value, s.tripped_limit = value, limit
        until = s.now + w.parameters[0].cooldown_ns
        if reason == t.LOSS:
            until = max(until, next_open(w, s.now) if w.parameters[0].risk_scheduled else NEVER)
        if until < NEVER:
            schedule(w, RISK_OVER, until)


@compiled
def refuse_risk(w: World) -> int:
    """Put risk's refusal in the target's place of the latest state."""
    s = w.state[0]
    j = refuse_state(
        w, s.signal_place, s.target_place, TRIPPED, t.BY_RISK, s.tripped_reason, s.now
    )  # fmt: skip
    v = w.values[j]
    v.has_value, v.has_limit, v.value, v.limit = 1, 1, s.tripped_value, s.tripped_limit
    return j


@compiled
def on_state(w: World, i: int, j: int) -> None:
    """Judge a state by the limits on what we did."""
    s = w.state[0]
    s.signal_place, s.target_place, s.has_state = i, j, 1
    p = w.parameters[0]
    if p.has_risk and (s.tripped or s.unjudged or p.risk_notional >= 0 or p.risk_loss >= 0):
        s.unjudged = 0
        mark_to_market(w, j)
        if not s.tripped:
            judge_risk(w)
        if s.tripped:
            j = refuse_risk(w)
    on_lawful(w, i, j)


@compiled
def on_orders(w: World, new_rejects: int) -> None:
    """Judge the limits after a change of our orders."""
    s = w.state[0]
    if not w.parameters[0].has_risk:
        return
    for _ in range(new_rejects):
        if s.rejects_tail == len(w.rejected):
            # What is past the window never counts again.
            kept = s.rejects_tail - s.rejects_head
            for k in range(kept):
                w.rejected[k] = w.rejected[s.rejects_head + k]
            s.rejects_head, s.rejects_tail = 0, kept
            if kept == len(w.rejected):
                s.trouble = 1
                return
        w.rejected[s.rejects_tail] = s.now
        s.rejects_tail += 1
    s.unjudged = 1
    if not s.tripped and s.has_state:
        judge_risk(w)
        s.unjudged = 0
        if s.tripped:
            on_lawful(w, s.signal_place, refuse_risk(w))


@inlined
def risk_over(w: World) -> None:
    """Judge anew once a tripped limit has had its time."""
    s = w.state[0]
    s.tripped, s.unjudged = 0, 1
    on_state(w, s.signal_place, s.target_place)


@inlined
def kill(w: World, reason: int) -> None:
    """Take everything away for a reason, or give it back (0); both act at once."""
    s = w.state[0]
    s.killed = reason
    if s.has_state:
        on_lawful(w, s.kill_signal, s.kill_target)


@compiled
def on_lawful(w: World, i: int, j: int) -> None:
    """Refuse a state while the operator's kill switch is on."""
    s = w.state[0]
    s.kill_signal, s.kill_target = i, j
    if s.killed:
        j = refuse_state(w, i, j, KILLED, t.BY_KILL_SWITCH, s.killed, s.now)
    requote(w, i, j)


# ---------------------------------------------------------------- requote


@hot
def unchanged(p: Any, s: Any, signal: Any, target: Any) -> bool:
    """Tell whether the latest of both feeds surely leads to nothing but a count.

    The whole way comes to the same; this is the short one, for almost every input.
    """
    if signal.is_refusal or target.is_refusal or s.killed or p.states_traced:
        return False
    if not (s.is_open or not p.has_schedule) or s.unjudged or s.tripped:
        return False
    if p.risk_notional >= 0 or p.risk_loss >= 0:
        return False
    if not s.quoted or not s.told or s.seen_resets != s.resets:
        return False
    if p.has_basis:
        apart = steps.basis_bps(target.mid, signal.mid)
        if not -p.basis_bps <= apart <= p.basis_bps:
            return False
    return s.last_widening == target.widening and not steps.moved(
        target.level, s.last_anchor, signal.residual, s.last_residual,
        p.signal_skew_factor, p.threshold,
    )  # fmt: skip


@compiled
def write_state(w: World, i: int, j: int) -> None:
    """Write down both sides of a state."""
    p, s = w.parameters[0], w.state[0]
    if not p.traced:
        return
    out, doubles, k = w.state_out, w.state_out_doubles, s.state_rows
    v = w.values[i]
    line = 5
    if v.is_refusal:
        refusal_words(w, v, out, doubles, 0, k)
        line = FEED_LINES
    else:
        out[0, k], out[1, k] = v.seq, v.ts
        doubles[2, k], doubles[3, k], doubles[4, k] = v.mid, v.level, v.residual
    v = w.values[j]
    if v.is_refusal:
        refusal_words(w, v, out, doubles, line, k)
        width = line + FEED_LINES
    else:
        out[line, k], out[line + 1, k] = v.seq, v.ts
        doubles[line + 2, k], doubles[line + 3, k] = v.mid, v.level
        out[line + 4, k], out[line + 5, k] = v.bid_px, v.ask_px
        doubles[line + 6, k] = v.widening
        width = line + 7
    for rest in range(width, 2 * FEED_LINES):
        out[rest, k] = NULL
    w.state_out_widths[k] = width
    s.state_rows += 1
    if s.state_rows >= min(p.most_rows, FEW):
        s.full = 1


@compiled
def worth(w: World, signal: Any, anchor: Any) -> bool:
    """Tell whether a state moved by the threshold, widened while a budget is low."""
    p, s = w.parameters[0], w.state[0]
    if not steps.moved(
        anchor.level, s.last_anchor, signal.residual, s.last_residual,
        p.signal_skew_factor, p.threshold,
    ):  # fmt: skip
        return False
    if not p.paced:
        return True
    wider = factor(w, s.now)
    return wider <= 1.0 or steps.moved(
        anchor.level, s.last_anchor, signal.residual, s.last_residual,
        p.signal_skew_factor, steps.widened_bps(p.threshold_bps, wider) / 10_000.0,
    )  # fmt: skip


@compiled
def requote(w: World, i: int, j: int) -> None:
    """Let a state through if it is worth new orders, or if nothing of ours is out."""
    p, s = w.parameters[0], w.state[0]
    if p.states_traced:
        write_state(w, i, j)
    signal, anchor = w.values[i], w.values[j]
    if signal.is_refusal or anchor.is_refusal:
        withdraw(w, i, j)
        return
    s.refused_by = -1
    if s.seen_resets != s.resets:
        s.quoted, s.seen_resets, s.has_target = 0, s.resets, 0
    if s.quoted and s.told and anchor.widening == s.last_widening and not worth(w, signal, anchor):
        s.unmoved += 1
        return
    s.last_widening = anchor.widening
    price(w, i, j)
    d = w.draft[0]
    if p.paced:
        d.threshold_bps = steps.widened_bps(p.threshold_bps, factor(w, s.now))
    if p.only_changes:
        if s.has_target and (s.told or d.action != t.QUOTE) and same_target(d, w.last_target[0]):
            s.unmoved += 1
            return
        w.last_target[0] = w.draft[0]
        s.has_target = 1
    if d.action == t.QUOTE:
        s.quoted, s.last_anchor, s.last_residual = 1, d.anchor, d.residual
    want(w)


@compiled
def same_target(one: Any, other: Any) -> bool:
    """Tell whether two targets want the same levels and were made at the same position."""
    return (
        one.bid_px == other.bid_px
        and one.ask_px == other.ask_px
        and one.bid_levels == other.bid_levels
        and one.ask_levels == other.ask_levels
        and one.position == other.position
        and one.action == other.action
    )


@compiled
def refuse_decision(w: World, v: Any, seq: int, action: int) -> None:
    """Draft the decision that a refusal leads to."""
    w.draft[0] = w.blank[0]
    d = w.draft[0]
    d.seq, d.action, d.reason = seq, action, w.decided_words[v.by, v.reason]
    if v.by == t.BY_SIGNAL and v.seq:
        d.signal_seq, d.signal_ts = v.seq, v.ts
    if v.by == t.BY_TARGET and v.seq:
        d.target_seq, d.target_ts = v.seq, v.ts
    d.refused_bid_px, d.refused_ask_px = v.bid_px, v.ask_px
    d.refused_bid_sz, d.refused_ask_sz = v.bid_sz, v.ask_sz
    if v.has_value:
        d.refused_value = v.value
    if v.has_limit:
        d.refused_limit = v.limit


@compiled
def withdraw(w: World, i: int, j: int) -> None:
    """Withdraw because a state was refused; the same refusal again is only counted."""
    p, s = w.parameters[0], w.state[0]
    seq = max(w.values[i].seq, w.values[j].seq)
    if not seq:
        return
    if not p.states_traced:
        write_state(w, i, j)
    v = w.values[j] if w.values[j].is_refusal else w.values[i]
    of = v.seq if v.by == t.BY_SIGNAL or v.by == t.BY_TARGET else 0
    if s.refused_by == v.by and s.refused_reason == v.reason and s.refused_seq == of:
        s.unmoved += 1
        return
    s.quoted = s.has_target = 0
    s.refused_by, s.refused_reason, s.refused_seq = v.by, v.reason, of
    refuse_decision(w, v, seq, t.WITHDRAW)
    want(w)


@compiled
def want(w: World) -> None:
    """Hand the draft on to the throttle, stamped with the present."""
    s = w.state[0]
    d = w.draft[0]
    d.ts, d.unmoved = s.now, s.unmoved
    s.unmoved = 0
    w.wanted_out[s.wanted_rows] = w.draft[0]
    s.wanted_rows += 1
    if s.wanted_rows >= min(w.parameters[0].most_rows, FEW):
        s.full = 1
    throttled(w)


@inlined
def refuse_beside(w: World, place: int) -> None:
    """Report a refused book beside the stream, as the tutorial has it; what works stays."""
    v = w.values[place]
    refuse_decision(w, v, v.seq, t.REFUSE)
    w.draft[0].ts = v.ts
    decided(w)
