"""A detector, data and strategies -> `Results`: the warm start, the control and each strategy, judged on the test split.

Whatever the strategy, the control is the same: continued supervised training of the same parameters, on the same images, for
as many image passes, under the same schedule. Each row is chosen by validation AP and judged once on the untouched test split.
A run that was stopped goes on from its folder to the same end, bit for bit.
"""

import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from rl_det.data import Dataset
from rl_det.data.augment import Views
from rl_det.data.open import Source, open_data
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.finetuning.budget import Budget, BudgetName, Recipe, budget_named, recipe_for
from rl_det.finetuning.circumstances import circumstances
from rl_det.finetuning.evaluation import calibrated, f1_at_validations_best, intervals, tested
from rl_det.finetuning.pages import PAGES, Findings
from rl_det.finetuning.results import Results, Row, write_detections
from rl_det.finetuning.tuned import tuned
from rl_det.finetuning.warm_start import warm_start
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy
from rl_det.report.precision_recall import curves_of_batch
from rl_det.storage.checkpoint import read_checkpoint, write_checkpoint
from rl_det.storage.run import PARTS, TENSORBOARD, Run, check_run_folder
from rl_det.storage.weights import state_fingerprint
from rl_det.strategies.hand_set import set_best_votes
from rl_det.strategies.labels import CONTROL, Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import FromLabels, Strategy, Task, settings_of
from rl_det.training.callbacks import Checkpoint, MetricsLog, ProgressBar, TensorBoardLog
from rl_det.training.loop import Callback, Ending, Learner, LoopConfig, fit
from rl_det.training.progress import bar, tell


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
    callbacks: Sequence[Callback] = (),
) -> Results:
    """Tune copies of the detector by each strategy, `PPO()` if none is named, and compare them with the control.

    The detector stays as it is. Where it is not trained for the data's classes yet, a supervised warm start comes first, which
    is kept for later runs; `recipe` says how, and at which rate the head learns, and follows the data if it is left out. `out`
    is the run's folder, by default one in `runs/` that is named after what is run. A folder that holds a run already is
    refused, unless `resume` goes on with that very run or `overwrite` replaces it. `baselines=False` leaves out the warm start
    and the control. `encodings` is a folder in which the frozen part's results are kept and found again; left out, they lie in
    memory. `callbacks` hear of every update of every strategy.

    Sets torch's global seed. Raises ValueError, with nothing written, for what does not fit together.
    """
    splits, chosen = open_data(data), strategies or (PPO(),)
    job = prepare(
        copy.deepcopy(detector),
        splits,
        chosen,
        budget_named(budget),
        recipe or recipe_for(splits),
        seed,
        baselines=baselines,
    )
    folder = Path(out) if out is not None else job.default_folder()
    check_run_folder(folder, job.identity, resume=resume, overwrite=overwrite)
    job.encodings = None if encodings is None else Path(encodings)
    job.check_test_images()
    with Run(folder, job.identity, circumstances(), resume=resume, overwrite=overwrite) as run:
        return _run(job, run, callbacks)


