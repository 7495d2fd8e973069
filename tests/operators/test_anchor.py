"""anchor(): the target's mid on the price precision, halves away from zero."""

import random
from decimal import ROUND_HALF_UP, Decimal

import pytest

from operators.anchor import anchor, anchor_price, anchor_price_1e16
from streams.events import Anchor, Mid, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

CROSSED = Refusal(9, 90, "target", "crossed", 2, 1)


def test_each_mid_is_rounded_and_kept_with_its_book_beside_its_anchor() -> None:
    mids = {
        "a": Mid(1, 10, 206.4035, 2064, 2065),
        "b": Mid(2, 20, 206.4034, 2063, 2066),
        "c": Mid(3, 30, 206.4036, 1, 2),
        "d": Mid(4, 40, 206.4, 3, 4),
        "r": CROSSED,
    }
    anchors = {
        "a": Anchor(1, 10, 206.4035, 206.404, 2064, 2065),
        "b": Anchor(2, 20, 206.4034, 206.403, 2063, 2066),
        "c": Anchor(3, 30, 206.4036, 206.404, 1, 2),
        "d": Anchor(4, 40, 206.4, 206.4, 3, 4, 1.0),  # not widened
        "r": CROSSED,
    }

    actual = play("    -a-b-r-c-d-|", mids, anchor(1000.0))

    assert actual == expect("-a-b-r-c-d-|", anchors)


@pytest.mark.parametrize(
    ("mid", "scale", "price"),
    [
        (0.5, 1.0, 1.0),
        (-0.5, 1.0, -1.0),
        (1.5, 1.0, 2.0),
        (2.5, 1.0, 3.0),  # not to even
        (-2.5, 1.0, -3.0),
        (0.0, 1.0, 0.0),
        (0.125, 100.0, 0.13),
        (-0.125, 100.0, -0.13),
        # 206.4035 is 206.40350000000000819 in a double, and 206403.5 once multiplied.
        (206.4035, 1000.0, 206.404),
        (-206.4035, 1000.0, -206.404),
        # 1.0005 is 1.00049999999999994 in a double, yet its product is 1000.5: it goes away.
        (1.0005, 1000.0, 1.001),
        # 1.005 is 1.00499999999999989 and its product 100.49999999999999: it does not.
        (1.005, 100.0, 1.0),
        (-1.005, 100.0, -1.0),
        # The double below a half; adding 0.5 before the floor would make it 1.
        (0.49999999999999994, 1.0, 0.0),
        (-0.49999999999999994, 1.0, 0.0),
    ],
)
def test_a_half_goes_away_from_zero_on_the_product_of_doubles(
    mid: float, scale: float, price: float
) -> None:
    assert anchor_price(mid, scale) == price


def test_an_anchor_is_the_double_nearest_to_a_decimal_on_the_precision() -> None:
    source = random.Random(4)
    for _ in range(5_000):
        decimals = source.randrange(0, 6)
        # Five digits past the precision, none of them a half, so that one answer is right.
        cents = source.randrange(1, 10**9) * 10**5 + source.choice((10001, 49999, 50001, 99999))
        exact = Decimal(cents).scaleb(-decimals - 5)
        rounded = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)

        assert anchor_price(float(exact), 10.0**decimals) == float(rounded)
        assert anchor_price(-float(exact), 10.0**decimals) == -float(rounded)


def test_the_tutorials_anchor_is_what_an_integer_of_1e_16_gives() -> None:
    source = random.Random(5)
    differing = 0
    for _ in range(5_000):
        ticks = source.randrange(1, 10**8)
        price = anchor_price_1e16(ticks / 1000, 1000.0)

        assert price == float(ticks * 10**13) / 1e16
        differing += price != anchor_price(ticks / 1000, 1000.0)
    assert differing


def test_the_tutorial_preset_uses_its_own_arithmetic() -> None:
    mids = {"a": Mid(1, 10, 602229.525, 1, 2)}

    exact = play("-a|", mids, anchor(1000.0))
    tutorial = play("-a|", mids, anchor(1000.0, tutorial=True))

    assert exact == expect("-x|", {"x": Anchor(1, 10, 602229.525, 602229.525, 1, 2)})
    assert tutorial == expect("-x|", {"x": Anchor(1, 10, 602229.525, 602229.5249999999, 1, 2)})


def test_an_error_travels() -> None:
    error = ValueError("the feed broke")
    anchors = {"x": Anchor(1, 10, 206.4, 206.0, 1, 2)}

    assert play("-a-#", {"a": Mid(1, 10, 206.4, 1, 2)}, anchor(1.0), error) == expect(
        "-x-#", anchors, error
    )


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Mid | Refusal] = Hot()
    subscription = source.pipe(anchor(1.0)).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
