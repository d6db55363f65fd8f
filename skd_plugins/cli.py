"""The ``skd`` command. What a subcommand needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from .common.errors import SkdError, one_line
from .common.meter import quieten_bars
from .training.main import HELP


def write(
    source: tyro.conf.Positional[str],
    *,
    out: Path,
    root: Path | None = None,
    split: Literal["train", "val", "both"] = "both",
    per_class: int | None = None,
    max_resolution: int | None = None,
    jpeg_quality: int = 90,
    raw_share: float = 0.0,
    workers: int = 0,
    folder: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Write train.beton and val.beton (FFCV) from an image folder, the embedded digits or a set of the catalog.

    Args:
        source: a folder with train/ and val/ inside, one subfolder a class; or a set (see: skd list datasets).
        out: the folder to write to.
        root: where the set's files are; see: skd data.
        split: which half to write.
        per_class: take only so many training images of each class.
        max_resolution: scale images with a longer side (pixels) down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, 0 to 1, stored as pixels: faster to read, larger.
        workers: processes, 0 for one a core.
        folder: write PNG folders instead, for training without FFCV.
    """
    from .commands.prepare import WriteOptions
    from .commands.prepare import write as run

    options = WriteOptions(
        folder=folder, max_resolution=max_resolution, jpeg_quality=jpeg_quality, raw_share=raw_share, workers=workers
    )
    run(source, out=out, root=root, split=split, per_class=per_class, writing=options)


