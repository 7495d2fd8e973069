"""residual(): a marble for every mid, with the arithmetic written beside it."""

import math
import random

import pytest
import reactivex as rx
from reactivex import operators as ops

from operators.residual import (
    Baseline,
    ewma_baseline,
    ewma_of,
    ewma_weight,
    first_baseline,
    residual,
    session_baseline,
    set_baseline,
)
from streams.events import Mid, Refusal, Residual
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

SECOND = 1_000_000_000
NO_BID = Refusal(9, 90, "signal", "no bid", None, 207 * SECOND)


def mid(value: float, *, at: int = 0) -> Mid:
    return Mid(7, at, value, 1, 2)


def measured(value: float, baseline: float, *, at: int = 0) -> Residual:
    return Residual(7, at, value, baseline, value / baseline - 1.0)


def test_against_a_set_price_every_mid_is_measured_by_the_same() -> None:
    mids = {"a": mid(128.0), "b": mid(64.0), "c": mid(48.0)}
    residuals = {
        "x": Residual(7, 0, 128.0, 64.0, 128 / 64 - 1),
        "y": Residual(7, 0, 64.0, 64.0, 0.0),
        "z": Residual(7, 0, 48.0, 64.0, 48 / 64 - 1),
    }

    actual = play("    -a-b-c-|", mids, residual(set_baseline(64.0)))

    assert actual == expect("-x-y-z-|", residuals)
    assert residuals["z"].residual == -0.25


def test_against_the_first_mid_the_first_residual_is_zero() -> None:
    mids = {"a": mid(64.0), "b": mid(128.0), "c": mid(32.0)}
    residuals = {"x": measured(64, 64), "y": measured(128, 64), "z": measured(32, 64)}

    actual = play("    -a-b-c-a-|", mids, residual(first_baseline()))

    assert actual == expect("-x-y-z-x-|", residuals)


def test_a_refusal_passes_and_leaves_the_baseline_alone() -> None:
    values = {"r": NO_BID, "a": mid(64.0), "b": mid(128.0)}
    out = {"r": NO_BID, "x": measured(64, 64), "y": measured(128, 64)}

    actual = play("    -r-a-r-b-|", values, residual(first_baseline()))

    assert actual == expect("-r-x-r-y-|", out)


def test_each_session_is_measured_against_its_first_mid_at_or_after_the_open() -> None:
    mids = {
        "a": mid(64.0, at=5),  # before the first open: the first mid serves
        "b": mid(128.0, at=9),
        "c": mid(128.0, at=10),  # on the first open, to the ns
        "d": mid(192.0, at=19),
        "e": mid(96.0, at=21),  # the first after the second open
        "f": mid(192.0, at=29),
        "g": mid(32.0, at=45),  # two opens passed without a mid
        "h": mid(64.0, at=46),
    }
    residuals = {
        "a": measured(64, 64, at=5),
        "b": measured(128, 64, at=9),
        "c": measured(128, 128, at=10),
        "d": measured(192, 128, at=19),
        "e": measured(96, 96, at=21),
        "f": measured(192, 96, at=29),
        "g": measured(32, 32, at=45),
        "h": measured(64, 32, at=46),
    }

    actual = play("-a-b-c-d-e-f-g-h-|", mids, residual(session_baseline([10, 20, 30, 40])))

    assert actual == expect("-a-b-c-d-e-f-g-h-|", residuals)


def test_without_an_open_the_session_baseline_is_the_first_mid() -> None:
    mids = {"a": mid(64.0, at=5), "b": mid(128.0, at=9)}
    residuals = {"a": measured(64, 64, at=5), "b": measured(128, 64, at=9)}

    assert play("-a-b-|", mids, residual(session_baseline([]))) == expect("-a-b-|", residuals)


