"""Marble diagrams as test helpers: on reactivex's test scheduler, and on the graph's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from reactivex import Observable, Subject
from reactivex.testing import Recorded
from reactivex.testing.marbles import marbles_testing

from operators.operator import Operator
from streams.clock import Clock
from streams.pump import Hot

__all__ = [
    "MILLISECOND",
    "Timed",
    "expect",
    "picture",
    "play",
    "play_graph",
    "play_graph_on_clock",
    "play_on_clock",
    "subscribers",
]

MILLISECOND = 1_000_000

Timed: TypeAlias = list[tuple[int, Any]]
"""What came out, and at which ns; the end is the string "|", an error is the exception itself."""


def play(
    diagram: str,
    values: Mapping[str, Any],
    operator: Operator[Any, Any],
    error: Exception | None = None,
) -> list[Recorded[Any]]:
    """Run a hot diagram through ``operator``; return what came out, and when.

    A marble in the first column is skipped, spaces align, ``error`` is what ``#`` stands for.
    """
    with marbles_testing() as (start, _cold, hot, _exp):
        return start(hot(diagram, dict(values.items()), error).pipe(operator))


def play_graph(
    diagrams: Mapping[str, str],
    values: Mapping[str, Any],
    graph: Callable[..., Observable[Any]],
    error: Exception | None = None,
) -> list[Recorded[Any]]:
    """Run several hot diagrams at once; ``graph`` gets each source by its name.

    Marbles in one column are delivered in the order in which the diagrams are given.
    """
    with marbles_testing() as (start, _cold, hot, _exp):
        sources = {
            name: hot(diagram, dict(values.items()), error) for name, diagram in diagrams.items()
        }
        return start(graph(**sources))


def expect(
    diagram: str, values: Mapping[str, Any], error: Exception | None = None
) -> list[Recorded[Any]]:
    """Read a diagram into the records that ``play`` should return."""
    with marbles_testing() as (_start, _cold, _hot, exp):
        return exp(diagram, dict(values.items()), error)


def play_on_clock(
    diagram: str,
    values: Mapping[str, Any],
    operator: Callable[..., Observable[Any]],
    *,
    step_ns: int = MILLISECOND,
    start_ns: int = 0,
) -> Timed:
    """Run a hot diagram through ``operator`` on ``Clock``, one column a step of exact ns.

    The operator is subscribed with the clock as its scheduler.
    """
    return play_graph_on_clock(
        {"source": diagram},
        values,
        lambda source: source.pipe(operator),
        step_ns=step_ns,
        start_ns=start_ns,
    )


def play_graph_on_clock(
    diagrams: Mapping[str, str],
    values: Mapping[str, Any],
    graph: Callable[..., Observable[Any]],
    *,
    step_ns: int = MILLISECOND,
    start_ns: int = 0,
) -> Timed:
    """Run several hot diagrams on ``Clock``, as the pump would: at each column timers go first.

    Letters stand for ``values`` (or for themselves), ``|`` completes, ``#`` fails; the clock stops
    at the last column. Unlike on the test scheduler the first column counts.
    """
    clock = Clock(start_ns)
    out: Timed = []
    columns = {name: diagram.replace(" ", "") for name, diagram in diagrams.items()}
    sources: dict[str, Subject[Any]] = {name: Subject() for name in diagrams}
    subscription = graph(**sources).subscribe(
        lambda value: out.append((clock.now_ns, value)),
        lambda error: out.append((clock.now_ns, error)),
        lambda: out.append((clock.now_ns, "|")),
        scheduler=clock,
    )
    for column in range(max(map(len, columns.values()))):
        clock.advance(start_ns + column * step_ns)
        for name, source in sources.items():
            mark = columns[name][column : column + 1]
            if mark == "|":
                source.on_completed()
            elif mark == "#":
                source.on_error(ValueError("error"))
            elif mark not in ("-", ""):
                source.on_next(values.get(mark, mark))
    subscription.dispose()
    return out


def picture(
    timed: Timed,
    name: Callable[[Any], str],
    columns: int,
    *,
    step_ns: int = MILLISECOND,
    start_ns: int = 0,
) -> str:
    """Draw what came out as a diagram of so many columns, each value as ``name`` calls it.

    A value that ``name`` calls "" is left out. Values off the grid, and two in one column, cannot
    be drawn and fail.
    """
    drawn = ["-"] * columns
    for ns, value in timed:
        mark = value if isinstance(value, str) else name(value)
        if mark:
            column, off = divmod(ns - start_ns, step_ns)
            assert off == 0, f"{value!r} at {ns} ns is {off} ns past column {column}"
            assert drawn[column] == "-", f"two values in column {column}: {timed}"
            drawn[column] = mark
    return "".join(drawn)


def subscribers(*sources: Hot[Any]) -> int:
    """Count who is subscribed to hot sources: 0 once everything was disposed."""
    return sum(len(source._observers) for source in sources)
