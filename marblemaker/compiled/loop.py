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

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.budget import count_change, start_budget
from marblemaker.compiled.clock import earliest
from marblemaker.compiled.decide import (
    kill,
    on_orders,
    on_pair,
    refuse_beside,
    risk_over,
    session_edge,
    start_risk,
    start_session,
    unchanged,
)
from marblemaker.compiled.feed import (
    NOT_JUDGED,
    chain,
    disconnected,
    judge_age,
    sign_of_life,
    tell_feed,
    wait_for_age,
)
from marblemaker.compiled.layout import (
    FEW,
    GIVE_UP,
    LOOK,
    NEVER,
    OTHERS,
    RISK_OVER,
    SESSION_ANEW,
    SESSION_EDGE,
    SIGNAL,
    SIGNAL_AGED,
    TARGET,
    THROTTLE_OVER,
    TIMERS,
    WEIGHTED,
    World,
)
from marblemaker.compiled.machine import compiled, inlined
from marblemaker.compiled.own import know_own, without_own
from marblemaker.compiled.pace import let_go, look_again
from marblemaker.compiled.several import signal_at, tell_other, weigh
from marblemaker.compiled.sink import give_up, look, on_account
from marblemaker.compiled.venue import advance as advance_venue
from marblemaker.compiled.venue import matters, on_book, on_trade
from streams.events import BUY
from streams.instrument import UNIT
from streams.pump import ACCOUNT as ACCOUNT_KIND
from streams.pump import SIGNAL as SIGNAL_KIND
from streams.pump import STATUS as STATUS_KIND
from streams.pump import TARGET as TARGET_KIND
from streams.pump import TRADE as TRADE_KIND

__all__ = [
    "DONE", "FULL", "MORE_ACCOUNT", "MORE_OTHERS", "MORE_SIGNAL", "MORE_STATUS", "MORE_TARGET",
    "MORE_TRADES", "TROUBLE", "AccountColumns", "Columns", "StatusColumns", "TradeColumns",
    "make_run",
]  # fmt: skip

NULL = t.NULL_WORD

DONE = 0
FULL = 1
MORE_SIGNAL = 2
MORE_TARGET = 3
MORE_STATUS = 4
MORE_TRADES = 5
TROUBLE = 6
MORE_ACCOUNT = 7
MORE_OTHERS = 8
"""The second signal; the third is the next, and so on."""

BACKWARDS = 10
"""Trouble: along ``seq`` time goes back."""
TWICE = 11
"""Trouble: a ``seq`` occurs in both feeds."""


class Columns(NamedTuple):
    """A batch of a feed's quotes; an absent number is ``NULL_WORD``."""

    key: NDArray[np.int64]
    """What rows are merged by: ``seq`` or ``ts``."""
    ts: NDArray[np.int64]
    number: NDArray[np.int64]
    """Sequence numbers, filled in by the loop."""
    ts_event: NDArray[np.int64]
    bid_px: NDArray[np.int64]
    ask_px: NDArray[np.int64]
    bid_sz: NDArray[np.int64]
    ask_sz: NDArray[np.int64]
    flags: NDArray[np.uint8]


class TradeColumns(NamedTuple):
    """A batch of public trades; ``side`` is 0 where the venue does not say."""

    key: NDArray[np.int64]
    ts: NDArray[np.int64]
    number: NDArray[np.int64]
    px: NDArray[np.int64]
    qty: NDArray[np.int64]
    side: NDArray[np.int64]


class StatusColumns(NamedTuple):
    """A batch of status rows: what they do, to which feed, and the reason of a kill."""

    key: NDArray[np.int64]
    ts: NDArray[np.int64]
    number: NDArray[np.int64]
    feed: NDArray[np.int64]
    does: NDArray[np.int64]
    reason: NDArray[np.int64]


class AccountColumns(NamedTuple):
    """A batch of the venue's recorded answers; what stands for texts is in ``read``."""

    key: NDArray[np.int64]
    ts: NDArray[np.int64]
    number: NDArray[np.int64]
    kind: NDArray[np.int64]
    n: NDArray[np.int64]
    venue_id: NDArray[np.int64]
    px: NDArray[np.int64]
    qty: NDArray[np.int64]
    fee: NDArray[np.int64]
    liquidity: NDArray[np.int64]
    reason: NDArray[np.int64]
    quota_left: NDArray[np.int64]


