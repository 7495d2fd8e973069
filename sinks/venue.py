"""What a venue is to the order sink: a place to send batches of commands.

Its answers are not return values. They come back later, as account events among the inputs.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

__all__ = ["Cancel", "Command", "Create", "Modify", "Query", "Venue"]


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


class Modify(Struct, frozen=True, gc=False):
    """Ask for a working order to be moved; it loses its place in the queue whatever changes.

    If it would cross at its new price the venue cancels it: the old order is lost as well.
    """

    n: int
    px: int
    """New limit price, 1e-9."""
    qty: int
    """New *total* size, what has filled included, 1e-9 base units; at or below what has filled the
    order is done."""


class Query(Struct, frozen=True, gc=False):
    """Ask what became of an order whose answer is overdue.

    The venue repeats the fills it knows (under their ids, so that they are counted once), then
    says what state the order is in: ``ack`` with its present price and total when it rests, how it
    ended when it did (``cancel`` for one that filled), ``reject`` when it never arrived. The reason
    of all of these but the last is ``queried``.
    """

    n: int


Command: TypeAlias = Create | Cancel | Modify | Query


class Venue(Protocol):
    """Takes commands; answers come as account events."""

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Send a batch, in order. ``ts`` is the instant of the decision, ns."""
