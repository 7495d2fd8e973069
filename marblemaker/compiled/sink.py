"""The order sink: works towards the latest decision; the rules of ``sinks.order_sink``.

Orders that work or are in flight stand in ``World.orders``, oldest first; one that has ended is
written down and gone: the simulated venue says nothing of it afterwards but that a cancel came too
late.
"""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled import texts as t
from marblemaker.compiled.clock import schedule
from marblemaker.compiled.layout import (
    CANCEL,
    CREATE,
    FEW,
    GIVE_UP,
    MODIFY,
    NEVER,
    World,
)
from marblemaker.compiled.machine import compiled
from marblemaker.compiled.venue import submit
from streams.events import BUY, SELL

__all__ = ["decided", "give_up", "on_account"]

NULL = t.NULL_WORD
KEEP, CANCEL_ALL, MOVE = 1, 2, 3
_TRIES = 3


# ---------------------------------------------------------------- what is wanted


@compiled
def decided(w: World) -> None:
    """Write a decision down and work towards it."""
    s, d = w.state[0], w.draft[0]
    w.decision_out[s.decision_rows] = w.draft[0]
    s.decision_rows += 1
    if s.decision_rows >= min(w.parameters[0].most_rows, FEW):
        s.full = 1
    if s.stopping or d.action == t.HOLD or d.action == t.REFUSE:
        return
    s.waiting = 0
    if d.action != t.WITHDRAW:
        add_levels(w, BUY, d.bid_px, d.bid_levels, d.level_step, d.qty)
        add_levels(w, SELL, d.ask_px, d.ask_levels, d.level_step, d.qty)
    aim(w)
    if d.action == t.RETRACT:
        s.waiting = 0  # It only takes away: what is missing comes with the next target.
    pursue(w)


@compiled
def add_levels(w: World, side: int, px: int, levels: int, step: int, qty: int) -> None:
    """Spell out the wanted levels of a side, from the inside out."""
    s = w.state[0]
    if px != NULL:
        for i in range(max(levels, 1)):
            level = w.waiting[s.waiting]
            level.side, level.px, level.qty = side, px - i * side * step, qty
            s.waiting += 1


@compiled
def aim(w: World) -> None:
    """Take the waiting levels as what is wanted; orders that stand there already are left."""
    p, s = w.parameters[0], w.state[0]
    s.levels_assigned = 0
    for k in range(s.working):
        w.orders[k].assigned = 0
    if p.replaces == CANCEL_ALL:
        return
    keep(w, True)
    if p.replaces == KEEP:
        keep(w, False)


@compiled
def keep(w: World, same_px: bool) -> None:
    """Assign each order the first level that it serves."""
    s = w.state[0]
    for k in range(s.working):
        order = w.orders[k]
        if order.state == t.PENDING_CANCEL or order.px == NULL or order.assigned:
            continue
        px = order.px if order.asked_px == NULL else order.asked_px
        size = order.asked_size if order.asked_qty else order.size
        for i in range(s.waiting):
            level = w.waiting[i]
            if level.side == order.side and (level.px == px or not same_px) and level.qty == size:
                assign(w, order, i)
                break


@compiled
def assign(w: World, order: Any, i: int) -> None:
    """Let an order serve a level that waits."""
    s = w.state[0]
    order.assigned = 1
    s.levels_assigned += 1
    for rest in range(i, s.waiting - 1):
        w.waiting[rest] = w.waiting[rest + 1]
    s.waiting -= 1


# ---------------------------------------------------------------- orders


@compiled
def leaves_of(order: Any) -> int:
    """What may still fill."""
    if (
        order.state == t.FILLED
        or order.state == t.CANCELLED
        or order.state == t.REJECTED
        or order.state == t.EXPIRED
    ):
        return 0
    return max(order.qty, order.asked_qty, order.filled) - order.filled


@compiled
def worst_case(s: Any, side: int) -> int:
    """Position if everything open or in flight on a side filled."""
    return s.position + side * (s.leaves_buy if side == BUY else s.leaves_sell)


@compiled
def change_leaves(s: Any, side: int, change: int) -> None:
    """Count what is open or in flight on a side."""
    if side == BUY:
        s.leaves_buy += change
    else:
        s.leaves_sell += change


