"""Every operator, broken on purpose: its own tests must notice."""

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
    "requote: quotes through a refused book": (
        "requote", " quoted = False\n                    emit(", " emit(",
    ),
    "throttle: the first held goes out": (
        "throttle", " held = decision\n", " held = held or decision\n",
    ),
    "throttle: a withdrawal leaves the held target": (
        "throttle",
        'if decision.action == "withdraw":\n                        held = None',
        'if decision.action == "withdraw":\n                        pass',
    ),
    "refusals: a refused book passes": ("refusals", "if isinstance(value, Refusal):", "if False:"),
    "quoting: signals trigger the tutorial": (
        "quoting", "anchors.pipe(ops.with_latest_from(residuals))",
        "combine_latest(anchors, residuals)",
    ),
}  # fmt: skip

TEST_FILES = {"combine": "combine_latest", "starting": "starting_with"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    for room in ROOMS:
        skip = shutil.ignore_patterns("__pycache__", "data", "test_every_test_can_fail.py")
        shutil.copytree(ROOT / room, folder / room, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _run(copy: Path, *names: str) -> int:
    tests = [f"tests/operators/test_{TEST_FILES.get(name, name)}.py" for name in names]
    # No byte code: two edits within a second would look alike to it.
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy, capture_output=True, check=False,
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
