"""For each guard a session in which it, and nothing else, takes the quotes away; then they return.

The sessions are quiet ones in which one thing goes wrong. Settings are the defaults but for what a
test names. Times are seconds after a Wednesday's open in New York, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.replay import replay
from streams.events import AccountEvent, AccountKind
from tests.sessions import SECOND, START, Row, frame, settings, write_recording

UNIT = 10**9
PRICE = 200 * UNIT
TICK = 10**6
STEP = SECOND // 2

Change = Callable[[float, Row], Row | None]
"""From the time in seconds and a quote to what is recorded in its place; ``None`` leaves it out."""


def quiet(change: Change = lambda at, row: row, *, start: float, end: float, offset: int) -> Any:
    """A quote each half second that moves by a tick to and fro and never repeats itself."""
    rows = []
    for i in count():
        at = start + i * STEP / SECOND
        if at > end:
            break
        ts = START + round(at * SECOND) + offset
        mid = PRICE + (i % 3) * TICK
        row = change(at, (ts, mid - 10 * TICK, mid + 10 * TICK, (1 + i % 7) * UNIT, 2 * UNIT))
        if row is not None:
            rows.append(row)
    return frame(rows)


def session(
    folder: Path,
    *,
    signal: Change = lambda at, row: row,
    target: Change = lambda at, row: row,
    start: float = 1.0,
    end: float = 120.0,
    events: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    **sections: Mapping[str, Any],
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Replay such a session; give the summary and its decisions, times in seconds."""
    feeds = {
        "signal": quiet(signal, start=start, end=end, offset=0),
        "target": quiet(target, start=start, end=end, offset=SECOND // 10),
    }
    recording = write_recording(folder / "recording", feeds, events)
    summary = replay(recording, settings(**sections), folder / "run")
    return summary, decisions_of(folder / "run")


def decisions_of(run: Path) -> pl.DataFrame:
    decisions = pl.read_parquet(run / "decisions.parquet")
    seconds = [(ts - START) / SECOND for ts in decisions["ts"].to_list()]
    return decisions.with_columns(at=pl.Series(seconds, dtype=pl.Float64))


def withdrawn(decisions: pl.DataFrame) -> list[tuple[float, str]]:
    """When quotes were taken away, and why; what comes before the first quote is left out."""
    quotes = decisions.filter(action="quote")
    after = decisions.filter(pl.col("ts") > quotes["ts"].min(), action="withdraw")
    return list(zip(after["at"].to_list(), after["reason"].to_list(), strict=True))


def returns(decisions: pl.DataFrame, at: float) -> float:
    """When the first quote after ``at`` went out."""
    return float(decisions.filter(pl.col("at") > at, action="quote")["at"].min())  # type: ignore[arg-type]


def between(a: float, b: float, then: Callable[[Row], Row | None]) -> Change:
    return lambda at, row: then(row) if a <= at < b else row


def moved(by_bps: float) -> Callable[[Row], Row]:
    """The quote at another price, on the tick."""

    def move(row: Row) -> Row:
        ts, bid, ask, bid_sz, ask_sz = row
        assert bid is not None
        assert ask is not None
        away = round(PRICE * by_bps / 1e4 / TICK) * TICK
        return ts, bid + away, ask + away, bid_sz, ask_sz

    return move


def test_a_quiet_session_is_quoted_from_the_first_pair_of_quotes_to_the_end(tmp_path: Path) -> None:
    """Guards the rest: nothing else may go wrong in these sessions."""
    summary, decisions = session(tmp_path)
    assert withdrawn(decisions) == []
    assert returns(decisions, 0.0) == 1.1
    assert summary["orders"]["CANCELED"] == 2
    assert not any(summary["anomalies"].values())


# ---------------------------------------------------------------- signal age


def test_a_dead_signal_withdraws_after_30_seconds_without_anything_arriving(tmp_path: Path) -> None:
    # The last quote before the gap is at 40.0; nothing of either feed comes at 70.0 itself.
    _, decisions = session(tmp_path, signal=between(40.1, 90.0, lambda row: None))
    assert withdrawn(decisions) == [(70.0, "signal dead")]
    row = decisions.filter(reason="signal dead").to_dicts()[0]
    assert (row["refused_value"], row["refused_limit"]) == (30.0, 30.0)
    assert returns(decisions, 70.0) == 90.0


def test_a_signal_whose_heartbeats_arrive_is_quiet_and_may_be_given_more_time(
    tmp_path: Path,
) -> None:
    heartbeats = [
        {"ts": START + at * SECOND, "source": "signal", "kind": "heartbeat", "text": None}
        for at in range(10, 120, 10)
    ]
    gap = between(40.1, 90.0, lambda row: None)
    _, decisions = session(tmp_path / "a", signal=gap, events={"status": heartbeats})
    assert withdrawn(decisions) == [(70.0, "signal quiet")]
    assert returns(decisions, 70.0) == 90.0

    _, decisions = session(
        tmp_path / "b", signal=gap, events={"status": heartbeats},
        guards={"max_quiet_signal_age_secs": 60.0},
    )  # fmt: skip
    assert withdrawn(decisions) == []


def test_a_disconnected_signal_withdraws_at_once(tmp_path: Path) -> None:
    status = [
        {"ts": START + 50 * SECOND + 7, "source": "signal", "kind": "disconnect", "text": "reset"},
        {"ts": START + 60 * SECOND, "source": "signal", "kind": "connect", "text": None},
    ]
    gap = between(50.0, 61.0, lambda row: None)
    _, decisions = session(tmp_path, signal=gap, events={"status": status})
    assert withdrawn(decisions) == [(50.000000007, "signal disconnected")]
    assert returns(decisions, 50.1) == 61.0


def test_a_dead_target_withdraws_after_a_minute(tmp_path: Path) -> None:
    _, decisions = session(
        tmp_path, target=between(20.2, 95.0, lambda row: None), end=120.0
    )  # fmt: skip
    assert withdrawn(decisions) == [(80.1, "target dead")]
    assert returns(decisions, 81.0) == 95.1


# ---------------------------------------------------------------- session


CLOSE = 6.5 * 3600
NEXT_OPEN = 24 * 3600.0
OVERNIGHT = between(CLOSE + 20.0, NEXT_OPEN - 20.0, lambda row: None)


def overnight(at: float, row: Row) -> Row | None:
    return OVERNIGHT(at, row)


def test_outside_the_session_nothing_is_quoted_from_the_close_to_the_next_open(
    tmp_path: Path,
) -> None:
    _, decisions = session(
        tmp_path, signal=overnight, target=overnight, start=CLOSE - 30, end=NEXT_OPEN + 30
    )
    assert withdrawn(decisions) == [(CLOSE, "session closed")]
    assert returns(decisions, CLOSE) == NEXT_OPEN


def test_before_the_open_nothing_is_quoted(tmp_path: Path) -> None:
    _, decisions = session(tmp_path, start=-30.0, end=30.0)
    assert returns(decisions, -30.0) == 0.0


def test_a_half_day_closes_at_one_in_new_york(tmp_path: Path) -> None:
    # The day after Thanksgiving 2026: 9:30 to 13:00 New York, 14:30 to 18:00 UTC.
    start = 1_795_802_400 - START // SECOND
    _, decisions = session(tmp_path, start=start - 30.0, end=start + 30.0)
    assert withdrawn(decisions) == [(float(start), "session closed")]


def test_outside_the_session_the_spread_widens_when_asked(tmp_path: Path) -> None:
    summary, decisions = session(
        tmp_path, start=CLOSE - 30, end=CLOSE + 30,
        session={"outside": "widen", "widening": 2.0},
    )  # fmt: skip
    assert not withdrawn(decisions)
    first, second = decisions.filter(action="quote").to_dicts()
    assert first["half_spread"] == first["anchor"] * (25.0 / 10_000.0)
    assert second["half_spread"] == second["anchor"] * (25.0 / 10_000.0) * 2.0
    assert returns(decisions, CLOSE - 1) == CLOSE
    assert summary["orders"]["total"] == 4


def test_outside_the_session_the_target_alone_is_quoted_when_asked(tmp_path: Path) -> None:
    gone = between(CLOSE + 5, CLOSE + 500, lambda row: None)
    _, decisions = session(
        tmp_path, signal=gone, start=CLOSE - 30, end=CLOSE + 60, session={"outside": "target_only"}
    )
    assert not withdrawn(decisions)


# ---------------------------------------------------------------- books


BOOKS: dict[str, Callable[[Row], Row]] = {
    "no bid": lambda row: (row[0], None, row[2], None, row[4]),
    "no ask": lambda row: (row[0], row[1], None, row[3], None),
    "missing": lambda row: (row[0], None, None, None, None),
    "zero price": lambda row: (row[0], 0, row[2], row[3], row[4]),
    "zero size": lambda row: (row[0], row[1], row[2], row[3], 0),
    "crossed": lambda row: (row[0], row[2], row[1], row[3], row[4]),
    "locked": lambda row: (row[0], row[2], row[2], row[3], row[4]),
}


@pytest.mark.parametrize("feed", ["signal", "target"])
@pytest.mark.parametrize("reason", BOOKS)
def test_an_unsound_book_withdraws_until_it_is_sound(
    feed: str, reason: str, tmp_path: Path
) -> None:
    bad = between(50.0, 50.4, BOOKS[reason])
    _, decisions = session(tmp_path, **{feed: bad})  # type: ignore[arg-type]
    offset = 0.1 if feed == "target" else 0.0
    assert withdrawn(decisions) == [(50.0 + offset, f"{feed} {reason}")]
    assert returns(decisions, 50.2) == 50.5 + offset


def test_a_locked_book_is_quoted_on_when_asked(tmp_path: Path) -> None:
    bad = between(50.0, 51.0, BOOKS["locked"])
    _, decisions = session(tmp_path, signal=bad, guards={"locked": "quote"})
    assert withdrawn(decisions) == []


@pytest.mark.parametrize("feed", ["signal", "target"])
def test_a_book_that_is_repeated_for_more_than_a_minute_is_frozen(
    feed: str, tmp_path: Path
) -> None:
    def frozen(row: Row) -> Row:
        return (row[0], PRICE - TICK, PRICE + TICK, UNIT, UNIT)

    _, decisions = session(tmp_path, **{feed: between(20.0, 90.0, frozen)})  # type: ignore[arg-type]
    offset = 0.1 if feed == "target" else 0.0
    # Unchanged since 20.0: at 80.0 for 60 s, and at 80.5 for longer.
    assert withdrawn(decisions) == [(80.5 + offset, f"{feed} frozen")]
    assert returns(decisions, 81.0) == 90.0 + offset


@pytest.mark.parametrize("feed", ["signal", "target"])
def test_a_jump_waits_half_a_second_for_its_confirmation(feed: str, tmp_path: Path) -> None:
    _, decisions = session(tmp_path, **{feed: between(50.0, 500.0, moved(150.0))})  # type: ignore[arg-type]
    offset = 0.1 if feed == "target" else 0.0
    row = decisions.filter(pl.col("reason").str.contains("jump")).to_dicts()[0]
    assert withdrawn(decisions) == [(50.0 + offset, f"{feed} jump not confirmed")]
    assert 149 < row["refused_value"] < 151
    assert row["refused_limit"] == 100.0
    assert returns(decisions, 50.2) == 50.5 + offset


def test_a_single_wild_print_is_never_quoted_on(tmp_path: Path) -> None:
    _, decisions = session(tmp_path, signal=between(50.0, 50.4, moved(-900.0)))
    assert withdrawn(decisions) == [(50.0, "signal jump not confirmed")]
    assert decisions["signal_mid"].drop_nulls().min() > 199.0  # type: ignore[operator]
    assert returns(decisions, 50.2) == 50.5


def test_a_basis_beyond_the_limit_withdraws_until_the_markets_meet_again(tmp_path: Path) -> None:
    def away(at: float, row: Row) -> Row:
        # 20 bps a second from 20 s on, 600 bps at the most, and back from 60 s on.
        bps = min(max(0.0, 20.0 * (at - 20.0)), 600.0, max(0.0, 20.0 * (90.0 - at)))
        return moved(bps)(row)

    _, decisions = session(tmp_path, target=away)
    assert {why for _, why in withdrawn(decisions)} == {"basis beyond the limit"}
    (at, _), row = withdrawn(decisions)[0], decisions.filter(action="withdraw").to_dicts()[-1]
    assert 45.0 <= at <= 46.0
    assert row["refused_value"] > row["refused_limit"] == 500.0
    assert 64.5 <= returns(decisions, at) <= 66.0


def test_a_price_a_tenth_of_the_one_before_the_break_looks_like_a_split(tmp_path: Path) -> None:
    def tenth(row: Row) -> Row:
        return (row[0], PRICE // 10 - TICK, PRICE // 10 + TICK, row[3], row[4])

    def signal(at: float, row: Row) -> Row | None:
        if 40.0 < at < 55.0:
            return None
        return tenth(row) if 55.0 <= at < 70.0 else row

    _, decisions = session(tmp_path, signal=signal, guards={"split_break_secs": 10.0})
    assert [why for _, why in withdrawn(decisions)][:1] == ["signal jump not confirmed"]
    _, decisions = session(
        tmp_path / "again", signal=signal, guards={"split_break_secs": 10.0, "collar_bps": "off"}
    )
    row = decisions.filter(reason="signal looks like a split").to_dicts()[0]
    assert {why for _, why in withdrawn(decisions)} == {"signal looks like a split"}
    assert row["at"] == 55.0
    assert abs(row["refused_value"] - 10.0) < 0.01
    assert row["refused_limit"] == 10.0
    assert returns(decisions, 60.0) == 70.0


@pytest.mark.parametrize(
    ("seconds", "reason", "limit"),
    [(2.0, "event time in the future", 1.0), (-11.0, "event time far behind", -10.0)],
)
def test_an_event_time_that_cannot_be_right_withdraws(
    seconds: float, reason: str, limit: float, tmp_path: Path
) -> None:
    feeds = {
        "signal": quiet(start=1.0, end=60.0, offset=0),
        "target": quiet(start=1.0, end=60.0, offset=SECOND // 10),
    }
    wrong = pl.col("ts").is_between(START + 30 * SECOND, START + 31 * SECOND, closed="left")
    feeds["signal"] = feeds["signal"].with_columns(
        ts_event=pl.col("ts") + pl.when(wrong).then(round(seconds * SECOND)).otherwise(-1000)
    )
    recording = write_recording(tmp_path / "recording", feeds)
    replay(recording, settings(), tmp_path / "run")
    decisions = decisions_of(tmp_path / "run")
    # Two quotes are wrong: each refused book is a row of its own.
    assert withdrawn(decisions) == [(30.0, f"signal {reason}"), (30.5, f"signal {reason}")]
    row = decisions.filter(action="withdraw").to_dicts()[-1]
    assert (row["refused_value"], row["refused_limit"]) == (seconds, limit)
    assert returns(decisions, 30.6) == 31.0


# ---------------------------------------------------------------- risk


def test_the_kill_switch_withdraws_until_it_is_released(tmp_path: Path) -> None:
    status = [
        {"ts": START + 30 * SECOND + 1, "source": "operator", "kind": "kill", "text": "lunch"},
        {"ts": START + 60 * SECOND + 1, "source": "operator", "kind": "release", "text": None},
    ]
    _, decisions = session(tmp_path, events={"status": status})
    assert withdrawn(decisions) == [(30.000000001, "kill switch lunch")]
    assert returns(decisions, 31.0) == 60.000000001


def test_a_reject_storm_withdraws_for_the_cooldown(tmp_path: Path) -> None:
    def up(at: float, row: Row) -> Row:
        # The signal says up by more and more, the target stays: the bid would cross each time.
        return moved(max(0.0, min(12.0 * (at - 30.0), 95.0)) if at < 45.0 else 0.0)(row)

    summary, decisions = session(
        tmp_path, signal=up, strategy={"signal_skew_factor": 200.0},
        risk={"max_rejects_per_minute": 3, "cooldown_secs": 20.0},
    )  # fmt: skip
    assert summary["orders"]["REJECTED"] == 4
    ((at, why),) = withdrawn(decisions)
    assert why == "risk reject storm"
    assert decisions.filter(reason=why)["refused_value"].to_list() == [4.0]
    # The window of a minute still holds the rejects when the cooldown is over: once more.
    assert returns(decisions, at) > at + 20.0


def dip(at: float, row: Row) -> Row:
    """The target's ask comes down to our bid for one quote: we buy."""
    if 30.0 <= at < 30.4:
        return moved(-30.0)(row)
    return row


def test_a_position_worth_too_much_withdraws_until_it_is_worth_less(tmp_path: Path) -> None:
    def dearer(at: float, row: Row) -> Row:
        return moved(80.0)(row) if 50.0 <= at < 70.0 else dip(at, row)

    # 0.05 at about 199.5 is 9.98; at 80 bps more it is 10.08.
    summary, decisions = session(
        tmp_path, target=dearer, signal=between(50.0, 70.0, moved(80.0)), end=150.0,
        risk={"max_notional": "10.05", "cooldown_secs": 10.0},
        strategy={"signal_skew_factor": 0.0, "inventory_skew_factor": 0.0},
    )  # fmt: skip
    assert summary["fills"]["BUY MAKER"] == 1
    ((at, why),) = withdrawn(decisions)
    assert (at, why) == (50.1, "risk notional beyond the limit")
    row = decisions.filter(reason=why).to_dicts()[0]
    assert row["refused_value"] > row["refused_limit"] == 10.05
    # Judged anew every 10 s: at 60.1 and 70.1 it is still worth too much, at 80.1 not.
    assert returns(decisions, at) == 80.1


def test_a_loss_withdraws_until_the_next_session_opens(tmp_path: Path) -> None:
    def fall(at: float, row: Row) -> Row | None:
        if CLOSE - 60.0 <= at < CLOSE - 59.6:
            return OVERNIGHT(at, moved(-30.0)(row))
        return OVERNIGHT(at, moved(-90.0)(row) if at > CLOSE - 40.0 else row)

    _, decisions = session(
        tmp_path, target=fall, signal=OVERNIGHT, start=CLOSE - 90, end=NEXT_OPEN + 30,
        risk={"max_loss": "0.05"}, strategy={"signal_skew_factor": 0.0},
    )  # fmt: skip
    whys = withdrawn(decisions)
    # 0.05 bought at about 199.5 and worth about 198.2 is a loss of 0.06.
    assert [why for _, why in whys][:1] == ["risk loss beyond the limit"]
    assert {why for _, why in whys} == {"risk loss beyond the limit", "session closed"}
    assert returns(decisions, whys[0][0]) == NEXT_OPEN


def test_too_many_orders_at_once_withdraw_for_the_cooldown(tmp_path: Path) -> None:
    # A requote has the two old orders and the two new ones in flight together.
    step = between(30.0, 500.0, moved(20.0))
    _, decisions = session(
        tmp_path, target=step, signal=step, venue={"latency": "200ms"},
        risk={"max_orders": 3, "cooldown_secs": 10.0},
    )  # fmt: skip
    ((at, why),) = withdrawn(decisions)
    assert why == "risk too many orders"
    assert at + 10.0 <= returns(decisions, at) <= at + 11.0


def test_a_position_beyond_the_limit_withdraws_until_it_is_back(tmp_path: Path) -> None:
    """Answers that cannot be: the venue says that it filled ten times what was asked."""
    feeds = {
        "signal": quiet(start=1.0, end=90.0, offset=0),
        "target": quiet(start=1.0, end=90.0, offset=SECOND // 10),
    }
    told: list[tuple[float, AccountKind, int | None, int | None]] = [
        (2.0, "ack", 1, None), (2.0, "ack", 2, None),
        (30.0, "fill", 1, 500_000_000),
        (31.0, "cancel", 2, None),
        (40.0, "fill", 2, 500_000_000),
        (89.0, "stop", None, None),
    ]  # fmt: skip
    answers = [
        AccountEvent(
            seq=0, ts=START + round(at * SECOND) + 1, kind=kind, n=n, qty=qty,
            px=PRICE if qty else None, venue_id=f"t{i}" if qty else None,
        )
        for i, (at, kind, n, qty) in enumerate(told)
    ]  # fmt: skip
    ranked = pl.concat(
        [quotes.select("ts", feed=pl.lit(name)) for name, quotes in feeds.items()]
        + [pl.DataFrame({"ts": [a.ts for a in answers]}).with_columns(feed=pl.lit("account"))]
    ).sort("ts").with_columns(seq=pl.int_range(1, pl.len() + 1, dtype=pl.UInt64))  # fmt: skip
    numbered = {
        name: quotes.with_columns(ranked.filter(feed=name)["seq"]) for name, quotes in feeds.items()
    }
    seqs = ranked.filter(feed="account")["seq"].to_list()
    rows = [
        {f: getattr(a, f) for f in AccountEvent.__struct_fields__} | {"seq": seq}
        for a, seq in zip(answers, seqs, strict=True)
    ]
    recording = write_recording(tmp_path / "recording", numbered, {"account": rows})
    summary = replay(recording, settings(risk={"cooldown_secs": 5.0}), tmp_path / "run")
    decisions = decisions_of(tmp_path / "run")
    assert withdrawn(decisions) == [(30.000000001, "risk position beyond the limit")]
    assert summary["position"] == "0"
    # Judged anew every 5 s; at 40.000000001 just before the fill that brings it back.
    assert returns(decisions, 31.0) == 45.000000001
