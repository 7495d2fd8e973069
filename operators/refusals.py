"""Refusals: takes refused books out of a stream and reports them beside it."""

from typing import TypeVar

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from operators.requote import refused
from streams.events import Decision, Refusal

__all__ = ["divert_refusals"]

Value = TypeVar("Value")


def divert_refusals(report: abc.ObserverBase[Decision]) -> Operator[Value | Refusal, Value]:
    """Drop refused books, so that the last sound value stays, and report each as a ``refuse``.

    Shape: one out per value that is no refusal, synchronous.
    """

    def operator(source: Observable[Value | Refusal]) -> Observable[Value]:
        def subscribe(
            observer: abc.ObserverBase[Value], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            def on_next(value: Value | Refusal) -> None:
                if isinstance(value, Refusal):
                    report.on_next(refused(value, value.seq, value.ts, action="refuse"))
                else:
                    observer.on_next(value)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
