"""The plan of a run: all that its results depend on, checked before any image is decoded."""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rl_det import parallel
from rl_det.data import Dataset, Split
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.augment import Views
from rl_det.data.check import Findings
from rl_det.data.decoding import decode
from rl_det.data.images import ImageLimits
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.detectors.encodings import Encodings
from rl_det.detectors.frozen import PLAIN, USUAL, FrozenPart
from rl_det.detectors.own_model import check_learns
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget, Recipe
from rl_det.finetuning.caching import PROPOSALS, CacheLimits, CachePlan, encodings_by, plan_cache
from rl_det.policies.build import check_bears, usual_policy
from rl_det.progress import SHORT_WORK, bar, tell
from rl_det.settings import SEEDS, check_settings
from rl_det.storage.checkpoint import FORMER, NEXT, UNFINISHED
from rl_det.storage.run import ENCODINGS, FILES, PARTS
from rl_det.storage.weights import state_fingerprint
from rl_det.strategies.hand_set import VOTED, WARM_START, trains_nothing
from rl_det.strategies.identity import settings_of
from rl_det.strategies.labels import CONTROL, Labels
from rl_det.strategies.strategy import FromLabels, Strategy, Task
from rl_det.training.loop import Callback, fit

CHECKED_TRAINING_IMAGES = 1000
"""The most training images that are decoded before a run; encoding decodes all of them."""
FITTED = "_fitted"
"""The suffix of a row's name for the same policy with fitted post-processing."""