NOTHING = 0
SIGN = 1
DISCONNECT = 2
KILL = 3
"""With the reason 0 the kill switch is released."""


# ---------------------------------------------------------------- our own orders


@compiled
def hear(w: World, u: Any) -> None:
    """Fold a change of an order into the inventory, and let risk judge it."""
    p, s = w.parameters[0], w.state[0]
    if p.without_own:
        know_own(w, u)
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
        value, rest = steps.value_parts(u.fill_px, u.filled)
        s.cash_rest -= u.side * rest
        s.cash += s.cash_rest // UNIT - u.side * value
        s.cash_rest %= UNIT
        s.fees += u.fee
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


@compiled
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
        if p.has_budget:
            count_change(w, u)
            if p.paced and not s.disposed:
                # The throttle hears of it before the rest of the graph.
                look_again(w)
        if not s.disposed:
            hear(w, u)
    s.notices_head = s.notices_tail = 0


@compiled
def let_go_of_graph(w: World) -> None:
    """Let nothing reach the graph any more: before the order sink stops."""
    s = w.state[0]
    s.disposed = 1
    for timer in range(TIMERS):
        if timer != LOOK and timer != GIVE_UP:
            w.due[timer] = NEVER
    s.next_due = w.due.min()


@compiled
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
            let_go_of_graph(w)
        on_account(w, a)
        tell(w)
    s.answers_head = s.answers_tail = 0


# ---------------------------------------------------------------- time


@compiled
def hand_on(w: World, source: int) -> None:
    """Tell the rest of the graph that a feed's value changed."""
    if source > TARGET:
        tell_other(w, source - OTHERS, w.values[w.feeds[source].latest])
    else:
        tell_feed(w, source)
    if source == TARGET or not w.parameters[0].others or weigh(w):
        on_pair(w)


@compiled
def look_at_age(w: World, source: int) -> None:
    """Judge how old a feed is, and come back when the next change is due."""
    emits, due = judge_age(w, source)
    if emits:
        hand_on(w, source)
    wait_for_age(w, source, due)


@compiled
def fire(w: World, until: int) -> None:
    """Fire the timers that are due, each at its own time."""
    s = w.state[0]
    while s.next_due <= until:
        timer = earliest(w)
        s.now = w.due[timer]
        w.due[timer] = NEVER
        s.next_due = w.due.min()
        if timer < SESSION_EDGE:
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
        elif timer == LOOK:
            look(w)
        tell(w)


@compiled
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


@inlined
def answer_first(w: World, ts: int) -> None:
    """Deliver what the venue says of a new book or trade, before the graph sees that."""
    s = w.state[0]
    if s.answers_tail:
        settle(w)
        while advance_once(w, ts):
            pass
        s.now = ts


# ---------------------------------------------------------------- the feeds


@inlined
def begin(w: World) -> None:
    """Do what happens on subscription, before the first input."""
    start_budget(w)
    start_session(w)
    start_risk(w)
    if not w.parameters[0].tutorial:
        on_pair(w)


@inlined
def finish(w: World) -> bool:
    """Stop, and let time pass until that is done; False if there is more to do."""
    s = w.state[0]
    if w.parameters[0].recorded and not s.stopping:
        # Nobody stopped it: it ends where the recording does.
        return not s.full
    if not s.stopped:
        s.stopped = 1
        a = w.answers[s.answers_tail]
        s.answers_tail += 1
        a.kind, a.reason = t.STOP, t.END_OF_RECORDING
        a.n = a.venue_id = a.px = a.qty = a.fee = a.liquidity = a.quota_left = NULL
        settle(w)
    while not s.full and not s.trouble:
        # Also what is due at the very instant at which the stop is complete.
        if advance_once(w, s.ending):
            continue
        s.ending = min(s.next_due, s.venue_due)
        if s.finished or s.ending == NEVER:
            break
    return not s.full


@compiled
def hand_in(w: World, source: int) -> None:
    """Hand a feed's new value to its age, or past it."""
    p = w.parameters[0]
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


