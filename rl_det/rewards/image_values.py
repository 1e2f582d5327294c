"""The values of one image's detections: six for rewards, two for shaping.

All but `image_ap_value` and `MatchedSum` count what is displayed to a user, all classes together, matched at IoU 0.5 as COCO
does it. What lies in a crowd counts neither for nor against.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.ap.batch import check
from rl_det.ap.relations import pairwise_iou, reach
from rl_det.errors import UserError
from rl_det.metrics.outcomes import CORRECT_IOU
from rl_det.rewards.edits import Edits
from rl_det.rewards.tallied import Tallied, of_displayed, of_ranked
from rl_det.rewards.tallies import Displayed, Ranked
from rl_det.settings import at_least, check_settings


@of_ranked
def image_ap_value(tallies: Ranked) -> Float64[np.ndarray, "*R"]:
    """The image's own mAP, in [0, 1], over the classes that it holds *or that are predicted*: the latter alone count as 0.

    Otherwise, false positives of absent classes would be free. The value is 1 with neither a true box nor a detection.
    It does not respond to a common shift of an image's scores, and a mean over images is not the data set's mAP: it
    changes the optimum.
    """
    return np.where(tallies.classes > 0, tallies.ap / np.maximum(tallies.classes, 1), 1.0)


@of_displayed
def f1(tallies: Displayed) -> Float64[np.ndarray, "*R"]:
    """2 TP / (2 TP + FP + FN), in [0, 1]; 1 where there is nothing to be found and nothing displayed.

    Order does not count, so there is a best threshold. It changes the optimum of AP; F1 is an objective of its own. Over the
    pool it is micro F1, all classes and images together.
    """
    t = tallies
    whole = 2 * t.found + t.spurious + t.missed
    return np.where(whole > 0, 2 * t.found / np.maximum(whole, 1), 1.0)


@of_displayed
def lrp(tallies: Displayed) -> Float64[np.ndarray, "*R"]:
    """1 minus the localisation-recall-precision error (Oksuz et al. 2018), in [0, 1]: like F1, and rewards tight boxes.

    Here too there is a best threshold. It changes the optimum of AP; LRP is an objective of its own. The error is

        (sum over TP of (1 - IoU) / (1 - 0.5) + FP + FN) / (TP + FP + FN),  and 0 where there is nothing at all
    """
    t = tallies
    whole = t.found + t.spurious + t.missed
    worth: Float64[np.ndarray, "*R"] = 1 - (t.distance / (1 - CORRECT_IOU) + t.spurious + t.missed) / np.maximum(
        whole, 1
    )
    return worth


@of_displayed
def count_error(tallies: Displayed) -> Float64[np.ndarray, "*R"]:
    """Minus the mean absolute error of the number of detections, over images and classes, absent classes included.

    HACKABLE BY DESIGN: it counts, and does not ask where a detection is. So a false positive pays where an object of its
    class is missed, and one object's copy makes up for another. It is for those who only count; add `f1` to it if boxes
    matter.
    """
    return -tallies.miscounted / (tallies.num_images * tallies.num_classes)


@dataclass(frozen=True, kw_only=True)
class Cost(Tallied):
    """The sum over the image of a price for each found object, each spurious detection and each missed object.

    Its optimum is the user's own, not AP's: to display a detection that is right with probability p pays if
    p (found - missed) + (1 - p) spurious > 0. Over the pool it is the mean over images; as it is a sum over images, its change
    there is that of the one image's cost, divided by the number of images.
    """

    found: float = 0.0
    spurious: float = -1.0
    missed: float = -1.0

    def __post_init__(self) -> None:
        check_settings(self)
        if not (self.found >= 0 >= self.spurious and self.missed <= 0):
            raise UserError(f"prices must be >= 0 for found and <= 0 for spurious and missed; got {self}")

    def of(self, tallies: Displayed | Ranked) -> Float64[np.ndarray, "*R"]:
        assert isinstance(tallies, Displayed)
        t = tallies
        return (self.found * t.found + self.spurious * t.spurious + self.missed * t.missed) / t.num_images


@dataclass(frozen=True, kw_only=True)
class MatchedSum:
    """The weights of matched true boxes, minus a price for each duplicate; a mean over COCO's ten IoU thresholds.

    This is the reward of Pinto et al. 2023 ("Tuning computer vision models with task rewards"), from its released code.
    A duplicate is a detection that overlaps a true box of its class enough, but is not matched to one. It is a sum over
    objects, not a mean over images, so crowded scenes weigh more. HACKABLE BY DESIGN: a false positive that overlaps no
    object is free, so more boxes never hurt; the paper's model was also trained to have correct confidence.
    """

    class_weights: tuple[float, ...] | None = None
    duplicate_price: float = 0.3

    def __post_init__(self) -> None:
        check_settings(self, class_weights=at_least(0), duplicate_price=at_least(0))

    @classmethod
    def weighted(cls, objects: Int64[np.ndarray, " C"], *, duplicate_price: float = 0.3) -> "MatchedSum":
        """With the paper's weights, 1 / (n_c + 0.05 sum n), scaled to a mean of 1; n_c is the number of objects of class c."""
        weights = 1 / (objects + 0.05 * max(1, objects.sum()))
        return cls(class_weights=tuple((weights / weights.mean()).tolist()), duplicate_price=duplicate_price)

    def __call__(self, edits: Edits) -> Float64[np.ndarray, " R"]:
        m = edits.matches
        weights = np.ones(edits.pool.num_classes) if self.class_weights is None else np.asarray(self.class_weights)
        if weights.shape != (edits.pool.num_classes,):
            told = f"one for each of the {edits.pool.num_classes} classes; got the shape {weights.shape}"
            raise UserError(f"class_weights must be {told}")
        labels = np.take_along_axis(edits.detections.labels, m.order, 1)
        reached = np.take_along_axis(
            reach(edits.detections, edits.truths, num_classes=edits.pool.num_classes), m.order, 1
        )
        listed = np.arange(m.order.shape[1]) < m.starts[:, -1:]
        duplicates = np.bitwise_count(reached & ~m.hits[0] & ~m.ignored[0])
        worth = weights[np.where(listed, labels, 1) - 1] * np.bitwise_count(m.hits[0])
        summed: Float64[np.ndarray, " R"] = ((worth - self.duplicate_price * duplicates) * listed).sum(1)
        return summed / 10


