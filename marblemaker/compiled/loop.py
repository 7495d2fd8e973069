"""The loop: the pump's order of work over columns of two feeds, with all else called from it.

It goes on until something outside must be done, and can then be called again: a feed has no more
rows here, a table of output is full, or it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from marblemaker.compiled import texts as t
from marblemaker.compiled.clock import earliest
from marblemaker.compiled.decide import (
    on_orders,
    on_pair,
    refuse_beside,
    risk_over,
    session_edge,
    start_session,
    unchanged,
)
from marblemaker.compiled.feed import NOT_JUDGED, chain, judge_age, tell_feed, wait_for_age
from marblemaker.compiled.layout import (
    AGE_TARGET,
    FEW,
    GIVE_UP,
    NEVER,
    RISK_OVER,
    SESSION_ANEW,
    SESSION_EDGE,
    SIGNAL,
    SIGNAL_AGED,
    TARGET,
    THROTTLE_OVER,
    TIMERS,
    World,
)
from marblemaker.compiled.pace import let_go
from marblemaker.compiled.sink import give_up, on_account
from marblemaker.compiled.venue import advance as advance_venue
from marblemaker.compiled.venue import on_book
from streams.events import BUY
from streams.pump import SIGNAL as SIGNAL_KIND
from streams.pump import TARGET as TARGET_KIND

__all__ = ["DONE", "FULL", "MORE_SIGNAL", "MORE_TARGET", "TROUBLE", "Columns", "make_run"]

NULL = t.NULL_WORD

DONE = 0
FULL = 1
MORE_SIGNAL = 2
MORE_TARGET = 3
TROUBLE = 4

BACKWARDS = 10
"""Trouble: along ``seq`` time goes back."""
TWICE = 11
"""Trouble: a ``seq`` occurs in both feeds."""


class Columns(NamedTuple):
    """A batch of a feed's rows; an absent number is ``NULL_WORD``."""

    key: NDArray[np.int64]
    """What rows are merged by: ``seq`` or ``ts``."""
    ts: NDArray[np.int64]
    ts_event: NDArray[np.int64]
    bid_px: NDArray[np.int64]
    ask_px: NDArray[np.int64]
    bid_sz: NDArray[np.int64]
    ask_sz: NDArray[np.int64]
    flags: NDArray[np.uint8]
    number: NDArray[np.int64]
    """Sequence numbers, filled in by the loop."""


# ---------------------------------------------------------------- our own orders


@njit
def hear(w: World, u: Any) -> None:
    """Fold a change of an order into the inventory, and let risk judge it."""
    p, s = w.parameters[0], w.state[0]
    k = 0
    while k < s.told and w.left[k].n != u.n:
        k += 1
    if k == len(w.left):
        s.trouble = 1
        return
    before = w.left[k].leaves if k < s.told else 0
    if u.leaves:
        w.left[k].n, w.left[k].leaves = u.n, u.leaves
        s.told = max(s.told, k + 1)
    elif k < s.told:
        s.told -= 1
        w.left[k] = w.left[s.told]
    if u.filled:
        s.net += u.side * u.filled
    if u.side == BUY:
        s.buys += u.leaves - before
    else:
        s.sells += u.leaves - before
    rejected = u.state == t.REJECTED
    s.rejects += rejected
    if u.state == t.EXPIRED:
        s.resets += 1
    elif rejected:
        s.resets += p.on_reject_resubmit
    elif u.state == t.CANCELLED and not u.requested:
        s.resets += p.on_cancel_resubmit
    on_orders(w, int(rejected))


@njit
def tell(w: World) -> None:
    """Deliver the changes of our orders that are queued."""
    p, s = w.parameters[0], w.state[0]
    while s.notices_head < s.notices_tail:
        u = w.notices[s.notices_head]
        s.notices_head += 1
        if p.traced:
            w.update_out[s.update_rows] = u
            s.update_rows += 1
            if s.update_rows >= min(w.parameters[0].most_rows, FEW):
                s.full = 1
        if not s.disposed:
            hear(w, u)
    s.notices_head = s.notices_tail = 0


