"""Tap: lets what flows past be written down, without changing it."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct
from reactivex import Observable, abc

from operators.operator import Link, Operator, link

__all__ = ["NO_TAPS", "Tape", "Taps", "tap"]

Value = TypeVar("Value")


class Tape(Struct, frozen=True):
    """Where values are written down, one after the other.

    Packed at once, they need not be kept: that is quicker than a list of them.
    """

    write: Callable[[Any, bytearray, int], None]
    """Appends a value to a buffer, when the last argument is -1; ``msgspec``'s ``encode_into``."""
    buffer: bytearray


class Taps(Struct, frozen=True, kw_only=True):
    """Where the graph is looked into: what each stage hands to the next; ``None``: not there."""

    signals: tuple[Tape | None, ...] = ()
    """A residual or refusal of each signal, past its guards."""
    weighted: Tape | None = None
    """What several signals make together."""
    target: Tape | None = None
    """An anchor or refusal of the target, past its guards."""
    states: Tape | None = None
    """What reaches requote. The latest of both feeds, unaltered, is not told: it is known."""
    wanted: Tape | None = None
    """A decision that requote lets through to the throttle."""

    def signal(self, i: int) -> Tape | None:
        """The tape of the signal with this index."""
        return self.signals[i] if i < len(self.signals) else None


NO_TAPS = Taps()


def tap(tape: Tape | None) -> Operator[Value, Value]:
    """Write each value down before it goes on; with ``None`` this is no operator at all.

    Shape: one out per input, synchronous.
    """
    if tape is None:
        return lambda source: source
    write, buffer = tape.write, tape.buffer

    def operator(source: Observable[Value]) -> Observable[Value]:
        def subscribe(
            observer: abc.ObserverBase[Value], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(value: Value) -> None:
                write(value, buffer, -1)
                emit(value)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