@compiled
def note_change(u: Any, order: Any, ts: int) -> None:
    """Fill in a change of an order, without a fill."""
    u.ts, u.n, u.side, u.state, u.leaves = ts, order.n, order.side, order.state, leaves_of(order)
    u.px, u.filled, u.fill_px, u.fee = order.px, 0, NULL, 0
    u.batch, u.quota_left, u.requested = 0, NULL, order.cancel_asked


@compiled
def notify(w: World, u: Any) -> None:
    """Queue a change for the graph."""
    s = w.state[0]
    if s.notices_tail == len(w.notices):
        s.trouble = 1
        return
    w.notices[s.notices_tail] = u
    s.notices_tail += 1


@compiled
def new_command(w: World) -> int:
    """Place of a command that goes with the next batch."""
    s = w.state[0]
    if s.commands == len(w.commands):
        s.trouble = 1
        s.commands -= 1
    s.commands += 1
    return s.commands - 1


@compiled
def cancel_order(w: World, order: Any) -> None:
    """Ask for a cancel; what works stays in the exposure until it is gone."""
    s = w.state[0]
    k = new_command(w)
    order.state, order.cancel_asked = t.PENDING_CANCEL, 1
    order.cancels += 1
    w.commands[k].kind, w.commands[k].n = CANCEL, order.n
    note_change(w.changes[k], order, s.now)


@compiled
def create_order(w: World, side: int, px: int, qty: int) -> None:
    """Ask for a new order, in flight from this moment."""
    p, s = w.parameters[0], w.state[0]
    if s.working == len(w.orders):
        s.trouble = 1
        return
    k = new_command(w)
    s.created += 1
    order = w.orders[s.working]
    s.working += 1
    order.n, order.ts, order.side, order.px, order.qty = s.created, s.now, side, px, qty
    order.state, order.filled, order.ts_last, order.size = t.PENDING_NEW, 0, s.now, qty
    order.asked_px, order.asked_qty, order.asked_size, order.modifies_refused = NULL, 0, 0, 0
    order.cancel_asked = order.cancels = order.acked = order.assigned = 0
    change_leaves(s, side, qty)
    command = w.commands[k]
    command.kind, command.n, command.side, command.px, command.qty = CREATE, order.n, side, px, qty
    command.expire_ts = NEVER if px == NULL or p.expire_ns < 0 else s.now + p.expire_ns
    note_change(w.changes[k], order, s.now)


# ---------------------------------------------------------------- from wanted to working


@compiled
def pursue(w: World) -> None:
    """Send what brings the working orders to the wanted ones."""
    s = w.state[0]
    s.commands = s.moves = 0
    if s.levels_assigned < s.working:
        for k in range(s.working):
            order = w.orders[k]
            if order.assigned or order.state == t.PENDING_CANCEL or order.px == NULL:
                continue
            if w.parameters[0].replaces == MOVE and lives_on(w, order):
                continue
            cancel_order(w, order)
    cancel_for_room(w, BUY)
    cancel_for_room(w, SELL)
    for k in range(s.moves):
        place = new_command(w)
        w.commands[place], w.changes[place] = w.moves[k], w.moved[k]
    if s.waiting:
        create_waiting(w)
    send(w)


@compiled
def lives_on(w: World, order: Any) -> bool:
    """Give a stray order a level that waits, if there is one; tell whether it shall live."""
    s = w.state[0]
    i = 0
    while i < s.waiting and w.waiting[i].side != order.side:
        i += 1
    if i == s.waiting or order.modifies_refused:
        return False
    if order.state == t.PENDING_NEW or order.state == t.PENDING_MODIFY:
        return True  # It cannot be moved before the venue has answered.
    px, size = w.waiting[i].px, w.waiting[i].qty
    more = max(0, order.filled + size - order.qty)
    if not has_room(w, order.side, more):
        return False
    assign(w, order, i)
    before = leaves_of(order)
    order.state = t.PENDING_MODIFY
    order.asked_px, order.asked_qty, order.asked_size = px, order.filled + size, size
    change_leaves(s, order.side, leaves_of(order) - before)
    move = w.moves[s.moves]
    move.kind, move.n, move.px, move.qty = MODIFY, order.n, px, order.asked_qty
    note_change(w.moved[s.moves], order, s.now)
    s.moves += 1
    return True


