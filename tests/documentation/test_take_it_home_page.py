"""docs/take_it_home.md: its programs run as they stand, and what the plain weights lack is said truly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from documentation.conftest import RunPage
from documentation.reading import blocks
from unchecked import unchecked

import rl_det
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.candidates.votes import Votes
from rl_det.data.digit_scenes import CLASSES
from rl_det.finetuning.tuned import Tuned
from rl_det.policies.build import PolicyName, build_policy

IDS = tuple(range(1, 1 + len(CLASSES)))


def tuned(name: PolicyName, detector: str = "tiny") -> Tuned:
    model = rl_det.load_detector(
        detector, rl_det.digit_scenes(1, 1, 1), device="cpu", weights=None if detector == "tiny" else "none"
    )
    return Tuned(policy=build_policy(name, model), classes=CLASSES, category_ids=IDS, num_candidates=1000)


def test_its_programs_run_on_a_named_model_of_torchvision(
    run_page: RunPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    tuned("adjust", "fasterrcnn_mobilenet_v3_large_320_fpn").export(tmp_path / "better")
    with unchecked():
        run_page("take_it_home", images=[torch.rand(3, 64, 64)])
    assert "the weights lack nothing" in capsys.readouterr().out
    assert len(blocks("take_it_home")) == 2


def test_where_nothing_is_beside_the_weights_the_library_detects_the_same(tmp_path: Path) -> None:
    one = tuned("adjust")
    card = json.loads((one.export(tmp_path) / "model.json").read_text())
    assert card["beside_the_weights"] == one.beside_the_weights == []
    image = rl_det.digit_scenes(1, 1, 1).test[0].image
    model = rl_det.load_detector("tiny", rl_det.digit_scenes(1, 1, 1), device="cpu").plain()
    model.load_state_dict(torch.load(tmp_path / "detector.pt"))
    (ours,), (theirs,) = one.detect([image]), model([image])
    shown = len(theirs["scores"])
    assert shown == 100
    torch.testing.assert_close(ours["boxes"][:shown], theirs["boxes"], atol=1e-3, rtol=0)
    torch.testing.assert_close(ours["scores"][:shown], theirs["scores"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("voting", {}, ["module"]),
        ("context", {}, ["module"]),
        ("rescore", {"votes": Votes(step=0.5)}, ["votes"]),
        ("rescore", {"sigma": 0.5}, ["soft-NMS"]),
        ("rescore", {"nms_iou": 0.9}, ["NMS IoU"]),
        ("adjust", {"scale": (2.0,)}, ["recalibration"]),
        (
            "voting",
            {"votes": Votes(step=0.5), "nms_iou": 0.9, "shift": (1.0,)},
            ["module", "votes", "NMS IoU", "recalibration"],
        ),
    ],
)
def test_all_that_a_row_adds_is_named(name: PolicyName, how: dict[str, object], expected: list[str]) -> None:
    one = tuned(name)
    changed: PostProcessingSettings = replace(one.policy.postprocessing, **how)  # type: ignore[arg-type]
    one.policy.postprocessing = changed
    assert one.beside_the_weights == expected
