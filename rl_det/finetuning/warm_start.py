"""Train a detector from labels, once, if it does not know the data's classes yet; the next run finds the result.

First the whole detector is trained, then its head alone, on encodings computed once. A step of the head costs a tenth
of a whole step, and a head that has not converged would make every later strategy look good. Both stages resume where
they were stopped.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rl_det import parallel
from rl_det.data import Dataset
from rl_det.data.splits import First, Splits
from rl_det.detectors import Detector, load_state, save_state
from rl_det.detectors.contents import code_version, content
from rl_det.detectors.encodings import (
    BATCH_BYTES,
    Encodings,
    divided,
    encode_dataset,
    encode_in_the_loop,
    images_in,
)
from rl_det.errors import UserError
from rl_det.finetuning.budget import Recipe
from rl_det.finetuning.caching import ENCODED_TOGETHER, PROPOSALS, CacheLimits, encodings_by, plan_cache
from rl_det.policies.detections import policy_ap
from rl_det.policies.rescore import RescorePolicy
from rl_det.progress import bar, tell
from rl_det.storage.cache import cache_folder
from rl_det.storage.cache import fingerprint as fingerprint_of_settings
from rl_det.storage.checkpoint import remove_checkpoint
from rl_det.storage.checksums import checksum
from rl_det.storage.files import check_writable, link_or_copy
from rl_det.storage.lock import one_at_a_time
from rl_det.storage.mirror import mirrored
from rl_det.storage.run import START
from rl_det.storage.weights import state_fingerprint
from rl_det.strategies.labels import LabelsLearner, supervised_loss
from rl_det.strategies.supervised import BatchPlan, Supervised, SupervisedLearner
from rl_det.training.callbacks import Checkpoint, ProgressBar
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig

NUM_CANDIDATES = 100
"""The candidates of an image in validations."""
VALIDATION_SHARE = 16
"""A validation in the first stage encodes all images at once if that takes at most this part of the memory for encodings."""
TIMED_IMAGES = 4
FORWARD_AND_BACKWARD = 3
"""A training step takes about this many times as long as encoding its images."""


def warm_start(detector: Detector, data: Splits, recipe: Recipe, limits: CacheLimits | None = None) -> Path:
    """Train the detector in place, or load the result of the same recipe; return the file that keeps its state.

    It first announces what it will do, about how long that takes, and where the result is kept. Encodings for the head's
    stage go where the limits allow; if strategies train all of the detector, there is no such stage. Sets torch's global
    seed, with which torchvision's detectors sample proposals.
    """
    file = _file(detector, data, recipe)
    with (
        one_at_a_time(file, tell, f"warm start: another run makes the one that this run needs; it waits for {file}"),
        mirrored(file.parent, file.name, f"{file.stem}.stage*.pt") as own,
    ):
        _found_or_trained(detector, data, recipe, own / file.name, limits or CacheLimits())
    detector.is_trained = True
    return file


def begin_run(detector: Detector, data: Splits, recipe: Recipe, limits: CacheLimits, checkpoints: Path) -> None:
    """Give the detector the warm start with which the run of these checkpoints began; a new run keeps there the one it gets.

    So a stopped run goes on from its own, wherever it is copied, and whatever has become of the cache. Raises UserError for
    one that is damaged.
    """
    own = checkpoints / START
    if own.exists():
        load_state(detector.plain(), own, sealed=True)
        detector.is_trained = True
        return
    file = warm_start(detector, data, recipe, limits)
    if parallel.is_main():
        link_or_copy(file, own)


def restore(detector: Detector, data: Splits, recipe: Recipe, runs: Iterable[Path]) -> None:
    """Keep for coming runs, if the cache has lost it, the warm start with which the runs of these checkpoints began.

    Raises UserError if the cache holds another one: a comparison's rows must begin alike.
    """
    file = _file(detector, data, recipe)
    for own in (checkpoints / START for checkpoints in runs if (checkpoints / START).exists()):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(own, file)
        elif not own.samefile(file) and checksum(own) != checksum(file):
            raise UserError(
                f"{own}: is the warm start from which this comparison began, and {file} is another one; move that away, "
                "or take another folder (--out)"
            )


def _file(detector: Detector, data: Splits, recipe: Recipe) -> Path:
    """Where the warm start of this untrained detector is kept."""
    images = data.warm_start_images or data.train
    identity: dict[str, Any] = {
        "architecture": vars(detector.architecture), "weights": state_fingerprint(detector.plain()),
        "recipe": vars(recipe), "train": content(images), "val": content(data.val), "classes": images.classes,
        **code_version(),
    }  # fmt: skip
    if detector.part != "head":
        identity["trainable"] = detector.part
    return _folder() / f"{fingerprint_of_settings(identity)}.safetensors"


def _found_or_trained(detector: Detector, data: Splits, recipe: Recipe, file: Path, limits: CacheLimits) -> None:
    """Load what the file keeps, or train, and keep it there."""
    images = data.warm_start_images or data.train
    if not _found(detector, file):
        minutes = seconds_of(detector, images, recipe) / 60
        tell(
            f"warm start: {detector.architecture.name} does not know the classes of {data.name} yet. Supervised training of "
            f"all of it on {len(images)} images ({recipe.num_steps} steps of {recipe.batch_size}), then of its "
            f"{detector.part} ({recipe.head_steps} steps of {recipe.head_batch_size}), about {max(1, round(minutes))} min; "
            f"kept in {file}"
        )
        _train(detector, images, data.val, recipe, file, limits)
        save_state(detector.plain(), file)
        for stage in (1, 2):
            remove_checkpoint(_checkpoint(file, stage))
        load_state(detector.plain(), file, sealed=True)


def _found(detector: Detector, file: Path) -> bool:
    """Whether an earlier run has kept its warm start in this file, whole; then the detector has its weights."""
    if not file.exists():
        return False
    try:
        load_state(detector.plain(), file, sealed=True)
    except UserError as error:
        tell(f"warm start: made anew, as the one that an earlier run has kept cannot be used: {error}")
        return False
    tell(f"warm start: found, as an earlier run has trained it: {file}")
    return True


def seconds_of(detector: Detector, images: Dataset, recipe: Recipe) -> float:
    """An estimate of the seconds of the first stage, from the time that encoding a few images takes."""
    few = [images[index].image for index in range(min(TIMED_IMAGES, len(images)))]
    with bar("how long", 2) as shown:
        detector.encode(few)
        shown.advance()
        started = time.perf_counter()
        detector.encode(few)
        each = (time.perf_counter() - started) / len(few)
        shown.advance()
    return FORWARD_AND_BACKWARD * each * recipe.num_steps * recipe.batch_size


def _train(detector: Detector, images: Dataset, val: Dataset, recipe: Recipe, file: Path, limits: CacheLimits) -> None:
    """Train the whole detector, and then the part that strategies train, on what the frozen part has become."""
    check_writable(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    policy = RescorePolicy(detector, sigma=1.0)
    _train_whole(policy, images, val, recipe, _checkpoint(file, 1), limits, generator)
    if detector.part != "all":
        few, folder = First(images, recipe.head_images), _folder() / f"{file.stem}.encodings"
        encoded, encoded_val = _encoded(detector, few, val, folder, limits)
        _train_head(policy, encoded, encoded_val, recipe, _checkpoint(file, 2), generator)
        shutil.rmtree(folder, ignore_errors=True)


def _train_whole(
    policy: RescorePolicy,
    images: Dataset,
    val: Dataset,
    recipe: Recipe,
    checkpoint: Path,
    limits: CacheLimits,
    generator: torch.Generator,
) -> None:
    """Train the whole detector on images."""
    detector = policy.detector
    of_val = _encoder(detector, val, limits)
    learner = SupervisedLearner(
        detector,
        images,
        BatchPlan(
            num_steps=recipe.num_steps,
            batch_size=recipe.batch_size,
            flip=recipe.flip,
            num_workers=recipe.num_workers,
        ),
        generator=generator,
        validate=lambda: {"AP": policy_ap(policy, of_val(), NUM_CANDIDATES)},
    )
    settings = Supervised(ema=0.0, validate_start=False, patience=recipe.patience)
    config = settings.loop(learner.plan, recipe.learning_rate, recipe.validate_every, len(images))
    fit(learner, config, name="warm start", callbacks=[Checkpoint(checkpoint), ProgressBar()])


def _encoded(
    detector: Detector, images: Dataset, val: Dataset, folder: Path, limits: CacheLimits
) -> tuple[Encodings, Encodings]:
    """The encodings of the head's images and of the validation images, as the frozen part now is."""
    plan = parallel.of_main(
        lambda: plan_cache(
            detector,
            {"train": images, "val": val},
            limits,
            folder=folder,
            num_candidates=NUM_CANDIDATES,
            chosen=folder / PROPOSALS,
        )
    )
    tell(plan.told())
    on_disk = {split: folder / split if plan.place == "disk" else None for split in ("train", "val")}
    with bar("encode", parallel.number_of_own(len(images)) + parallel.number_of_own(len(val))) as shown:
        encoded = encodings_by(plan, detector, images, folder=on_disk["train"], remake=True, on_batch=shown.advance)
        encoded_val = encodings_by(plan, detector, val, folder=on_disk["val"], remake=True, on_batch=shown.advance)
    return encoded, encoded_val


