"""Thirteen numbers of post-processing, fitted to the exact validation mAP by CMA-ES: tuning without a gradient.

The numbers are those of the votes on each candidate's box and logit (`rl_det.candidates.votes`), the NMS IoU and the decay of
soft-NMS. This is the cheapest form of reinforcement learning: a policy of few numbers, which is explored in the space of its
numbers (CMA-ES, Hansen and Ostermeier 2001). It needs candidates and true boxes alone, so it follows any detector and any
policy.

So few numbers can still be fitted to the chance of a few images. Hence:

1. Only validation images are used. A random half of them is fitted on, and the other half held back; then the halves change
   places. Where images are few, this is repeated with other halves, as the fits then differ much. The numbers are the mean of
   all fits, and they are kept only if the gains on held-back images are positive in the mean.
2. A fit starts at hand-set votes, or at no votes if those are better, and pays a small price for the distance from there.
3. The result of a fit is the mean of the last distribution, not the best of its samples, which were lucky.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.candidates.voted_ap import VotedAp
from rl_det.candidates.votes import Votes
from rl_det.detectors import Detector
from rl_det.policies.build import build_policy
from rl_det.policies.detections import candidates_of
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import recalibrated
from rl_det.progress import SHORT_WORK, bar, tell
from rl_det.settings import at_least, check_settings
from rl_det.strategies.hand_set import PLAIN_VOTES, WarmStart, check_runs_first
from rl_det.strategies.labels import Labels
from rl_det.strategies.strategy import Task, given
from rl_det.training.loop import Ending
from rl_det.types import Candidates, Target


class Number(NamedTuple):
    """How far a number is explored at first, and its bounds; if `in_logs`, its logarithm is explored."""

    unit: float
    low: float
    high: float
    in_logs: bool = False

    def inside(self, value: float) -> float:
        """The value in units, as the search sees it."""
        return float(np.log(value) if self.in_logs else value) / self.unit

    def outside(self, units: float) -> float:
        """The value of so many units."""
        return float(np.exp(units * self.unit)) if self.in_logs else units * self.unit


NUMBERS = {
    "sharpness": Number(0.5, 0.02, 1.0, in_logs=True),
    "score_exponent": Number(0.5, 0.0, 3.0),
    "step": Number(0.3, -0.5, 1.5),
    "step_slope": Number(0.1, -1.0, 1.0),
    "mean_share": Number(0.25, -0.5, 1.5),
    "softness": Number(0.5, 0.03, 2.0, in_logs=True),
    "support": Number(0.3, -2.0, 3.0),
    "spread": Number(3.0, -30.0, 30.0),
    "size": Number(0.3, -2.0, 2.0),
    "small": Number(0.3, -2.0, 2.0),
    "large": Number(0.3, -2.0, 2.0),
    "nms_iou": Number(0.05, 0.2, 1.1),
    "decay": Number(0.5, -1.0, 5.0),
}
"""What is fitted. An NMS IoU above 1 means 1, and a decay below 0 means 0: so a fit can come to rest there."""
BOUNDS = np.array([[n.inside(n.low), n.inside(n.high)] for n in NUMBERS.values()])
SPREAD_AT_FIRST = 0.5
"""The standard deviation of the first samples, in units."""
PRICE_OF_DISTANCE = 2e-5
"""The AP that a distance of one unit from the start must gain; it grows with the distance's square."""
LEAST_IMAGES = 8
"""With fewer images in a half, nothing is fitted."""
MOST_IMAGES = 256
"""A fit takes at most so many images of its half; all of the other half judge it."""
MOST_SPLITS = 4
"""The images are divided into halves so many times, or fewer where they are many."""
IMAGES_OF_SPLITS = 400
"""All splits together have at most so many images, unless one split has more."""


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """Votes, NMS and soft-NMS with thirteen numbers, fitted to the validation mAP, on the head that another strategy leaves."""

    name: str = "post_processing"
    """The name of its row in the table."""
    after: WarmStart | Labels = field(default_factory=WarmStart)
    """The strategy that runs first; its name and its policy are left out, because this row has its own."""
    num_evaluations: int | None = None
    """How many settings each fit tries; left out: as many as the budget's fits of rows (`fit_evaluations`), or as
    many as by the full budget if that is 0."""

    def __post_init__(self) -> None:
        check_settings(self, num_evaluations=at_least(1))
        check_runs_first(self.after)

    @property
    def trains(self) -> Literal["head"]:
        """The head, which the strategy before trains."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The rescoring policy on the detector's head."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Run the strategy before, and fit on its recalibrated scores, as the numbers depend on the logits' scale.

        If nothing is kept, the policy stays as the strategy before has left it. The ending's best AP is the one before the
        fit, plus the gain on held-back images: the fit has seen all others.
        """
        ending = self.after.tune(policy, task)
        calibrated = recalibrated(policy, task.val, task.evaluated_candidates, task.validation_ap)
        fitted = fit_postprocessing(
            candidates_of(calibrated, task.val, task.validated_candidates),
            task.val.targets,
            calibrated.postprocessing,
            num_classes=policy.detector.num_classes,
            num_evaluations=given(self.num_evaluations, task.fit_evaluations),
            seed=task.seed,
        )
        before = task.validation_ap(calibrated if fitted.gain else policy)
        if fitted.gain:
            policy.trainable.load_state_dict(calibrated.trainable.state_dict())
            policy.postprocessing = fitted.settings
        tell(f"{self.name}: {fitted.told}")
        detail = "; ".join(part for part in (ending.detail, fitted.told) if part)
        return replace(ending, best=before + fitted.gain, best_update=None, detail=detail)


