"""combine_latest(): the newest of two streams, as reactivex's own, without its locks."""

import random
from typing import Any

import reactivex as rx
from reactivex import Observable

from operators.combine import combine_latest
from streams.pump import Hot
from tests.marbles import expect, play_graph, subscribers

LETTERS = {name: name for name in "abcdwxyz"}
PAIRS: dict[str, Any] = {
    "A": ("a", "w"), "B": ("b", "w"), "C": ("b", "x"), "D": ("c", "x"), "E": ("a", "x"),
}  # fmt: skip


def test_nothing_comes_before_both_have_spoken_then_either_triggers() -> None:
    actual = play_graph(
        {
            "left": "  -a----b----c-|",
            "right": " ----w----x-|",
        },
        LETTERS, combine_latest,
    )  # fmt: skip

    assert actual == expect("----A-B--C-D-|", PAIRS)


def test_it_completes_when_both_have() -> None:
    actual = play_graph({"left": "-a-|", "right": "--w--x|"}, LETTERS, combine_latest)

    assert actual == expect("--A--E|", PAIRS)


def test_it_fails_with_the_first_that_fails() -> None:
    error = ValueError("broke")

    for left, right in (("-a---#", "--w-----|"), ("-a------|", "--w--#")):
        actual = play_graph({"left": left, "right": right}, LETTERS, combine_latest, error)

        assert actual == expect("--A--#", PAIRS, error)


def test_it_does_what_reactivex_does_on_random_sources() -> None:
    source = random.Random(7)
    for _ in range(200):
        diagrams = {
            name: "-" + "".join(source.choice(("-", "-", mark)) + "-" for mark in marks) + end
            for name, marks, end in (
                ("left", "abcd", source.choice("|-#")),
                ("right", "wxyz", source.choice("|-#")),
            )
        }

        ours = play_graph(diagrams, LETTERS, combine_latest)
        theirs = play_graph(diagrams, LETTERS, lambda left, right: rx.combine_latest(left, right))

        assert ours == theirs, diagrams


def test_none_is_a_value_like_any_other() -> None:
    actual = play_graph({"left": "-a-", "right": "--w"}, {"a": None, "w": None}, combine_latest)

    assert actual == expect("--P", {"P": (None, None)})


def test_two_subscriptions_do_not_share_the_latest() -> None:
    left: Hot[int] = Hot()
    right: Hot[int] = Hot()
    combined: Observable[tuple[int, int]] = combine_latest(left, right)
    early: list[tuple[int, int]] = []
    late: list[tuple[int, int]] = []
    combined.subscribe(early.append)
    left.push(1)
    combined.subscribe(late.append)
    right.push(2)

    assert early == [(1, 2)]
    assert late == []


def test_disposing_unsubscribes_from_both_sources() -> None:
    left: Hot[int] = Hot()
    right: Hot[int] = Hot()
    subscription = combine_latest(left, right).subscribe()
    assert subscribers(left, right) == 2

    subscription.dispose()

    assert subscribers(left) == subscribers(right) == 0