def best_iou(edits: Edits) -> Float64[np.ndarray, " R"]:
    """The mean over true boxes of the IoU with the nearest detection of their class, in [0, 1]; 0 without a true box.

    This is a potential for shaping. As a reward it would be recall without one-to-one matching, which copies and floods
    exploit. Raises ValueError on bad boxes, which names image and index.
    """
    d, t = edits.displayed, edits.truths
    check(d, t, edits.pool.num_classes)
    same = (d.labels[:, :, None] == t.labels[:, None]) & d.mask[:, :, None]
    best = np.where(same, pairwise_iou(d.boxes, t.boxes), 0.0).max(1, initial=0.0)
    wanted = t.mask & ~t.iscrowd
    mean: Float64[np.ndarray, " R"] = (best * wanted).sum(1) / np.maximum(wanted.sum(1), 1)
    return mean


def true_over_displayed(edits: Edits) -> Float64[np.ndarray, " R"]:
    """min(1, true boxes / displayed detections), in [0, 1]: VLM-R1's "odLength" factor; 1 where nothing is displayed."""
    wanted, displayed = (edits.truths.mask & ~edits.truths.iscrowd).sum(1), edits.displayed.mask.sum(1)
    ratio = wanted / np.maximum(displayed, 1)
    factor: Float64[np.ndarray, " R"] = np.where(displayed > 0, np.minimum(1.0, ratio), 1.0)
    return factor
