"""The shape of every operator, and the time that operators may know."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from reactivex import Observable, abc

__all__ = ["Link", "NanosecondScheduler", "Operator", "clock_of", "link"]

Source = TypeVar("Source")
Result = TypeVar("Result")

Operator: TypeAlias = Callable[[Observable[Source]], Observable[Result]]
"""A function from one observable to another: what ``pipe`` takes."""


class _Plain:
    """Three functions as an observer, called as they are."""

    __slots__ = ("on_completed", "on_error", "on_next")

    def __init__(
        self,
        on_next: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        on_completed: Callable[[], None],
    ) -> None:
        self.on_next = on_next
        self.on_error = on_error
        self.on_completed = on_completed


class Link(Observable[Result]):
    """An operator's output: an Observable like any, and direct for the operator that follows.

    reactivex puts an observer of its own between any two, which guards against sources that go on
    after their end and costs a third of an event in a chain of a dozen operators. Ours are on one
    thread and end once, so ``link`` leaves it out between them.
    """

    def chain(
        self,
        on_next: abc.OnNext[Result],
        on_error: abc.OnError,
        on_completed: abc.OnCompleted,
        scheduler: abc.SchedulerBase | None,
    ) -> abc.DisposableBase:
        """Subscribe the next operator."""
        plain = _Plain(on_next, on_error, on_completed)
        return self._subscribe_core(cast(abc.ObserverBase[Result], plain), scheduler)


def link(
    source: Observable[Source],
    on_next: abc.OnNext[Source],
    on_error: abc.OnError,
    on_completed: abc.OnCompleted,
    scheduler: abc.SchedulerBase | None,
) -> abc.DisposableBase:
    """Subscribe an operator to its source."""
    on_next = _own(on_next)
    chain = getattr(source, "chain", None)
    if chain is not None:
        return cast(abc.DisposableBase, chain(on_next, on_error, on_completed, scheduler))
    return source.subscribe(on_next, on_error, on_completed, scheduler=scheduler)


def _own(on_next: abc.OnNext[Source]) -> abc.OnNext[Source]:
    """The same function with byte code of its own.

    CPython 3.11 remembers at each call what was called there last, once for all closures of one
    ``def``. The signal's and the target's operators would make each other forget: 5 % of an event.
    """
    if not isinstance(on_next, FunctionType):
        return on_next
    own = FunctionType(
        on_next.__code__.replace(), on_next.__globals__, on_next.__name__, on_next.__defaults__,
        on_next.__closure__,
    )  # fmt: skip
    own.__kwdefaults__, own.__qualname__ = on_next.__kwdefaults__, on_next.__qualname__
    return own


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
