"""What `timm_train` refuses, before the script runs or as it asks for it, and that it leaves timm as it was."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm.data
import timm.task
from test_timm_train import NARROW, STANDIN, timm_data, timm_run  # noqa: F401  fixtures

from skd_plugins.commands.scripts import timm_train
from skd_plugins.common.errors import SkdError
from skd_plugins.timm_train.beton_dataset import BetonDataset

IMPORT = "import timm.data\nfrom timm.task import ClassificationTask"


def attributes() -> list[int]:
    return [id(value) for value in (sys.argv, *vars(timm.data).values(), *vars(timm.task).values())]


def test_everything_is_restored(run: Any, data: dict[str, Path]) -> None:
    before = attributes()
    record = run("beton", "cs_kd", "")
    assert record["argv"][:3] == [str(STANDIN), "--data-dir", str(data["beton"])]
    assert attributes() == before
    with pytest.raises(SystemExit):
        run("beton", "cs_kd", "", "--unknown")
    assert attributes() == before


@pytest.mark.parametrize(
    ("method", "method_args", "message"),
    [
        ("cskd", "", "unknown method 'cskd'; did you mean 'cs_kd'"),
        ("sd_dropout", "weight=abc", "method 'sd_dropout': weight should be a valid number"),
        ("adacos", "", "adacos needs a network with a cosine classifier, which timm's train.py can't make"),
        ("kd", "teacher=resnet18 base=kd", "method 'kd' needs the argument 'teacher'"),
        ("ps_kd", "", "ps_kd needs the epoch, which timm's train.py does not tell it"),
    ],
)
def test_bad_methods_are_refused_before_the_script_runs(
    tmp_path: Path, method: str, method_args: str, message: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{IMPORT}\nraise AssertionError('this should not run')")
    with pytest.raises(SkdError, match=message):
        timm_train(script, method, method_args.split(), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"can't read .*script.py \(No such file or directory\); get train.py from .*1\.0\.3\d"),
        ("from timm.utils import NativeScaler", "does not use timm.task.ClassificationTask; get train.py from"),
        (IMPORT, "ended without creating its ClassificationTask"),
        (f"{IMPORT}, Nothing", r"does not fit the installed timm 1\.\S+ \(cannot import"),
        (f"{IMPORT}\ntimm.data.create_loader(0, 8, 8, new=1)", "does not fit .*create_loader.*new.*use train.py of"),
        (f"{IMPORT}\ntimm.data.create_naflex_loader(None)", "--naflex-loader makes batches of patches"),
    ],
)
def test_scripts_that_do_not_fit(tmp_path: Path, text: str | None, message: str) -> None:
    script = tmp_path / "script.py"
    if text is not None:
        script.write_text(text)
    with pytest.raises(SkdError, match=message):
        timm_train(script, "ce", [], [])


@pytest.mark.parametrize(
    ("kind", "method", "method_args", "arguments", "message"),
    [
        ("folder", "cs_kd", "", "--use-multi-epochs-loader", "--use-multi-epochs-loader can't .*anchor | pair"),
        ("folder", "cs_kd", "pairing=batch", "--resplit", "--resplit can't be used with .*two images of each class"),
        ("folder", "cs_kd", "", "-b 100", "80 training images are less than one batch of 100"),
        ("folder", "cs_kd", "", "-b 7 --mixup 0.2", "batch_size=7 does not divide .* even number"),
        ("folder", "cs_kd", "pairing=batch", "--mixup 0.2", "needs class indices as targets, but mixup"),
        ("folder", "cs_kd_e", "", "", "a 'clean' segment needs two transforms, .* train from .beton"),
        ("folder", "label_smoothing", "", "--smoothing 0.1", "brings its own cross-entropy"),
        ("folder", "kd", "teacher=nowhere.pt", "", "nowhere.pt does not exist"),
        ("folder", "cs_kd", "", "--num-classes 5", "the data has the label 9, but the network 5 classes"),
        ("folder", "ce", "", "--kd-model-name resnet18", "use timm's LogitDistillationTask instead of method 'ce'"),
        ("beton", "ce", "", "--reprob 0.3 --resplit", "--resplit can't be used with training from .beton"),
        ("beton", "ce", "", "--aa rand-m9-foo", "auto_augment should be timm's rand-m9.* got 'rand-m9-foo'"),
        ("beton", "ce", "", "--aug-repeats 1.5", "--aug-repeats is a whole number here, not 1.5"),
        ("folder", "cs_kd", "pairing=batch", "--aug-repeats 2", "would make an image its own partner"),
        ("beton", "ce", "", "--val-split other", "neither a file nor a folder for the split 'other'"),
    ],
)
def test_refused_arguments(run: Any, kind: str, method: str, method_args: str, arguments: str, message: str) -> None:
    with pytest.raises(SkdError, match=message):
        run(kind, method, method_args, *arguments.split())


def test_augmentation_splits_are_refused_for_beton_files(data: dict[str, Path]) -> None:
    """The script wraps the data set before it asks for a loader."""
    with pytest.raises(SkdError, match="--aug-splits can't be used with training from .beton files"):
        timm.data.AugMixDataset(BetonDataset(data["beton"] / "train.beton", seed=0), num_splits=3)
