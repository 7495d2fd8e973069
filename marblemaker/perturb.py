"""Perturb: the same inputs again, under other hash seeds, batch sizes and collector settings.

What a strict replay cannot see (state that outlives a run, a clock read when a module was loaded, a
set in compiled code) still shows here: each variant is a process of its own, and what it decides
must be what all decide. A child takes one request, JSON on its standard input, and answers with one
line of JSON.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

__all__ = [
    "Outcome",
    "PerturbError",
    "Variant",
    "outcome_lines",
    "perturb_callable",
    "perturbations",
    "run_perturbed",
]

PREFIX: Final = 500
"""Inputs that the smallest batches are tried on; a batch costs milliseconds."""
_BATCH: Final = 65_536
_EAGER: Final = (20, 2, 2)


class PerturbError(RuntimeError):
    """A variant could not be run to its end, so nothing is known of it."""


class Variant(Struct, frozen=True, kw_only=True):
    """What is other than usual; by default nothing."""

    name: str
    hash_seed: str = "0"
    """PYTHONHASHSEED: a number, or ``random``."""
    batch_rows: int | None = None
    """Inputs a batch; ``None`` for as many as usual."""
    collector: Literal["usual", "off", "eager"] = "usual"
    times: int = 1
    """Runs in one process, of which the last counts."""
    inputs: int | None = None
    """Only so many of the first inputs; compared with the usual batches over the same."""


class Outcome(Struct, kw_only=True):
    """What became of one variant."""

    variant: Variant
    same: bool
    digest: str = ""
    differs: list[str] = []
    """Which of the digests (of operators, say) are others, where they were told."""
    first: Any = None
    """What differs first, as ``differ`` told it."""
    error: str | None = None
    """What it failed with, if it failed."""
    seconds: float = 0.0


def perturbations() -> list[Variant]:
    """The variants that a run is tried under."""
    return [
        Variant(name="hash seed 0"),
        Variant(name="hash seed 1", hash_seed="1"),
        Variant(name="hash seed random", hash_seed="random"),
        Variant(name="batches of 4096", batch_rows=4096),
        Variant(name="collector off", collector="off"),
        Variant(name="collector eager", collector="eager"),
        Variant(name="second run in one process", times=2),
        Variant(name=f"batches of 1, first {PREFIX:,} inputs", batch_rows=1, inputs=PREFIX),
        Variant(name=f"batches of 7, first {PREFIX:,} inputs", batch_rows=7, inputs=PREFIX),
    ]


def run_perturbed(
    run: Path,
    *,
    variants: Sequence[Variant] | None = None,
    differ: Callable[[Path, Path], Any] | None = None,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Replay a run under each variant, and compare with the run's own digests.

    ``differ(run, again)`` is asked what differs first, of two run folders, where a variant differs;
    ``progress(done, total)`` is told of each that is done. ``jobs`` processes run at a time.

    Shape: an outcome for each variant, in their order.
    Errors: RecordingError if ``run`` is no run; PerturbError if a child was killed.
    """
    variants = perturbations() if variants is None else list(variants)
    own = _digests_of(run)
    with tempfile.TemporaryDirectory(prefix="marble-perturb-") as scratch:
        root = Path(scratch)
        cuts = {n: _cut(run, root / f"first-{n}", n) for n in _lengths(variants)}
        plain = [Variant(name=f"first {n:,} inputs", inputs=n) for n in cuts]
        every = [*plain, *variants]
        requests = [
            {
                "run": str(run if v.inputs is None else cuts[v.inputs]),
                "out": str(root / f"out-{i}"),
            }
            for i, v in enumerate(every)
        ]

        def judge(i: int, answer: dict[str, Any], earlier: Mapping[int, dict[str, Any]]) -> Outcome:
            variant, folder = every[i], root / f"out-{i}"
            against, before = run, own
            if variant.inputs is not None:
                k = list(cuts).index(variant.inputs)
                against, before = root / f"out-{k}", earlier[k]
            outcome = _outcome(variant, answer, before)
            if not outcome.same and outcome.error is None and differ is not None:
                outcome.first = differ(against, folder)
            if i >= len(plain):
                shutil.rmtree(folder, ignore_errors=True)
            return outcome

        outcomes = _run_all(every, requests, judge, jobs, first=len(plain), progress=progress)
    return outcomes[len(plain) :]


