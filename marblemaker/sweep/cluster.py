"""Cluster: the same tasks on the workers of a Dask cluster that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any, Final

import msgspec

from marblemaker import __version__
from marblemaker.settings import SettingsError
from marblemaker.sweep.work import SweepError, Task, compute, failed

__all__ = ["run_on_cluster"]

Take = Callable[[Task, dict[str, Any]], None]

_CONNECT_SECONDS: Final = 15
_AHEAD: Final = 3
"""Tasks given out per thread: enough that none waits, few enough that an end comes soon."""


def run_on_cluster(
    address: str, tasks: Iterator[Task], take: Take, note: Callable[[str], None]
) -> None:
    """Compute all tasks on the cluster at ``address``; ``take(task, row)`` is given each done.

    The workers read the recordings at the same paths, and must have this version. When a worker
    dies, the scheduler gives its task to another; after a few deaths it is a row with an error.

    Errors: SettingsError without dask.distributed or if nobody answers; SweepError if the workers
        have another version, or the cluster goes away.
    """
    try:
        # By name, as it is optional.
        distributed = import_module("distributed")
    except ImportError:
        raise SettingsError(
            "--cluster needs dask.distributed, which is not installed; install the extra with "
            "`pip install 'marblemaker[cluster]'`, or leave --cluster out for local processes"
        ) from None
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}: {error}); give the "
            f"address that `dask scheduler` prints, such as tcp://HOST:8786"
        ) from None
    try:
        threads = _look_at(client, address, note)
        _run(distributed, client, tasks, take, ahead=_AHEAD * threads)
    finally:
        client.close()


def version_here() -> str:
    """The version of this program on a worker."""
    return __version__


def _look_at(client: Any, address: str, note: Callable[[str], None]) -> int:
    """Refuse workers that would not give the same; count their threads."""
    threads: dict[str, int] = client.nthreads()
    if not threads:
        raise SweepError(f"the cluster at {address} has no workers; start some with `dask worker`")
    try:
        versions: dict[str, str] = client.run(version_here)
    except Exception as error:
        raise SweepError(
            f"the workers at {address} cannot load this program ({error!r}); install marblemaker "
            f"{__version__} on each"
        ) from error
    others = {worker: one for worker, one in versions.items() if one != __version__}
    if others:
        worker, one = next(iter(others.items()))
        raise SweepError(
            f"worker {worker} has marblemaker {one}, this is {__version__}: results of two "
            f"versions are not mixed; install the same on all workers"
        )
    if any(number > 1 for number in threads.values()):
        note(
            "workers with several threads compute one combination at a time all the same; start "
            "them with --nthreads 1, one for each core"
        )
    return sum(threads.values())


def _run(distributed: Any, client: Any, tasks: Iterator[Task], take: Take, *, ahead: int) -> None:
    pending: dict[Any, Task] = {}

    def submit(task: Task) -> Any:
        future = client.submit(compute, msgspec.to_builtins(task), pure=False)
        pending[future] = task
        return future

    first = [submit(task) for task in islice(tasks, ahead)]
    try:
        finished = distributed.as_completed(first, loop=client.loop)
        for future in finished:
            task = pending.pop(future)
            if future.status == "cancelled":
                raise SweepError(
                    "the cluster went away; what is done is kept: run the same command again to "
                    "go on when it is back"
                )
            error = future.exception() if future.status == "error" else None
            told = f"{type(error).__name__}: {error}"
            take(task, future.result() if error is None else failed("lost", told))
            future.release()
            following = next(tasks, None)
            if following is not None:
                finished.add(submit(following))
    finally:
        client.cancel(list(pending), force=True)
