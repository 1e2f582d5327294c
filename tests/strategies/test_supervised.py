"""Supervised training led by validation mAP: which weights stay, and what a missing or NaN metric may not do."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_det.data.augment import Augmentations, augmented, flipped
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.strategies.supervised import BatchPlan, Supervised, SupervisedLearner, batches, labelled
from rl_det.training.descent import Descent
from rl_det.training.loop import Callback, Ending, FitRun, fit

SCENES = DigitScenes("train", num_scenes=6)
PLAN = BatchPlan(num_steps=4, batch_size=2)


def config(**changes: Any) -> Supervised:
    plain = {"ema": 0.0, "validate_start": False, "learning_rate": 2e-3, "validate_every": 1}
    return Supervised(**plain | {"num_steps": 4, "batch_size": 2} | changes)


class Validated(Callback):
    """The updates after which a validation brought a figure of this name."""

    def __init__(self, name: str) -> None:
        self.name, self.updates = name, list[int]()

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        if f"val_{self.name}" in metrics:
            self.updates.append(run.update)


def trained(
    aps: list[float | None], *, name: str = "AP", steps: list[int] | None = None, **changes: Any
) -> tuple[Ending, Tensor, list[Tensor]]:
    """How it ended, the weights that stayed, and the weights at each validation, which tells the given APs.

    `steps` is filled with those at which there was a validation that told something.
    """
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=len(CLASSES), input_size=64)
    seen: list[Tensor] = []
    told = iter(aps)

    def validate() -> dict[str, float]:
        seen.append(weight(detector).clone())
        ap = next(told)
        return {"AR1": 0.5} if ap is None else {name: ap, "AR1": 0.5}

    own, validated = config(**changes), Validated(name)
    plan = BatchPlan(num_steps=own.num_steps or 0, batch_size=own.batch_size or 0)
    learner = SupervisedLearner(detector, SCENES, plan, generator=torch.Generator().manual_seed(0), validate=validate)
    ending = fit(learner, own.loop(plan, 1.0, 1, len(SCENES)), name="supervised", callbacks=[validated])
    if steps is not None:
        steps += validated.updates
    return ending, weight(detector), seen


def weight(detector: Detector) -> Tensor:
    return weight_of(detector).detach()


def weight_of(detector: Detector) -> Tensor:
    tensor: Tensor = detector.plain().roi_heads.box_predictor.cls_score.weight
    return tensor


@pytest.mark.parametrize(
    ("aps", "kept", "best"),
    [
        ([0.1, 0.3, 0.2, 0.1], 1, 0.3),
        ([0.1, 0.3, 0.3, 0.2], 1, 0.3),  # a tie keeps the earlier
        ([0.1, math.nan, 0.2, 0.1], 2, 0.2),
        ([None, None, 0.1, None], 2, 0.1),
        ([math.nan, 0.1, None, math.nan], 1, 0.1),
        ([0.0, 0.0, 0.0, 0.5], 3, 0.5),  # late
    ],
)
def test_the_weights_of_the_best_validation_stay(aps: list[float | None], kept: int, best: float) -> None:
    ending, weights, seen = trained(aps)
    assert ending == Ending(reason="budget", update=4, best=best)
    assert len(seen) == 4
    assert torch.equal(weights, seen[kept])
    assert not any(torch.equal(weights, other) for step, other in enumerate(seen) if step != kept)


def test_without_any_metric_the_last_weights_stay() -> None:
    ending, weights, seen = trained([None, math.nan, None, None])
    assert ending.best is None
    assert torch.equal(weights, seen[-1])


def test_it_stops_when_patience_is_used_up_and_progress_below_min_delta_is_none() -> None:
    assert len(trained([0.1, 0.2, 0.15, 0.15], patience=1)[2]) == 3
    ending, weights, seen = trained([0.1, 0.105, 0.108, 0.2], patience=2, min_delta=0.01)
    assert len(seen) == 3
    assert ending == Ending(reason="patience", update=3, best=0.1)
    assert torch.equal(weights, seen[0])


def test_validations_in_the_warm_up_do_not_count() -> None:
    ending, weights, seen = trained([0.9, 0.1, 0.2, 0.1], warm_up=1, patience=2)
    assert ending.best == 0.2
    assert torch.equal(weights, seen[2])


def test_it_validates_every_so_many_epochs_and_at_the_end() -> None:
    steps: list[int] = []
    trained([0.1] * 9, steps=steps, num_steps=8, batch_size=4, validate_unit="epochs", patience=9)
    assert steps == [2, 3, 5, 6, 8]  # of 6 images: the last of epoch 1 is the second of step 2
    steps.clear()
    trained([0.1] * 9, steps=steps, num_steps=8, batch_size=4, validate_unit="epochs", validate_every=2, patience=9)
    assert steps == [3, 6, 8]
    steps.clear()
    trained([0.1] * 9, steps=steps, num_steps=5, validate_every=2)
    assert steps == [2, 4, 5]


def test_the_start_is_a_candidate_where_that_is_asked_for() -> None:
    torch.manual_seed(0)
    start = weight(build_detector("tiny", num_classes=len(CLASSES), input_size=64)).clone()
    steps: list[int] = []
    ending, weights, seen = trained([0.4, 0.1, 0.4, 0.3, 0.2], steps=steps, validate_start=True)
    assert steps == [0, 1, 2, 3, 4]
    assert ending.best == 0.4
    assert torch.equal(weights, start)
    assert torch.equal(seen[2], trained([0.1] * 4)[2][1])  # and training is what it is without


def test_an_error_that_is_monitored_should_fall() -> None:
    ending, weights, seen = trained([0.5, 0.3, 0.4, 0.35], name="moLRP", monitor="moLRP")
    assert ending.best == 0.3
    assert torch.equal(weights, seen[1])


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"AP, AP50.*moLRP; got 'mAP'"):
        config(monitor="mAP")


def test_the_running_mean_of_the_weights_is_what_is_validated_and_kept() -> None:
    plain = trained([0.1, 0.2, 0.3, 0.4])[2]
    _, weights, seen = trained([0.1, 0.2, 0.3, 0.4], ema=0.999)
    mean = plain[0]
    torch.testing.assert_close(seen[0], mean)
    for count, current in enumerate(plain[1:], 1):
        decay = (1 + count) / (10 + count)
        mean = decay * mean + (1 - decay) * current
        torch.testing.assert_close(seen[count], mean)  # and the training itself went on from its own weights
    assert torch.equal(weights, seen[3])


def test_without_any_metric_the_last_running_mean_stays() -> None:
    _, weights, seen = trained([None] * 4, ema=0.9)
    assert torch.equal(weights, seen[-1])


def test_mixed_precision_trains_float32_weights_a_little_otherwise() -> None:
    plain, mixed = trained([0.1, 0.2, 0.3, 0.4])[1], trained([0.1, 0.2, 0.3, 0.4], precision="mixed")[1]
    assert mixed.dtype == torch.float32
    assert not torch.equal(plain, mixed)
    torch.testing.assert_close(plain, mixed, rtol=0, atol=0.02)


def test_the_gradient_is_clipped_and_the_schedule_is_the_one_that_was_asked_for() -> None:
    plain = trained([0.1, 0.2, 0.3, 0.4])[1]
    assert not torch.equal(plain, trained([0.1, 0.2, 0.3, 0.4], max_grad_norm=1e-3)[1])
    assert not torch.equal(plain, trained([0.1, 0.2, 0.3, 0.4], schedule="step")[1])


def test_a_step_whose_scaled_gradient_overflows_is_left_out_and_the_next_one_is_made() -> None:
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=len(CLASSES), input_size=64)
    learner = SupervisedLearner(detector, SCENES, PLAN, generator=torch.Generator(), validate=dict)
    descent = Descent(
        learner.trainable, num_updates=4, learning_rate=2e-3, weight_decay=0.02, schedule="cosine", max_grad_norm=5.0,
        mixed=False, average=None,
    )  # fmt: skip
    descent.scaler = torch.amp.GradScaler("cpu")
    too_large = weight_of(detector).register_hook(lambda gradient: gradient * math.inf)
    before, rate = weight(detector).clone(), descent.optimizer.param_groups[0]["lr"]
    learner.update(1, descent)
    descent.end_update()
    assert torch.equal(weight(detector), before)
    assert descent.optimizer.param_groups[0]["lr"] == rate
    assert descent.scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale() / 2
    too_large.remove()
    learner.update(2, descent)
    descent.end_update()
    assert not torch.equal(weight(detector), before)
    assert descent.optimizer.param_groups[0]["lr"] < rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"ema": 1.0},
        {"learning_rate": 0.0},
        {"num_steps": 0},
        {"batch_size": 0},
        {"validate_every": 0},
        {"weight_decay": -0.1},
        {"patience": 0},
        {"num_workers": -1},
        {"warm_up": 4},
        {"validate_every": None, "validate_unit": "epochs"},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        config(**wrong)


def test_a_run_that_was_stopped_on_one_device_goes_on_on_another() -> None:
    """On a CPU no loss is scaled; on CUDA, half precision scales it, for which a scaler on a CPU stands in."""
    module = torch.nn.Linear(1, 1)
    on_cpu, on_cuda = (
        Descent(
            module, num_updates=4, learning_rate=2e-3, weight_decay=0.02, schedule="cosine", max_grad_norm=5.0,
            mixed=True, average=None,
        )
        for _ in range(2)
    )  # fmt: skip
    on_cuda.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    stopped = on_cuda.state_dict()
    on_cuda.load_state_dict(on_cpu.state_dict())
    assert on_cuda.scaler.get_scale() == 256.0
    on_cpu.load_state_dict(stopped)
    assert on_cpu.scaler.get_scale() == 1.0


def test_a_loss_that_is_not_finite_ends_the_run_at_its_best_weights_and_names_update_and_images() -> None:
    ending, weights, seen = trained([0.1] * 9, learning_rate=1e30, num_steps=8, validate_start=True)
    assert ending.reason == "not finite"
    assert re.search(r"(images \d, \d in update \d, the last of 5 in a row|in the validation after)", ending.detail)
    assert torch.equal(weights, seen[0])


def test_every_image_comes_once_before_any_comes_again() -> None:
    shown = batches(SCENES, replace(PLAN, num_steps=6), torch.Generator().manual_seed(0))
    ids = [sample.target.image_id for samples in shown for sample in samples]
    assert sorted(ids[:6]) == sorted(ids[6:]) == [1, 2, 3, 4, 5, 6]
    assert ids[:6] != ids[6:]


LIVELY = {"flip": True, "augmentations": Augmentations(scale=(0.5, 2.0), photometric=True)}


def shown(first: int = 0, **changes: Any) -> list[tuple[int, float]]:
    """The image, and a sum that tells what became of it, of all that is shown."""
    found = batches(SCENES, replace(PLAN, **changes), torch.Generator().manual_seed(0), first=first)
    return [(sample.target.image_id, float(sample.image.sum())) for samples in found for sample in samples]


def test_reading_ahead_in_a_process_of_its_own_changes_nothing() -> None:
    assert shown(num_workers=1, **LIVELY) == shown(**LIVELY)


def test_the_first_batches_can_be_left_out_and_the_others_stay_what_they_are() -> None:
    assert shown(first=2, num_steps=6, **LIVELY) == shown(num_steps=6, **LIVELY)[4:]
    assert shown(first=4) == []


def test_every_visit_to_an_image_is_augmented_by_itself() -> None:
    changes = Augmentations(photometric=True)
    visits = shown(num_steps=12, augmentations=changes)
    assert {image for image, _ in visits} == {1, 2, 3, 4, 5, 6}
    assert len({total for image, total in visits if image == 1}) > 1
    assert visits[0][1] in {float(augmented(SCENES[visits[0][0] - 1], changes, seed).image.sum()) for seed in seeds()}


def seeds() -> list[int]:
    """What the generator draws after the order of two dozen visits."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        torch.randperm(6, generator=generator)
    return torch.randint(2**62, (24,), generator=generator).tolist()


def test_a_mirrored_sample_holds_the_same_things_in_its_boxes() -> None:
    sample = SCENES[0]
    mirrored = flipped(sample)
    for box, other in zip(sample.target.boxes.int().tolist(), mirrored.target.boxes.int().tolist(), strict=True):
        patch = sample.image[:, box[1] : box[3], box[0] : box[2]]
        assert torch.equal(patch.flip(-1), mirrored.image[:, other[1] : other[3], other[0] : other[2]])
    again = flipped(mirrored)
    torch.testing.assert_close(again.target.boxes, sample.target.boxes)
    assert torch.equal(again.image, sample.image)


def test_crowds_are_not_trained_on() -> None:
    sample = SCENES[0]
    crowd = torch.zeros_like(sample.target.iscrowd)
    crowd[1] = True
    marked = replace(sample, target=replace(sample.target, iscrowd=crowd))
    kept = labelled(marked, torch.device("cpu"))
    assert len(kept["labels"]) == len(crowd) - 1
    assert torch.equal(kept["boxes"][1], sample.target.boxes[2])
