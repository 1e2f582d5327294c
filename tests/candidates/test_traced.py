"""Post-processing by operations of tensors alone against the engine's compiled code."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rl_det.candidates import votes as engine
from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of
from rl_det.candidates.traced import detections_of_one, voted
from rl_det.candidates.votes import Votes
from rl_det.types import Candidates, Detections

NUM_CANDIDATES, NUM_CLASSES = 14, 2
VOTES = Votes(
    sharpness=0.15, score_exponent=0.7, step=0.6, step_slope=0.2, mean_share=0.4, softness=0.3, support=0.3, spread=-0.5,
    size=0.2, small=0.3, large=-0.2,
)  # fmt: skip
NUMBERS = st.floats(-1, 1)
SETTINGS = st.fixed_dictionaries(
    {
        "nms_iou": st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
        "sigma": st.sampled_from([0.1, 0.5, np.inf]),
        "max_detections": st.sampled_from([1, 5, 40]),
        "scale": st.sampled_from([(1.0,), (0.5, 1.5)]),
        "shift": st.sampled_from([(0.0,), (0.3, -0.4)]),
    }
)
NUMBERS_OF_VOTES = st.just({}) | st.fixed_dictionaries(
    dict.fromkeys(("step", "step_slope", "mean_share", "support", "spread", "size", "small", "large"), NUMBERS)
    | dict.fromkeys(("sharpness", "softness"), st.floats(0.05, 1))
    | {"score_exponent": st.floats(0, 2)}
)


def candidates(seed: int, num_real: int, extent: float = 150.0) -> Candidates:
    """Three crowds of boxes of two classes, the best first; logits are 1/8 apart at least, so that rounding makes no tie."""
    rng = np.random.default_rng(seed)
    crowds = np.concatenate([np.zeros((3, 2)), rng.uniform(0.3, 1, (3, 2))], -1) + np.tile(rng.uniform(0, 1, (3, 2)), 2)
    each = crowds[rng.integers(0, 3, (1, NUM_CANDIDATES))] + rng.uniform(-0.05, 0.05, (1, NUM_CANDIDATES, 4))
    boxes = (extent * each).astype(np.float32)
    steps = rng.uniform(0.125, 1, (1, NUM_CANDIDATES))
    mask = torch.arange(NUM_CANDIDATES)[None] < num_real
    logits = torch.from_numpy(3 - steps.cumsum(1)).float()
    return Candidates(
        boxes=torch.from_numpy(boxes) * mask[..., None],
        labels=torch.from_numpy(rng.integers(1, NUM_CLASSES + 1, (1, NUM_CANDIDATES))).where(mask, 1),
        logits=logits.masked_fill(~mask, -torch.inf),
        mask=mask,
        index=torch.zeros(1, NUM_CANDIDATES, dtype=torch.int64),
    )


def assert_same(ours: Detections, theirs: Detections) -> None:
    assert ours["boxes"].shape == theirs["boxes"].shape
    torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-5, atol=1e-4)
    assert ours["labels"].tolist() == theirs["labels"].tolist()


@given(st.integers(0, 10_000), st.integers(0, NUM_CANDIDATES), SETTINGS, NUMBERS_OF_VOTES)
@settings(max_examples=200, deadline=None)
def test_one_images_detections_are_the_engines(
    seed: int, num_real: int, numbers: dict[str, Any], of_votes: dict[str, float]
) -> None:
    """Two scores that the last digits order are a tie, and left out."""
    some, how = candidates(seed, num_real), PostProcessingSettings(**numbers, votes=Votes(**of_votes))
    (wanted,) = detections_of(some, how)
    assume(bool((-wanted["scores"].diff() > 1e-5 * wanted["scores"][1:]).all()))
    assert_same(detections_of_one(some, how), wanted)


@pytest.mark.parametrize("extent", [4.0, 30.0, 150.0, 600.0])
def test_votes_move_boxes_and_logits_as_the_engines_do(extent: float) -> None:
    some = candidates(1, 12, extent)
    ours, theirs = voted(some, VOTES), engine.voted(some, VOTES)
    real = some.mask
    assert not torch.allclose(theirs.boxes[real], some.boxes[real])
    torch.testing.assert_close(ours.boxes[real], theirs.boxes[real], rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in vars(VOTES) if name not in ("sharpness", "softness", "score_exponent")]
)
def test_each_number_of_a_vote_counts(name: str) -> None:
    neutral: dict[str, Any] = {name: getattr(VOTES, name)}
    some = candidates(3, 12, 60.0)
    how = PostProcessingSettings(nms_iou=0.5, votes=Votes(**neutral))
    assert_same(detections_of_one(some, how), detections_of(some, how)[0])


@pytest.mark.parametrize("sigma", [0.3, np.inf])
@pytest.mark.parametrize("votes", [Votes(), VOTES])
def test_an_image_without_candidates_has_no_detections(sigma: float, votes: Votes) -> None:
    found = detections_of_one(candidates(0, 0), PostProcessingSettings(nms_iou=0.5, sigma=sigma, votes=votes))
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == found["scores"].shape == (0,)


@pytest.mark.parametrize("sigma", [0.3, np.inf])
def test_of_equal_boxes_the_best_remains_where_nms_is_hard(sigma: float) -> None:
    some = candidates(0, 6)
    same = replace(some, boxes=some.boxes[:, :1].expand_as(some.boxes) * some.mask[..., None])
    how = PostProcessingSettings(nms_iou=0.5, sigma=sigma, votes=VOTES)
    found = detections_of_one(same, how)
    assert_same(found, detections_of(same, how)[0])
    assert len(found["labels"]) == len(set(same.labels[0, :6].tolist()))
