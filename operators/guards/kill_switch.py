"""Kill switch: the operator's command to quote nothing, until it is released."""

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from operators.operator import Link, Operator, clock_of, link
from operators.state import State, refuse_state
from streams.events import Status

__all__ = ["kill_switch"]


def kill_switch(status: Observable[Status]) -> Operator[State, State]:
    """Refuse every state from a ``kill`` until a ``release``; both act at once.

    Shape: one out per input, synchronous, and one at each change once there is a state.
    Errors: RuntimeError on subscription without the graph's clock.
    """

    def operator(source: Observable[State]) -> Observable[State]:
        def subscribe(
            observer: abc.ObserverBase[State], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "kill_switch")
            emit = observer.on_next
            latest: State | None = None
            why: str | None = None

            def on_status(event: Status) -> None:
                nonlocal why
                if event.source != "operator" or event.kind not in ("kill", "release"):
                    return
                why = (event.text or "on") if event.kind == "kill" else None
                if latest is not None:
                    on_next(latest)

            def on_next(state: State) -> None:
                nonlocal latest
                latest = state
                if why is not None:
                    state = refuse_state(state, "kill switch", why, clock.now_ns, None, None)
                emit(state)

            return CompositeDisposable(
                status.subscribe(on_status, observer.on_error, scheduler=scheduler),
                link(source, on_next, observer.on_error, observer.on_completed, scheduler),
            )

        return Link(subscribe)

    return operator
