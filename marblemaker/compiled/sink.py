"""The order sink: works towards the latest decision; the rules of ``sinks.order_sink``.

Orders that work or are in flight stand in ``World.orders``, oldest first; one that has ended is
written down. It is remembered in ``World.past`` only where more may be said of it: of the simulated
venue, unless it is asked, only that a cancel or modify came too late.
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
    LOOK,
    MEMORY,
    MODIFY,
    NEVER,
    QUERY,
    TRADES,
    World,
)
from marblemaker.compiled.machine import compiled
from marblemaker.compiled.venue import submit
from sinks.order_sink import LONGEST_WAIT_NS
from sinks.orders import REMEMBERED
from streams.events import BUY, SELL

__all__ = ["decided", "give_up", "look", "on_account"]

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
    pursue(w, NULL, NULL)


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
    order.assigned, order.level_px, order.level_qty = 1, w.waiting[i].px, w.waiting[i].qty
    s.levels_assigned += 1
    for rest in range(i, s.waiting - 1):
        w.waiting[rest] = w.waiting[rest + 1]
    s.waiting -= 1


# ---------------------------------------------------------------- orders


@compiled
def is_final(order: Any) -> bool:
    """Tell whether an order has ended."""
    return bool(
        order.state == t.FILLED
        or order.state == t.CANCELLED
        or order.state == t.REJECTED
        or order.state == t.EXPIRED
    )


@compiled
def leaves_of(order: Any) -> int:
    """What may still fill."""
    if is_final(order):
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
    order.asked_ts, order.stale_answers = s.now, order.unanswered
    w.commands[k].kind, w.commands[k].n = CANCEL, order.n
    note_change(w.changes[k], order, s.now)


@compiled
def query(w: World, order: Any) -> None:
    """Ask the venue what became of an order."""
    s = w.state[0]
    k = new_command(w)
    order.queries += 1
    order.unanswered += 1
    order.asked_ts = s.now
    w.commands[k].kind, w.commands[k].n = QUERY, order.n


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
    order.last_seen = order.queries = order.suspect = order.doubtful = 0
    order.unanswered = order.stale_answers = 0
    order.asked_ts, order.level_px, order.level_qty = s.now, px, qty
    change_leaves(s, side, qty)
    command = w.commands[k]
    command.kind, command.n, command.side, command.px, command.qty = CREATE, order.n, side, px, qty
    command.expire_ts = NEVER if px == NULL or p.expire_ns < 0 else s.now + p.expire_ns
    note_change(w.changes[k], order, s.now)


# ---------------------------------------------------------------- from wanted to working


@compiled
def pursue(w: World, refused: int, reason: int) -> None:
    """Send what brings the working orders to the wanted ones.

    ``refused``: the order of which a cancel was just refused, for this ``reason``.
    """
    s = w.state[0]
    if s.disconnected:
        return
    s.commands = s.moves = 0
    if s.levels_assigned < s.working:
        for k in range(s.working):
            order = w.orders[k]
            if order.assigned or order.state == t.PENDING_CANCEL or order.px == NULL:
                continue
            # Over its limits the venue would refuse the same again, and count it.
            limited = reason == t.OVER_LIMITS or reason == t.TOO_MANY_REQUESTS
            if order.n == refused and (limited or order.cancels >= _TRIES):
                order.cancels = max(order.cancels, _TRIES)
                w.anomalies[t.REFUSED_AGAIN] += order.cancels == _TRIES
                order.asked_ts = s.now
                watch(w)
                continue
            if order.cancels >= _TRIES and s.now < order.asked_ts + patience(w, order):
                watch(w)
                continue
            if w.parameters[0].replaces == MOVE and lives_on(w, order):
                continue
            cancel_order(w, order)
    cancel_for_room(w, BUY)
    cancel_for_room(w, SELL)
    for k in range(s.moves):
        place = new_command(w)
        w.commands[place], w.changes[place] = w.moves[k], w.moved[k]
    if s.waiting and not s.doubtful:
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
    order.asked_ts, order.stale_answers = s.now, order.unanswered
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
        if order.cancels < _TRIES:
            cancel_order(w, order)
        else:
            watch(w)


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
            if w.commands[k].kind != QUERY:
                w.changes[k].batch = s.batches
                notify(w, w.changes[k])
        submit(w, start, stop)
        start = stop
    if s.commands:
        watch(w)
    s.commands = 0


# ---------------------------------------------------------------- overdue answers


@compiled
def patience(w: World, order: Any) -> int:
    """How long to wait before an order is asked for (again): doubling, up to a minute."""
    wait = w.parameters[0].in_flight_ns
    for _ in range(max(order.queries, order.cancels - _TRIES)):
        if wait >= LONGEST_WAIT_NS:
            break
        wait += wait
    return min(wait, LONGEST_WAIT_NS)


@compiled
def is_refused(order: Any) -> bool:
    """Tell whether an order works on although it was to be cancelled again and again."""
    return bool(order.cancels >= _TRIES and not order.assigned and order.px != NULL)


@compiled
def is_owed(order: Any) -> bool:
    """Tell whether the venue owes an answer about an order."""
    return bool(
        order.state == t.PENDING_NEW
        or order.state == t.PENDING_CANCEL
        or order.state == t.PENDING_MODIFY
        or order.suspect
        or order.doubtful
        or is_refused(order)
    )


@compiled
def watch(w: World) -> None:
    """Have one timer out while the venue owes an answer, for the first that is due."""
    s = w.state[0]
    if not w.parameters[0].asks:
        return
    due = NEVER
    for k in range(s.working):
        if is_owed(w.orders[k]):
            due = min(due, w.orders[k].asked_ts + patience(w, w.orders[k]))
    due = max(due, s.now + 1)
    if due < s.look_ts:
        s.look_ts = due
        schedule(w, LOOK, due)


@compiled
def look(w: World) -> None:
    """Ask the venue about every order whose answer is overdue."""
    s = w.state[0]
    s.look_ts = NEVER
    if s.finished:
        return
    s.commands = 0
    for k in range(s.working):
        order = w.orders[k]
        order.overdue = 0
        if not is_owed(order):
            continue
        if s.disconnected:
            order.asked_ts = s.now
        elif order.asked_ts + patience(w, order) <= s.now:
            order.overdue = 1
            w.anomalies[t.ASKED_THE_VENUE] += 1
            if order.state == t.OPEN and is_refused(order):
                cancel_order(w, order)
    for k in range(s.working):
        if w.orders[k].overdue:
            query(w, w.orders[k])
    send(w)
    watch(w)


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
    if a.kind == t.POSITION:
        on_position(w, a)
        return
    if a.kind == t.DISCONNECT:
        s.disconnected = 1
        w.anomalies[t.DISCONNECTED_FROM_VENUE] += 1
        return
    if a.kind == t.CONNECT:
        reconnect(w)
        return
    k = place_of(w, a.n)
    if k >= 0:
        apply(w, k, a)
    else:
        on_past(w, a)
    pursue(w, a.n if a.kind == t.CANCEL_REJECT else NULL, a.reason)
    if s.stopping:
        close_when_alone(w)


@compiled
def on_position(w: World, a: Any) -> None:
    """Take over a position that did not come from our orders, or compare it."""
    s = w.state[0]
    if a.reason != t.TAKEN_OVER:
        w.anomalies[t.OTHER_POSITION] += a.qty != s.position
        return
    change = (0 if a.qty == NULL else a.qty) - s.position
    if change:
        s.position += change
        u = w.changes[0]
        u.ts, u.n, u.side, u.state, u.leaves = a.ts, 0, BUY if change > 0 else SELL, t.FILLED, 0
        u.px, u.filled, u.fill_px, u.fee = NULL, abs(change), 0 if a.px == NULL else a.px, 0
        u.batch, u.quota_left, u.requested = 0, NULL, 1
        notify(w, u)
        write_fill(w, u, a)


@compiled
def reconnect(w: World) -> None:
    """Ask for every order before anything is sent: after a gap nothing is known for sure."""
    s = w.state[0]
    s.disconnected, s.doubtful, s.commands = 0, s.working, 0
    for k in range(s.working):
        order = w.orders[k]
        order.doubtful = 1
        # What was asked before the gap is lost.
        order.unanswered = order.stale_answers = 0
        query(w, order)
    send(w)
    pursue(w, NULL, NULL)
    if s.stopping:
        close_when_alone(w)


@compiled
def anomaly(w: World, first: int, kind: int) -> None:
    """Count an anomaly by kind."""
    for k in range(len(t.OF_ORDERS)):
        if t.OF_ORDERS[k] == kind:
            w.anomalies[first + k] += 1


@compiled
def on_past(w: World, a: Any) -> None:
    """Take what is said of an order that has ended, or that was never ours."""
    p, s = w.parameters[0], w.state[0]
    if not p.asks:
        # Every end was told before, so only an answer to a cancel or modify can still come.
        anomaly(w, t.FINISHED, a.kind)
        if a.kind != t.CANCEL_REJECT and a.kind != t.MODIFY_REJECT:
            s.trouble = 3
        return
    order = w.past[a.n % MEMORY]
    if a.n <= 0 or order.n != a.n or s.ends - order.ended >= REMEMBERED:
        anomaly(w, t.UNKNOWN, a.kind)
    elif a.kind != t.FILL:
        if a.reason != t.ASKED_FOR:
            anomaly(w, t.FINISHED, a.kind)
    elif fill_order(w, order, a):
        if s.created - order.n >= REMEMBERED:
            # The row of an order as old as that may be written already.
            s.trouble = 3
        order.ts_last = a.ts
        u = w.changes[0]
        u.ts, u.n, u.side, u.state, u.leaves = a.ts, order.n, order.side, order.state, 0
        u.px, u.filled, u.fill_px = order.px, a.qty, a.px
        u.fee = 0 if a.fee == NULL else a.fee
        u.batch, u.quota_left, u.requested = 0, a.quota_left, order.cancel_asked
        notify(w, u)
        write_fill(w, u, a)
        write_order(w, order)


@compiled
def apply(w: World, k: int, a: Any) -> None:
    """Change an order by what the venue said of it."""
    s, order = w.state[0], w.orders[k]
    before = leaves_of(order)
    if order.doubtful and a.reason == t.ASKED_FOR and a.kind != t.FILL:
        # The answer to the question is complete; repeated fills only begin it.
        order.doubtful = 0
        s.doubtful -= 1
    if a.kind == t.FILL:
        if not fill_order(w, order, a):
            return
    elif a.kind == t.MODIFY:
        modified(order, a)
    elif a.kind == t.ACK:
        acknowledged(order, a)
    elif a.kind == t.REJECT:
        order.state = t.REJECTED
    elif a.kind == t.CANCEL:
        order.state = t.CANCELLED
    elif a.kind == t.EXPIRE:
        order.state = t.EXPIRED
    elif a.kind == t.CANCEL_REJECT:
        order.cancel_asked, order.suspect, order.state = 0, 1, resting_state(order)
    else:
        no_modify(order)
        order.suspect = 1
        if order.state == t.PENDING_MODIFY:
            order.state = resting_state(order)
    if not is_final(order) and order.filled >= max(order.qty, order.asked_qty):
        order.state = t.FILLED
    order.ts_last, order.queries = a.ts, 0
    leaves = leaves_of(order)
    change_leaves(s, order.side, leaves - before)
    u = w.changes[0]
    note_change(u, order, a.ts)
    u.quota_left = a.quota_left
    if a.kind == t.FILL:
        u.filled, u.fill_px, u.fee = a.qty, a.px, 0 if a.fee == NULL else a.fee
    notify(w, u)
    if a.kind == t.FILL:
        write_fill(w, u, a)
    if not leaves:
        s.levels_assigned -= order.assigned
        order.assigned = 0
        end_order(w, k)
    elif a.kind == t.MODIFY_REJECT or (a.kind == t.ACK and a.reason == t.ASKED_FOR):
        want_anew(w, order)


@compiled
def fill_order(w: World, order: Any, a: Any) -> bool:
    """Count a fill of an order, once; tell whether it was counted."""
    s = w.state[0]
    if w.parameters[0].asks and a.venue_id != NULL:
        # By order: a trade between two orders of ours is a fill of each.
        trade = order.last_seen
        while trade:
            if s.seen - trade >= TRADES:
                s.trouble = 3
                return False
            if w.seen[trade % TRADES].id == a.venue_id:
                w.anomalies[t.TOLD_TWICE] += a.reason != t.ASKED_FOR
                return False
            trade = w.seen[trade % TRADES].before
        s.seen += 1
        w.seen[s.seen % TRADES].id, w.seen[s.seen % TRADES].before = a.venue_id, order.last_seen
        order.last_seen = s.seen
    w.anomalies[t.AFTER_THE_END] += is_final(order)
    order.filled += a.qty
    s.position += order.side * a.qty
    # With a modify on its way the order may live on in its new size: the answer will tell.
    total = max(order.qty, order.asked_qty)
    w.anomalies[t.BEYOND_SIZE] += order.filled > total
    if order.filled >= total:
        order.state = t.FILLED
    return True


@compiled
def acknowledged(order: Any, a: Any) -> None:
    """Take it that an order rests."""
    order.acked = 1
    if a.reason == t.ASKED_FOR:
        order.unanswered = max(order.unanswered - 1, 0)
        if not order.stale_answers:
            # Whatever was on its way before the question has had its effect, or is lost.
            if a.px != NULL and a.qty != NULL:
                order.px, order.qty = a.px, a.qty
            no_modify(order)
            order.cancel_asked, order.suspect, order.state = 0, 0, t.OPEN
            return
        order.stale_answers -= 1
    if order.state == t.PENDING_NEW:
        order.state = t.OPEN


@compiled
def modified(order: Any, a: Any) -> None:
    """Take the answer to a modify; one before the latest leaves that on its way."""
    order.acked = 1
    if a.px != NULL:
        order.px = a.px
    if a.qty != NULL:
        order.qty = a.qty
    if order.asked_qty and (order.px != order.asked_px or order.qty != order.asked_qty):
        return
    no_modify(order)
    if order.state == t.PENDING_MODIFY or order.state == t.PENDING_NEW:
        order.state = t.OPEN


@compiled
def no_modify(order: Any) -> None:
    """No modify is on its way any more: it is done if the order is what was asked for."""
    if order.asked_qty:
        if order.px == order.asked_px and order.qty == order.asked_qty:
            order.size = order.asked_size
        else:
            order.modifies_refused += 1
    order.asked_px, order.asked_qty, order.asked_size = NULL, 0, 0


@compiled
def resting_state(order: Any) -> int:
    """What an order is in that was not cancelled after all."""
    if order.asked_qty:
        return t.PENDING_MODIFY
    return t.OPEN if order.acked else t.PENDING_NEW


@compiled
def want_anew(w: World, order: Any) -> None:
    """Want the level of an order anew that may stand where it stood."""
    s = w.state[0]
    px = order.px if order.asked_px == NULL else order.asked_px
    size = order.asked_size if order.asked_qty else order.size
    stands = order.level_px == px and order.level_qty == size
    if not order.assigned or w.parameters[0].replaces != MOVE or stands:
        return
    order.assigned = 0
    s.levels_assigned -= 1
    side, px, qty = order.side, order.level_px, order.level_qty
    # Bids, then asks, each from the inside out.
    k = s.waiting
    while k and (
        w.waiting[k - 1].side < side
        or (w.waiting[k - 1].side == side and side * (px - w.waiting[k - 1].px) > 0)
    ):
        before, level = w.waiting[k - 1], w.waiting[k]
        level.side, level.px, level.qty = before.side, before.px, before.qty
        k -= 1
    level = w.waiting[k]
    level.side, level.px, level.qty = side, px, qty
    s.waiting += 1


@compiled
def write_fill(w: World, u: Any, a: Any) -> None:
    """Write a fill down; that of order 0 is a position that was taken over."""
    s = w.state[0]
    row = w.fill_out[s.fill_rows]
    row.n, row.ts, row.side, row.px, row.qty = u.n, a.ts, u.side, u.fill_px, u.filled
    row.liquidity, row.fee = a.liquidity, u.fee
    s.fill_rows += 1
    if s.fill_rows >= min(w.parameters[0].most_rows, FEW):
        s.full = 1


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
    s, order = w.state[0], w.orders[k]
    write_order(w, order)
    s.doubtful -= order.doubtful
    s.ends += 1
    if w.parameters[0].asks:
        past = w.past[order.n % MEMORY]
        if past.n and s.ends - past.ended < REMEMBERED:
            s.trouble = 3
        past.n, past.ts, past.side, past.px, past.qty = (
            order.n, order.ts, order.side, order.px, order.qty
        )  # fmt: skip
        past.state, past.filled, past.ts_last = order.state, order.filled, order.ts_last
        past.asked_qty, past.cancel_asked = order.asked_qty, order.cancel_asked
        past.last_seen, past.ended = order.last_seen, s.ends
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
    pursue(w, NULL, NULL)
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
            w.anomalies[t.POSITION_LEFT] += 1
        s.finished = 1
        return
    s.finished = 0
    if s.disconnected:
        return
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
    w.anomalies[t.LEFT_WORKING] += s.working
