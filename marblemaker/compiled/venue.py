"""The simulated venue: the rules of ``sinks.simulated`` and its fill models, ``sinks.fills``."""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.budget import admit, credit, pay
from marblemaker.compiled.layout import (
    CANCEL,
    CREATE,
    FEW,
    MEMORY,
    MODIFY,
    NEVER,
    QUERY,
    TRADES,
    World,
)
from marblemaker.compiled.machine import compiled
from sinks.simulated import REMEMBERED_ORDERS
from streams.events import BUY

__all__ = ["advance", "matters", "on_book", "on_trade", "submit"]

NULL = t.NULL_WORD
CROSS, QUEUE = 1, 2
"""Fill models; ``touch`` is 0. As numbers, touch and cross are how far through a price is."""
ARRIVING, RESTING, ENDED = 0, 1, 2
"""Where an order is."""
UNKNOWN = 2**62
"""Queue in front that nothing is known of: no trade takes anything from it."""


@compiled
def below(px: int, qty: int, least: int) -> bool:
    """Tell whether px × qty is below ``least`` × UNIT, in parts that fit 64 bits."""
    return steps.value_parts(px, qty)[0] < least


# ---------------------------------------------------------------- answers


@compiled
def say(w: World, kind: int, n: int, reason: int) -> None:
    """Queue an answer."""
    s = w.state[0]
    if s.answers_tail == len(w.answers):
        s.trouble = 1
        return
    a = w.answers[s.answers_tail]
    s.answers_tail += 1
    a.kind, a.n, a.reason = kind, n, reason
    a.venue_id = a.px = a.qty = a.fee = a.liquidity = a.quota_left = NULL
    limited = reason == t.TOO_MANY_REQUESTS or reason == t.QUOTA_EXHAUSTED
    if w.parameters[0].has_budget and (kind == t.ACK or kind == t.MODIFY or limited):
        a.quota_left = w.budget[0].account_quota


@compiled
def say_fill(w: World, n: int, px: int, qty: int, fee_ppm: int, liquidity: int) -> None:
    """Queue the answer of a fill."""
    s = w.state[0]
    s.trades += 1
    if w.parameters[0].has_budget:
        credit(w, px, qty)
    say(w, t.FILL, n, NULL)
    a = w.answers[s.answers_tail - 1]
    a.venue_id, a.px, a.qty, a.liquidity = s.trades, px, qty, liquidity
    a.fee = steps.fee_in_parts(px, qty, fee_ppm)
    if w.parameters[0].asks:
        remember_fill(w, n, a)


# ---------------------------------------------------------------- the API


@compiled
def refusal_of(w: World, c: Any) -> int:
    """Why the API refuses a create or modify; ``NULL``: it does not."""
    p = w.parameters[0]
    if c.px != NULL and (c.px <= 0 or c.px % p.tick_size):
        return t.OFF_TICK
    if c.qty <= 0 or c.qty % p.lot_size:
        return t.OFF_LOT
    if c.px == NULL:
        return NULL
    if c.qty < p.min_base:
        return t.BELOW_BASE
    if below(c.px, c.qty, p.min_quote):
        return t.BELOW_QUOTE
    if c.kind == CREATE:
        live = w.state[0].live
        if 0 <= p.live_in_account <= live:
            return t.TOO_MANY_IN_ACCOUNT
        if 0 <= p.live_in_market <= live:
            return t.TOO_MANY_IN_MARKET
    return NULL


