"""The throttle: at most one new target per window of event time."""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.budget import earliest_ns
from marblemaker.compiled.clock import cancel, schedule
from marblemaker.compiled.layout import THROTTLE_OVER, World
from marblemaker.compiled.machine import compiled
from marblemaker.compiled.sink import decided
from operators.budget import FAR_NS
from streams.events import BUY, SELL

__all__ = ["let_go", "look_again", "throttled"]

NULL = t.NULL_WORD


@compiled
def allowed_ns(w: World, d: Any) -> int:
    """When a target may go: now, or later."""
    p, s = w.parameters[0], w.state[0]
    due = s.now
    if s.went:
        due = max(due, steps.release_ns(s.went_ns, p.interval_ns))
    if p.paced:
        due = max(due, earliest_ns(w, s.now, d.bid_levels + d.ask_levels))
    return due


@compiled
def wait(w: World, due: int) -> None:
    """Let what is held wait until its time has come."""
    s = w.state[0]
    s.held_due = due
    # What only a fill can pay for has no time: its notice looks again.
    if due - s.now >= FAR_NS:
        cancel(w, THROTTLE_OVER)
    else:
        schedule(w, THROTTLE_OVER, due)


@compiled
def look_again(w: World) -> None:
    """Look, after a change of our orders, whether what is held may go sooner or later."""
    s = w.state[0]
    if s.has_held:
        due = allowed_ns(w, w.held[0])
        if due != s.held_due:
            wait(w, due)


@compiled
def throttled(w: World) -> None:
    """Let the draft through, or hold it back."""
    p, s = w.parameters[0], w.state[0]
    if not p.interval_ns and not p.paced:
        decided(w)
        return
    d = w.draft[0]
    if d.action != t.QUOTE:
        if d.action == t.WITHDRAW:
            s.has_held = s.has_sent = 0
            cancel(w, THROTTLE_OVER)
        add_unreported(w)
        decided(w)
        return
    due = allowed_ns(w, d)
    if due <= s.now:
        cancel(w, THROTTLE_OVER)
        pass_on(w)
        return
    if not s.has_held or due != s.held_due:
        wait(w, due)
    w.wanted[0] = w.draft[0]
    again = s.has_held and same_levels(w)
    w.held[0] = w.draft[0]
    s.has_held = 1
    if again:
        s.unreported += 1 + d.unmoved
    else:
        d.action, d.reason = t.HOLD, t.THROTTLE
        if not s.went or s.now >= steps.release_ns(s.went_ns, p.interval_ns):
            d.reason = t.BUDGET
        add_unreported(w)
        decided(w)
    if s.has_sent and p.retracts:
        w.draft[0] = w.wanted[0]
        if retract(w):
            decided(w)


@compiled
def same_levels(w: World) -> bool:
    """Tell whether the draft wants the orders that what is held wants."""
    one, other = w.held[0], w.draft[0]
    return (
        one.bid_px == other.bid_px
        and one.ask_px == other.ask_px
        and one.bid_levels == other.bid_levels
        and one.ask_levels == other.ask_levels
        and one.qty == other.qty
    )


@compiled
def add_unreported(w: World) -> None:
    """Add the held targets that were not reported one by one."""
    s = w.state[0]
    w.draft[0].unmoved += s.unreported
    s.unreported = 0


@compiled
def pass_on(w: World) -> None:
    """Let the draft go now."""
    s = w.state[0]
    s.has_held, s.went, s.went_ns, s.has_sent = 0, 1, s.now, 1
    w.last_sent[0] = w.draft[0]
    add_unreported(w)
    decided(w)


@compiled
def let_go(w: World) -> None:
    """Send what is held, its time having come."""
    s = w.state[0]
    if not s.has_held:
        return
    due = allowed_ns(w, w.held[0])
    if due > s.now:
        wait(w, due)
        return
    w.draft[0] = w.held[0]
    d = w.draft[0]
    d.ts, d.reason, d.unmoved = s.now, t.RELEASED, 0
    pass_on(w)


@compiled
def left_of_side(
    p: Any, side: int, sent_px: int, levels: int, step: int, px: int, centre: float, best: int
) -> tuple[int, int]:
    """First price and number of the levels of a side that may stand while a new target waits."""
    if sent_px == NULL or px == NULL:
        return NULL, 0
    met = steps.levels_through(side, sent_px, step, levels, centre)
    sent_px, levels = sent_px - side * step * met, levels - met
    if p.ladder:
        levels = steps.levels_in_reach(side, sent_px, step, levels, best, p.reach)
    return (sent_px, levels) if levels else (NULL, 0)


@compiled
def retract(w: World) -> bool:
    """Draft what of the last target may still stand; tell whether something must go."""
    d, sent = w.draft[0], w.last_sent[0]
    centre = (d.bid + d.ask) / 2.0
    p, step = w.parameters[0], sent.level_step
    bid_px, bids = left_of_side(
        p, BUY, sent.bid_px, sent.bid_levels, step, d.bid_px, centre, d.target_bid_px
    )
    ask_px, asks = left_of_side(
        p, SELL, sent.ask_px, sent.ask_levels, step, d.ask_px, centre, d.target_ask_px
    )
    if bids == sent.bid_levels and asks == sent.ask_levels:
        return False
    d.action, d.reason, d.unmoved = t.RETRACT, t.TAKEN_AWAY, 0
    d.bid_px, d.ask_px = bid_px, ask_px
    d.bid_levels, d.ask_levels = bids, asks
    d.level_step, d.qty = sent.level_step, sent.qty
    w.last_sent[0] = w.draft[0]
    return True
