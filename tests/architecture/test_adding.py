"""Each row of CONTRIBUTING.md's table "To add a ...": one is added from outside of the package, by its line, and used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import pytest
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
from jaxtyping import Float
from PIL import Image
from rl_det_envs.candidate_environment import CandidateVectorEnv
from torch import Tensor, nn

import rl_det
from rl_det import cli
from rl_det.candidates import SHIFT_OF_ONE, Observation
from rl_det.data import Split, folder
from rl_det.data.listing import ListedBoxes, ListedImage, Listing, Reading
from rl_det.data.splits import Splits
from rl_det.detectors import Detector, TwoStage, loading
from rl_det.detectors.torchvision.tiny import tiny
from rl_det.detectors.torchvision.two_stage import FASTER_RCNN
from rl_det.finetuning import pages
from rl_det.policies import build
from rl_det.policies.build import Kind, build_policy
from rl_det.policies.distributions import GaussianShifts
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.rewards import REWARDS, Worth
from rl_det.strategies import surrogate
from rl_det.strategies.class_lists import ClassLists
from rl_det.strategies.strategy import Task
from rl_det.training.loop import Ending
from rl_det.types import HeadOutput

BUDGET = rl_det.Budget(
    num_updates=1, images_per_update=4, num_validations=1, max_views=1, num_draws=2,
    evaluated_candidates=50, validated_candidates=50,
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Splits:
    return rl_det.digit_scenes(train=4, val=4, test=4)


@pytest.fixture(scope="module")
def detector(data: Splits) -> Detector:
    return rl_det.load_detector("tiny", data, device="cpu")


def test_a_reward(monkeypatch: pytest.MonkeyPatch, detector: Detector, data: Splits) -> None:
    monkeypatch.setitem(REWARDS, "few", lambda objects: Worth(lambda edits: -edits.detections.mask.sum(1) / 100.0))
    env = gymnasium.make("rl_det/SelectDetections-v0", detector=detector, dataset=data.val, reward="few")
    observation, _ = env.reset(seed=0)
    _, reward, *_ = env.step(torch.zeros(len(observation["mask"])).numpy().astype("int8"))
    assert reward == 0


class HalfShiftVector(CandidateVectorEnv):
    """Every action counts half."""

    def action_space_of_one(self) -> gymnasium.Space[Any]:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.num_candidates,))

    def rescored(self, logits: Float[Tensor, "R N"], actions: Tensor) -> Float[Tensor, "R N"]:
        return logits + SHIFT_OF_ONE / 2 * actions


def test_an_environment(detector: Detector, data: Splits) -> None:
    gymnasium.register(id="test/HalfShift-v0", vector_entry_point=HalfShiftVector)
    envs = gymnasium.make_vec(
        "test/HalfShift-v0", 2, vectorization_mode="vector_entry_point", detector=detector, dataset=data.val
    )
    envs.reset(seed=0)
    _, reward, *_ = envs.step(torch.zeros(envs.action_space.shape))
    assert reward.tolist() == [0, 0]


def test_a_loss(monkeypatch: pytest.MonkeyPatch, detector: Detector, data: Splits, tmp_path: Path) -> None:
    def mean_wrong_score(lists: ClassLists) -> Float[Tensor, ""]:
        return lists.scores.where(lists.counted[0] & ~lists.right[0], 0.0).mean()

    monkeypatch.setitem(
        surrogate.SURROGATES, "blackbox", mean_wrong_score
    )  # a name of its own goes into the Literal too
    strategy = rl_det.Surrogate("blackbox", policy="rescore")
    result = rl_det.finetune(detector, data, strategy, budget=BUDGET, out=tmp_path, baselines=False)
    assert result.rows["surrogate"].ending.reason == "budget"


class LoudPolicy(RescorePolicy):
    """Explores three times as widely."""

    def distribution(self, observation: Observation, output: HeadOutput) -> GaussianShifts:
        return GaussianShifts(super().distribution(observation, output).mean, 3 * self.sigma)


def test_a_policy(monkeypatch: pytest.MonkeyPatch, detector: Detector, data: Splits, tmp_path: Path) -> None:
    kind = Kind(LoudPolicy, "rl_det/RescoreDetections-v0")
    monkeypatch.setitem(build.POLICIES, "rescore", kind)  # a name of its own goes into the Literal too
    result = rl_det.finetune(detector, data, rl_det.PPO(policy="rescore"), budget=BUDGET, out=tmp_path, baselines=False)
    assert isinstance(result.rows["ppo"].tuned.policy, LoudPolicy)  # type: ignore[union-attr]
    assert isinstance(rl_det.load_tuned(tmp_path / "ppo").policy, LoudPolicy)


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """Halves the head's class scores, without looking."""

    name: str = "shrink"

    @property
    def trains(self) -> Literal["head"]:
        return "head"

    def start(self, detector: Detector) -> Policy:
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        policy.recalibrate(0.5, 0.0)
        return Ending(reason="budget", best=task.validation_ap(policy))


