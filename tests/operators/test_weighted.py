"""weighted(): several signals as one residual."""

from typing import Any

import pytest
from reactivex import Observable

from operators.weighted import weighted, weighted_sum
from streams.events import Refusal, Residual
from streams.pump import Hot
from tests.marbles import expect, play_graph, subscribers


def residual(seq: int, value: float, *, mid: float = 0.0, baseline: float = 0.0) -> Residual:
    return Residual(seq, seq * 10, mid, baseline, value)


VALUES: dict[str, Any] = {
    "a": residual(1, 0.5, mid=150.0, baseline=100.0),
    "b": residual(2, 0.25, mid=5_000.0, baseline=4_000.0),
    "c": residual(3, -0.5, mid=50.0, baseline=100.0),
    "x": Refusal(4, 40, "signal", "crossed", 3, 2),
    "y": Refusal(5, 50, "signal", "dead", value=3.0, limit=2.0),
}


def both(one: Observable[Any], two: Observable[Any]) -> Observable[Any]:
    return weighted([one, two], [0.5, 2.0])


def out(seq: int, value: float, mid: float, baseline: float) -> Residual:
    return Residual(seq, seq * 10, mid, baseline, value)


def test_residuals_are_summed_by_weight_and_the_first_signals_mid_stands_for_all() -> None:
    values = VALUES | {
        "p": out(2, 0.5 * 0.5 + 2.0 * 0.25, 150.0, 100.0),
        "q": out(3, 0.5 * -0.5 + 2.0 * 0.25, 50.0, 100.0),
    }

    actual = play_graph({"one": "-a---c-|", "two": "---b---|"}, VALUES, both)

    assert actual == expect("---p-q-|", values)


def test_seq_and_ts_are_those_of_the_latest_of_all() -> None:
    # The second signal spoke last, then first: 2 is later than 1, 3 than 2.
    values = VALUES | {"p": out(2, 0.75, 150.0, 100.0)}

    assert play_graph({"one": "---a-|", "two": "-b---|"}, VALUES, both) == expect("---p-|", values)


def test_nothing_is_said_before_every_signal_has_spoken() -> None:
    assert play_graph({"one": "-a-c-|", "two": "-----|"}, VALUES, both) == expect("-----|", {})
    assert play_graph({"one": "-x---|", "two": "-----|"}, VALUES, both) == expect("-----|", {})


def test_a_refusal_of_one_refuses_the_whole_until_it_is_sound_again() -> None:
    values = VALUES | {
        "p": out(2, 0.75, 150.0, 100.0),
        "q": out(4, 0.5 * 0.5 + 2.0 * 0.5, 150.0, 100.0),
        "d": residual(4, 0.5),
    }

    actual = play_graph({"one": "-a---------|", "two": "---b-x-x-d-|"}, values, both)

    assert actual == expect("---p-x-x-q-|", values)


def test_of_several_refusals_the_first_signals_is_told() -> None:
    actual = play_graph({"one": "-y-----c-", "two": "---x-b---"}, VALUES, both)
    # y; then of y and x the first signal's; then y alone; then both are sound.
    values = VALUES | {"q": out(3, 0.25, 50.0, 100.0)}

    assert actual == expect("---y-y-q-", values)
    actual = play_graph({"one": "-a---y--", "two": "---x----"}, VALUES, both)
    assert actual == expect("---x-y--", VALUES)


def test_one_signal_keeps_its_values() -> None:
    def one(source: Observable[Any]) -> Observable[Any]:
        return weighted([source], [1.0])

    assert play_graph({"source": "-a-c-x-|"}, VALUES, one) == expect("-a-c-x-|", VALUES)


def test_it_completes_when_all_have_completed() -> None:
    values = VALUES | {"p": out(2, 0.75, 150.0, 100.0), "q": out(3, 0.25, 50.0, 100.0)}

    actual = play_graph({"one": "-a-c-|", "two": "-b|   "}, values, both)
    assert actual == expect("-p-q-|", values)
    actual = play_graph({"one": "-a|", "two": "-b----"}, values, both)
    assert actual == expect("-p----", values)


def test_an_error_of_any_signal_travels() -> None:
    error = ValueError("the feed broke")

    assert play_graph({"one": "-a#", "two": "----"}, VALUES, both, error) == expect(
        "--#", {}, error
    )
    assert play_graph({"one": "----", "two": "-a#"}, VALUES, both, error) == expect(
        "--#", {}, error
    )


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 2.0, 3.0]])
def test_as_many_weights_as_signals_are_needed(weights: list[float]) -> None:
    one: Hot[Any] = Hot()

    with pytest.raises(ValueError, match="2 signals need as many weights, got"):
        weighted([one, one], weights)


def test_the_sum_is_added_in_order() -> None:
    # (1e16 + 1) - 1e16 is 0 in doubles, (1e16 - 1e16) + 1 is 1.
    assert weighted_sum((1e16, 1.0, -1e16), (1.0, 1.0, 1.0)) == 0.0
    assert weighted_sum((1e16, -1e16, 1.0), (1.0, 1.0, 1.0)) == 1.0
    assert weighted_sum((0.5, 0.25), (0.5, 2.0)) == 0.75


def test_two_subscriptions_do_not_share_the_latest() -> None:
    one: Hot[Any] = Hot()
    two: Hot[Any] = Hot()
    combined = weighted([one, two], [1.0, 1.0])
    early: list[Any] = []
    late: list[Any] = []
    combined.subscribe(early.append)
    one.push(VALUES["a"])
    combined.subscribe(late.append)
    two.push(VALUES["b"])

    assert len(early) == 1
    assert late == []


def test_disposing_unsubscribes_from_every_signal() -> None:
    one: Hot[Any] = Hot()
    two: Hot[Any] = Hot()
    subscription = weighted([one, two], [1.0, 1.0]).subscribe()
    assert subscribers(one, two) == 2

    subscription.dispose()

    assert subscribers(one, two) == 0