@njit
def settle(w: World) -> None:
    """Deliver whatever is queued, at the present instant."""
    s = w.state[0]
    tell(w)
    while s.answers_head < s.answers_tail:
        if s.next_due <= s.now:
            fire(w, s.now)
        s.seq += 1
        a = w.answers[s.answers_head]
        s.answers_head += 1
        a.seq, a.ts = s.seq, s.now
        w.account_out[s.account_rows] = a
        s.account_rows += 1
        if s.account_rows >= min(w.parameters[0].most_rows, FEW):
            s.full = 1
        if a.kind == t.STOP:
            # The graph is let go before the order sink stops: nothing reaches it any more.
            s.disposed = 1
            for timer in range(TIMERS):
                w.due[timer] = NEVER
            s.next_due = NEVER
        on_account(w, a)
        tell(w)
    s.answers_head = s.answers_tail = 0


# ---------------------------------------------------------------- time


@njit
def hand_on(w: World, source: int) -> None:
    """Tell the rest of the graph that a feed's value changed."""
    tell_feed(w, source)
    on_pair(w)


@njit
def look_at_age(w: World, source: int) -> None:
    """Judge how old a feed is, and come back when the next change is due."""
    emits, due = judge_age(w, source)
    if emits:
        hand_on(w, source)
    wait_for_age(w, source, due)


@njit
def fire(w: World, until: int) -> None:
    """Fire the timers that are due, each at its own time."""
    s = w.state[0]
    while s.next_due <= until:
        timer = earliest(w)
        s.now = w.due[timer]
        w.due[timer] = NEVER
        s.next_due = w.due.min()
        if timer <= AGE_TARGET:
            look_at_age(w, timer)
        elif timer == SESSION_EDGE:
            session_edge(w)
        elif timer == SESSION_ANEW:
            on_pair(w)
        elif timer == RISK_OVER:
            risk_over(w)
        elif timer == THROTTLE_OVER:
            let_go(w)
        elif timer == GIVE_UP:
            give_up(w)
        tell(w)


@njit
def advance_once(w: World, until: int) -> bool:
    """Let what is due next happen, timers before the venue; False when nothing is."""
    s = w.state[0]
    if s.next_due <= min(until, s.venue_due):
        fire(w, s.next_due)
    elif s.venue_due <= until:
        s.now = s.venue_due
        advance_venue(w, s.venue_due)
    else:
        return False
    settle(w)
    return True


@njit
def book_changed(w: World, ts: int) -> None:
    """Let the venue match against a new book, and deliver its answers before the quote."""
    s = w.state[0]
    on_book(w)
    if s.answers_tail:
        settle(w)
        while advance_once(w, ts):
            pass
        s.now = ts


# ---------------------------------------------------------------- the feeds


@njit
def begin(w: World) -> None:
    """Do what happens on subscription, before the first input."""
    start_session(w)
    if not w.parameters[0].tutorial:
        on_pair(w)


@njit
def finish(w: World) -> bool:
    """Stop, and let time pass until that is done; False if there is more to do."""
    s = w.state[0]
    if not s.stopped:
        s.stopped = 1
        a = w.answers[s.answers_tail]
        s.answers_tail += 1
        a.kind, a.reason = t.STOP, t.END_OF_RECORDING
        a.n = a.venue_id = a.px = a.qty = a.fee = a.liquidity = a.quota_left = NULL
        settle(w)
    while not s.finished:
        due = min(s.next_due, s.venue_due)
        if due == NEVER or s.full or s.trouble:
            break
        advance_once(w, due)
    return not s.full


@njit
def not_so_simple(w: World, source: int) -> None:
    """Hand on a value that changes something, or may."""
    p, s = w.parameters[0], w.state[0]
    f = w.feeds[source]
    if p.tutorial:
        if w.values[SIGNAL_AGED + source].is_refusal:
            refuse_beside(w, SIGNAL_AGED + source)
        else:
            w.values[source] = w.values[SIGNAL_AGED + source]
            tell_feed(w, source)
            if source == TARGET:
                on_pair(w)
    elif w.feed_parameters[source].age and (f.refused or not f.waiting):
        # Judged afresh: it may be old already, and the timer of a refusal is far off.
        f.refused = NOT_JUDGED
        look_at_age(w, source)
    else:
        f.latest = source
        hand_on(w, source)
    if s.notices_tail or s.answers_tail:
        settle(w)