@compiled
def submit(w: World, start: int, stop: int) -> None:
    """Take a batch of commands now; the answers may be in the recording."""
    p, s = w.parameters[0], w.state[0]
    if p.recorded:
        return
    transactions = 0
    for k in range(start, stop):
        transactions += w.commands[k].kind != QUERY
    admitted = not p.has_budget or not transactions or admit(w)
    for k in range(start, stop):
        c = w.commands[k]
        delay_ns = p.cancel_ns
        refusal = NULL
        if c.kind == QUERY:
            if p.has_budget and not admit(w):
                continue
        elif not admitted:
            refusal = t.TOO_MANY_REQUESTS
        elif c.kind != CANCEL:
            refusal = refusal_of(w, c)
            if refusal == NULL and p.has_budget and not pay(w, transactions == 1):
                refusal = t.QUOTA_EXHAUSTED
        if refusal != NULL:
            refused = t.MODIFY_REJECT if c.kind == MODIFY else t.CANCEL_REJECT
            say(w, t.REJECT if c.kind == CREATE else refused, c.n, refusal)
            continue
        if c.kind == CREATE or c.kind == MODIFY:
            delay_ns = p.taker_ns if c.px == NULL else p.maker_ns
            # Live are those that rest and those on their way there.
            s.live += c.kind == CREATE and c.px != NULL
            if p.asks and c.kind == CREATE:
                remember(w, c.n)
        if not delay_ns and s.now < s.venue_due:
            take(w, c)
        else:
            # Also without a delay, when what was sent before arrives at this very instant.
            put_on_the_way(w, c, s.now + delay_ns)


@compiled
def put_on_the_way(w: World, c: Any, due: int) -> None:
    """Let a command travel: sorted by arrival, then by submission."""
    s = w.state[0]
    if s.on_the_way == len(w.on_the_way):
        s.trouble = 1
        return
    k = s.on_the_way
    while k > 0 and w.on_the_way[k - 1].due > due:
        w.on_the_way[k] = w.on_the_way[k - 1]
        k -= 1
    w.on_the_way[k] = c
    w.on_the_way[k].due = due
    s.on_the_way += 1
    s.venue_due = w.on_the_way[0].due


@compiled
def advance(w: World, until: int) -> None:
    """Let the commands take effect that arrive at or before an instant."""
    s = w.state[0]
    arrived = 0
    while arrived < s.on_the_way and w.on_the_way[arrived].due <= until:
        take(w, w.on_the_way[arrived])
        arrived += 1
    for k in range(arrived, s.on_the_way):
        w.on_the_way[k - arrived] = w.on_the_way[k]
    s.on_the_way -= arrived
    s.venue_due = w.on_the_way[0].due if s.on_the_way else NEVER


# ---------------------------------------------------------------- the engine


@compiled
def take(w: World, c: Any) -> None:
    """Let a command take effect."""
    s = w.state[0]
    if c.kind == CREATE:
        create(w, c)
        return
    if c.kind == QUERY:
        tell_of(w, c.n)
        return
    k = 0
    while k < s.resting and w.resting[k].n != c.n:
        k += 1
    if k == s.resting:
        late = c.kind == CANCEL
        kind, reason = t.MODIFY_REJECT, t.NOT_ACTIVE
        if late:
            kind, reason = t.CANCEL_REJECT, t.NOT_OPEN
        say(w, kind, c.n, reason)
    elif c.kind == CANCEL:
        say(w, t.CANCEL, c.n, t.REQUESTED)
        leave(w, k, t.CANCEL)
    else:
        modify(w, k, c)
    watch(w)


@compiled
def modify(w: World, k: int, c: Any) -> None:
    """Move a resting order: it is lost if it would cross, and stands behind all others if not."""
    p, s, r = w.parameters[0], w.state[0], w.resting[k]
    opposite = s.ask if r.side == BUY else s.bid
    if c.qty <= r.filled:
        say(w, t.CANCEL, c.n, t.DONE_ALREADY)
        leave(w, k, t.CANCEL)
    elif opposite != NULL and r.side * (c.px - opposite) >= 0:
        say(w, t.CANCEL, c.n, t.MOVED_ACROSS)
        leave(w, k, t.CANCEL)
    else:
        r.px, r.total = c.px, c.qty
        rest(w, r, p.fill_model, c.qty - r.filled)
        w.resting[s.resting] = r
        close_gap(w.resting, k, s.resting)
        for i in range(p.shadows):
            rest_in_shadow(w, i, w.resting[s.resting - 1])
        say(w, t.MODIFY, c.n, NULL)
        a = w.answers[s.answers_tail - 1]
        a.px, a.qty = c.px, c.qty


