"""The command line: what users type, what goes wrong, and what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.bundled import BUNDLED
from marblemaker.cli import main
from tests.sessions import random_feeds, write_recording

ROOT = Path(__file__).parents[2]
FEEDS = random_feeds(1, 300, faults=False)

Break = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "recording", random_feeds(1, 300))


def _left(folder: Path, *expected: str) -> None:
    """Nothing is in a folder but what was there before, hidden files included."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)


def _as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _import(folder: Path, **broken: Break) -> list[str]:
    arguments = ["import", "frames", "--out", str(folder / "out")]
    for name, quotes in FEEDS.items():
        broken.get(name, _as_it_is)(quotes).write_parquet(folder / f"{name}.parquet")
        arguments += [f"--{name}", str(folder / f"{name}.parquet")]
    return arguments


def _set(column: str, row: int, value: Any) -> Break:
    return lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(value).otherwise(pl.col(column)).alias(column)
    )


BROKEN_FRAMES: dict[str, tuple[Break, list[str]]] = {
    "missing column": (lambda f: f.drop("ask_px"), ["ask_px", "missing"]),
    "unknown column": (
        lambda f: f.rename({"bid_px": "bid_pz"}),
        ["unknown column", "bid_pz", "did you mean bid_px"],
    ),
    "float prices": (
        lambda f: f.with_columns(pl.col("bid_px").cast(pl.Float64) / 1e9),
        ["bid_px", "Float64", "Int64", "1e-9"],
    ),
    "float times": (lambda f: f.with_columns(pl.col("ts").cast(pl.Float64)), ["ts", "nanoseconds"]),
    "NaN sizes": (
        lambda f: f.with_columns(bid_sz=pl.lit(float("nan"))),
        ["bid_sz", "Float64"],
    ),
    "text prices": (
        lambda f: f.with_columns(pl.col("ask_px").cast(pl.String)),
        ["ask_px", "String"],
    ),
    "null time": (_set("ts", 7, None), ["row 7", "ts", "null"]),
    "unsorted rows": (_set("ts", 200, 1_781_703_000_000_000_001), ["row 200", "must not go back"]),
    "negative size": (_set("bid_sz", 5, -1), ["row 5", "bid_sz = -1", "negative"]),
    "negative price": (_set("ask_px", 6, -3_000_000), ["row 6", "ask_px", "negative"]),
    "no rows": (lambda f: f.clear(), ["at least one"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_FRAMES)
@pytest.mark.parametrize("feed", ["signal", "target"])
def test_a_broken_frame_is_refused_by_name_and_leaves_nothing(
    feed: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, words = BROKEN_FRAMES[name]

    code = main(_import(tmp_path, **{feed: breaks}))

    error = capsys.readouterr().err
    assert code == 1
    assert all(word in error for word in words), error
    assert f"{feed}.parquet" in error
    _left(tmp_path, "signal.parquet", "target.parquet")


def test_a_target_price_off_the_tick_is_refused_with_its_row_and_the_tick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(_import(tmp_path, target=_set("bid_px", 9, 207_000_500_000)))
    error = capsys.readouterr().err
    assert code == 1
    assert "row 9" in error
    assert "bid_px = 207000500000" in error
    assert "tick of 0.001" in error


def test_a_sequence_number_that_occurs_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def number(start: int) -> Break:
        return lambda frame: frame.with_columns(
            seq=pl.int_range(start, start + 2 * pl.len(), 2, dtype=pl.UInt64)
        )

    within = _import(
        tmp_path, signal=lambda f: number(1)(f).with_columns(seq=pl.lit(4, pl.UInt64())),
        target=number(2),
    )  # fmt: skip
    assert main(within) == 1
    assert "repeats" in capsys.readouterr().err
    assert main(_import(tmp_path, signal=number(1), target=number(3))) == 1
    assert "seq" in capsys.readouterr().err
    assert main(_import(tmp_path, signal=number(1))) == 1
    assert "seq" in capsys.readouterr().err
    _left(tmp_path, "signal.parquet", "target.parquet")


def test_a_missing_or_truncated_file_is_refused_by_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _import(tmp_path)
    whole = (tmp_path / "target.parquet").read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "target.parquet").write_bytes(whole[:length])
        assert main(arguments) == 1
        assert "target.parquet" in capsys.readouterr().err
    (tmp_path / "target.parquet").unlink()
    assert main(arguments) == 1
    assert "does not exist" in capsys.readouterr().err
    _left(tmp_path, "signal.parquet")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), ["no manifest.json", "marble import"]),
        (lambda f: (f / "manifest.json").write_text("{"), ["manifest"]),
        (lambda f: (f / "manifest.json").write_text('{"schema_version": 99}'), ["99", "upgrade"]),
        (lambda f: (f / "signal.parquet").unlink(), ["signal.parquet", "missing"]),
        (lambda f: (f / "target.parquet").write_bytes(b"PAR1"), ["target.parquet", "sha256"]),
    ],
)
def test_a_damaged_recording_is_refused_and_no_run_is_left(
    change: Callable[[Path], Any], words: list[str], recording: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change(recording)

    code = main(["replay", str(recording), "--out", str(tmp_path / "run")])

    error = capsys.readouterr().err
    assert code == 1
    assert all(word in error for word in words), error
    _left(tmp_path, "recording")


def test_rows_that_go_back_inside_a_recording_end_the_replay_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feeds = random_feeds(1, 300, faults=False)
    feeds["target"] = _set("ts", 200, 1_781_703_000_000_000_001)(feeds["target"])
    write_recording(tmp_path / "recording", feeds)

    assert main(["replay", str(tmp_path / "recording"), "--out", str(tmp_path / "run")]) == 1
    assert "row 200" in capsys.readouterr().err
    _left(tmp_path, "recording")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("strategy.half_spread_bp=3", ["half_spread_bp", "did you mean half_spread_bps"]),
        ("strategi.preset=tutorial", ["strategi", "did you mean strategy"]),
        ("half_spread_bps=3", ["section.key=value"]),
        ("target.signal_skew_factor=3", ["did you mean strategy.signal_skew_factor"]),
        ("strategy.max_position=0.01", ["max_position", "0.01", "trade_size", "0.05"]),
        ("strategy.half_spread_bps=-1", ["half_spread_bps", "at least 0", "-1"]),
        ("strategy.half_spread_bps=nan", ["half_spread_bps", "finite"]),
        ("strategy.requote_threshold_bps=-0.5", ["requote_threshold_bps"]),
        ("strategy.trade_size=0.0505", ["trade_size", "0.001"]),
        ("strategy.trade_size=0.010", ["trade_size", "minimum", "0.05"]),
        ("strategy.trade_size=abc", ["trade_size", "decimal number"]),
        ("strategy.signal_baseline=-5", ["signal_baseline"]),
        ("strategy.signal_baseline=frist", ["did you mean first"]),
        ("strategy.expire_time_secs=0", ["expire_time_secs"]),
        ("strategy.preset=tutorail", ["preset", "tutorail"]),
        ("strategy.on_cancel_resubmit=1", ["on_cancel_resubmit"]),
        ("venue.latency=3parsecs", ["venue.latency", "200ms"]),
        ("venue.fill_model=magic", ["fill_model"]),
        ("venue.kind=lighter", ["venue.kind", "live"]),
        ("target.price_decimals=12", ["price_decimals", "12", "9"]),
        ("target.instrument=NVDA", ["target.instrument", "SYMBOL.VENUE"]),
        ("target.instrument=TSLA.LIGHTER", ["price_decimals", "TSLA"]),
    ],
)  # fmt: skip
def test_an_unknown_or_impossible_setting_is_wrong_use_and_named(
    setting: str, words: list[str], recording: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = ["replay", str(recording), "--out", str(tmp_path / "run"), "--set", setting]

    code = main(run)

    error = capsys.readouterr().err
    assert code == 2
    assert all(word in error for word in words), error
    _left(tmp_path, "recording")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[strategy]\nhalf_spread_bpz = 3", ["half_spread_bpz", "did you mean half_spread_bps"]),
        ("[strategy]\ntrade_size = 0.05", ["trade_size", "decimal string", '"0.05"']),
        ("[strategy\n", ["not TOML"]),
        ("strategy = 3", ["section"]),
        ("[venue]\nkind = 7", ["venue.kind"]),
    ],
)
def test_a_settings_file_that_is_wrong_is_named_with_the_way_out(
    text: str, words: list[str], recording: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "settings.toml"
    config.write_text(text)

    assert main(["replay", str(recording), "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert main(["replay", str(recording), "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_refused_before_anything_is(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "run", recording):
        assert main(["replay", str(recording), "--out", str(out)]) == 1
        assert str(out) in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"
    _left(tmp_path, "file", "recording")
    assert main(["replay", str(recording), "--out", str(tmp_path / "run")]) == 0
    before = (tmp_path / "run" / "summary.json").read_bytes()
    (recording / "target.parquet").write_bytes(b"")
    assert main(["replay", str(recording), "--out", str(tmp_path / "run"), "--overwrite"]) == 1
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_settings_come_from_the_flag_then_the_file_then_the_recording_then_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "import.toml"
    config.write_text(
        '[target]\ninstrument = "X.LIGHTER"\nprice_decimals = 3\nsize_decimals = 2\n'
        '[strategy]\nhalf_spread_bps = 7\nmax_position = "0.3"\nsignal_skew_factor = 1\n'
    )
    assert main([*_import(tmp_path), "--config", str(config)]) == 0
    over = tmp_path / "replay.toml"
    over.write_text("[strategy]\nhalf_spread_bps = 8\nsignal_skew_factor = 2\n")
    run = tmp_path / "run"
    assert main(["replay", str(tmp_path / "out"), "--config", str(over), "--out", str(run),
                 "--set", "strategy.signal_skew_factor=3"]) == 0  # fmt: skip
    capsys.readouterr()

    used = json.loads((run / "manifest.json").read_text())
    assert used["settings"]["strategy"]["signal_skew_factor"] == 3.0
    assert used["settings"]["strategy"]["half_spread_bps"] == 8.0
    assert used["settings"]["strategy"]["max_position"] == "0.3"
    assert used["settings"]["strategy"]["inventory_skew_factor"] == 2.0
    assert used["instruments"]["target"]["size_decimals"] == 2


def test_json_is_one_document_for_results_and_errors(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(recording), "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["digest"] == stored["digest"]
    assert summary["inputs"]["signal"] == 300
    assert main(["replay", str(tmp_path / "nothing"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["exit_code"] == 1
    assert main(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"versions", "credentials", "settings"}


def test_a_run_folder_opens_with_plain_polars_and_its_manifest_tells_the_truth(
    recording: Path, tmp_path: Path
) -> None:
    import hashlib

    run = tmp_path / "run"
    assert main(["replay", str(recording), "--out", str(run), "--json"]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    names = {"signal", "target", "account", "decisions", "orders", "fills"}
    assert set(manifest["files"]) == names
    for name in names:
        path = run / f"{name}.parquet"
        assert pl.read_parquet(path).height == manifest["files"][name]["rows"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == manifest["files"][name]["sha256"]
    inputs = pl.concat(
        pl.read_parquet(run / f"{name}.parquet", columns=["seq", "ts"])
        for name in ("signal", "target", "account")
    ).sort("seq")
    assert inputs["seq"].to_list() == list(range(1, inputs.height + 1))
    assert inputs["ts"].is_sorted()
    _left(run, "manifest.json", "summary.json", "trace", *(f"{name}.parquet" for name in names))


def test_doctor_says_whether_credentials_are_there_and_never_what_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABENTO_API_KEY", "db-canary-1234567890")
    for arguments in (["doctor"], ["doctor", "--json"]):
        assert main(arguments) == 0
        out = "".join(capsys.readouterr())
        assert "canary" not in out
        assert "DATABENTO_API_KEY" in out


def test_planted_secrets_reach_no_artefact(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTER_API_SECRET", "canary-5f1e")
    assert main(["replay", str(recording), "--out", str(tmp_path / "run")]) == 0
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"canary-5f1e" not in path.read_bytes()


def test_help_lists_every_command_and_wrong_use_exits_with_2() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "marblemaker.cli", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for command in ("demo", "replay", "import", "kill", "bench", "doctor"):
        assert command in out
    wrong = subprocess.run(
        [sys.executable, "-m", "marblemaker.cli", "replai"], cwd=ROOT, capture_output=True,
        check=False,
    )  # fmt: skip
    assert wrong.returncode == 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_exits_with_130_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, marblemaker.replay as r\n"
        "from marblemaker.cli import main\n"
        f"def stop(*a): os.kill(os.getpid(), signal.{name})\n"
        "r._Run._close = stop\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "replay", str(BUNDLED), "--out", str(tmp_path / "run")],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 130
    assert "interrupted" in ended.stderr
    _left(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"px": None}, ["fill at seq", "px = None"]),
        ({"qty": 0}, ["fill at seq", "positive size"]),
        ({"kind": "fil"}, ["unknown kind 'fil'"]),
        ({"seq": 1}, ["seq"]),
    ],
)
def test_recorded_answers_that_make_no_sense_are_refused(
    change: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from streams.recording import file_entry, read_manifest, write_manifest

    run = tmp_path / "run"
    assert main(["replay", str(BUNDLED), "--out", str(run), "--json"]) == 0
    answers = pl.read_parquet(run / "account.parquet")
    first_fill = pl.col("seq") == answers.filter(pl.col("kind") == "fill")["seq"][0]
    for name, value in change.items():
        answers = answers.with_columns(
            pl.when(first_fill)
            .then(pl.lit(value, dtype=answers.schema[name]))
            .otherwise(pl.col(name))
            .alias(name)
        )
    answers.write_parquet(run / "account.parquet")
    manifest = read_manifest(run)
    manifest.files["account"] = file_entry(run / "account.parquet", answers.height, (None, None))
    write_manifest(run, manifest)
    capsys.readouterr()

    assert main(["replay", str(run), "--out", str(tmp_path / "again")]) == 1
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    _left(tmp_path, "run")


def test_the_readme_shows_what_the_demo_prints_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "run")]) == 0
    readme = (ROOT / "README.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(("  speed", "  run", "  report")):
            assert line in readme
    # The tour goes on with the odd quote, and with the proof; paths and seconds are of the run.
    for command in (
        ["why", str(tmp_path / "run"), "14:31:07.123Z"],
        ["prove", str(tmp_path / "run")],
    ):
        assert main(command) == 0
        for line in capsys.readouterr().out.splitlines():
            if not line.startswith("IDENTICAL"):
                assert line.partition(", mode replay")[0] in readme


def test_a_disk_that_runs_full_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    out = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-m", "marblemaker.cli", "replay", str(BUNDLED), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=little_room,
    )  # fmt: skip
    assert ended.returncode == 1
    assert f"{out} cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr
    _left(tmp_path)


def test_an_earlier_replay_is_replaced_whole_and_only_when_asked(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["replay", str(recording), "--out", str(tmp_path / "run"), "--json"]
    assert main(run) == 0
    (tmp_path / "run" / "note.txt").write_text("mine")
    assert main(run) == 1
    assert (tmp_path / "run" / "note.txt").exists()
    assert main([*run, "--overwrite"]) == 0
    assert not (tmp_path / "run" / "note.txt").exists()
    _left(tmp_path, "recording", "run")
    assert main(["replay", str(tmp_path / "run"), "--out", str(recording), "--overwrite"]) == 1
    assert "never replaced" in capsys.readouterr().err


def test_a_manifest_that_lies_about_its_first_instant_is_an_error_not_a_crash(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((recording / "manifest.json").read_text())
    for entry in manifest["files"].values():
        entry["first_ts"] = entry["last_ts"] + 1
    (recording / "manifest.json").write_text(json.dumps(manifest))

    assert main(["replay", str(recording), "--out", str(tmp_path / "run")]) == 1
    assert "must not go back" in capsys.readouterr().err
    _left(tmp_path, "recording")