@dataclass(kw_only=True)
class Plan:
    """Everything that a run's results depend on."""

    detector: Detector
    data: Splits
    strategies: Sequence[Strategy]
    budget: Budget
    recipe: Recipe
    seed: int
    baselines: bool
    identity: dict[str, Any]
    frozen: FrozenPart = USUAL
    """How the frozen part runs over training images; validation images are always encoded in single precision."""
    limits: CacheLimits = field(default_factory=CacheLimits)
    encodings: Path | None = None
    """The folder that keeps encodings for other runs; None: they go where the limits allow."""
    remake: bool = False
    """Whether encodings in that folder that are of something else, or damaged, are made anew and not refused."""
    folder: Path
    """The run's folder."""
    encoded: dict[str, Encodings] = field(default_factory=dict)
    encoding: float = 0.0
    """The seconds that encoding has taken so far."""

    def __post_init__(self) -> None:
        check_settings(self, seed=SEEDS)

    @property
    def own_encodings(self) -> Path:
        """Where this run's encodings go if they need a disk, and their copy if they do not, until the run ends."""
        return self.folder / ENCODINGS

    def check_images(self) -> None:
        """Decode the test and validation images and some of the training images once: a broken one fails the run at its start.

        Raises the first fault. A user's own data sets are asked for their test images, and in each split until a true box
        is found, without which there is nothing to train on or to measure.
        """
        findings, num_train = Findings(), len(self.data.train)
        spread = sorted(
            {round(place) for place in np.linspace(0, num_train - 1, min(num_train, CHECKED_TRAINING_IMAGES))}
        )
        chosen: dict[Split, list[int]] = {
            "test": list(range(len(self.data.test))), "val": list(range(len(self.data.val))), "train": spread,
        }  # fmt: skip
        for split, places in chosen.items():
            dataset = self.data[split]
            with bar(f"check {split}", len(places), delay=SHORT_WORK) as shown:
                if isinstance(dataset, AnnotatedImages):
                    decode(dataset, findings, places=places, on_image=shown.advance)
                    self._check_long_images(dataset, findings)
                    continue
                found = False
                for place in range(len(dataset)):
                    if found and split != "test":
                        break
                    found |= not bool(dataset[place].target.iscrowd.all())
                    shown.advance()
                if not found:
                    raise UserError(
                        f"{split}: must hold a true box that is no crowd; none of its {len(dataset)} images does, so there is "
                        f"nothing to {'train on' if split == 'train' else 'measure'}"
                    )
        findings.settle()

    def _check_long_images(self, dataset: AnnotatedImages, findings: Findings) -> None:
        """Find images beyond the usual aspect, let in by a higher limit, of which nothing is left where they are resized."""
        sides = dataset.sizes.astype(float)
        for place in np.flatnonzero(sides.max(1) > ImageLimits.max_aspect * sides.min(1)).tolist():
            own, (width, height) = dataset.images[place], dataset.sizes[place].tolist()
            try:
                self.detector.encode([dataset[place].image])
            except (RuntimeError, ValueError) as fault:
                told = f"the detector cannot take {width} x {height} pixels ({fault}); leave the image out"
                findings.fault(own.file, own.entry, told)

    def images(self, split: Literal["train", "val"]) -> Dataset:
        """A split's images, as used by all strategies that train the head: in several views if there are few."""
        dataset = self.data[split]
        num_views = self.budget.num_views(len(dataset)) if split == "train" else 1
        return Views(dataset, num_views, self.budget.views) if num_views > 1 else dataset

    @cached_property
    def cache(self) -> CachePlan:
        """Where encodings go, and what they hold; it is said when it is decided."""
        folder = self.encodings or self.own_encodings
        plan = parallel.of_main(
            lambda: plan_cache(
                self.detector,
                {split: self.images(split) for split in ("train", "val")},
                self.limits,
                folder=folder,
                num_candidates=self.budget.validated_candidates,
                chosen=folder / PROPOSALS,
                frozen=self.frozen,
            )
        )
        tell(plan.told())
        return plan

    @property
    def possible_rows(self) -> list[str]:
        """The names that the run's rows may have."""
        alone = [*(strategy.name for strategy in self.strategies), *(BASELINES if self.baselines else ())]
        return [*alone, *(name + FITTED for name in alone)]

    def clock(self) -> Callable[[], float]:
        """A clock that tells the seconds from now on, without those of encoding images, which all strategies share."""
        started, encoding = time.perf_counter(), self.encoding
        return lambda: time.perf_counter() - started - (self.encoding - encoding)

    def encode(self, split: Literal["train", "val"]) -> Encodings:
        """A split's encodings, computed or loaded once.

        If what a folder holds is of something else, or damaged, a folder of the user's is refused, and another made anew.
        """
        if split not in self.encoded:
            started = time.perf_counter()
            images, on_disk = self.images(split), self.cache.place == "disk" or self.cache.copied
            kept = self.encodings or (self.own_encodings if on_disk else None)
            with bar(f"encode {split}", parallel.number_of_own(len(images))) as shown:
                self.encoded[split] = encodings_by(
                    self.cache,
                    self.detector,
                    images,
                    folder=None if kept is None else kept / split,
                    frozen=self.frozen if split == "train" else PLAIN,
                    remake=self.encodings is None or self.remake,
                    in_memory=self.encodings is None and self.cache.copied,
                    on_batch=shown.advance,
                )
            self.encoding += time.perf_counter() - started
        return self.encoded[split]

    def remove_own_encodings(self) -> None:
        """Remove this run's encodings from the disk; those in a folder of the user's stay."""
        self.encoded.clear()
        shutil.rmtree(self.own_encodings, ignore_errors=True)

    def task(self, name: str = "", callbacks: Sequence[Callback] = (), *, goes_on: bool = False) -> Task:
        """The task for a strategy, whose learner runs in the loop under this name and with these callbacks.

        `goes_on` says that they resume a stopped run.
        """
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
            learning_rate=recipe.rate_for(self.detector.part),
            validate_every=-(-updates // budget.num_validations) * each,
            validated_candidates=budget.validated_candidates,
            evaluated_candidates=budget.evaluated_candidates,
            fit_evaluations=budget.fit_evaluations or Budget.fit_evaluations,
            from_labels=FromLabels(
                num_steps=supervised_steps,
                batch_size=recipe.batch_size,
                learning_rate=recipe.rate_for("all"),
                flip=recipe.flip,
                num_workers=recipe.num_workers,
                validate_every=-(-supervised_steps // budget.supervised_validations),
            ),
            seed=self.seed,
            fit=partial(fit, name=name, callbacks=callbacks),
            goes_on=goes_on,
        )


def plan_run(
    detector: Detector,
    data: Splits,
    strategies: Sequence[Strategy],
    budget: Budget,
    recipe: Recipe,
    seed: int,
    *,
    baselines: bool,
    out: str | Path | None,
    frozen: FrozenPart = USUAL,
) -> Plan:
    """Make the plan of a run in this folder; check that all fits together, before any image is decoded.

    None is a folder in `runs/`, named after strategies, data, detector, updates and seed.
    """
    _check_kinds(detector, strategies)
    _check_frozen(detector, strategies, frozen)
    _check_names(strategies, baselines=baselines)
    if baselines or not all(trains_nothing(strategy) for strategy in strategies):
        check_learns(detector)
    if detector.num_classes != len(data.classes):
        raise UserError(
            f"the detector must know the data's classes; it knows {detector.num_classes}, and {data.name} has "
            f"{len(data.classes)}; load_detector(model, data) gives it a box predictor for them"
        )
    identity = {
        **_given(detector, data),
        **({} if frozen.is_usual else {"frozen": vars(frozen)}),
        "strategies": [_settings(strategy, detector) for strategy in strategies],
        "budget": vars(budget),
        "recipe": vars(recipe),
        "seed": seed,
        "baselines": baselines,
    }
    return Plan(
        detector=detector,
        data=data,
        strategies=strategies,
        budget=budget,
        recipe=recipe,
        seed=seed,
        baselines=baselines,
        identity=identity,
        folder=Path("runs") / _name(detector, data, strategies, budget, seed) if out is None else Path(out),
        frozen=frozen,
    )


def _given(detector: Detector, data: Splits) -> dict[str, Any]:
    """The data and the detector, by their contents, in JSON's types."""
    weights = state_fingerprint(detector.plain())
    return {
        "data": {"name": data.name, "classes": data.classes, **data.fingerprints()},
        "detector": {**asdict(detector.architecture), "trainable": detector.part, "weights": weights},
    }


def _name(detector: Detector, data: Splits, strategies: Sequence[Strategy], budget: Budget, seed: int) -> str:
    names = "+".join(strategy.name for strategy in strategies)
    return f"{names}-{data.name}-{detector.architecture.name}-{budget.num_updates}updates-seed{seed}"


def _settings(strategy: Strategy, detector: Detector) -> dict[str, Any]:
    """The strategy's settings in JSON's types; a policy that was left out is the detector's usual one."""
    settings = settings_of(strategy)
    left_out = "policy" in settings and settings["policy"] is None
    return {**settings, "policy": usual_policy(detector)} if left_out else settings


def _check_kinds(detector: Detector, strategies: Sequence[Strategy]) -> None:
    """Raise ValueError for a model that is not a Detector, and for a strategy's name or class instead of an object."""
    if not isinstance(detector, Detector):
        raise UserError(
            f"the detector must be what load_detector gives; got a {type(detector).__name__}; "
            "load_detector(model, data) makes one of a model"
        )
    for strategy in strategies:
        if isinstance(strategy, type) or not callable(getattr(strategy, "tune", None)):
            got = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
            raise UserError(f"a strategy must be an object, such as PPO() or Surrogate('smooth_ap'); got {got}")
        check_bears(getattr(strategy, "policy", None), detector)


def _check_frozen(detector: Detector, strategies: Sequence[Strategy], frozen: FrozenPart) -> None:
    """Raise ValueError for a wish about the frozen part that comes to nothing."""
    if frozen.precision != "mixed" and not frozen.compile:
        return
    if detector.part == "all" or all(strategy.trains == "all" for strategy in strategies):
        raise UserError(
            "precision='mixed' and compile are for the frozen part, and here all of the detector is trained; leave them out"
        )
    if not frozen.told(detector):
        raise UserError(
            "precision='mixed' and compile need a backbone of torch's modules; this one is TorchScript, which runs as it is; "
            "leave them out"
        )


BASELINES = (WARM_START, CONTROL, WARM_START + VOTED, CONTROL + VOTED)
"""The rows that a run may have beside its strategies'."""


def _check_names(strategies: Sequence[Strategy], *, baselines: bool) -> None:
    """Raise ValueError for names that are repeated, that are the baselines', or that cannot name a folder."""
    names = [strategy.name for strategy in strategies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"each strategy must have a name of its own; {twice!r} is there twice; give one another `name`")
    baseline_names = BASELINES if baselines else ()
    fitted_names = {row + FITTED for row in (*names, *baseline_names)}
    for strategy, name in zip(strategies, names, strict=True):
        if name in baseline_names and strategy != Labels():
            raise UserError(f"{name!r} is the row of a baseline; give the {type(strategy).__name__} another `name`")
        if name in fitted_names:
            raise UserError(
                f"{name!r} is the row of {name.removesuffix(FITTED)} with fitted post-processing; give the "
                f"{type(strategy).__name__} another `name`"
            )
        if name in FILES or name.endswith((FORMER, NEXT, UNFINISHED)):
            raise UserError(f"{name!r} may be a file of the run; give the {type(strategy).__name__} another `name`")
        if name in PARTS or not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(
                f"a strategy's name must be letters, digits and _.+-, and none of {', '.join(PARTS)}, as it names a folder "
                f"of the run; got {name!r}"
            )
