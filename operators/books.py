"""Which books may be quoted on."""

from typing import Final

__all__ = ["CROSSED", "FAULTS", "LOCKED", "SOUND", "ZERO_PRICE", "ZERO_SIZE", "book_fault"]

SOUND: Final = 0
ZERO_PRICE: Final = 1
ZERO_SIZE: Final = 2
CROSSED: Final = 3
LOCKED: Final = 4

FAULTS: Final = {
    ZERO_PRICE: "zero price",
    ZERO_SIZE: "zero size",
    CROSSED: "crossed",
    LOCKED: "locked",
}
"""The words that a refusal gives as its reason."""


def book_fault(bid_px: int, ask_px: int, bid_sz: int, ask_sz: int) -> int:
    """Judge a book that has both sides; a step.

    A locked book (bid = ask) has a mid, and whether it may be quoted on is a matter of settings.
    Sizes that are not known are given as 1.
    """
    if bid_px <= 0 or ask_px <= 0:
        return ZERO_PRICE
    if bid_sz <= 0 or ask_sz <= 0:
        return ZERO_SIZE
    if bid_px > ask_px:
        return CROSSED
    if bid_px == ask_px:
        return LOCKED
    return SOUND
