"""Risk: limits on what we hold, owe, send and lose; a tripped one takes everything away."""

from collections import deque

from msgspec import Struct
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.guards.schedule import NEVER_NS, Schedule
from operators.operator import Link, Operator, clock_of, link
from operators.state import State, refuse_state
from streams.events import NO_INVENTORY, Anchor, Inventory
from streams.instrument import UNIT, marked_pnl

__all__ = ["REJECT_WINDOW_NS", "RiskLimits", "breach", "notional", "risk"]

REJECT_WINDOW_NS = 60 * 10**9


class RiskLimits(Struct, frozen=True, kw_only=True):
    """What may not be passed; ``None`` switches a limit off."""

    max_position: int | None = None
    """Beyond it something else traded, or was counted twice; 1e-9 base units."""
    max_notional: int | None = None
    """Value of the position, 1e-9 quote currency."""
    max_orders: int | None = None
    """Orders open or in flight at once."""
    max_loss: int | None = None
    """Loss since the session opened, realised and unrealised, after fees; 1e-9 quote currency."""
    max_rejects: int | None = None
    """Rejected orders within a minute."""
    cooldown_ns: int = 60 * 10**9
    """How long a tripped limit keeps everything withdrawn at least."""


def notional(position: int, mark: int) -> int:
    """Value of a position at a price, both 1e-9; without a sign, rounded down; a step."""
    # In parts, because the whole product does not fit 64 bits.
    size = abs(position)
    whole, part = size // UNIT, size % UNIT
    return int(whole * mark + part * (mark // UNIT) + part * (mark % UNIT) // UNIT)


def breach(
    limits: RiskLimits, held: Inventory, rejects: int, mark: int | None, pnl_at_open: int
) -> tuple[str, float, float] | None:
    """Find the first limit that is passed: its words, the value judged and the limit.

    ``rejects`` within the last minute; ``mark`` the target's mid, ``None`` before the first one.
    """
    position = held.position
    if limits.max_position is not None and abs(position) > limits.max_position:
        return "position beyond the limit", position / 1e9, limits.max_position / 1e9
    if limits.max_orders is not None and held.working > limits.max_orders:
        return "too many orders", float(held.working), float(limits.max_orders)
    if limits.max_rejects is not None and rejects > limits.max_rejects:
        return "reject storm", float(rejects), float(limits.max_rejects)
    if mark is None:
        return None
    if limits.max_notional is not None and position:
        value = notional(position, mark)
        if value > limits.max_notional:
            return "notional beyond the limit", value / 1e9, limits.max_notional / 1e9
    if limits.max_loss is not None:
        pnl = marked_pnl(held.cash, held.fees, position, mark) - pnl_at_open
        if -pnl > limits.max_loss:
            return "loss beyond the limit", -pnl / 1e9, limits.max_loss / 1e9
    return None


def risk(
    limits: RiskLimits, inventory: Observable[Inventory], *, schedule: Schedule | None = None
) -> Operator[State, State]:
    """Refuse every state from the moment a limit is passed.

    Limits are judged at each state and at each change of our orders, so a tripped one withdraws
    at once. It lasts for ``cooldown_ns`` and as long as the limit is passed; a loss lasts until the
    next session opens (without a ``schedule``: until the end), where the count starts anew.

    Units: ``value`` and ``limit`` of the refusal in base units, quote currency or counts.
    Shape: one out per input, synchronous, and one when a change of orders trips a limit or a timer
        finds it over.
    Errors: RuntimeError on subscription without the graph's clock.
    """

    def operator(source: Observable[State]) -> Observable[State]:
        def subscribe(
            observer: abc.ObserverBase[State], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "risk")
            emit = observer.on_next
            held = NO_INVENTORY
            latest: State | None = None
            mark: int | None = None
            rejected: deque[int] = deque()
            tripped: tuple[str, float, float] | None = None
            until = 0
            opened = schedule.opened(clock.now_ns) if schedule is not None else 0
            edge = schedule.next_edge(clock.now_ns) if schedule is not None else NEVER_NS
            pnl_at_open = 0
            # Without a limit on money a state tells nothing new: only our orders do.
            by_orders_alone = limits.max_notional is None and limits.max_loss is None
            unjudged = True
            timer = SerialDisposable()

            def judge() -> tuple[str, float, float] | None:
                return breach(limits, held, len(rejected), mark, pnl_at_open)

            def trip(why: tuple[str, float, float]) -> None:
                nonlocal tripped, until
                tripped = why
                now = clock.now_ns
                until = now + limits.cooldown_ns
                if limits.max_loss is not None and why[0] == "loss beyond the limit":
                    until = max(until, NEVER_NS if schedule is None else edge_of_open(now))
                if until < NEVER_NS:
                    timer.disposable = clock.schedule_ns(until, look_again)

            def edge_of_open(now: int) -> int:
                assert schedule is not None
                following = schedule.next_edge(now)
                while following < NEVER_NS and not schedule.is_open(following):
                    following = schedule.next_edge(following)
                return following

            def look_again(_: abc.SchedulerBase, __: object = None) -> None:
                nonlocal tripped, unjudged
                tripped, unjudged = None, True
                if latest is not None:
                    on_next(latest)

            def forget_old_rejects(now: int) -> None:
                while rejected and rejected[0] <= now - REJECT_WINDOW_NS:
                    rejected.popleft()

            def on_inventory(now_held: Inventory) -> None:
                nonlocal held, unjudged
                if now_held.rejects > held.rejects:
                    rejected.extend([clock.now_ns] * (now_held.rejects - held.rejects))
                held, unjudged = now_held, True
                if latest is not None and tripped is None:
                    forget_old_rejects(clock.now_ns)
                    why, unjudged = judge(), False
                    if why is not None:
                        trip(why)
                        emit(refuse_state(latest, "risk", why[0], clock.now_ns, why[1], why[2]))

            def on_next(state: State) -> None:
                nonlocal latest, mark, opened, edge, pnl_at_open, tripped, unjudged
                latest = state
                if by_orders_alone and tripped is None and not unjudged:
                    emit(state)
                    return
                unjudged = False
                now = clock.now_ns
                anchor = state[1]
                if type(anchor) is Anchor:
                    first = mark is None
                    mark = (anchor.bid_px + anchor.ask_px) // 2
                    if first:
                        # What we held at the start is neither a profit nor a loss.
                        pnl_at_open = marked_pnl(held.cash, held.fees, held.position, mark)
                if now >= edge:
                    assert schedule is not None
                    edge = schedule.next_edge(now)
                    if schedule.opened(now) != opened:
                        opened = schedule.opened(now)
                        if mark is not None:
                            pnl_at_open = marked_pnl(held.cash, held.fees, held.position, mark)
                if tripped is None:
                    if rejected:
                        forget_old_rejects(now)
                    why = judge()
                    if why is not None:
                        trip(why)
                if tripped is not None:
                    state = refuse_state(state, "risk", tripped[0], now, tripped[1], tripped[2])
                emit(state)

            return CompositeDisposable(
                timer,
                # After the subscriptions downstream: they must know the change before a refusal.
                inventory.subscribe(on_inventory, observer.on_error, scheduler=scheduler),
                link(source, on_next, observer.on_error, observer.on_completed, scheduler),
            )

        return Link(subscribe)

    return operator
