"""split(): what a stock split makes of a price. The break is 10 ns long."""

from typing import Any

import pytest

from operators.guards.split import SPLITS, split, split_of
from streams.events import Mid, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

GUARD = split("signal", break_ns=10)


def at(ts: int, mid: float) -> Mid:
    return Mid(ts, ts, mid, round(mid * 1e9) - 5, round(mid * 1e9) + 5)


def like_a_split(mid: Mid, ratio: float, of: float) -> Refusal:
    return Refusal(
        mid.seq, mid.ts, "signal", "looks like a split", mid.bid_px, mid.ask_px, None, None,
        ratio, of,
    )  # fmt: skip


def through(*values: Mid | Refusal, guard: Any = GUARD) -> list[Any]:
    source: Hot[Mid | Refusal] = Hot()
    out: list[Any] = []
    source.pipe(guard).subscribe(out.append)
    for value in values:
        source.push(value)
    assert len(out) == len(values), "one out per input"
    return out


@pytest.mark.parametrize(
    ("before", "now", "ratio", "of"),
    [
        (1_200.0, 120.0, 10.0, 10.0),  # ten for one
        (1_200.0, 124.8, 1_200 / 124.8, 10.0),  # and 4 % up overnight: 9.615
        (1_200.0, 115.2, 1_200 / 115.2, 10.0),  # and 4 % down: 10.417
        (300.0, 200.0, 1.5, 1.5),  # three for two
        (300.0, 208.0, 300 / 208, 1.5),  # 1.442
        (300.0, 192.0, 1.5625, 1.5),
        (200.0, 100.0, 2.0, 2.0),
        (2.0, 20.0, 0.1, 1 / 10.0),  # one for ten
        (2.0, 20.8, 2 / 20.8, 1 / 10.0),
        (2.0, 19.2, 2 / 19.2, 1 / 10.0),
        (20.0, 30.0, 20 / 30, 1 / 1.5),  # two for three
        (5.0, 500.0, 0.01, 1 / 100.0),
    ],
)
def test_a_split_is_told_with_what_an_overnight_move_adds_to_it(
    before: float, now: float, ratio: float, of: float
) -> None:
    first, second = at(0, before), at(10, now)

    assert through(first, second) == [first, like_a_split(second, ratio, of)]


@pytest.mark.parametrize(
    "now",
    [
        200.0,
        208.0,
        192.0,
        160.0,  # -20 %: 1.25, five for four is left out
        150.0,  # -25 %: 1.333, four for three too
        142.0,  # -29 %: 1.408, below 1.425
        124.0,  # -38 %: 1.613, above 1.575
        110.0,  # -45 %: 1.818, below 1.9
        250.0,  # +25 %
        280.0,  # +40 %: 280/200 = 1.4 = 1.5 * 0.933
        340.0,  # +70 %
    ],
)
def test_a_gap_that_fits_no_split_is_believed(now: float) -> None:
    assert through(at(0, 200.0), at(10, now)) == [at(0, 200.0), at(10, now)]


def test_a_crash_of_thirty_percent_overnight_cannot_be_told_from_three_for_two() -> None:
    # 200 / 140 = 1.4286, which is 1.5 less 4.8 %: within the tolerance, so it is refused. From
    # -29.9 % (1.425) to -36.5 % (1.575) a crash looks like three for two and 4 % to 5 % on top.
    crash = at(10, 140.0)

    assert through(at(0, 200.0), crash)[1] == like_a_split(crash, 200 / 140, 1.5)
    assert split_of(200.0, 200.0 * (1 - 0.298)) == 0.0
    assert split_of(200.0, 200.0 * (1 - 0.299)) == 1.5
    assert split_of(200.0, 200.0 * (1 - 0.365)) == 1.5
    assert split_of(200.0, 200.0 * (1 - 0.366)) == 0.0


