"""The dry venue: acknowledges what it is sent and fills nothing; nothing leaves the process."""

from collections.abc import Callable, Sequence
from typing import Final

from sinks.orders import QUERIED
from sinks.venue import Cancel, Command, Create, Modify
from streams.clock import NEVER
from streams.events import AccountEvent, Trade

__all__ = ["DryVenue"]


class DryVenue:
    """Answers every command at once, as a venue without a market would.

    Targets are worked towards as they would be live, so that a dry run shows which orders would
    have been sent; a market order is rejected, for there is nobody to trade with.
    """

    next_due_ns: Final = NEVER

    def __init__(self, answer: Callable[[AccountEvent], None]) -> None:
        """``answer`` queues an account event as an input."""
        self._answer = answer
        self._resting: dict[int, tuple[int, int]] = {}

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Answer a batch."""
        for command in commands:
            self._take(ts, command)

    def _take(self, ts: int, command: Command) -> None:
        n = command.n
        if isinstance(command, Create):
            if command.px is None:
                self._say(ts, "reject", n, "dry: nothing is sent, so nothing can be closed")
                return
            self._resting[n] = command.px, command.qty
            self._say(ts, "ack", n)
        elif isinstance(command, Cancel):
            gone = self._resting.pop(n, None) is None
            self._say(ts, "cancel_reject" if gone else "cancel", n, "requested")
        elif isinstance(command, Modify):
            if n in self._resting:
                self._resting[n] = command.px, command.qty
                self._answer(
                    AccountEvent(seq=0, ts=ts, kind="modify", n=n, px=command.px, qty=command.qty)
                )
            else:
                self._say(ts, "modify_reject", n, "not active")
        elif n in self._resting:
            px, qty = self._resting[n]
            self._answer(
                AccountEvent(seq=0, ts=ts, kind="ack", n=n, px=px, qty=qty, reason=QUERIED)
            )
        else:
            self._say(ts, "reject", n, "unknown order")

    def _say(self, ts: int, kind: str, n: int, reason: str | None = None) -> None:
        self._answer(AccountEvent(seq=0, ts=ts, kind=kind, n=n, reason=reason))  # type: ignore[arg-type]

    def advance(self, until_ns: int) -> None:
        """Nothing is ever on its way."""

    def on_quote(
        self,
        ts: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        """Nothing is matched."""

    def on_trade(self, trade: Trade) -> None:
        """Nothing is matched."""
