"""Marble diagrams of a window: nothing is lost in the columns, and the text is played again."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from reactivex import Observable
from reactivex import operators as ops
from reactivex.observable.marbles import parse
from reactivex.testing.marbles import marbles_testing

from marblemaker.bundled import BUNDLED
from marblemaker.console import DONE, WRONG_USE, Console
from marblemaker.diagram import Diagram, DiagramError, parse_diagram
from marblemaker.diagram_cli import add_diagram_commands
from marblemaker.diagram_play import play_decisions, play_diagram, play_session, write_diagram
from marblemaker.session import Session
from marblemaker.settings import SettingsError, load_settings
from marblemaker.window import decisions_of, window
from operators.mid import mid
from streams.events import BUY, SELL, Quote, Status
from streams.recording import RecordingError
from tests.marbles import MILLISECOND, play_graph_on_clock
from tests.sessions import (
    SECOND,
    START,
    random_feeds,
    random_strategy,
    random_trades,
    write_recording,
)

NASTY = 'a "quoted" <b>&amp;</b>\n\tx=y: #|(,)— at=+1ms'


def recording(folder: Path, seed: int, quotes: int = 60) -> Path:
    """A small session with ties, faults, trades and states."""
    feeds = random_feeds(seed, quotes)
    events = {
        "trades": random_trades(seed, feeds["target"]),
        "status": [
            {"ts": START + SECOND, "source": "signal", "kind": "heartbeat", "text": None},
            {"ts": START + 2 * SECOND, "source": "target", "kind": "notice", "text": NASTY},
            {"ts": START + 3 * SECOND, "source": "operator", "kind": "kill", "text": "maintenance"},
            {"ts": START + 4 * SECOND, "source": "operator", "kind": "release", "text": ""},
        ],
    }
    return write_recording(folder, feeds, events)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marble")
    overrides = ["strategy.half_spread_bps=3", "strategy.min_interval_ms=70"]
    Session.open(recording(folder / "recording", 3)).replay(folder / "run", overrides=overrides)
    return folder / "run"


def seq_of(event: Any) -> Any:
    return event.seq


def bid_of(event: Any) -> Any:
    return event.bid_px


def whole(folder: Path, step: str = "100ms") -> Diagram:
    manifest = Session.open(folder).manifest
    assert manifest.first_ts is not None
    assert manifest.last_ts is not None
    return window(folder, manifest.first_ts, manifest.last_ts, step=step)


# ---------------------------------------------------------------- a window as text


@pytest.mark.parametrize("step", ["1ms", "7ms", "250ms", "60s"])
def test_the_text_of_a_window_reads_back_to_the_very_same_events(run: Path, step: str) -> None:
    drawn = window(run, START, START + 3 * SECOND, step=step)
    read = parse_diagram(drawn.text())
    assert read.lanes == drawn.lanes
    assert (read.start_ns, read.step_ns) == (drawn.start_ns, drawn.step_ns)
    assert read.inputs() == drawn.inputs()
    assert read.text() == drawn.text()
    assert {"signal", "target", "trades", "status", "account", "residual", "anchor"} < {*read.lanes}
    assert {"decisions", "orders"} < {*read.lanes}


def test_every_lane_that_a_run_has_can_be_drawn_and_read(run: Path) -> None:
    lanes = ["wanted", "updates", "fills", "residual", "anchor", "orders", "decisions"]
    drawn = window(run, START, "+1m", lanes=lanes)
    assert {*drawn.lanes} == {*lanes}
    assert all(drawn.events(lane) for lane in lanes if lane != "fills")
    assert parse_diagram(drawn.text()).lanes == drawn.lanes


def test_reactivex_reads_each_line_to_the_same_values_in_the_same_order(run: Path) -> None:
    drawn = window(run, START, START + 2 * SECOND, step="20ms")
    lookup: dict[str | float, Any] = dict(drawn.lookup().items())
    for lane in drawn.lanes:
        read = parse(drawn.line(lane), timespan=1.0, lookup=lookup)
        assert [message.value for _, message in read] == drawn.events(lane)
        firsts = {column: message for column, message in reversed(read)}
        for column, message in firsts.items():
            # A marble stands in the column of its time, a group in that of its first one.
            at = message.value.ts - drawn.start_ns
            assert at // drawn.step_ns == column
    with marbles_testing() as (start, _, hot, exp):
        line = "-" + drawn.line("target")  # where reactivex skips the first column
        heard = start(hot(line, lookup, None).pipe(ops.map(seq_of)))
        seqs: dict[str | float, Any] = {marble.name: marble.seq for marble in drawn.lanes["target"]}
        assert heard == exp(line, seqs, None)


def test_inputs_of_one_column_keep_their_numbers_order_across_lanes() -> None:
    text = """
        step    1s
        signal  (a,b)
        target  (x,y)
        trades  d
        a: at=+1ms seq=2 bid_px=1 ask_px=2
        b: at=+1ms seq=5 bid_px=1 ask_px=2
        x: at=+1ms seq=1 bid_px=1 ask_px=2
        y: at=+1.000001ms seq=6 bid_px=1 ask_px=2
        d: at=+1ms seq=4 px=1 qty=1 side=BUY
    """
    found = [event.seq for _, event in parse_diagram(text).inputs()]
    assert found == [1, 2, 4, 5, 6]
    # Without numbers ties go as in a recording: signal, trades, target.
    bare = "\n".join(
        line.replace("seq=", "flags=") for line in text.splitlines() if "d:" not in line
    )
    lanes = [lane for lane, _ in parse_diagram(bare.replace("trades  d", "")).inputs()]
    assert lanes == ["signal", "signal", "target", "target"]


def test_numbers_that_go_back_while_time_does_not_are_refused() -> None:
    text = "signal  a-b\na: seq=2 bid_px=1 ask_px=2\nb: seq=1 bid_px=1 ask_px=2"
    with pytest.raises(DiagramError, match=r"b has seq 1 and comes after a with seq 2"):
        parse_diagram(text).inputs()


def test_marbles_beneath_the_letters_of_the_one_before_join_its_group() -> None:
    def quote(ms: int) -> Quote:
        return Quote(ms, START + ms * MILLISECOND, None, 1, 2, 1, 1, 0)

    def line(*columns: int) -> str:
        events = {"signal": [quote(ms) for ms in columns]}
        drawn = Diagram.of(
            events, start_ns=START, end_ns=START + 14 * MILLISECOND, step_ns=MILLISECOND
        )
        assert parse_diagram(drawn.text()).events("signal") == events["signal"]
        return drawn.line("signal")

    assert line() == "---------------"
    assert line(0, 3, 14) == "s1-s2---------s3"
    assert line(0, 2) == "(s1,s2)--------"
    assert line(1, 1, 8, 14) == "-(s1,s2)s3----s4"
    assert line(1, 1, 7, 7) == "-(s1,s2,s3,s4)-"


def test_the_step_is_the_finest_round_one_that_fits_a_screen(run: Path) -> None:
    for span, step in ((119, "1ns"), (120, "2ns"), (2_400_000, "50us"), (50 * 10**9, "500ms")):
        drawn = window(run, START, START + span)
        assert f"step   {step}\n" in drawn.text()
        assert drawn.columns <= 120


def test_settings_and_the_baseline_of_the_run_go_with_its_text(run: Path) -> None:
    drawn = window(run, START, "+2s")
    assert "strategy.half_spread_bps=3.0" in drawn.overrides
    (baseline,) = {r.baseline for r in drawn.events("residual") if hasattr(r, "baseline")}
    assert f"strategy.signal_baseline={baseline!r}" in drawn.overrides
    settings = load_settings(overrides=parse_diagram(drawn.text()).overrides)
    assert settings.strategy.min_interval_ms == 70.0
    assert settings.strategy.signal_baseline == baseline


@pytest.mark.parametrize(
    ("t0", "t1", "options", "told"),
    [
        ("13:30:00Z", "+10s", {"step": "1ms"}, r"10s in steps of 1ms are 10,001 columns.*--step"),
        ("13:30:01Z", "13:30:00Z", {}, "ends at .* 1s before it begins"),
        ("13:30:00Z", "+1s", {"lanes": ["signals"]}, "no lane 'signals'; the lanes are signal"),
        ("13:30:00Z", "+1s", {"step": "0ms"}, "step must be at least 1ns, was 0ns"),
        ("seq 99999", "+1s", {}, "no input of .* has seq 99999"),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused_with_the_way_out(
    run: Path, t0: str, t1: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(DiagramError, match=told):
        window(run, t0, t1, **options)


def test_the_step_that_a_refusal_names_is_wide_enough(run: Path) -> None:
    for span in (10 * SECOND, 4_000 * 10**6, 7_777_777_777, 5_998):
        with pytest.raises(DiagramError) as refused:
            window(run, START, START + span, step="1ns")
        least = str(refused.value).rpartition("at least ")[2]
        assert window(run, START, START + span, step=least).columns <= 4_000


def test_a_window_with_more_events_than_a_legend_holds_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marblemaker.window._MOST_EVENTS", 50)
    with pytest.raises(
        DiagramError, match=r"more than 50 events .* shorter window, or fewer --lane"
    ):
        window(run, START, "+1m")
    assert window(run, START, "+1s", lanes=["target"]).events("target")


def test_a_recording_has_no_decisions_to_draw_and_says_so(tmp_path: Path) -> None:
    folder = recording(tmp_path / "recording", 3)
    assert [*window(folder, START, "+4s").lanes] == ["signal", "target", "trades", "status"]
    with pytest.raises(RecordingError, match=r"no decisions.parquet.*`marble replay"):
        window(folder, START, "+1s", lanes=["decisions"])
    with pytest.raises(DiagramError, match=r"no input of .* has seq 1;"):
        window(folder, "seq 1", "+1s")


def test_a_run_without_a_trace_is_drawn_without_operators_and_says_so(tmp_path: Path) -> None:
    source = Session.open(recording(tmp_path / "recording", 3))
    run = source.replay(tmp_path / "run", trace=False)
    drawn = run.marble(START, "+1s")
    assert "anchor" not in drawn.lanes
    assert "# without residual and anchor: the run has no trace" in drawn.text()


# ---------------------------------------------------------------- text as input


@pytest.mark.parametrize("seed", range(4))
def test_a_run_played_from_its_text_decides_what_it_decided(tmp_path: Path, seed: int) -> None:
    source = Session.open(recording(tmp_path / "recording", seed))
    strategy = random_strategy(seed)
    overrides = [f"strategy.{k}={json.dumps(v)}" for k, v in strategy.items()]
    run = source.replay(tmp_path / "run", overrides=overrides)
    decided, last = decisions_of(run.path), run.manifest.last_ts
    assert last is not None
    # With the venue's recorded answers, to the number.
    text = whole(run.path).text()
    played = play_decisions(text, run.settings, venue="recorded")
    assert [one for one in played if one.ts <= last] == decided
    # From the inputs alone, as the recording has them: the simulated venue answers the same.
    bare = whole(source.path).text()
    played = play_decisions(bare, run.settings)
    before_last = [one for one in decided if one.ts < last]
    assert [one for one in played if one.ts < last] == before_last
    assert before_last


def test_time_passes_to_the_end_of_the_last_column() -> None:
    text = """
        # A signal that falls silent, on a line that is up.
        step    1s
        signal  a------------------------------------------------
        target  -x-----y-----y-----y-----y-----y-----y-----y-----
        a: bid_px=207.00 ask_px=207.02 bid_sz=1 ask_sz=1
        x: bid_px=206.99 ask_px=207.01 bid_sz=1 ask_sz=1
        y: bid_px=206.98 ask_px=207.01 bid_sz=1 ask_sz=1
    """
    start = parse_diagram(text).start_ns
    played = play_decisions(text, ["guards.max_signal_age_secs=40"])
    told = [((one.ts - start) // SECOND, one.action, one.reason) for one in played]
    assert told == [
        (0, "withdraw", "target missing"),
        (1, "quote", ""),
        (40, "withdraw", "signal dead"),
    ]
    short = text.replace("--\n        target", "\n        target").replace("y-----y-----\n", "y-\n")
    assert parse_diagram(short).columns == 47
    assert len(play_decisions(text.replace("-" * 48, "-"), ["guards.collar_bps=off"])) == 3
    assert [one.reason for one in play_decisions(text, ["guards.max_signal_age_secs=49"])] == [
        "target missing", "", "signal dead",
    ]  # fmt: skip
    assert [one.reason for one in play_decisions(text, ["guards.max_signal_age_secs=49.5"])] == [
        "target missing", "",
    ]  # fmt: skip


def test_settings_go_over_those_of_the_diagram() -> None:
    text = """
        set     strategy.half_spread_bps=10
        signal  a
        target  -x
        a: bid_px=99.99 ask_px=100.01
        x: bid_px=99.99 ask_px=100.01
    """
    assert play_decisions(text)[-1].bid_px == 99_900_000_000
    over = play_decisions(text, ["strategy.half_spread_bps=20"])[-1]
    assert (over.bid_px, over.ask_px) == (99_800_000_000, 100_200_000_000)
    with pytest.raises(TypeError, match="must be a list of texts"):
        play_decisions(text, "strategy.half_spread_bps=20")


def test_operators_hear_a_diagram_as_they_hear_one_of_marbles_py() -> None:
    def graph(signal: Observable[Any], target: Observable[Any]) -> Observable[Any]:
        late = signal.pipe(ops.delay(0.0025))
        return late.pipe(ops.merge(target), ops.map(bid_of))

    rows = {"signal": "a--b|---------", "target": "-x-----|------"}
    values = {
        "a": Quote(0, 0, None, 1, None, None, None, 0),
        "b": Quote(0, 0, None, 2, None, None, None, 0),
        "x": Quote(0, 0, None, 3, None, None, None, 0),
    }
    drawn = "\n".join(f"{lane}  {line}" for lane, line in rows.items())
    legend = "\n".join(f"{name}: bid_px=0.00000000{q.bid_px}" for name, q in values.items())
    played = play_diagram(f"start 1970-01-01T00:00Z\n{drawn}\n{legend}", graph)
    assert played == play_graph_on_clock(rows, values, graph)
    assert played[-1][1] == "|"


def test_a_lane_ends_before_what_comes_later_in_another() -> None:
    text = """
        start   1970-01-01T00:00Z
        signal  -a-|
        target  x--y-z-
        a: bid_px=0.1
        x: bid_px=0.2
        y: bid_px=0.3
        z: bid_px=0.4
    """
    played = play_diagram(text, lambda signal, target: signal.pipe(ops.concat(target)))
    # At one instant what is heard comes before an end, so only z finds the target listened to.
    heard = [(ts // MILLISECOND, quote.bid_px) for ts, quote in played]
    assert heard == [(1, 100_000_000), (5, 400_000_000)]


def test_the_venues_answers_are_inputs_only_when_they_are_wanted(run: Path, tmp_path: Path) -> None:
    drawn, settings = whole(run), Session.open(run).settings
    for answers in (True, False):
        written = write_diagram(drawn, settings, tmp_path / str(answers), answers=answers)
        assert ("account" in Session.open(written).frames) is answers


def test_a_trade_of_nobody_stays_one(run: Path) -> None:
    sides = {None: 0, "BUY": BUY, "SELL": SELL}
    rows = Session.open(run).trades.collect()
    drawn = whole(run)
    assert [trade.side for trade in drawn.events("trades")] == [sides[s] for s in rows["side"]]
    assert rows["side"].null_count()


def test_events_within_a_column_are_heard_at_their_exact_nanosecond(run: Path) -> None:
    drawn = window(run, START, START + 2 * SECOND, step="500ms")
    heard = play_diagram(drawn.text(), lambda target, **_: target.pipe(mid("target")))
    assert [ts for ts, _ in heard] == [quote.ts for quote in drawn.events("target")]
    assert len({ts % MILLISECOND for ts, _ in heard}) > 1


def test_what_a_window_takes_to_disk_is_gone_when_it_was_played(tmp_path: Path) -> None:
    text = "signal  a\ntarget  -x\na: bid_px=1 ask_px=2\nx: bid_px=1 ask_px=2"
    session = play_session(text)
    folder = session.path.parent
    assert (folder / "diagram" / "manifest.json").exists()
    session.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the text has no lane"),
        ("signol  a", "'signol' is no lane .did you mean signal"),
        ("signal  a\nsignal  b", "the lane signal is there twice"),
        ("signal  ab\na: bid_px=1", "does not say what 'ab' in column 0 is; .*marbles in neigh"),
        ("signal  a\na: bid_px=1\na: bid_px=1", "line 3: a is explained twice"),
        ("signal  a\na: bid=1", r"no field 'bid' \(did you mean bid_.z?.*\); it has at, seq"),
        ("signal  a\na: bid_px=1.0000000001", "a: bid_px=1.0000000001 cannot be read: bid_px must"),
        ("signal  a\na: bid_px", "'bid_px' is not field=value"),
        ("signal  a\na: bid_px=1\nb: bid_px=1", "explains b, which no lane has"),
        ("signal  a,b\na: bid_px=1\nb: bid_px=1", "',' in column 1 is not marble notation"),
        ("signal  (a\na: bid_px=1", r"'\(' in column 0 is not marble notation"),
        ("signal  -#", "# in column 1 is a stream that fails"),
        ("signal  -|a\na: bid_px=1", "more after | in column 1"),
        ("step 0ms\nsignal  a", "step must be at least 1ns"),
        ("step soon\nsignal  a", "step must be a duration"),
        ("start noon\nsignal  a", "start must be a day and time"),
        ("start 14:00Z\nsignal  a", "start must be a day and time"),
        ("signal  a\na: at=+2ms bid_px=1", "a stands in column 0, its at= is in column 2; move"),
        ("step 1s\nsignal  (a,b)\na: at=+2ms\nb: at=+1ms", "b is before a, which stands left"),
        ("decisions  q\nq: seq=1 action=quit", "q: Invalid enum value 'quit'"),
        ("fills  f\nf: n=1 side=BUY px=1", "f: Object missing required field `qty`"),
        ("status  u\nu: source=signal kind=heartbeat seq=x", "seq=x cannot be read"),
    ],
)  # fmt: skip
def test_texts_that_are_no_diagram_are_refused_with_the_place_and_the_way_out(
    text: str, told: str
) -> None:
    with pytest.raises(DiagramError, match=told):
        parse_diagram(text)


def test_the_graph_needs_both_feeds_and_names_the_lane_that_is_missing() -> None:
    with pytest.raises(DiagramError, match=r"no lane target, .*add a line 'target  -'"):
        play_decisions("signal  a\na: bid_px=1 ask_px=2")


def test_random_values_survive_the_text_bit_for_bit() -> None:
    source = random.Random(11)
    status = [
        Status(
            n, START + source.randrange(10**9), "operator", "notice",
            "".join(source.choice('ab "\\\n\t=:#()|,-–<&\u2028\x00é') for _ in range(9)),
        )
        for n in range(1, 200)
    ]  # fmt: skip
    status.sort(key=lambda one: one.ts)
    drawn = Diagram.of(
        {"status": status}, start_ns=START, end_ns=START + 10**9, step_ns=MILLISECOND
    )
    assert parse_diagram(drawn.text()).events("status") == status


def test_the_documents_diagrams_are_those_that_come_out(tmp_path: Path) -> None:
    told = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    run = Session.open(BUNDLED).replay(tmp_path / "nvda")
    drawn = run.marble("13:47:12.7Z", "+400ms", lanes=["signal", "target", "decisions", "fills"])
    assert f"```text\n{drawn.text()}```" in told
    (written,) = re.findall(r'play_decisions\(\n    """\n(.*?)"""', told, re.DOTALL)
    played = play_decisions(written, ["guards.max_signal_age_secs=40"])
    shown = [f"{d.ts} {d.action} {d.reason} {d.bid_px} {d.ask_px}" for d in played]
    assert "```text\n" + "\n".join(shown) + "\n```" in told


# ---------------------------------------------------------------- pictures and the command


def test_the_picture_is_sound_stands_alone_and_escapes_what_it_is_told(run: Path) -> None:
    drawn = window(run, START, "+3s")
    picture = drawn.svg()
    root = ElementTree.fromstring(picture)
    name = "{http://www.w3.org/2000/svg}"
    marbles = [g for g in root.iter(f"{name}g") if g.get("class") == "marble"]
    assert len(marbles) == sum(map(len, drawn.lanes.values()))
    tips = [g.findtext(f"{name}title") or "" for g in marbles]
    assert all(tip.strip() for tip in tips)
    assert sum(json.dumps(NASTY) in tip for tip in tips) == 1
    assert "prefers-color-scheme: dark" in picture
    assert picture.count("http") == 1, "nothing may be loaded from elsewhere"
    assert "<script" not in picture


def test_marbles_stand_in_the_picture_where_their_time_puts_them(run: Path) -> None:
    drawn = window(run, START, "+3s", lanes=["target"])
    root = ElementTree.fromstring(drawn.svg())
    xs = [float(c.attrib["cx"]) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    xs += [
        float(r.attrib["x"]) + float(r.attrib["width"]) / 2
        for r in root.iter("{http://www.w3.org/2000/svg}rect")
        if r.get("rx")
    ]
    times = [quote.ts for quote in drawn.events("target")]
    slope = (max(xs) - min(xs)) / (max(times) - min(times))
    wanted = [min(xs) + (ts - min(times)) * slope for ts in times]
    assert sorted(xs) == pytest.approx(wanted, abs=0.2)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()

    def add(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = commands.add_parser(name, help=text)
        one.add_argument("--json", action="store_true")
        one.set_defaults(command=run)
        return one

    add_diagram_commands(commands, add)
    parsed = parser.parse_args(arguments)
    console = Console(as_json=parsed.json)
    try:
        code: int = parsed.command(parsed, console)
    except SettingsError as error:
        return console.error(str(error), WRONG_USE)
    return code


def test_the_command_prints_the_text_and_writes_the_picture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: Sequence[str] = ("marble", str(run), "09:30:00", "+1s", "--lanes", "signal,decisions")
    assert command(*wanted, "--svg", str(tmp_path / "new" / "a.svg")) == DONE
    drawn = window(run, START, START + SECOND, lanes=["signal", "decisions"])
    assert capsys.readouterr().out == drawn.text()
    assert (tmp_path / "new" / "a.svg").read_text() == drawn.svg()
    assert command(*wanted, "--json") == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["lanes"]["signal"]["diagram"] == drawn.line("signal")
    assert [m["ts"] for m in document["lanes"]["signal"]["marbles"]] == [
        quote.ts for quote in drawn.events("signal")
    ]


@pytest.mark.parametrize(
    "arguments", [("tomorrow", "+1s"), ("13:30:00Z", "+1h"), ("13:30:00Z", "+1s", "--step", "x")]
)
def test_wrong_use_of_the_command_is_told_and_exits_with_2(
    run: Path, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("marble", str(run), *arguments) == WRONG_USE
    assert capsys.readouterr().err.startswith("marble: ")