@compiled
def not_so_simple(w: World, source: int) -> None:
    """Hand on a value that changes something, or may."""
    s = w.state[0]
    hand_in(w, source)
    if s.notices_tail or s.answers_tail:
        settle(w)


@compiled
def take_one_of_several(
    w: World, k: int, ts: int, ts_event: int, bid: int, ask: int, bid_sz: int, ask_sz: int,
    flags: int,
) -> None:  # fmt: skip
    """Take a quote of one of several signals: to the others it is a sign that they live."""
    p, s = w.parameters[0], w.state[0]
    source = signal_at(k)
    f, g = w.feeds[source], w.feed_parameters[source]
    chain(
        p, g, f, w.values[source], w.opens, SIGNAL, s.seq, ts, ts_event, bid, ask, bid_sz, ask_sz,
        flags,
    )  # fmt: skip
    f.since, f.has_spoken = ts, 1
    hand_in(w, source)
    if g.age:
        # They have subscribed to one another when all of the graph was in place.
        for i in range(p.others + 1):
            if i != k:
                heard(w, signal_at(i))
    if s.notices_tail or s.answers_tail:
        settle(w)


@compiled
def on_feed_status(w: World, feed: int, does: int) -> None:
    """Let a feed's age know that it is disconnected, or lives."""
    if does == DISCONNECT:
        if disconnected(w, feed):
            hand_on(w, feed)
    elif does == SIGN and w.feeds[feed].refused != t.DISCONNECTED:
        heard(w, feed)


@inlined
def on_status(w: World, feed: int, does: int, reason: int) -> None:
    """Take a row of status: of a feed, or the operator's kill switch."""
    if does == KILL:
        kill(w, reason)
    elif not w.parameters[0].tutorial and feed <= TARGET and w.feed_parameters[feed].age:
        on_feed_status(w, feed, does)
        if feed == SIGNAL:
            for k in range(w.parameters[0].others):
                on_feed_status(w, OTHERS + k, does)


@compiled
def heard(w: World, feed: int) -> None:
    """Take a sign of life of a feed."""
    if sign_of_life(w, feed):
        look_at_age(w, feed)


@inlined
def take_trade(w: World, trades: TradeColumns, i: int) -> None:
    """Match a public trade, then let the graph see it: it shows that the target lives."""
    s = w.state[0]
    on_trade(w, trades.px[i], trades.qty[i], trades.side[i])
    answer_first(w, s.now)
    s.seq = trades.key[i] if w.parameters[0].recorded else s.seq + 1
    trades.number[i] = s.seq
    if not w.parameters[0].tutorial and w.feed_parameters[TARGET].age:
        heard(w, TARGET)
    if s.notices_tail or s.answers_tail:
        settle(w)


@inlined
def take_status(w: World, status: StatusColumns, i: int) -> None:
    """Take a row of status as the input that it is."""
    s = w.state[0]
    s.seq = status.key[i] if w.parameters[0].recorded else s.seq + 1
    status.number[i] = s.seq
    on_status(w, status.feed[i], status.does[i], status.reason[i])
    if s.notices_tail or s.answers_tail:
        settle(w)


@compiled
def take_account(w: World, account: AccountColumns, i: int) -> None:
    """Take what the venue said, as it was recorded."""
    s, a = w.state[0], w.answers[0]
    s.seq = account.number[i] = account.key[i]
    a.seq, a.ts, a.kind, a.n = s.seq, s.now, account.kind[i], account.n[i]
    a.venue_id, a.px, a.qty, a.fee = (
        account.venue_id[i], account.px[i], account.qty[i], account.fee[i]
    )  # fmt: skip
    a.liquidity, a.reason = account.liquidity[i], account.reason[i]
    a.quota_left = account.quota_left[i]
    if a.kind == t.STOP:
        let_go_of_graph(w)
        s.stopped = 1
    on_account(w, a)
    tell(w)


