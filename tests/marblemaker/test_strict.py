"""strict() and perturb: every wild operator of the zoo is caught, no tame one is."""

from __future__ import annotations

import contextlib
import gc
import inspect
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import reactivex

from marblemaker import checked_code, set_order
from marblemaker.bundled import BUNDLED
from marblemaker.forbidden import CLOCK, ORDER, RANDOM, THREAD
from marblemaker.perturb import (
    PerturbError,
    Variant,
    outcome_lines,
    perturb_callable,
    perturbations,
    run_perturbed,
)
from marblemaker.replay import replay
from marblemaker.settings import load_settings
from marblemaker.strict import StrictError, _Strict, strict
from streams.recording import RecordingError, read_manifest
from tests.marblemaker import zoo, zoo_tame
from tests.sessions import random_feeds, random_sections, random_strategy, settings, write_recording

STREAM = zoo.quotes()


# ---------------------------------------------------------------- the zoo, strict


def told(function: Callable[[], Any]) -> StrictError:
    with pytest.raises(StrictError) as caught, strict():
        function()
    return caught.value


def test_every_wild_operator_is_caught_at_its_line() -> None:
    # Its functions are there before strict is on, as a user's are; and once more made within.
    early = {name: made() for name, made in zoo.STRICT.items()}
    watched = _Strict((), ())
    watched.start()
    found: dict[tuple[str, str], StrictError | None] = {}
    try:
        for name, made in zoo.STRICT.items():
            for when, run in (("before", lambda e=early[name]: e), ("within", made)):
                watched.arm()
                with contextlib.suppress(StrictError):
                    zoo.outputs(run(), STREAM)
                found[name, when] = watched.first
    finally:
        watched.stop()
    for (name, when), error in found.items():
        lines, start = inspect.getsourcelines(cast(Any, zoo.STRICT[name]).args[0])
        (line,) = (start + i for i, text in enumerate(lines) if text.endswith("# caught\n"))
        assert error is not None, (name, when)
        assert str(error).startswith(f"{zoo.__file__}:{line}: {name}"), (when, str(error))


def test_the_zoo_is_as_large_as_it_should_be() -> None:
    assert len(zoo.STRICT) + len(zoo.PERTURB) >= 24
    assert len(zoo_tame.TAME) >= 45


def test_a_tame_operator_is_not_caught_and_puts_out_the_same() -> None:
    plain = {name: zoo.outputs(made(), STREAM) for name, made in zoo_tame.TAME.items()}
    early = {name: made() for name, made in zoo_tame.TAME.items()}
    with strict():
        for name, made in zoo_tame.TAME.items():
            assert zoo.outputs(early[name], STREAM) == plain[name], name
            assert zoo.outputs(made(), STREAM) == plain[name], name
    assert all(plain.values())


def test_what_a_library_reads_is_blamed_on_who_called_it() -> None:
    error = told(lambda: zoo.outputs(zoo.a_library_that_asks_the_clock(), STREAM))
    assert error.finding.kind == CLOCK
    assert error.finding.file.endswith(("zoo.py", "pump.py"))

    def ask() -> None:
        reactivex.timer(0.01).subscribe(lambda _: None)

    error = told(ask)
    assert error.finding.file == __file__
    assert error.finding.function.endswith("ask")


def test_a_finding_that_was_swallowed_is_raised_at_the_end() -> None:
    made = zoo.STRICT["a_clock_behind_an_except"]
    found: list[float] = []
    with pytest.raises(StrictError, match=r"time\.time\(\)"), strict():
        found += zoo.outputs(made(), STREAM)
    assert len(found) == len(STREAM)


def test_a_finding_that_became_another_error_is_raised_itself() -> None:
    def run() -> None:
        try:
            time.time()
        except Exception as error:
            raise ValueError("the graph failed") from error

    assert told(run).finding.kind == CLOCK


def test_another_error_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), strict():
        _ = 1 / 0


# ---------------------------------------------------------------- what is left as it was


def test_all_is_as_before_when_strict_ends() -> None:
    def first(names: set[str]) -> str:
        return next(iter(names))

    code, normal, profile = first.__code__, np.random.normal, sys.getprofile()
    within: list[object] = []

    def run() -> None:
        within.extend((first.__code__, np.random.normal))
        first({"a", "b"})

    told(run)
    assert code not in within
    assert normal not in within
    assert first.__code__ is code
    assert np.random.normal is normal
    assert sys.getprofile() is profile
    assert first({"a", "b"}) in "ab"
    assert time.time() > 0


def test_functions_made_meanwhile_are_plain_again_too() -> None:
    kept = SimpleNamespace()

    def make() -> None:
        def listed(names: set[str]) -> list[str]:
            return list(names)

        kept.listed = listed

    make()
    plain = kept.listed.__code__
    with strict():
        make()
        assert kept.listed.__code__ is not plain
    assert kept.listed.__code__ is plain