def perturb_callable(
    target: str, *, variants: Sequence[Variant] | None = None, jobs: int = 2
) -> list[Outcome]:
    """Call ``module:function`` under each variant, and compare what it returns.

    The function runs whatever is to be tried and returns a digest, or digests by name. If it has a
    parameter ``batch_rows`` it is given the variant's. All are compared with the first variant.

    Shape: an outcome for each variant, in their order; variants of a prefix are left out.
    Errors: ValueError if ``target`` is not of that form; PerturbError if a child was killed.
    """
    module, colon, function = target.partition(":")
    if not (module and colon and function):
        raise ValueError(f'target must be "module:function", was {target!r}')
    chosen = [v for v in (perturbations() if variants is None else variants) if v.inputs is None]
    requests = [{"call": [module, function]} for _ in chosen]

    def judge(i: int, answer: dict[str, Any], earlier: Mapping[int, dict[str, Any]]) -> Outcome:
        return _outcome(chosen[i], answer, earlier.get(0, answer))

    return _run_all(chosen, requests, judge, jobs, first=1)


def outcome_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes for people, a line each."""
    width = max((len(one.variant.name) for one in outcomes), default=0)
    lines = []
    for one in outcomes:
        told = "same" if one.same else f"DIFFERS {', '.join(one.differs)}".rstrip()
        if one.error is not None:
            told = f"FAILS {one.error}"
        lines.append(f"{one.variant.name:<{width}}  {told}  ({one.seconds:.1f} s)")
    return lines


# ---------------------------------------------------------------- the parent's side


def _outcome(variant: Variant, answer: dict[str, Any], before: Mapping[str, Any]) -> Outcome:
    if "error" in answer:
        return Outcome(variant=variant, same=False, error=answer["error"])
    ours, theirs = answer["digests"], before.get("digests", {})
    # A run of an earlier version has no digests of operators; then there is nothing to compare.
    names = {**theirs, **ours} if ours and theirs else {}
    differs = [name for name in names if ours.get(name) != theirs.get(name)]
    return Outcome(
        variant=variant,
        same=answer["digest"] == before.get("digest") and not differs,
        digest=answer["digest"],
        differs=differs,
        seconds=answer["seconds"],
    )


def _run_all(
    variants: Sequence[Variant],
    requests: Sequence[dict[str, Any]],
    judge: Callable[[int, dict[str, Any], Mapping[int, dict[str, Any]]], Outcome],
    jobs: int,
    *,
    first: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run a child for each variant; the ``first`` ones are what others are compared with."""
    children: list[subprocess.Popen[str]] = []
    answers: dict[int, dict[str, Any]] = {}
    outcomes: list[Outcome] = []
    total = len(variants)
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="marble-perturb") as pool:
        tasks = [
            pool.submit(_child_of, variant, request, children)
            for variant, request in zip(variants, requests, strict=True)
        ]
        try:
            for i, task in enumerate(tasks):
                answer = task.result()
                if i < first:
                    answers[i] = answer
                outcomes.append(judge(i, answer, answers))
                if progress is not None:
                    progress(i + 1, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.kill()
            raise
    return outcomes


def _child_of(
    variant: Variant, request: dict[str, Any], children: list[subprocess.Popen[str]]
) -> dict[str, Any]:
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *(os.path.abspath(one) for one in sys.path if not one.endswith(".zip"))]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": variant.hash_seed,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    asked = {
        **request,
        "batch_rows": variant.batch_rows,
        "collector": variant.collector,
        "times": variant.times,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "marblemaker.perturb"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        children.append(child)
        answer, said = child.communicate(json.dumps(asked))
    if child.returncode < 0:
        raise PerturbError(
            f'the process of "{variant.name}" was killed by '
            f"{signal.Signals(-child.returncode).name}; if that was for want of memory, run fewer "
            f"at a time (jobs=1)"
        )
    try:
        found: dict[str, Any] = json.loads(answer)
    except json.JSONDecodeError:
        raise PerturbError(
            f'the process of "{variant.name}" ended with exit code {child.returncode} and no '
            f"answer; it said: {said.strip()[-500:] or 'nothing'}"
        ) from None
    return found


