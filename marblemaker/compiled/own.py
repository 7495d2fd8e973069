"""The target's book less our own quotes; the rule of ``operators.without_own``."""

from __future__ import annotations

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.layout import World
from marblemaker.compiled.machine import compiled
from streams.events import BUY, SELL

__all__ = ["know_own", "without_own"]

NULL = t.NULL_WORD


@compiled
def know_own(w: World, u: World) -> None:
    """Keep in mind which of our orders rest where."""
    s = w.state[0]
    k = 0
    while k < s.own and w.own[k].n != u.n:
        k += 1
    rests = u.state == t.OPEN or u.state == t.PENDING_CANCEL or u.state == t.PENDING_MODIFY
    if u.px != NULL and u.leaves and rests:
        if k == len(w.own):
            s.trouble = 1
            return
        own = w.own[k]
        own.n, own.side, own.px, own.leaves = u.n, u.side, u.px, u.leaves
        s.own = max(s.own, k + 1)
    elif k < s.own:
        s.own -= 1
        w.own[k] = w.own[s.own]


@compiled
def own_size(w: World, side: int, px: int) -> int:
    """What of ours rests at a price."""
    size = 0
    for k in range(w.state[0].own):
        own = w.own[k]
        if own.side == side and own.px == px:
            size += own.leaves
    return size


@compiled
def others(side: int, px: int, size: int, own: int, before: int) -> tuple[int, int, bool]:
    """Best price and size of a side without us, and whether it is that of before."""
    if not own or size == NULL:
        return px, size, False
    size = steps.others_size(size, own)
    if size:
        return px, size, False
    # A best price from before must not outlive a market that went through it.
    if before != NULL and side * (before - px) > 0:
        before = NULL
    return before, NULL, True


@compiled
def without_own(
    w: World, bid: int, ask: int, bid_sz: int, ask_sz: int
) -> tuple[int, int, int, int]:
    """Take our resting orders out of a quote of the target."""
    s = w.state[0]
    own_bid = own_size(w, BUY, bid) if bid != NULL else 0
    own_ask = own_size(w, SELL, ask) if ask != NULL else 0
    bid, bid_sz, bid_from_before = others(BUY, bid, bid_sz, own_bid, s.others_bid)
    ask, ask_sz, ask_from_before = others(SELL, ask, ask_sz, own_ask, s.others_ask)
    if (own_bid or own_ask) and bid != NULL and ask != NULL and bid >= ask:
        if bid_from_before:
            bid = NULL
        if ask_from_before:
            ask = NULL
    s.others_bid, s.others_ask = bid, ask
    return bid, ask, bid_sz, ask_sz