def _train_head(
    policy: RescorePolicy,
    encoded: Encodings,
    encoded_val: Encodings,
    recipe: Recipe,
    checkpoint: Path,
    generator: torch.Generator,
) -> None:
    """Train the part that strategies train on encodings, by its own losses."""
    learner = LabelsLearner(
        policy,
        encoded,
        lambda *batch: {"supervised": supervised_loss(*batch)},
        batch_size=recipe.head_batch_size,
        generator=generator,
        validate=lambda: policy_ap(policy, encoded_val, NUM_CANDIDATES),
    )
    config = LoopConfig(
        num_updates=recipe.head_steps,
        learning_rate=recipe.head_learning_rate,
        validate_every=recipe.head_validate_every,
    )
    fit(learner, config, name="warm start's head", callbacks=[Checkpoint(checkpoint), ProgressBar()])


def _encoder(detector: Detector, val: Dataset, limits: CacheLimits) -> Callable[[], Encodings]:
    """A function that encodes the validation images as the detector then is: at once if they are small, else one by one."""
    encoded = detector.encode([val[0].image])
    each = sum(2 * level.numel() for level in encoded.features)
    if detector.part != "all" and each * len(val) <= parallel.of_main(limits.memory_bytes) // VALIDATION_SHARE:
        return lambda: divided(partial(encode_dataset, detector), val)
    batch_size = images_in(BATCH_BYTES, encoded, most=ENCODED_TOGETHER)
    in_the_loop = divided(partial(encode_in_the_loop, batch_size=batch_size), val)
    return lambda: in_the_loop


def _folder() -> Path:
    """Where warm starts are kept."""
    return cache_folder() / "warm_starts"


def _checkpoint(file: Path, stage: int) -> Path:
    return file.with_name(f"{file.stem}.stage{stage}.pt")
