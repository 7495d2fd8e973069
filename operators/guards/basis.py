"""Basis: target and signal that stand too far apart are not one market."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from operators.state import State, refuse_state
from streams.events import Anchor, Residual

__all__ = ["basis", "basis_bps"]


def basis_bps(target_mid: float, signal_mid: float) -> float:
    """How far the target stands above the signal, in bps; a step."""
    return (target_mid / signal_mid - 1.0) * 10_000.0


def basis(limit_bps: float) -> Operator[State, State]:
    """Refuse states in which target and signal mid are more than ``limit_bps`` apart.

    Units: bps. States with a refusal, or without a signal, pass.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[State]) -> Observable[State]:
        def subscribe(
            observer: abc.ObserverBase[State], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            # Two products a state instead of a call; the exact judgement is beyond.
            share = limit_bps / 10_000.0 * 0.999 - 1e-12
            below, above = 1.0 - share, 1.0 + share

            def on_next(state: State) -> None:
                signal, anchor = state
                if type(signal) is Residual and type(anchor) is Anchor:
                    mid = signal.mid
                    if not mid * below <= anchor.mid <= mid * above and signal.seq:
                        apart = basis_bps(anchor.mid, mid)
                        if not -limit_bps <= apart <= limit_bps:
                            now = max(signal.ts, anchor.ts)
                            state = refuse_state(
                                state, "basis", "beyond the limit", now, apart, limit_bps
                            )
                emit(state)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