def make_run(version: str) -> Callable[..., int]:
    """Make the loop; its compiled code is kept for sources of this ``version`` only.

    numba looks at the file of a function to tell whether its cached code still holds, not at those
    of the functions that it calls; what a function closes over it looks at as well.
    """

    @njit(cache=True, nogil=True)
    def run(world: World, signal: Columns, target: Columns, by_seq: bool) -> int:
        """Run on from the present rows; say why it came back."""
        w = world[0]
        p, s = w.parameters[0], w.state[0]
        if not len(version):
            return TROUBLE
        if not s.begun:
            s.begun = 1
            begin(w)
        gs, gt = w.feed_parameters[SIGNAL], w.feed_parameters[TARGET]
        fs, ft = w.feeds[SIGNAL], w.feeds[TARGET]
        # In the tutorial a refused book leaves the sound one before it in place.
        apart = SIGNAL_AGED if p.tutorial else SIGNAL
        vs, vt = w.values[apart + SIGNAL], w.values[apart + TARGET]
        while not s.stopped:
            if s.full:
                return FULL
            if s.trouble:
                return TROUBLE
            i, j = s.at_signal, s.at_target
            if i == len(signal.key) and s.more_signal:
                return MORE_SIGNAL
            if j == len(target.key) and s.more_target:
                return MORE_TARGET
            signal_key = signal.key[i] if i < len(signal.key) else NEVER
            target_key = target.key[j] if j < len(target.key) else NEVER
            if signal_key == NEVER and target_key == NEVER:
                break
            is_signal = signal_key <= target_key
            ts = signal.ts[i] if is_signal else target.ts[j]
            if by_seq:
                if signal_key == target_key:
                    s.trouble = TWICE
                    return TROUBLE
                if ts < s.before_ts:
                    s.trouble = BACKWARDS
                    return TROUBLE
            due = min(s.next_due, s.venue_due)
            if ts >= due and advance_once(w, ts):
                # One at a time, so that there is room for what each puts out.
                continue
            kind = SIGNAL_KIND if is_signal else TARGET_KIND
            if not by_seq and ts == s.before_ts and kind != s.before_kind:
                s.ties += 1
            s.before_ts, s.before_kind = ts, kind
            s.now = ts
            if is_signal:
                s.at_signal = i + 1
                s.seq += 1
                signal.number[i] = s.seq
                chain(
                    p, gs, fs, vs, w.opens, SIGNAL, s.seq, ts, signal.ts_event[i],
                    signal.bid_px[i], signal.ask_px[i], signal.bid_sz[i], signal.ask_sz[i],
                    signal.flags[i],
                )  # fmt: skip
                f, g, source = fs, gs, SIGNAL
            else:
                s.at_target = j + 1
                bid, ask = target.bid_px[j], target.ask_px[j]
                s.bid, s.ask = bid, ask
                if (
                    (ask != NULL and ask <= s.ask_low)
                    or (bid != NULL and bid >= s.bid_high)
                    or ts >= s.next_expiry
                ):
                    book_changed(w, ts)
                s.seq += 1
                target.number[j] = s.seq
                chain(
                    p, gt, ft, vt, w.opens, TARGET, s.seq, ts, target.ts_event[j],
                    bid, ask, target.bid_sz[j], target.ask_sz[j], target.flags[j],
                )  # fmt: skip
                f, g, source = ft, gt, TARGET
            f.since = ts
            if (
                not p.tutorial
                and not (g.age and (f.refused or not f.waiting))
                and not vs.is_refusal
                and not vt.is_refusal
                and fs.latest == SIGNAL
                and ft.latest == TARGET
                and unchanged(p, s, vs, vt)
            ):
                tell_feed(w, source)
                s.refused_by = -1
                s.signal_place = s.kill_signal = SIGNAL
                s.target_place = s.kill_target = TARGET
                s.unmoved += 1
            else:
                not_so_simple(w, source)
        if not finish(w):
            return FULL
        return TROUBLE if s.trouble else DONE

    run_: Callable[..., int] = run
    return run_
