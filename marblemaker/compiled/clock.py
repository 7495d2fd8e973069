"""The loop's clock: one timer a purpose, fired in (due, creation) order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marblemaker.compiled.layout import NEVER, TIMERS, World
from marblemaker.compiled.machine import compiled

__all__ = ["cancel", "earliest", "schedule"]


@compiled
def schedule(w: World, timer: int, due: int) -> None:
    """Set a timer, instead of the one of its purpose that may be out."""
    s = w.state[0]
    w.due[timer] = max(due, s.now)
    # Only the order of creation matters, so it may be counted here.
    s.made += 1
    w.made[timer] = s.made
    s.next_due = w.due.min()


@compiled
def cancel(w: World, timer: int) -> None:
    """Take a timer back, if it is out."""
    w.due[timer] = NEVER
    w.state[0].next_due = w.due.min()


@compiled
def earliest(w: World) -> int:
    """Which timer fires next, of those that are out."""
    first = 0
    for timer in range(1, TIMERS):
        due, best = w.due[timer], w.due[first]
        if due < best or (due == best and w.made[timer] < w.made[first]):
            first = timer
    return first


@compiled
def edges_before(edges: NDArray[np.int64], ts: int) -> int:
    """How many opens and closes lie at or before an instant; see ``Schedule``."""
    return int(np.searchsorted(edges, ts, side="right"))


@compiled
def is_open(w: World, ts: int) -> bool:
    """Tell whether the signal's market is in a session."""
    return edges_before(w.edges, ts) % 2 == 1


@compiled
def opened(w: World, ts: int) -> int:
    """When the session at an instant, or the latest one before it, opened; 0: there was none."""
    after = edges_before(w.edges, ts)
    return w.edges[(after - 1) & ~1] if after else 0


@compiled
def next_edge(w: World, ts: int) -> int:
    """The next open or close after an instant; ``NEVER``, which is behind all, if there is none."""
    return w.edges[edges_before(w.edges, ts)]
