"""Backbone weights: every source, complete or refused."""

import argparse
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from fileserver import serve_hub
from safetensors.torch import load_file, save_file

from detection.config import add_skd_config
from detection.weights import take_from_card, wanted_weights
from skd_plugins import SkdError, create_model

ARGS = {"channels": [8, 16, 24, 32]}
CARD = {
    "name": "resnet10t.test", "model": "resnet10t", "model_args": ARGS, "num_classes": 5, "classes": None,
    "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "color": "RGB",
}  # fmt: skip


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "resnet10t.test.safetensors"
    save_file(create_model("resnet10t", num_classes=5, **ARGS).state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    return path


def make_cfg(weights: object = "", **timm: Any) -> CfgNode:
    cfg = get_cfg()
    add_skd_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_resnet_backbone"
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.TIMM.WEIGHTS = str(weights)
    for key, value in timm.items():
        cfg.MODEL.TIMM[key] = value
    return cfg


def build(cfg: CfgNode) -> torch.nn.Module:
    take_from_card(cfg, wanted_weights(cfg))
    return build_backbone(cfg, ShapeSpec(channels=3))


def test_card_completes_the_configuration(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_cfg(exported)
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level(logging.INFO, logger="detectron2.skd"):
        backbone = build(cfg)
    assert cfg.MODEL.TIMM.NAME == "resnet10t"
    assert cfg.MODEL.TIMM.ARGS.channels == ARGS["channels"]
    assert cfg.MODEL.PIXEL_MEAN == [25.5, 51.0, 76.5]
    assert cfg.MODEL.PIXEL_STD == [102.0, 127.5, 153.0]
    assert cfg.INPUT.FORMAT == "RGB"
    state = load_file(exported)
    assert f"all {len(state)} tensors of {exported} matched" in caplog.text
    own = backbone.state_dict()
    assert torch.equal(own["res3.0.conv1.weight"], state["layer2.0.conv1.weight"])
    assert torch.equal(own["stem.0.0.weight"], state["conv1.0.weight"])
    assert torch.equal(own["res5.0.bn2.running_var"], state["layer4.0.bn2.running_var"])
    assert not any("fc" in key for key in own)
    take_from_card(cfg, wanted_weights(cfg))  # what was taken agrees with the card


def test_every_kind_of_source(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_file(exported)
    torch.save(state, tmp_path / "plain.pth")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3,
         "args": argparse.Namespace(lr=0.1, model="resnet10t")},
        tmp_path / "model_best.pth.tar",
    )  # fmt: skip
    torch.save({"model": {}, "model_ema": state}, tmp_path / "torchvision.pth")
    torch.save({key: state[key] for key in state if "fc" not in key}, tmp_path / "headless.pth")
    build(make_cfg(tmp_path / "headless.pth", NAME="resnet10t", ARGS=CfgNode(ARGS)))  # a detector drops the classifier
    run = tmp_path / "run"
    run.mkdir()
    torch.save(
        {"state_dict": state, "card": CARD | {"recipe": {"name": "resnet10t.test"}}, "epoch": 1, "step": 2},
        run / "last.pt",
    )
    (tmp_path / "weights").mkdir()
    for ending in (".safetensors", ".json"):
        exported.with_suffix(ending).rename(tmp_path / "weights" / f"{exported.stem}{ending}")
    monkeypatch.chdir(tmp_path)
    sources = ["plain.pth", "model_best.pth.tar", "torchvision.pth", "run", "run/last.pt", "resnet10t.test",
               "weights/resnet10t.test.safetensors"]  # fmt: skip
    for source in sources:
        found = wanted_weights(make_cfg(source))
        assert found is not None
        assert list(found.state) == list(state), source
        assert all(torch.equal(found.state[key], value) for key, value in state.items())
        assert (found.card is None) == source.endswith((".pth", ".tar"))
        cfg = make_cfg(source, NAME="resnet10t", ARGS=CfgNode(ARGS))
        build(cfg)
        # Without a card the pixels are ImageNet's.
        assert ([25.5, 51.0, 76.5] if found.card else [123.675, 116.28, 103.53]) == cfg.MODEL.PIXEL_MEAN
        assert cfg.INPUT.FORMAT == "RGB"


def wrong(exported: Path, change: str) -> Path:
    """A source that can't be used."""
    state = load_file(exported)
    if change == "renamed key":
        state["layer1.0.conv9.weight"] = state.pop("layer1.0.conv1.weight")
        save_file(state, exported)
    if change == "damaged":
        exported = exported.with_name("damaged.pth")
        exported.write_bytes(b"PK\x03\x04" + bytes(1000))
    if change == "r50 for r152":
        exported = exported.with_name("r50.pth")
        torch.save(create_model("resnet50", num_classes=5).state_dict(), exported)
    if change == "not tensors":
        exported = exported.with_name("list.pth")
        torch.save({"epoch": 3}, exported)
    return exported


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            "",
            {"NAME": "resnet152"},
            "weights of resnet10t with {'channels': [8, 16, 24, 32]}, but the config wants res",
        ),
        ("", {"ARGS": CfgNode({"channels": [8, 64]})}, "but the config wants resnet10t with {'channels': [8, 64]}"),
        ("renamed key", {}, "1 missing: layer1.0.conv1.weight; 1 unexpected: layer1.0.conv9.weight"),
        ("damaged", {}, "damaged.pth is not a readable checkpoint"),
        ("r50 for r152", {"NAME": "resnet152"}, "do not fit ResNet: "),
        ("not tensors", {}, "list.pth is no state dict: 'epoch' is not a tensor"),
    ],
)
def test_wrong_weights_are_refused(change: str, settings: dict[str, Any], message: str, exported: Path) -> None:
    with pytest.raises(SkdError, match=re.escape(message)) as error:
        build(make_cfg(wrong(exported, change), **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "right"), [("MEAN", "[25.5, 51.0, 76.5]"), ("STD", "[102.0, 127.5, 153.0]")])
