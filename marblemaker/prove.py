"""Prove: that a run's decisions follow from its inputs.

The inputs that a run recorded go through the same graph again, and what every operator puts out is
compared, by digest, with what the run had noted. The certificate says what was compared and where.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from marblemaker.bisect import Difference, bisect, difference_lines, flat
from marblemaker.perturb import Outcome, outcome_lines, run_perturbed
from marblemaker.replay import Progress, ReplayError, replay, replay_together
from marblemaker.settings import as_used, load_settings
from marblemaker.strict import StrictError
from marblemaker.trace import Proof, operators_in_order, read_proof, settings_digest
from marblemaker.versions import versions
from marblemaker.wiring import budget_of
from sinks.recorder import SESSION
from streams.events import OutOfOrderError
from streams.recording import (
    FILES,
    MANIFEST,
    FileEntry,
    Manifest,
    RecordingError,
    file_entry,
    read_manifest,
    sha256_of,
    write_manifest,
)

__all__ = ["Certificate", "OperatorProof", "certificate_lines", "perturb", "prove"]

Verdict = Literal["identical", "diverged", "not provable"]


class OperatorProof(Struct, kw_only=True):
    """One operator's outputs, as the run noted them and as they came out again."""

    operator: str
    n: int
    digest: str
    n_again: int
    digest_again: str

    @property
    def same(self) -> bool:
        """Whether both are the same."""
        return (self.n, self.digest) == (self.n_again, self.digest_again)


class Certificate(Struct, kw_only=True):
    """What was proven of a run, or why nothing can be."""

    run: str
    verdict: Verdict
    mode: str = ""
    events: int = 0
    decisions: int = 0
    orders: int = 0
    digest: str = ""
    """The sha256 over decisions and orders that the run ended with."""
    digest_again: str = ""
    operators: list[OperatorProof] = []
    difference: Difference | None = None
    obstacles: list[str] = []
    """Why it is not provable."""
    notes: list[str] = []
    """What is unusual and does not decide the verdict."""
    strict: str | None = None
    """With ``--strict``: what was found, ``nothing`` if nothing was."""
    perturbations: list[Outcome] = []
    """With ``--perturb``: what became of each variant."""
    versions: dict[str, str] = {}
    """Of what the proof was made with."""
    versions_of_run: dict[str, str] = {}
    platform: str = ""
    platform_of_run: str = ""
    seconds: float = 0.0
    markets: dict[str, Certificate] = {}
    """Of a run of several markets, a certificate each."""


def prove(
    run: Path,
    *,
    config: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    strict: bool = False,
    progress: Progress | None = None,
) -> Certificate:
    """Replay a run's inputs and compare what comes out; see ``Certificate``.

    ``config`` and ``overrides`` are settings that the run is claimed to have had: if they are not
    those that it noted, that is an obstacle. ``strict``: see ``marblemaker.strict``.

    Errors: RecordingError if ``run`` is not a recording or run at all.
    """
    started = time.perf_counter()
    if (run / SESSION).is_file() and not (run / MANIFEST).is_file():
        killed = Certificate(run=str(run), verdict="not provable")
        killed.obstacles.append(
            f"{run} has not ended, or was killed; look after it with `marble doctor {run}`"
        )
        return killed
    manifest = read_manifest(run)
    if manifest.markets:
        certificate = _prove_together(run, manifest, strict=strict, progress=progress)
    else:
        certificate = _prove_one(run, manifest, config, overrides, strict, progress)
    certificate.seconds = round(time.perf_counter() - started, 3)
    return certificate


def _prove_one(
    run: Path,
    manifest: Manifest,
    config: dict[str, Any] | None,
    overrides: Sequence[str],
    strict: bool,
    progress: Progress | None,
) -> Certificate:
    certificate = _begin(run, manifest)
    proof = _look_at(run, manifest, certificate)
    shared = manifest.sources.get("account", {}).get("shared_with")
    if shared and budget_of(load_settings(manifest=manifest)) is not None:
        certificate.obstacles.append(
            f"it shared its account's budget with {', '.join(shared)}, so its decisions depend on "
            f"inputs outside its log; prove the folder of them all"
        )
    if config is not None or overrides:
        certificate.obstacles += _other_settings(manifest, config, overrides)
    if certificate.obstacles:
        return certificate
    with tempfile.TemporaryDirectory(prefix="marble-prove-") as folder:
        again = Path(folder) / "again"
        try:
            source = _as_it_stands(run, manifest, Path(folder) / "run", certificate)
            settings = load_settings(manifest=manifest)
            summary = _strictly(
                certificate,
                strict,
                lambda: replay(source, settings, again, progress=progress, strict=strict),
            )
        except (RecordingError, OutOfOrderError) as error:
            certificate.obstacles.append(str(error).replace(folder, str(run.parent)))
            return certificate
        except ReplayError as error:
            return _failed(certificate, manifest, error)
        if summary is not None:
            _compare(certificate, run, again, proof, summary["digest"])
    return certificate


