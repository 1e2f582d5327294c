"""Equal scores in several images, against pycocotools on the files: whatever the order of the images, they rank by image id."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import candidate_relations, pad_detections, pad_targets
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import Findings
from rl_det.data.coco import read_coco
from rl_det.data.listing import Reading
from rl_det.metrics.evaluation import evaluate, quick_evaluate
from rl_det.report.precision_recall import curves_of_batch
from rl_det.types import Candidates, Detections, Target

SIDE, NUM_CLASSES = 64, 2
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Rows = list[dict[str, Any]]


def scenes(root: Path, seed: int) -> tuple[AnnotatedImages, Rows, np.ndarray]:
    """Eight images in a random order, every class at most once in each, results whose scores tie, and pycocotools' figures."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir()
    images: Rows = []
    annotations: Rows = []
    results: Rows = []
    for image_id in rng.permutation(8).tolist():
        name = f"{image_id}.png"
        Image.new("RGB", (SIDE, SIDE)).save(root / "images" / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        for label in range(1, NUM_CLASSES + 1):
            box = [*rng.integers(0, 30, 2).tolist(), *rng.integers(8, 30, 2).tolist()]
            found = {"image_id": image_id, "category_id": label, "bbox": box}
            annotations.append(found | {"id": len(annotations) + 1, "area": box[2] * box[3], "iscrowd": 0})
            wrong = [box[0], box[1], 3, 3]
            results.append(found | {"bbox": box if rng.uniform() < 0.5 else wrong, "score": rng.integers(1, 3) / 4})
    categories = [{"id": label, "name": str(label)} for label in range(1, NUM_CLASSES + 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "test.json").write_text(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "test.json"))
        judge = COCOeval(truth, truth.loadRes([dict(row) for row in results]), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    (listing,) = (read_coco(root / "test.json", Reading(findings=Findings())) or {}).values()
    images = AnnotatedImages(listing, listing.categories, Findings())
    return images, results, np.where(judge.stats < 0, np.nan, judge.stats)


def detections_of(results: Rows, image_id: int) -> Detections:
    mine = [row for row in results if row["image_id"] == image_id]
    x, y, width, height = torch.tensor([row["bbox"] for row in mine], dtype=torch.float32).T
    return Detections(
        boxes=torch.stack([x, y, x + width, y + height], 1),
        labels=torch.tensor([row["category_id"] for row in mine]),
        scores=torch.tensor([row["score"] for row in mine]),
    )


def pool_ap(found: list[Detections], targets: list[Target]) -> float:
    """The AP that trainings validate by, and rewards change."""
    parts = {name: torch.stack([row[name] for row in found]) for name in ("boxes", "labels", "scores")}  # type: ignore[literal-required]
    mask = torch.ones_like(parts["labels"], dtype=torch.bool)
    candidates = Candidates(
        boxes=parts["boxes"], labels=parts["labels"], logits=parts["scores"], mask=mask, index=parts["labels"]
    )
    related = candidate_relations(candidates, pad_targets(targets), num_classes=NUM_CLASSES)
    return CandidatePool(related, parts["scores"].double().numpy(), nms_iou=0.9).mean_ap


@pytest.mark.parametrize("seed", range(8))
def test_equal_scores_rank_by_image_id_as_in_pycocotools(seed: int, tmp_path: Path) -> None:
    data, results, stats = scenes(tmp_path, seed)
    expected = pytest.approx(dict(zip(FIGURES, stats, strict=True)), abs=1e-12, nan_ok=True)
    targets = [data[index].target for index in range(len(data))]
    found = [detections_of(results, target.image_id) for target in targets]
    assert pool_ap(found, targets) == pytest.approx(stats[0], abs=1e-12)
    for order in (
        range(8),
        np.random.default_rng(seed).permutation(8).tolist(),
    ):  # as read, and as a user may have them
        rows, truths = [found[k] for k in order], [targets[k] for k in order]
        for judge in (evaluate, quick_evaluate):
            figures = judge(rows, truths, num_classes=NUM_CLASSES)
            assert {name: figures[name] for name in FIGURES} == expected
        class_aps = curves_of_batch(pad_detections(rows), truths, data.classes).class_ap
        assert np.mean(list(class_aps.values())) == pytest.approx(stats[0], abs=1e-12)


def test_the_scenes_can_tell(tmp_path: Path) -> None:
    """Ranked by rising id and by falling id, the same detections have different APs."""
    data, results, _ = scenes(tmp_path, 0)
    targets = [data[index].target for index in range(len(data))]
    found = [detections_of(results, target.image_id) for target in targets]
    assert pool_ap(found, targets) != pytest.approx(pool_ap(found[::-1], targets[::-1]), abs=1e-3)
