"""The boundary: where what arrives becomes an input, numbered, stamped, recorded, delivered.

Everything runs on the event loop's thread. Inputs of one read are one batch; timers of the graph
and answers of a simulated venue only wake the pump, and carry the instants at which they were due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from marblemaker.wall import now_ns
from streams.clock import NEVER
from streams.events import Quote, Status, Trade
from streams.pump import ACCOUNT, STATUS, TRADE, Event, Inputs, Pump

__all__ = ["Boundary"]


class Boundary:
    """Hands live events to a pump, in the order in which they arrived."""

    def __init__(
        self,
        pump: Pump,
        *,
        now_ns: Callable[[], int] = now_ns,
        on_delivered: Callable[[], None] = lambda: None,
        on_error: Callable[[Exception], None],
    ) -> None:
        """``now_ns`` is the wall clock; ``on_delivered`` is called after each batch.

        ``on_error`` is told what the graph raised, from an input or from a timer.
        """
        self._pump = pump
        self._now_ns = now_ns
        self._on_delivered = on_delivered
        self._on_error = on_error
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = NEVER
        self._loop = asyncio.get_running_loop()
        self._delivering = False
        self._queue: list[tuple[int, Sequence[Quote | Event]]] = []
        self.inputs = 0
        """Events delivered so far."""
        self.clock_went_back = 0
        """How often the wall clock stood before an instant already given; such inputs get that."""

    def stamp(self) -> int:
        """The present for the next input, ns: never before the graph's."""
        now, last = self._now_ns(), self._pump.clock.now_ns
        if now < last:
            self.clock_went_back += 1
            return last
        return now

    def deliver(self, kind: int, events: Sequence[Quote | Event]) -> None:
        """Make inputs of what arrived together; ``kind`` is where its quotes come from.

        What arrives while a batch is being delivered waits until that is done.
        """
        self._queue.append((kind, events))
        if self._delivering:
            return
        self._guarded(self._deliver_all)

    def _deliver_all(self) -> None:
        while self._queue:
            self._deliver(*self._queue.pop(0))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what runs the graph, one thing at a time; what it raises is told, never lost."""
        self._delivering = True
        try:
            work()
        except Exception as error:
            self._on_error(error)
        finally:
            self._delivering = False
        self._on_delivered()
        self.schedule()

    def _deliver(self, kind: int, events: Sequence[Quote | Event]) -> None:
        ts = self.stamp()
        batch = Inputs([], [], [], [], [], [], [], [], events=[])
        kinds: list[int] = batch.kind  # type: ignore[assignment]
        for event in events:
            if type(event) is Quote:
                kinds.append(kind)
                row = (
                    event.ts_event, event.bid_px, event.ask_px, event.bid_sz, event.ask_sz,
                    event.flags,
                )  # fmt: skip
            else:
                kinds.append(_kind_of(event))
                batch.events.append(event)  # type: ignore[attr-defined]
                row = (None, None, None, None, None, 0)
            for column, value in zip(
                (batch.ts_event, batch.bid_px, batch.ask_px, batch.bid_sz, batch.ask_sz,
                 batch.flags),
                row,
                strict=True,
            ):  # fmt: skip
                column.append(value)  # type: ignore[attr-defined]
        batch.ts = [ts] * len(kinds)
        self._pump.run(batch)
        self.inputs += len(kinds)

    def wake(self) -> None:
        """Let the graph's time catch up with the wall's: fire what is due."""
        self._timer, self._timer_due = None, NEVER
        if not self._delivering:
            self._guarded(lambda: self._pump.advance(self.stamp()))

    def schedule(self) -> None:
        """Have the loop wake us when the next timer or answer is due."""
        due = self._pump.next_due_ns
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_due = due
        if due < NEVER:
            wait = max(0, due - self._now_ns()) / 1e9
            self._timer = self._loop.call_later(min(wait, 86_400.0), self.wake)

    def close(self) -> None:
        """Let nothing be due any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, NEVER


def _kind_of(event: Quote | Event) -> int:
    if isinstance(event, Trade):
        return TRADE
    return STATUS if isinstance(event, Status) else ACCOUNT
