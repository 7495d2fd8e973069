"""Feed: what a live source of inputs is to the boundary that numbers and records them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from streams.events import Quote, Status, Trade

__all__ = ["Backoff", "Emit", "Feed"]

Emit: TypeAlias = Callable[[Sequence[Quote | Trade | Status]], None]
"""Takes what arrived together, in order, with ``seq`` and ``ts`` 0: the boundary stamps them.

It is called on the event loop's thread, once per network read, not once per record.
"""


class Feed(Protocol):
    """A live source. It reconnects by itself and says so with ``Status`` events."""

    async def run(self) -> None:
        """Stream until cancelled. It ends by itself only with an error that no retry can mend."""


class Backoff:
    """How long to wait before the next attempt: doubling from ``least`` to ``most``, with jitter.

    A connection that lasted ``steady`` seconds starts anew; a shorter one does not, because venues
    let a banned address connect and drop it again.
    """

    def __init__(
        self, least: float = 0.25, most: float = 30.0, *, steady: float = 60.0, seed: int = 0
    ) -> None:
        """Units: seconds. ``seed`` fixes the jitter, so that a test can repeat it."""
        self._least = least
        self._most = most
        self._steady = steady
        self._attempt = 0
        self._seed = seed

    def lasted(self, seconds: float) -> None:
        """Tell how long the last connection held."""
        if seconds >= self._steady:
            self._attempt = 0

    def next(self) -> float:
        """Seconds to wait now, between half and all of the doubled time."""
        wait = min(self._most, self._least * 2.0 ** min(self._attempt, 32))
        self._attempt += 1
        # Knuth's multiplicative hash: spread as well as chance, and the same for the same seed.
        jitter = (self._seed + self._attempt) * 2_654_435_761 % 2**32 / 2**32
        return wait * (0.5 + 0.5 * jitter)