def test_functions_that_the_collector_froze_are_checked_as_well() -> None:
    def listed(names: set[str]) -> list[str]:
        return list(names)

    gc.freeze()
    try:
        assert told(lambda: listed({"a", "b"})).finding.kind == ORDER
    finally:
        gc.unfreeze()


def test_strict_twice_is_refused_and_leaves_the_first_on() -> None:
    def run() -> None:
        with pytest.raises(RuntimeError, match="on already"), strict():
            pass
        time.time()

    assert told(run).finding.kind == CLOCK


def test_other_threads_may_do_as_they_like() -> None:
    go, done = threading.Event(), list[tuple[float, float, str, int]]()

    def look() -> None:
        done.append((time.time(), np.random.normal(), next(iter({"a", "b"})), hash("a")))

    def other() -> None:
        go.wait(5)
        look()

    thread = threading.Thread(target=other)
    thread.start()
    with strict():
        go.set()
        for _ in range(10_000_000):
            if done:
                break
    thread.join()
    assert done


def test_what_is_called_now_and_then_can_be_exempt() -> None:
    def progress() -> float:
        return time.monotonic() + len(list({"a", "b"}))

    class Bar:
        def __call__(self) -> float:
            return time.monotonic()

    bar = Bar()
    with strict(exempt=[progress, bar]):
        assert progress() > 0
        assert bar() > 0
    assert told(progress).finding.kind == CLOCK


def test_an_installed_package_is_on_the_path_if_it_is_named() -> None:
    def spread() -> float:
        return statistics.NormalDist().samples(1)[0]

    assert told(spread).finding.file == __file__
    with pytest.raises(StrictError) as caught, strict(packages=["statistics"]):
        spread()
    assert caught.value.finding.file == statistics.__file__
    assert caught.value.finding.kind == RANDOM
    with pytest.raises(ValueError, match="import it first"), strict(packages=["no_such"]):
        pass


def test_what_the_collector_runs_is_nobodys_doing() -> None:
    seen: list[float] = []

    def collected(_phase: str, _info: dict[str, int]) -> None:
        seen.append(time.perf_counter())

    gc.callbacks.append(collected)
    try:
        with strict():
            garbage = [[one] for one in range(50_000)]
    finally:
        gc.callbacks.remove(collected)
    assert garbage
    assert seen


def test_a_library_that_cleans_up_is_nobodys_doing_either() -> None:
    made: dict[str, Any] = {"time": time}
    exec("class Held:\n    def __del__(self):\n        time.time()", made)
    held = [made["Held"]()]
    with strict():
        held.clear()


def test_functions_whose_asserts_pytest_rewrote_are_checked_as_well() -> None:
    def listed(names: set[str]) -> list[str]:
        assert names
        return list(names)

    assert told(lambda: listed({"a", "b"})).finding.function.endswith("listed")


def test_a_wait_on_the_thread_of_the_graph_is_found() -> None:
    kinds = {told(lambda: threading.Event().wait(0)).finding.kind}
    kinds.add(told(lambda: threading.Thread(target=print).start()).finding.kind)
    assert kinds == {THREAD}


# ---------------------------------------------------------------- checked code


@pytest.mark.parametrize(
    ("value", "depends"),
    [
        (1, False), (True, False), (1.5, False), (float("nan"), True), ("a", True), (b"a", True),
        ((1, (2, 3.0)), False), ((1, ("a",)), True), (frozenset({1}), False),
        (frozenset({"a"}), True), (object(), True), (np.int64(3), False), (len, True),
        (zoo_tame.Kind.ASK, False), (zoo.Side.BUY, True), (zoo_tame.Rung(1, 2.0), False),
        (zoo_tame.Pair(1), False), (zoo.Tag("a", 1), True), (zoo_tame.Key("a"), True),
    ],
)  # fmt: skip
def test_which_hashes_depend_on_the_process(value: object, depends: bool) -> None:
    assert set_order.depends_on_process(value) is depends


def test_checked_code_differs_only_where_it_must_and_keeps_its_lines() -> None:
    pairs = checked_code.checked_code(zoo.__file__)
    assert pairs
    for old, new in pairs.items():
        assert (old.co_qualname, old.co_firstlineno) == (new.co_qualname, new.co_firstlineno)
        assert old.co_freevars == new.co_freevars
        assert {line for _, _, line in old.co_lines()} >= {line for _, _, line in new.co_lines()}
    names = {code.co_qualname for code in pairs}
    assert "mid" not in names
    assert "venues_in_the_order_of_a_set.<locals>.step" in names


# ---------------------------------------------------------------- the graph itself


