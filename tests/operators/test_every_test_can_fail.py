"""Every operator, broken on purpose: its own tests must notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("streams", "operators", "sinks", "marblemaker", "tests")

BREAKS = {
    "books: crossed books pass": ("books", "if bid_px > ask_px:", "if False:"),
    "mid: the lone side counts": (
        "mid", "if bid is None or ask is None:", "if bid is None and ask is None:",
    ),
    "mid: not the middle": ("mid", "ask_px / 1e9) / 2.0", "ask_px / 1e9) / 2.1"),
    "residual: no deviation": ("residual", "return mid / baseline - 1.0", "return mid / baseline"),
    "residual: baselines shared": (
        "residual", " measure = baseline()\n", " measure = _shared(baseline)\n",
    ),
    "residual: the jump is in its own baseline": (
        "residual", "half_life_ns), average, last_mid)", "half_life_ns), average, mid)",
    ),
    "anchor: not rounded": ("anchor", "return round_ticks(mid, scale) / scale", "return mid"),
    "combine_latest: speaks before both have": (
        "combine", "if latest_right is not _NOTHING:", "if True:",
    ),
    "starting_with: silent at first": ("starting", "            observer.on_next(value)\n", ""),
    "inventory: sells add": ("inventory", "net += update.side * update", "net += update"),
    "inventory: a reject is forgotten": ("inventory", "return on_reject_resubmit", "return False"),
    "skew: quotes more when long": ("skew", "by_signal - by_inv", "by_signal + by_inv"),
    "ladder: bids round up": ("ladder", "floor_ticks(bid, scale)", "ceil_ticks(bid, scale)"),
    "ladder: one more than the limit": (
        "ladder", "may_buy(worst_long, trade_size", "may_buy(worst_long, 0",
    ),
    "requote: the threshold itself is not enough": (
        "requote", "/ last_anchor >= threshold", "/ last_anchor > threshold",
    ),
    "requote: more than the threshold is surely unmoved": (
        "requote", "share = threshold * 0.999", "share = threshold * 1.5",
    ),
    "requote: quotes through a refused book": (
        "requote", "quoted, last_refusal, last_target = False, this",
        "last_refusal, last_target = this",
    ),
    "throttle: the first held goes out": (
        "throttle", "same_levels(held, decision), decision",
        "same_levels(held, decision), held or decision",
    ),
    "throttle: a withdrawal leaves the held target": (
        "throttle",
        'if decision.action == "withdraw":\n                        held, sent = None, None',
        'if decision.action == "withdraw":\n                        pass',
    ),
    "mid: a locked book is sound at a glance": ("mid", "0 < bid < ask", "0 < bid <= ask"),
    "mid: a locked book passes": ("mid", "fault == LOCKED and locked", "fault == LOCKED"),
    "event_time: the future is believed": (
        "guards/event_time", "elif ts_event > quote.ts:", "elif False:",
    ),
    "event_time: the limit itself is too far": (
        "guards/event_time", "behind <= ts_event", "behind < ts_event",
    ),
    "frozen: another size is no change": ("guards/frozen", "or quote.bid_sz != first.bid_sz", ""),
    "collar: confirmed from anywhere": (
        "guards/collar", "abs(jump_bps(mid, candidate)) > collar_bps", "False",
    ),
    "collar: more than a jump is none at a glance": (
        "guards/collar", "10_000.0 * 0.999", "10_000.0 * 1.5",
    ),
    "collar: a jump down is none": ("guards/collar", "if abs(jump) >", "if jump >"),
    "split: a reverse split is none": ("guards/split", "abs(ratio * split - 1.0)", "2.0"),
    "split: without a break": ("guards/split", "value.ts >= judge_from and", "value.ts and"),
    "schedule: open at its close": (
        "guards/schedule", "bisect_right(self._edges, ts) % 2",
        "bisect_right(self._edges, ts - 1) % 2",
    ),
    "age: heartbeats do not count": ("guards/age", "max(heard, ts)", "ts"),
    "age: a value after a refusal waits for its timer": (
        "guards/age", "if refused or not waiting:", "if not waiting:",
    ),
    "session: an open goes unnoticed": (
        "guards/session", "wait()\n                if is_open", "if is_open",
    ),
    "session: what is closed stays closed": (
        "guards/session", "state if is_open else closed(state)", "closed(state)",
    ),
    "basis: below is no distance": ("guards/basis", "not -limit_bps <= apart", "not -1e9 <= apart"),
    "basis: more than the limit is none at a glance": (
        "guards/basis", "10_000.0 * 0.999", "10_000.0 * 1.5",
    ),
    "kill_switch: waits for the next state": (
        "guards/kill_switch", "if latest is not None:", "if False:",
    ),
    "risk: a short position has no limit": (
        "guards/risk", "abs(position) > limits.max_position", "position > limits.max_position",
    ),
    "risk: a loss before the open counts": ("guards/risk", "- pnl_at_open", "- 0"),
    "budget: fills lose their remainder": (
        "budget", "divmod(whole, self.limits.quota_per)", "whole // self.limits.quota_per, 0",
    ),
    "budget: nothing is kept for cancels": (
        "budget", "limit - max(1, int(limit * KEPT_FOR_CANCELS))", "limit",
    ),
    "weighted: without weights": ("weighted", "weights[i] * residuals[i]", "residuals[i]"),
    "without_own: the best of others is forgotten": (
        "without_own", "bid, bid_sz, bid_from_before = others_bid,",
        "bid, bid_sz, bid_from_before = None,",
    ),
    "without_own: ours counts as others'": (
        "without_own", "return displayed - ours", "return displayed",
    ),
    "fair_value: off the tick": ("fair_value", "anchor_price(signal.mid, scale)", "signal.mid"),
    "tick_ladder: meets the opposite best": (
        "tick_ladder", "(opposite - level) > 0", "(opposite - level) >= 0",
    ),
    "tick_ladder: sells down when long, buys up": (
        "tick_ladder", "low - half - down, fair", "low - half + down, fair",
    ),
    "refusals: a refused book passes": ("refusals", "if isinstance(value, Refusal):", "if False:"),
    "quoting: signals trigger the tutorial": (
        "quoting", "anchors.pipe(ops.with_latest_from(residuals))",
        "combine_latest(anchors, residuals)",
    ),
}  # fmt: skip

TEST_FILES = {
    "combine": ["combine_latest"], "starting": ["starting_with"], "mid": ["mid", "mid_locked"],
}  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    for room in ROOMS:
        skip = shutil.ignore_patterns("__pycache__", "data", "test_every_test_can_fail.py")
        shutil.copytree(ROOT / room, folder / room, ignore=skip)
    # Without plugins and what they are told a run takes a quarter of the time.
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    return folder


def _run(copy: Path, *names: str) -> int:
    tests = []
    for name in names:
        room, _, operator = f"operators/{name}".rpartition("/")
        tests += [f"tests/{room}/test_{file}.py" for file in TEST_FILES.get(operator, [operator])]
    # No byte code: two edits within a second would look alike to it.
    done = subprocess.run(
        [
            sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
            "--import-mode=importlib", *tests,
        ],
        cwd=copy, capture_output=True, check=False,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return done.returncode


def test_the_copy_passes_unbroken(copy: Path) -> None:
    assert _run(copy, *dict.fromkeys(name for name, _, _ in BREAKS.values())) == 0


@pytest.mark.parametrize("title", BREAKS)
def test_a_broken_operator_fails_its_tests(title: str, copy: Path) -> None:
    name, right, wrong = BREAKS[title]
    path = copy / "operators" / f"{name}.py"
    source = path.read_text()
    assert source.count(right) >= 1, f"{right!r} is not in {name}.py any more; break it elsewhere"
    broken = source.replace(right, wrong, 1)
    if "_shared" in wrong:
        broken += (
            "\n\n_one: list[Callable[[int, float], float]] = []\n\n\n"
            "def _shared(make: Baseline) -> Callable[[int, float], float]:\n"
            "    if not _one:\n        _one.append(make())\n    return _one[0]\n"
        )
    path.write_text(broken)
    try:
        assert _run(copy, name) == 1, "the tests did not notice"
    finally:
        path.write_text(source)