def test_a_strategy(detector: Detector, data: Splits, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, Shrink(), budget=BUDGET, out=tmp_path)
    assert list(result.methods) == ["warm_start", "continued_supervised", "shrink"]


class Wrapped(nn.Module):
    """A model of a library of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def test_a_detector_family(monkeypatch: pytest.MonkeyPatch, data: Splits) -> None:
    family = replace(
        FASTER_RCNN,
        names=(),
        takes=lambda model: isinstance(model, Wrapped),
        around=lambda model, **keywords: TwoStage(model.inner, **keywords),
    )
    monkeypatch.setattr(loading, "FAMILIES", (family, *loading.FAMILIES))
    detector = rl_det.load_detector(Wrapped(tiny(10)), data, device="cpu")
    assert detector.num_classes == 10
    assert len(detector.encode([data.val[0].image])) == 1


def test_a_data_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read_whole(path: Path, reading: Reading) -> dict[Split, Listing] | None:
        """One box around each picture; every picture is in all splits."""
        if not (path / "pictures").is_dir():
            return None
        images, boxes = [], ListedBoxes()
        for number, file in enumerate(sorted((path / "pictures").iterdir())):
            boxes.add(number, number, 1, (0.0, 0.0, 8.0, 6.0))
            images.append(ListedImage(number, file, f"picture {number}"))
        listing = Listing(path=path, root=path, images=images, categories={1: "whole"}, boxes=boxes)
        return dict.fromkeys(("train", "val", "test"), listing)

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "pictures" / "a.png")
    monkeypatch.setattr(folder, "LAYOUTS", (*folder.LAYOUTS, folder.Layout("pictures", read_whole)))
    opened = rl_det.open_data(tmp_path)
    assert opened.classes == ("whole",)
    assert opened.test[0].target.boxes.tolist() == [[0, 0, 8, 6]]


def test_a_report_page(monkeypatch: pytest.MonkeyPatch, detector: Detector, data: Splits, tmp_path: Path) -> None:
    def best(finished: pages.FinishedRun) -> None:
        (finished.run.folder / "best.txt").write_text(finished.results.best.name)

    monkeypatch.setitem(pages.PAGES, "best", best)
    rl_det.finetune(detector, data, Shrink(), budget=BUDGET, out=tmp_path, baselines=False)
    assert (tmp_path / "best.txt").read_text() == "shrink"


def test_a_page_that_fails_is_told_of_and_the_run_has_its_results(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
    data: Splits,
    tmp_path: Path,
) -> None:
    def broken(finished: pages.FinishedRun) -> None:
        raise KeyError("no\npicture")

    monkeypatch.setitem(pages.PAGES, "broken", broken)
    rl_det.finetune(detector, data, Shrink(), budget=BUDGET, out=tmp_path, baselines=False)
    told = "warning: the page 'broken' could not be made (KeyError: 'no\\npicture'); all else is whole"
    assert told in capsys.readouterr().err.splitlines()
    assert "shrink" in rl_det.load_results(tmp_path).rows


@dataclass(frozen=True, kw_only=True)
class HelloFlags:
    """Greet."""

    name: str = "nobody"


def test_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def hello(flags: HelloFlags) -> None:
        print("hello", flags.name)

    monkeypatch.setitem(cli.COMMANDS, "hello", (HelloFlags, hello))
    cli.main(["hello", "--name", "you"])
    assert capsys.readouterr().out == "hello you\n"


def test_the_map_names_the_files_that_there_are(rows: Sequence[str]) -> None:
    root = Path(__file__).parents[2]
    named = {
        part for row in rows for part in row.split("`") if part.startswith(("rl_det/", "envs/")) and part != "envs/"
    }
    assert named
    assert [name for name in sorted(named) if not (root / name).exists()] == []


@pytest.fixture
def rows() -> Sequence[str]:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    return [line for line in text.splitlines() if line.startswith("| ")]
