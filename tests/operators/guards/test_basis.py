"""basis(): target and signal that stand too far apart."""

from typing import Any

import pytest

from operators.guards.basis import basis, basis_bps
from operators.state import State
from streams.events import Anchor, Refusal, Residual
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

GUARD = basis(1_250.0)


def state(target_mid: float, signal_mid: float = 200.0, *, signal_seq: int = 3) -> State:
    return (
        Residual(signal_seq, 30, signal_mid, 100.0, 1.0),
        Anchor(4, 40, target_mid, 5.0, 206, 207),  # its price is not what is compared
    )


def refused(given: State, value: float, limit: float = 1_250.0, *, ts: int = 40) -> State:
    seq = max(given[0].seq, given[1].seq)
    refusal = Refusal(seq, ts, "basis", "beyond the limit", value=value, limit=limit)
    return given[0], refusal


def test_a_state_passes_up_to_the_limit_on_both_sides_and_is_refused_beyond() -> None:
    # 225 / 200 = 1.125 and 175 / 200 = 0.875 exactly: 1,250 bps.
    states = {
        "a": state(200.0),
        "b": state(225.0),
        "c": state(250.0),
        "d": state(175.0),
        "e": state(150.0),
    }
    refusals = {"c": refused(states["c"], 2_500.0), "e": refused(states["e"], -2_500.0)}

    assert play("-a-b-c-d-e-|", states, GUARD) == expect("-a-b-c-d-e-|", states | refusals)


def test_just_beyond_the_limit_is_beyond() -> None:
    apart = basis_bps(225.00000001, 200.0)
    assert apart > 1_250.0

    states = {"a": state(225.00000001)}

    assert play("-a-|", states, GUARD) == expect("-a-|", {"a": refused(states["a"], apart)})


@pytest.mark.parametrize("limit", [0.0, 1e-12, 1e-8, 1e-4, 1.0, 37.3, 1_250.0, 15_000.0])
def test_the_quick_comparison_decides_nothing_by_itself(limit: float) -> None:
    source: Hot[State] = Hot()
    out: list[Any] = []
    source.pipe(basis(limit)).subscribe(out.append)
    for mid in (0.0001, 64.0, 206.8743, 98_765.4321):
        for share in (0.0, 0.5, 0.998, 0.999, 0.9999, 1.0, 1.0001, 1.001, 2.0):
            for sign in (1.0, -1.0):
                target = mid * (1.0 + sign * share * limit / 10_000.0)
                source.push(state(target, mid))
                beyond = not -limit <= basis_bps(target, mid) <= limit
                assert (type(out[-1][1]) is Refusal) == beyond, (mid, share, sign)


def test_the_refusal_has_the_seq_and_ts_of_the_later_of_the_two() -> None:
    signal_later: State = (
        Residual(9, 90, 200.0, 100.0, 1.0),
        Anchor(4, 40, 250.0, 5.0, 206, 207),
    )

    actual = play("-a-|", {"a": signal_later}, GUARD)

    expected = (
        signal_later[0],
        Refusal(9, 90, "basis", "beyond the limit", value=2_500.0, limit=1_250.0),
    )
    assert actual == expect("-a-|", {"a": expected})


def test_states_with_a_refusal_or_without_a_signal_pass() -> None:
    missing = Refusal(0, 0, "signal", "missing")
    states: dict[str, State] = {
        "a": (missing, Anchor(4, 40, 900.0, 5.0, 206, 207)),
        "b": (Residual(3, 30, 200.0, 100.0, 1.0), Refusal(4, 40, "target", "crossed", 3, 2)),
        "c": (missing, Refusal(4, 40, "target", "crossed", 3, 2)),
        "d": state(900.0, 0.0, signal_seq=0),
    }

    assert play("-a-b-c-d-|", states, GUARD) == expect("-a-b-c-d-|", states)


def test_a_sound_state_passes_right_after_a_refused_one() -> None:
    states = {"a": state(300.0), "b": state(201.0)}

    actual = play("-a-b-|", states, GUARD)

    assert actual == expect("-a-b-|", states | {"a": refused(states["a"], 5_000.0)})


def test_the_distance_is_of_the_target_above_the_signal_in_bps() -> None:
    assert basis_bps(225.0, 200.0) == 1_250.0
    assert basis_bps(175.0, 200.0) == -1_250.0


def test_a_distance_that_is_no_number_is_refused() -> None:
    states = {"a": state(float("nan"))}

    [record, _] = play("-a-|", states, GUARD)

    assert type(getattr(record.value, "value", (None, None))[1]) is Refusal


@pytest.mark.parametrize("limit", [0.0, 50.0])
def test_the_limit_is_told_with_the_refusal(limit: float) -> None:
    states = {"a": state(225.0)}

    actual = play("-a-|", states, basis(limit))

    assert actual == expect("-a-|", {"a": refused(states["a"], 1_250.0, limit)})


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("-a-#", {"a": state(200.0)}, GUARD, error) == expect(
        "-a-#", {"a": state(200.0)}, error
    )


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Any] = Hot()
    subscription = source.pipe(GUARD).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
