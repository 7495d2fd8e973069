"""The pytest plugin: goldens that fail readably, and are renewed only for a reason."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

# What is first imported within a run of pytester is forgotten after it, and imported anew.
import exchange_calendars  # noqa: F401
import polars as pl
import pytest

import marblemaker.diagram_play
import marblemaker.golden
import marblemaker.replay  # noqa: F401
from tests.sessions import random_feeds, write_recording

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "test_recording.py"
# Other plugins of this machine stay out of it, whatever they warn of.
OPTIONS = ("-q", "-W", "error", "-p", "marblemaker.pytest_plugin")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("golden") / "tiny", random_feeds(4, 80))


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester, session: Path) -> pytest.Pytester:
    """A project of a user, with the very file that they copy."""
    shutil.copytree(session, pytester.path / "recordings" / "nvda-cash-session")
    shutil.copy(EXAMPLE, pytester.path)
    pytester.makeini("[pytest]\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_inprocess(*OPTIONS, *arguments)


def golden_of(project: pytest.Pytester) -> Path:
    return project.path / "goldens" / "nvda-cash-session"


def change(project: pytest.Pytester, before: str, after: str) -> None:
    file = project.path / EXAMPLE.name
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))


def test_the_file_that_users_copy_has_ten_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) == 10


def test_a_golden_is_missing_then_made_then_kept(project: pytest.Pytester) -> None:
    missing = run(project)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        [
            "there is no golden */goldens/nvda-cash-session to compare with; make it*",
            '    pytest test_recording.py::test_the_session_is_* --marble-regen "first golden"',
        ]
    )
    assert not golden_of(project).exists()

    made = run(project, "--marble-regen", "first golden")
    made.assert_outcomes(passed=1)
    made.stdout.fnmatch_lines(["golden renewed: */nvda-cash-session: decisions 0 equal, * added*"])
    note = json.loads((golden_of(project) / "golden.json").read_text())
    assert note["reason"] == "first golden"
    assert note["settings"]["strategy"]["half_spread_bps"] == 25.0
    assert {*note["versions"]} >= {"marblemaker", "polars", "python"}
    decisions = pl.read_parquet(golden_of(project) / "decisions.parquet")
    assert note["rows"]["decisions"] == decisions.height > 5

    files = {path.name: path.read_bytes() for path in golden_of(project).iterdir()}
    assert {*files} == {"decisions.parquet", "orders.parquet", "golden.json"}
    run(project).assert_outcomes(passed=1)
    unchanged = run(project, "--marble-regen", "for nothing")
    unchanged.stdout.fnmatch_lines(["golden unchanged: *"])
    # Nothing to commit where nothing changed.
    assert {path.name: path.read_bytes() for path in golden_of(project).iterdir()} == files


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_golden_is_not_renewed_without_a_reason(project: pytest.Pytester, reason: str) -> None:
    refused = run(project, "--marble-regen", reason)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --marble-regen needs a reason, it was empty; say why*"])
    assert not golden_of(project).exists()


def test_a_difference_is_a_table_of_quotes_and_renewing_writes_down_what_changed(
    project: pytest.Pytester,
) -> None:
    run(project, "--marble-regen", "first golden")
    change(project, "half_spread_bps=25", "half_spread_bps=26")

    failed = run(project)
    failed.assert_outcomes(failed=1)
    failed.stdout.re_match_lines(
        [
            r".*does not repeat the golden .*/goldens/nvda-cash-session",
            r"decisions  \d+ equal, \d+ changed",
            r"settings     strategy.half_spread_bps was 25.0, now 26.0",
            r"golden       last renewed: first golden",
            r"decisions, the first \d+ of \d+ that differ:",
            r"     time \(UTC\) +golden +now +Δ ticks +first that differs",
            r"  ~  13:30:\d\d\.\d{9}  quote \d+\.\d{3} × \d+\.\d{3} +quote \d+\.\d{3} × \d+\.\d{3}"
            r" +-2[01] × \+2[01] +half_spread 0\.5\d+ → 0\.5\d+",
            r"orders, the first 10 of \d+ that differ:",
            r"  ~  13:30:\d\d\.\d{9}  1 BUY 0.05 @ 20\d\.\d{3} \w+ +1 BUY .* -2[01] +px 20.* → 20",
            r'    pytest test_recording.py::test.* --marble-regen "why"',
        ]
    )
    shown = failed.stdout.str()
    assert not re.search(r"\b[0-9a-f]{32,}\b", shown), "people compare quotes, not hashes"

    renewed = run(project, "--marble-regen", "half-spread from 25 to 26 bps")
    renewed.stdout.fnmatch_lines(["golden renewed: * changed*"])
    note = json.loads((golden_of(project) / "golden.json").read_text())
    assert note["reason"] == "half-spread from 25 to 26 bps"
    assert re.fullmatch(r"\d+ equal, \d+ changed", note["changed"]["decisions"])
    run(project).assert_outcomes(passed=1)


def test_rows_that_came_or_went_are_told_among_those_around_them(
    project: pytest.Pytester,
) -> None:
    run(project, "--marble-regen", "first golden")
    file = golden_of(project) / "decisions.parquet"
    rows = pl.read_parquet(file)
    one_more = rows[3].with_columns(pl.col("ts") + 1, reason=pl.lit("was once"))
    pl.concat([rows[:4], one_more, rows[5:]]).write_parquet(file)
    failed = run(project)
    failed.stdout.re_match_lines(
        [
            rf"decisions  {rows.height - 1} equal, 1 added, 1 missing",
            r"orders     \d+ equal$",
            r"decisions, the first 2 of 2 that differ:",
            r"     13:30",
            r"     13:30",
            r"  -  13:30:.* was once +– +only in the golden",
            r"  \+  13:30:.* – +.*only now",
            r"     13:30",
        ],
    )
    assert "orders, the first" not in failed.stdout.str()


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("anchor", 1e-13, r"0 × 0 +anchor 20\d\.\d+ → 20"),
        ("unmoved", 1, r"unmoved \d+ → \d+"),
        ("seq", 1, r"seq \d+ → \d+"),
        ("target_bid_px", None, r"target_bid_px – → 20\d\."),
    ],
)
def test_the_smallest_difference_of_any_column_fails_and_is_named(
    project: pytest.Pytester, column: str, value: float | None, told: str
) -> None:
    run(project, "--marble-regen", "first golden")
    file = golden_of(project) / "decisions.parquet"
    rows = pl.read_parquet(file)
    at = int((rows["action"] == "quote").arg_max() or 0)
    moved = rows[column].to_list()
    moved[at] = None if value is None else moved[at] + value
    rows.with_columns(pl.Series(column, moved, rows.schema[column])).write_parquet(file)
    failed = run(project)
    failed.assert_outcomes(failed=1)
    kind = "renumbered" if column == "seq" else "changed"
    failed.stdout.re_match_lines([rf"decisions  {rows.height - 1} equal, 1 {kind}"])
    failed.stdout.re_match_lines([rf"  [~#]  13:30:.*{told}"])


def test_another_recording_is_told_as_such(project: pytest.Pytester) -> None:
    run(project, "--marble-regen", "first golden")
    folder = project.path / "recordings" / "nvda-cash-session"
    shutil.rmtree(folder)
    write_recording(folder, random_feeds(5, 80))
    run(project).stdout.fnmatch_lines(
        ["the recording is another one: signal, target changed since the golden"]
    )


def test_a_folder_that_is_no_golden_is_never_written_over(project: pytest.Pytester) -> None:
    golden_of(project).mkdir(parents=True)
    (golden_of(project) / "notes.txt").write_text("mine")
    failed = run(project, "--marble-regen", "first golden")
    failed.stdout.fnmatch_lines(["*is no golden: it has no golden.json"])
    assert [path.name for path in golden_of(project).iterdir()] == ["notes.txt"]


def test_diagrams_are_played_by_a_fixture(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile('''
        def test_the_quote_follows_the_signal(marble_play):
            first, second = marble_play("""
                signal  a---b
                target  x----
                a: bid_px=99.99 ask_px=100.01
                b: bid_px=100.09 ask_px=100.11
                x: bid_px=99.99 ask_px=100.01
            """, settings=["strategy.half_spread_bps=10", "guards.collar_bps=off"])[1:]
            assert (first.bid_px, first.ask_px) == (99_900_000_000, 100_100_000_000)
            assert (second.bid_px, second.ask_px) == (99_955_000_000, 100_155_000_000)
    ''')
    run(pytester).assert_outcomes(passed=1)


def test_a_project_that_does_not_use_it_pays_next_to_nothing_for_the_plugin() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import marblemaker.pytest_plugin;"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before};"
        "assert new <= {'marblemaker'}, new"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
