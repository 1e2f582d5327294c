"""Images and rewards that give NaN: updates with them are skipped and counted, the images are named, the rest is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, write_folder

import rl_det
from rl_det.data import Dataset
from rl_det.data.splits import Splits
from rl_det.detectors import encodings
from rl_det.errors import UserError
from rl_det.types import Detections, Encoded, Sample, Target

pytestmark = pytest.mark.usefixtures("without_pages")

OUTPUT = "the detector's output is NaN or infinite"
BAD = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return rl_det.open_data(write_folder(tmp_path_factory.mktemp("not_finite") / "data"))


def break_features(monkeypatch: pytest.MonkeyPatch, brightest: Sample) -> None:
    """From here on, the frozen part gives NaN for this one image."""
    encode = encodings._encoded

    def broken(detector: Any, samples: list[Sample], *how: Any) -> Encoded:
        encoded = encode(detector, samples, *how)
        for row, sample in enumerate(samples):
            if torch.equal(sample.image, brightest.image):
                for part in encoded.features:
                    part[row] = torch.nan
        return encoded

    monkeypatch.setattr(encodings, "_encoded", broken)


@pytest.mark.parametrize(
    "strategy",
    [kind(learning_rate=1e-5) for kind in (rl_det.PPO, rl_det.Reinforce, rl_det.Surrogate, rl_det.Labels)],
)
def test_an_image_whose_features_are_nan_costs_its_updates_alone_and_is_named(
    strategy: Any, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_features(monkeypatch, data.train[BAD - 1])
    detector = rl_det.load_detector("tiny", data)
    budget = rl_det.Budget(**{**vars(BUDGET), "images_per_update": 2, "num_updates": 6, "fit_evaluations": 0})
    result = rl_det.finetune(detector, data, strategy, budget=budget, out=tmp_path / "run", baselines=False)
    ending = result.rows[strategy.name].ending
    assert ending.reason == "budget"
    assert 0 < ending.skipped < ending.update
    file = data.train.images[BAD - 1].file  # type: ignore[attr-defined]
    assert f"images {BAD} ({str(file)!r})" in ending.first_skipped
    assert f"{strategy.name}: {ending.skipped} updates were skipped; first: " in result.table()


def test_an_image_of_validation_whose_features_are_nan_is_refused_by_its_name(
    data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_features(monkeypatch, data.val[BAD - 1])
    with pytest.raises(UserError, match=rf"{OUTPUT}, images {BAD} \('.*val1.png'\)$"):
        rl_det.finetune(rl_det.load_detector("tiny", data), data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")


@pytest.mark.parametrize("part", ["head", "predictor", "all"])
@pytest.mark.parametrize(("rows", "value"), [(1, torch.nan), (1, torch.inf), (128, torch.nan)])
def test_an_image_that_is_not_finite_is_no_image_without_proposals(
    data: Splits, part: Any, rows: int, value: float
) -> None:
    detector = rl_det.load_detector("tiny", data, trainable=part)
    sound, broken = data.train[0].image, data.train[1].image.clone()
    broken[:, :rows, : 128 if rows > 1 else 1] = value
    encoded = detector.encode([sound, broken])
    with torch.no_grad():
        output, alone = detector.head(encoded), detector.head(detector.encode([sound]))
    said = output.logits[1][encoded.mask[1]]
    assert len(said)
    assert said.isnan().all()
    assert torch.equal(output.logits[0], alone.logits[0])


def test_an_image_of_ones_own_that_is_not_finite_is_refused_by_its_name(data: Splits, tmp_path: Path) -> None:
    class Broken(Dataset):
        classes, category_ids = data.val.classes, data.val.category_ids

        def __len__(self) -> int:
            return len(data.val)

        def __getitem__(self, index: int) -> Sample:
            sample = data.val[index]
            if index != BAD - 1:
                return sample
            image = sample.image.clone()
            image[0, 3, 4] = torch.nan
            return replace(sample, image=image)

    splits = replace(data, val=Broken())
    with pytest.raises(UserError, match=rf"{OUTPUT}, images {BAD}"):
        rl_det.finetune(
            rl_det.load_detector("tiny", data), splits, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run"
        )


def test_a_reward_that_is_nan_for_one_image_costs_its_updates_alone(data: Splits, tmp_path: Path) -> None:
    broken = data.train[BAD - 1].target.boxes

    def paid(found: Detections, target: Target) -> float:
        return float("nan") if torch.equal(target.boxes, broken) else float(found["scores"].sum())

    strategy = rl_det.PPO(policy="rescore", reward=paid, samples_per_image=2, learning_rate=1e-5)
    budget = rl_det.Budget(**{**vars(BUDGET), "images_per_update": 2, "num_updates": 6, "fit_evaluations": 0})
    detector = rl_det.load_detector("tiny", data)
    result = rl_det.finetune(detector, data, strategy, budget=budget, out=tmp_path / "run", baselines=False)
    ending = result.rows["ppo"].ending
    assert 0 < ending.skipped < ending.update
    assert ending.first_skipped.startswith(f"a reward is NaN or infinite, images {BAD} (")