def _lengths(variants: Sequence[Variant]) -> list[int]:
    return sorted({v.inputs for v in variants if v.inputs is not None})


def _digests_of(run: Path) -> dict[str, Any]:
    """The digests that a run ended with."""
    from marblemaker.trace import read_proof
    from streams.recording import RecordingError, read_manifest

    manifest = read_manifest(run)
    path = run / "summary.json"
    if not path.is_file():
        raise RecordingError(
            f"{run} is no run that ended: it has no summary.json to compare with. Replay it with "
            f"`marble replay {run} --out RUN`, then perturb that run"
        )
    digests: dict[str, str] = {}
    for part in manifest.markets or ["."]:
        proof = read_proof(run / part)
        if proof is not None:
            mark = "" if part == "." else f"{part}: "
            digests |= {f"{mark}{name}": f"{n}:{d}" for name, (n, d) in proof.operators.items()}
    return {"digest": json.loads(path.read_text())["digest"], "digests": digests}


def _cut(run: Path, folder: Path, inputs: int) -> Path:
    """A recording of the first inputs of a run."""
    import polars as pl

    from streams.recording import FILES, FrameWriter, Manifest, read_manifest, write_manifest

    manifest = read_manifest(run)
    folder.mkdir()
    if manifest.markets:
        for part in manifest.markets:
            _cut(run / part, folder / part, inputs)
        write_manifest(folder, Manifest(mode=manifest.mode, markets=manifest.markets))
        return folder
    cut = Manifest(
        mode=manifest.mode,
        instruments=manifest.instruments,
        settings=manifest.settings,
        sources=manifest.sources,
    )
    for name in manifest.files:
        if name in FILES:
            rows = pl.scan_parquet(run / f"{name}.parquet")
            if "seq" in rows.collect_schema():
                rows = rows.filter(pl.col("seq") <= inputs)
            frame = rows.head(inputs).collect()
            writer = FrameWriter(folder, name, frame.schema)
            writer.append(frame)
            cut.files[name] = writer.close()
    write_manifest(folder, cut)
    return folder


# ---------------------------------------------------------------- the child's side


def _child() -> None:
    # Whatever else is printed must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.read())
    _set_collector(request["collector"])
    started = time.perf_counter()
    try:
        work = _replay if "run" in request else _call
        for _ in range(request["times"]):
            found = work(request)
        found["seconds"] = round(time.perf_counter() - started, 3)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    answer.write(json.dumps(found) + "\n")
    answer.close()


def _set_collector(setting: str) -> None:
    if setting == "off":
        gc.disable()
    elif setting == "eager":
        gc.set_threshold(*_EAGER)
        # A replay has thresholds of its own; here these are to stay.
        gc.set_threshold = lambda *_thresholds: None


def _replay(request: dict[str, Any]) -> dict[str, Any]:
    from marblemaker.replay import replay, replay_together
    from marblemaker.settings import load_settings
    from streams.recording import read_manifest

    run, out = Path(request["run"]), Path(request["out"])
    batch_rows = request["batch_rows"] or _BATCH
    markets = read_manifest(run).markets
    folders = [run / name for name in markets or ["."]]
    settings = [load_settings(manifest=read_manifest(folder)) for folder in folders]
    if markets:
        replay_together(folders, settings, out, batch_rows=batch_rows, overwrite=True)
    else:
        replay(run, settings[0], out, batch_rows=batch_rows, overwrite=True)
    return _digests_of(out)


def _call(request: dict[str, Any]) -> dict[str, Any]:
    module, name = request["call"]
    function = getattr(importlib.import_module(module), name)
    named = {}
    if "batch_rows" in (parameters := inspect.signature(function).parameters):
        usual = parameters["batch_rows"].default
        named["batch_rows"] = request["batch_rows"] or (
            _BATCH if usual is inspect.Parameter.empty else usual
        )
    found = function(**named)
    digests = {str(k): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}
    return {"digest": json.dumps(digests) if digests else str(found), "digests": digests}


if __name__ == "__main__":
    _child()
