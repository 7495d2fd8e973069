"""Sweeps: what is asked for is checked first, computed once, and survives whatever kills it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.bundled import BUNDLED
from marblemaker.cli import main
from marblemaker.compiled import coverage
from marblemaker.replay import replay
from marblemaker.settings import SettingsError, load_settings
from marblemaker.sweep import Swept, grid, random_search, run, sweep, write_page
from marblemaker.sweep.plan import make_plan, read_plan_file
from marblemaker.sweep.scratch import clean_up, scratch_folder
from marblemaker.sweep.store import Store
from streams.recording import RecordingError, read_manifest
from tests.sessions import random_feeds, write_recording

ROOT = Path(__file__).parents[2]
BASE = ("session.calendar=24/7", "guards.max_basis_bps=off")
AXES = {
    "strategy.signal_skew_factor": "0:40:20",
    "strategy.half_spread_bps": [1, 2.5],
    "strategy.max_position": ["0.05", "0.2"],
}
GRID = [f"--grid={name}={v if isinstance(v, str) else ','.join(map(str, v))}" for name, v in
        AXES.items()]  # fmt: skip
SETS = [f"--set={text}" for text in BASE]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    return [
        write_recording(folder / f"day-{seed}", random_feeds(seed, 700, faults=False))
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def swept(recordings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """One sweep that nobody disturbed: what others are compared with."""
    return sweep(recordings, grid(AXES), tmp_path_factory.mktemp("whole"), overrides=BASE, jobs=2)


def _same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.drop("seconds").equals(other.drop("seconds"))


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("20:80:20", [20, 40, 60, 80]),
        ("20:79:20", [20, 40, 60]),
        ("0.1:0.7:0.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("5:1:-2", [5, 3, 1]),
        ("-1:1:1", [-1, 0, 1]),
        ("7:7:1", [7]),
        ("10, 2.5", [10, 2.5]),
    ],
)
def test_a_range_is_exact_in_decimals_and_has_its_stop_if_it_is_hit(
    text: str, values: list[float]
) -> None:
    assert [
        one["strategy.half_spread_bps"] for one in grid({"strategy.half_spread_bps": text})
    ] == (values)


def test_amounts_stay_texts_so_that_no_digit_is_lost() -> None:
    found = grid({"strategy.trade_size": "0.05:0.15:0.05"})
    assert [one["strategy.trade_size"] for one in found] == ["0.05", "0.1", "0.15"]


def test_several_axes_are_their_product_and_the_last_turns_fastest() -> None:
    found = grid({"strategy.num_levels": [1, 2], "strategy.preset": "ladder,composite"})

    assert len(found) == 4
    assert [tuple(one.values()) for one in found] == [
        (1, "ladder"), (1, "composite"), (2, "ladder"), (2, "composite"),
    ]  # fmt: skip


def test_a_random_search_is_the_same_every_time_and_a_longer_one_begins_with_it() -> None:
    axes = {
        "strategy.half_spread_bps": "log:0.1:1000",
        "strategy.signal_skew_factor": "-20:80",
        "strategy.num_levels": "1:3",
        "strategy.preset": "ladder,composite",
        "strategy.trade_size": "0.05:0.1:0.05",
    }
    found = list(random_search(axes, 400, seed=7))

    assert found == list(random_search(axes, 400, seed=7))
    assert found[:50] == list(random_search(axes, 50, seed=7))
    assert found != list(random_search(axes, 400, seed=8))
    spreads = [one["strategy.half_spread_bps"] for one in found]
    # A decade is a quarter of the draws, whichever: 100 of 400.
    for low in (0.1, 1, 10, 100):
        assert 60 < sum(low <= spread < 10 * low for spread in spreads) < 140
    for number in (1, 2, 3):
        assert 90 < sum(one["strategy.num_levels"] == number for one in found) < 180
    assert {one["strategy.trade_size"] for one in found} == {"0.05", "0.1"}
    assert found[0] == next(iter(random_search(axes, 1, seed=7)))


BAD = [
    ({"strategy.signal_skew_facor": "1,2"}, "did you mean signal_skew_factor"),
    ({"strategi.x": "1"}, "did you mean strategy"),
    ({"half_spread_bps": "1"}, "section.key"),
    ({"strategy.half_spread_bps": "20:10:5"}, "empty range"),
    ({"strategy.half_spread_bps": "20:30:0"}, "step of 0"),
    ({"strategy.half_spread_bps": "20:30"}, "start:stop:step"),
    ({"strategy.half_spread_bps": "20:30:x"}, "decimal numbers"),
    ({"strategy.half_spread_bps": "0:1:0.0000001"}, "10,000,001 values"),
    ({"strategy.half_spread_bps": ""}, "no values"),
    ({"strategy.half_spread_bps": []}, "no values"),
    ({"strategy.half_spread_bps": "1,,2"}, "empty value"),
    ({"strategy.half_spread_bps": "1,two"}, "Expected `float`"),
    ({"strategy.num_levels": "1:3:0.5"}, "Expected `int`.*1.5"),
    ({"strategy.half_spread_bps": "10,10.0"}, "10.0 twice"),
    ({"strategy.preset": "composit"}, "composit"),
    ({}, "nothing to sweep"),
]


@pytest.mark.parametrize(("axes", "said"), BAD)
def test_a_bad_grid_is_refused_with_the_key_and_what_is_wrong(
    axes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        grid(axes)


@pytest.mark.parametrize("values", ["80:20", "log:0:5", "1:x", "log:1:2:3"])
def test_a_bad_range_to_draw_from_is_refused(values: str) -> None:
    with pytest.raises(SettingsError, match=r"strategy\.half_spread_bps"):
        random_search({"strategy.half_spread_bps": values}, 5)


# ---------------------------------------------------------------- plans


def test_what_contradicts_itself_everywhere_is_refused_and_somewhere_is_a_row(
    recordings: list[Path],
) -> None:
    impossible = grid({"strategy.half_spread_bps": [-1, -2]})
    with pytest.raises(SettingsError, match=r"not one of 4 combinations can run.*at least 0"):
        make_plan(recordings, impossible, overrides=BASE)

    plan = make_plan(recordings, grid({"strategy.half_spread_bps": [-1, 2]}), overrides=BASE)

    assert plan.refused == 2
    assert len(list(plan.tasks(set()))) == 2


def test_a_missing_recording_or_one_twice_is_refused(recordings: list[Path]) -> None:
    one = grid({"strategy.half_spread_bps": [1]})
    with pytest.raises(RecordingError, match="is not a folder"):
        make_plan([recordings[0], Path("/nowhere")], one)
    with pytest.raises(RecordingError, match="same recording"):
        make_plan([recordings[0], recordings[0]], one)
    with pytest.raises(SettingsError, match="at least one recording"):
        make_plan([], one)


def test_more_than_ten_thousand_need_a_yes_and_the_time_is_told(
    recordings: list[Path], tmp_path: Path
) -> None:
    many = grid({"strategy.signal_skew_factor": "0:999:1", "strategy.half_spread_bps": "1:500:1"})

    # A million: gone through one by one they alone would take minutes.
    with pytest.raises(SettingsError, match=r"1,000,000 .*10,000: at the measured .* --yes"):
        sweep(recordings, many, tmp_path / "out", overrides=BASE)

    assert not (tmp_path / "out").exists()


def test_the_last_of_the_bad_commands_ends_with_2_and_leaves_nothing(
    recordings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "out", str(recordings[0])
    spread = "--grid=strategy.half_spread_bps=1"
    for bad in (
        [folder],
        [spread],
        [folder, spread, "--grid=strategy.half_spread_bps=2"],
        [folder, spread, "--seed=4"],
        [folder, spread, "--random=0"],
        [folder, spread, "--jobs=0"],
        [folder, spread, "--set=venue.kind=lighter"],
        [folder, spread, "--plan=/nowhere.toml"],
    ):
        assert main(["sweep", *bad, "--out", str(out)]) == 2, bad
        assert "marble: " in capsys.readouterr().err
    assert not out.exists()


def test_a_plan_file_says_the_same_as_options(recordings: list[Path], tmp_path: Path) -> None:
    file = recordings[0].parent / "plan.toml"
    file.write_text(
        'recordings = ["day-1"]\n'
        '[grid]\nstrategy.signal_skew_factor = "20:40:10"\n"strategy.half_spread_bps" = [1, 2.5]\n'
    )
    folders, found = read_plan_file(file)
    assert [folder.resolve() for folder in folders] == [recordings[0]]
    assert list(found) == list(
        grid({"strategy.signal_skew_factor": "20:40:10", "strategy.half_spread_bps": [1, 2.5]})
    )

    file.write_text('seed = 3\nrandom = 5\n[grid]\n"strategy.half_spread_bps" = "log:1:100"\n')
    assert list(read_plan_file(file)[1]) == list(
        random_search({"strategy.half_spread_bps": "log:1:100"}, 5, seed=3)
    )

    file.write_text("[[settings]]\nstrategy.preset = 'ladder'\n[[settings]]\nstrategy.num_levels=2")
    assert list(read_plan_file(file)[1]) == [
        {"strategy.preset": "ladder"}, {"strategy.num_levels": 2},
    ]  # fmt: skip

    for bad in ("grid = 1", "[grid]\n[[settings]]", "randon = 3", "random = 0\n[grid]", "x"):
        file.write_text(bad)
        with pytest.raises(SettingsError, match=r"plan\.toml"):
            read_plan_file(file)


# ---------------------------------------------------------------- the table


def test_each_row_is_what_a_replay_of_its_own_says(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    frame = swept.frame
    assert (swept.rows, swept.computed, swept.failed) == (24, 24, 0)
    assert frame["combination"].to_list() == [n for n in range(1, 13) for _ in range(2)]
    assert frame["recording"].to_list() == ["day-1", "day-2"] * 12
    assert dict(frame.select(*AXES).schema) == dict.fromkeys(AXES, pl.Float64())
    assert frame["fills"].sum() > 0
    assert frame["digest"].n_unique() > 8

    row = frame.row(21, named=True)
    settings = load_settings(
        overrides=[
            *BASE,
            f"strategy.signal_skew_factor={row['strategy.signal_skew_factor']}",
            f"strategy.half_spread_bps={row['strategy.half_spread_bps']}",
            f"strategy.max_position={row['strategy.max_position']}",
        ],
        manifest=read_manifest(recordings[1]),
    )
    summary = replay(recordings[1], settings, tmp_path / "run", bounds=True)
    assert row["digest"] == summary["digest"]
    assert row["fills"] == summary["fills"]["total"]
    assert row["pnl"] == float(summary["pnl"])
    assert row["inventory_max_long"] == float(summary["max_long"])
    assert row["decisions_quote"] == summary["decisions"]["quote"]
    for name in ("pessimistic", "queue", "optimistic"):
        assert row[f"pnl_{name}"] == float(summary["bounds"][name]["pnl"])
    for horizon, mark in summary["markouts"].items():
        assert row[f"markout_{horizon}_bps"] == mark["bps"]


def test_a_sweep_keeps_its_table_and_page_and_nothing_else(swept: Swept) -> None:
    names = sorted(path.name for path in swept.table.parent.iterdir())
    assert names == ["sweep.html", "sweep.parquet"]
    assert pl.read_parquet(swept.table).equals(swept.frame)


def test_a_second_time_nothing_is_computed_and_a_larger_grid_computes_the_rest(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "mine.parquet"
    shutil.copy(swept.table, out)

    again = sweep(recordings, grid(AXES), out, overrides=BASE)
    assert (again.computed, again.kept) == (0, 24)
    assert again.frame.equals(swept.frame)

    with pytest.raises(RecordingError, match=r"12 of which this one does not ask for"):
        sweep(recordings[:1], grid(AXES), out, overrides=BASE)

    larger = grid(AXES | {"strategy.half_spread_bps": [1, 2.5, 4]})
    plan = make_plan(recordings, larger, overrides=BASE)
    with Store(out, plan) as store:
        assert len(store.done) == 24
        assert len(list(plan.tasks(store.done))) == 12


def test_failing_combinations_are_rows_and_settings_in_doubt_have_a_column_of_their_kind(
    recordings: list[Path], tmp_path: Path
) -> None:
    combinations: list[dict[str, Any]] = [
        {"strategy.half_spread_bps": 5, "venue.latency": 20},
        {"strategy": {"half_spread_bps": -5}, "guards.collar_bps": "off"},
        {"strategy.half_spread_bps": 5, "strategy.on_cancel_resubmit": True},
        {"strategy.half_spread_bps": 5, "venue.latency": 20},
        {"signal.others": ["X.EQUS"]},  # the recording has one signal only
    ]
    done = sweep(
        recordings[:1], combinations, tmp_path / "t.parquet", overrides=BASE, jobs=1, fallback=True
    )

    frame = done.frame
    assert done.computed == 3, "equal combinations are computed once"
    assert frame["error_kind"].to_list() == [None, "settings", None, None, "replay"]
    assert frame["digest"][0] == frame["digest"][3]
    assert "at least 0" in frame["error"][1]
    assert "signals" in frame["error"][4]
    assert frame["guards.collar_bps"].to_list() == [None] * 5
    assert frame.schema["strategy.on_cancel_resubmit"] == pl.Boolean()
    assert frame.schema["venue.latency"] == pl.Float64() or frame["venue.latency"][0] == 20
    again = sweep(
        recordings[:1], combinations, tmp_path / "t.parquet", overrides=BASE, fallback=True
    )
    assert again.computed == 0


# ---------------------------------------------------------------- what kills it


def _command(recordings: list[Path], out: Path) -> list[str]:
    return [
        sys.executable, "-m", "marblemaker.cli", "sweep", *map(str, recordings), *GRID, *SETS,
        "--jobs=2", f"--out={out}",
    ]  # fmt: skip


def _started(recordings: list[Path], out: Path, results: int) -> subprocess.Popen[bytes]:
    """A sweep of its own process, once it has so many results."""
    child = subprocess.Popen(
        _command(recordings, out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    journal = out / "sweep.results.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") <= results:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return child


def _workers_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _wait(until: Callable[[], bool], secs: float = 10.0) -> None:
    deadline = time.monotonic() + secs
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_half_way_it_goes_on_and_ends_with_the_same_table(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    child = _started(recordings, tmp_path, 8)
    workers = _workers_of(child.pid)
    child.kill()
    child.communicate()

    assert len(workers) == 2
    _wait(lambda: all(map(_gone, workers)))
    assert not (tmp_path / "sweep.parquet").exists()
    journal = tmp_path / "sweep.results.jsonl"
    kept = journal.read_bytes().count(b"\n") - 1
    assert 8 <= kept < 24
    with journal.open("ab") as file:
        file.write(b'{"settings_digest": "torn')

    again = sweep(recordings, grid(AXES), tmp_path, overrides=BASE, jobs=2)

    assert (again.kept, again.computed) == (kept, 24 - kept)
    assert _same(again.frame, swept.frame)
    assert _same(pl.read_parquet(again.table), pl.read_parquet(swept.table))
    assert not journal.exists()


def test_interrupted_it_ends_its_workers_keeps_what_is_done_and_says_130(
    recordings: list[Path], tmp_path: Path
) -> None:
    child = _started(recordings, tmp_path, 3)
    workers = _workers_of(child.pid)
    child.send_signal(signal.SIGTERM)
    _out, said = child.communicate(timeout=20)

    assert child.returncode == 130
    assert re.search(rb"\d+ of 24 replays are done and kept", said)
    assert all(map(_gone, workers))
    assert (tmp_path / "sweep.results.jsonl").read_bytes().count(b"\n") > 3


@contextmanager
def _poisoned(folder: Path, deaths: dict[str, int]) -> Iterator[Callable[[str], int]]:
    """Workers that die on some settings, so many times; gives how often that was."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import json, os\n"
        "usual = json.loads\n"
        "def loads(text, **more):\n"
        f"    for digest, most in {deaths!r}.items():\n"
        f"        died = os.path.join({str(folder)!r}, digest)\n"
        "        times = os.path.getsize(died) if os.path.exists(died) else 0\n"
        "        if digest in str(text) and times < most:\n"
        "            with open(died, 'a') as file:\n"
        "                file.write('x')\n"
        "            os.kill(os.getpid(), 9)\n"
        "    return usual(text, **more)\n"
        "json.loads = loads\n"
    )
    # Workers get the parent's path, after the project's own folder.
    sys.path.insert(0, str(folder))
    try:
        yield lambda digest: (folder / digest).stat().st_size
    finally:
        sys.path.remove(str(folder))


