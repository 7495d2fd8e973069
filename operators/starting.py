"""Starting with: a value that stands until the source has spoken."""

from typing import TypeVar

from reactivex import Observable, abc

from operators.operator import Link, Operator, link

__all__ = ["starting_with"]

Value = TypeVar("Value")


def starting_with(value: Value) -> Operator[Value, Value]:
    """Emit ``value`` on subscription, then whatever the source emits.

    reactivex's ``start_with`` goes through the scheduler and would come only when time moves.

    Shape: one at once, then one per input.
    """

    def operator(source: Observable[Value]) -> Observable[Value]:
        def subscribe(
            observer: abc.ObserverBase[Value], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            observer.on_next(value)
            return link(
                source, observer.on_next, observer.on_error, observer.on_completed, scheduler
            )

        return Link(subscribe)

    return operator