@compiled
def rest(w: World, r: Any, model: int, leaves: int) -> None:
    """Let an order rest with this much left, behind all others in the book of this instant."""
    s = w.state[0]
    r.leaves, r.ahead = leaves, 0
    if model == QUEUE:
        best, size = (s.bid, s.bid_sz) if r.side == BUY else (s.ask, s.ask_sz)
        r.ahead = shown(r.side, r.px, best, size)


@compiled
def create(w: World, c: Any) -> None:
    """Let an order arrive: it takes, is refused, or rests."""
    p, s = w.parameters[0], w.state[0]
    opposite = s.ask if c.side == BUY else s.bid
    if c.px == NULL:
        if opposite == NULL:
            say(w, t.REJECT, c.n, t.NO_LIQUIDITY)
            end(w, c.n, t.REJECT)
            return
        say(w, t.ACK, c.n, NULL)
        say_fill(w, c.n, opposite, c.qty, p.taker_ppm, t.TAKER)
        for i in range(p.shadows):
            book(w, i, c.side, opposite, c.qty, p.taker_ppm, t.TAKER)
        end(w, c.n, NULL)
    elif opposite != NULL and c.side * (c.px - opposite) >= 0:
        say(w, t.REJECT, c.n, t.WOULD_CROSS)
        s.live -= 1
        end(w, c.n, t.REJECT)
    else:
        say(w, t.ACK, c.n, NULL)
        if s.resting == len(w.resting) - 1:
            s.trouble = 1
            return
        r = w.resting[s.resting]
        s.resting += 1
        r.n, r.side, r.px, r.total, r.filled = c.n, c.side, c.px, c.qty, 0
        s.arrived += 1
        r.expire_ts, r.arrived = c.expire_ts, s.arrived
        rest(w, r, p.fill_model, c.qty)
        if p.asks:
            w.known[c.n % MEMORY].where = RESTING
        for i in range(p.shadows):
            rest_in_shadow(w, i, r)
        watch(w)


@compiled
def leave(w: World, k: int, kind: int) -> None:
    """Take an order out of its place in the book, ended by ``kind``; ``NULL``: by its last fill."""
    s = w.state[0]
    end(w, w.resting[k].n, kind)
    for i in range(w.parameters[0].shadows):
        leave_shadow(w, i, w.resting[k].n)
    s.resting -= 1
    close_gap(w.resting, k, s.resting)
    s.live -= 1


@compiled
def close_gap(orders: Any, k: int, last: int) -> None:
    """Move up what stands behind a place, as far as to ``last``."""
    for i in range(k, last):
        orders[i] = orders[i + 1]


@compiled
def watch(w: World) -> None:
    """Note which quotes and trades cannot matter; see ``sinks.fills.Fills``."""
    p, s = w.parameters[0], w.state[0]
    s.bid_low = s.ask_low = -1
    s.bid_high = s.ask_high = s.next_expiry = NEVER
    s.bid_ahead = s.ask_ahead = 0
    for k in range(s.resting):
        watch_order(s, w.resting[k], p.fill_model)
        s.next_expiry = min(s.next_expiry, w.resting[k].expire_ts)
    watch_taken(s, s)
    for i in range(p.shadows):
        for k in range(w.shadows[i].orders):
            if w.shadowed[i, k].leaves:
                watch_order(s, w.shadowed[i, k], w.shadows[i].model)
        watch_taken(s, w.shadows[i])
    s.queued = s.bid_low >= 0 or s.ask_high < NEVER


