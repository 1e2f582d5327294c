"""Settings per image: what the actions come to, what the description says, and what is paid."""

from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import NUM_IMAGES, TUNE, make_vector

from rl_det.ap.batch import TruthBatch
from rl_det.candidates.soft_nms import Settings, soft_nms
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.metrics.outcomes import image_counts

NUM_CANDIDATES = 60


@pytest.fixture
def envs(detector: Detector, data: EncodedDataset) -> Any:
    envs = make_vector(TUNE, 4, detector=detector, dataset=data, num_candidates=NUM_CANDIDATES)
    envs.reset(seed=0)
    return envs


def test_the_action_is_mapped_to_the_settings_that_info_names(envs: Any) -> None:
    actions = torch.tensor([[-1.0, -1, -1, -1], [1, 1, 1, 1], [0, 0, 0, 0], [-0.5, 0.2, -1, 0.5]])
    settings = envs.step(actions)[4]["settings"].numpy()
    np.testing.assert_allclose(settings[0], [0, 0, np.inf, 1])
    np.testing.assert_allclose(settings[1], [1, 1, 0.25, NUM_CANDIDATES])
    np.testing.assert_allclose(settings[2, :3], [0.5, 0.5, 0.5])
    np.testing.assert_allclose(settings[3, :3], [0.25, 0.6, np.inf], rtol=1e-6)


def test_the_reward_is_the_f1_of_what_the_settings_leave(envs: Any, data: EncodedDataset, detector: Detector) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        _, info = envs.reset(seed=seed)
        actions = torch.from_numpy(rng.uniform(-1, 1, (4, 4))).float()
        _, rewards, _, _, outcome = envs.step(actions)
        for row, image in enumerate(info["indices"].tolist()):
            found = detector.propose(data.batch(torch.tensor([image]), detector), NUM_CANDIDATES)
            threshold, iou, sigma, most = outcome["settings"][row].tolist()
            kept = soft_nms(
                found.boxes.numpy(), found.labels.numpy(), found.logits.double().sigmoid().numpy(), found.mask.numpy(),
                Settings.fixed(1, threshold, iou, sigma, int(most)),
            )  # fmt: skip
            target = data.targets[image]
            truths = TruthBatch(
                **{name: getattr(target, name)[None].numpy() for name in ("boxes", "labels", "area", "iscrowd")},
                mask=np.ones((1, len(target.labels)), dtype=bool),
            )
            c = image_counts(kept, truths, num_classes=detector.num_classes)
            whole = 2 * c.found[0] + c.spurious[0] + c.missed[0]
            assert float(rewards[row]) == pytest.approx(2 * c.found[0] / whole if whole else 1.0, abs=1e-6)


def test_under_f1_a_threshold_has_a_best_place_inside_and_under_the_ap_of_all_it_is_the_lowest(
    detector: Detector, data: EncodedDataset
) -> None:
    def worth(reward: str) -> np.ndarray:
        envs = make_vector(TUNE, NUM_IMAGES, detector=detector, dataset=data, num_candidates=300, reward=reward)
        means = []
        for threshold in np.linspace(-1, 1, 11):
            envs.reset(seed=0)
            actions = torch.tensor([[threshold, 0.2, -1.0, 1.0]]).float().expand(NUM_IMAGES, -1)
            means.append(float(envs.step(actions)[1].mean()))
        return np.array(means)

    assert 0 < worth("f1").argmax() < 10
    assert (np.diff(worth("batch_ap")) <= 1e-7).all()


def test_the_description_counts_what_is_there(envs: Any, detector: Detector, data: EncodedDataset) -> None:
    described = envs.describe() * NUM_CANDIDATES
    found = detector.propose(data.batch(torch.arange(NUM_IMAGES), detector), NUM_CANDIDATES)
    p = found.logits.double().sigmoid().numpy()
    for image in range(NUM_IMAGES):
        np.testing.assert_allclose(described[image, :10], np.histogram(p[image], np.linspace(0, 1, 11))[0], atol=1e-4)
        assert described[image, 30] == pytest.approx(found.mask[image].sum())
        assert described[image, 10:20].sum() <= described[image, :10].sum()
        assert described[image, 20:30].sum() == pytest.approx((p[image] >= 0.05).sum(), abs=1e-4)


def test_the_head_runs_once_for_the_whole_data_set(detector: Detector, data: EncodedDataset, monkeypatch: Any) -> None:
    calls, head = [], detector.head
    monkeypatch.setattr(detector, "head", lambda encoded: calls.append(len(encoded)) or head(encoded), raising=False)
    envs = make_vector(TUNE, 4, detector=detector, dataset=data)
    for seed in range(5):
        envs.reset(seed=seed)
        envs.step(torch.zeros(4, 4))
    assert calls == [NUM_IMAGES]
