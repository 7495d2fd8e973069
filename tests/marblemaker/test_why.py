"""why: its numbers give the price, the flip it names flips, and a smaller change does not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from msgspec.structs import astuple

from marblemaker.console import Console
from marblemaker.replay import replay
from marblemaker.settings import Settings
from marblemaker.why import Explanation, explain
from marblemaker.why_flips import flips, inputs_of
from marblemaker.why_orders import Moment
from marblemaker.why_past import made_at, situation_of
from marblemaker.why_run import RunFolder
from marblemaker.why_situation import Evaluator
from sinks.journal import DECISIONS_SCHEMA
from streams.events import Decision
from streams.instant import iso
from streams.recording import FrameWriter, RecordingError, read_manifest, write_manifest
from tests.marblemaker.test_formulas import check_row
from tests.marblemaker.test_guard_sessions import session
from tests.sessions import (
    SECOND,
    START,
    frame,
    random_feeds,
    random_sections,
    random_strategy,
    settings,
    write_recording,
)

PRESETS = ("composite", "tutorial", "fair_value", "ladder")


def random_settings(seed: int, preset: str, **more: Mapping[str, Any]) -> Settings:
    sections = random_sections(seed)
    sections["strategy"] = random_strategy(seed, preset)
    # What paces a quota is the whole past: see the test of its own.
    sections["venue"]["volume_quota"] = "off"
    for name, body in more.items():
        sections.setdefault(name, {}).update(body)
    return settings(**sections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], RunFolder]:
    """Small random sessions of every preset, with every kind of fault in them."""
    found = {}
    for preset in PRESETS:
        for seed in (4, 7, 11):
            folder = tmp_path_factory.mktemp(f"{preset}{seed}")
            feeds = random_feeds(seed, 200)
            more: dict[str, dict[str, Any]] = {"session": {"calendar": "XNYS"}}
            if seed == 11 and preset in ("composite", "ladder"):
                feeds["signal_2"] = random_feeds(seed + 1, 100)["signal"]
                more["signal"] = {
                    "instrument": "NVDA.EQUS", "others": ["AMD.EQUS"], "weights": [0.7, 0.3],
                }  # fmt: skip
            if seed == 7:
                # The market opens in the middle.
                shift = pl.col("ts") - 8 * SECOND
                feeds = {name: quotes.with_columns(ts=shift) for name, quotes in feeds.items()}
                more["session"] |= {"outside": "widen", "widening": 2.5}
            s = random_settings(seed, preset, **more)
            recording = write_recording(folder / "recording", feeds)
            replay(recording, s, folder / "run")
            found[preset, seed] = RunFolder(folder / "run")
    return found


def decisions(run: RunFolder) -> list[dict[str, Any]]:
    return pl.read_parquet(run.folder / "decisions.parquet").to_dicts()


def as_row(decision: Decision) -> dict[str, Any]:
    return {**dict(zip(DECISIONS_SCHEMA, astuple(decision), strict=True)), "unmoved": 0}


def quotes_of(run: RunFolder) -> list[tuple[Moment, int]]:
    """Every quote of every feed, and its row in the file."""
    return [
        (Moment(seq, ts, name), i)
        for name in (*run.signals, "target")
        for i, (seq, ts) in enumerate(
            pl.read_parquet(run.folder / f"{name}.parquet").select("seq", "ts").rows()
        )
    ]


def evaluator_at(run: RunFolder, at: Moment) -> Evaluator:
    wanted = run.rows("trace/wanted", pl.col("seq") == at.seq, pl.col("ts") == at.ts)
    s, _ = situation_of(run, at, made=wanted[0] if wanted else None)
    return Evaluator(run.parameters, s)


# ---------------------------------------------------------------- what was recorded


@pytest.mark.parametrize("preset", PRESETS)
def test_every_decision_comes_out_again_bit_for_bit(
    preset: str, runs: dict[tuple[str, int], RunFolder]
) -> None:
    for (one, seed), run in runs.items():
        if one != preset:
            continue
        rows = decisions(run)
        # What the open of the session brings by a timer is among them.
        at_open = [row for row in rows if row["ts"] == START][:1]
        for row in at_open + random.Random(seed).sample(rows, min(6, len(rows))):
            at, made = made_at(run, row)
            released = row["ts"] if row["reason"] == "throttle released" else None
            s, _ = situation_of(run, at, made=made, released_ns=released)
            found = [as_row(r) for r in Evaluator(run.parameters, s).evaluate().rows]
            assert {**row, "unmoved": 0} in found


@pytest.mark.parametrize("preset", PRESETS)
def test_every_silence_comes_out_again(preset: str, runs: dict[tuple[str, int], RunFolder]) -> None:
    for (one, seed), run in runs.items():
        if one != preset:
            continue
        rows = decisions(run)
        for at, _ in random.Random(seed).sample(quotes_of(run), 7):
            wanted = [r for r in rows if (r["seq"], r["ts"]) == (at.seq, at.ts)]
            found = [as_row(row) for row in evaluator_at(run, at).evaluate().rows]
            assert found == [{**row, "unmoved": 0} for row in wanted[: len(found)]]
            assert bool(found) == bool(wanted)


def test_the_printed_formulas_give_the_recorded_prices(
    runs: dict[tuple[str, int], RunFolder],
) -> None:
    for (_, seed), run in runs.items():
        if seed == 4:
            continue
        rows = [row for row in decisions(run) if row["action"] in ("quote", "hold")]
        for row in random.Random(seed).sample(rows, min(1, len(rows))):
            e = explain(run.folder, f"seq {row['seq']}")
            assert e.checked
            assert e.decision is not None
            check_row(e.decision, e.formulas)
            if len(run.signals) > 1 and e.decision["signal_seq"]:
                assert "residual" in {one.name for one in e.formulas}


# ---------------------------------------------------------------- flips


def replayed(run: RunFolder, at: Moment, i: int, bid: int, ask: int) -> list[dict[str, Any]]:
    """What the graph decides at a moment when its quote is another, all answers as they were."""
    other, out = run.folder.parent / "other", run.folder.parent / "other-run"
    shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run.folder, other)
    assert at.trigger is not None
    path = other / f"{at.trigger}.parquet"
    here = pl.int_range(pl.len()) == i
    quotes = pl.read_parquet(path)
    changed = quotes.with_columns(
        bid_px=pl.when(here).then(pl.col("bid_px") + bid).otherwise(pl.col("bid_px")),
        ask_px=pl.when(here).then(pl.col("ask_px") + ask).otherwise(pl.col("ask_px")),
    ).cast(quotes.schema)
    path.unlink()
    manifest = read_manifest(other)
    writer = FrameWriter(other, at.trigger, changed.schema)
    writer.append(changed)
    manifest.files[at.trigger] = writer.close()
    write_manifest(other, manifest)
    replay(other, run.settings, out, venue="recorded", trace=False)
    found = pl.read_parquet(out / "decisions.parquet").filter(seq=at.seq, ts=at.ts)
    return [{**row, "unmoved": 0} for row in found.to_dicts()]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_flip_that_is_named_flips_and_one_step_less_does_not(
    preset: str, runs: dict[tuple[str, int], RunFolder]
) -> None:
    looked = 0
    for (one, seed), run in runs.items():
        if one != preset:
            continue
        source = random.Random(seed + 1)
        decided = {(row["seq"], row["ts"]) for row in decisions(run)}
        every = quotes_of(run)
        with_decision = [e for e in every if (e[0].seq, e[0].ts) in decided]
        for at, i in [source.choice(with_decision), source.choice(every)]:
            evaluator = evaluator_at(run, at)
            base = evaluator.evaluate()
            instruments = run.settings.signal_instruments, run.settings.target_instrument
            changes = {name: change for name, _, change, _ in inputs_of(evaluator, *instruments)}
            own = [
                flip
                for flip in flips(evaluator, *instruments)
                if flip.steps is not None and flip.input.rpartition(" ")[0] == at.trigger
            ]
            for flip in source.sample(own, min(2, len(own))):
                assert flip.steps is not None
                looked += 1
                for steps in (flip.steps, flip.steps - 1):
                    change = changes[flip.input](flip.way * steps)
                    outcome = evaluator.evaluate(change if steps else None)
                    found = replayed(run, at, i, change.bid, change.ask)
                    expected = [as_row(row) for row in outcome.rows]
                    assert found[: len(expected)] == expected
                    assert bool(found) == bool(expected)
                    flipped = outcome.kind != base.kind
                    flipped |= not flip.kind and outcome.levels != base.levels
                    assert flipped == (steps == flip.steps)
    assert looked >= 4


def test_no_smaller_change_flips(runs: dict[tuple[str, int], RunFolder]) -> None:
    """By asking for smaller ones at random, and for every one of the nearest."""
    for (preset, seed), run in runs.items():
        source = random.Random(seed + 2)
        for at, _ in source.sample(quotes_of(run), 1):
            evaluator = evaluator_at(run, at)
            base = evaluator.evaluate()
            instruments = run.settings.signal_instruments, run.settings.target_instrument
            changes = {name: change for name, _, change, _ in inputs_of(evaluator, *instruments)}
            for flip in flips(evaluator, *instruments):
                if flip.steps is None:
                    continue
                steps = {*range(max(1, flip.steps - 12), flip.steps)}
                steps |= {source.randrange(1, flip.steps + 1) for _ in range(12)} - {flip.steps}
                for k in sorted(steps):
                    outcome = evaluator.evaluate(changes[flip.input](flip.way * k))
                    same = outcome.kind == base.kind
                    if not flip.kind:
                        same &= outcome.levels == base.levels
                    assert same, (preset, seed, at, flip, k)


def test_a_flip_beyond_the_band_on_the_other_side_is_not_jumped_over(tmp_path: Path) -> None:
    """Down first back into the band (no requote), then beyond it on the other side."""
    quote = 200 * SECOND, 200 * SECOND + 20_000_000
    rows = [(START + 1, *quote, SECOND, SECOND)]
    jump = 110_000_000  # 5.5 bps: a requote
    after = (START + 5 * SECOND, quote[0] + jump, quote[1] + jump, SECOND, SECOND)
    feeds = {"signal": frame(rows), "target": frame([(START + 2, *quote, SECOND, SECOND), after])}
    recording = write_recording(tmp_path / "rec", feeds)
    replay(recording, settings(session={"calendar": "24/7"}), tmp_path / "run")
    e = explain(tmp_path / "run", where="action = 'quote' and seq > 2")
    assert e.kind == "quote both sides"
    (flip,) = [f for f in e.flips if f.input == "target both" and f.way < 0 and f.kind]
    assert flip.becomes == "nothing new: below the threshold"
    # |Δ| < 5 bps of 200.01 = 0.100005: at 0.110 − 0.010 = 0.100 it is not reached any more.
    assert (flip.steps, flip.change) == (10, -10_000_000)
    (price,) = [f for f in e.flips if f.input == "target both" and f.way < 0 and not f.kind]
    assert price.steps == 1


# ---------------------------------------------------------------- questions


@pytest.fixture(scope="module")
def run(runs: dict[tuple[str, int], RunFolder]) -> RunFolder:
    return runs["composite", 4]


def test_each_way_to_ask_finds_the_same_decision(run: RunFolder) -> None:
    rows = decisions(run)
    row = next(r for r in reversed(rows) if r["action"] == "quote" and not r["reason"])
    seq, ts = row["seq"], row["ts"]
    later = [r for r in rows if r["ts"] == ts][-1]
    assert explain(run.folder, f"seq {seq}").decision == row
    assert explain(run.folder, str(seq)).decision == row
    assert explain(run.folder, iso(ts)).decision == later
    assert explain(run.folder, ts).decision == later
    assert explain(run.folder, where=f"seq = {seq} and action = 'quote'").decision == row
    assert explain(run.folder, last=True).decision == rows[-1]


def test_an_order_is_asked_for_by_its_number(runs: dict[tuple[str, int], RunFolder]) -> None:
    for run in runs.values():
        orders = pl.read_parquet(run.folder / "orders.parquet").drop_nulls("px").to_dicts()
        for order in random.Random(1).sample(orders, min(1, len(orders))):
            e = explain(run.folder, f"order {order['n']}")
            sent = {one.n: one for one in e.sent if one.asked == "create"}
            assert e.ts == order["ts"] or e.notes
            if e.ts == order["ts"]:
                assert sent[order["n"]].status == order["status"]


def test_where_tells_how_many_there_are(run: RunFolder) -> None:
    count = sum(row["action"] == "quote" for row in decisions(run))
    e = explain(run.folder, where="action = 'quote'", nth=2)
    assert f"match 2 of {count:,}" in e.notes[0]


@pytest.mark.parametrize(
    ("question", "options", "told"),
    [
        (None, {}, "ask one thing"),
        ("seq 1", {"last": True}, "ask one thing"),
        ("seq 99999999", {}, "is no input of the run, which has 1 to"),
        ("order 99999", {}, "is not in the run, which sent"),
        ("2020-01-01T00:00:00Z", {}, "is outside the run, which went from"),
        (None, {"where": "acton = 'quote'"}, r"no column 'acton' \(did you mean action"),
        (None, {"where": "action = "}, "is no condition on decisions"),
        (None, {"where": "seq < 0"}, "no decision of"),
        (None, {"where": "action = 'quote'", "nth": 9_999}, "--nth was 9999"),
        (None, {"where": "action = 'quote'", "nth": 0}, "counts from 1"),
        ("order x", {}, "neither a time nor a sequence number"),
    ],
)
def test_questions_without_an_answer(
    question: str | None, options: dict[str, Any], told: str, run: RunFolder
) -> None:
    with pytest.raises(ValueError, match=told):
        explain(run.folder, question, **options)


def test_a_recording_is_not_a_run(run: RunFolder) -> None:
    with pytest.raises(RecordingError, match="is a recording and not a run"):
        explain(run.folder.parent / "recording", last=True)


# ---------------------------------------------------------------- silence


def silent(folder: Path, at: float, **sections: Any) -> Explanation:
    """Why there was nothing at a second of a quiet session."""
    session(folder, **sections)
    return explain(folder / "run", iso(START + round(at * SECOND)), absent=True)


def test_silence_below_the_threshold_says_how_far_below(tmp_path: Path) -> None:
    e = silent(tmp_path, 60.0)
    assert e.kind == "nothing new: below the threshold"
    assert any("anchor moved 0." in one and "of 5 bps" in one for one in e.silence)
    (up,) = [f for f in e.flips if f.input == "target both" and f.way > 0 and f.kind]
    assert up.becomes == "quote both sides"


def test_silence_of_the_throttle_says_until_when(tmp_path: Path) -> None:
    def jump(at: float, row: Any) -> Any:
        return row if at < 60.4 else (row[0], *(px + 200_000_000 for px in row[1:3]), *row[3:])

    e = silent(
        tmp_path, 61.0, target=jump, signal=jump,
        strategy={"min_interval_ms": 20_000.0, "signal_skew_factor": 0.0,
                  "requote_threshold_bps": 0.0},
    )  # fmt: skip
    assert e.kind == "held back by the throttle"
    assert e.throttle is not None
    assert e.throttle.due_ns is not None
    assert e.throttle.due_ns > e.ts
    assert any(f"until {iso(e.throttle.due_ns)}" in one for one in e.silence)


@pytest.mark.parametrize(
    ("reason", "sections"),
    [
        ("target no bid", {"target": lambda at, row: row if at < 50 else (row[0], None, *row[2:])}),
        ("signal dead", {"signal": lambda at, row: row if at < 20 else None}),
        ("target crossed", {
            "target": lambda at, row: row if at < 50 else (row[0], row[2], row[1], *row[3:])
        }),
        ("basis beyond the limit", {
            "target": lambda at, row: (row[0], row[1] - SECOND, row[2] - SECOND, *row[3:]),
            "guards": {"max_basis_bps": 20.0},
        }),
    ],
)  # fmt: skip
def test_silence_of_a_guard_says_which_since_when_and_by_what(
    reason: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    e = silent(tmp_path, 70.0, **sections)
    assert e.checked
    assert e.in_force is not None
    assert e.in_force["reason"] == reason
    since = f"refused since {iso(e.in_force['ts'])}"
    assert any(since in one and reason in one for one in e.silence)
    assert any(verdict.passed is False for verdict in e.guards)


def test_silence_outside_the_session(tmp_path: Path) -> None:
    e = silent(tmp_path, 20.0, session={"calendar": "XNYS", "skip_open_secs": 600.0})
    assert any("session closed" in one for one in e.silence)
    assert [v.passed for v in e.guards if v.guard == "session"] == [False]


def test_silence_of_the_kill_switch(tmp_path: Path) -> None:
    kill = {"ts": START + 30 * SECOND, "source": "operator", "kind": "kill", "text": "by hand"}
    e = silent(tmp_path, 60.0, events={"status": [kill]})
    assert any("kill switch by hand" in one for one in e.silence)
    assert e.checked
    assert not [f for f in e.flips if f.kind and f.steps is not None and f.input != "position"]


def test_silence_before_anything_was_heard(tmp_path: Path) -> None:
    e = silent(tmp_path, 5.0, target=lambda at, row: row if at > 20 else None)
    assert e.in_force is not None
    assert e.in_force["reason"] == "target missing"
    assert any("the target had not been heard" in one for one in e.silence)


def test_silence_of_a_side_without_room(runs: dict[tuple[str, int], RunFolder]) -> None:
    looked = 0
    for run in runs.values():
        quotes = [r for r in decisions(run) if r["action"] == "quote" and not r["reason"]]
        one_sided = [r for r in quotes if r["bid_px"] is None]
        for row in one_sided[-1:]:
            e = explain(run.folder, f"seq {row['seq']}", absent=True)
            assert any(f"no bid since {iso(row['ts'])}" in one for one in e.silence)
            assert any(row["bid_note"] in one for one in e.silence)
            looked += 1
    assert looked


def test_silence_of_a_signal_in_the_tutorial(tmp_path: Path) -> None:
    session(tmp_path, strategy={"preset": "tutorial"})
    seq = pl.read_parquet(tmp_path / "run" / "signal.parquet")["seq"][50]
    e = explain(tmp_path / "run", f"seq {seq}", absent=True)
    assert any("only a target quote triggers" in one for one in e.silence)


# ---------------------------------------------------------------- what is told


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    session(tmp_path, strategy={"anchor_without_own": True, "requote_threshold_bps": 0.0})
    e = explain(tmp_path / "run", last=True)
    untold = [f for f in e.flips if f.input.startswith("target")]
    assert untold
    assert all("cannot be told" in f.note for f in untold)


def test_a_run_that_is_not_what_its_graph_makes_says_so(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run.folder, other)
    for name in ("decisions", "trace/wanted"):
        rows = pl.read_parquet(other / f"{name}.parquet")
        rows.with_columns(half_spread=pl.col("half_spread") * (1 + 2**-52)).write_parquet(
            other / f"{name}.parquet"
        )
    row = next(r for r in decisions(RunFolder(other)) if r["action"] == "quote")
    e = explain(other, f"seq {row['seq']}")
    assert e.checked is False
    assert not e.flips
    assert any("NOT WHAT WAS RECORDED" in line for line in e.lines())


def test_a_run_without_a_trace_tells_what_it_can(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "trace")
    row = next(r for r in decisions(run) if r["action"] == "quote")
    e = explain(tmp_path / "run", f"seq {row['seq']}")
    assert e.checked is None
    assert e.decision is not None
    check_row(e.decision, e.formulas)
    assert any("has no trace/" in note for note in e.notes)
    assert not (tmp_path / "run" / "trace").exists()


def test_one_screen_and_json(runs: dict[tuple[str, int], RunFolder]) -> None:
    for run in runs.values():
        e = explain(run.folder, last=True)
        lines = e.lines()
        assert len(lines) <= 62 + 10 * (len(run.signals) - 1)
        long = [line for line in lines if len(line) > 100]
        # Formulas are not broken, so that they can be copied.
        assert all(" = " in line for line in long)
        assert "\x1b" not in "".join(lines)
        assert json.loads(json.dumps(e.json()))["kind"] == e.kind


def test_the_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from marblemaker.why_cli import add_why_commands

    def command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = commands.add_parser(name, help=text)
        one.set_defaults(command=function)
        return one

    parser = argparse.ArgumentParser()
    add_why_commands(parser.add_subparsers(), command)

    def why(*words: str, as_json: bool = False) -> tuple[int, str, str]:
        arguments = parser.parse_args(["why", str(run.folder), *words])
        code = arguments.command(arguments, Console(as_json=as_json))
        told = capsys.readouterr()
        return code, told.out, told.err

    row = next(r for r in decisions(run) if r["action"] == "quote")
    code, out, _ = why("seq", str(row["seq"]))
    assert (code, f"seq {row['seq']}" in out) == (0, True)
    assert why("order", "1")[0] == why("#1")[0] == why("--last")[0] == 0
    assert why("--not", iso(row["ts"]))[0] == 0
    code, out, _ = why("--where", "action = 'quote'", as_json=True)
    assert json.loads(out)["decision"]["action"] == "quote"
    code, _, err = why("order", "123456")
    assert (code, "is not in the run" in err) == (2, True)


def test_silence_after_a_timer_is_explained_by_the_timer(tmp_path: Path) -> None:
    def ends(at: float, row: Any) -> Any:
        return row if at < 30 else None

    last = {"ts": START + 100 * SECOND, "source": "operator", "kind": "release", "text": ""}
    e = silent(tmp_path, 80.0, signal=ends, target=ends, events={"status": [last]})
    assert e.kind == "withdraw: signal dead"
    assert e.checked
    assert e.in_force is not None
    assert any(f"refused since {iso(e.in_force['ts'])}" in one for one in e.silence)


def test_averages_and_books_of_signals_have_formulas_too(
    runs: dict[tuple[str, int], RunFolder], tmp_path: Path
) -> None:
    recording = write_recording(tmp_path / "rec", random_feeds(3, 200))
    s = settings(strategy={"signal_baseline": "ewma", "baseline_half_life_secs": 2.0,
                           "requote_threshold_bps": 0.0})  # fmt: skip
    replay(recording, s, tmp_path / "run")
    row = [r for r in decisions(RunFolder(tmp_path / "run")) if r["action"] == "quote"][-3]
    e = explain(tmp_path / "run", f"seq {row['seq']}")
    check_row(row, e.formulas)
    by_name = {one.name: one.value for one in e.formulas}
    assert by_name["signal mid"] == row["signal_mid"]
    assert by_name["signal baseline"] == row["baseline"]


def test_a_new_half_spread_is_the_reason_at_the_open(tmp_path: Path) -> None:
    session(
        tmp_path, start=-20.0, end=20.0,
        session={"outside": "widen", "calendar": "XNYS", "widening": 2.0},
    )  # fmt: skip
    e = explain(tmp_path / "run", START)
    assert (e.kind, e.ts, e.checked) == ("quote both sides", START, True)
    assert e.requote is not None
    assert e.requote.text == "let through: the half-spread is now × 1.0"
    assert e.trigger.startswith("a timer")


def test_an_order_that_somebody_else_cancelled_makes_the_last_quote_void(tmp_path: Path) -> None:
    strategy = {"on_cancel_resubmit": True}
    session(tmp_path, end=20.0, strategy=strategy)
    source = tmp_path / "run"
    manifest = read_manifest(source)
    for name in ("signal", "target", "account"):
        rows = pl.read_parquet(source / f"{name}.parquet").with_columns(seq=pl.col("seq") * 2)
        if name == "account":
            at = START + 10 * SECOND + 5 * 10**7
            heard = [
                pl.read_parquet(source / f"{feed}.parquet").filter(pl.col("ts") < at)["seq"][-1]
                for feed in ("signal", "target")
            ]
            gone = {"seq": max(heard) + 1, "ts": at, "kind": "cancel", "n": 1}
            extra = pl.DataFrame([gone], schema={c: rows.schema[c] for c in gone})
            rows = pl.concat([rows, extra], how="diagonal").sort("seq")
        (source / f"{name}.parquet").unlink()
        writer = FrameWriter(source, name, rows.schema)
        writer.append(rows)
        manifest.files[name] = writer.close()
    write_manifest(source, manifest)
    replay(source, settings(strategy=strategy), tmp_path / "again", venue="recorded")
    e = explain(tmp_path / "again", where=f"action = 'quote' and ts > {START + 10 * SECOND}")
    assert e.checked
    assert e.requote is not None
    assert e.requote.text == "let through: the last quote was void, order 1 was cancelled"
    assert [one.n for one in e.working] == [2]
