"""``skd release``: turns a run into a folder that others can use, with an entry for the manifest."""

import os
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from huggingface_hub import HfApi, ModelCard, ModelCardData
from torch import nn

from ..common.errors import SkdError
from ..common.files import file_sha256, json_text, write_json
from ..common.run_files import read_metrics
from ..data.datasets import KNOWN, find_dataset
from ..evaluation.comparison import METRICS
from ..evaluation.evaluate import evaluate_weights
from ..networks import NETWORKS
from ..weights import export_detectron2, export_weights, load_network
from ..weights.download import one_line_errors
from ..weights.load import Which
from ..weights.manifest import CARD_FILE, WEIGHTS_FILE, Release, add_entry, check_addable, check_name, check_url


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
                HfApi().create_repo(push, exist_ok=True)
        config = _write_config(part, model, card)
        if detectron2:
            pickled = export_detectron2(part, part, name=name)
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
            HfApi().upload_folder(repo_id=push, folder_path=folder, commit_message=f"Add {name}")
    print(f"{text}release: {folder}")
    return folder


def _export(run: str | Path, part: Path, tag: str | None, which: Which, raw: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Writes the weights; returns the network and its card, with the release's name."""
    exported = export_weights(run, part, name=Path(WEIGHTS_FILE).stem, which=which, ema=False if raw else None)
    model, card = load_network(exported)
    exported.with_suffix(".json").unlink()  # the card goes into config.json
    if not card["recipe"]:
        raise SkdError(f"{run} was not trained by a recipe; release a run's folder or a checkpoint")
    arch, _, recipes_tag = card["recipe"]["name"].partition(".")
    return model, card | {"name": check_name(f"{arch}.{tag or recipes_tag}")}


def _write_config(part: Path, model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns ``config.json``, with which timm makes the network from ``local-dir:`` and ``hf-hub:``.

    Our card is in it as ``skd``. If timm does not get the same logits (it lacks torchvision's network, say, or another
    classifier), the file has no ``architecture``, so that timm refuses it instead of making a wrong network.
    """
    config = {"num_classes": card["num_classes"], "skd": card}
    if card["classes"]:
        config["label_names"] = card["classes"]
    arch = card["model"].removeprefix("torchvision/").partition(".")[0]
    own = timm.get_pretrained_cfg(arch) if timm.is_model(arch) else None
    if own is not None:
        about = {key: card[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation", "num_classes")}
        # timm needs these to change the number of channels or classes.
        about |= {key: getattr(own, key) for key in ("fixed_input_size", "first_conv", "classifier")}
        in_timm = {"architecture": arch, "model_args": card["model_args"], "pretrained_cfg": about, **config}
        write_json(part / CARD_FILE, in_timm)
        try:
            if _same_logits(model, timm.create_model(f"local-dir:{part}", pretrained=True), card):
                return in_timm
        except (RuntimeError, TypeError):  # timm's network has other layers or arguments
            pass
    write_json(part / CARD_FILE, config)
    return config


@torch.no_grad()
def _same_logits(one: nn.Module, other: nn.Module, card: dict[str, Any]) -> bool:
    """Whether two networks give the same logits for a random image, up to float32's rounding."""
    input = torch.randn(1, *card["input_size"], generator=torch.Generator().manual_seed(0))
    return torch.allclose(one.eval()(input), other.eval()(input), rtol=1e-4, atol=1e-4)


def _measure(folder: Path, data: str | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        evaluate_weights(folder, data=data, out=Path(out))
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
    data = ModelCardData(
        license=about["license"].lower(),
        library_name="timm" if in_timm else None,
        pipeline_tag="image-classification",
        tags=["image-classification", *(["timm"] if in_timm else []), "self-knowledge-distillation"],
    )
    template = str(Path(__file__).with_name("model_card.md.jinja"))
    registered = config.get("architecture") in NETWORKS
    shown = [metric for metric in METRICS if metric.key in about["metrics"]]
    readme = ModelCard.from_template(
        data, template, card=card, about=about, in_timm=in_timm, registered=registered, shown=shown
    )
    path.write_text(f"{readme}\n")
