"""mid(locked=False): a book whose sides meet is refused."""

import pytest

from operators.mid import mid
from streams.events import Mid, Quote, Refusal
from tests.marbles import expect, play

UNIT = 1_000_000_000


def book(bid_px: int | None, ask_px: int | None, size: int | None = UNIT) -> Quote:
    return Quote(7, 70, 69, bid_px, ask_px, size, size, 0)


@pytest.mark.parametrize("size", [UNIT, None])
def test_a_locked_book_is_refused_with_its_values_when_asked_to(size: int | None) -> None:
    quotes = {"a": book(206 * UNIT, 206 * UNIT, size)}
    refused = Refusal(7, 70, "target", "locked", 206 * UNIT, 206 * UNIT, size, size)

    assert play("-a-|", quotes, mid("target", locked=False)) == expect("-x-|", {"x": refused})


def test_by_default_a_locked_book_has_a_middle() -> None:
    quotes = {"a": book(206 * UNIT, 206 * UNIT)}
    middle = {"x": Mid(7, 70, 206.0, 206 * UNIT, 206 * UNIT)}

    assert play("-a-|", quotes, mid("target")) == expect("-x-|", middle)
    assert play("-a-|", quotes, mid("target", locked=True)) == expect("-x-|", middle)


def test_a_unit_apart_is_not_locked() -> None:
    quotes = {"a": book(206 * UNIT, 206 * UNIT + 1)}
    middle = {"x": Mid(7, 70, (206.0 + 206.000000001) / 2, 206 * UNIT, 206 * UNIT + 1)}

    assert play("-a-|", quotes, mid("signal", locked=False)) == expect("-x-|", middle)


def test_other_faults_keep_their_names() -> None:
    quotes = {
        "a": book(207 * UNIT, 206 * UNIT),
        "b": book(0, 0),
        "c": book(206 * UNIT, 206 * UNIT, 0),
        "d": book(None, None),
    }
    reasons = {"a": "crossed", "b": "zero price", "c": "zero size", "d": "missing"}
    refusals = {
        name: Refusal(7, 70, "signal", reasons[name], q.bid_px, q.ask_px, q.bid_sz, q.ask_sz)
        for name, q in quotes.items()
    }

    actual = play("-a-b-c-d-|", quotes, mid("signal", locked=False))

    assert actual == expect("-a-b-c-d-|", refusals)


def test_the_tutorial_takes_the_middle_of_a_locked_book_all_the_same() -> None:
    quotes = {"a": book(206 * UNIT, 206 * UNIT)}
    middle = {"x": Mid(7, 70, 206.0, 206 * UNIT, 206 * UNIT)}

    actual = play("-a-|", quotes, mid("signal", tutorial=True, locked=False))

    assert actual == expect("-x-|", middle)


def test_a_refusal_passes_as_it_is() -> None:
    refused = {"r": Refusal(7, 70, "signal", "event time far behind", 3, 3, 1, 1)}

    assert play("-r-|", refused, mid("signal", locked=False)) == expect("-r-|", refused)
