"""What is exported and loaded again detects, bit for bit, what the row of the table rests on; pycocotools agrees on its AP."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning.small import BUDGET, TWO, own_model, pairs, write_folder
from PIL import ExifTags, Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.transforms.functional import to_pil_image

import rl_det
from rl_det.finetuning.detecting import coco_rows
from rl_det.finetuning.results import read_detections
from rl_det.types import Detections

pytestmark = pytest.mark.usefixtures("without_pages")

STRATEGIES: tuple[Any, ...] = (
    rl_det.PPO(policy="voting", samples_per_image=2, collapse_margin=1.0),
    rl_det.Surrogate("smooth_ap", name="context", policy="context"),
    rl_det.Labels(name="rescore", policy="rescore", learning_rate=1e-4),
    rl_det.HandSetVotes(),
    rl_det.PostProcessingGrid(),
    rl_det.Supervised(validate_start=False, ema=0.0),
)
ROWS = ("ppo", "context", "rescore", "voting_untrained", "post_processing_by_grid", "supervised",
        "continued_supervised", "warm_start_voted")  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> rl_det.Results:
    """Every kind of row, of a folder whose images tiny resizes to 192 pixels."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL_DET_CACHE", str(folder / "cache"))
        data = rl_det.open_data(write_folder(folder / "data", TWO))
        return rl_det.finetune(rl_det.load_detector("tiny", data), data, *STRATEGIES, budget=BUDGET, out=folder / "run")


@pytest.fixture(scope="module")
def test_split(results: rl_det.Results) -> Any:
    return rl_det.open_data(results.folder.parent / "data").test


def unpadded(folder: Path, name: str) -> list[Detections]:
    """A row's detections in the run's folder."""
    found = read_detections(folder, name)
    return [
        Detections(
            boxes=torch.tensor(boxes[mask]), labels=torch.tensor(labels[mask]), scores=torch.tensor(scores[mask])
        )
        for boxes, labels, scores, mask in zip(found.boxes, found.labels, found.scores, found.mask, strict=True)
    ]


