"""Doing the jobs of a plan: in this process, in submitit's local processes, or on SLURM; or as shell commands."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...common.errors import SkdError
from ...common.meter import clock
from .jobs import Job, Plan
from .store import Store
from .worker import work, write_job

_POLL = 1.0  # seconds


def prepare(plan: Plan, store: Store) -> list[list[Job]]:
    """Writes every ``job.json``; the jobs that are left to do, by level, without those that lack their data."""
    levels = []
    for level in plan.levels:
        for job in level:
            if job.present:
                write_job(store, job, plan.datasets)
        levels.append([job for job in level if job.present and store.state(job) != "done"])
    return levels


def commands(plan: Plan, store: Store) -> list[str]:
    """One shell command a run, for any scheduler; those after a comment need those before it."""
    lines = []
    for number, level in enumerate(prepare(plan, store)):
        if number and level:
            lines.append("# the following start from networks of those above: wait for these")
        for job in level:
            command = [sys.executable, "-m", "skd_plugins.papers.runs.worker", str(store.root.resolve()), job.address]
            lines.append(f"{shlex.join(command)}  # {job.title}")
    return lines


def execute(plan: Plan, store: Store, *, jobs: int | None = None, slurm: Sequence[str] = ()) -> None:
    """Does what is left of a plan, and says what is done as it gets done.

    Args:
        plan: what.
        store: where.
        jobs: at a time; None for one a device (one a core without GPUs). With 1, everything runs in this process.
        slurm: ``name=value`` of submitit's SLURM parameters (``partition=gpu``); none for this machine.

    Raises:
        SkdError: a parameter that submitit does not have, or workers ended before their work.
    """
    chosen = _slurm(slurm)  # what is wrong with it is said before anything is done
    levels = prepare(plan, store)
    left = sum(map(len, levels))
    total = len(plan.jobs)
    absent = [job for job in plan.jobs.values() if not job.present]
    print(f"runs: {total}, of them {total - left - len(absent)} done, {left} to do", flush=True)
    for name in sorted({job.recipe.dataset for job in absent}):
        print(f"no data: {plan.datasets.root / name} is not there; {plan.datasets.way_to(name)}", flush=True)
    gpus = _gpus()
    parallel = jobs or (max(left, 1) if slurm else len(gpus) or os.cpu_count() or 1)
    progress = _Progress(store, left)
    root = store.root.resolve()
    for level in levels:
        if not level:
            continue
        if parallel == 1 and not slurm:
            for job in level:
                work(store.root, [job.address], progress.began)
                progress.report([job])
            continue
        task = partial(work, root, began=progress.began)
        running = _submit(task, [job.address for job in level], root / "submitit", parallel, gpus, chosen)
        try:
            while not all(one.done() for one in running):
                progress.report(level)
                time.sleep(_POLL)
        except KeyboardInterrupt:
            for one in running:
                one.cancel()
            raise
        progress.report(level)
        # One worker's end is made up for by the others, unless it was the last.
        logs = [str(one.paths.stderr) for one in running if one.exception() is not None]
        lost = [job for job in level if store.state(job) not in ("done", "failed")]
        if lost:
            raise SkdError(
                f"{len(lost)} of {left} runs are left, since workers ended early (killed, or out of memory? see "
                f"{', '.join(logs)}); the same command goes on from here"
            )


def _submit(
    task: Callable[[list[str]], Any], addresses: list[str], logs: Path, parallel: int, gpus: Sequence[str],
    slurm: dict[str, Any],
) -> list[Any]:  # fmt: skip
    """Local: a few workers that share the list, each with a GPU. SLURM: an array with one task a run."""
    import submitit

    if slurm:
        try:
            executor = submitit.AutoExecutor(folder=logs, cluster="slurm")
        except RuntimeError as error:
            raise SkdError(f"--slurm: {error}") from None
        parameters = {"gpus_per_node": 1, "timeout_min": 60 * 24, "slurm_array_parallelism": parallel}
        try:
            executor.update_parameters(**(parameters | slurm))
        except (NameError, ValueError, TypeError) as error:  # submitit's words for a parameter that is not there
            raise SkdError(f"--slurm {slurm}: {error}") from None
        with executor.batch():
            return [executor.submit(task, [address]) for address in addresses]
    # Workers would otherwise use all cores each.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parallel)))
    running = []
    for number in range(min(parallel, len(addresses))):
        executor = submitit.AutoExecutor(folder=logs, cluster="local")
        executor.update_parameters(timeout_min=60 * 24 * 365)
        gpu = gpus[number % len(gpus)] if gpus else ""
        running.append(executor.submit(_on_gpu, gpu, task, addresses))
    return running


def _on_gpu(gpu: str, task: Callable[[list[str]], Any], addresses: list[str]) -> Any:
    """Runs in a worker, which has not used CUDA yet; submitit itself would show every worker GPU 0."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return task(addresses)


def _slurm(texts: Sequence[str]) -> dict[str, str | int]:
    parameters: dict[str, str | int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SkdError(f"--slurm takes name=value, such as partition=gpu; got {text!r}")
        general = name in ("timeout_min", "mem_gb", "gpus_per_node", "cpus_per_task", "nodes", "tasks_per_node")
        parameters[name if general else f"slurm_{name}"] = int(value) if value.isdigit() else value
    return parameters


def _gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs of this process: numbers, or the names it was given."""
    import torch

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (names.split(",") if names else list(map(str, range(count))))[:count]


class _Progress:
    """One line for every job that got done or failed."""

    def __init__(self, store: Store, total: int) -> None:
        self.store, self.total = store, total
        self.seen: set[str] = set()
        self.started = time.monotonic()
        self.began = time.time()

    def report(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.address in self.seen:
                continue
            state = self.store.state(job)
            if state == "done" or (state == "failed" and self.store.failed_since(job.address, self.began)):
                self.seen.add(job.address)
                took, done = time.monotonic() - self.started, len(self.seen)
                times = f"{clock(took)}, ETA {clock(took * (self.total / done - 1))}"
                reason = f": {self.store.error(job.address)}" if state == "failed" else ""
                print(f"[{done}/{self.total}, {times}] {state}: {job.title} ({job.address}){reason}", flush=True)
