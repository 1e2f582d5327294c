"""The detections of a pool of images before and after a step, and with the action of one candidate alone."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.matching import Matches, match
from rl_det.ap.options import CocoOptions
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.relations import relations
from rl_det.ap.suppression import hard_nms
from rl_det.ap.tallies import Counter
from rl_det.ap.variants import Asked, survivors_of_variants
from rl_det.rewards.tallies import Kind, displayed_tallies, ranked_tallies

NO_LIMIT = CocoOptions(max_detections=2**31 - 1)
"""COCO's options without the limit of a hundred detections a class, which is meant for reports."""

Arrays = tuple[Float32[np.ndarray, "R N 4"], Float64[np.ndarray, "R N"]]
"""The boxes and scores of R images' candidates."""
Factor = Literal["scores", "boxes"]
"""The part of a candidate that its action changes. If it changes both, each has its own credit."""
When = Literal["before", "after"]
"""Of a step."""


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
    scores_are_logits: bool = True
    """Whether scores are logits; otherwise they are probabilities."""

    @property
    def ranking(self) -> RankingPool:
        """All detections of the pool, ranked together by COCO's options."""
        return self.ranked_by(NO_LIMIT)

    def ranked_by(self, options: CocoOptions) -> RankingPool:
        """All detections of the pool, ranked together by other options; computed once."""
        if options not in self._rankings:
            matches = match(self.detections, self.truths, num_classes=self.num_classes, options=options)
            self._rankings[options] = RankingPool(matches, options)
        return self._rankings[options]

    def tallies(self, kind: Kind) -> Float64[np.ndarray, "P K"]:
        """Each image's tallies; computed once."""
        return self._as_it_is.tallies(kind)

    @cached_property
    def _rankings(self) -> dict[CocoOptions, RankingPool]:
        return {}

    @cached_property
    def _as_it_is(self) -> "Edits":
        return Edits(self, np.arange(len(self.detections)), self.detections)


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
        return self.matched_by(NO_LIMIT)

    def matched_by(self, options: CocoOptions) -> Matches:
        """The same by other options."""
        return match(self.detections, self.truths, num_classes=self.pool.num_classes, options=options)

    def tallies(self, kind: Kind) -> Float64[np.ndarray, "R K"]:
        """The columns of `rl_det.rewards.tallies.Displayed` or `Ranked` for each edit; computed once."""
        return self._displayed_tallies if kind == "displayed" else self._ranked_tallies

    @cached_property
    def _displayed_tallies(self) -> Float64[np.ndarray, "R 5"]:
        return displayed_tallies(self.displayed, self.truths, num_classes=self.pool.num_classes)

    @cached_property
    def _ranked_tallies(self) -> Float64[np.ndarray, "R 2"]:
        return ranked_tallies(self.matches, self.detections, num_classes=self.pool.num_classes)

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

    @property
    def candidates(self) -> CandidatePool:
        """The candidates in the engine's form, from which exact changes are computed, by COCO's options."""
        return self.candidates_by(NO_LIMIT)

    def candidates_by(self, options: CocoOptions) -> CandidatePool:
        """The same by other options; computed once."""
        if options not in self._candidates:
            related = relations(
                self.boxes, self.labels, self.mask, self.truths, num_classes=self.num_classes, options=options
            )
            self._candidates[options] = CandidatePool(related, self.scores, nms_iou=self.nms_iou)
        return self._candidates[options]

    def counter(self, kind: Kind) -> Counter:
        """The images' tallies, from which those of variants are computed; made once."""
        if kind not in self._counters:
            displayed_from = self.displayed_from if kind == "displayed" else None
            self._counters[kind] = Counter(self.candidates, self.boxes, self.truths, displayed_from=displayed_from)
        return self._counters[kind]

    @cached_property
    def _candidates(self) -> dict[CocoOptions, CandidatePool]:
        return {}

    @cached_property
    def _counters(self) -> dict[Kind, Counter]:
        return {}

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

    The scene's own boxes and scores are the baseline. Without `boxes_before` and `scores_before`, the step starts from
    them.
    """

    scene: Scene
    images: Int64[np.ndarray, " R"]
    boxes: Float32[np.ndarray, "R N 4"]
    scores: Float64[np.ndarray, "R N"]
    factors: tuple[Factor, ...]
    boxes_before: Float32[np.ndarray, "R N 4"] | None = None
    scores_before: Float64[np.ndarray, "R N"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Int64[np.ndarray, " r"]) -> "Step":
        """The step of some of the episodes."""
        boxes, scores = self.boxes_before, self.scores_before
        return replace(
            self,
            images=self.images[rows],
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            boxes_before=None if boxes is None else boxes[rows],
            scores_before=None if scores is None else scores[rows],
        )

    @property
    def from_the_scene(self) -> bool:
        """Whether the step starts from the scene's own boxes and scores."""
        return self.boxes_before is None and self.scores_before is None

    @cached_property
    def baseline(self) -> Edits:
        """The detections under the baseline."""
        pool = self.scene.pool
        return Edits(pool, self.images, pool.detections[self.images])

    @cached_property
    def before(self) -> Edits:
        """The detections before the step."""
        return self.baseline if self.from_the_scene else self.scene.edits(self.images, *self._start)

    @cached_property
    def after(self) -> Edits:
        """The detections after the step."""
        return self.scene.edits(self.images, self.boxes, self.scores)

    def alone(self, factor: Factor) -> "Variants":
        """For each candidate whose action changes the image's detections if it acts alone: the step with its actions alone.

        All others are at the baseline. A candidate has acted if it did so before the step, too.
        """
        rows, candidates = self._acting(factor)
        kept, differs = self._kept_alone(factor, rows, candidates, "after")
        kept_before = self.baseline.detections.mask[rows]
        if not self.from_the_scene:
            kept_before, differed = self._kept_alone(factor, rows, candidates, "before")
            differs = differs | differed
        some = np.flatnonzero(differs)
        rows, candidates = rows[some], candidates[some]
        after = self._with_one(factor, rows, candidates, "after", kept[some])
        if self.from_the_scene:
            before = self.baseline[rows]
        else:
            before = self._with_one(factor, rows, candidates, "before", kept_before[some])
        return Variants(before=before, after=after, rows=rows, candidates=candidates, shape=self.scores.shape)

    def tallied_alone(self, factor: Factor, kind: Kind) -> "TalliedVariants":
        """For each candidate that acts, or has acted: the tallies with its actions alone, before and after the step."""
        rows, candidates = self._acting(factor)
        counter = self.scene.counter(kind)
        standing = counter.tallies[self.images[rows]]
        after = counter.of_variants(self._asked(factor, rows, candidates, "after"))
        before = standing
        if not self.from_the_scene:
            before = counter.of_variants(self._asked(factor, rows, candidates, "before"))
        return TalliedVariants(
            before=before, after=after, standing=standing, rows=rows, candidates=candidates, shape=self.scores.shape
        )

    def _acting(self, factor: Factor) -> tuple[Int64[np.ndarray, " V"], Int64[np.ndarray, " V"]]:
        """The episodes and candidates of the actions that change something, before NMS."""
        baseline, start, end = self._baseline, self._start, (self.boxes, self.scores)
        if factor == "boxes":
            acts = ((baseline[0] != start[0]) | (baseline[0] != end[0])).any(-1)
        else:
            acts = (baseline[1] != start[1]) | (baseline[1] != end[1])
        rows, candidates = np.nonzero(acts & self.scene.mask[self.images])
        return rows, candidates

    def _asked(self, factor: Factor, rows: np.ndarray, candidates: np.ndarray, when: When) -> Asked:
        """The variants in which each of these candidates alone acts, as the engine takes them."""
        (boxes, scores), own = self._baseline, self._start if when == "before" else (self.boxes, self.scores)
        numbers = np.full(scores.shape, -1, dtype=np.int64)
        numbers[rows, candidates] = np.arange(len(rows))
        if factor == "boxes":
            return Asked(self.images, scores, own[0], numbers)
        return Asked(self.images, own[1], boxes, numbers)

    def _kept_alone(
        self, factor: Factor, rows: np.ndarray, candidates: np.ndarray, when: When
    ) -> tuple[Bool[np.ndarray, "V N"], Bool[np.ndarray, " V"]]:
        """Whom NMS leaves if each of these candidates acts alone, and whether the detections are then others."""
        asked = self._asked(factor, rows, candidates, when)
        return survivors_of_variants(self.scene.candidates, self.scene.boxes, asked)

    @property
    def _baseline(self) -> Arrays:
        return self.scene.boxes[self.images], self.scene.scores[self.images]

    @property
    def _start(self) -> Arrays:
        boxes, scores = self._baseline
        return (
            boxes if self.boxes_before is None else self.boxes_before,
            scores if self.scores_before is None else self.scores_before,
        )

    def _with_one(
        self, factor: Factor, rows: np.ndarray, candidates: np.ndarray, when: When, kept: Bool[np.ndarray, "V N"]
    ) -> Edits:
        """One edit for each candidate: it has its own box or score, all others keep the baseline's."""
        boxes, scores = self._baseline[0][rows], self._baseline[1][rows]
        own = self._start if when == "before" else (self.boxes, self.scores)
        one = np.arange(len(rows)), candidates
        if factor == "boxes":
            boxes[one] = own[0][rows, candidates]
        else:
            scores[one] = own[1][rows, candidates]
        images = self.images[rows]
        return Edits(
            self.scene.pool,
            images,
            DetectionBatch(boxes=boxes, labels=self.scene.labels[images], scores=scores, mask=kept),
        )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variants of a step in which one candidate alone acts: candidate candidates[v] of episode rows[v]."""

    rows: Int64[np.ndarray, " V"]
    candidates: Int64[np.ndarray, " V"]
    shape: tuple[int, ...]

    def spread(self, worth: Float64[np.ndarray, " V"]) -> Float64[np.ndarray, "R N"]:
        """Each variant's worth at its candidate's place [R, N]; 0 for candidates that do not act."""
        credit: Float64[np.ndarray, "R N"] = np.zeros(self.shape)
        credit[self.rows, self.candidates] = worth
        return credit


@dataclass(frozen=True, kw_only=True)
class Variants(Spread):
    """Edits in which one candidate alone acts, before and after the step."""

    before: Edits
    after: Edits


@dataclass(frozen=True, kw_only=True)
class TalliedVariants(Spread):
    """The tallies of images in which one candidate alone acts, before and after the step, and under the baseline."""

    before: Float64[np.ndarray, "V K"]
    after: Float64[np.ndarray, "V K"]
    standing: Float64[np.ndarray, "V K"]
