"""The bench: no row may claim work that was not done, and nothing may hide what is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from marblemaker.bench import side_by_side
from marblemaker.bench.job import NotHereError, Ran
from marblemaker.bench.listing import EXTRA, PEERS, Peer
from marblemaker.bench.quotes import read_quotes
from marblemaker.bench.runs import child_run
from marblemaker.bench.sessions import generated, part_of
from marblemaker.bench.side_by_side import bench
from marblemaker.bench.table import BEGIN, END, write_between_marks
from marblemaker.cli import main
from marblemaker.console import Console
from marblemaker.replay import replay
from marblemaker.settings import SettingsError, load_settings
from streams.pump import SIGNAL
from streams.recording import Recording, read_manifest
from tests.sessions import random_feeds, write_recording

CONSOLE = Console(as_json=True)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated(20_000, tmp_path_factory.mktemp("bench") / "session", CONSOLE, odd=False)


# ---------------------------------------------------------------- the quotes


def test_the_columns_are_in_the_order_in_which_a_replay_takes_the_quotes(tmp_path: Path) -> None:
    # Feeds full of ties: on one the signal comes first.
    recording = write_recording(tmp_path / "tied", random_feeds(3, 300, faults=False))
    target = load_settings().target_instrument
    batches = [batch for batch, _ in Recording.open(recording).inputs(target, recorded=False)]

    quotes = read_quotes(recording)

    assert quotes.ts.tolist() == [ts for batch in batches for ts in batch.ts]
    kinds = [kind != SIGNAL for batch in batches for kind in batch.kind]
    assert quotes.is_target.tolist() == kinds
    assert quotes.bid_px.tolist() == [px for batch in batches for px in batch.bid_px]
    assert quotes.ask_sz.tolist() == [size for batch in batches for size in batch.ask_sz]


@pytest.mark.parametrize("rows", [1, 5_000, 19_000, 10**6])
def test_a_part_has_neighbouring_quotes_of_both_feeds(
    session: Path, tmp_path: Path, rows: int
) -> None:
    part = part_of(session, rows, tmp_path / "part")

    whole, some = read_quotes(session), read_quotes(part)
    assert len(some.ts) == min(rows, len(whole.ts))
    first = int(np.flatnonzero(whole.ts == some.ts[0])[0])
    for all_of_it, cut in zip(whole, some, strict=True):
        assert all_of_it[first : first + len(cut)].tolist() == cut.tolist()
    assert Recording.open(part).rows == len(some.ts)


def test_the_session_has_no_book_that_a_peer_could_not_take(session: Path) -> None:
    for feed in ("signal", "target"):
        frame = pl.read_parquet(session / f"{feed}.parquet")
        prices = frame.select("bid_px", "ask_px", "bid_sz", "ask_sz")
        assert prices.null_count().sum_horizontal().item() == 0
        assert frame.filter(pl.col("bid_px") >= pl.col("ask_px")).is_empty()


# ---------------------------------------------------------------- the peers


def _replayed(recording: Path, folder: Path, overrides: Sequence[str]) -> Ran:
    settings = load_settings(overrides=overrides, manifest=read_manifest(recording))
    summary = replay(recording, settings, folder / "rx", trace=False)
    return Ran(
        quotes=summary["inputs"]["signal"] + summary["inputs"]["target"],
        requotes=summary["decisions"]["quote"],
        orders=summary["orders"]["total"],
        fills=summary["fills"]["total"],
    )


MODULES = {peer.module: peer for peer in PEERS if peer.module and peer.quotes}
# Wide quotes never fill, so nothing of a venue is in the count of requotes. Sizes are no larger
# than what the books show: NautilusTrader fills no more than that, touch always the whole.
WIDE = "strategy.half_spread_bps=200"
SOME_SETTINGS = {
    "defaults": ["strategy.preset=tutorial"],
    "no fills": ["strategy.preset=tutorial", WIDE, "strategy.requote_threshold_bps=1"],
    "tight": [
        "strategy.preset=tutorial", "strategy.half_spread_bps=1",
        "strategy.inventory_skew_factor=0.5", "strategy.signal_skew_factor=-80",
        "strategy.trade_size=0.05", "strategy.max_position=0.1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("overrides", SOME_SETTINGS.values(), ids=SOME_SETTINGS)
@pytest.mark.parametrize("module", [name for name in MODULES if name != "compiled_loop"])
def test_a_peer_makes_the_requotes_orders_and_fills_that_we_make(
    session: Path, tmp_path: Path, module: str, overrides: list[str]
) -> None:
    peer = MODULES[module]
    if not peer.is_here:
        pytest.skip(f"{peer.package} is not installed")
    try:
        if peer.prepares:
            child_run(module, "prepare", session, tmp_path / "kept", overrides)
        ran = child_run(module, "run", session, tmp_path / "kept", overrides)
    except NotHereError as error:
        pytest.skip(str(error))
    ours = _replayed(session, tmp_path, overrides)
    assert ours.orders is not None
    assert ours.fills is not None
    assert ran.orders is not None
    assert ran.quotes == ours.quotes
    assert ours.requotes
    if module == "nautilus_python" and overrides == SOME_SETTINGS["tight"]:
        # Quotes that cross at once: its engine for Python fills an order or two that its native
        # one rejects, as ours does.
        assert ran.requotes == pytest.approx(ours.requotes, rel=0.01)
        return
    assert ran.requotes in (ours.requotes, None)
    # The order that flattens at the end.
    last = 0 if peer.flattens else ours.orders - ran.orders
    assert last in (0, 1)
    assert ran.orders == ours.orders - last
    assert ran.fills in (ours.fills - last, None)


@pytest.mark.skipif(
    "not os.environ.get('MARBLE_TEST_COMPILED')",
    reason="the compiled engine takes a minute to compile: set MARBLE_TEST_COMPILED=1",
)
def test_the_loop_alone_makes_the_requotes_orders_and_fills_of_a_run(
    session: Path, tmp_path: Path
) -> None:
    overrides = SOME_SETTINGS["defaults"]
    child_run("compiled_loop", "prepare", session, tmp_path / "kept", overrides)
    ran = child_run("compiled_loop", "run", session, tmp_path / "kept", overrides)
    ours = _replayed(session, tmp_path, overrides)
    assert (ran.quotes, ran.requotes, ran.orders, ran.fills) == (
        ours.quotes, ours.requotes, ours.orders, ours.fills
    )  # fmt: skip


# ---------------------------------------------------------------- side by side


def test_what_was_measured_is_told_whole() -> None:
    document, lines = bench(6_000, 1, CONSOLE, peers=["rx-untraced", "bare-rx"])

    assert json.loads(json.dumps(document)) == document
    assert document["problems"] == []
    assert list(document["peers"]) == ["rx-untraced", "bare-rx"]
    ours, bare = document["peers"].values()
    assert ours["quotes"] == bare["quotes"] == document["quotes"]
    assert ours["orders"] > ours["fills"]
    assert ours["requotes"] == ours["ours_on_the_same_quotes"]["requotes"] > 0
    assert bare["orders"] is None
    for row in (ours, bare):
        for spread in row["events_per_second"].values():
            assert 0 < spread["minimum"] <= spread["median"] <= spread["maximum"]
        # Each is a part of the next.
        steps = row["seconds"]
        assert 0 < steps["loop"] <= steps["in_all"] <= steps["process"]
    text = "\n".join(lines)
    for word in (
        "marble, Rx, no trace",
        "bare RxPY",
        "1 run by turns",
        "does less",
        "no work",
        "numpy",
    ):
        assert word in text


class Canned:
    """Stands for the processes: every run of a peer tells what is put here."""

    def __init__(self, session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.quotes = Recording.open(session).rows
        self.of: dict[str, list[Ran | Exception]] = {}
        self.ours = self.ran()
        monkeypatch.setattr(side_by_side, "generated", lambda *_, **__: session)
        monkeypatch.setattr(side_by_side, "child_run", self._run)
        monkeypatch.setattr(side_by_side, "replayed", lambda *_: self.ours)
        monkeypatch.setattr(Peer, "is_here", property(lambda peer: peer.name != "csp"))

    def ran(self, **told: Any) -> Ran:
        counts: dict[str, Any] = {"quotes": self.quotes, "requotes": 50, "orders": 90, "fills": 3}
        seconds = {"loop": 1.0, "in_all": 2.0, "process": 3.0}
        return Ran(**(counts | told), version="1", seconds=seconds, told={"peak_mb": 9.0})

    def _run(self, module: str, step: str, *_: object) -> Ran:
        answers = self.of.get(module, [self.ran()])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def canned(session: Path, monkeypatch: pytest.MonkeyPatch) -> Canned:
    return Canned(session, monkeypatch)


def _benched(*peers: str) -> tuple[dict[str, Any], str]:
    document, lines = bench(2_000, 2, CONSOLE, peers=peers)
    return document, "\n".join(lines)


def test_peers_that_agree_are_no_problem(canned: Canned) -> None:
    document, text = _benched("nautilus", "hftbacktest", "rx")
    assert document["quotes"] == canned.quotes
    assert document["problems"] == []
    assert "NOT COMPARABLE" not in text
    assert document["peers"]["nautilus"]["events_per_second"]["loop"]["median"] == canned.quotes


def test_a_peer_that_is_not_installed_has_a_row_that_says_how_to_get_it(canned: Canned) -> None:
    document, text = _benched("csp", "nautilus")
    assert document["peers"]["csp"]["not_measured"] == f"not installed: {EXTRA}"
    assert f"| not installed: {EXTRA} |" in " ".join(text.split())
    assert document["problems"] == []


def test_a_peer_that_cannot_run_here_says_why(canned: Canned) -> None:
    canned.of["nautilus_native"] = [NotHereError("needs Python 3.12")]
    document, text = _benched("nautilus-native", "nautilus")
    assert document["peers"]["nautilus-native"]["not_measured"] == "needs Python 3.12"
    assert "1. needs Python 3.12" in text
    assert document["problems"] == []


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_peer_that_fails_costs_the_others_nothing(canned: Canned, fails_at: int) -> None:
    good: list[Ran | Exception] = [canned.ran() for _ in range(fails_at)]
    canned.of["nautilus_python"] = [*good, OSError("no memory (exit code 1)")]
    document, text = _benched("nautilus", "hftbacktest")
    assert document["problems"] == ["nautilus: failed: no memory (exit code 1)"]
    assert "events_per_second" not in document["peers"]["nautilus"]
    assert "NOT COMPARABLE: nautilus: failed" in text
    assert document["peers"]["hftbacktest"]["events_per_second"]["loop"]["median"] == canned.quotes


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"requotes": 0, "orders": 0, "fills": 0}, "made no orders"),
        ({"orders": None, "requotes": 0}, "made no orders"),
        ({"requotes": 25}, "25 requotes where our engine has 50"),
        ({"requotes": 51}, "51 requotes where our engine has 50"),
        ({"requotes": None, "orders": 45}, "45 orders where our engine has 90"),
        ({"quotes": 19_000}, "went through 19,000 of 20,2"),
    ],
)
def test_a_peer_that_did_not_do_the_job_is_told(
    canned: Canned, told: dict[str, Any], problem: str
) -> None:
    canned.of["hft_loop"] = [canned.ran(**told)]
    document, text = _benched("hftbacktest", "nautilus")
    assert any(f"hftbacktest: {problem}" in found for found in document["problems"])
    assert f"NOT COMPARABLE: hftbacktest: {problem}" in text


def test_runs_that_do_not_agree_are_told(canned: Canned) -> None:
    canned.of["hft_loop"] = [canned.ran(), canned.ran(), canned.ran(fills=4)]
    document, _ = _benched("hftbacktest")
    assert "do not agree" in document["problems"][0]


def test_our_own_preset_is_not_held_against_the_peers(canned: Canned) -> None:
    canned.ours = canned.ran(requotes=7, orders=8)
    document, _ = bench(
        2_000, 1, CONSOLE, peers=["nautilus", "rx"], overrides=["strategy.preset=composite"]
    )
    assert document["problems"] == []
    assert document["peers"]["nautilus"]["ours_on_the_same_quotes"] is None


def test_a_slow_peer_is_given_a_part_and_the_table_says_so(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(
        Peer(name=p.name, title=p.title, less=p.less, loop=p.loop, module=p.module, slice=700)
        for p in PEERS
        if p.name == "nautilus"
    )
    monkeypatch.setattr("marblemaker.bench.listing.PEERS", few)
    canned.of["nautilus_python"] = [canned.ran(quotes=700)]
    document, text = _benched("nautilus")
    assert document["peers"]["nautilus"]["quotes"] == 700
    assert "700, a part" in text
    assert document["peers"]["nautilus"]["events_per_second"]["loop"]["median"] == 700

    canned.of["nautilus_python"] = [canned.ran()]
    document, _ = bench(2_000, 1, CONSOLE, peers=["nautilus"], whole=True)
    assert document["peers"]["nautilus"]["quotes"] == canned.quotes
    assert document["problems"] == []


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--peers", "nautlius"], "did you mean nautilus"),
        (["--peers", "rx,everybody"], "'everybody' is no peer of the bench; there are rx,"),
        (["--peers", ","], "--peers names nobody"),
        (["--quotes", "0"], "at least 1"),
        (["--quotes", "-5"], "at least 1"),
        (["--runs", "0"], "at least 1"),
        (["--set", "strategy.expire_time_secs=5"], "strategy.requote_threshold_bps"),
        (["--set", "strategy.half_spread_bps=wide"], "half_spread_bps"),
        (["--set", "strategy.preset=tutorail"], "tutorail"),
        (["--write", "no-such-page.md"], "no such file"),
        (["--guards", "--peers", "rx"], "--peers"),
        (["--guards", "--write", "README.md"], "--write"),
        (["live", "--peers", "rx"], "--peers"),
        (["live", "--whole"], "--whole"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "generating" not in printed.err


def test_the_table_goes_between_the_marks_and_nothing_else_changes(
    canned: Canned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter: {BEGIN} in a line is no mark.\n")
    arguments = ["bench", "--quotes", "2000", "--runs", "1", "--peers", "nautilus"]
    assert main([*arguments, "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nAfter: {BEGIN} in a line is no mark.\n")
    assert "old" not in text
    table = capsys.readouterr().out.strip()
    assert table in text


def test_figures_that_are_not_comparable_are_not_written(
    canned: Canned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canned.of["nautilus_python"] = [canned.ran(requotes=0, orders=0)]
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\nold\n{END}\n")
    arguments = ["bench", "--quotes", "2000", "--runs", "1", "--peers", "nautilus"]
    assert main([*arguments, "--write", str(page)]) == 1
    assert page.read_text() == f"{BEGIN}\nold\n{END}\n"
    assert "made no orders" in capsys.readouterr().out


@pytest.mark.parametrize(
    "before",
    ["", "a\n", "\n\n", f"see {BEGIN}\n", f"{END}s\n"],
    ids=["start", "line", "blank", "mark in a line", "mark with more"],
)
@pytest.mark.parametrize(
    "inside", ["", "old\n", f"| a |\n\n{END}s\n"], ids=["empty", "line", "more"]
)
@pytest.mark.parametrize("after", ["", "\n", f"\nsee {END}\n"], ids=["cut off", "end", "more"])
def test_what_stands_around_the_marks_stays_as_it_is(
    tmp_path: Path, before: str, inside: str, after: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{before}{BEGIN}\n{inside}{END}{after}")
    for _ in range(2):
        write_between_marks(page, ["new", "table"])
        assert page.read_text() == f"{before}{BEGIN}\nnew\ntable\n{END}{after}"


def test_a_page_keeps_its_ends_of_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(f"a\r\n{BEGIN}\r\nold\r\n{END}\r\nb\n".encode())
    write_between_marks(page, ["new – ×"])
    assert page.read_bytes() == f"a\r\n{BEGIN}\r\nnew – ×\r\n{END}\r\nb\n".encode()


@pytest.mark.parametrize(
    "text",
    ["", "no marks\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n",
     f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", f" {BEGIN}\n{END}\n"],
)  # fmt: skip
def test_a_page_without_one_pair_of_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SettingsError, match="each once and in this order"):
        write_between_marks(page, ["new"])
    assert page.read_text() == text


def test_the_pages_of_the_project_have_the_marks() -> None:
    from marblemaker.bench.table import require_marks

    root = Path(__file__).parents[2]
    for page in ("README.md", "docs/bench.md"):
        require_marks(root / page)


def test_the_extra_names_every_package_that_a_peer_needs() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extra = {text.partition(">")[0] for text in project["optional-dependencies"]["bench"]}
    assert extra == {peer.package for peer in PEERS if peer.package}
    assert not any(find_spec(f"marblemaker.{name}") for name in extra)