@compiled
def has_room(w: World, side: int, qty: int) -> bool:
    """Tell whether one more order of a side keeps the worst case within the limit."""
    p, s = w.parameters[0], w.state[0]
    if side == BUY:
        return steps.may_buy(worst_case(s, side), qty, p.max_position)
    return steps.may_sell(worst_case(s, side), qty, p.max_position)


@compiled
def cancel_for_room(w: World, side: int) -> None:
    """Cancel what a late fill left without room: newest first, and not more than it takes."""
    p, s = w.parameters[0], w.state[0]
    if side * worst_case(s, side) <= p.max_position:
        return
    room = p.max_position - side * s.position
    kept = 0
    for k in range(s.working):
        order = w.orders[k]
        if order.side == side and order.state != t.PENDING_CANCEL:
            kept += leaves_of(order)
    for k in range(s.working - 1, -1, -1):
        if kept <= room:
            return
        order = w.orders[k]
        if order.side != side or order.state == t.PENDING_CANCEL:
            continue
        kept -= leaves_of(order)
        if order.px == NULL:
            continue
        s.levels_assigned -= order.assigned
        order.assigned = 0
        cancel_order(w, order)


@compiled
def create_waiting(w: World) -> None:
    """Create an order for each level that waits, as far as there is room."""
    s = w.state[0]
    # A level may be about to be served by an order that waits for its own answer first.
    movable_buys = movable_sells = 0
    if w.parameters[0].replaces == MOVE:
        for k in range(s.working):
            order = w.orders[k]
            waits = order.state == t.PENDING_NEW or order.state == t.PENDING_MODIFY
            if waits and not order.assigned:
                movable_buys += order.side == BUY
                movable_sells += order.side == SELL
    kept = 0
    for i in range(s.waiting):
        side, px, qty = w.waiting[i].side, w.waiting[i].px, w.waiting[i].qty
        movable = movable_buys if side == BUY else movable_sells
        if movable:
            movable_buys -= side == BUY
            movable_sells -= side == SELL
        if not movable and has_room(w, side, qty):
            create_order(w, side, px, qty)
            w.orders[s.working - 1].assigned = 1
            s.levels_assigned += 1
        else:
            level = w.waiting[kept]
            level.side, level.px, level.qty = side, px, qty
            kept += 1
    s.waiting = kept


@compiled
def send(w: World) -> None:
    """Tell the graph of all commands, and submit them, in batches."""
    p, s = w.parameters[0], w.state[0]
    start = 0
    while start < s.commands:
        stop = min(start + p.max_batch, s.commands)
        s.batches += 1
        for k in range(start, stop):
            w.changes[k].batch = s.batches
            notify(w, w.changes[k])
        submit(w, start, stop)
        start = stop
    s.commands = 0


# ---------------------------------------------------------------- what the venue says


@compiled
def place_of(w: World, n: int) -> int:
    """Where an order that works stands; -1 for one that has ended."""
    for k in range(w.state[0].working):
        if w.orders[k].n == n:
            return k
    return -1


@compiled
def on_account(w: World, a: Any) -> None:
    """Take an answer of the venue, and send what it makes room for."""
    s = w.state[0]
    if a.kind == t.STOP:
        stop(w)
        return
    k = place_of(w, a.n)
    if k < 0:
        # Every end was told before, so only an answer to a cancel can still come.
        if a.kind == t.CANCEL_REJECT:
            s.late_cancels += 1
        elif a.kind == t.MODIFY_REJECT:
            s.late_moves += 1
        else:
            s.trouble = 3
    else:
        apply(w, k, a)
    pursue(w)
    if s.stopping:
        close_when_alone(w)


