"""collar(): a jump must be confirmed. The collar is 100 bps, the time to confirm 10 ns.

Mids are 200 and multiples of it in eighths, so most distances are exact.
"""

from typing import Any

import pytest

from operators.guards.collar import collar, jump_bps
from streams.events import Mid, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

GUARD = collar("signal", collar_bps=100.0, confirm_ns=10)


def at(ts: int, mid: float) -> Mid:
    return Mid(ts, ts, mid, round(mid * 1e9) - 5, round(mid * 1e9) + 5)


def jumped(mid: Mid, jump: float) -> Refusal:
    return Refusal(
        mid.seq, mid.ts, "signal", "jump not confirmed", mid.bid_px, mid.ask_px, None, None,
        jump, 100.0,
    )  # fmt: skip


def through(*values: Mid | Refusal, guard: Any = GUARD) -> list[Any]:
    source: Hot[Mid | Refusal] = Hot()
    out: list[Any] = []
    source.pipe(guard).subscribe(out.append)
    for value in values:
        source.push(value)
    assert len(out) == len(values), "one out per input"
    return out


def believed(*mids: Mid) -> list[bool]:
    return [type(value) is Mid for value in through(*mids)]


def test_the_first_mid_is_believed() -> None:
    assert through(at(0, 200.0)) == [at(0, 200.0)]


def test_a_jump_is_refused_with_its_size_and_book() -> None:
    up, down = at(1, 225.0), at(2, 175.0)  # 225/200 = 1.125, 175/200 = 0.875

    assert through(at(0, 200.0), up, down) == [
        at(0, 200.0), jumped(up, 1_250.0), jumped(down, -1_250.0),
    ]  # fmt: skip


def test_the_collar_itself_still_passes() -> None:
    # 125 bps: 200 * 0.0125 = 2.5, in doubles too: 202.5 / 200 - 1 is not quite 0.0125.
    limit = jump_bps(202.5, 200.0)
    guard = collar("signal", collar_bps=limit, confirm_ns=10)
    tighter = collar("signal", collar_bps=limit - 1e-9, confirm_ns=10)

    assert through(at(0, 200.0), at(1, 202.5), guard=guard)[1] == at(1, 202.5)
    assert type(through(at(0, 200.0), at(1, 202.5), guard=tighter)[1]) is Refusal


@pytest.mark.parametrize(
    ("mid", "passes"), [(201.99, True), (202.01, False), (198.01, True), (197.99, False)]
)
def test_the_quick_comparison_decides_nothing_by_itself(mid: float, passes: bool) -> None:
    # 200 +- 1 % is 198 to 202; the quick band ends at 0.999 of it, 198.002 to 201.998.
    assert believed(at(0, 200.0), at(1, mid)) == [True, passes]
    # 201.999 lies between the quick band and the collar.
    assert believed(at(0, 200.0), at(1, 201.999)) == [True, True]
    assert believed(at(0, 200.0), at(1, 198.001)) == [True, True]


def test_a_mid_back_inside_the_collar_is_believed_at_once() -> None:
    assert believed(at(0, 200.0), at(1, 225.0), at(2, 200.0), at(3, 201.0)) == [
        True, False, True, True,
    ]  # fmt: skip


def test_a_jump_that_was_taken_back_starts_anew_the_next_time() -> None:
    mids = at(0, 200.0), at(1, 225.0), at(2, 200.0), at(11, 225.0), at(20, 225.0), at(21, 225.0)

    # The second jump is of 11, not of 1: it stands from 21 on.
    assert believed(*mids) == [True, False, True, False, False, True]


def test_quotes_confirm_a_level_when_it_has_stood_for_long_enough() -> None:
    one_ns_early = at(0, 200.0), at(5, 225.0), at(14, 225.0)
    in_time = at(0, 200.0), at(5, 225.0), at(15, 225.0)
    late = at(0, 200.0), at(5, 225.0), at(1_000, 225.0)

    assert believed(*one_ns_early) == [True, False, False]
    assert believed(*in_time) == [True, False, True]
    assert believed(*late) == [True, False, True]


def test_after_it_was_confirmed_the_new_level_is_the_one_to_jump_from() -> None:
    mids = at(0, 200.0), at(5, 225.0), at(15, 225.0), at(16, 226.0), at(17, 200.0)

    assert believed(*mids) == [True, False, True, True, False]
    # 200 / 226 - 1 = -26/226
    assert through(*mids)[-1].value == pytest.approx(-10_000 * 26 / 226)


