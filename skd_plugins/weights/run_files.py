"""What a run's files have to contain. Whoever reads one of them checks it here; ``recipe.json`` is in ``recipe.py``."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt
from torch import Tensor

from ..common.typed import read_json

_Positive = Annotated[FiniteFloat, Field(gt=0)]
_Whole = Annotated[StrictInt, Field(ge=0)]
_State = Annotated[dict[str, Tensor], Field(min_length=1)]


class _Recipe(BaseModel):
    name: str


class Card(BaseModel):
    """Fields that a card must have, and the types of those it may have."""

    model: Annotated[str, Field(pattern=r"^(torchvision/|timm/)?[\w.-]+$", max_length=200)]  # never hf-hub:, local-dir:
    model_args: dict[str, Any]
    num_classes: Annotated[int, Field(gt=0, le=1_000_000)]
    name: str = ""
    classes: list[str] | None = None
    input_size: tuple[Literal[3], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (3, 1, 1)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0, 0, 0)
    std: tuple[_Positive, _Positive, _Positive] = (1, 1, 1)
    crop_pct: _Positive = 1
    interpolation: str = ""
    color: Literal["RGB", "BGR"] = "RGB"
    recipe: _Recipe | None = None
    environment: dict[str, Any] | None = None


class _OwnCard(Card):
    model: str  # whatever network the run was trained with
    classes: list[str] | None
    recipe: _Recipe


class Trained(BaseModel):
    """What an evaluation or an export needs of a checkpoint."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    state_dict: _State
    state_dict_ema: _State | None = None
    card: _OwnCard
    epoch: _Whole
    step: _Whole


class Checkpoint(Trained):
    """What a training needs to continue."""

    steps_per_epoch: Annotated[StrictInt, Field(gt=0)]
    best: FiniteFloat
    best_epoch: StrictInt
    optimizer: dict[str, Any]
    task_state: dict[str, Any] | None = None
    scaler: dict[str, Any] = {}


class _Info(BaseModel):
    data: str = ""


class _Bins(BaseModel):
    edges: list[float]
    counts: list[int]
    accuracy: list[float | None]
    confidence: list[float | None]


class _Metrics(BaseModel):
    metrics: dict[str, float | None]
    reliability: _Bins
    info: _Info


def read_metrics(path: Path) -> dict[str, Any]:
    """The content of a ``metrics.json``."""
    return read_json(path, _Metrics, what="a file of metrics (delete it, and skd evaluate writes it again)")


class LogLine(BaseModel):
    """What is read of a line of ``metrics.jsonl``."""

    event: str = ""
    step: int = 0
    epoch: int = 0
    top1: float | None = None
    nll: float | None = None


def read_log(path: Path) -> list[tuple[bytes, LogLine]]:
    """The lines of a ``metrics.jsonl``, without damaged ones: a killed process cuts its last one short."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append((line + b"\n", LogLine.model_validate_json(line)))
    return found
