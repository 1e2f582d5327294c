"""AP as a reward: of a pool of images with one image's detections changed, and of a batch of images that all act."""

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.ap.box_moves import what_moves_are_worth
from rl_det.ap.ranking_pool import RankingPool
from rl_det.rewards.edits import Edits, Pool, Step
from rl_det.rewards.reward import Reward


class PoolAp(Reward):
    """The exact change of the pool's mAP, through NMS and COCO's ten IoU thresholds: the default reward.

    All images are ranked together. So a false positive of a class that the image does not hold costs what it costs the
    data set, and a common shift of an image's scores has an effect. The rewards of several steps add up to the change
    over all of them. The reward is 0 in a pool without a true box. It is the objective itself.
    """

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        earned: Float64[np.ndarray, " R"] = _change(after) - _change(before)
        return earned

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        """The reward and the credit, by exact changes, without recomputing the image for each candidate."""
        if not step.from_the_scene or step.factors not in (("scores",), ("scores", "boxes")):
            return super().credited(step, ended=ended)
        pool, images = step.scene.candidates, step.images
        _, without = pool.what_if(images, step.scene.scores[images], step.scores)
        if step.factors == ("scores",):
            change, _ = pool.what_if(images, step.scores)
            return change, -without
        change, moves = what_moves_are_worth(pool, step.scene.boxes, step.scene.truths, images, step.scores, step.boxes)
        return change, np.stack([-without, moves], -1)


class BatchAp(Reward):
    """The mAP of the acting batch, as one data set, when the episode ends: every image of the batch gets the same reward.

    If an image has several episodes, its first belongs to the first data set, its second to the second, and so on. A
    candidate's credit is what the batch loses if only this candidate's action is left out. It is the objective on a
    small data set, whose mAP is too high: a batch of 16 images has a mAP several points above that of a thousand.
    """

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        earned = np.zeros(len(after))
        if ended:
            for rows in _data_sets(after.images):
                earned[rows] = np.nan_to_num(_ranking(after[rows]).mean_ap)
        return earned

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        earned, credits = self(step.before, step.after, ended=ended), []
        for factor in step.factors:
            without = step.without(factor)
            lost = np.zeros(len(without.rows))
            for rows in _data_sets(step.images) if ended else []:
                among = np.flatnonzero(np.isin(without.rows, rows))
                places = np.searchsorted(rows, without.rows[among])
                lost[among] = -_ranking(step.after[rows]).what_if(places, without.edits[among].matches)
            credits.append(without.spread(lost))
        return earned, credits[0] if len(credits) == 1 else np.stack(credits, -1)


def pool_mean_ap(edits: Edits) -> Float64[np.ndarray, " R"]:
    """The pool's mAP with each edit, in [0, 1]: `PoolAp` as a value, for shaping; 0 in a pool without a true box."""
    whole: Float64[np.ndarray, " R"] = np.nan_to_num(edits.pool.ranking.mean_ap) + _change(edits)
    return whole


def _change(edits: Edits) -> Float64[np.ndarray, " R"]:
    """The change of the pool's mAP by each edit."""
    return edits.pool.ranking.what_if(edits.images, edits.matches)


def _ranking(edits: Edits) -> RankingPool:
    """The edits' images, as a data set of their own."""
    return Pool(detections=edits.detections, truths=edits.truths, num_classes=edits.pool.num_classes).ranking


def _data_sets(images: Int64[np.ndarray, " R"]) -> list[Int64[np.ndarray, " r"]]:
    """Groups of rows without a repeated image: the first row of each image, then the second of each, and so on."""
    turn = np.array([(images[:row] == image).sum() for row, image in enumerate(images)], dtype=np.int64)
    return [np.flatnonzero(turn == number) for number in range(int(turn.max(initial=-1)) + 1)]
