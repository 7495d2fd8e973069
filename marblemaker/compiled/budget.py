"""Budgets: what the account may still send, for the graph (``operators.budget``) and at the venue.

Requote and the throttle each keep a ``Budget`` of their own in the reactive graph. What they count
is the same, so it is counted once here; what they save up (``PACE``) depends on when they look, so
each has its own.
"""

from __future__ import annotations

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.layout import FEW, World
from marblemaker.compiled.machine import compiled
from operators.budget import FAR_NS, MINUTE_NS, PORTION
from sinks.limits import (
    FREE_TRANSACTION_EVERY_NS,
    MAX_VOLUME_QUOTA,
    QUOTA_UNIT_COSTS,
    REQUEST_WINDOW_NS,
)
from streams.instrument import UNIT

__all__ = ["admit", "count_change", "credit", "earliest_ns", "factor", "pay", "start_budget"]

NULL = t.NULL_WORD
REQUOTE, THROTTLE = 0, 1
"""Whose saving it is."""
_EXACT_NS = 2**53
"""Longest time that is divided as a double: 104 days."""
_UNIT_COSTS = QUOTA_UNIT_COSTS // UNIT


@compiled
def start_budget(w: World) -> None:
    """Start with everything there is."""
    p, b = w.parameters[0], w.budget[0]
    b.first_ts = b.exhausted_ns = b.next_free_ns = NULL
    b.quota = b.lowest_quota = b.account_quota = p.volume_quota if p.volume_quota >= 0 else NULL
    for who in range(2):
        pace = w.paces[who]
        pace.round, pace.counted_ns = 8, w.state[0].now
        pace.tokens = cap(w, who)


# ---------------------------------------------------------------- what the graph counts


@compiled
def cap(w: World, who: int) -> float:
    """Most that may be saved up; never below one round of quotes."""
    b = w.budget[0]
    left = 0 if b.quota == NULL else b.quota
    return max(left * PORTION, float(w.paces[who].round))


@compiled
def accrue(w: World, who: int, now: int) -> None:
    """Save up for the time since the last look."""
    pace = w.paces[who]
    elapsed, pace.counted_ns = now - pace.counted_ns, now
    if elapsed > _EXACT_NS:
        w.state[0].trouble = 2
        return
    pace.tokens = steps.accrued(
        pace.tokens, w.budget[0].quota, elapsed, w.parameters[0].horizon_ns, cap(w, who)
    )


@compiled
def forget(w: World, now: int) -> None:
    """Forget the transactions that are no more of the last minute."""
    b = w.budget[0]
    while b.minute_head < b.minute_tail:
        if w.minute[b.minute_head % len(w.minute)] > now - MINUTE_NS:
            break
        b.minute_head += 1


@compiled
def count_change(w: World, u: World) -> None:
    """Count a change of one of our orders."""
    p, s, b = w.parameters[0], w.state[0], w.budget[0]
    b.last_ts = u.ts
    if b.first_ts == NULL:
        b.first_ts = u.ts
    if u.batch > b.batch:
        b.batch = u.batch
        b.sent += 1
        if p.per_minute >= 0:
            forget(w, u.ts)
            if b.minute_tail - b.minute_head == len(w.minute):
                s.trouble = 1
                return
            w.minute[b.minute_tail % len(w.minute)] = u.ts
            b.minute_tail += 1
            b.busiest = max(b.busiest, b.minute_tail - b.minute_head)
    if b.quota == NULL:
        return
    quota = b.quota
    if u.batch and (u.state == t.PENDING_NEW or u.state == t.PENDING_MODIFY):
        for who in range(2):
            accrue(w, who, u.ts)
            w.paces[who].tokens -= 1.0
        if quota:
            b.spent += 1
            quota -= 1
    if u.filled and u.fill_px != NULL:
        whole = b.traded + steps.value_parts(u.fill_px, u.filled)[0]
        units, b.traded = whole // p.quota_per, whole % p.quota_per
        b.earned += units
        quota = min(p.max_quota, quota + units)
    if u.quota_left != NULL:
        quota = u.quota_left
    if quota != b.quota:
        for who in range(2):
            accrue(w, who, u.ts)
        row = w.quota_out[b.quota_rows]
        row.ts, row.spent = u.ts, b.quota - quota
        b.quota_rows += 1
        if b.quota_rows >= min(p.most_rows, FEW):
            s.full = 1
        b.quota = quota
        b.lowest_quota = min(b.lowest_quota, quota)
        if not quota and b.exhausted_ns == NULL:
            b.exhausted_ns = u.ts


