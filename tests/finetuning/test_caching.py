"""Where encodings go: by the part that is trained and the limits; how many proposals they hold; and that no number depends
on it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET

import rl_det
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, EncodedInTheLoop, encode_dataset, encode_in_the_loop
from rl_det.detectors.protocol import Part
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.errors import UserError
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.caching import (
    GIB,
    CacheLimits,
    CachePlan,
    best,
    encodings_by,
    fewest_proposals,
    plan_cache,
    remembered,
)
from rl_det.finetuning.plan import Plan, plan_run
from rl_det.policies.detections import policy_ap
from rl_det.policies.rescore import RescorePolicy
from rl_det.storage.run import ENCODINGS

NUM_SCENES = 6


def shipped(part: Part = "head", *, num_proposals: int | None = None) -> Detector:
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS, part=part)
    if num_proposals is not None:
        detector.plain().rpn._post_nms_top_n["testing"] = num_proposals
        detector.plain().rpn._pre_nms_top_n["testing"] = 2 * num_proposals
    return detector


def scenes(split: Any = "train") -> DigitScenes:
    return DigitScenes(split, num_scenes=NUM_SCENES)


def planned(tmp_path: Path, part: Part = "head", **limits: float) -> CachePlan:
    return plan_cache(
        shipped(part),
        {"train": scenes(), "val": scenes("val")},
        CacheLimits(**limits),
        folder=tmp_path / "encodings",
        num_candidates=100,
        chosen=tmp_path / "proposals.txt",
    )


def test_the_limits_decide_the_place_and_the_plan_says_it(tmp_path: Path) -> None:
    each = planned(tmp_path).image_bytes
    assert each == pytest.approx(100 * (64 * 25 * 2 + 17), abs=200), "100 proposals of 64 x 5 x 5 in half precision"
    enough, little = 2.5 * NUM_SCENES * each / GIB, 1.5 * NUM_SCENES * each / GIB
    for limits, place, told in (
        ({"memory": enough}, "memory", r"12 images x 0\.32 MB, 100 proposals each; in memory \(0\.00 GiB\); about 1 min once"),
        ({"memory": little, "disk": enough}, "disk", rf"on disk \(0\.00 GiB\), above the 0\.0 GiB .*: {tmp_path}/encodings"),
        ({"memory": little, "disk": little}, "nowhere", r"not kept: images are read and encoded each time .* each pass"),
    ):  # fmt: skip
        plan = planned(tmp_path, **limits)  # type: ignore[arg-type]
        assert plan.place == place
        with pytest.raises(AssertionError, match=told):
            raise AssertionError(plan.told())


def test_the_part_that_is_trained_decides_how_much_there_is_to_keep(tmp_path: Path) -> None:
    head, predictor = planned(tmp_path), planned(tmp_path, "predictor")
    assert predictor.image_bytes < head.image_bytes / 7
    everything = planned(tmp_path, "all")
    assert everything.place == "nowhere"
    assert "all of the detector is trained" in everything.told()


def test_a_limit_below_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"one image takes 0\.000\d+ GiB; cache_memory and cache_disk must leave room for one"
    ):
        planned(tmp_path, memory=1e-6, disk=1e-6)
    with pytest.raises(UserError, match="memory must not be negative; got -1"):
        CacheLimits(memory=-1.0)


def test_as_few_proposals_are_kept_as_leave_validation_ap_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    detector, val = shipped(num_proposals=320), DigitScenes("val", num_scenes=12)
    kept = fewest_proposals(detector, val, 100, batch_size=4, of_proposals=320)
    told = capsys.readouterr().err
    assert "validation AP x 100 by the number of proposals that an image keeps: 100: " in told
    policy = RescorePolicy(detector, sigma=1.0)
    whole = policy_ap(policy, encode_dataset(detector, val), 100)
    numbers = [number for number in (100, 150, 200, 300) if kept is None or number <= kept]
    for number in numbers:
        ap = policy_ap(policy, encode_dataset(detector, val, num_proposals=number), 100)
        assert (abs(ap - whole) <= 0.0005) is (number == kept), (number, ap, whole)


def test_nothing_is_tried_where_proposals_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert fewest_proposals(shipped(), scenes(), 100, batch_size=4, of_proposals=100) is None
    assert not capsys.readouterr().err


def test_the_best_proposals_are_those_of_the_highest_logit_and_never_padding() -> None:
    worth = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 4.0, 3.0, 2.0]])
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    assert best(worth, mask, 2).tolist() == [[True, False, True, False], [True, True, False, False]]
    assert best(worth, mask, 3).tolist() == [[True, False, True, True], [True, True, False, False]]


def test_a_choice_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "proposals.txt"
    assert remembered(file, "a", lambda: None) is None
    assert remembered(file, "a", lambda: 150) == 150
    assert remembered(file, "a", lambda: 300) == 150


def test_a_choice_for_other_data_or_with_any_byte_changed_is_made_anew_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "proposals.txt"
    remembered(file, "a", lambda: 150)
    whole = file.read_bytes()
    assert not capsys.readouterr().err
    assert remembered(file, "b", lambda: 300) == 300
    assert "proposals.txt: is damaged, or of other data" in capsys.readouterr().err
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert remembered(file, "a", lambda: 300) == 300, place
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("part", ["head", "predictor"])
def test_encodings_say_the_same_wherever_they_are(tmp_path: Path, part: Part) -> None:
    detector, images = shipped(part), torch.tensor([4, 0, 5])
    memory = encode_dataset(detector, scenes(), num_proposals=50)
    disk = encode_dataset(detector, scenes(), num_proposals=50, folder=tmp_path / "encodings")
    loop = encode_in_the_loop(scenes(), num_proposals=50)
    assert isinstance(memory, EncodedDataset)
    assert isinstance(loop, EncodedInTheLoop)
    wanted = memory.batch(images, detector)
    assert wanted.mask.shape == (3, 50)
    for other in (disk.batch(images, detector), loop.batch(images, detector)):
        assert other.features[0].dtype == torch.float32
        torch.testing.assert_close(detector.head(other).logits, detector.head(wanted).logits, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(other.reference, wanted.reference, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(memory.targets, loop.targets, strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)


def test_a_batch_of_large_encodings_is_small() -> None:
    data = encode_dataset(shipped(), scenes())
    assert data.batch_size == 50
    large = EncodedDataset(data.encoded.map(lambda tensor: tensor.expand(NUM_SCENES, *tensor.shape[1:])), data.targets)
    assert large.batch_size == 50
    wide = torch.zeros(1, 1).expand(NUM_SCENES, 2**24)
    assert EncodedDataset(rl_det.types.replace(data.encoded, features=(wide,)), data.targets).batch_size == 4


class Broken(DigitScenes):
    def __getitem__(self, index: int) -> Any:
        if index == 21:
            raise UserError("images/21.png: is cut short")
        return super().__getitem__(index)


def test_an_error_of_a_worker_process_is_what_it_was() -> None:
    with pytest.raises(UserError, match=r"^images/21\.png: is cut short$"):
        encode_dataset(shipped(), Broken("train", num_scenes=24), batch_size=2)


def test_worker_processes_leave_torchs_generator_alone() -> None:
    detector = shipped()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    encode_dataset(detector, DigitScenes("train", num_scenes=12), batch_size=2)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("limits", [{"cache_memory": 0.0}, {"cache_memory": 0.0, "cache_disk": 0.001}])
def test_a_run_comes_to_its_end_on_disk_and_in_the_loop_and_leaves_no_encodings(
    tmp_path: Path, limits: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    data = rl_det.digit_scenes(12, 4, 4)
    detector = rl_det.load_detector("tiny", data)
    ppo = rl_det.PPO(policy="rescore", samples_per_image=2, num_updates=1)

    def run(name: str, **limits: float) -> rl_det.Results:
        return rl_det.finetune(
            detector, data, ppo, budget=BUDGET, out=tmp_path / name, baselines=False, batch_size=4, **limits
        )

    wanted, found = run("memory").rows["ppo"], run("other", **limits).rows["ppo"]
    place = "not kept" if "cache_disk" in limits else "on disk"
    assert place in capsys.readouterr().err
    assert found.figures["AP"] == pytest.approx(wanted.figures["AP"], abs=0.02)
    assert not (tmp_path / "other" / "encodings").exists()


def test_all_of_the_detector_can_be_tuned_by_a_reward(tmp_path: Path) -> None:
    data = rl_det.digit_scenes(8, 4, 4)
    detector = rl_det.load_detector("tiny", data, trainable="all")
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    ppo = rl_det.PPO(policy="rescore", samples_per_image=2, num_updates=2, learning_rate=1e-4)
    result = rl_det.finetune(detector, data, ppo, budget=BUDGET, out=tmp_path / "run", baselines=False, batch_size=4)
    after = result.rows["ppo"].tuned.model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"backbone", "rpn", "roi_heads"}
    again = rl_det.load_tuned(result.best.export(tmp_path / "better"))
    images = [data.test[index].image for index in range(4)]
    for ours, theirs in zip(again.detect(images), result.best.tuned.detect(images), strict=True):
        assert torch.equal(ours["scores"], theirs["scores"])


@pytest.mark.parametrize(("part", "rate"), [("predictor", 2e-3), ("head", 2e-3), ("all", 5e-4)])
def test_the_usual_rate_is_lower_where_all_of_the_detector_is_trained(part: Part, rate: float, tmp_path: Path) -> None:
    data = rl_det.digit_scenes(8, 4, 4)
    detector = rl_det.load_detector("tiny", data, trainable=part)
    plan = plan_run(detector, data, [rl_det.PPO()], BUDGET, recipe_for(data), 0, baselines=False, out=tmp_path)
    assert plan.task().learning_rate == rate


def test_a_small_plan_serves_the_same_encodings(tmp_path: Path) -> None:
    plan = planned(tmp_path, memory=0.0, disk=0.0)
    assert plan.place == "nowhere"
    found = encodings_by(plan, shipped(), scenes(), folder=tmp_path / "unused")
    assert len(found) == NUM_SCENES
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("whose", ["user", "run", "comparison"])
def test_damaged_encodings_in_a_folder_of_the_users_are_refused_and_in_the_programs_own_made_anew(
    tmp_path: Path, whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan() -> Plan:
        data = rl_det.digit_scenes(4, 3, 2)
        made = plan_run(shipped(), data, [rl_det.PPO()], BUDGET, recipe_for(data), 0, baselines=False, out=tmp_path)
        made.limits = CacheLimits(memory=0.0)
        made.encodings, made.remake = None if whose == "run" else tmp_path / ENCODINGS, whose == "comparison"
        return made

    plan().encode("val")
    (tmp_path / ENCODINGS / "val" / "mask.npy").unlink()
    capsys.readouterr()
    if whose == "user":
        with pytest.raises(UserError, match=r"encodings/val: must be a folder of encodings; mask\.npy cannot be read"):
            plan().encode("val")
    else:
        assert len(plan().encode("val")) == 3
        assert "mask.npy cannot be read (No such file or directory); they are made anew" in capsys.readouterr().err