@pytest.mark.parametrize("of", SPLITS)
def test_the_tolerance_is_five_percent_of_the_ratio_both_ways(of: float) -> None:
    for drift in (1.049, 1.0, 0.951):
        assert split_of(of * drift, 1.0) == of
        assert split_of(drift / of, 1.0) == 1.0 / of
    for drift in (1.051, 0.949):
        assert split_of(of * drift, 1.0) == 0.0
        assert split_of(drift / of, 1.0) == 0.0


def test_without_a_break_a_price_may_halve() -> None:
    # 9 ns after the last mid is no break, 10 are.
    within, after = at(9, 100.0), at(10, 100.0)

    assert through(at(0, 200.0), within) == [at(0, 200.0), within]
    assert through(at(0, 200.0), after) == [at(0, 200.0), like_a_split(after, 2.0, 2.0)]


def test_the_break_counts_from_the_last_mid_that_was_believed() -> None:
    mids = at(0, 200.0), at(8, 200.0), at(17, 100.0)
    assert through(*mids) == list(mids)

    later = at(18, 100.0)
    assert through(*mids[:2], later) == [*mids[:2], like_a_split(later, 2.0, 2.0)]


def test_refusals_last_until_a_mid_fits_the_price_from_before() -> None:
    # Once refused, no break is needed: each mid is judged against 200.
    mids = at(0, 200.0), at(10, 100.0), at(11, 101.0), at(12, 199.0), at(13, 100.0)

    assert through(*mids) == [
        mids[0],
        like_a_split(mids[1], 2.0, 2.0),
        like_a_split(mids[2], 200 / 101, 2.0),
        mids[3],  # 200/199 is no split
        mids[4],  # and 1 ns later there was no break
    ]


def test_a_mid_that_fits_no_split_any_more_is_believed() -> None:
    # 200 / 100 = 2, then 200 / 112 = 1.786.
    mids = at(0, 200.0), at(10, 100.0), at(11, 112.0), at(12, 100.0)

    assert through(*mids) == [mids[0], like_a_split(mids[1], 2.0, 2.0), mids[2], mids[3]]


def test_the_first_mid_has_nothing_to_be_judged_against() -> None:
    assert through(at(10**18, 20.0)) == [at(10**18, 20.0)]


def test_with_a_baseline_set_by_hand_the_first_mid_is_judged_against_it() -> None:
    guard = split("signal", break_ns=10, baseline=1_200.0)
    mids = at(0, 120.0), at(1, 121.0), at(2, 1_190.0), at(3, 120.0)

    assert through(*mids, guard=guard) == [
        like_a_split(mids[0], 10.0, 10.0),
        like_a_split(mids[1], 1_200 / 121, 10.0),
        mids[2],  # now the mid stands for the baseline
        mids[3],
    ]


def test_refusals_pass_and_are_no_price() -> None:
    crossed = Refusal(5, 5, "signal", "crossed", 3, 2, 1, 1)

    assert through(crossed, at(6, 200.0), crossed, at(15, 100.0))[2:] == [crossed, at(15, 100.0)]
    assert through(at(6, 200.0), crossed, at(16, 100.0))[2] == like_a_split(at(16, 100.0), 2, 2)


def test_the_refusal_is_by_the_feed_that_is_guarded() -> None:
    guard = split("target", break_ns=10)

    assert through(at(0, 200.0), at(10, 100.0), guard=guard)[1].by == "target"


def test_two_subscriptions_do_not_share_a_price() -> None:
    source: Hot[Mid | Refusal] = Hot()
    guarded = source.pipe(GUARD)
    early: list[Any] = []
    late: list[Any] = []
    guarded.subscribe(early.append)
    source.push(at(0, 200.0))
    guarded.subscribe(late.append)
    source.push(at(10, 100.0))

    assert early[1:] == [like_a_split(at(10, 100.0), 2.0, 2.0)]
    assert late == [at(10, 100.0)]


def test_completion_and_errors_travel() -> None:
    error = ValueError("the feed broke")
    values = {"a": at(0, 200.0)}

    assert play("-a-|", values, GUARD) == expect("-a-|", values)
    assert play("-a-#", values, GUARD, error) == expect("-a-#", values, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Mid | Refusal] = Hot()
    subscription = source.pipe(GUARD).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
