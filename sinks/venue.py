"""What a venue is to the order sink: a place to send batches of commands.

Its answers are not return values. They come back later, as account events among the inputs.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

__all__ = ["Cancel", "Command", "Create", "Venue"]


class Create(Struct, frozen=True, gc=False):
    """Ask for a new order."""

    n: int
    """Our order number: 1, 2, 3 …"""
    side: int
    """BUY or SELL."""
    px: int | None
    """Limit price, 1e-9 quote currency; ``None`` for a market order."""
    qty: int
    """Size, 1e-9 base units."""
    expire_ts: int | None
    """When the venue shall expire it, ns; ``None`` for never."""

    @property
    def is_market(self) -> bool:
        """Market orders take; every other order is post-only."""
        return self.px is None


class Cancel(Struct, frozen=True, gc=False):
    """Ask for an order to be cancelled."""

    n: int


Command: TypeAlias = Create | Cancel


class Venue(Protocol):
    """Takes commands; answers come as account events."""

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Send a batch, in order. ``ts`` is the instant of the decision, ns."""