def test_quotes_that_move_within_the_collar_of_the_first_confirm_it_too() -> None:
    # 225 +- 1 % is 222.75 to 227.25.
    mids = at(0, 200.0), at(5, 225.0), at(9, 227.0), at(12, 223.0), at(15, 226.5)

    assert believed(*mids) == [True, False, False, False, True]
    assert through(*mids)[-1] == at(15, 226.5)


def test_a_second_jump_while_one_waits_starts_the_wait_anew() -> None:
    mids = at(0, 200.0), at(5, 225.0), at(12, 250.0), at(15, 250.0), at(21, 250.0), at(22, 250.0)

    assert believed(*mids) == [True, False, False, False, False, True]
    # Still measured from the level that was believed: 250 / 200.
    assert [value.value for value in through(*mids)[1:5]] == [1_250.0, 2_500.0, 2_500.0, 2_500.0]


def test_a_candidate_that_drifts_away_from_its_first_mid_is_not_confirmed() -> None:
    # Each within 1 % of the one before, but 228 is more than 1 % from 225: it waits from 12 on.
    mids = at(0, 200.0), at(5, 225.0), at(9, 227.0), at(12, 228.0), at(15, 228.0), at(22, 228.0)

    assert believed(*mids) == [True, False, False, False, False, True]


def test_a_price_that_drifts_never_trips() -> None:
    # 0.9 % a step, 100 steps: more than doubled.
    mids = [at(i, 200.0 * 1.009**i) for i in range(100)]

    assert mids[-1].mid > 480.0
    assert all(believed(*mids))


def test_silence_confirms_nothing() -> None:
    # 99 ns after the first jump another level comes, and has to stand for itself.
    mids = at(0, 200.0), at(1, 225.0), at(100, 250.0), at(109, 250.0), at(110, 250.0)

    assert believed(*mids) == [True, False, False, False, True]


def test_refusals_pass_and_neither_confirm_a_level_nor_undo_it() -> None:
    crossed = Refusal(9, 9, "signal", "crossed", 3, 2, 1, 1)
    late = Refusal(50, 50, "signal", "crossed", 3, 2, 1, 1)

    assert through(at(0, 200.0), at(5, 225.0), crossed, at(14, 225.0), at(15, 225.0)) == [
        at(0, 200.0), jumped(at(5, 225.0), 1_250.0), crossed,
        jumped(at(14, 225.0), 1_250.0), at(15, 225.0),
    ]  # fmt: skip
    assert through(crossed, at(10, 200.0), at(11, 225.0), late)[2:] == [
        jumped(at(11, 225.0), 1_250.0), late,
    ]  # fmt: skip


def test_with_no_time_to_wait_a_jump_is_believed_at_once() -> None:
    guard = collar("signal", collar_bps=100.0, confirm_ns=0)

    assert through(at(0, 200.0), at(1, 400.0), guard=guard) == [at(0, 200.0), at(1, 400.0)]


def test_the_refusal_is_by_the_feed_that_is_guarded() -> None:
    guard = collar("target", collar_bps=100.0, confirm_ns=10)

    assert through(at(0, 200.0), at(1, 400.0), guard=guard)[1].by == "target"


def test_the_distance_is_signed_and_in_bps() -> None:
    assert jump_bps(225.0, 200.0) == 1_250.0
    assert jump_bps(175.0, 200.0) == -1_250.0
    assert jump_bps(200.0, 200.0) == 0.0


def test_two_subscriptions_do_not_share_a_level() -> None:
    source: Hot[Mid | Refusal] = Hot()
    guarded = source.pipe(GUARD)
    early: list[Any] = []
    late: list[Any] = []
    guarded.subscribe(early.append)
    source.push(at(0, 200.0))
    guarded.subscribe(late.append)
    source.push(at(1, 225.0))

    assert early[1:] == [jumped(at(1, 225.0), 1_250.0)]
    assert late == [at(1, 225.0)]


def test_completion_and_errors_travel() -> None:
    error = ValueError("the feed broke")
    values = {"a": at(0, 200.0), "b": at(1, 225.0), "x": jumped(at(1, 225.0), 1_250.0)}

    assert play("-a-b-|", values, GUARD) == expect("-a-x-|", values)
    assert play("-a-b-#", values, GUARD, error) == expect("-a-x-#", values, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Mid | Refusal] = Hot()
    subscription = source.pipe(GUARD).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