@compiled
def look_ahead(s: Any, account: AccountColumns, status: StatusColumns, by_seq: bool) -> None:
    """Note what comes next of the files that seldom have a row; below −1: why the loop ends."""
    i, j = s.at_account, s.at_status
    s.other_key, s.other_kind = NEVER, -1
    if i == len(account.key) and s.more_account:
        s.other_kind = -MORE_ACCOUNT
    elif j == len(status.key) and s.more_status:
        s.other_kind = -MORE_STATUS
    else:
        # Ties go in this order.
        if i < len(account.key):
            s.other_key, s.other_kind = account.key[i], ACCOUNT_KIND
        if j < len(status.key):
            if by_seq and status.key[j] == s.other_key:
                s.trouble = TWICE
            elif status.key[j] < s.other_key:
                s.other_key, s.other_kind = status.key[j], STATUS_KIND


@compiled
def after_stop(
    w: World,
    account: AccountColumns,
    status: StatusColumns,
    signal: Columns,
    trades: TradeColumns,
    target: Columns,
    others: Columns | None,
) -> int:
    """Take what was recorded after a stop: only the order sink still listens, to the venue."""
    s = w.state[0]
    while not s.full and not s.trouble:
        look_ahead(s, account, status, True)
        if s.other_kind < -1:
            return int(-s.other_kind)
        i, j, k = s.at_signal, s.at_target, s.at_trades
        if i == len(signal.key) and s.more_signal:
            return MORE_SIGNAL
        if j == len(target.key) and s.more_target:
            return MORE_TARGET
        if k == len(trades.key) and s.more_trades:
            return MORE_TRADES
        if others is not None:
            for o in range(w.parameters[0].others):
                if w.ahead[o].at == w.ahead[o].stop and w.ahead[o].more:
                    return MORE_OTHERS + o
        key, kind, ts = s.other_key, s.other_kind, 0
        if kind == ACCOUNT_KIND:
            ts = account.ts[s.at_account]
        elif kind == STATUS_KIND:
            ts = status.ts[s.at_status]
        same = 0
        if i < len(signal.key):
            same += signal.key[i] == key
            if signal.key[i] < key:
                key, kind, ts = signal.key[i], SIGNAL_KIND, signal.ts[i]
        if others is not None:
            for o in range(w.parameters[0].others):
                at = w.ahead[o].at
                if at < w.ahead[o].stop:
                    same += others.key[o, at] == key
                    if others.key[o, at] < key:
                        key, kind, ts = others.key[o, at], SIGNAL_KIND + 1 + o, others.ts[o, at]
        if k < len(trades.key):
            same += trades.key[k] == key
            if trades.key[k] < key:
                key, kind, ts = trades.key[k], TRADE_KIND, trades.ts[k]
        if j < len(target.key):
            same += target.key[j] == key
            if target.key[j] < key:
                key, kind, ts = target.key[j], TARGET_KIND, target.ts[j]
        if same:
            s.trouble = TWICE
        elif kind < 0:
            return DONE
        elif ts < s.before_ts:
            s.trouble = BACKWARDS
        elif ts >= s.next_due and advance_once(w, ts):
            continue
        else:
            s.before_ts = s.now = ts
            if kind == ACCOUNT_KIND:
                s.at_account += 1
                take_account(w, account, s.at_account - 1)
                continue
            s.seq = key
            if others is not None:
                is_other = SIGNAL_KIND < kind < TRADE_KIND
                if is_other:
                    o = kind - SIGNAL_KIND - 1
                    others.number[o, w.ahead[o].at] = key
                    w.ahead[o].at += 1
                    continue
            if kind == STATUS_KIND:
                status.number[s.at_status] = key
                s.at_status += 1
            elif kind == SIGNAL_KIND:
                signal.number[i] = key
                s.at_signal += 1
            elif kind == TRADE_KIND:
                trades.number[k] = key
                s.at_trades += 1
            else:
                target.number[j] = key
                s.at_target += 1
    return TROUBLE if s.trouble else FULL


@inlined
def twice(s: Any) -> int:
    """Say that two feeds share a number."""
    s.trouble = TWICE
    return TROUBLE


@inlined
def count_tie(s: Any, by_seq: bool, ts: int, kind: int) -> None:
    """Count neighbours of different feeds with one ``ts``: their order was a choice."""
    if not by_seq and ts == s.before_ts and kind != s.before_kind:
        s.ties += 1
    s.before_ts, s.before_kind = ts, kind