@compiled
def watch_order(s: Any, r: Any, model: int) -> None:
    """Have what may reach an order, or shorten the queue in front of it, looked at."""
    through = 1 if model == CROSS else 0
    # A buy is reached when ask <= px; strictly through its price is ask <= px − 1.
    if r.side == BUY:
        s.ask_low = max(s.ask_low, r.px - through)
        if r.ahead and r.px >= s.bid_low:
            s.bid_ahead = max(r.ahead, s.bid_ahead if r.px == s.bid_low else 0)
            s.bid_low = r.px
    else:
        s.bid_high = min(s.bid_high, r.px + through)
        if r.ahead and r.px <= s.ask_high:
            s.ask_ahead = max(r.ahead, s.ask_ahead if r.px == s.ask_high else 0)
            s.ask_high = r.px


@compiled
def watch_taken(s: Any, b: Any) -> None:
    """Once we took from a level that touches us, have the quote that ends it looked at."""
    if b.buy_taken:
        s.ask_low = NEVER
    if b.sell_taken:
        s.bid_high = -1


@compiled
def matters(s: Any, ts: int) -> bool:
    """Tell whether the new book may matter to an order that rests."""
    bid, ask = s.bid, s.ask
    return (
        (ask != NULL and ask <= s.ask_low)
        or (bid != NULL and bid >= s.bid_high)
        or ts >= s.next_expiry
        or (
            s.queued and ((bid != NULL and bid <= s.bid_low) or (ask != NULL and ask >= s.ask_high))
        )
    )


@compiled
def on_book(w: World) -> None:
    """Match resting orders against the new book, then expire what is due."""
    p, s = w.parameters[0], w.state[0]
    if is_calm(s):
        expire(w)
        return
    for i in range(p.shadows):
        # They see an order for the last time when the model that was asked for ends it.
        b = w.shadows[i]
        see_level(s, b)
        for k in range(b.orders):
            r = w.shadowed[i, k]
            if r.leaves:
                fill_shadow(w, i, r, part_of_book(s, b, r, b.model))
    see_level(s, s)
    k = 0
    while k < s.resting:
        part = part_of_book(s, s, w.resting[k], p.fill_model)
        k += fill_maker(w, k, part) if part > 0 else 1
    expire(w)


@compiled
def on_trade(w: World, px: int, qty: int, side: int) -> None:
    """Match resting orders against a public trade, then expire what is due."""
    p, s = w.parameters[0], w.state[0]
    if s.ask_low < px < s.bid_high:
        if s.now >= s.next_expiry:
            expire(w)
        return
    for i in range(p.shadows):
        b = w.shadows[i]
        left_buy = left_sell = qty
        for k in range(b.orders):
            r = w.shadowed[i, k]
            part, taken = part_of_trade(r, b.model, px, side, left_buy, left_sell)
            left_buy -= taken if r.side == BUY else 0
            left_sell -= taken if r.side != BUY else 0
            fill_shadow(w, i, r, part)
    left_buy = left_sell = qty
    k = 0
    while k < s.resting:
        r = w.resting[k]
        part, taken = part_of_trade(r, p.fill_model, px, side, left_buy, left_sell)
        left_buy -= taken if r.side == BUY else 0
        left_sell -= taken if r.side != BUY else 0
        k += fill_maker(w, k, part) if part > 0 else 1
    expire(w)


@compiled
def part_of_trade(
    r: Any, model: int, px: int, side: int, left_buy: int, left_sell: int
) -> tuple[int, int]:
    """What a public trade fills of an order, and what of it others of ours cannot have as well."""
    far = beyond(r, px)
    if r.side == side or far < 0:
        return 0, 0
    if model != QUEUE:
        return r.leaves if far >= model else 0, 0
    if far > 0:
        return r.leaves, 0
    # What an order of ours took before this one did not take anybody else's place.
    left = left_buy if r.side == BUY else left_sell
    part = 0
    if r.ahead < UNKNOWN:
        part = min(r.leaves, max(left - r.ahead, 0))
        r.ahead = max(r.ahead - left, 0)
    return part, part


