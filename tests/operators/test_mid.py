"""mid(): the middle of a sound book, or a refusal with what it was."""

import random
from decimal import Decimal

import pytest

from operators.mid import mid, mid_price, mid_price_1e16
from streams.events import Mid, Quote, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

UNIT = 1_000_000_000


def book(
    bid_px: int | None,
    ask_px: int | None,
    bid_sz: int | None = UNIT,
    ask_sz: int | None = UNIT,
) -> Quote:
    return Quote(7, 70, 69, bid_px, ask_px, bid_sz, ask_sz, 0)


def test_each_sound_book_has_the_middle_of_its_prices() -> None:
    quotes = {
        "a": book(206 * UNIT, 207 * UNIT),
        "b": book(206 * UNIT, 206 * UNIT),  # locked
        "c": book(206 * UNIT, 207 * UNIT, None, None),  # sizes not known
        "d": book(1, 3),
    }
    mids = {
        "x": Mid(7, 70, (206.0 + 207.0) / 2, 206 * UNIT, 207 * UNIT),
        "y": Mid(7, 70, 206.0, 206 * UNIT, 206 * UNIT),
        "z": Mid(7, 70, (1e-9 + 3e-9) / 2, 1, 3),
    }

    actual = play("    -a-b-c-d-|", quotes, mid("signal"))

    assert actual == expect("-x-y-x-z-|", mids)


@pytest.mark.parametrize("feed", ["signal", "target"])
def test_a_book_without_a_middle_becomes_a_refusal_with_the_values_it_was_judged_by(
    feed: str,
) -> None:
    quotes = {
        "a": book(None, None, None, None),
        "b": book(None, 207 * UNIT, None, UNIT),
        "c": book(206 * UNIT, None, UNIT, None),
        "d": book(0, 207 * UNIT),
        "e": book(206 * UNIT, 207 * UNIT, UNIT, 0),
        "f": book(207 * UNIT, 206 * UNIT, 3, 4),
        "g": book(206 * UNIT, 207 * UNIT, 0, None),
    }
    reasons = {
        "a": "missing", "b": "no bid", "c": "no ask", "d": "zero price", "e": "zero size",
        "f": "crossed", "g": "zero size",
    }  # fmt: skip
    refusals = {
        name: Refusal(7, 70, feed, reasons[name], q.bid_px, q.ask_px, q.bid_sz, q.ask_sz)  # type: ignore[arg-type]
        for name, q in quotes.items()
    }

    actual = play("    -a-b-c-d-e-f-g-|", quotes, mid(feed))  # type: ignore[arg-type]

    assert actual == expect("-a-b-c-d-e-f-g-|", refusals)


def test_the_tutorial_refuses_only_a_missing_side() -> None:
    quotes = {
        "a": book(207 * UNIT, 206 * UNIT),  # crossed
        "b": book(206 * UNIT, 207 * UNIT, 0, 0),
        "c": book(0, 2 * UNIT),
        "d": book(None, 207 * UNIT, None, UNIT),
        "e": book(206 * UNIT, None, UNIT, None),
        "f": book(None, None, None, None),
    }
    out = {
        "x": Mid(7, 70, 206.5, 207 * UNIT, 206 * UNIT),
        "w": Mid(7, 70, 206.5, 206 * UNIT, 207 * UNIT),
        "y": Mid(7, 70, 1.0, 0, 2 * UNIT),
        "d": Refusal(7, 70, "target", "no bid", None, 207 * UNIT, None, UNIT),
        "e": Refusal(7, 70, "target", "no ask", 206 * UNIT, None, UNIT, None),
        "f": Refusal(7, 70, "target", "missing"),
    }

    actual = play("    -a-b-c-d-e-f-|", quotes, mid("target", tutorial=True))

    assert actual == expect("-x-w-y-d-e-f-|", out)


def test_a_mid_is_the_double_nearest_to_its_decimal_within_a_last_bit() -> None:
    source = random.Random(1)
    for _ in range(5_000):
        bid = source.randrange(1, 10**15)
        ask = bid + source.randrange(0, 10**9)
        exact = (Decimal(bid) + Decimal(ask)) / 2 / UNIT

        assert abs(Decimal(mid_price(bid, ask)) - exact) <= exact * Decimal(2) ** -51


def test_the_tutorials_middle_is_the_same_below_14757_at_two_decimals() -> None:
    source = random.Random(2)
    for _ in range(5_000):
        bid = source.randrange(100, 1_475_600) * UNIT // 100
        ask = bid + source.randrange(1, 100) * UNIT // 100

        assert mid_price(bid, ask).hex() == mid_price_1e16(bid, ask).hex()


def test_the_tutorials_middle_loses_the_last_bit_of_a_high_price_as_nautilus_does() -> None:
    bid, ask = 54_560_640_000_000, 54_561_100_000_000

    # A price there is an integer of 1e-16, made a double, then divided: 54560.64, 54561.1.
    by_integers = (float(bid * 10**7) / 1e16 + float(ask * 10**7) / 1e16) / 2

    assert mid_price(bid, ask) == 54560.869999999995
    assert mid_price_1e16(bid, ask) == by_integers == 54560.87
    actual = play("-a|", {"a": book(bid, ask)}, mid("target", tutorial=True))
    assert actual == expect("-x|", {"x": Mid(7, 70, 54560.87, bid, ask)})


@pytest.mark.parametrize("tutorial", [False, True])
def test_a_refusal_of_a_guard_before_it_passes_untouched(tutorial: bool) -> None:
    frozen = Refusal(3, 30, "signal", "frozen", 2, 1, 0, 0, 61.0, 60.0)
    values = {"r": frozen, "a": book(206 * UNIT, 208 * UNIT)}
    out = {"r": frozen, "x": Mid(7, 70, 207.0, 206 * UNIT, 208 * UNIT)}

    actual = play("    -r-a-r-|", values, mid("signal", tutorial=tutorial))

    assert actual == expect("-r-x-r-|", out)


def test_a_locked_book_is_refused_by_choice_and_then_a_crossed_one_still_is() -> None:
    quotes = {
        "l": book(206 * UNIT, 206 * UNIT, 3, 4),
        "x": book(206 * UNIT + 1, 206 * UNIT, 3, 4),
        "a": book(206 * UNIT, 206 * UNIT + 2),
    }
    refusals = {
        "l": Refusal(7, 70, "target", "locked", 206 * UNIT, 206 * UNIT, 3, 4),
        "x": Refusal(7, 70, "target", "crossed", 206 * UNIT + 1, 206 * UNIT, 3, 4),
    }
    mids = {
        "a": Mid(7, 70, 206.000000001, 206 * UNIT, 206 * UNIT + 2),
        "m": Mid(7, 70, 206.0, 206 * UNIT, 206 * UNIT),
    }

    strict = play("-l-x-a-|", quotes, mid("target", locked=False))
    lax = play("   -l-x-a-|", quotes, mid("target"))

    assert strict == expect("-l-x-a-|", refusals | mids)
    assert lax == expect("   -m-x-a-|", refusals | mids)


def test_an_error_travels() -> None:
    error = ValueError("the feed broke")
    quotes = {"a": book(206 * UNIT, 207 * UNIT)}
    mids = {"x": Mid(7, 70, 206.5, 206 * UNIT, 207 * UNIT)}

    assert play("-a-#", quotes, mid("signal"), error) == expect("-x-#", mids, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Quote] = Hot()
    subscription = source.pipe(mid("signal")).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
