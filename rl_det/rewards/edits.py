"""The detections of a pool of images before and after a step, and with the action of one candidate alone."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.matching import Matches, match
from rl_det.ap.options import CocoOptions
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.relations import Relations, relations
from rl_det.ap.suppression import hard_nms

NO_LIMIT = CocoOptions(max_detections=2**31 - 1)
"""COCO's options without the limit of a hundred detections a class, which is meant for reports."""

Factor = Literal["scores", "boxes"]
"""The part of a candidate that its action changes. If it changes both, each has its own credit."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """P images with a detector's detections and the true boxes.

    AP ranks all detections. Those with a score of at least `displayed_from` are displayed to a user: F1, LRP and prices count
    these alone. It is a constant of the environment: no action sets it.
    """

    detections: DetectionBatch
    truths: TruthBatch
    num_classes: int
    displayed_from: float = -np.inf

    @cached_property
    def ranking(self) -> RankingPool:
        """All detections of the pool, ranked together."""
        return RankingPool(match(self.detections, self.truths, num_classes=self.num_classes, options=NO_LIMIT))


@dataclass(frozen=True)
class Edits:
    """R independent edits of a pool: edit r gives image images[r] the row r of `detections`; other images keep theirs."""

    pool: Pool
    images: Int64[np.ndarray, " R"]
    detections: DetectionBatch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Int64[np.ndarray, " r"]) -> "Edits":
        """Some of the edits, in the order asked for."""
        return Edits(self.pool, self.images[rows], self.detections[rows])

    @cached_property
    def truths(self) -> TruthBatch:
        """What is truly in each edit's image."""
        return self.pool.truths[self.images]

    @cached_property
    def matches(self) -> Matches:
        """COCO's matching of the detections with the true boxes."""
        return match(self.detections, self.truths, num_classes=self.pool.num_classes, options=NO_LIMIT)

    @cached_property
    def displayed(self) -> DetectionBatch:
        """The detections that are displayed to a user."""
        visible = self.detections.mask & (self.detections.scores >= self.pool.displayed_from)
        return replace(self.detections, mask=visible)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """P images' candidates with the boxes and scores against which a step is measured; a score of -inf removes one."""

    boxes: Float32[np.ndarray, "P N 4"]
    labels: Int64[np.ndarray, "P N"]
    mask: Bool[np.ndarray, "P N"]
    scores: Float64[np.ndarray, "P N"]
    truths: TruthBatch
    num_classes: int
    nms_iou: float
    displayed_from: float = -np.inf

    @cached_property
    def relations(self) -> Relations:
        """Which candidate suppresses which, and which may match which true box."""
        return relations(self.boxes, self.labels, self.mask, self.truths, num_classes=self.num_classes)

    @cached_property
    def candidates(self) -> CandidatePool:
        """The candidates in the engine's form, from which exact changes are computed."""
        return CandidatePool(self.relations, self.scores, nms_iou=self.nms_iou)

    @cached_property
    def pool(self) -> Pool:
        """The pool of detections after non-maximum suppression."""
        everywhere = np.arange(len(self.mask))
        return Pool(
            detections=self._kept(everywhere, self.boxes, self.scores),
            truths=self.truths,
            num_classes=self.num_classes,
            displayed_from=self.displayed_from,
        )

    def edits(
        self,
        images: Int64[np.ndarray, " R"],
        boxes: Float32[np.ndarray, "R N 4"],
        scores: Float64[np.ndarray, "R N"],
    ) -> Edits:
        """The edits of image images[r] with other boxes and scores, after non-maximum suppression."""
        return Edits(self.pool, images, self._kept(images, boxes, scores))

    def _kept(self, images: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> DetectionBatch:
        labels = self.labels[images]
        kept = hard_nms(boxes, labels, self.mask[images], scores, self.nms_iou)
        return DetectionBatch(boxes=boxes, labels=labels, scores=scores, mask=kept)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of R episodes: image images[r] of a scene changes from one set of boxes and scores to another.

    Without `boxes_before` and `scores_before`, the step starts from the scene's own.
    """

    scene: Scene
    images: Int64[np.ndarray, " R"]
    boxes: Float32[np.ndarray, "R N 4"]
    scores: Float64[np.ndarray, "R N"]
    factors: tuple[Factor, ...]
    boxes_before: Float32[np.ndarray, "R N 4"] | None = None
    scores_before: Float64[np.ndarray, "R N"] | None = None

    @property
    def from_the_scene(self) -> bool:
        """Whether the step starts from the scene's own boxes and scores."""
        return self.boxes_before is None and self.scores_before is None

    @cached_property
    def before(self) -> Edits:
        """The detections before the step."""
        return self.scene.edits(self.images, *self._start)

    @cached_property
    def after(self) -> Edits:
        """The detections after the step."""
        return self.scene.edits(self.images, self.boxes, self.scores)

    def alone(self, factor: Factor) -> "Variants":
        """For each candidate that acts: the step with its action alone."""
        return self._variants(factor, self._start, (self.boxes, self.scores))

    def without(self, factor: Factor) -> "Variants":
        """For each candidate that acts: the step without its action."""
        return self._variants(factor, (self.boxes, self.scores), self._start)

    @property
    def _start(self) -> tuple[Float32[np.ndarray, "R N 4"], Float64[np.ndarray, "R N"]]:
        boxes = self.scene.boxes[self.images] if self.boxes_before is None else self.boxes_before
        scores = self.scene.scores[self.images] if self.scores_before is None else self.scores_before
        return boxes, scores

    def _variants(self, factor: Factor, common: tuple[Any, Any], own: tuple[Any, Any]) -> "Variants":
        """One edit for each candidate that acts: it as in `own`, all others as in `common`."""
        (boxes, scores), (own_boxes, own_scores) = common, own
        acts = (boxes != own_boxes).any(-1) if factor == "boxes" else scores != own_scores
        rows, candidates = np.nonzero(acts & self.scene.mask[self.images])
        boxes, scores = boxes[rows], scores[rows]
        one = np.arange(len(rows)), candidates
        if factor == "boxes":
            boxes[one] = own_boxes[rows, candidates]
        else:
            scores[one] = own_scores[rows, candidates]
        return Variants(self.scene.edits(self.images[rows], boxes, scores), rows, candidates, self.scores.shape)


@dataclass(frozen=True)
class Variants:
    """Edits in which one candidate differs: candidate candidates[v] of episode rows[v]."""

    edits: Edits
    rows: Int64[np.ndarray, " V"]
    candidates: Int64[np.ndarray, " V"]
    shape: tuple[int, ...]

    def spread(self, worth: Float64[np.ndarray, " V"]) -> Float64[np.ndarray, "R N"]:
        """Each variant's worth at its candidate's place [R, N]; 0 for candidates that do not act."""
        credit: Float64[np.ndarray, "R N"] = np.zeros(self.shape)
        credit[self.rows, self.candidates] = worth
        return credit