def _prove_together(
    run: Path, manifest: Manifest, *, strict: bool, progress: Progress | None
) -> Certificate:
    """A run of several markets: they share an account, so they are gone through together."""
    whole = Certificate(run=str(run), verdict="not provable", mode=manifest.mode)
    folders = [run / name for name in manifest.markets]
    manifests = [read_manifest(folder) for folder in folders]
    proofs = []
    for folder, of in zip(folders, manifests, strict=True):
        certificate = whole.markets[folder.name] = _begin(folder, of)
        proofs.append(_look_at(folder, of, certificate))
        whole.obstacles += [f"{folder.name}: {text}" for text in certificate.obstacles]
    if whole.obstacles:
        return whole
    with tempfile.TemporaryDirectory(prefix="marble-prove-") as scratch:
        again = Path(scratch) / "again"
        try:
            sources = [
                _as_it_stands(one, of, Path(scratch) / one.name, whole.markets[one.name])
                for one, of in zip(folders, manifests, strict=True)
            ]
            settings = [load_settings(manifest=of) for of in manifests]
            summary = _strictly(
                whole,
                strict,
                lambda: replay_together(sources, settings, again, progress=progress, strict=strict),
            )
        except (RecordingError, OutOfOrderError) as error:
            whole.obstacles.append(str(error).replace(scratch, str(run)))
            return whole
        except ReplayError as error:
            return _failed(whole, manifest, error)
        if summary is None:
            return whole
        for one, proof in zip(folders, proofs, strict=True):
            digest = summary["markets"][one.name]["digest"]
            _compare(whole.markets[one.name], one, again / one.name, proof, digest)
    parts = list(whole.markets.values())
    for name in ("events", "decisions", "orders"):
        setattr(whole, name, sum(getattr(part, name) for part in parts))
    verdicts = {part.verdict for part in parts}
    whole.verdict = "identical"
    verdict: Verdict
    for verdict in ("not provable", "diverged"):
        if verdict in verdicts:
            whole.verdict = verdict
    differences = [part.difference for part in parts if part.difference is not None]
    whole.difference = min(differences, key=lambda d: (d.ts, d.seq), default=None)
    return whole


def _strictly(certificate: Certificate, strict: bool, work: Any) -> dict[str, Any] | None:
    """Do the replay; what strict finds decides the verdict."""
    try:
        summary: dict[str, Any] = work()
    except StrictError as error:
        certificate.strict = str(error)
        certificate.verdict = "diverged"
        return None
    if strict:
        certificate.strict = "nothing"
    return summary


