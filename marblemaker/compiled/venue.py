"""The simulated venue: the rules of ``sinks.simulated``, with the fill models touch and cross."""

from __future__ import annotations

from typing import Any

from numba import njit

from marblemaker.compiled import texts as t
from marblemaker.compiled.layout import NEVER, World
from streams.events import BUY
from streams.instrument import UNIT

__all__ = ["advance", "fee_of", "on_book", "submit"]

NULL = t.NULL_WORD


@njit
def fee_of(px: int, qty: int, fee_ppm: int) -> int:
    """Fee of a fill, rounded up: ``sinks.simulated.fee_of`` in parts that fit 64 bits."""
    whole, part = qty // UNIT, qty % UNIT
    # px × qty = value × UNIT + rest
    by_part, rest = part * (px // UNIT), part * (px % UNIT)
    value, rest = whole * px + by_part + rest // UNIT, rest % UNIT
    # × ppm, in 1e-15 of quote currency: large × 1e15 + small
    large, small = value * fee_ppm // 1_000_000, value * fee_ppm % 1_000_000
    small = small * UNIT + rest * fee_ppm
    return large + -(-small // (UNIT * 1_000_000))


@njit
def below(px: int, qty: int, least: int) -> bool:
    """Tell whether px × qty is below ``least`` × UNIT, in parts that fit 64 bits."""
    whole, part = qty // UNIT, qty % UNIT
    rest = part * (px % UNIT)
    return whole * px + part * (px // UNIT) + rest // UNIT < least


# ---------------------------------------------------------------- answers


@njit
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


@njit
def say_fill(w: World, n: int, px: int, qty: int, fee_ppm: int, liquidity: int) -> None:
    """Queue the answer of a fill."""
    s = w.state[0]
    s.trades += 1
    say(w, t.FILL, n, NULL)
    a = w.answers[s.answers_tail - 1]
    a.venue_id, a.px, a.qty, a.liquidity = s.trades, px, qty, liquidity
    a.fee = fee_of(px, qty, fee_ppm)


# ---------------------------------------------------------------- the API


@njit
def refusal_of(w: World, c: Any) -> int:
    """Why the API refuses a create whatever the market does; ``NULL`` when it does not."""
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
    return NULL


@njit
def submit(w: World, start: int, stop: int) -> None:
    """Take a batch of commands now."""
    p, s = w.parameters[0], w.state[0]
    for k in range(start, stop):
        c = w.commands[k]
        if not c.is_cancel:
            refusal = refusal_of(w, c)
            if refusal != NULL:
                say(w, t.REJECT, c.n, refusal)
                continue
        delay_ns = p.cancel_ns
        if not c.is_cancel:
            delay_ns = p.taker_ns if c.px == NULL else p.maker_ns
        if not delay_ns and s.now < s.venue_due:
            take(w, c)
        else:
            # Also without a delay, when what was sent before arrives at this very instant.
            put_on_the_way(w, c, s.now + delay_ns)


@njit
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


@njit
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


@njit
def take(w: World, c: Any) -> None:
    """Let a command take effect."""
    s = w.state[0]
    if c.is_cancel:
        for k in range(s.resting):
            if w.resting[k].n == c.n:
                say(w, t.CANCEL, c.n, t.REQUESTED)
                leave(w, k)
                watch(w)
                return
        say(w, t.CANCEL_REJECT, c.n, t.NOT_OPEN)
    else:
        create(w, c)


@njit
def create(w: World, c: Any) -> None:
    """Let an order arrive: it takes, is refused, or rests."""
    p, s = w.parameters[0], w.state[0]
    opposite = s.ask if c.side == BUY else s.bid
    if c.px == NULL:
        if opposite == NULL:
            say(w, t.REJECT, c.n, t.NO_LIQUIDITY)
            return
        say(w, t.ACK, c.n, NULL)
        say_fill(w, c.n, opposite, c.qty, p.taker_ppm, t.TAKER)
    elif opposite != NULL and c.side * (c.px - opposite) >= 0:
        say(w, t.REJECT, c.n, t.WOULD_CROSS)
    else:
        say(w, t.ACK, c.n, NULL)
        if s.resting == len(w.resting):
            s.trouble = 1
            return
        r = w.resting[s.resting]
        s.resting += 1
        r.n, r.side, r.px, r.total, r.filled = c.n, c.side, c.px, c.qty, 0
        r.expire_ts = c.expire_ts
        watch(w)


@njit
def leave(w: World, k: int) -> None:
    """Take an order that ended out of the book."""
    s = w.state[0]
    for rest in range(k, s.resting - 1):
        w.resting[rest] = w.resting[rest + 1]
    s.resting -= 1


@njit
def watch(w: World) -> None:
    """Note which quotes cannot matter."""
    p, s = w.parameters[0], w.state[0]
    s.bid_high, s.ask_low, s.next_expiry = NEVER, -1, NEVER
    for k in range(s.resting):
        r = w.resting[k]
        # A buy is reached when ask <= px; strictly through its price is ask <= px − 1.
        if r.side == BUY:
            s.ask_low = max(s.ask_low, r.px - p.cross)
        else:
            s.bid_high = min(s.bid_high, r.px + p.cross)
        s.next_expiry = min(s.next_expiry, r.expire_ts)


@njit
def on_book(w: World) -> None:
    """Match and expire resting orders against the new book, which one of them may care for."""
    p, s = w.parameters[0], w.state[0]
    k = 0
    while k < s.resting:
        r = w.resting[k]
        level = s.ask if r.side == BUY else s.bid
        if level != NULL and r.side * (r.px - level) >= p.cross:
            say_fill(w, r.n, r.px, r.total - r.filled, p.maker_ppm, t.MAKER)
            leave(w, k)
        else:
            k += 1
    if s.now >= s.next_expiry:
        k = 0
        while k < s.resting:
            if w.resting[k].expire_ts <= s.now:
                say(w, t.EXPIRE, w.resting[k].n, NULL)
                leave(w, k)
            else:
                k += 1
    watch(w)


