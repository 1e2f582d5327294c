"""A policy, before or after training -> its recalibrated twin, its test figures, and the files that a user takes home."""

import copy

import torch
from task import Bar, PolicyName

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.data import Dataset
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.metrics.calibration import detection_calibration_error
from rl_det.metrics.evaluation import evaluate
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.recalibration import fit_recalibration
from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.detections import detections, mean_ap
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.policies.voting import VotingPolicy
from rl_det.policies.voting_module import VotingModule
from rl_det.types import Detections, Target

SIGMA = 0.5
BOX_SIGMA = 0.2
KEEP_BIAS = 2.0
PLAIN_VOTES = ((1.0, 0.0), (1.0, 0.35), (1.0, 0.5), (1.0, 0.75))
"""Steps of the boxes and shares of the mean logit among which voting without training may choose."""
EVALUATED_CANDIDATES = 1000
"""Pairs of a proposal and a class that NMS chooses from, in every method: all that tiny has of ten classes."""
VALIDATED_CANDIDATES = 256
"""The same between updates, where time counts: 0.2 mAP below all of them, for every method alike."""
COST_OF_CALIBRATION = 5e-4
"""How much validation AP a recalibration may cost before it is left out: a softmax cannot keep every order."""


def make_policy(name: PolicyName, detector: Detector) -> Policy:
    """The policy of this name, at the warm start."""
    if name == "adjust":
        return AdjustPolicy(detector, sigma=SIGMA, box_sigma=BOX_SIGMA)
    if name == "voting":
        voting = VotingModule().to(detector.head_parameters()[0].device)
        return VotingPolicy(detector, voting, sigma=SIGMA, box_sigma=BOX_SIGMA)
    if name == "rescore":
        return RescorePolicy(detector, sigma=SIGMA)
    if name == "select":
        return SelectPolicy(detector, keep_bias=KEEP_BIAS)
    module = ContextModule(num_classes=detector.num_classes, embedding_size=detector.embedding_size)
    return ContextPolicy(detector, module.to(detector.head_parameters()[0].device), sigma=SIGMA)


def validation_ap(policy: Policy, val: EncodedDataset) -> float:
    """Validation mAP, by which early stopping and checkpoints go."""
    return mean_ap(policy, val, VALIDATED_CANDIDATES, nms_iou=policy.detector.nms_iou)


def plainly_voted(policy: VotingPolicy, val: EncodedDataset) -> VotingPolicy:
    """The same head with voting that nobody trained, at its best on validation: what post-processing gives by itself."""
    twins = [copy.deepcopy(policy) for _ in PLAIN_VOTES]
    for twin, (step, mean_share) in zip(twins, PLAIN_VOTES, strict=True):
        twin.module.vote_plainly(step, mean_share)
    return max(twins, key=lambda twin: validation_ap(twin, val))


def detect(policy: Policy, data: EncodedDataset) -> list[Detections]:
    """The policy's detections on cached encodings."""
    device = policy.parameters()[0].device
    return [
        found
        for images in torch.arange(len(data)).split(50)
        for found in detections(
            policy, data.batch(images, device), EVALUATED_CANDIDATES, nms_iou=policy.detector.nms_iou
        )
    ]


def recalibrated(policy: Policy, val: EncodedDataset) -> Policy:
    """The policy with scores that mean what they say on validation; itself where that would cost AP."""
    found = outcomes(
        pad_detections(detect(policy, val)), pad_targets(val.targets), num_classes=policy.detector.num_classes
    )
    twin = copy.deepcopy(policy)
    twin.recalibrate(*fit_recalibration(found))
    kept = validation_ap(twin, val) >= validation_ap(policy, val) - COST_OF_CALIBRATION
    return twin if kept else policy


def test_figures(methods: dict[str, tuple[Policy, Policy]], test: Dataset) -> dict[str, dict[str, float]]:
    """For each method, uncalibrated and recalibrated: the latter's figures, and the former's calibration error.

    The frozen part is the same in all, and runs once an image, in full precision.
    """
    found: dict[str, tuple[list[Detections], list[Detections]]] = {name: ([], []) for name in methods}
    targets: list[Target] = []
    with Bar("test", len(test)) as bar:
        for start in range(0, len(test), 16):
            samples = [test[index] for index in range(start, min(start + 16, len(test)))]
            detector = next(iter(methods.values()))[0].detector
            encoded = detector.encode([sample.image for sample in samples])
            targets += [sample.target for sample in samples]
            for name, pair in methods.items():
                for policy, into in zip(pair, found[name], strict=True):
                    into += detections(policy, encoded, EVALUATED_CANDIDATES, nms_iou=policy.detector.nms_iou)
            bar.advance(len(samples))
    figures = {}
    for name, (before, after) in found.items():
        num_classes = methods[name][0].detector.num_classes
        uncalibrated = outcomes(pad_detections(before), pad_targets(targets), num_classes=num_classes)
        figures[name] = evaluate(after, targets, num_classes=num_classes)
        figures[name]["calibration_error_before"] = detection_calibration_error(uncalibrated)
    return figures
