"""``skd release``: from a run to a folder that others can use, and its entry in the manifest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ..common.errors import SkdError
from ..common.files import file_sha256
from ..common.typed import first_problem
from ..weights.export import export_weights
from ..weights.load import Which, load_network
from ..weights.manifest import CARD_FILE, WEIGHTS_FILE, Release, add_entry, check_addable, check_name
from ..weights.to_detectron2 import export_detectron2
from .model_card import DATA, readme, same_logits, timm_config

ENTRY_FILE, SUMS_FILE = "manifest_entry.json", "SHA256SUMS"


def make_release(
    run: str | Path,
    out: str | Path,
    *,
    tag: str | None = None,
    data: str | None = None,
    urls: Sequence[str] = (),
    manifest: Path | None = None,
    license: str = "Apache-2.0",
    detectron2: bool = False,
    which: Which = "last",
    ema: bool | None = None,
) -> Path:
    """Makes ``OUT/ARCH.TAG``: weights, cards, checksums and the entry for the manifest.

    The very files are evaluated, so their metrics are true, and loaded with timm, so its users can have them. The
    folder appears when it is complete.

    Args:
        run: a run's folder or a checkpoint.
        out: folder of releases.
        tag: what follows the architecture's name; the recipe's by default.
        data: what to evaluate on, see `skd_plugins.evaluation.command.evaluate_weights`.
        urls: where the folder will be, for the manifest (see `Release.urls`); the folder itself by default.
        manifest: a manifest that gets the entry, see `add_entry`; what it can't take is said before the evaluation.
        license: SPDX identifier of the weights' licence.
        detectron2: write a ``.pkl`` for detectron2's own ResNet too.
        which: which checkpoint of a run's folder.
        ema: see `skd_plugins.weights.read_weights`.

    Returns:
        the folder.

    Raises:
        SkdError: there is such a release already; the run, the data or the manifest can't be used; the address is not
            one.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release.", dir=folder) as temporary:
        part = Path(temporary) / "release"  # the temporary folder itself is for its owner alone
        part.mkdir()
        name = _fill(part, folder, run, tag, data, urls, manifest, license, detectron2, which, ema)
        os.rename(part, folder / name)
    if manifest is not None:
        add_entry(manifest, folder / name / ENTRY_FILE)
    return folder / name


def _fill(
    part: Path, out: Path, run: str | Path, tag: str | None, data: str | None, urls: Sequence[str],
    manifest: Path | None, license: str, detectron2: bool, which: Which, ema: bool | None,
) -> str:  # fmt: skip
    """Writes all files of a release to `part`; returns its name."""
    exported = export_weights(run, part, name=Path(WEIGHTS_FILE).stem, which=which, ema=ema)
    exported_card = exported.with_suffix(".json")
    card = json.loads(exported_card.read_text())
    exported_card.unlink()
    if not card["recipe"]:
        raise SkdError(f"{run} was not trained by a recipe; release a run's folder or a checkpoint")
    arch, _, recipes_tag = card["recipe"]["name"].partition(".")
    name = card["name"] = check_name(f"{arch}.{tag or recipes_tag}")
    if (out / name).exists():
        raise SkdError(f"{out / name} exists, and a release does not change: give another --tag, or remove it")
    if manifest is not None:
        check_addable(manifest, name)

    # The config is written twice: the network can be loaded from the folder once there is a card in it.
    _write_json(part / CARD_FILE, {"skd": card})
    model, _ = load_network(part)
    config = timm_config(model, card)
    _write_json(part / CARD_FILE, config)
    if "architecture" in config:
        import timm

        if not same_logits(model, timm.create_model(f"local-dir:{part}", pretrained=True), card):
            raise SkdError(f"timm does not load {name} as it is (its logits differ); not released")
    metrics = _measure(part, data)
    evaluation = f"skd evaluate {name}" + (f" --data {Path(data).name}" if data else "")
    (part / "README.md").write_text(readme(name, config, metrics, evaluation, license))
    if detectron2:
        pickled = export_detectron2(part, part, name=name)
        settings = pickled.with_suffix(".detectron2.yaml")
        settings.write_text(settings.read_text().replace(str(pickled), pickled.name))
    entry = {
        "name": name,
        "files": [
            {"name": file.name, "size": file.stat().st_size, "sha256": file_sha256(file)}
            for file in sorted(part.iterdir())
        ],
        "urls": list(urls) or [(out / name).resolve().as_uri()],
        "metrics": metrics,
        "evaluation": evaluation,
        "recipe": card["environment"]["command"],
        "commit": card["environment"]["commit"],
        "data": DATA.get(card["recipe"]["dataset"], card["recipe"]["dataset"]),
        "license": license,
    }
    try:
        Release.model_validate(entry)
    except ValidationError as error:
        raise SkdError(f"the entry of {name} is not one: {first_problem(error)}") from None
    _write_json(part / ENTRY_FILE, entry)
    lines = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(part.iterdir())]
    (part / SUMS_FILE).write_text("".join(lines))
    return name


def _measure(folder: Path, data: str | None) -> dict[str, float]:
    from ..evaluation.command import evaluate_weights

    with tempfile.TemporaryDirectory() as out:
        evaluate_weights(folder, data=data, out=Path(out))
        metrics = json.loads((Path(out) / "metrics.json").read_text())["metrics"]
    return {key: value for key, value in metrics.items() if value is not None}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