def test_a_jump_shows_in_full_then_halves_with_each_half_life() -> None:
    # Powers of two and their sums, so equality is exact.
    mids = {
        "a": mid(64.0, at=0 * SECOND),
        "b": mid(192.0, at=1 * SECOND),
        "c": mid(192.0, at=2 * SECOND),
        "d": mid(192.0, at=2 * SECOND),  # the same instant: nothing is forgotten
        "e": mid(192.0, at=3 * SECOND),
        "f": mid(192.0, at=5 * SECOND),
    }
    residuals = {
        "a": measured(64, 64),
        "b": measured(192, 64, at=1 * SECOND),  # only earlier mids enter
        "c": measured(192, 128, at=2 * SECOND),  # 64/2 + 192/2
        "d": measured(192, 128, at=2 * SECOND),
        "e": measured(192, 160, at=3 * SECOND),  # 128/2 + 192/2
        "f": measured(192, 184, at=5 * SECOND),  # 160/4 + 192*3/4
    }

    actual = play("    -a-b-c-d-e-f-|", mids, residual(ewma_baseline(SECOND)))

    assert actual == expect("-a-b-c-d-e-f-|", residuals)


def test_the_weight_is_two_to_the_elapsed_half_lives_within_1e_15() -> None:
    source = random.Random(3)
    for _ in range(20_000):
        half_life = source.choice([1, 333, SECOND, 300 * SECOND, source.randrange(1, 10**12)])
        elapsed = source.randrange(0, 70 * half_life)

        error = abs(ewma_weight(elapsed, half_life) - math.exp2(-(elapsed / half_life)))

        assert error < 1e-15, (elapsed, half_life)


def test_the_weight_is_exact_at_whole_half_lives() -> None:
    for halvings in range(61):
        assert ewma_weight(halvings * SECOND, SECOND) == 0.5**halvings
    assert ewma_weight(61 * SECOND, SECOND) == 0.0
    assert ewma_weight(2**62, 1) == 0.0


def test_the_average_lies_between_what_it_was_and_the_mid_that_held() -> None:
    assert ewma_of(1.0, 64.0, 192.0) == 64.0
    assert ewma_of(0.25, 64.0, 192.0) == 0.25 * 64 + 0.75 * 192 == 160.0
    assert ewma_of(0.0, 64.0, 192.0) == 192.0


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (first_baseline(), [0.0, 2.0]),
        (session_baseline([SECOND // 2]), [0.0, 0.0]),
        (session_baseline([2 * SECOND]), [0.0, 2.0]),
        (ewma_baseline(SECOND), [0.0, 2.0]),
    ],
)
def test_each_subscription_starts_a_baseline_of_its_own(
    baseline: Baseline, expected: list[float]
) -> None:
    mids: rx.Observable[Mid | Refusal] = rx.of(mid(64.0), mid(192.0, at=SECOND))
    measured_twice = mids.pipe(residual(baseline), ops.repeat(2), ops.to_list()).run()

    assert [getattr(value, "residual", None) for value in measured_twice] == expected * 2


def test_two_subscriptions_at_once_do_not_share_a_baseline() -> None:
    source: Hot[Mid | Refusal] = Hot()
    residuals = source.pipe(residual(first_baseline()))
    early: list[Residual | Refusal] = []
    late: list[Residual | Refusal] = []
    residuals.subscribe(early.append)
    source.push(mid(64.0))
    residuals.subscribe(late.append)
    source.push(mid(128.0))

    assert early == [measured(64, 64), measured(128, 64)]
    assert late == [measured(128, 128)]


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_set_price_must_be_positive_and_finite(price: float) -> None:
    with pytest.raises(ValueError, match=f"must be a positive price, was {price!r}"):
        set_baseline(price)


@pytest.mark.parametrize("half_life", [0, -1])
def test_a_half_life_must_be_positive(half_life: int) -> None:
    with pytest.raises(ValueError, match=f"positive number of ns, was {half_life}"):
        ewma_baseline(half_life)


@pytest.mark.parametrize("opens", [[2, 1], [1, 1]])
def test_session_opens_must_ascend_without_repeats(opens: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending order without repeats"):
        session_baseline(opens)


def test_an_error_travels() -> None:
    error = ValueError("the feed broke")
    operator = residual(first_baseline())

    actual = play("-a-#", {"a": mid(64.0)}, operator, error)

    assert actual == expect("-x-#", {"x": measured(64, 64)}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Mid | Refusal] = Hot()
    subscription = source.pipe(residual(first_baseline())).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
