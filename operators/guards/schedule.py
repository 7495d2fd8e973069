"""Schedule: when a market is in its regular session."""

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["NEVER_NS", "Schedule"]

NEVER_NS = 2**63 - 1


class Schedule:
    """Sessions in ascending order, asked for one instant at a time.

    A session is open from its first nanosecond on, and closed from the last one on.
    """

    def __init__(self, sessions: Sequence[tuple[int, int]]) -> None:
        """Take (open, close) in ns.

        Errors: ValueError if they overlap or are not in ascending order.
        """
        edges = [edge for session in sessions for edge in session]
        if edges != sorted(set(edges)):
            raise ValueError("sessions must be ascending, not empty, and must not overlap")
        self._edges = edges

    @property
    def edges(self) -> Sequence[int]:
        """Opens and closes by turns, ascending, ns."""
        return self._edges

    def is_open(self, ts: int) -> bool:
        """Tell whether ``ts`` is in a session."""
        return bisect_right(self._edges, ts) % 2 == 1

    def next_edge(self, ts: int) -> int:
        """The next open or close after ``ts``; ``NEVER_NS`` when there is none."""
        after = bisect_right(self._edges, ts)
        return self._edges[after] if after < len(self._edges) else NEVER_NS

    def last_edge(self, ts: int) -> int | None:
        """The open or close at or before ``ts``; ``None`` when there was none."""
        after = bisect_right(self._edges, ts)
        return self._edges[after - 1] if after else None

    def opened(self, ts: int) -> int:
        """When the session at ``ts``, or the latest one before it, opened; 0 when there was none.

        Two instants have the same answer if no session opened between them.
        """
        after = bisect_right(self._edges, ts)
        return self._edges[(after - 1) & ~1] if after else 0
