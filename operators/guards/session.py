"""Session: what to do while the signal's market is closed."""

from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.guards.schedule import NEVER_NS, Schedule
from operators.operator import Link, Operator, clock_of, link
from operators.state import State, refuse_state
from streams.events import Anchor, Residual

__all__ = ["Outside", "session"]

Outside = Literal["withdraw", "widen", "target_only"]


def session(
    schedule: Schedule, *, outside: Outside = "withdraw", widening: float = 1.0
) -> Operator[State, State]:
    """Let states through in the session; outside it withdraw, widen, or leave the signal out.

    ``withdraw`` refuses every state. ``widen`` multiplies the half-spread by ``widening``.
    ``target_only`` puts a residual of 0 in the signal's place, whatever became of the signal. At
    each open and close the latest state is judged anew by a timer.

    Units: ``value`` of the refusal is how many seconds ago the session closed, absent before the
        first one.
    Shape: one out per input, synchronous, and one at each open and close.
    Errors: RuntimeError on subscription without the graph's clock.
    """

    def operator(source: Observable[State]) -> Observable[State]:
        def subscribe(
            observer: abc.ObserverBase[State], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "session")
            emit = observer.on_next
            latest: State | None = None
            is_open = schedule.is_open(clock.now_ns)
            closed_ns = schedule.last_edge(clock.now_ns)
            timer = SerialDisposable()
            closed: Callable[[State], State]

            def wait() -> None:
                edge = schedule.next_edge(clock.now_ns)
                if edge < NEVER_NS:
                    timer.disposable = clock.schedule_ns(edge, turn)

            def turn(_: abc.SchedulerBase, __: object = None) -> None:
                nonlocal is_open, closed_ns
                is_open, closed_ns = schedule.is_open(clock.now_ns), clock.now_ns
                wait()
                if is_open:
                    # Behind the timers of this very instant: a feed may be too old from now on.
                    clock.schedule_ns(clock.now_ns, judge_anew)
                else:
                    judge_anew(_)

            def judge_anew(_: abc.SchedulerBase, __: object = None) -> None:
                if latest is not None:
                    on_next(latest)

            def withdrawn(state: State) -> State:
                now = clock.now_ns
                ago = None if closed_ns is None else (now - closed_ns) / 1e9
                return refuse_state(state, "session", "closed", now, ago, None)

            def widened(state: State) -> State:
                signal, anchor = state
                if type(anchor) is Anchor:
                    anchor = replace(anchor, widening=widening)
                return signal, anchor

            def alone(state: State) -> State:
                _, anchor = state
                return Residual(0, anchor.ts, 0.0, 0.0, 0.0), anchor

            closed = {"withdraw": withdrawn, "widen": widened, "target_only": alone}[outside]

            def on_next(state: State) -> None:
                nonlocal latest
                latest = state
                emit(state if is_open else closed(state))

            wait()
            return CompositeDisposable(
                timer,
                link(source, on_next, observer.on_error, observer.on_completed, scheduler),
            )

        return Link(subscribe)

    return operator
