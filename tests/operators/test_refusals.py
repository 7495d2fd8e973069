"""divert_refusals(): refused books leave the stream and are reported beside it."""

from reactivex import Observable, Observer

from operators.refusals import divert_refusals
from streams.events import Decision, Mid, Refusal
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

NO_BID = Refusal(5, 50, "signal", "no bid", None, 207, None, 3)
MISSING = Refusal(6, 60, "target", "missing")


def test_sound_values_pass_and_refused_books_are_reported_as_refuse() -> None:
    reports: list[Decision] = []
    values = {
        "a": Mid(1, 10, 64.0, 63, 65),
        "r": NO_BID,
        "s": MISSING,
        "b": Mid(2, 20, 65.0, 64, 66),
    }

    actual = play("    -a-r-s-b-|", values, divert_refusals(Observer(reports.append)))

    assert actual == expect("-a-----b-|", values)
    assert reports == [
        Decision(
            seq=5, ts=50, action="refuse", reason="signal no bid", signal_seq=5, signal_ts=50,
            refused_ask_px=207, refused_ask_sz=3,
        ),
        Decision(
            seq=6, ts=60, action="refuse", reason="target missing", target_seq=6, target_ts=60
        ),
    ]  # fmt: skip


def test_the_end_of_the_values_is_not_the_end_of_the_reports() -> None:
    ended: list[str] = []
    report: Observer[Decision] = Observer(
        None, lambda _: ended.append("#"), lambda: ended.append("|")
    )

    play("-|", {}, divert_refusals(report))
    play("-#", {}, divert_refusals(report))

    assert ended == []


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", {}, divert_refusals(Observer()), error) == expect("--#", {}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Mid | Refusal] = Hot()
    sound: Observable[Mid] = source.pipe(divert_refusals(Observer()))
    subscription = sound.subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