def test_a_worker_that_dies_costs_one_more_try_then_a_row_that_is_tried_again(
    recordings: list[Path], tmp_path: Path
) -> None:
    few, out = grid({"strategy.half_spread_bps": [1, 2, 3]}), tmp_path / "t.parquet"
    _, once, always = make_plan(recordings[:1], few, overrides=BASE).frame["settings_digest"]

    with _poisoned(tmp_path / "poison", {once: 1, always: 99}) as deaths:
        done = sweep(recordings[:1], few, out, overrides=BASE, jobs=1)
        assert (deaths(once), deaths(always)) == (1, 2)
    assert done.frame["error_kind"].to_list() == [None, None, "lost"]
    assert "SIGKILL" in done.frame["error"][2]

    mended = sweep(recordings[:1], few, out, overrides=BASE, jobs=1)
    assert (mended.kept, mended.computed, mended.failed) == (2, 1, 0)


def test_a_result_is_on_disk_before_the_next_is_waited_for(
    recordings: list[Path], tmp_path: Path
) -> None:
    plan = make_plan(recordings, grid(AXES), overrides=BASE)
    first, second, *_ = plan.tasks(set())
    with Store(tmp_path, plan) as store:
        for task in (first, second):
            store.put(task.key, {"fills": 1})
            assert task.digest.encode() in store.journal.read_bytes()
    with Store(tmp_path, plan) as store:
        assert store.done == {first.key, second.key}


