"""Precision-recall curves of a split, and their picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image

from rl_det.ap.padding import pad_detections
from rl_det.metrics.coco import coco_summary
from rl_det.report.precision_recall import Curves, curves_of_batch, log_curves
from rl_det.report.precision_recall_picture import draw_curves
from rl_det.storage.run import Run
from rl_det.types import Detections, Target

CLASSES = ("cat", "dog", "unseen")


@pytest.fixture(scope="module")
def found() -> tuple[list[Detections], list[Target]]:
    """Six images of five objects in two classes, found more or less well."""
    generator = torch.Generator().manual_seed(0)
    detections, targets = [], []
    for image in range(6):
        corner = 80 * torch.rand(5, 2, generator=generator)
        boxes = torch.cat([corner, corner + 20], 1)
        labels = torch.randint(1, 3, (5,), generator=generator)
        crowd = torch.zeros(5, dtype=torch.bool)
        targets.append(Target(boxes=boxes, labels=labels, area=torch.full((5,), 400.0), iscrowd=crowd, image_id=image))
        moved = boxes + 3 * torch.randn(5, 4, generator=generator)
        detections.append(Detections(boxes=moved, labels=labels, scores=torch.rand(5, generator=generator)))
    return detections, targets


def test_the_mean_of_the_classes_ap_is_cocos(found: tuple[list[Detections], list[Target]]) -> None:
    detections, targets = found
    curves = curves_of_batch(pad_detections(detections), targets, CLASSES)
    assert curves.precision.shape == (10, 101, 3)
    by_class = curves.class_ap
    assert np.isnan(by_class["unseen"])
    summary = coco_summary(*found, num_classes=3)
    assert (by_class["cat"] + by_class["dog"]) / 2 == pytest.approx(summary["AP"], abs=1e-12)
    assert np.nanmean(curves.precision[0]) == pytest.approx(summary["AP50"], abs=1e-12)


def test_a_run_has_each_classs_ap_and_curves_in_its_metrics_once(
    tmp_path: Path, found: tuple[list[Detections], list[Target]]
) -> None:
    detections, targets = found
    curves = curves_of_batch(pad_detections(detections), targets, CLASSES)
    with Run(tmp_path, {}) as run:
        for _ in range(2):  # a run that is resumed after its end says it again
            log_curves(run, 7, "test", curves)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(written) == 3
    lines = {line["stage"]: line for line in written}
    assert set(lines) == {"test_AP", "test_precision_50", "test_precision"}
    assert lines["test_AP"]["step"] == 7
    assert lines["test_AP"]["unseen"] is None
    for name in ("cat", "dog"):
        assert len(lines["test_precision_50"][name]) == 101
        assert lines["test_precision_50"][name] == sorted(lines["test_precision_50"][name], reverse=True)
        assert np.mean(lines["test_precision"][name]) == pytest.approx(lines["test_AP"][name], abs=1e-12)
    assert max(lines["test_precision_50"]["cat"]) > max(lines["test_precision"]["cat"])


@pytest.mark.parametrize("num_classes", [1, 30])
def test_the_picture_is_drawn_for_few_and_for_many_classes(tmp_path: Path, num_classes: int) -> None:
    height = np.linspace(1, 0.2, num_classes)
    precision = np.broadcast_to(np.linspace(1, 0, 101)[:, None] * height, (10, 101, num_classes)).copy()
    file = tmp_path / "curves.png"
    draw_curves(Curves(classes=tuple(map(str, range(num_classes))), precision=precision), file, "test")
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0] > 400
    assert (pixels.max(-1) < 30).sum() > 500  # black: axes, words, and a mean
    coloured = pixels.max(-1).astype(int) - pixels.min(-1) > 80
    assert coloured.sum() > (300 if num_classes == 1 else 3000)
    assert list(tmp_path.iterdir()) == [file]


def test_a_class_has_one_colour_in_both_halves_of_the_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    precision = np.zeros((10, 101, 2))
    precision[0, :, 0], precision[1:, :, 0] = 0.9, 0.1  # the better one at IoU 0.5, the worse one of all
    precision[:, :, 1] = 0.5
    colours = []

    def keep(axes: Axes, *arguments: Any, **options: Any) -> list[Line2D]:
        colours.append(plot(axes, *arguments, **options))
        return colours[-1]

    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", keep)
    draw_curves(Curves(classes=("cat", "dog"), precision=precision), tmp_path / "curves.png", "test")
    left, right = ([line.get_color() for (line,) in part] for part in (colours[:2], colours[3:5]))
    assert left == right == ["C0", "C1"]
    heights = [float(line.get_ydata()[0]) for (line,) in colours]
    assert heights == pytest.approx([0.9, 0.5, 0.7, 0.18, 0.5, 0.34])


def test_a_split_without_objects_is_drawn_empty(tmp_path: Path) -> None:
    empty = Curves(classes=("cat",), precision=np.full((10, 101, 1), np.nan))
    draw_curves(empty, tmp_path / "curves.png", "test")
    assert (tmp_path / "curves.png").stat().st_size > 0