@pytest.mark.parametrize("name", ROWS)
def test_a_detector_that_is_loaded_detects_bit_for_bit_what_the_row_rests_on(
    results: rl_det.Results, test_split: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = results.rows[name]
    tuned = rl_det.load_tuned(row.export(tmp_path / name))
    found = tuned.detect(test_split[index].image for index in range(len(test_split)))
    for own, kept in zip(found, unpadded(results.folder, name), strict=True):
        assert own["boxes"].dtype == torch.float32
        assert np.array_equal(own["boxes"].numpy(), kept["boxes"].float().numpy())
        assert np.array_equal(own["labels"].numpy(), kept["labels"].numpy())
        assert np.array_equal(own["scores"].numpy(), kept["scores"].float().numpy())
    truth = COCO(str(results.folder.parent / "data" / "test.json"))
    rows = [
        entry
        for index, own in enumerate(found)
        for entry in coco_rows(test_split[index].target.image_id, own, tuned.category_ids)
    ]
    assert {entry["category_id"] for entry in rows} <= set(TWO)
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert evaluation.stats[0] == pytest.approx(row.figures["AP"], abs=1e-9)
    assert evaluation.stats[1] == pytest.approx(row.figures["AP50"], abs=1e-9)


def test_the_rows_differ_so_that_nothing_is_compared_with_itself(results: rl_det.Results) -> None:
    scores = {read_detections(results.folder, name).scores.tobytes() for name in ROWS}
    assert len(scores) >= 4  # a strategy that validation does not prefer leaves the start as it is


def test_the_size_of_the_input_comes_with_the_detector(results: rl_det.Results, tmp_path: Path) -> None:
    model: Any = rl_det.load_tuned(results.rows["rescore"].export(tmp_path / "own")).model
    assert model.transform.min_size == (192,)


def test_a_run_keeps_the_detectors_of_its_strategies_its_control_and_its_best_row(results: rl_det.Results) -> None:
    kept = {card.parent.name for card in results.folder.glob("*/model.json")}
    names = {"ppo", "context", "rescore", "voting_untrained", "post_processing_by_grid", "supervised"}
    assert kept == names | {"continued_supervised", results.best.name}


def test_results_that_are_read_again_export_what_the_run_has_kept(
    results: rl_det.Results, test_split: Any, tmp_path: Path
) -> None:
    read = rl_det.load_results(results.folder)
    assert read.table() == results.table()
    assert read.best.name == results.best.name
    assert read.to_json().keys() == results.to_json().keys()
    folder = read.best.export(tmp_path / "best")
    assert rl_det.load_tuned(folder).strategy == results.best.name
    missing = next(name for name in ("warm_start", "warm_start_voted") if name != read.best.name)
    with pytest.raises(ValueError, match=f"{missing}: the run has not kept this row's detector"):
        read.rows[missing].export(tmp_path / "none")


def test_an_exported_folder_is_a_detector_too_and_keeps_its_size(results: rl_det.Results) -> None:
    data = rl_det.open_data(results.folder.parent / "data")
    again = rl_det.load_detector(results.folder / "rescore", data)
    assert again.is_trained
    assert again.architecture.input_size == 192
    with pytest.raises(ValueError, match="image_size goes with the name of a detector only"):
        rl_det.load_detector(results.folder / "rescore", data, image_size=100)
    with pytest.raises(ValueError, match=r"nothing\.pt: a detector must be one of .* there is no such file"):
        rl_det.load_detector(results.folder / "rescore" / "nothing.pt", data)
    ten = rl_det.load_detector(results.folder / "rescore", rl_det.digit_scenes(2, 2, 2))
    assert (ten.num_classes, ten.is_trained, ten.architecture.name) == (10, False, "tiny")


def test_images_come_in_every_usual_form(results: rl_det.Results, test_split: Any) -> None:
    tuned = rl_det.load_tuned(results.folder / "rescore")
    (floats,) = tuned.detect([test_split[0].image])
    picture = to_pil_image(test_split[0].image)
    array = np.array(picture)
    for image in (picture, array, torch.from_numpy(array).movedim(-1, 0)):
        (found,) = tuned.detect([image])
        assert torch.equal(found["scores"], floats["scores"])
    grey = tuned.detect([picture.convert("L"), picture.resize((300, 90)), Image.new("RGB", (5, 200))])
    assert len(grey) == 3
    assert tuned.detect([]) == []
    with pytest.raises(ValueError, match=r"got one tensor \[3, H, W\]; give \[image\]"):
        tuned.detect(test_split[0].image)
    with pytest.raises(ValueError, match=r"images\[1\]: a floating-point image must lie in \[0, 1\]; got up to 2"):
        tuned.detect([test_split[0].image, test_split[1].image * 255])
    with pytest.raises(ValueError, match=r"images\[0\]: the image must be a tensor"):
        tuned.detect(["photo.jpg"])


def test_a_picture_that_its_exif_would_turn_is_refused_until_it_is_upright(
    results: rl_det.Results, test_split: Any, tmp_path: Path
) -> None:
    tuned, picture = rl_det.load_tuned(results.folder / "rescore"), to_pil_image(test_split[0].image)
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    told = r"images\[0\]: must be upright; its EXIF orientation is 6: give PIL\.ImageOps\.exif_transpose\(image\)"
    with pytest.raises(ValueError, match=told):
        tuned.detect([turned])
    (found,), (upright,) = (
        tuned.detect([image])
        for image in (ImageOps.exif_transpose(turned), picture.transpose(Image.Transpose.ROTATE_270))
    )
    assert torch.equal(found["boxes"], upright["boxes"])


def test_a_folder_that_is_no_exported_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere/model\.json: must be a model\.json that rl_det has exported"):
        rl_det.load_tuned(tmp_path / "nowhere")


def test_a_detector_is_not_half_exported_where_a_folder_cannot_be_made(results: rl_det.Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/better"):
        results.best.export(tmp_path / "file" / "better")


def test_retinanet_of_ones_own_goes_from_data_to_detections(tmp_path: Path) -> None:
    from contract.families import NUM_CLASSES, lively_retinanet, retinanet

    model = lively_retinanet().plain()
    assert not rl_det.load_detector(model, pairs()).is_trained, "its predictor is new"
    data = rl_det.open_data(pairs(), classes=["low", "high", "none"])
    assert NUM_CLASSES == 3
    detector = rl_det.load_detector(model, data)
    results = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    tuned = rl_det.load_tuned(results.rows["continued_supervised"].export(tmp_path / "better"), retinanet())
    found = tuned.detect([data.test[index].image for index in range(len(data.test))])
    for own, kept in zip(found, unpadded(results.folder, "continued_supervised"), strict=True):
        assert np.array_equal(own["scores"].numpy(), kept["scores"].float().numpy())


def test_a_model_of_ones_own_is_loaded_by_giving_it(tmp_path: Path) -> None:
    data = rl_det.open_data(pairs())
    detector = rl_det.load_detector(own_model(), data)
    results = rl_det.finetune(
        detector, data, rl_det.HandSetVotes(), budget=BUDGET, out=tmp_path / "run", baselines=False
    )
    tuned = rl_det.load_tuned(tmp_path / "run" / "voting_untrained", own_model(seed=5).requires_grad_(False))
    found = tuned.detect([data.test[index].image for index in range(len(data.test))])
    for own, kept in zip(found, unpadded(results.folder, "voting_untrained"), strict=True):
        assert np.array_equal(own["scores"].numpy(), kept["scores"].float().numpy())
