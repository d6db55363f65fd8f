"""The benchmarks of detectors: what they compare is the same, they run, and the page has their numbers."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from test_train_net import TINY

from detection.config import load_config
from detection.digits import digits_folder
from detection.weights import take_from_card, wanted_weights

ROOT = Path(__file__).parents[1]
ALL = 50_000  # samples, which are more than there are
sys.path.append(str(ROOT / "benchmarks"))  # behind everything else, for the package `detection`
import detection_calibration as calibration  # noqa: E402
import detection_libraries as libraries  # noqa: E402
import detection_temperature as temperature  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the backbone's run, of one step."""
    folder = tmp_path_factory.mktemp("libraries")
    libraries.backbone(folder, max_steps=1)
    return folder


def built(kind: str, cfg: CfgNode) -> Any:
    cfg.MODEL.META_ARCHITECTURE = libraries.ARMS[kind]
    torch.manual_seed(0)
    return build_model(cfg)


def test_with_the_same_weights_both_compute_the_same(folder: Path) -> None:
    """Boxes, scores, losses and gradients, if torchvision's anchors are not rounded and every anchor and box is used.

    The images' sides are multiples of 64, as elsewhere torchvision spaces the coarsest anchors otherwise.
    """
    weights = str(libraries.backbone(folder, max_steps=1))
    overrides = [*libraries.SETTINGS, *TINY, "MODEL.TIMM.WEIGHTS", weights, "MODEL.DEVICE", "cpu"]
    for part in ("RPN", "ROI_HEADS"):
        overrides += [f"MODEL.{part}.BATCH_SIZE_PER_IMAGE", str(ALL)]
    cfg = load_config("digits_demo", overrides)
    take_from_card(cfg, wanted_weights(cfg))
    ours, theirs = built("torchvision", cfg), built("detectron2", cfg)
    start, expected = ours.detector.state_dict(), libraries.to_torchvision(theirs.state_dict())
    assert start.keys() == expected.keys()
    assert [key for key, value in start.items() if not torch.equal(value, expected[key])] == []
    rpn = ours.detector.rpn
    wanted = [level.clone() for level in theirs.proposal_generator.anchor_generator.cell_anchors]
    assert [level.tolist() for level in rpn.anchor_generator.cell_anchors] == [
        level.round().tolist() for level in wanted
    ]
    rpn.anchor_generator.cell_anchors = wanted
    rpn.fg_bg_sampler.batch_size_per_image = ALL
    draw = torch.Generator().manual_seed(1)
    truth = Instances((128, 64), gt_boxes=Boxes(torch.tensor([[10.0, 10, 40, 50], [30, 60, 60, 100]])))
    truth.gt_classes = torch.tensor([1, 7])
    image = torch.randint(0, 256, (3, 128, 64), dtype=torch.uint8, generator=draw)
    batch = [{"image": image, "instances": truth, "height": 256, "width": 128}]
    found, other = (model.eval()(batch)[0]["instances"] for model in (ours, theirs))
    assert len(found) == len(other) > 20
    torch.testing.assert_close(found.scores, other.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, other.pred_boxes.tensor, atol=0.01, rtol=0)
    assert torch.equal(found.pred_classes, other.pred_classes)
    assert found.pred_boxes.tensor[:, 3].max() > 128, "in the pixels of the image on the disk"
    with EventStorage():
        losses = [model.train()(batch) for model in (ours, theirs)]
    names = {"loss_classifier": "loss_cls", "loss_box_reg": "loss_box_reg", "loss_objectness": "loss_rpn_cls",
             "loss_rpn_box_reg": "loss_rpn_loc"}  # fmt: skip
    assert (set(losses[0]), set(losses[1])) == (set(names), set(names.values()))
    # detectron2 divides the RPN's sums by the samples that it may take, torchvision by those that it took.
    taken = float(losses[1]["loss_rpn_cls"] / losses[0]["loss_objectness"])
    assert 0.01 < taken < 0.1
    factors = {name: taken if "rpn" in other else 1 for name, other in names.items()}
    for name, other in names.items():
        assert losses[1][other].item() == pytest.approx(factors[name] * losses[0][name].item(), rel=1e-5)
    sum(factors[name] * loss for name, loss in losses[0].items()).backward()
    sum(losses[1].values()).backward()
    expected = libraries.to_torchvision({key: one.grad for key, one in theirs.named_parameters()})
    gradients = {key: one.grad for key, one in ours.detector.named_parameters()}
    assert len(gradients) == len(expected) > 80
    for key, gradient in gradients.items():
        error = (gradient - expected[key]).norm()
        assert error <= 1e-4 * expected[key].norm() + 1e-6, key


def test_the_study_runs(folder: Path) -> None:
    more = [*TINY, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
    content = libraries.study(folder, (1, 2), more, max_steps=1)
    rows = content["test"]
    assert list(rows) == ["detectron2", "torchvision", libraries.CONVERTED]
    assert all(np.isfinite(rows[name][key]["values"]).all() for name in rows for key in libraries.COLUMNS)
    assert rows["torchvision"]["D-ECE"]["values"] != rows["detectron2"]["D-ECE"]["values"]
    begun = [json.loads((folder / f"{kind}_1" / "metrics.json").read_text().splitlines()[0]) for kind in libraries.ARMS]
    assert [{"rpn/num_pos_anchors", "loss_objectness"} & set(line) for line in begun] == [
        {"rpn/num_pos_anchors"}, {"loss_objectness"},
    ], "each is its own library's"  # fmt: skip
    assert libraries.study(folder, (1, 2), more, max_steps=1)["test"] == rows, "what is complete is not repeated"


def test_the_page_has_the_committed_numbers() -> None:
    page = (ROOT / "docs" / "detection.md").read_text()
    assert calibration.table(json.loads(calibration.results_of("calibration").read_text())) in page
    content = json.loads(calibration.results_of("libraries").read_text())
    assert libraries.table(content) in page
    assert len(content["test"]["torchvision"]["AP"]["values"]) == len(libraries.SEEDS)


def test_a_detectors_temperature(folder: Path, tmp_path: Path) -> None:
    """The one that fits a detector is 1 for the same detector with its scores divided by it."""
    calibration.halves(tmp_path)
    content = json.loads((tmp_path / "VAL.json").read_text())
    content["images"] = content["images"][:8]
    (tmp_path / "VAL.json").write_text(json.dumps(content))
    own = [str(tmp_path / "VAL.json"), str(digits_folder() / "train")]
    out, weights = tmp_path / "out", libraries.backbone(folder, max_steps=1)
    more = [*TINY, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "SKD.VAL", json.dumps(own)]
    libraries.detector(out, 1, "GeneralizedRCNN", weights, more)
    found = temperature.fit(out)
    assert abs(found - 1) > 0.05
    temperature.evaluate_scaled(out, found, tmp_path / "scaled")
    path = out / "model_final.pth"
    state = torch.load(path, weights_only=False)
    for kind in ("weight", "bias"):
        state["model"][f"roi_heads.box_predictor.cls_score.{kind}"] /= found
    torch.save(state, path)
    assert temperature.fit(out) == pytest.approx(1, rel=1e-3)
    temperature.evaluate_scaled(out, 1, tmp_path / "again")
    scores = [
        [box["score"] for box in json.loads(next((tmp_path / name).rglob("coco_instances_results.json")).read_text())]
        for name in ("scaled", "again")
    ]
    assert scores[0] == pytest.approx(scores[1])
    plain = [box["score"] for box in json.loads(next(out.rglob("coco_instances_results.json")).read_text())]
    assert (max(scores[0]) < max(plain)) is (found > 1)