def test_one_place_is_for_one_sweep_at_a_time_and_of_one_version(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    plan = make_plan(recordings, grid(AXES), overrides=BASE)
    with Store(tmp_path, plan), pytest.raises(RecordingError, match="another sweep is writing"):
        Store(tmp_path, plan)
    assert not list(tmp_path.iterdir()), "a sweep that did nothing leaves nothing"

    other = tmp_path / "other.parquet"
    frame = pl.read_parquet(swept.table)
    frame.write_parquet(other)
    with pytest.raises(RecordingError, match="no table of a sweep"):
        Store(other, plan)
    told = json.dumps({"format": 1, "version": "0.0.1", "swept": plan.swept})
    frame.write_parquet(other, metadata={"marblemaker.sweep": told})
    with pytest.raises(RecordingError, match=r"begun with marblemaker 0\.0\.1"):
        Store(other, plan)
    with Store(other, plan, overwrite=True) as store:
        assert not store.done


def test_what_a_killed_process_wrote_for_nobody_is_removed_and_what_is_in_use_is_not(
    recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marblemaker.sweep.scratch._SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("marblemaker.sweep.scratch._roots", {})
    left = tmp_path / "marble-sweep-left"
    left.mkdir()
    (left / "file").touch()

    with scratch_folder(recordings[0]) as folder:
        assert not left.exists()
        clean_up()
        assert folder.exists()
        assert folder.parent.parent == tmp_path
    assert not folder.exists()


# ---------------------------------------------------------------- the page


def test_the_page_needs_nothing_from_elsewhere_and_no_text_can_break_out(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    page = (swept.page or Path()).read_text()
    assert not re.findall(
        r"""(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page
    )
    assert "default-src 'none'" in page
    assert "not a promise" in page

    evil = "</script><script>alert(1)</script>"
    frame = swept.frame.with_columns(
        pl.lit(evil).alias("recording"),
        error=pl.when(pl.col("combination") == 1).then(pl.lit(evil)),
    )
    told = json.dumps({"format": 1, "version": "0", "swept": swept.swept})
    frame.write_parquet(tmp_path / "t.parquet", metadata={"marblemaker.sweep": told})
    write_page(tmp_path / "t.parquet", tmp_path / "t.html")

    assert "alert(1)</script>" not in (tmp_path / "t.html").read_text()


def test_a_page_is_made_from_a_table_alone(
    swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "p.html"
    assert main(["sweep", "--page", str(page), str(swept.table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 24
    assert page.read_bytes() == (swept.page or Path()).read_bytes()
    assert main(["sweep", "--page", str(page), str(tmp_path / "none.parquet")]) == 1


# ---------------------------------------------------------------- a cluster


def test_without_dask_the_extra_is_named(
    recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "distributed":
            raise ImportError(name)
        return usual(name, package)

    monkeypatch.setattr("marblemaker.sweep.cluster.import_module", missing)
    one = grid({"strategy.half_spread_bps": [1]})
    with pytest.raises(SettingsError, match=r"marblemaker\[cluster\]"):
        sweep(recordings, one, tmp_path, overrides=BASE, cluster="tcp://127.0.0.1:9")


@contextmanager
def _cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet: dict[str, Any] = {"env": env, "cwd": folder, "stdout": subprocess.DEVNULL,
                             "stderr": subprocess.DEVNULL}  # fmt: skip
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    port = address.rpartition(":")[2]
    scheduler = subprocess.Popen([*dask, "--host=127.0.0.1", f"--port={port}", "--no-dashboard"],
                                 **quiet)  # fmt: skip
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads=1",
              "--no-nanny", "--no-dashboard", f"--local-directory={folder}"]  # fmt: skip
    workers = [subprocess.Popen(worker, **quiet) for _ in range(2)]
    try:
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.skipif(
    "MARBLE_TEST_CLUSTER" not in os.environ, reason="takes 20 s; set MARBLE_TEST_CLUSTER=1"
)
def test_a_cluster_gives_the_same_table_though_a_worker_dies_on_the_way(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    with _cluster(tmp_path) as (address, workers):
        command = [*_command(recordings, tmp_path / "out"), f"--cluster={address}", "--json"]
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        journal = tmp_path / "out" / "sweep.results.jsonl"
        _wait(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 5, 60)
        workers[0].kill()
        told, said = child.communicate(timeout=120)

    assert child.returncode == 0, said
    assert json.loads(told)["computed"] == 24
    assert _same(pl.read_parquet(tmp_path / "out" / "sweep.parquet"), swept.frame)


# ---------------------------------------------------------------- engines


def test_both_engines_give_the_same_rows(
    swept: Swept, recordings: list[Path], tmp_path: Path
) -> None:
    other = sweep(recordings, grid(AXES), tmp_path, overrides=BASE, jobs=2, engine="rx")
    assert _same(swept.frame, other.frame)
    assert swept.frame["fills"].sum() > 0


def test_what_the_compiled_engine_does_not_do_is_a_row_that_says_so_or_is_left_to_the_other(
    recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = coverage.NotDone(
        "half spreads of 3 bps", lambda asked: asked.settings.strategy.half_spread_bps == 3
    )
    monkeypatch.setattr(coverage, "NOT_DONE", (wide,))
    spreads = grid({"strategy.half_spread_bps": "1,3"})

    refused = sweep(recordings[:1], spreads, tmp_path / "refused", overrides=BASE, jobs=1)
    left = sweep(recordings[:1], spreads, tmp_path / "left", overrides=BASE, jobs=1, fallback=True)

    assert refused.frame["error_kind"].to_list() == [None, "settings"]
    assert "does not do half spreads of 3 bps; use --engine rx" in refused.frame["error"][1]
    assert left.frame["error"].to_list() == [None, None]
    assert _same(refused.frame[:1], left.frame[:1])
    plan = make_plan(recordings[:1], spreads, overrides=BASE, fallback=True)
    assert [task.engine for task in plan.tasks(set())] == ["compiled", "rx"]


def test_the_pace_that_a_large_grid_is_told_is_that_of_a_replay() -> None:
    plan = make_plan([BUNDLED], grid({"strategy.half_spread_bps": [5]}))
    started = time.perf_counter()
    pace = run._pace(plan)
    # Two replays, and whatever had to be loaded before.
    assert 0.0 < 2 * pace < 2 * (time.perf_counter() - started)
