"""Runs the jobs of a plan in this process, in local processes of submitit, or on SLURM; or prints shell commands."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import submitit
import torch

from ...common.errors import SkdError
from ...common.meter import clock
from .inputs import Workers
from .jobs import Job, Plan
from .store import Store
from .worker import work, write_job


def commands(plan: Plan, store: Store) -> list[str]:
    """One shell command for each run that is left; commands after a comment need those before it."""
    lines = []
    for number, level in enumerate(_prepare(plan, store)):
        if number and level:
            lines.append("# the following start from networks of those above: wait for these")
        for job in level:
            command = [sys.executable, "-m", "skd_plugins.papers.runs.worker", str(store.root.resolve()), job.address]
            lines.append(f"{shlex.join(command)}  # {job.title}")
    return lines


def execute(plan: Plan, store: Store, workers: Workers) -> None:
    """Runs the remaining jobs of a plan and prints a line for each that ends."""
    levels = _prepare(plan, store)
    left, total = sum(map(len, levels)), len(plan.jobs)
    absent = [job for job in plan.jobs.values() if not job.present]
    print(f"runs: {total}, of them {total - left - len(absent)} done, {left} to do", flush=True)
    for name in sorted({job.recipe.dataset for job in absent}):
        print(f"no data: {plan.datasets.root / name} is not there; {plan.datasets.way_to(name)}", flush=True)
    progress = _Progress(store, left)
    root, gpus = store.root.resolve(), _gpus()
    parallel = workers.jobs or (left if workers.slurm else len(gpus) or os.cpu_count() or 1)
    task = partial(work, root, began=progress.began)
    for level in filter(None, levels):
        if parallel == 1 and not workers.slurm:
            for job in level:
                task([job.address])
                progress.report([job])
            continue
        addresses, logs = [job.address for job in level], root / "submitit"
        if workers.slurm:
            running = _submit_slurm(task, addresses, logs, parallel, workers.slurm_parameters())
        else:
            running = _submit_local(task, addresses, logs, parallel, gpus)
        try:
            while not all(one.done() for one in running):
                progress.report(level)
                time.sleep(1)
        except KeyboardInterrupt:
            for one in running:
                one.cancel()
            raise
        progress.report(level)
        # The other workers take over the jobs of a dead one, unless it was the last.
        if lost := [job for job in level if store.state(job) not in ("done", "failed")]:
            ended = [str(one.paths.stderr) for one in running if one.exception() is not None]
            raise SkdError(
                f"{len(lost)} of {left} runs are left, since workers ended early (killed, or out of memory? see "
                f"{', '.join(ended)}); the same command goes on from here"
            )


def _prepare(plan: Plan, store: Store) -> list[list[Job]]:
    """Writes every ``job.json``; returns the jobs that are left and have their data, by level."""
    for job in plan.jobs.values():
        if job.present:
            write_job(store, job, plan.datasets)
    return [[job for job in level if job.present and store.state(job) != "done"] for level in plan.levels]


Task = Callable[[list[str]], Any]


def _submit_slurm(task: Task, addresses: list[str], logs: Path, parallel: int, given: dict[str, Any]) -> list[Any]:
    """An array with one task per run."""
    defaults = {"gpus_per_node": 1, "timeout_min": 60 * 24, "slurm_array_parallelism": parallel}
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster="slurm")
        executor.update_parameters(**(defaults | given))
    except (RuntimeError, NameError, ValueError, TypeError) as error:  # no SLURM here, or no such parameter
        raise SkdError(f"--slurm: {error}") from None
    with executor.batch():
        return [executor.submit(task, [address]) for address in addresses]


def _submit_local(task: Task, addresses: list[str], logs: Path, parallel: int, gpus: Sequence[str]) -> list[Any]:
    """A few workers that share the list, each with its own GPU."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parallel)))  # or each takes all cores
    running = []
    for number in range(min(parallel, len(addresses))):
        executor = submitit.AutoExecutor(folder=logs, cluster="local")
        executor.update_parameters(timeout_min=60 * 24 * 365)
        gpu = gpus[number % len(gpus)] if gpus else ""
        running.append(executor.submit(_on_gpu, gpu, task, addresses))
    return running


def _on_gpu(gpu: str, task: Task, addresses: list[str]) -> Any:
    """Runs in a worker, which has not used CUDA yet; submitit itself would show GPU 0 to every worker."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return task(addresses)


def _gpus() -> list[str]:
    """The GPUs of this process by the names of ``CUDA_VISIBLE_DEVICES``, or by their numbers."""
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (names.split(",") if names else list(map(str, range(count))))[:count]


class _Progress:
    """Prints one line for every job that ends."""

    def __init__(self, store: Store, total: int) -> None:
        self.store, self.total = store, total
        self.seen: set[str] = set()
        self.began = time.time()

    def report(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.address in self.seen:
                continue
            done = self.store.state(job) == "done"
            error = None if done else self.store.error(job.address, since=self.began)
            if done or error:
                self.seen.add(job.address)
                took, count = time.time() - self.began, len(self.seen)
                times = f"{clock(took)}, ETA {clock(took * (self.total / count - 1))}"
                state, reason = ("failed", f": {error}") if error else ("done", "")
                print(f"[{count}/{self.total}, {times}] {state}: {job.title} ({job.address}){reason}", flush=True)