def perturb(
    certificate: Certificate, run: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Add what becomes of a run that was proven when hash seed, batches and collector are others.

    One that comes out otherwise makes the verdict ``diverged``.

    Errors: PerturbError if a child was killed.
    """

    def first(one: Path, other: Path) -> Difference | None:
        # A run without a trace tells that it differs, and not where.
        try:
            return bisect(one, other)
        except RecordingError:
            return None

    certificate.perturbations = run_perturbed(run, differ=first, progress=progress)
    if not all(outcome.same for outcome in certificate.perturbations):
        certificate.verdict = "diverged"


# ---------------------------------------------------------------- before


def _begin(run: Path, manifest: Manifest) -> Certificate:
    return Certificate(
        run=str(run),
        verdict="not provable",
        mode=manifest.mode,
        versions=versions("numba"),
        versions_of_run=manifest.versions,
        platform=f"{platform.system()} {platform.machine()}",
    )


def _look_at(run: Path, manifest: Manifest, certificate: Certificate) -> Proof | None:
    """Collect all that stands in the way of a proof."""
    obstacles = certificate.obstacles
    if manifest.mode in ("import", "synthetic", "record"):
        obstacles.append(
            f"{run} holds inputs only (mode {manifest.mode}): nothing was decided. Replay it, "
            f"then prove that run"
        )
        return None
    if manifest.ended == "running":
        obstacles.append(
            f"{run} has not ended, or was killed; look after it with `marble doctor {run}`"
        )
    elif manifest.ended.startswith("salvaged"):
        obstacles.append(
            f"the run was killed ({manifest.ended}): what was not on disk by then is lost, and so "
            f"are its digests. Replay it for the decisions that follow from what is left"
        )
        return None
    for name in ("decisions", "orders", *(name for name in FILES if name in manifest.files)):
        if not (run / f"{name}.parquet").is_file():
            obstacles.append(f"{name}.parquet is missing; put it back from a copy")
    proof = read_proof(run)
    if proof is None:
        certificate.notes.append(
            "the run kept no digests of operators; decisions and orders alone are compared"
        )
        return None
    certificate.platform_of_run = proof.platform
    obstacles += proof.outside
    if proof.settings != settings_digest(manifest):
        obstacles.append(
            "the settings in manifest.json are not those that the run was made with: they were "
            "changed since. Restore the manifest from a copy"
        )
    if not obstacles:
        obstacles += _gaps(run, manifest, proof)
    return proof


def _gaps(run: Path, manifest: Manifest, proof: Proof) -> list[str]:
    """Inputs that the run was delivered and its files have not."""
    gaps = []
    names = {name for name in FILES if name in manifest.files}
    names |= {name.removeprefix("input ") for name in proof.operators if name.startswith("input ")}
    for name in sorted(names):
        delivered = proof.operators.get(f"input {name}", (0, ""))[0]
        path = run / f"{name}.parquet"
        try:
            rows = pl.scan_parquet(path).select(pl.len()).collect().item() if path.is_file() else 0
        except (OSError, pl.exceptions.PolarsError) as error:
            gaps.append(f"{name}.parquet cannot be read: {error}")
            continue
        if rows != delivered:
            gaps.append(
                f"a gap in the recording: {name}.parquet has {rows:,} rows, the run was delivered "
                f"{delivered:,}{_first_missing(run, manifest)}"
            )
    return gaps


def _first_missing(run: Path, manifest: Manifest) -> str:
    """The first sequence number that no input has, in words; none if there is none."""
    numbers = [
        pl.scan_parquet(run / f"{name}.parquet").select(pl.col("seq"))
        for name in FILES
        if name in manifest.files and (run / f"{name}.parquet").is_file()
    ]
    seqs = pl.concat(numbers).sort("seq").collect()["seq"]
    jumps = (seqs.diff() > 1).fill_null(False)
    if not jumps.any():
        return ""
    at = int(jumps.arg_max() or 0)
    return f"; the first that is missing is seq {seqs[at - 1] + 1}"


def _other_settings(
    manifest: Manifest, config: dict[str, Any] | None, overrides: Sequence[str]
) -> list[str]:
    claimed = flat(as_used(load_settings(config=config, overrides=overrides, manifest=manifest)))
    had = flat(as_used(load_settings(manifest=manifest)))
    return [
        f"settings: {key} is {claimed.get(key)!r} now, the run was made with {had.get(key)!r}"
        for key in sorted({*claimed, *had})
        if claimed.get(key) != had.get(key)
    ]


def _as_it_stands(run: Path, manifest: Manifest, folder: Path, certificate: Certificate) -> Path:
    """The run's inputs as a recording, also if their files are not those that it ended with."""
    folder.mkdir()
    files: dict[str, FileEntry] = {}
    for name, entry in manifest.files.items():
        if name not in FILES:
            continue
        path = run / f"{name}.parquet"
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)
        if sha256_of(path) != entry.sha256:
            certificate.notes.append(
                f"{path.name} is not the file that the run ended with (its sha256 differs)"
            )
            frames = pl.scan_parquet(path)
            rows, first, last = (
                frames.select(pl.len(), pl.first("ts").alias("a"), pl.last("ts").alias("b"))
                .collect()
                .row(0)
            )
            entry = file_entry(path, rows, (first, last))
        files[name] = entry
    write_manifest(folder, replace(manifest, files=files))
    return folder


# ---------------------------------------------------------------- after


def _failed(certificate: Certificate, manifest: Manifest, error: ReplayError) -> Certificate:
    """The graph failed on the way: so did the run, or the two differ."""
    if manifest.ended.startswith("failed"):
        certificate.obstacles.append(f"the graph fails on these inputs, as it did then: {error}")
    else:
        certificate.verdict = "diverged"
        certificate.notes.append(f"the graph fails on these inputs, which it did not then: {error}")
    return certificate