def data(
    name: tyro.conf.Positional[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    part: tuple[str, ...] = (),
    download: tyro.conf.FlagCreatePairsOff[bool] = False,
    subset: tyro.conf.FlagCreatePairsOff[bool] = False,
    max_resolution: int | None = None,
    jpeg_quality: int = 90,
    raw_share: float | None = None,
    workers: int = 0,
    folder: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Say what a data set needs; with --root check it, with --out write it for training.

    Args:
        name: see: skd list datasets.
        root: where its files or archives are; archives are unpacked there.
        out: the data folder to write.
        part: evaluation sets, of those that have several, e.g. fog/3; all by default.
        download: fetch what is missing, where its owners allow that.
        subset: accept other numbers of images and classes than the official ones.
        max_resolution: scale images with a longer side (pixels) down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, 0 to 1, stored as pixels; by default 1 for sets of small images, 0 for others.
        workers: processes, 0 for one a core.
        folder: write PNG folders instead, for training without FFCV.
    """
    from .commands.prepare import WriteOptions
    from .commands.prepare import data as run

    options = WriteOptions(
        folder=folder, max_resolution=max_resolution, jpeg_quality=jpeg_quality, raw_share=raw_share, workers=workers
    )
    run(name, root=root, out=out, part=part, download=download, subset=subset, writing=options)


def evaluate(
    weights: tyro.conf.Positional[str],
    *,
    data: str | None = None,
    out: Path | None = None,
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
    batch_size: int = 256,
    workers: int = 4,
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False,
    save_predictions: tyro.conf.FlagCreatePairsOff[bool] = False,
    attack: Literal["fgsm", "pgd"] | None = None,
    eps: float | None = None,
) -> None:
    """Evaluate a run, a checkpoint, a file or a name of weights: metrics.json and a report.html.

    Args:
        weights: a run's folder, a checkpoint (.pt), exported weights (.safetensors), or a name: of released weights
            (skd weights list), timm/NAME.TAG, torchvision/NAME.WEIGHTS.
        data: folder with val.beton or val/, or that file or folder itself; the embedded digits by default if the
            network was trained on them.
        out: where the report goes; by default beside the weights, in a folder "evaluation"; what is not the run as it
            is has its own, such as "evaluation-best-raw", "evaluation-fgsm"; for a name evaluation/NAME.
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
        batch_size: images a batch.
        workers: decoding threads or processes.
        skip_broken: leave undecodable images out and count them.
        save_predictions: write logits, features and targets too (600 MB for ImageNet).
        attack: evaluate on adversarial images instead.
        eps: how far the attack may change a pixel, in [0, 1]; 8/255 (0.0314) by default.
    """
    from .evaluation.command import evaluate_weights
    from .evaluation.comparison import metrics_line

    report = evaluate_weights(
        weights, data=data, out=out, which=which, ema=False if raw else None, batch_size=batch_size, workers=workers,
        skip_broken=skip_broken, save_predictions=save_predictions, attack=attack, eps=eps,
    )  # fmt: skip
    print(metrics_line(report.with_name("metrics.json")))
    print(f"report: {report}")


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("compare.html")) -> None:
    """Put evaluated runs side by side: a table here and a page with their curves.

    Args:
        runs: runs that skd evaluate evaluated, or folders that it wrote to, such as RUN/evaluation-fgsm.
        out: the page.
    """
    from .evaluation import compare as compare_runs

    if not runs:
        raise SkdError("compare needs at least one run")
    print(f"page: {compare_runs(list(runs), out)}")


def export(
    checkpoint: tyro.conf.Positional[str],
    *,
    out: Path = Path("weights"),
    name: str | None = None,
    format: Literal["safetensors", "detectron2"] = "safetensors",
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Export a network as safetensors that load in plain timm and torchvision, or for detectron2's own ResNet.

    Args:
        checkpoint: a run's folder, a checkpoint, exported weights, or timm/NAME.TAG.
        out: folder.
        name: arch.tag; the recipe's name by default.
        format: safetensors with a card, or detectron2's .pkl with the settings that must go with it.
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
    """
    from .weights import export_detectron2, export_weights

    if format == "safetensors":
        print(export_weights(checkpoint, out, name=name, which=which, ema=False if raw else None))
        return
    path = export_detectron2(checkpoint, out, name=name, which=which, ema=False if raw else None)
    print(f"{path}\n\n{path.with_suffix('.detectron2.yaml').read_text()}", end="")


def release(
    run: tyro.conf.Positional[str],
    *,
    tag: str | None = None,
    out: Path = Path("releases"),
    data: str | None = None,
    url: tuple[str, ...] = (),
    manifest: Path | None = None,
    license: str = "Apache-2.0",
    detectron2: tyro.conf.FlagCreatePairsOff[bool] = False,
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Make a folder of a run that others can use: weights, timm's config, model card, checksums, manifest entry.

    The files themselves are evaluated, and loaded with timm, before the folder appears.

    Args:
        run: a run's folder or a checkpoint.
        tag: the release is called ARCH.TAG; the recipe's tag by default.
        out: folder of releases.
        data: what to evaluate on; the embedded digits by default if the network was trained on them.
        url: where the folder will be (https://, hf://OWNER/NAME@REVISION, file:///), for the manifest.
        manifest: a manifest of your own that gets the entry; with SKD_WEIGHTS_MANIFEST=MANIFEST its names are known.
            The package's names can't be in it: give another tag.
        license: of the weights, an SPDX identifier.
        detectron2: write a .pkl for detectron2's own ResNet too.
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
    """
    from .commands.release import ENTRY_FILE, make_release

    folder = make_release(
        run, out, tag=tag, data=data, urls=url, manifest=manifest, license=license, detectron2=detectron2, which=which,
        ema=False if raw else None,
    )  # fmt: skip
    print((folder / ENTRY_FILE).read_text(), end="")
    print(f"release: {folder}")


def weights(
    action: tyro.conf.Positional[Literal["list", "download", "verify", "path"]],
    names: tyro.conf.Positional[tuple[str, ...]] = (),
) -> None:
    """List, download or verify released weights, or print where they are.

    The cache is $SKD_CACHE/weights, ~/.cache/skd_plugins/weights by default. SKD_WEIGHTS_MIRROR=URL asks URL/NAME/FILE
    for released weights instead of the addresses of the manifest. HF_HUB_OFFLINE=1 keeps released and timm's weights
    offline, not torchvision's. SKD_WEIGHTS_MANIFEST=FILE adds the releases of a manifest of your own.

    Args:
        action: list; download; verify, those in the cache; or path, printing the file's, downloaded if need be.
        names: of weights: see skd weights list; or timm/NAME.TAG, torchvision/NAME.WEIGHTS.
    """
    from .commands import weights as commands

    if action == "list":
        if names:
            raise SkdError("skd weights list takes no names")
        commands.show_list()
        return
    if not names:
        raise SkdError(f"skd weights {action} needs a name; skd weights list prints them")
    for name in names:
        if action == "verify":
            print(f"{name}: verified, {commands.check(name)}")
        else:
            print(commands.get(name))


def timm_train(
    arguments: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    timm: Path,
    method: str,
    method_args: tuple[str, ...] = (),
) -> None:
    """Run timm's own, unmodified train.py with a method injected. timm's arguments follow after --.

    Example: skd timm-train --timm train.py --method sd_dropout --method-args weight=0.1 -- --data-dir DATA

    Args:
        arguments: timm's arguments, after --.
        timm: path of timm's train.py (from timm's repository; it is not in the package).
        method: see: skd list methods.
        method_args: name=value, for the method.
    """
    from .timm_train.inject import timm_train as run

    run(timm, method, method_args, arguments)


def list_names(what: tyro.conf.Positional[Literal["methods", "models", "datasets"]] = "methods") -> None:
    """List the methods, our networks, or the data sets, with what they are.

    Args:
        what: methods, models or datasets.
    """
    from .commands.listing import print_list

    print_list(what)


def demo(*, out: Path = Path("runs/demo"), seeds: int = 3) -> None:
    """Train cross-entropy, CS-KD and SD-Dropout on the embedded digits, evaluate, export, and print one table.

    Args:
        out: where everything goes.
        seeds: runs of each recipe.
    """
    from .commands.demo import run_demo

    run_demo(out, seeds)


def reproduce(
    artefacts: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    scale: Literal["full", "mini"] = "full",
    data: Path = Path("data"),
    out: Path = Path("runs/reproduce"),
    seeds: int | None = None,
    jobs: int | None = None,
    slurm: tuple[str, ...] = (),
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
    commands: tyro.conf.FlagCreatePairsOff[bool] = False,
    list: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Make tables and figures of the papers, with the published numbers beside ours; what is done is not repeated.

    Args:
        artefacts: such as cs-kd/table1, or all; see --list.
        scale: full is the papers' setting; mini proves the pipeline on embedded data and reproduces nothing.
        data: has a folder of each data set, as skd data NAME --out DATA/NAME writes them (full scale).
        out: runs, tables, figures and pages go to OUT/SCALE.
        seeds: runs of each training; the paper's number by default (1 at the mini scale).
        jobs: runs at a time; by default one a GPU, without GPUs one a core. 1 runs all in this process.
        slurm: submit to SLURM, with name=value of submitit's parameters, e.g. partition=gpu timeout_min=600.
        dry_run: print runs, evaluations, published numbers and the time it would take.
        commands: print one shell command for each run that is left, for any other scheduler.
        list: print all artefacts and how far they are.
    """
    from .papers.reproduce import reproduce as run

    run(
        artefacts, scale=scale, data=data, out=out, seeds=seeds, jobs=jobs, slurm=slurm, list_only=list,
        dry_run=dry_run, commands_only=commands,
    )  # fmt: skip


def init(folder: tyro.conf.Positional[Path]) -> None:
    """Copy the recipes and the detection scripts to a folder, to run and change them there.

    Args:
        folder: gets recipes/ and detection/, which must not be there yet.
    """
    from .training.project import copy_project

    for path in copy_project(folder):
        print(path)


def doctor() -> None:
    """Check this machine: versions, GPUs, FFCV, detectron2, disk, shared memory; exit code 1 if there is a problem."""
    from .commands.doctor import doctor as run

    if not run():
        raise SystemExit(1)


def completion() -> None:
    """Print a script that completes this command in bash and zsh: source <(skd completion)."""
    from .commands.completion import completion_script

    print(completion_script(COMMANDS), end="")


COMMANDS: dict[str, Callable[..., Any]] = {
    "write": write,
    "data": data,
    "evaluate": evaluate,
    "compare": compare,
    "export": export,
    "release": release,
    "weights": weights,
    "timm-train": timm_train,
    "list": list_names,
    "demo": demo,
    "reproduce": reproduce,
    "init": init,
    "doctor": doctor,
    "completion": completion,
}


@one_line
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``skd``."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        print(f"skd_plugins {version('skd_plugins')}")
        return
    quieten_bars()
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="skd",
        args=arguments,
        description="Self-knowledge distillation for timm, FFCV and detectron2. `skd --version` prints the version.",
        config=HELP,
    )


if __name__ == "__main__":
    main()
