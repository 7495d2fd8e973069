"""frozen(): the same book again and again. A column is 1 ns, the limit 5."""

from typing import Any

from msgspec.structs import replace

from operators.guards.frozen import frozen, is_frozen
from streams.events import Quote, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

BOOK = Quote(0, 0, None, 206, 207, 3, 4, 0)
GUARD = frozen("target", 5)


def at(ts: int, **other: Any) -> Quote:
    return replace(BOOK, seq=ts, ts=ts, **other)


def refused(ts: int, unchanged_ns: int, **other: Any) -> Refusal:
    book = at(ts, **other)
    return Refusal(
        ts, ts, "target", "frozen", book.bid_px, book.ask_px, book.bid_sz, book.ask_sz,
        unchanged_ns / 1e9, 5e-9,
    )  # fmt: skip


def test_a_repeated_book_is_refused_one_ns_after_the_limit_and_by_that_refusal_from_then_on() -> (
    None
):
    quotes = {"a": at(10), "b": at(14), "c": at(15), "d": at(16), "e": at(99)}
    refusals = {"d": refused(16, 6), "e": refused(16, 6)}

    assert play("-a-b-c-d-e-|", quotes, GUARD) == expect("-a-b-c-d-e-|", quotes | refusals)


def test_the_first_quote_passes_however_late_it_comes() -> None:
    quotes = {"a": at(10**18), "b": at(10**18 + 5)}

    assert play("-a-b-|", quotes, GUARD) == expect("-a-b-|", quotes)


def test_any_change_makes_it_sound_again_and_counts_anew() -> None:
    changes: list[dict[str, Any]] = [
        {"bid_px": 205},
        {"ask_px": 208},
        {"bid_sz": 1},
        {"ask_sz": 1},
        {"bid_px": None, "bid_sz": None},
        {"ask_px": None, "ask_sz": None},
    ]
    for change in changes:
        quotes = {
            "a": at(10),
            "b": at(20),
            "c": at(21, **change),
            "d": at(26, **change),
            "e": at(27, **change),
            "f": at(28, **change),
        }
        refusals = {"b": refused(20, 10), "e": refused(27, 6, **change)}
        refusals["f"] = refusals["e"]

        actual = play("-a-b-c-d-e-f-|", quotes, GUARD)

        assert actual == expect("-a-b-c-d-e-f-|", quotes | refusals), change


def test_a_book_that_alternates_is_not_frozen() -> None:
    # Every change counts from itself: the first book is back at 20, so 25 is in time.
    quotes = {"a": at(10), "b": at(14, bid_sz=9), "c": at(20), "d": at(25)}

    assert play("-a-b-c-d-|", quotes, GUARD) == expect("-a-b-c-d-|", quotes)


def test_another_seq_flag_or_event_time_is_no_change() -> None:
    quotes = {"a": at(10), "b": replace(at(16), flags=128, ts_event=15)}

    assert play("-a-b-|", quotes, GUARD) == expect("-a-b-|", quotes | {"b": refused(16, 6)})


def test_an_empty_book_freezes_too() -> None:
    none: dict[str, Any] = {"bid_px": None, "ask_px": None, "bid_sz": None, "ask_sz": None}
    quotes = {"a": at(10, **none), "b": at(16, **none)}

    actual = play("-a-b-|", quotes, GUARD)

    assert actual == expect("-a-b-|", quotes | {"b": refused(16, 6, **none)})


def test_refusals_pass_and_do_not_count_as_a_change() -> None:
    refusal = Refusal(12, 12, "target", "event time far behind", 1, 2, 3, 4)
    values = {"a": at(10), "r": refusal, "b": at(16)}

    assert play("-a-r-b-|", values, GUARD) == expect("-a-r-b-|", values | {"b": refused(16, 6)})


def test_the_limit_itself_is_not_frozen() -> None:
    assert not is_frozen(4, 5)
    assert not is_frozen(5, 5)
    assert is_frozen(6, 5)


def test_two_subscriptions_do_not_share_a_book() -> None:
    source: Hot[Quote | Refusal] = Hot()
    guarded = source.pipe(GUARD)
    early: list[Any] = []
    late: list[Any] = []
    guarded.subscribe(early.append)
    source.push(at(10))
    guarded.subscribe(late.append)
    source.push(at(20))

    assert early == [at(10), refused(20, 10)]
    assert late == [at(20)]


def test_an_error_travels() -> None:
    error = ValueError("the feed broke")

    assert play("-a-#", {"a": at(10)}, GUARD, error) == expect("-a-#", {"a": at(10)}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Quote | Refusal] = Hot()
    subscription = source.pipe(GUARD).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