@compiled
def apply(w: World, k: int, a: Any) -> None:
    """Change an order by what the venue said of it."""
    s, order = w.state[0], w.orders[k]
    before = leaves_of(order)
    if a.kind == t.FILL:
        order.filled += a.qty
        s.position += order.side * a.qty
        # With a modify on its way the order may live on in its new size: the answer will tell.
        if order.filled >= max(order.qty, order.asked_qty):
            order.state = t.FILLED
    elif a.kind == t.MODIFY:
        modified(order, a)
    elif a.kind == t.ACK:
        order.acked = 1
        if order.state == t.PENDING_NEW:
            order.state = t.OPEN
    elif a.kind == t.REJECT:
        order.state = t.REJECTED
    elif a.kind == t.CANCEL:
        order.state = t.CANCELLED
    elif a.kind == t.EXPIRE:
        order.state = t.EXPIRED
    else:
        s.trouble = 3  # A cancel or modify that is refused although its order works.
        return
    if leaves_of(order) and order.filled >= max(order.qty, order.asked_qty):
        order.state = t.FILLED
    order.ts_last = a.ts
    leaves = leaves_of(order)
    change_leaves(s, order.side, leaves - before)
    u = w.changes[0]
    note_change(u, order, a.ts)
    u.quota_left = a.quota_left
    if a.kind == t.FILL:
        u.filled, u.fill_px, u.fee = a.qty, a.px, a.fee
    notify(w, u)
    if a.kind == t.FILL:
        row = w.fill_out[s.fill_rows]
        row.n, row.ts, row.side, row.px, row.qty = order.n, a.ts, order.side, a.px, a.qty
        row.liquidity, row.fee = a.liquidity, a.fee
        s.fill_rows += 1
        if s.fill_rows >= min(w.parameters[0].most_rows, FEW):
            s.full = 1
    if not leaves:
        s.levels_assigned -= order.assigned
        order.assigned = 0
        end_order(w, k)


@compiled
def modified(order: Any, a: Any) -> None:
    """Take the answer to a modify; one before the latest leaves that on its way."""
    order.px, order.qty, order.acked = a.px, a.qty, 1
    if order.asked_qty:
        if order.px != order.asked_px or order.qty != order.asked_qty:
            return
        order.size = order.asked_size
    order.asked_px, order.asked_qty, order.asked_size = NULL, 0, 0
    if order.state == t.PENDING_MODIFY or order.state == t.PENDING_NEW:
        order.state = t.OPEN


@compiled
def write_order(w: World, order: Any) -> None:
    """Write an order down as it is now."""
    s = w.state[0]
    row = w.order_out[s.order_rows]
    row.n, row.ts, row.side, row.px, row.qty = order.n, order.ts, order.side, order.px, order.qty
    row.state, row.filled, row.ts_last = order.state, order.filled, order.ts_last
    s.order_rows += 1
    if s.order_rows >= min(w.parameters[0].most_rows, FEW):
        s.full = 1


@compiled
def end_order(w: World, k: int) -> None:
    """Write down an order that has ended, and forget it."""
    s = w.state[0]
    write_order(w, w.orders[k])
    for rest in range(k, s.working - 1):
        w.orders[rest] = w.orders[rest + 1]
    s.working -= 1


# ---------------------------------------------------------------- the end


@compiled
def stop(w: World) -> None:
    """Cancel everything; with ``flatten`` close the position once nothing works any more."""
    p, s = w.parameters[0], w.state[0]
    if s.stopping:
        return
    s.stopping = 1
    s.waiting = 0
    aim(w)
    schedule(w, GIVE_UP, s.now + p.stop_ns)
    pursue(w)
    close_when_alone(w)


@compiled
def close_when_alone(w: World) -> None:
    """Close what a late fill may have opened since the last look, too."""
    p, s = w.parameters[0], w.state[0]
    if s.gave_up or s.working:
        return
    if not p.flatten or not s.position:
        s.finished = 1
        return
    if s.flattenings >= _TRIES:
        if not s.finished:
            s.position_left += 1
        s.finished = 1
        return
    s.finished = 0
    s.flattenings += 1
    s.commands = 0
    create_order(w, SELL if s.position > 0 else BUY, NULL, abs(s.position))
    send(w)


@compiled
def give_up(w: World) -> None:
    """End a stop whose time is over."""
    s = w.state[0]
    s.gave_up = 1
    if s.finished:
        return
    s.finished = 1
    s.left_working += s.working
