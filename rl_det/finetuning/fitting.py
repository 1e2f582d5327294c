"""The last stage of every row: post-processing fitted to validation mAP, as a row of its own beside the row without it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of
from rl_det.finetuning.plan import FITTED
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.recalibration import fit_class_recalibration
from rl_det.policies.detections import candidates_of
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import recalibrated_settings
from rl_det.progress import tell
from rl_det.storage.checkpoint import latest_checkpoint, restoring, write_checkpoint
from rl_det.strategies.postprocessing import FittedPostProcessing, fit_postprocessing, why_not_fitted
from rl_det.strategies.strategy import Task


@dataclass(frozen=True, kw_only=True)
class FittedRow:
    """A policy with fitted post-processing, before and after recalibration; if no fit was kept, the row's own policies."""

    before: Policy
    after: Policy
    fitted: FittedPostProcessing
    seconds: float
    """The seconds of the fit alone."""


def fitted_rows(
    before: Mapping[str, Policy],
    after: Mapping[str, Policy],
    tasks: Mapping[str, Task],
    num_evaluations: int,
    checkpoints: Path,
) -> dict[str, FittedRow]:
    """Fit the post-processing of recalibrated policies (`after`), by the rows' names; a fit that was done is loaded.

    Nothing is fitted, and one line says so, if there are too few validation images.
    """
    found = {}
    for name, policy in after.items():
        if wrong := why_not_fitted(tasks[name].val.targets, tasks[name].seed):
            tell(f"post-processing is not fitted: {wrong}")
            return {}
        found[name] = _fitted(before[name], policy, tasks[name], num_evaluations, checkpoints / f"{name}{FITTED}.pt")
        tell(f"{name}{FITTED}: {found[name].fitted.told}")
    return found


def _fitted(before: Policy, policy: Policy, task: Task, num_evaluations: int, done: Path) -> FittedRow:
    """Fit one policy's post-processing, or load it if it was fitted before the run was stopped."""
    kept = latest_checkpoint(done, tell)
    if kept is None:
        started = time.perf_counter()
        fitted, rescaled = _fit(policy, task, num_evaluations)
        kept = {
            "fitted": fitted.settings.plain(),
            "rescaled": rescaled.plain(),
            "gain": fitted.gain,
            "told": fitted.told,
            "seconds": time.perf_counter() - started,
        }
        write_checkpoint(done, kept)
    with restoring(done):
        settings, rescaled = (PostProcessingSettings.of(kept[name]) for name in ("fitted", "rescaled"))
        fitted = FittedPostProcessing(settings=settings, gain=float(kept["gain"]), told=str(kept["told"]))
        seconds = float(kept["seconds"])
    if fitted.settings == policy.postprocessing:
        return FittedRow(before=before, after=policy, fitted=fitted, seconds=seconds)
    own, after = policy.copy(), policy.copy()
    own.postprocessing, after.postprocessing = fitted.settings, rescaled
    return FittedRow(before=own, after=after, fitted=fitted, seconds=seconds)


def _fit(policy: Policy, task: Task, num_evaluations: int) -> tuple[FittedPostProcessing, PostProcessingSettings]:
    """The fit, on as many candidates as in validations; and its settings with the recalibration of what they detect."""
    targets, num_classes = task.val.targets, policy.detector.num_classes
    fitted = fit_postprocessing(
        candidates_of(policy, task.val, task.validated_candidates), targets, policy.postprocessing,
        num_classes=num_classes, num_evaluations=num_evaluations, seed=task.seed,
    )  # fmt: skip
    if fitted.settings == policy.postprocessing:
        return fitted, fitted.settings
    every = candidates_of(policy, task.val, task.evaluated_candidates)
    found = pad_detections(detections_of(every, fitted.settings))
    seen = outcomes(found, pad_targets(targets), num_classes=num_classes)
    return fitted, recalibrated_settings(fitted.settings, fit_class_recalibration(seen))
