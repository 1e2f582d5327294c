"""Detectors, cut into a frozen part and a trainable head, with one Protocol for several families."""

from rl_det.detectors.loading import DETECTORS, build_detector, load_detector
from rl_det.detectors.protocol import Architecture, Detector
from rl_det.detectors.torchvision.fcos import FCOSDetector
from rl_det.detectors.torchvision.one_stage import OneStage
from rl_det.detectors.torchvision.retinanet import RetinaNetDetector
from rl_det.detectors.torchvision.ssd import SSDDetector
from rl_det.detectors.torchvision.two_stage import TwoStage
from rl_det.storage.weights import load_state, save_state

__all__ = [
    "DETECTORS",
    "Architecture",
    "Detector",
    "FCOSDetector",
    "OneStage",
    "RetinaNetDetector",
    "SSDDetector",
    "TwoStage",
    "build_detector",
    "load_detector",
    "load_state",
    "save_state",
]