@compiled
def fill_maker(w: World, k: int, qty: int) -> int:
    """Fill a resting order in part or whole; return 1 if it still rests."""
    p, r = w.parameters[0], w.resting[k]
    say_fill(w, r.n, r.px, qty, p.maker_ppm, t.MAKER)
    r.filled += qty
    r.leaves -= qty
    if r.filled >= r.total:
        leave(w, k, NULL)
        return 0
    return 1


@compiled
def expire(w: World) -> None:
    """Expire what is due, in order of arrival."""
    s = w.state[0]
    while True:
        first = -1
        for k in range(s.resting):
            r = w.resting[k]
            if r.expire_ts <= s.now and (first < 0 or r.arrived < w.resting[first].arrived):
                first = k
        if first < 0:
            break
        say(w, t.EXPIRE, w.resting[first].n, NULL)
        leave(w, first, t.EXPIRE)
    watch(w)


# ---------------------------------------------------------------- the memory for queries


@compiled
def is_remembered(s: Any, e: Any, n: int) -> bool:
    """Tell whether an entry is of an order that is not forgotten."""
    return e.n == n and (e.where != ENDED or s.ended - e.ended < REMEMBERED_ORDERS)


@compiled
def remember(w: World, n: int) -> None:
    """Know an order from now on."""
    s, e = w.state[0], w.known[n % MEMORY]
    if e.n and is_remembered(s, e, e.n):
        s.trouble = 1
    e.n, e.where, e.first, e.last, e.end = n, ARRIVING, 0, 0, NULL


@compiled
def remember_fill(w: World, n: int, a: Any) -> None:
    """Know a fill of an order."""
    s, e, f = w.state[0], w.known[n % MEMORY], w.said[w.state[0].trades % TRADES]
    f.next, f.px, f.qty, f.fee, f.liquidity = 0, a.px, a.qty, a.fee, a.liquidity
    if e.last:
        w.said[e.last % TRADES].next = s.trades
    else:
        e.first = s.trades
    e.last = s.trades


@compiled
def end(w: World, n: int, kind: int) -> None:
    """Know how an order ended."""
    s = w.state[0]
    if w.parameters[0].asks:
        e = w.known[n % MEMORY]
        s.ended += 1
        e.where, e.end, e.ended = ENDED, kind, s.ended


@compiled
def tell_of(w: World, n: int) -> None:
    """Say what became of an order."""
    s, e = w.state[0], w.known[n % MEMORY]
    if not is_remembered(s, e, n):
        say(w, t.REJECT, n, t.UNKNOWN_ORDER)
        return
    if e.where == ARRIVING:
        return  # Its own answer is still to come, and says more.
    if e.first and s.trades - e.first >= TRADES:
        s.trouble = 1
        return
    trade = e.first
    while trade:
        f = w.said[trade % TRADES]
        say(w, t.FILL, n, t.ASKED_FOR)
        a = w.answers[s.answers_tail - 1]
        a.venue_id, a.px, a.qty = trade, f.px, f.qty
        a.fee, a.liquidity = f.fee, f.liquidity
        trade = f.next
    if e.where == ENDED:
        # Nothing is left of one that filled.
        say(w, t.CANCEL if e.end == NULL else e.end, n, t.ASKED_FOR)
        return
    k = 0
    while w.resting[k].n != n:
        k += 1
    say(w, t.ACK, n, t.ASKED_FOR)
    a = w.answers[s.answers_tail - 1]
    a.px, a.qty = w.resting[k].px, w.resting[k].total


# ---------------------------------------------------------------- the queue in front


@compiled
def beyond(r: Any, level: int) -> int:
    """How far a price on the other side is through the order's; negative: it is not there."""
    return -1 if level == NULL else r.side * (r.px - level)


@compiled
def shown(side: int, px: int, best: int, size: int) -> int:
    """Size that a book shows before an order at ``px`` on its own side, as far as it shows it."""
    if best == NULL or side * (best - px) > 0:
        return UNKNOWN
    if best != px:
        return 0
    return UNKNOWN if size == NULL else size


