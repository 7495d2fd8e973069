"""event_time(): a venue time in the future or far behind, to the nanosecond."""

import pytest

from operators.guards.event_time import event_time, seconds_ahead
from streams.events import Feed, Quote, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

SECOND = 1_000_000_000
NOW = 1_781_703_000 * SECOND
SNAPSHOT = 32


def quote(ahead_ns: int | None, *, flags: int = 0) -> Quote:
    made = None if ahead_ns is None else NOW + ahead_ns
    return Quote(7, NOW, made, 206, 207, 3, 4, flags)


def refusal(reason: str, value: float, limit: float, feed: Feed = "signal") -> Refusal:
    return Refusal(7, NOW, feed, reason, 206, 207, 3, 4, value, limit)


LIMITED = event_time("signal", max_ahead_ns=SECOND // 2, max_behind_ns=2 * SECOND)


def test_a_quote_passes_up_to_both_limits_and_is_refused_one_ns_beyond() -> None:
    quotes = {
        "a": quote(0),
        "b": quote(SECOND // 2),
        "c": quote(SECOND // 2 + 1),
        "d": quote(-2 * SECOND),
        "e": quote(-2 * SECOND - 1),
        "f": quote(SECOND // 2 - 1),
    }
    refused = {
        "c": refusal("event time in the future", 0.500000001, 0.5),
        "e": refusal("event time far behind", -2.000000001, -2.0),
    }

    actual = play("    -a-b-c-d-e-f-|", quotes, LIMITED)

    assert actual == expect("-a-b-c-d-e-f-|", quotes | refused)


def test_the_refusal_is_by_the_feed_that_is_guarded() -> None:
    quotes = {"a": quote(3 * SECOND), "b": quote(-3 * SECOND)}
    refused = {
        "a": refusal("event time in the future", 3.0, 0.5, "target"),
        "b": refusal("event time far behind", -3.0, -2.0, "target"),
    }
    operator = event_time("target", max_ahead_ns=SECOND // 2, max_behind_ns=2 * SECOND)

    assert play("-a-b-|", quotes, operator) == expect("-a-b-|", refused)


def test_without_an_event_time_there_is_nothing_to_judge() -> None:
    quotes = {"a": quote(None)}

    assert play("-a-|", quotes, LIMITED) == expect("-a-|", quotes)


def test_a_snapshot_may_be_old_but_not_from_the_future() -> None:
    quotes = {
        "a": quote(-3_600 * SECOND, flags=SNAPSHOT),
        "b": quote(-3_600 * SECOND, flags=SNAPSHOT | 128),
        "c": quote(3 * SECOND, flags=SNAPSHOT),
        "d": quote(-3 * SECOND, flags=128 | 64),
    }
    refused = {
        "c": refusal("event time in the future", 3.0, 0.5),
        "d": refusal("event time far behind", -3.0, -2.0),
    }

    assert play("-a-b-c-d-|", quotes, LIMITED) == expect("-a-b-c-d-|", quotes | refused)


@pytest.mark.parametrize("refused_ahead", [True, False])
def test_none_switches_one_of_the_limits_off(refused_ahead: bool) -> None:
    quotes = {"a": quote(10**6 * SECOND), "b": quote(-(10**6) * SECOND)}
    ahead = {"a": refusal("event time in the future", 1e6, 0.5)}
    behind = {"b": refusal("event time far behind", -1e6, -2.0)}
    operator = event_time(
        "signal",
        max_ahead_ns=SECOND // 2 if refused_ahead else None,
        max_behind_ns=None if refused_ahead else 2 * SECOND,
    )

    expected = quotes | (ahead if refused_ahead else behind)

    assert play("-a-b-|", quotes, operator) == expect("-a-b-|", expected)


def test_a_limit_of_zero_is_a_limit() -> None:
    quotes = {"a": quote(0), "b": quote(1), "c": quote(-1)}
    refused = {
        "b": refusal("event time in the future", 1e-9, 0.0),
        "c": refusal("event time far behind", -1e-9, 0.0),
    }
    operator = event_time("signal", max_ahead_ns=0, max_behind_ns=0)

    assert play("-a-b-c-|", quotes, operator) == expect("-a-b-c-|", quotes | refused)


def test_a_sound_quote_is_believed_right_after_a_refused_one() -> None:
    quotes = {"a": quote(3 * SECOND), "b": quote(0)}

    [refused, passed] = play("-a-b", quotes, LIMITED)

    assert isinstance(getattr(refused.value, "value", None), Refusal)
    assert getattr(passed.value, "value", None) is quotes["b"]


def test_ahead_is_positive_and_in_seconds() -> None:
    assert seconds_ahead(NOW + 250_000_000, NOW) == 0.25
    assert seconds_ahead(NOW, NOW + 250_000_000) == -0.25


def test_an_error_travels() -> None:
    error = ValueError("the feed broke")
    quotes = {"a": quote(0)}

    assert play("-a-#", quotes, LIMITED, error) == expect("-a-#", quotes, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Quote] = Hot()
    subscription = source.pipe(LIMITED).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
