"""``skd release``: turns a run into a folder that others can use, with an entry for the manifest."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import tyro

from .. import evaluation, weights
from ..common.errors import SkdError
from ..common.files import file_sha256, json_text
from ..common.run_files import read_metrics
from ..data.datasets import KNOWN, find_dataset
from ..evaluation.comparison import METRICS
from ..weights import Which
from ..weights.download import one_line_errors
from ..weights.manifest import WEIGHTS_FILE, Release, add_entry, check_addable, check_name, check_url

if TYPE_CHECKING:
    from torch import nn


def release(
    run: tyro.conf.Positional[str],
    *,
    tag: str | None = None,
    out: Path = Path("releases"),
    data: str | None = None,
    url: tuple[str, ...] = (),
    manifest: Path | None = None,
    push: str | None = None,
    license: str = "Apache-2.0",
    detectron2: tyro.conf.FlagCreatePairsOff[bool] = False,
    which: Which = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> Path:
    """Make a folder of a run that others can use: weights, timm's config, model card, checksums, manifest entry.

    The files themselves are evaluated, and loaded with timm, before the folder appears.

    Args:
        run: a run's folder or a checkpoint.
        tag: the release is called ARCH.TAG; the recipe's tag by default.
        out: folder of releases.
        data: what to evaluate on; the embedded digits by default if the network was trained on them.
        url: where the folder will be (https://, hf://OWNER/NAME@REVISION, file:///), for the manifest; by default the
            repository of --push, or the folder itself.
        manifest: a manifest of your own that gets the entry; with SKD_WEIGHTS_MANIFEST=MANIFEST its names are known.
            The package's names can't be in it: give another tag.
        push: upload the folder to OWNER/NAME on the Hugging Face Hub (log in first: hf auth login).
        license: of the weights, an SPDX identifier.
        detectron2: write a .pkl for detectron2's own ResNet too.
        which: which checkpoint of a run's folder.
        raw: the raw weights, even if the run has averaged ones too.
    """
    urls = [check_url(address) for address in url or ([f"hf://{push}"] if push else [])]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release.", dir=out) as temporary:
        part = Path(temporary) / "release"  # only its owner may read the temporary folder itself
        part.mkdir()
        model, card = _export(run, part, tag, which, raw)
        name: str = card["name"]
        folder = out / name
        if folder.exists():
            raise SkdError(f"{folder} exists, and a release does not change: give another --tag, or remove it")
        if manifest is not None:
            check_addable(manifest, name)
        if push:  # now, because the evaluation can take hours
            with one_line_errors(f"can't push to {push}", "log in with: hf auth login"):
                huggingface_hub.HfApi().create_repo(push, exist_ok=True)
        config = weights.write_config(part, model, card)
        if detectron2:
            pickled = weights.export_detectron2(part, part, name=name)
            settings = pickled.with_suffix(".detectron2.yaml")
            settings.write_text(settings.read_text().replace(str(pickled), pickled.name))
        about = {
            "name": name,
            "metrics": _measure(part, data),
            "evaluation": f"skd evaluate {name}" + (f" --data {Path(data).name}" if data else ""),
            "recipe": card["environment"]["command"],
            "commit": card["environment"]["commit"],
            "data": _data(card),
            "license": license,
        }
        _write_readme(part / "README.md", config, about)
        files = [
            {"name": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(part.iterdir())
        ]
        entry = Release.model_validate({"files": files, "urls": urls or [folder.resolve().as_uri()], **about})
        text = json_text(entry.model_dump(mode="json"))
        (part / "manifest_entry.json").write_text(text)
        sums = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(part.iterdir())]
        (part / "SHA256SUMS").write_text("".join(sums))
        os.rename(part, folder)
    if manifest is not None:
        add_entry(manifest, entry)
    if push:
        with one_line_errors(f"can't push to {push}", "log in with: hf auth login"):
            huggingface_hub.HfApi().upload_folder(repo_id=push, folder_path=folder, commit_message=f"Add {name}")
    print(f"{text}release: {folder}")
    return folder


def _export(
    run: str | Path, part: Path, tag: str | None, which: Which, raw: bool
) -> tuple["nn.Module", dict[str, Any]]:
    """Writes the weights; returns the network and its card, with the release's name."""
    exported = weights.export_weights(run, part, name=Path(WEIGHTS_FILE).stem, which=which, ema=False if raw else None)
    model, card = weights.load_network(exported)
    exported.with_suffix(".json").unlink()  # the card goes into config.json
    if not card["recipe"]:
        raise SkdError(f"{run} was not trained by a recipe; release a run's folder or a checkpoint")
    arch, _, recipes_tag = card["recipe"]["name"].partition(".")
    return model, card | {"name": check_name(f"{arch}.{tag or recipes_tag}")}


def _measure(folder: Path, data: str | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        evaluation.evaluate_weights(folder, data=data, out=Path(out))
        metrics = read_metrics(Path(out) / "metrics.json")["metrics"]
    return {key: value for key, value in metrics.items() if value is not None}


def _data(card: dict[str, Any]) -> str:
    """What the network was trained on, in words."""
    name, count = card["recipe"]["dataset"], card["num_classes"]
    if name in KNOWN and KNOWN[name][2] == count:
        dataset = find_dataset(name)
        return f"{dataset.title}, {KNOWN[name][0]:,} images (licence: {dataset.licence}; {dataset.homepage})"
    classes = card["classes"] or []
    listed = f": {', '.join(classes[:10])}{', ...' if count > 10 else ''}" if classes else ""
    return f"the author's own data, called {name}, with {count} classes{listed}"


def _write_readme(path: Path, config: dict[str, Any], about: dict[str, Any]) -> None:
    in_timm, card = "architecture" in config, config["skd"]
    data = huggingface_hub.ModelCardData(
        license=about["license"].lower(),
        library_name="timm" if in_timm else None,
        pipeline_tag="image-classification",
        tags=["image-classification", *(["timm"] if in_timm else []), "self-knowledge-distillation"],
    )
    template = str(Path(__file__).with_name("model_card.md.jinja"))
    registered = weights.is_ours(config.get("architecture"))
    shown = [metric for metric in METRICS if metric.key in about["metrics"]]
    readme = huggingface_hub.ModelCard.from_template(
        data, template, card=card, about=about, in_timm=in_timm, registered=registered, shown=shown
    )
    path.write_text(f"{readme}\n")