def _compare(
    certificate: Certificate, run: Path, again: Path, proof: Proof | None, digest_again: str
) -> None:
    summary = json.loads((run / "summary.json").read_text())
    manifest = read_manifest(again)
    certificate.events = sum(e.rows for name, e in manifest.files.items() if name in FILES)
    certificate.decisions = manifest.files["decisions"].rows
    certificate.orders = manifest.files["orders"].rows
    certificate.digest, certificate.digest_again = summary["digest"], digest_again
    proof_again = read_proof(again)
    assert proof_again is not None
    if proof is not None:
        certificate.operators = _operators(proof, proof_again)
        if any(not operator.same for operator in certificate.operators):
            certificate.verdict = "diverged"
            try:
                certificate.difference = bisect(run, again)
            except RecordingError as error:
                certificate.notes.append(str(error).replace(str(again), "its replay"))
            return
    same = certificate.digest == digest_again == (proof.decisions if proof else digest_again)
    certificate.verdict = "identical" if same else "diverged"
    if not same and proof is not None:
        certificate.notes.append(
            "what came out is what the run's trace noted; the digest of summary.json is another: "
            "it was changed since"
        )
    changed = _changed_outputs(run)
    if changed:
        certificate.verdict = "diverged"
        certificate.notes += changed


def _operators(proof: Proof, again: Proof) -> list[OperatorProof]:
    nothing = (0, "")
    found = []
    for name in operators_in_order(sorted({*proof.operators, *again.operators})):
        n, digest = proof.operators.get(name, nothing)
        n_again, digest_again = again.operators.get(name, nothing)
        found.append(
            OperatorProof(
                operator=name, n=n, digest=digest, n_again=n_again, digest_again=digest_again
            )
        )
    return found


def _changed_outputs(run: Path) -> list[str]:
    """Tables of the run that are not those it ended with."""
    manifest = read_manifest(run)
    return [
        f"{name}.parquet is not the file that the run ended with (its sha256 differs)"
        for name, entry in manifest.files.items()
        if name not in FILES and sha256_of(run / f"{name}.parquet") != entry.sha256
    ]


# ---------------------------------------------------------------- for people


def certificate_lines(certificate: Certificate) -> list[str]:
    """Tell it to a person."""
    c = certificate
    lines = [f"{c.verdict.upper()}  {c.run}"]
    if c.obstacles:
        lines += [f"  {text}" for text in c.obstacles]
        return [*lines, *(f"  note: {note}" for note in c.notes)]
    if c.events:
        lines.append(
            f"  {c.events:,} inputs gave {c.decisions:,} decisions and {c.orders:,} orders"
            f"{' again' if c.verdict == 'identical' else ''}, mode {c.mode}"
            f"{f', {c.seconds} s' if c.seconds else ''}"
        )
    if c.operators:
        lines.append(f"  {'operator':20}{'outputs':>12}  {'digest':16}")
        lines += [_operator_line(operator) for operator in c.operators]
    for name, part in c.markets.items():
        lines += ["", f"  {name}", *(f"  {line}" for line in certificate_lines(part)[1:])]
    if c.difference is not None:
        lines += ["", *difference_lines(c.difference, ("the run", "its replay"))]
    if c.digest:
        lines.append(f"  decisions and orders  {c.digest}")
        if c.digest_again != c.digest:
            lines.append(f"  again                 {c.digest_again}")
    if c.strict is not None:
        lines.append(f"  strict: found {c.strict}")
    lines += [f"  {line}" for line in outcome_lines(c.perturbations)]
    for outcome in c.perturbations:
        if isinstance(outcome.first, Difference):
            lines += ["", f"under {outcome.variant.name}:"]
            lines += difference_lines(outcome.first, ("the run", "its replay"))
    lines += [f"  {text}" for text in _elsewhere(c)]
    return [*lines, *(f"  note: {note}" for note in c.notes)]


def _operator_line(operator: OperatorProof) -> str:
    line = f"  {operator.operator:20}{operator.n:>12,}  {operator.digest:16}"
    if operator.same:
        return line
    return f"{line}  ≠ {operator.n_again:,}  {operator.digest_again}"


def _elsewhere(certificate: Certificate) -> list[str]:
    """What the proof was made with that the run was not."""
    then, now = certificate.versions_of_run, certificate.versions
    lines = [
        f"made with {name} {then[name]}, proven with {now.get(name)}"
        for name in sorted(then)
        if name in now and then[name] != now[name]
    ]
    if certificate.platform_of_run not in ("", certificate.platform):
        lines.append(f"made on {certificate.platform_of_run}, proven on {certificate.platform}")
    return lines
