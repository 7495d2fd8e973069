"""book_fault(): which books may be quoted on."""

import pytest

from operators.books import CROSSED, FAULTS, LOCKED, SOUND, ZERO_PRICE, ZERO_SIZE, book_fault


@pytest.mark.parametrize(
    ("bid_px", "ask_px", "bid_sz", "ask_sz"),
    [(100, 101, 1, 1), (1, 2**63 - 1, 2**63 - 1, 1)],
)
def test_a_book_with_two_prices_and_two_sizes_is_sound(
    bid_px: int, ask_px: int, bid_sz: int, ask_sz: int
) -> None:
    assert book_fault(bid_px, ask_px, bid_sz, ask_sz) == SOUND


@pytest.mark.parametrize(
    ("bid_px", "ask_px", "bid_sz", "ask_sz", "fault"),
    [
        (0, 101, 1, 1, ZERO_PRICE),
        (-1, 101, 1, 1, ZERO_PRICE),
        (100, 0, 1, 1, ZERO_PRICE),
        (100, -1, 1, 1, ZERO_PRICE),
        (100, 101, 0, 1, ZERO_SIZE),
        (100, 101, 1, 0, ZERO_SIZE),
        (100, 101, -1, 1, ZERO_SIZE),
        (100, 101, 1, -1, ZERO_SIZE),
        (101, 100, 1, 1, CROSSED),
        (100, 100, 1, 1, LOCKED),
    ],
)
def test_a_book_is_unsound_on_either_side(
    bid_px: int, ask_px: int, bid_sz: int, ask_sz: int, fault: int
) -> None:
    assert book_fault(bid_px, ask_px, bid_sz, ask_sz) == fault


def test_a_book_with_several_faults_is_refused_for_its_price_then_its_size() -> None:
    assert book_fault(101, 0, 0, 1) == ZERO_PRICE
    assert book_fault(101, 100, 0, 1) == ZERO_SIZE
    assert book_fault(100, 100, 0, 1) == ZERO_SIZE


def test_every_fault_has_words_and_a_sound_book_has_none() -> None:
    assert FAULTS == {
        ZERO_PRICE: "zero price",
        ZERO_SIZE: "zero size",
        CROSSED: "crossed",
        LOCKED: "locked",
    }
    assert SOUND not in FAULTS
    assert not SOUND
