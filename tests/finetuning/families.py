"""A family's detector goes the whole way: from a model object through fine-tuning to its folder and back."""

from pathlib import Path

import torch
from contract.families import build
from finetuning.small import BUDGET, OfThree

import rl_det


def assert_tuned_and_back(family: str, folder: Path) -> None:
    """A model object is tuned by reward and by surrogate, and comes back from its folder."""
    data = rl_det.open_data([OfThree(split, count) for split, count in (("train", 5), ("val", 4), ("test", 3))])
    detector = rl_det.load_detector(build(family).detector.plain(), data)
    assert detector.is_trained
    tuned = rl_det.finetune(
        detector,
        data,
        rl_det.PPO(samples_per_image=2, num_updates=1, num_candidates=20, context_candidates=20),
        rl_det.Surrogate(num_candidates=20),
        budget=BUDGET,
        out=folder / "run",
    )
    assert {"warm_start", "continued_supervised", "ppo", "surrogate"} <= set(tuned.rows)
    row = tuned.rows["ppo"].tuned
    assert row is not None
    images = [data.test[index].image for index in range(3)]
    exported = row.export(folder / "better")
    own = detector.architecture.library == "own"
    again = rl_det.load_tuned(exported, build(family).fresh()) if own else rl_det.load_tuned(exported)
    for ours, theirs in zip(row.detect(images), again.detect(images), strict=True):
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(ours[name], theirs[name])
