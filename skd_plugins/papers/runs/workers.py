"""What does the runs; without torch, for the help of ``skd reproduce``."""

from dataclasses import dataclass

from ...common.errors import SkdError


@dataclass(frozen=True)
class Workers:
    """What does the runs.

    Args:
        jobs: runs at a time; by default one per GPU, without GPUs one per core. 1 runs all in this process.
        slurm: submit to SLURM, with name=value of submitit's parameters, e.g. partition=gpu timeout_min=600.
    """

    jobs: int | None = None
    slurm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SkdError(f"--jobs should be at least 1, got {self.jobs}")
        self.slurm_parameters()

    def slurm_parameters(self) -> dict[str, str | int]:
        """Under submitit's names: parameters that only SLURM has begin with ``slurm_``."""
        general = ("timeout_min", "mem_gb", "gpus_per_node", "cpus_per_task", "nodes", "tasks_per_node")
        parameters: dict[str, str | int] = {}
        for text in self.slurm:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise SkdError(f"--slurm takes name=value, such as partition=gpu; got {text!r}")
            parameters[name if name in general else f"slurm_{name}"] = int(value) if value.isdigit() else value
        return parameters