@dataclass(frozen=True, kw_only=True)
class FittedPostProcessing:
    """The result of a fit: settings, and the AP that they gain on held-back images; those given and 0 if nothing was kept."""

    settings: PostProcessingSettings
    gain: float
    told: str
    """What became of the fit, in a few words."""


def fit_postprocessing(
    candidates: Candidates,
    targets: Sequence[Target],
    how: PostProcessingSettings,
    *,
    num_classes: int,
    num_evaluations: int,
    seed: int,
) -> FittedPostProcessing:
    """Fit the numbers on the candidates of validation images, which come with the logits and boxes of a policy.

    Keeps `how` if the halves are too small, if one has no true box, if a logit is not finite, or if nothing is gained on
    held-back images. The same seed gives the same numbers.
    """
    wrong = why_not_fitted(targets, seed)
    if not candidates.logits[candidates.mask].isfinite().all():
        wrong = "a logit is not finite"
    if wrong:
        return FittedPostProcessing(settings=how, gain=0.0, told=f"not fitted: {wrong}")

    def judge(images: np.ndarray) -> VotedAp:
        return VotedAp(candidates[torch.from_numpy(images)], [targets[i] for i in images], num_classes=num_classes)

    splits, found, gains = splits_of(len(targets), seed), [], []
    with bar("fit post-processing", 2 * len(splits) * num_evaluations, delay=SHORT_WORK) as shown:
        for number, halves in enumerate(splits):
            judges = [judge(half) for half in halves]
            for half, own, held_back in zip(halves, judges, judges[::-1], strict=True):
                fitted_on = own if len(half) <= MOST_IMAGES else judge(half[:MOST_IMAGES])
                found.append(fit_numbers(fitted_on, how, num_evaluations, seed + number, shown.advance))
                gains.append(held_back(settings_at(found[-1], how)) - held_back(how))
    gain, points = sum(gains) / len(gains), [f"{100 * gain:+.2f}" for gain in sorted(gains)]
    told = (
        f"the fits' gains on the halves that they have not seen, in AP x 100: {100 * gain:+.2f} in the mean of {len(gains)} "
        f"({points[0]} to {points[-1]})"
    )
    if not gain > 0:
        return FittedPostProcessing(settings=how, gain=0.0, told=f"not kept: {told}")
    return FittedPostProcessing(settings=settings_at(np.mean(found, 0), how), gain=gain, told=told)


def splits_of(num_images: int, seed: int) -> list[list[Int64[np.ndarray, " half"]]]:
    """The images' positions in two random halves, several times where they are few."""
    count = max(1, min(MOST_SPLITS, IMAGES_OF_SPLITS // max(1, num_images)))
    return [np.array_split(np.random.default_rng([seed, number]).permutation(num_images), 2) for number in range(count)]


def why_not_fitted(targets: Sequence[Target], seed: int) -> str:
    """Why nothing can be fitted on images with these true boxes; an empty string if it can."""
    if len(targets) < 2 * LEAST_IMAGES:
        return f"a fit needs {2 * LEAST_IMAGES} validation images; there are {len(targets)}"
    halves = [half for split in splits_of(len(targets), seed) for half in split]
    if not all(any(bool((~targets[i].iscrowd).any()) for i in half[:MOST_IMAGES]) for half in halves):
        return "a half of the validation images has no true box"
    return ""


def fit_numbers(
    worth: Callable[[PostProcessingSettings], float],
    how: PostProcessingSettings,
    num_evaluations: int,
    seed: int,
    on_evaluations: Callable[[int], None] = lambda count: None,
) -> Float64[np.ndarray, " numbers"]:
    """The mean of CMA-ES's distribution after so many evaluations, the last generation completed, in units."""
    from cmaes import CMA  # slow to import

    begin = np.clip(numbers_of(max(starts(how), key=worth)), *BOUNDS.T)
    search = CMA(mean=begin, sigma=SPREAD_AT_FIRST, bounds=BOUNDS, seed=seed)
    for done in range(0, num_evaluations, search.population_size):
        samples = [search.ask() for _ in range(search.population_size)]
        losses = []
        for sample in samples:
            distance = float(np.square(sample - begin).sum())
            losses.append(PRICE_OF_DISTANCE * distance - worth(settings_at(sample, how)))
        search.tell(list(zip(samples, losses, strict=True)))
        on_evaluations(min(len(samples), num_evaluations - done))
    mean: Float64[np.ndarray, " numbers"] = np.clip(search.mean, *BOUNDS.T)
    return mean


def starts(how: PostProcessingSettings) -> list[PostProcessingSettings]:
    """The settings as they are, and with each of the hand-set votes."""
    plain = [Votes(step=step, mean_share=share) for step, share in PLAIN_VOTES]
    return [how, *(replace(how, votes=votes) for votes in plain)]


def numbers_of(how: PostProcessingSettings) -> Float64[np.ndarray, " numbers"]:
    """The fitted numbers of the settings, in units."""
    values = {**vars(how.votes), "nms_iou": how.nms_iou, "decay": 1 / how.sigma}
    return np.array([number.inside(values[name]) for name, number in NUMBERS.items()])


def settings_at(numbers: Float64[np.ndarray, " numbers"], how: PostProcessingSettings) -> PostProcessingSettings:
    """The settings with these numbers, in units; all else as in `how`."""
    own = {name: n.outside(units) for (name, n), units in zip(NUMBERS.items(), numbers.tolist(), strict=True)}
    nms_iou, decay = min(1.0, own.pop("nms_iou")), max(0.0, own.pop("decay"))
    sigma = np.inf if decay == 0 else 1 / decay
    return replace(how, nms_iou=nms_iou, sigma=sigma, votes=Votes(**own))
