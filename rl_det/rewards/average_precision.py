"""AP as a reward: of a pool of images with one image's detections changed, and of a batch of images that all act."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rl_det.ap.box_moves import what_moves_are_worth
from rl_det.ap.options import AREA_RANGES, CocoOptions
from rl_det.ap.ranking_pool import RankingPool
from rl_det.rewards.edits import NO_LIMIT, Edits, Pool, Scene, Step
from rl_det.rewards.reward import Reward, joined
from rl_det.settings import check_settings

AP50 = replace(NO_LIMIT, iou_thresholds=(0.5,))
"""COCO's AP50: one IoU threshold."""
AP_SMALL = replace(NO_LIMIT, area_range=AREA_RANGES["small"])
"""COCO's AP of small objects. HACKABLE BY DESIGN: larger objects do not count, nor do larger detections that find nothing
small. So false positives of other sizes are free, and what larger objects lose is not seen."""


@dataclass(frozen=True)
class PoolAp(Reward):
    """The exact change of the pool's mAP, through NMS and COCO's ten IoU thresholds: the default reward.

    All images are ranked together. So a false positive of a class that the image does not hold costs what it costs the
    data set, and a common shift of an image's scores has an effect. The rewards of several steps add up to the change
    over all of them. The reward is 0 in a pool without a true box. It is the objective itself. Other options give another
    mAP, such as `AP50` and `AP_SMALL`.
    """

    options: CocoOptions = NO_LIMIT

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        earned: Float64[np.ndarray, " R"] = self._change(after) - self._change(before)
        return earned

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        """The reward and the credit, by exact changes, without recomputing the image for each candidate."""
        scene, pool, images = step.scene, step.scene.candidates_by(self.options), step.images
        own_scores = scene.scores[images]
        if step.factors == ("boxes",):
            credit = self._alone(scene, images, step.boxes)
            if step.boxes_before is not None:
                credit = credit - self._alone(scene, images, step.boxes_before)
            return self(step.before, step.after, ended=ended), credit
        if not step.from_the_scene or step.factors not in (("scores",), ("scores", "boxes")):
            return super().credited(step, ended=ended)
        _, without = pool.what_if(images, own_scores, step.scores)
        if step.factors == ("scores",):
            change, _ = pool.what_if(images, step.scores)
            return change, -without
        change, moves = what_moves_are_worth(pool, scene.boxes, scene.truths, images, step.scores, step.boxes)
        return change, joined([-without, moves])

    def _change(self, edits: Edits) -> Float64[np.ndarray, " R"]:
        """The change of the pool's mAP by each edit."""
        return edits.pool.ranked_by(self.options).what_if(edits.images, edits.matched_by(self.options))

    def _alone(
        self, scene: Scene, images: Int64[np.ndarray, " R"], boxes: Float32[np.ndarray, "R N 4"]
    ) -> Float64[np.ndarray, "R N"]:
        """The change of the pool's mAP for each candidate, if its box alone is another one."""
        pool, scores = scene.candidates_by(self.options), scene.scores[images]
        return what_moves_are_worth(pool, scene.boxes, scene.truths, images, scores, boxes)[1]


class BatchAp(Reward):
    """The mAP of the acting batch, as one data set, when the episode ends: every image of the batch gets the same reward.

    If an image has several episodes, its first belongs to the first data set, its second to the second, and so on. A
    candidate's credit is the change of that data set's mAP if this candidate alone acts, in all of its images. It is the
    objective on a small data set, whose mAP is too high: a batch of 16 images has a mAP several points above that of a
    thousand.
    """

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        earned = np.zeros(len(after))
        if ended:
            for rows in _data_sets(after.images):
                earned[rows] = np.nan_to_num(_ranking(after[rows]).mean_ap)
        return earned

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        credits = []
        for factor in step.factors:
            alone = step.alone(factor)
            worth = np.zeros(len(alone.rows))
            for rows in _data_sets(step.images) if ended else []:
                among = np.flatnonzero(np.isin(alone.rows, rows))
                places = np.searchsorted(rows, alone.rows[among])
                worth[among] = _ranking(step.baseline[rows]).what_if(places, alone.after[among].matches)
            credits.append(alone.spread(worth))
        return self(step.before, step.after, ended=ended), joined(credits)


def pool_mean_ap(edits: Edits) -> Float64[np.ndarray, " R"]:
    """The pool's mAP with each edit, in [0, 1]: `PoolAp` as a value, for shaping; 0 in a pool without a true box."""
    whole: Float64[np.ndarray, " R"] = np.nan_to_num(edits.pool.ranking.mean_ap) + PoolAp()._change(edits)
    return whole


def _ranking(edits: Edits) -> RankingPool:
    """The edits' images, as a data set of their own."""
    return Pool(detections=edits.detections, truths=edits.truths, num_classes=edits.pool.num_classes).ranking


def _data_sets(images: Int64[np.ndarray, " R"]) -> list[Int64[np.ndarray, " r"]]:
    """Groups of rows without a repeated image: the first row of each image, then the second of each, and so on."""
    turn = np.array([(images[:row] == image).sum() for row, image in enumerate(images)], dtype=np.int64)
    return [np.flatnonzero(turn == number) for number in range(int(turn.max(initial=-1)) + 1)]
