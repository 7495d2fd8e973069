"""Playback: the clock of a recorded market that is shown again, now and perhaps faster."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["END_OF_TIME", "Playback"]

END_OF_TIME: Final = 2**63 - 1
"""The recorded instant that an infinitely fast playback has reached, ns."""

_SECOND: Final = 1_000_000_000
_LONGEST_NAP_SECS: Final = 0.05


class Playback:
    """Maps recorded instants to instants of the wall, and back.

    All stand-ins of one market share one playback, so that their books move together: in one
    process the object itself, across processes its three numbers.

    The recorded instant ``first_ts`` happens at ``start_ns``; ``speed`` recorded seconds pass in
    one second. With ``speed=math.inf`` the whole recording happens at ``start_ns``: then nothing is
    paced, and what goes before what is for the servers to say.

    Thread-safe: stand-ins may run on loops of their own.
    """

    def __init__(self, first_ts: int, speed: float = 1.0, start_ns: int | None = None) -> None:
        """Prepare a playback; with ``start_ns`` (ns since 1970, may lie ahead) it has started.

        Errors: ValueError if ``speed`` is not positive.
        """
        if not speed > 0:
            raise ValueError(
                f"speed must be a positive number of recorded seconds a second, was {speed!r}; "
                f"math.inf is as fast as can be"
            )
        self.first_ts: Final = first_ts
        self.speed: Final = speed
        self._start_ns = start_ns
        self._lock = threading.Lock()
        # One look at the wall: a step of the system's clock must not move the market.
        self._wall_minus_monotonic = time.time_ns() - time.monotonic_ns()  # noqa: TID251

    @property
    def started(self) -> bool:
        """Whether ``start`` was called, or the start set."""
        return self._start_ns is not None

    @property
    def start_ns(self) -> int:
        """When the playback started, ns since 1970.

        Errors: RuntimeError if it has not been started.
        """
        if self._start_ns is None:
            raise RuntimeError("this playback has not been started; call start() first")
        return self._start_ns

    def start(self, now_ns: int | None = None) -> int:
        """Start the market at ``now_ns`` unless it has started, and return when it did."""
        with self._lock:
            if self._start_ns is None:
                self._start_ns = self.now_ns() if now_ns is None else now_ns
            return self._start_ns

    def now_ns(self) -> int:
        """The wall's time, ns since 1970; it never goes back while the process lives."""
        return time.monotonic_ns() + self._wall_minus_monotonic

    def elapsed_secs(self) -> float | None:
        """Seconds of the wall since the start; ``None`` before it was started."""
        if self._start_ns is None:
            return None
        return (self.now_ns() - self._start_ns) / _SECOND

    def wall_ns(self, ts: int) -> int:
        """When the recorded instant ``ts`` happens, ns since 1970. Exact at ``speed=1``."""
        recorded = ts - self.first_ts
        return self.start_ns + (recorded if self.speed == 1.0 else round(recorded / self.speed))

    def walls_ns(self, ts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """``wall_ns`` of many instants at once."""
        recorded = ts - self.first_ts
        if self.speed != 1.0:
            recorded = np.rint(recorded / self.speed).astype(np.int64)
        return self.start_ns + recorded

    def recorded_ns(self, wall_ns: int) -> int:
        """The recorded instant that happens at ``wall_ns``; before the start before ``first_ts``.

        With infinite speed it is ``END_OF_TIME`` from the start on.
        """
        passed = wall_ns - self.start_ns
        if math.isinf(self.speed):
            return END_OF_TIME if passed >= 0 else self.first_ts - 1
        recorded = self.first_ts + (passed if self.speed == 1.0 else round(passed * self.speed))
        return min(recorded, END_OF_TIME)

    async def sleep_until(self, ts: int) -> None:
        """Wait for the recorded instant ``ts``, and before that for the start."""
        while self._start_ns is None or (wait := self.wall_ns(ts) - self.now_ns()) > 0:
            # Short naps until the start, which may be called on another thread.
            nap = _LONGEST_NAP_SECS if self._start_ns is None else wait / _SECOND
            await asyncio.sleep(nap)