@compiled
def taken_of(level: int, taken: int, px: int, size: int) -> tuple[int, int]:
    """The level that the book shows now, and what we have taken of it."""
    if px == NULL:
        return level, taken
    if px != level:
        return px, 0
    return px, taken if size == NULL else min(taken, size)


@compiled
def is_calm(s: Any) -> bool:
    """Tell whether the new book fills nothing and changes no queue."""
    bid, ask, bid_sz, ask_sz = s.bid, s.ask, s.bid_sz, s.ask_sz
    calm_bid = bid == NULL or (
        bid < s.bid_high
        and (bid > s.bid_low or (bid == s.bid_low and (bid_sz == NULL or bid_sz >= s.bid_ahead)))
    )
    calm_ask = ask == NULL or (
        ask > s.ask_low
        and (ask < s.ask_high or (ask == s.ask_high and (ask_sz == NULL or ask_sz >= s.ask_ahead)))
    )
    return calm_bid and calm_ask


@compiled
def see_level(s: Any, b: Any) -> None:
    """Note which levels of the new book touch us, and what we have taken of those."""
    b.buy_touched, b.buy_taken = taken_of(b.buy_touched, b.buy_taken, s.ask, s.ask_sz)
    b.sell_touched, b.sell_taken = taken_of(b.sell_touched, b.sell_taken, s.bid, s.bid_sz)


@compiled
def part_of_book(s: Any, b: Any, r: Any, model: int) -> int:
    """What the new book fills of an order under a fill model; see ``sinks.fills.Queue``."""
    if r.side == BUY:
        best, size, opposite, offered, taken = s.bid, s.bid_sz, s.ask, s.ask_sz, b.buy_taken
    else:
        best, size, opposite, offered, taken = s.ask, s.ask_sz, s.bid, s.bid_sz, b.sell_taken
    far = beyond(r, opposite)
    if model != QUEUE:
        return r.leaves if far >= model else 0
    r.ahead = min(r.ahead, shown(r.side, r.px, best, size))
    if far > 0:
        return r.leaves
    if far < 0:
        return 0
    r.ahead = 0
    if offered == NULL:
        return r.leaves
    part = min(r.leaves, offered - taken)
    if r.side == BUY:
        b.buy_taken = taken + part
    else:
        b.sell_taken = taken + part
    return part


# ---------------------------------------------------------------- the other fill models


@compiled
def rest_in_shadow(w: World, i: int, order: Any) -> None:
    """Let an order rest, or rest anew, under another fill model."""
    b = w.shadows[i]
    filled = leave_shadow(w, i, order.n)
    r = w.shadowed[i, b.orders]
    b.orders += 1
    r.n, r.side, r.px, r.filled = order.n, order.side, order.px, filled
    rest(w, r, b.model, max(order.total - filled, 0))


@compiled
def leave_shadow(w: World, i: int, n: int) -> int:
    """Take an order out, if it is there; tell what of it has filled."""
    b = w.shadows[i]
    for k in range(b.orders):
        if w.shadowed[i, k].n == n:
            filled = w.shadowed[i, k].filled
            b.orders -= 1
            close_gap(w.shadowed[i], k, b.orders)
            return int(filled)
    return 0


@compiled
def fill_shadow(w: World, i: int, r: Any, part: int) -> None:
    """Fill an order in part or whole; what is left of its life is the venue's to tell."""
    if part > 0:
        r.filled += part
        r.leaves -= part
        book(w, i, r.side, r.px, part, w.parameters[0].maker_ppm, t.MAKER)


@compiled
def book(w: World, i: int, side: int, px: int, qty: int, fee_ppm: int, liquidity: int) -> None:
    """Write down a fill of another fill model."""
    s = w.state[0]
    row = w.bound_out[s.bound_rows]
    row.model, row.side, row.px, row.qty = w.shadows[i].model, side, px, qty
    row.fee, row.liquidity = steps.fee_in_parts(px, qty, fee_ppm), liquidity
    s.bound_rows += 1
    if s.bound_rows >= min(w.parameters[0].most_rows, FEW):
        s.full = 1
