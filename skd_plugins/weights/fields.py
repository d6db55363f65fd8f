"""What cards and checkpoints have to contain."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt
from torch import Tensor

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
