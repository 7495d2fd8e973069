"""The shape of every operator, and the time that operators may know."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from reactivex import Observable, abc

__all__ = ["NanosecondScheduler", "Operator", "clock_of"]

Source = TypeVar("Source")
Result = TypeVar("Result")

Operator: TypeAlias = Callable[[Observable[Source]], Observable[Result]]
"""A function from one observable to another: what ``pipe`` takes."""


class NanosecondScheduler(Protocol):
    """What operators need of time: the graph's clock has it."""

    now_ns: int

    def schedule_ns(
        self, due_ns: int, action: Callable[[abc.SchedulerBase, Any], Any], state: Any = None
    ) -> abc.DisposableBase:
        """Run ``action(scheduler, state)`` at ``due_ns``."""


def clock_of(scheduler: abc.SchedulerBase | None, operator: str) -> NanosecondScheduler:
    """The graph's clock, which ``operator`` was subscribed with.

    Errors: RuntimeError if it is another scheduler or none: time must be the graph's.
    """
    if not hasattr(scheduler, "schedule_ns"):
        raise RuntimeError(
            f"{operator} must be subscribed with the graph's clock as its scheduler; "
            f"got {scheduler!r}, pass scheduler=clock to subscribe()"
        )
    return cast(NanosecondScheduler, scheduler)
