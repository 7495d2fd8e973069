"""starting_with(): a value that stands until the source has spoken."""

from typing import Any

from reactivex import Observable
from reactivex import operators as ops

from operators.starting import starting_with
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

VALUES: dict[str, Any] = {"s": "start", "a": "first", "b": "second"}


def test_the_value_comes_at_once_and_the_source_follows() -> None:
    actual = play("    ---a--b-|", VALUES, starting_with(VALUES["s"]))

    assert actual == expect("s--a--b-|", VALUES)


def test_it_comes_although_the_source_stays_silent() -> None:
    assert play("---|", VALUES, starting_with(VALUES["s"])) == expect("s--|", VALUES)


def test_the_value_is_there_before_subscribe_returns_and_without_a_scheduler() -> None:
    source: Hot[int] = Hot()
    seen: list[int] = []

    source.pipe(starting_with(1)).subscribe(seen.append)

    assert seen == [1]


def test_each_subscription_gets_the_value() -> None:
    source: Hot[int] = Hot()
    started: Observable[int] = source.pipe(starting_with(1))
    early: list[int] = []
    late: list[int] = []
    started.subscribe(early.append)
    source.push(2)
    started.subscribe(late.append)

    assert early == [1, 2]
    assert late == [1]


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", VALUES, starting_with(VALUES["s"]), error) == expect("s-#", VALUES, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[int] = Hot()
    subscription = source.pipe(starting_with(1)).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0


def test_an_observer_that_leaves_with_the_first_value_is_not_subscribed_to_the_source() -> None:
    source: Hot[int] = Hot()

    source.pipe(starting_with(1), ops.take(1)).subscribe()

    assert subscribers(source) == 0
