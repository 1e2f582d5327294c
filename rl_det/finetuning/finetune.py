"""Tune a detector by strategies, and compare them with the warm start and the control on the test split.

The control is the same for every strategy: continued supervised training of the same parameters, on the same images,
for as many image passes, under the same schedule. Validation AP selects each row's weights, and the untouched test
split measures each row once. A stopped run resumes from its folder and ends the same, bit for bit on a CPU.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rl_det import parallel
from rl_det.ap.padding import pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.data.open import Source, open_data
from rl_det.detectors import Detector
from rl_det.detectors.frozen import FrozenPart
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget, BudgetName, Recipe, budget_named, in_batches_of, recipe_for
from rl_det.finetuning.caching import CacheLimits
from rl_det.finetuning.circumstances import circumstances
from rl_det.finetuning.evaluation import Tested, all_displayed, calibrated, intervals, tasks_of, tested
from rl_det.finetuning.fitting import fitted_rows
from rl_det.finetuning.pages import FinishedRun, make_pages
from rl_det.finetuning.plan import FITTED, Plan, plan_run
from rl_det.finetuning.results import Results, Row, write_detections, write_truths
from rl_det.finetuning.tuned import tuned
from rl_det.finetuning.warm_start import begin_run
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy
from rl_det.precision import WantedPrecision
from rl_det.progress import bar, tell
from rl_det.report.bootstrap import Interval
from rl_det.report.precision_recall import curves_of_batch
from rl_det.settings import check_argument
from rl_det.storage.checkpoint import (
    UNFINISHED,
    has_checkpoint,
    latest_checkpoint,
    remove_checkpoint,
    restoring,
    write_checkpoint,
)
from rl_det.storage.files import check_writable
from rl_det.storage.memory import keep_few_kernels
from rl_det.storage.mirror import mirrored
from rl_det.storage.run import CHECKPOINTS, CONFIG, START, Run, check_run_folder
from rl_det.strategies.hand_set import VOTED, WARM_START, set_best_votes
from rl_det.strategies.labels import CONTROL, Labels
from rl_det.strategies.postprocessing import PostProcessing
from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import Strategy, Task
from rl_det.training.callbacks import Checkpoint, MetricsLog, ProgressBar
from rl_det.training.loop import Callback, Ending
from rl_det.training.trackers import TrackerName, check_tracker, tracking
from rl_det.types import Target

BLIND = 0.001
"""Of a detector whose validation AP is lower, a line warns: its weights are probably random, or of other classes."""


def finetune(
    detector: Detector,
    data: Source,
    *strategies: Strategy,
    budget: BudgetName | Budget = "full",
    recipe: Recipe | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    baselines: bool = True,
    encodings: str | Path | None = None,
    batch_size: int | None = None,
    cache_memory: float | None = None,
    cache_disk: float | None = None,
    precision: WantedPrecision = "auto",
    compile: bool = False,
    track: TrackerName = "tensorboard",
    callbacks: Sequence[Callback] = (),
) -> Results:
    """Tune copies of the detector by each strategy, by default `PPO()`, and compare them with the control.

    The detector does not change. If it is not trained for the data's classes yet, a supervised warm start comes first,
    and is kept for later runs. `recipe` sets how, and at which rate the head learns; by default it follows the data.
    `out` is the run's folder, by default one in `runs/`, named after the run. A folder that already holds a run is
    refused, unless `resume` continues this same run or `overwrite` replaces it. `baselines=False` leaves out the warm
    start and the control. `batch_size` replaces the numbers of images in a batch of the budget and the recipe.

    The frozen part's results are kept in memory up to `cache_memory` GiB (by default a third of the machine's), else on
    disk up to `cache_disk` GiB (by default half of what is free), else the frozen part runs in the loop. `encodings` is a
    folder where they are kept for later runs. `precision` is that of the frozen part's backbone on the strategies'
    training images: auto is mixed (float16) on CUDA and float32 on a CPU, where mixed is bfloat16; all others run in float32.
    `compile` compiles it by `torch.compile`. `track` names what shows the metrics of every update: tensorboard (files in
    the run's folder), wandb or mlflow (extras of those names), or none; `metrics.jsonl` has them in any case. `callbacks` are
    called for every update of every strategy.

    Several processes, as `torchrun` starts them, divide the images of each batch, and give the results of one; the main
    process alone writes, and calls the callbacks.

    Sets torch's global seed. Raises ValueError, with nothing written, for arguments that do not fit together.
    """
    check_argument("out", out, str | Path | None)
    check_argument("recipe", recipe, Recipe | None)
    _check_callbacks(callbacks)
    keep_few_kernels()
    splits, chosen = open_data(data), strategies or (PPO(),)
    limits = CacheLimits(memory=cache_memory, disk=cache_disk)
    work = in_batches_of(batch_size, budget_named(budget), recipe or recipe_for(splits))
    frozen = FrozenPart(precision=precision, compile=compile)
    start = copy.deepcopy(detector)
    plan = plan_run(start, splits, chosen, *work, seed, baselines=baselines, out=out, frozen=frozen)
    plan.limits, folder = limits, plan.folder
    if encodings is not None:
        plan.encodings = Path(encodings)

    def check() -> None:
        goes_on = check_run_folder(folder, plan.identity, resume=resume, overwrite=overwrite, rows=plan.possible_rows)
        check_tracker(track)
        if encodings is not None:
            check_writable(Path(encodings))
        if not goes_on:  # else the same images were checked when the run began
            plan.check_images()

    parallel.join()
    parallel.of_main(check)
    with (
        mirrored(folder, CONFIG, f"{CHECKPOINTS}/*.pt", f"{CHECKPOINTS}/{START}") as own,
        Run(own, plan.identity, circumstances(), resume=resume, overwrite=overwrite) as run,
    ):
        watching = (*tracking(track, folder), *callbacks) if parallel.is_main() else ()
        return _run(plan, run, watching)


def _check_callbacks(callbacks: object) -> None:
    if not isinstance(callbacks, Sequence) or not all(isinstance(each, Callback) for each in callbacks):
        raise UserError(f"callbacks must be a list of Callback objects, such as [MyCallback()]; got {callbacks!r}")


@dataclass(kw_only=True)
class _Rows:
    """The policies of a run, with their seconds and endings."""

    policies: dict[str, Policy] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)

    def add(self, name: str, policy: Policy, seconds: float, ending: Ending) -> None:
        """Add a row."""
        self.policies[name], self.seconds[name], self.endings[name] = policy, seconds, ending


def _run(plan: Plan, run: Run, callbacks: Sequence[Callback]) -> Results:
    """Run warm start, baselines, strategies and test; finished parts of a stopped run are loaded, not run again."""
    started = time.perf_counter()
    came_trained = plan.detector.is_trained
    if not came_trained:
        recipe = plan.recipe.scaled(plan.budget.warm_start_share)
        begin_run(plan.detector, plan.data, recipe, plan.limits, run.checkpoints)
    seconds, rows = time.perf_counter() - started, _Rows()
    own = [strategy for strategy in plan.strategies if not (plan.baselines and strategy == Labels())]
    of_heads = [strategy for strategy in (*own, Labels()) if strategy.trains == "head"]
    torch.manual_seed(plan.seed)
    warm = of_heads[0].start(plan.detector)
    if came_trained and any(s.trains == "head" for s in plan.strategies) and not any(run.checkpoints.glob("*.pt")):
        _warn_if_blind(warm, plan)
    if plan.baselines:
        rows.add(WARM_START, warm, seconds, Ending(reason="budget"))
        if any(strategy.trains == "head" for strategy in plan.strategies):
            _add(rows, Labels(), warm, plan, run, callbacks)
    for strategy in own:
        torch.manual_seed(plan.seed)
        _add(rows, strategy, strategy.start(plan.detector), plan, run, callbacks)
    if plan.baselines and isinstance(warm, VotingPolicy):
        _add_voted(rows, plan)
    return _judged(rows, plan, run)


def _warn_if_blind(warm: Policy, plan: Plan) -> None:
    """Warn of a detector that comes as trained and finds next to nothing, before hours go into its head alone."""
    ap = plan.task().validation_ap(warm)
    if ap < BLIND:
        tell(
            f"warning: the detector comes as trained, and finds next to nothing on validation (AP x 100: {100 * ap:.2f}); if "
            "its weights are random, or of other classes, set detector.is_trained = False: then a supervised warm start of "
            "all of it comes first"
        )


def _add(rows: _Rows, strategy: Strategy, start: Policy, plan: Plan, run: Run, callbacks: Sequence[Callback]) -> None:
    """Tune a copy of the start by a strategy, or load it if it was tuned before the run was stopped."""
    name = strategy.name
    policy = start.copy() if strategy.trains == "head" else copy.deepcopy(start)
    trained = policy.trainable if strategy.trains == "head" else policy.detector.plain()
    done = run.checkpoints / f"{name}.pt"
    kept = latest_checkpoint(done, tell)
    if kept is not None:
        with restoring(done):
            trained.load_state_dict(kept["trained"])
            policy.postprocessing = PostProcessingSettings.of(kept["postprocessing"])
            seconds, ending = float(kept["seconds"]), Ending.of(kept["ending"])
        rows.add(name, policy, seconds, ending)
        return
    unfinished = run.checkpoints / f"{name}{UNFINISHED}.pt"
    clock = plan.clock()
    kept_so_far = Checkpoint(unfinished, clock=clock)
    around: list[Callback] = [kept_so_far]
    if parallel.is_main():
        around += [MetricsLog(run), *callbacks, ProgressBar()]
    ending = strategy.tune(policy, plan.task(name, around, goes_on=has_checkpoint(unfinished)))
    seconds = kept_so_far.before + clock()
    write_checkpoint(
        done,
        {
            "trained": trained.state_dict(),
            "postprocessing": policy.postprocessing.plain(),
            "seconds": seconds,
            "ending": asdict(ending),
        },
    )
    remove_checkpoint(unfinished)
    rows.add(name, policy, seconds, ending)


def _add_voted(rows: _Rows, plan: Plan) -> None:
    """Add the warm start and the control with hand-set votes, before the strategies' rows: the gain without training."""
    task = plan.task()
    voted = _Rows()
    for name in [name for name in (WARM_START, CONTROL) if name in rows.policies]:
        clock = plan.clock()
        policy = rows.policies[name].copy()
        set_best_votes(policy, task.validation_ap)
        seconds = rows.seconds[name] + clock()
        voted.add(name + VOTED, policy, seconds, Ending(reason="budget"))
    for own in ("policies", "seconds", "endings"):
        before = getattr(rows, own)
        baselines = {name: before[name] for name in (WARM_START, CONTROL) if name in before}
        setattr(rows, own, {**baselines, **getattr(voted, own), **before})


def _add_fitted(
    rows: _Rows,
    final: dict[str, Policy],
    validation_aps: dict[str, float],
    tasks: dict[str, Task],
    plan: Plan,
    run: Run,
) -> None:
    """Add the warm start, the control and every strategy with fitted post-processing, after all other rows.

    A row's validation AP with it is the one without it, plus the gain on the images that the fit has not seen.
    """
    for name, policy in final.items():
        best = rows.endings[name].best
        if best is not None and not policy.postprocessing.votes.is_neutral:  # a strategy has fitted it
            validation_aps[name] = best
    if not plan.budget.fit_evaluations:
        return
    itself = {strategy.name for strategy in plan.strategies if isinstance(strategy, PostProcessing)}
    policies = {
        name: policy
        for name, policy in final.items()
        if policy.postprocessing.votes.is_neutral and not name.endswith(VOTED) and name not in itself
    }
    for name, row in fitted_rows(rows.policies, policies, tasks, plan.budget.fit_evaluations, run.checkpoints).items():
        tasks[name + FITTED] = tasks[name]
        validation_aps[name + FITTED] = validation_aps[name] + row.fitted.gain
        ending = Ending(reason="budget", best=validation_aps[name + FITTED], detail=row.fitted.told)
        rows.add(name + FITTED, row.before, rows.seconds[name] + row.seconds, ending)
        final[name + FITTED] = row.after


def _judged(rows: _Rows, plan: Plan, run: Run) -> Results:
    """Recalibrate, test, and write the results and the detectors."""
    whole = {strategy.name for strategy in plan.strategies if strategy.trains == "all"}
    tasks = tasks_of(rows.policies, whole, plan.task())
    final, validation_aps = calibrated(rows.policies, tasks)
    _add_fitted(rows, final, validation_aps, tasks, plan, run)
    found, targets = parallel.of_main(
        lambda: tested(rows.policies, final, plan.data.test, plan.budget.evaluated_candidates)
    )
    control = CONTROL if CONTROL in final else next(iter(final))
    spread = _intervals(found, targets, control, plan)
    thresholds = all_displayed(final, tasks, found, targets, plan.budget.evaluated_candidates)
    curves = {name: curves_of_batch(row.detections, targets, plan.data.classes) for name, row in found.items()}
    results = Results(
        rows={
            name: Row(
                name=name,
                figures=found[name].figures,
                seconds=rows.seconds[name],
                ending=rows.endings[name],
                displayed=thresholds[name],
                validation_ap=validation_aps[name],
                class_ap=curves[name].class_ap,
                ap=spread[name]["AP"],
                over_control=spread[name]["over_control"],
                over_fitted_control=spread[name].get("over_fitted_control"),
                tuned=tuned(policy, plan.data, plan.budget.evaluated_candidates, name),
            )
            for name, policy in final.items()
        },
        control=control,
        facts=_facts(plan),
        folder=plan.folder,
    )
    detections = {name: row.detections for name, row in found.items()}
    finished = FinishedRun(
        results=results,
        curves=curves,
        detections=detections,
        truths=pad_targets(targets),
        test=plan.data.test,
        run=run,
    )
    parallel.of_main(lambda: _write(finished, plan))
    plan.remove_own_encodings()
    return results


def _intervals(
    found: Mapping[str, Tested], targets: list[Target], control: str, plan: Plan
) -> dict[str, dict[str, Interval]]:
    """Each row's AP and differences from the control, plain and fitted, with intervals."""
    references = {"over_control": control}
    if control == CONTROL and control + FITTED in found:
        references["over_fitted_control"] = control + FITTED
    return parallel.of_main(
        lambda: intervals(
            found,
            targets,
            num_classes=plan.detector.num_classes,
            num_draws=plan.budget.num_draws,
            references=references,
        )
    )


def _facts(plan: Plan) -> dict[str, Any]:
    """What the results say of the run."""
    return {
        "seed": plan.seed,
        "data": plan.data.name,
        **({"data_notes": list(plan.data.notes)} if plan.data.notes else {}),
        "detector": plan.detector.architecture.name,
        "device": str(plan.detector.device),
        "budget": vars(plan.budget),
        "encodings": plan.cache.facts() if plan.encoded else {},
        "strategies": plan.identity["strategies"],
    }


def _write(finished: FinishedRun, plan: Plan) -> None:
    """Write the results, the detectors and the pages."""
    results, run = finished.results, finished.run
    for name, detections in finished.detections.items():
        write_detections(run.folder, name, detections)
    write_truths(run.folder, finished.truths)
    controls = {CONTROL, CONTROL + FITTED} & results.rows.keys()
    exported = {*(strategy.name for strategy in plan.strategies), results.best.name, *controls}
    with bar("export", len(exported)) as shown:
        for name in sorted(exported):
            results.rows[name].export(run.folder / name)
            shown.advance()
    make_pages(finished)
    run.write_results(results.to_json())
    tell(
        f"the tuned detectors, the metrics and results.json are in {run.folder}; "
        f"best on validation: {run.folder / results.best.name}"
    )