def test_the_bundled_session_passes_and_decides_the_same(tmp_path: Path) -> None:
    chosen = load_settings(manifest=read_manifest(BUNDLED))
    plain = replay(BUNDLED, chosen, tmp_path / "plain", trace=False)
    with strict():
        checked = replay(BUNDLED, chosen, tmp_path / "strict")
    assert checked["digest"] == plain["digest"]


@pytest.mark.parametrize("preset", ["composite", "tutorial", "fair_value", "ladder"])
def test_every_preset_passes_with_guards_of_all_kinds(preset: str, tmp_path: Path) -> None:
    for seed in range(2):
        recording = write_recording(tmp_path / f"r{seed}", random_feeds(seed, 120))
        chosen = settings(strategy=random_strategy(seed, preset), **random_sections(seed))
        plain = replay(recording, chosen, tmp_path / f"p{seed}")
        with strict():
            checked = replay(recording, chosen, tmp_path / f"s{seed}")
        assert checked["digest"] == plain["digest"]


# ---------------------------------------------------------------- perturb


USUAL = [
    Variant(name="usual"),
    Variant(name="hash seed 1", hash_seed="1"),
    Variant(name="batches of 7", batch_rows=7),
    Variant(name="collector off", collector="off"),
    Variant(name="collector eager", collector="eager"),
    Variant(name="second run", times=2),
]


def test_what_strict_cannot_see_differs_under_perturbation() -> None:
    outcomes = perturb_callable("tests.marblemaker.zoo:digests", variants=USUAL)
    by = {one.variant.name: set(one.differs) for one in outcomes}
    assert by["usual"] == set()
    assert by["hash seed 1"] >= {
        "a_clock_read_at_import", "a_hash_taken_at_import", "a_set_behind_another_name",
        "a_set_inside_compiled_code",
    }  # fmt: skip
    assert by["batches of 7"] == {"a_clock_read_at_import", "the_last_of_the_batch"}
    assert {"collections_since_the_start", "cycles_that_were_freed"} <= by["collector off"]
    assert {"collections_since_the_start", "cycles_that_were_freed"} <= by["collector eager"]
    assert {"state_of_the_class", "state_in_a_default_argument"} <= by["second run"]
    caught = set().union(*by.values())
    assert caught == set(zoo.PERTURB)  # and not the one that is sound
    assert "DIFFERS" in outcome_lines(outcomes)[1]


def test_strict_alone_does_not_see_them() -> None:
    with strict():
        for name, made in zoo.PERTURB.items():
            if name != "the_last_of_the_batch":
                zoo.outputs(made(), STREAM)


def test_a_run_is_compared_with_what_it_ended_with_and_a_prefix_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    recording, run = tmp_path / "recording", tmp_path / "run"
    write_recording(recording, random_feeds(3, 150))
    digest = replay(recording, settings(strategy=random_strategy(3, "composite")), run)["digest"]
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary.replace(digest, "another"))
    variants = [
        Variant(name="all at once", hash_seed="random", batch_rows=7, collector="eager", times=2),
        Variant(name="batches of 1", batch_rows=1, inputs=40),
    ]
    done: list[tuple[int, int]] = []

    def differ(a: Path, b: Path) -> str:
        assert (b / "decisions.parquet").is_file()
        return f"{a.name} differs"

    whole, prefix = run_perturbed(
        run, variants=variants, differ=differ, progress=lambda *at: done.append(at)
    )

    assert (whole.variant, whole.same, whole.first) == (variants[0], False, "run differs")
    assert (whole.digest, whole.differs) == (digest, []), outcome_lines([whole])
    assert prefix.same, outcome_lines([prefix])
    assert prefix.digest != digest
    assert done[-1] == (3, 3)  # the prefix in usual batches is what a prefix is compared with
    assert not list(tmp_path.glob("marble-perturb-*"))


def test_a_recording_that_was_never_run_is_refused() -> None:
    with pytest.raises(RecordingError, match="no run that ended"):
        run_perturbed(BUNDLED)


def test_a_killed_child_is_an_error_that_says_so() -> None:
    with pytest.raises(PerturbError, match='"usual" was killed by SIGKILL'):
        perturb_callable("tests.marblemaker.zoo:killed", variants=USUAL[:1])


def test_a_child_that_fails_says_with_what() -> None:
    (outcome,) = perturb_callable("tests.marblemaker.zoo:no_such", variants=USUAL[:1])
    assert not outcome.same
    assert "no_such" in str(outcome.error)
    with pytest.raises(ValueError, match="module:function"):
        perturb_callable("zoo")


def test_the_variants_cover_seeds_batches_the_collector_and_a_second_run() -> None:
    every = perturbations()
    assert {"0", "1", "random"} <= {one.hash_seed for one in every}
    assert {None, 1, 7, 4096} <= {one.batch_rows for one in every}
    assert {"usual", "off", "eager"} == {one.collector for one in every}
    assert max(one.times for one in every) == 2