@dataclass(kw_only=True)
class Job:
    """Everything that a run's results depend on."""

    detector: Detector
    data: Splits
    strategies: Sequence[Strategy]
    budget: Budget
    recipe: Recipe
    seed: int
    baselines: bool
    identity: dict[str, Any]
    encodings: Path | None = None
    encoded: dict[str, EncodedDataset] = field(default_factory=dict)

    def default_folder(self) -> Path:
        """In `runs/`, named after what is run."""
        names = "+".join(strategy.name for strategy in self.strategies)
        updates = f"{self.budget.num_updates}updates"
        name = f"{names}-{self.data.name}-{self.detector.architecture.name}-{updates}-seed{self.seed}"
        return Path("runs") / name

    def check_test_images(self) -> None:
        """Decode the test images once, as hours later is late to find one broken."""
        with bar("check test", len(self.data.test)) as shown:
            for index in range(len(self.data.test)):
                self.data.test[index]
                shown.advance()

    def images(self, split: Literal["train", "val"]) -> Dataset:
        """A split's images as every strategy that trains the head is tuned on them: in several views where they are few."""
        dataset = self.data[split]
        num_views = self.budget.num_views(len(dataset)) if split == "train" else 1
        return Views(dataset, num_views, self.budget.views) if num_views > 1 else dataset

    def encode(self, split: Literal["train", "val"]) -> EncodedDataset:
        """A split's encodings, made or found once."""
        if split not in self.encoded:
            images = self.images(split)
            folder = None if self.encodings is None else self.encodings / split
            if folder is not None:
                folder.parent.mkdir(parents=True, exist_ok=True)
            with bar(f"encode {split}", len(images)) as shown:
                self.encoded[split] = encode_dataset(self.detector, images, folder=folder, on_batch=shown.advance)
        return self.encoded[split]

    def task(self, tune: Callable[[Learner, LoopConfig], Ending]) -> Task:
        """What a strategy works on."""
        budget, recipe, num_images = self.budget, self.recipe, len(self.images("train"))
        updates, each = budget.updates(num_images), budget.epochs_per_update
        supervised_steps = min(
            budget.supervised_steps,
            -(-budget.supervised_passes * len(self.data.train) // recipe.batch_size),
        )
        return Task(
            train_images=self.data.train,
            val_images=self.data.val,
            encode=self.encode,
            num_steps=updates * each,
            batch_size=min(budget.images_per_update, num_images),
            learning_rate=recipe.head_learning_rate,
            validate_every=-(-updates // budget.num_validations) * each,
            validated_candidates=budget.validated_candidates,
            evaluated_candidates=budget.evaluated_candidates,
            from_labels=FromLabels(
                num_steps=supervised_steps,
                batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate / 4,
                flip=recipe.flip,
                num_workers=recipe.num_workers,
                validate_every=-(-supervised_steps // budget.supervised_validations),
            ),
            seed=self.seed,
            fit=tune,
        )


def prepare(
    detector: Detector,
    data: Splits,
    strategies: Sequence[Strategy],
    budget: Budget,
    recipe: Recipe,
    seed: int,
    *,
    baselines: bool,
) -> Job:
    """Check that all fits together, before any image is decoded."""
    _check_kinds(detector, strategies)
    _check_names(strategies, baselines=baselines)
    if detector.num_classes != len(data.classes):
        raise ValueError(
            f"the detector must know the data's classes; it knows {detector.num_classes}, and {data.name} has "
            f"{len(data.classes)}; load_detector(model, data) gives it a box predictor for them"
        )
    identity = {
        "data": {"name": data.name, "classes": data.classes, **data.fingerprints()},
        "detector": {**asdict(detector.architecture), "weights": state_fingerprint(detector.plain())},
        "strategies": [settings_of(strategy) for strategy in strategies],
        "budget": vars(budget),
        "recipe": vars(recipe),
        "seed": seed,
        "baselines": baselines,
    }
    return Job(
        detector=detector,
        data=data,
        strategies=strategies,
        budget=budget,
        recipe=recipe,
        seed=seed,
        baselines=baselines,
        identity=identity,
    )


WARM_START = "warm_start"
VOTED = "_voted"
"""Behind the name of a row: the same head, with votes that nobody trained."""


def _check_kinds(detector: Detector, strategies: Sequence[Strategy]) -> None:
    """ValueError for a model that is no Detector yet, and for a strategy's name or class in place of an object."""
    if not isinstance(detector, Detector):
        raise ValueError(
            f"the detector must be what load_detector gives; got a {type(detector).__name__}; "
            "load_detector(model, data) makes one of a model"
        )
    for strategy in strategies:
        if isinstance(strategy, type) or not callable(getattr(strategy, "tune", None)):
            got = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
            raise ValueError(f"a strategy must be an object, such as PPO() or Surrogate('smooth_ap'); got {got}")


def _check_names(strategies: Sequence[Strategy], *, baselines: bool) -> None:
    """ValueError for names that are there twice, are those of the baselines, or could not name a folder of the run."""
    names = [strategy.name for strategy in strategies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"each strategy must have a name of its own; {twice!r} is there twice; give one another `name`"
        )
    baseline_names = (WARM_START, CONTROL, WARM_START + VOTED, CONTROL + VOTED) if baselines else ()
    for strategy, name in zip(strategies, names, strict=True):
        if name in baseline_names and strategy != Labels():
            raise ValueError(f"{name!r} is the row of a baseline; give the {type(strategy).__name__} another `name`")
        if name in PARTS or not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(
                f"a strategy's name must be letters, digits and _.+-, and none of {', '.join(PARTS)}, as it names a folder "
                f"of the run; got {name!r}"
            )


@dataclass(kw_only=True)
class _Rows:
    """The policies of a run, and what each cost."""

    policies: dict[str, Policy] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)

    def add(self, name: str, policy: Policy, seconds: float, ending: Ending) -> None:
        """A row more."""
        self.policies[name], self.seconds[name], self.endings[name] = policy, seconds, ending


def _run(job: Job, run: Run, callbacks: Sequence[Callback]) -> Results:
    """Warm start, baselines, strategies, test; what has been done before the run was stopped is found, not done again."""
    started = time.perf_counter()
    if not job.detector.is_trained:
        warm_start(job.detector, job.data, job.recipe.scaled(job.budget.warm_start_share))
    rows = _Rows()
    own = [
        strategy for strategy in job.strategies if not (job.baselines and strategy == Labels())
    ]  # not the control itself
    of_heads = [strategy for strategy in (*own, Labels()) if strategy.trains == "head"]
    torch.manual_seed(job.seed)
    warm = of_heads[0].start(job.detector)
    if job.baselines:
        rows.add(WARM_START, warm, time.perf_counter() - started, Ending(reason="budget"))
        if any(strategy.trains == "head" for strategy in job.strategies):
            _add(rows, Labels(), warm, job, run, callbacks)
    for strategy in own:
        torch.manual_seed(job.seed)
        _add(rows, strategy, strategy.start(job.detector), job, run, callbacks)
    if job.baselines and isinstance(warm, VotingPolicy):
        _add_voted(rows, job)
    return _judged(rows, job, run)


def _add(rows: _Rows, strategy: Strategy, start: Policy, job: Job, run: Run, callbacks: Sequence[Callback]) -> None:
    """Tune a copy of the start by a strategy, or take it as it was tuned before the run was stopped."""
    name = strategy.name
    policy = start.copy() if strategy.trains == "head" else copy.deepcopy(start)
    trained = policy.trainable if strategy.trains == "head" else policy.detector.plain()
    done = run.checkpoints / f"{name}.pt"
    if done.exists():
        kept = read_checkpoint(done)
        trained.load_state_dict(kept["trained"])
        policy.postprocessing = type(policy.postprocessing)(**kept["postprocessing"])
        rows.add(name, policy, kept["seconds"], Ending(**kept["ending"]))
        return
    unfinished = run.checkpoints / f"{name}.unfinished.pt"
    around = [
        Checkpoint(unfinished),
        ProgressBar(),
        MetricsLog(run),
        TensorBoardLog(run.folder / TENSORBOARD),
        *callbacks,
    ]
    started = time.perf_counter()
    ending = strategy.tune(policy, job.task(partial(fit, name=name, callbacks=around)))
    seconds = time.perf_counter() - started
    write_checkpoint(
        done,
        {
            "trained": trained.state_dict(),
            "postprocessing": vars(policy.postprocessing),
            "seconds": seconds,
            "ending": asdict(ending),
        },
    )
    unfinished.unlink(missing_ok=True)
    rows.add(name, policy, seconds, ending)


def _add_voted(rows: _Rows, job: Job) -> None:
    """The warm start and the control with votes that nobody trained, before the strategies: what is not theirs."""
    task = job.task(lambda learner, config: Ending(reason="budget"))
    voted = _Rows()
    for name in [name for name in (WARM_START, CONTROL) if name in rows.policies]:
        started = time.perf_counter()
        policy = rows.policies[name].copy()
        set_best_votes(policy, task.validation_ap)
        seconds = rows.seconds[name] + time.perf_counter() - started
        voted.add(name + VOTED, policy, seconds, Ending(reason="budget"))
    for own in ("policies", "seconds", "endings"):
        before = getattr(rows, own)
        baselines = {name: before[name] for name in (WARM_START, CONTROL) if name in before}
        setattr(rows, own, {**baselines, **getattr(voted, own), **before})


def _judged(rows: _Rows, job: Job, run: Run) -> Results:
    """Recalibrate, test, write the results and the detectors."""
    task = job.task(lambda learner, config: Ending(reason="budget"))
    final = calibrated(rows.policies, task)
    found, targets = tested(rows.policies, final, job.data.test, job.budget.evaluated_candidates)
    control = CONTROL if CONTROL in final else next(iter(final))
    spread = intervals(
        found, targets, num_classes=job.detector.num_classes, num_draws=job.budget.num_draws, reference=control
    )
    curves = {name: curves_of_batch(row.detections, targets, job.data.classes) for name, row in found.items()}
    results = Results(
        rows={
            name: Row(
                name=name,
                figures=found[name].figures,
                seconds=rows.seconds[name],
                ending=rows.endings[name],
                f1_at_validations_threshold=f1_at_validations_best(
                    policy, task.val, found[name].detections, targets, job.budget.evaluated_candidates
                ),
                validation_ap=task.validation_ap(policy),
                class_ap=curves[name].class_ap,
                ap=spread[name]["AP"],
                over_control=spread[name]["over_control"],
                tuned=tuned(policy, job.data, job.budget.evaluated_candidates, name),
            )
            for name, policy in final.items()
        },
        control=control,
        facts={
            "seed": job.seed,
            "data": job.data.name,
            "detector": job.detector.architecture.name,
            "device": str(job.detector.device),
            "budget": vars(job.budget),
            "strategies": job.identity["strategies"],
        },
        folder=run.folder,
    )
    for name, row in found.items():
        write_detections(run.folder, name, row.detections)
    exported = {*(strategy.name for strategy in job.strategies), results.best.name, *({CONTROL} & results.rows.keys())}
    with bar("export", len(exported)) as shown:
        for name in sorted(exported):
            results.rows[name].export(run.folder / name)
            shown.advance()
    for page in PAGES.values():
        page(Findings(results=results, curves=curves, folder=run.folder))
    run.write_results(results.to_json())
    tell(
        f"the tuned detectors, the metrics and results.json are in {run.folder}; "
        f"best on validation: {run.folder / results.best.name}"
    )
    return results
