"""B images' detections and true boxes -> one pseudo image's, and evaluators' precision of it -> AP per image again.

An evaluator of data sets answers per category, not per image. So the B images become one, and a category is what was an
(image, label) pair: its AP is that of the label in the image, and an image's AP the mean over its pairs. Only pairs with a
true box to be found become categories; detections of any other change no AP, and are left out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import COCO, RECALL_POINTS


@dataclass(frozen=True, kw_only=True)
class PseudoImage:
    """The true boxes of B images as those of one; categories are numbered from 1 to K, true boxes sorted by category.

    `recall_points` are where an evaluator must give its interpolated precision, and `weights` what each counts for in the AP
    of each category.
    """

    num_images: int
    image: Int64[np.ndarray, " K"]
    category_of: Int64[np.ndarray, "B L"]  # 0: not a category
    positives: Int64[np.ndarray, " K"]
    boxes_xywh: Float64[np.ndarray, "G 4"]
    categories: Int64[np.ndarray, " G"]
    area: Float64[np.ndarray, " G"]
    iscrowd: Int64[np.ndarray, " G"]
    recall_points: Float64[np.ndarray, " R"]
    weights: Float64[np.ndarray, "R K"]

    def __len__(self) -> int:
        return len(self.positives)

    def categories_in(self, detections: DetectionBatch) -> Int64[np.ndarray, "B N"]:
        """The category of each detection; 0 for padding, and where there is nothing to be found."""
        categories: np.ndarray = np.take_along_axis(self.category_of, detections.labels, 1) * detections.mask
        return categories

    def rows(self, detections: DetectionBatch) -> Float64[np.ndarray, "M 7"]:
        """The detections of its categories, of image 1."""
        categories = self.categories_in(detections)
        return detection_rows(detections, categories > 0, 1, categories)

    def image_ap(self, precision: Float64[np.ndarray, "T R K"]) -> Float64[np.ndarray, " B"]:
        """AP of each image from an evaluator's interpolated precision at each recall point of each category."""
        return self.mean_of_categories((precision.mean(0) * self.weights).sum(0))

    def mean_of_categories(self, ap: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " B"]:
        """The mean over each image's categories; NaN where it has none."""
        total = np.bincount(self.image, ap, self.num_images)
        count = np.bincount(self.image, minlength=self.num_images)
        means: np.ndarray = np.divide(total, count, out=np.full(self.num_images, np.nan), where=count > 0)
        return means


def pseudo_image(truths: TruthBatch, num_classes: int, *, few_points: bool) -> PseudoImage:
    """Make one of B images. `few_points` asks for precision only at recalls that a category can reach, if that is fewer.

    A category with P true boxes reaches the recalls 1 / P, ..., P / P and no others, so precision at these gives the AP by
    `rl_det.ap.options.RecallWeights`, exactly. With few true boxes of a label per image, COCO's 101 points become ten.
    """
    shape = (len(truths), num_classes + 1)
    counts = np.zeros(shape, dtype=np.int64)
    low, high = COCO.area_range
    sought = truths.mask & ~truths.iscrowd & (truths.area >= low) & (truths.area <= high)
    np.add.at(counts, (np.nonzero(sought)[0], truths.labels[sought]), 1)
    image, label = np.nonzero(counts)
    category_of = np.zeros(shape, dtype=np.int64)
    category_of[image, label] = np.arange(1, len(image) + 1)
    positives = counts[image, label]

    categories = np.where(truths.mask, np.take_along_axis(category_of, truths.labels, 1), 0)
    kept = np.nonzero(categories.ravel())[0]
    kept = kept[np.argsort(categories.ravel()[kept], kind="stable")]
    points, weights = _recalls(positives, few_points)
    return PseudoImage(
        num_images=len(truths),
        image=image,
        category_of=category_of,
        positives=positives,
        boxes_xywh=xywh(truths.boxes.reshape(-1, 4)[kept]),
        categories=categories.ravel()[kept],
        area=truths.area.ravel()[kept].astype(np.float64),
        iscrowd=truths.iscrowd.ravel()[kept].astype(np.int64),
        recall_points=points,
        weights=weights,
    )


def _recalls(positives: np.ndarray, few_points: bool) -> tuple[np.ndarray, np.ndarray]:
    reachable = [np.arange(1, count + 1) / count for count in np.unique(positives)]
    points = np.unique(np.concatenate([np.zeros(0), *reachable]))
    if not few_points or len(points) >= len(RECALL_POINTS):
        return RECALL_POINTS, np.full((len(RECALL_POINTS), len(positives)), 1 / len(RECALL_POINTS))
    weights = np.zeros((len(points), len(positives)))
    for category, count in enumerate(positives.tolist()):
        at = np.searchsorted(points, np.arange(1, count + 1) / count)
        weights[at, category] = COCO.recall_weights.of(count)[1:]
    return points, weights


def detection_rows(
    detections: DetectionBatch, kept: np.ndarray, images: np.ndarray | int, categories: np.ndarray
) -> Float64[np.ndarray, "M 7"]:
    """The detections that are kept, in pycocotools' array form: image, x, y, width, height, score, category."""
    boxes = detections.boxes[kept]
    rows = np.empty((len(boxes), 7))
    rows[:, 0] = images if isinstance(images, int) else images[kept]
    rows[:, 1:3] = boxes[:, :2]
    np.subtract(boxes[:, 2:], boxes[:, :2], out=rows[:, 3:5], dtype=np.float64)
    rows[:, 5] = detections.scores[kept]
    rows[:, 6] = categories[kept]
    return rows


def xywh(boxes: np.ndarray) -> Float64[np.ndarray, "M 4"]:
    """Corner, width and height, in float64, so that the other corner comes back exactly from float32."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def ap_of_outcomes(
    scene: PseudoImage,
    categories: Int64[np.ndarray, " D"],
    hits: Bool[np.ndarray, "T D"],
    counted: Bool[np.ndarray, "T D"],
) -> Float64[np.ndarray, " B"]:
    """AP of each image from what became of each detection, sorted by category, each category by falling score.

    `hits` says which are true positives at each threshold, `counted` which are true or false positives. Vectorised over all
    at once: precision at each true positive, its running maximum from behind, weighted by `RecallWeights`.
    """
    most = int(scene.positives.max(initial=0))
    weights = COCO.recall_weights.up_to(most)[scene.positives, 1 : most + 1]
    starts = np.searchsorted(categories, np.arange(1, len(scene) + 1))
    found, ranked = _running(hits), _running(counted)
    threshold, place = np.nonzero(hits)
    category = categories[place] - 1
    start = starts[category]
    count = found[threshold, place + 1] - found[threshold, start]
    precision = np.zeros((len(hits), len(scene), most))
    rank = ranked[threshold, place + 1] - ranked[threshold, start]
    precision[threshold, category, count - 1] = count / (rank + np.spacing(1))
    envelope = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
    return scene.mean_of_categories(np.einsum("tkp,kp->k", envelope, weights) / len(hits))


def _running(flags: np.ndarray) -> np.ndarray:
    """[T, D + 1]: how many flags stand before each place."""
    sums = np.zeros((len(flags), flags.shape[1] + 1), dtype=np.int32)
    np.cumsum(flags, 1, out=sums[:, 1:])
    return sums