# ---------------------------------------------------------------- what the graph asks


@compiled
def factor(w: World, now: int) -> float:
    """By how much the requote threshold is widened now."""
    p, b = w.parameters[0], w.budget[0]
    widest = 1.0
    if p.per_minute >= 0:
        forget(w, now)
        left = p.per_minute - (b.minute_tail - b.minute_head)
        widest = steps.widening(float(left), float(p.per_minute))
    if b.quota != NULL:
        accrue(w, REQUOTE, now)
        widest = max(widest, steps.widening(w.paces[REQUOTE].tokens, cap(w, REQUOTE)))
    return widest


@compiled
def earliest_ns(w: World, now: int, cost: int) -> int:
    """When a target that creates ``cost`` orders may go; ``now`` if now."""
    p, b = w.parameters[0], w.budget[0]
    earliest = now
    if p.per_minute >= 0:
        forget(w, now)
        over = b.minute_tail - b.minute_head - steps.usable_a_minute(p.per_minute)
        if over >= 0:
            earliest = w.minute[(b.minute_head + over) % len(w.minute)] + MINUTE_NS
    if b.quota != NULL:
        pace = w.paces[THROTTLE]
        pace.round = max(pace.round, cost)
        accrue(w, THROTTLE, now)
        if b.quota <= cost:
            return now + FAR_NS
        lacking = cost - pace.tokens
        if lacking > 0.0:
            earliest = max(earliest, now + steps.saved_after_ns(lacking, p.horizon_ns, b.quota))
    return earliest


# ---------------------------------------------------------------- the venue's account


@compiled
def admit(w: World) -> bool:
    """Admit an API request, or tell that there were too many; see ``VenueAccount.request``."""
    p, b, now = w.parameters[0], w.budget[0], w.state[0].now
    if p.per_minute < 0:
        return True
    while b.requests_head < b.requests_tail:
        if w.requests[b.requests_head % len(w.requests)] > now - REQUEST_WINDOW_NS:
            break
        b.requests_head += 1
    if b.requests_tail - b.requests_head >= p.per_minute:
        return False
    if b.requests_tail - b.requests_head == len(w.requests):
        w.state[0].trouble = 1
        return False
    w.requests[b.requests_tail % len(w.requests)] = now
    b.requests_tail += 1
    return True


@compiled
def pay(w: World, single: bool) -> bool:
    """Pay for a create or modify, or tell that the quota is spent; see ``VenueAccount.spend``."""
    b, now = w.budget[0], w.state[0].now
    if b.account_quota == NULL:
        return True
    if b.account_quota > 0:
        b.account_quota -= 1
        return True
    if not single or (b.next_free_ns != NULL and now < b.next_free_ns):
        return False
    b.next_free_ns = now + FREE_TRANSACTION_EVERY_NS
    return True


@compiled
def credit(w: World, px: int, qty: int) -> None:
    """Credit a fill of ours; see ``VenueAccount.earn``."""
    b = w.budget[0]
    if b.account_quota == NULL:
        return
    # In parts, because the whole value does not fit 64 bits.
    value, rest = steps.value_parts(px, qty)
    rest += b.unearned_rest
    value += b.unearned + rest // UNIT
    b.unearned, b.unearned_rest = value % _UNIT_COSTS, rest % UNIT
    most = max(b.account_quota, MAX_VOLUME_QUOTA)
    b.account_quota = min(b.account_quota + value // _UNIT_COSTS, most)