def test_other_pixels_are_refused(key: str, right: str, exported: Path) -> None:
    cfg = make_cfg(exported)
    build(cfg)
    cfg.MODEL[f"PIXEL_{key}"] = [123.675, 116.28, 103.53]
    for check in (build, lambda cfg: build_backbone(cfg, ShapeSpec(channels=3))):
        with pytest.raises(SkdError, match=re.escape(f'set MODEL.PIXEL_{key} "{right}"')):
            check(cfg)


def test_weights_without_a_card_need_rgb_pixels(exported: Path) -> None:
    """As a project of one's own builds the backbone, without train_net.py."""
    torch.save(load_file(exported), exported.with_suffix(".pth"))
    cfg = make_cfg(exported.with_suffix(".pth"), NAME="resnet10t", ARGS=CfgNode(ARGS))
    wanted = (
        'take MODEL.PIXEL_MEAN "[123.675, 116.28, 103.53]", MODEL.PIXEL_STD "[58.395, 57.12, 57.375]", INPUT.FORMAT'
    )
    with pytest.raises(SkdError, match=re.escape(wanted)):
        build_backbone(cfg)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    for check in (build, build_backbone):  # the same with train_net.py
        with pytest.raises(SkdError, match="has no card, and the config has BGR pixels with mean"):
            check(cfg)
    cfg.INPUT.FORMAT = "RGB"
    assert torch.equal(build_backbone(cfg).state_dict()["stem.0.0.weight"], load_file(exported)["conv1.0.weight"])


def test_published_weights_are_loaded_by_timm_itself(tmp_path: Path) -> None:
    """From a real server on loopback that looks like the hub, in a process of its own (the address is read once)."""
    torch.manual_seed(1)
    model = create_model("resnet18", num_classes=1000)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"num_classes": 1000}}
    files = {"model.safetensors": tmp_path / "model.safetensors", "config.json": json.dumps(config).encode()}
    code = """if True:
        from skd_plugins.common.errors import one_line
        from skd_plugins.weights.load import read_any
        state, card = read_any("timm/resnet18.tv_in1k")
        print(card["model"], card["num_classes"], card["mean"], end=" ")
        print(round(state["layer1.0.conv1.weight"].double().sum().item(), 6), flush=True)
        one_line(read_any)("timm/resnet34.tv_in1k")  # which the server does not have
    """
    environment = {
        "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with serve_hub({"timm/resnet18.tv_in1k": files}) as address:
        environment["HF_ENDPOINT"] = address
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    expected = round(model.state_dict()["layer1.0.conv1.weight"].double().sum().item(), 6)
    assert done.stdout.split() == f"resnet18 1000 [0.485, 0.456, 0.406] {expected}".split(), done.stderr
    assert done.returncode == 2
    assert "can't get the weights timm/resnet34.tv_in1k from timm" in done.stderr