def make_run(version: str) -> Callable[..., int]:
    """Make the loop; its compiled code is kept for sources of this ``version`` only.

    numba looks at the file of a function to tell whether its cached code still holds, not at those
    of the functions that it calls; what a function closes over it looks at as well.
    """

    @njit(cache=True, nogil=True)
    def run(
        world: World,
        account: AccountColumns,
        status: StatusColumns,
        signal: Columns,
        trades: TradeColumns,
        target: Columns,
        others: Columns | None,
        by_seq: bool,
    ) -> int:
        """Run on from the present rows; say why it came back.

        ``others``: further signals, a line each. Without any (``None``) the loop is compiled
        without them, so that one signal does not pay for several.
        """
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
        # An array that is a field of an argument is counted again wherever it is used.
        signal_key, signal_ts, signal_number = signal.key, signal.ts, signal.number
        signal_event, signal_flags = signal.ts_event, signal.flags
        signal_bid, signal_ask = signal.bid_px, signal.ask_px
        signal_bid_sz, signal_ask_sz = signal.bid_sz, signal.ask_sz
        target_key, target_ts, target_number = target.key, target.ts, target.number
        target_event, target_flags = target.ts_event, target.flags
        target_bid, target_ask = target.bid_px, target.ask_px
        target_bid_sz, target_ask_sz = target.bid_sz, target.ask_sz
        trades_key, trades_ts = trades.key, trades.ts
        status_ts, account_ts = status.ts, account.ts
        signals, targets, prints = len(signal_key), len(target_key), len(trades_key)
        opens, recorded = w.opens, p.recorded
        # What the rest of the graph has of the signal, or of all signals together.
        together = SIGNAL
        if others is not None:
            together = WEIGHTED
            vs = w.values[WEIGHTED]
            others_key, others_ts, others_number = others.key, others.ts, others.number
            others_event, others_flags = others.ts_event, others.flags
            others_bid, others_ask = others.bid_px, others.ask_px
            others_bid_sz, others_ask_sz = others.bid_sz, others.ask_sz
        look_ahead(s, account, status, by_seq)
        while not s.stopped:
            if s.full:
                return FULL
            if s.trouble:
                return TROUBLE
            i, j = s.at_signal, s.at_target
            if i == signals and s.more_signal:
                return MORE_SIGNAL
            if j == targets and s.more_target:
                return MORE_TARGET
            if s.other_kind < -1:
                return -s.other_kind
            if s.at_trades == prints and s.more_trades:
                return MORE_TRADES
            if others is not None:
                for k in range(p.others):
                    if w.ahead[k].at == w.ahead[k].stop and w.ahead[k].more:
                        return MORE_OTHERS + k
            # Ties go in this order.
            key, kind = s.other_key, s.other_kind
            if i < signals:
                if by_seq and signal_key[i] == key:
                    return twice(s)
                if signal_key[i] < key:
                    key, kind = signal_key[i], SIGNAL_KIND
            if others is not None:
                for k in range(p.others):
                    at = w.ahead[k].at
                    if at < w.ahead[k].stop:
                        if by_seq and others_key[k, at] == key:
                            return twice(s)
                        if others_key[k, at] < key:
                            key, kind = others_key[k, at], SIGNAL_KIND + 1 + k
            if s.at_trades < prints:
                if by_seq and trades_key[s.at_trades] == key:
                    return twice(s)
                if trades_key[s.at_trades] < key:
                    key, kind = trades_key[s.at_trades], TRADE_KIND
            if j < targets:
                if by_seq and target_key[j] == key:
                    return twice(s)
                if target_key[j] < key:
                    key, kind = target_key[j], TARGET_KIND
            if kind < 0:
                break
            is_signal = kind == SIGNAL_KIND
            if is_signal:
                ts = signal_ts[i]
            elif kind == TARGET_KIND:
                ts = target_ts[j]
            elif kind == TRADE_KIND:
                ts = trades_ts[s.at_trades]
            elif kind == STATUS_KIND:
                ts = status_ts[s.at_status]
            elif kind == ACCOUNT_KIND:
                ts = account_ts[s.at_account]
            else:
                ts = 0
            if others is not None:
                is_other = SIGNAL_KIND < kind < TRADE_KIND
                if is_other:
                    k = kind - SIGNAL_KIND - 1
                    ts = others_ts[k, w.ahead[k].at]
            if by_seq and ts < s.before_ts:
                s.trouble = BACKWARDS
                return TROUBLE
            if ts >= min(s.next_due, s.venue_due) and advance_once(w, ts):
                # One at a time, so that there is room for what each puts out.
                continue
            count_tie(s, by_seq, ts, kind)
            s.now = ts
            if others is not None:
                if is_other:
                    k = kind - SIGNAL_KIND - 1
                    at = w.ahead[k].at
                    w.ahead[k].at = at + 1
                    s.seq = others_key[k, at] if recorded else s.seq + 1
                    others_number[k, at] = s.seq
                    take_one_of_several(
                        w, k + 1, ts, others_event[k, at], others_bid[k, at], others_ask[k, at],
                        others_bid_sz[k, at], others_ask_sz[k, at], others_flags[k, at],
                    )  # fmt: skip
                    continue
                if is_signal:
                    s.at_signal = i + 1
                    s.seq = signal_key[i] if recorded else s.seq + 1
                    signal_number[i] = s.seq
                    take_one_of_several(
                        w, 0, ts, signal_event[i], signal_bid[i], signal_ask[i],
                        signal_bid_sz[i], signal_ask_sz[i], signal_flags[i],
                    )  # fmt: skip
                    continue
            if not is_signal and kind != TARGET_KIND:
                if kind == TRADE_KIND:
                    s.at_trades += 1
                    take_trade(w, trades, s.at_trades - 1)
                elif kind == STATUS_KIND:
                    s.at_status += 1
                    look_ahead(s, account, status, by_seq)
                    take_status(w, status, s.at_status - 1)
                else:
                    s.at_account += 1
                    look_ahead(s, account, status, by_seq)
                    take_account(w, account, s.at_account - 1)
                continue
            if is_signal:
                s.at_signal = i + 1
                s.seq = signal_key[i] if recorded else s.seq + 1
                signal_number[i] = s.seq
                chain(
                    p, gs, fs, vs, opens, SIGNAL, s.seq, ts, signal_event[i],
                    signal_bid[i], signal_ask[i], signal_bid_sz[i], signal_ask_sz[i],
                    signal_flags[i],
                )  # fmt: skip
                f, g, source = fs, gs, SIGNAL
            else:
                s.at_target = j + 1
                bid, ask = target_bid[j], target_ask[j]
                bid_sz, ask_sz = target_bid_sz[j], target_ask_sz[j]
                s.bid, s.ask, s.bid_sz, s.ask_sz = bid, ask, bid_sz, ask_sz
                if matters(s, ts):
                    on_book(w)
                    answer_first(w, ts)
                s.seq = target_key[j] if recorded else s.seq + 1
                target_number[j] = s.seq
                if p.without_own:
                    bid, ask, bid_sz, ask_sz = without_own(w, bid, ask, bid_sz, ask_sz)
                chain(
                    p, gt, ft, vt, opens, TARGET, s.seq, ts, target_event[j],
                    bid, ask, bid_sz, ask_sz, target_flags[j],
                )  # fmt: skip
                f, g, source = ft, gt, TARGET
            f.since, f.has_spoken = ts, 1
            if (
                not p.tutorial
                and not (g.age and (f.refused or not f.waiting))
                and not vs.is_refusal
                and not vt.is_refusal
                and (together == WEIGHTED or fs.latest == SIGNAL)
                and ft.latest == TARGET
                and unchanged(p, s, vs, vt)
            ):
                tell_feed(w, source)
                s.refused_by = -1
                s.signal_place = s.kill_signal = together
                s.target_place = s.kill_target = TARGET
                s.has_state = 1
                s.unmoved += 1
            else:
                not_so_simple(w, source)
        if recorded and s.stopped:
            came = after_stop(w, account, status, signal, trades, target, others)
            if came != DONE:
                return came
        if not finish(w):
            return FULL
        return TROUBLE if s.trouble else DONE

    run_: Callable[..., int] = run
    return run_
