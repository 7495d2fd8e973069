"""Throttle: at most one new target per window of event time, the freshest at the trailing edge."""

from typing import Protocol, cast

from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.operator import Operator
from streams.events import Decision

__all__ = ["NanosecondScheduler", "release_ns", "throttle"]


class NanosecondScheduler(Protocol):
    """What the throttle needs of a scheduler: the graph's clock has it."""

    now_ns: int

    def schedule_ns(self, due_ns: int, action: object, state: object = None) -> abc.DisposableBase:
        """Run ``action(scheduler, state)`` at ``due_ns``."""


def release_ns(last_ns: int, interval_ns: int) -> int:
    """When the next target may go out; a step."""
    return last_ns + interval_ns


def throttle(interval_ns: int) -> Operator[Decision, Decision]:
    """Let a target through when the last went out at least ``interval_ns`` ago, else hold it back.

    The freshest held target goes out when the window ends, decided at that instant; one that was
    overtaken never does. What takes quotes away (``withdraw``) and what only reports passes at
    once, and a withdrawal also drops what is held. Every held target is reported as a ``hold``.

    Units: ns of the graph's clock.
    Shape: in time order, synchronous or at the trailing edge; completes after what is held went.
    Errors: ValueError here if the interval is negative; RuntimeError on subscription if the
        scheduler is not the graph's clock and there is something to throttle.
    """
    if interval_ns < 0:
        raise ValueError(f"interval_ns must be a number of ns, 0 for none, was {interval_ns!r}")

    def operator(source: Observable[Decision]) -> Observable[Decision]:
        def subscribe(
            observer: abc.ObserverBase[Decision], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            if not hasattr(scheduler, "schedule_ns"):
                raise RuntimeError(
                    "throttle must be subscribed with the graph's clock as its scheduler; "
                    f"got {scheduler!r}, pass scheduler=clock to subscribe()"
                )
            clock = cast(NanosecondScheduler, scheduler)
            emit = observer.on_next
            last_ns: int | None = None
            held: Decision | None = None
            completed = False
            timer = SerialDisposable()

            def release(_: abc.SchedulerBase, __: object = None) -> None:
                nonlocal held, last_ns
                decision, held = held, None
                if decision is not None:
                    last_ns = clock.now_ns
                    emit(replace(decision, ts=clock.now_ns, reason="throttle released"))
                if completed:
                    observer.on_completed()

            def on_completed() -> None:
                nonlocal completed
                completed = True
                if held is None:
                    observer.on_completed()

            def on_next(decision: Decision) -> None:
                nonlocal held, last_ns
                if decision.action != "quote":
                    if decision.action == "withdraw":
                        held = None
                        timer.disposable = None
                    emit(decision)
                    return
                now = clock.now_ns
                if last_ns is None or now >= release_ns(last_ns, interval_ns):
                    held, last_ns = None, now
                    timer.disposable = None
                    emit(decision)
                    return
                if held is None:
                    due = release_ns(last_ns, interval_ns)
                    timer.disposable = clock.schedule_ns(due, release)
                held = decision
                emit(replace(decision, action="hold", reason="throttle"))

            return CompositeDisposable(
                timer,
                source.subscribe(on_next, observer.on_error, on_completed, scheduler=scheduler),
            )

        return Observable(subscribe)

    return operator if interval_ns else (lambda source: source)
