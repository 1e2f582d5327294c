"""Evaluate tuned policies on the untouched test split, with intervals over the test images."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.data import Dataset
from rl_det.detectors.encodings import Encodings, encode_in_the_loop
from rl_det.finetuning.results import DisplayedF1
from rl_det.metrics.calibration import detection_calibration_error
from rl_det.metrics.evaluation import evaluate
from rl_det.metrics.operating_point import best_f1, best_f1_by_class, f1_by_class_thresholds, operating_point
from rl_det.metrics.outcomes import outcomes
from rl_det.policies.detections import detect_encoded, detect_images
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import recalibrated
from rl_det.progress import SHORT_WORK, bar
from rl_det.report.bootstrap import Interval, interval, redrawn_ap
from rl_det.strategies.strategy import Task
from rl_det.types import Detections, Target


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One policy's results on the test split: its figures, and its detections as a padded batch."""

    figures: dict[str, float]
    detections: DetectionBatch


def tasks_of(names: Iterable[str], whole: Container[str], task: Task) -> dict[str, Task]:
    """The task of each row; one of the `whole` rows, whose whole detector was trained, encodes validation images by itself.

    The run's encodings are those of the warm start's frozen part, which is not theirs any more.
    """
    images = {"train": task.train_images, "val": task.val_images}
    itself = replace(task, encode=lambda split: encode_in_the_loop(images[split]))
    return {name: itself if name in whole else task for name in names}


def calibrated(policies: Mapping[str, Policy], tasks: Mapping[str, Task]) -> tuple[dict[str, Policy], dict[str, float]]:
    """Each policy, recalibrated on validation; and its validation AP."""
    found, aps = {}, {}
    with bar("calibrate", len(policies)) as shown:
        for name, policy in policies.items():
            measured: dict[int, float] = {}
            task = tasks[name]

            def validation_ap(one: Policy, measured: dict[int, float] = measured, task: Task = task) -> float:
                if id(one) not in measured:
                    measured[id(one)] = task.validation_ap(one)
                return measured[id(one)]

            found[name] = recalibrated(policy, task.val, task.evaluated_candidates, validation_ap)
            aps[name] = validation_ap(found[name])
            shown.advance()
    return found, aps


def tested(
    before: Mapping[str, Policy], after: Mapping[str, Policy], test: Dataset, num_candidates: int
) -> tuple[dict[str, Tested], list[Target]]:
    """Each recalibrated policy's figures on test, with its calibration error `before`; and the targets.

    Policies that share the frozen part of their detector run it once an image, in full precision.
    """
    targets: list[Target] = []
    found: dict[str, tuple[list[Detections], list[Detections]]] = {name: ([], []) for name in after}
    groups = _sharing(after)
    with bar("test", len(test) * len(groups)) as shown:
        for number, names in enumerate(groups):
            policies = [policy for name in names for policy in (before[name], after[name])]
            images = _images(test, targets if number == 0 else [])
            for batch in detect_images(policies, images, num_candidates):
                for place, name in enumerate(names):
                    found[name][0].extend(batch[2 * place])
                    found[name][1].extend(batch[2 * place + 1])
                shown.advance(len(batch[0]))
    results = {}
    with bar("figures", len(found), delay=SHORT_WORK) as shown:
        for name, (uncalibrated, final) in found.items():
            num_classes = after[name].detector.num_classes
            earlier = outcomes(pad_detections(uncalibrated), pad_targets(targets), num_classes=num_classes)
            figures = evaluate(final, targets, num_classes=num_classes)
            figures["calibration_error_before"] = detection_calibration_error(earlier)
            results[name] = Tested(figures=figures, detections=pad_detections(final))
            shown.advance()
    return results, targets


def all_displayed(
    policies: Mapping[str, Policy],
    tasks: Mapping[str, Task],
    found: Mapping[str, Tested],
    targets: list[Target],
    num_candidates: int,
) -> dict[str, DisplayedF1]:
    """The score thresholds of all rows, and the test split's F1 there."""
    rows = {}
    with bar("thresholds", len(policies), delay=SHORT_WORK) as shown:
        for name, policy in policies.items():
            rows[name] = displayed(policy, tasks[name].val, found[name].detections, targets, num_candidates)
            shown.advance()
    return rows


def displayed(
    policy: Policy, val: Encodings, found: DetectionBatch, targets: list[Target], num_candidates: int
) -> DisplayedF1:
    """The score thresholds that are best on validation, which is what a user would set, and the test split's F1 there."""
    num_classes = policy.detector.num_classes
    detected = pad_detections(detect_encoded(policy, val, num_candidates))
    on_val = outcomes(detected, pad_targets(val.targets), num_classes=num_classes)
    on_test = outcomes(found, pad_targets(targets), num_classes=num_classes)
    threshold = best_f1(on_val).threshold
    by_class = [point.threshold for point in best_f1_by_class(on_val)]
    return DisplayedF1(
        threshold=threshold,
        f1=operating_point(on_test, threshold).f1,
        class_thresholds=tuple(by_class),
        f1_by_class_thresholds=f1_by_class_thresholds(on_test, by_class),
    )


def intervals(
    rows: Mapping[str, Tested],
    targets: list[Target],
    *,
    num_classes: int,
    num_draws: int,
    references: Mapping[str, str],
) -> dict[str, dict[str, Interval]]:
    """Each row's AP, and its differences from the rows `references`, with 95 % intervals over redrawn test images."""
    truths = pad_targets(targets)
    matches = {name: [[match(row.detections, truths, num_classes=num_classes)]] for name, row in rows.items()}
    with bar("intervals", num_draws + 1) as shown:
        redrawn = redrawn_ap(matches, num_draws=num_draws, rng=np.random.default_rng(0), on_draw=shown.advance)
    return {
        name: {"AP": interval(values), **{key: interval(values - redrawn[row]) for key, row in references.items()}}
        for name, values in redrawn.items()
    }


def _sharing(policies: Mapping[str, Policy]) -> list[list[str]]:
    """Groups of names of policies whose detectors share the frozen part."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, policy in policies.items():
        trained = {id(parameter) for parameter in policy.detector.trainable.parameters()}
        own = [id(policy)] if policy.detector.part == "all" else []  # then the backbone, which proposes, is its own
        frozen = (*own, *(id(p) for p in policy.detector.plain().parameters() if id(p) not in trained))
        groups.setdefault(frozen, []).append(name)
    return list(groups.values())


def _images(test: Dataset, targets: list[Target]) -> Iterator[Tensor]:
    """Yield the test images; appends their targets to `targets`."""
    for index in range(len(test)):
        sample = test[index]
        targets.append(sample.target)
        yield sample.image
