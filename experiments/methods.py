"""A policy before or after training -> its test figures, its recalibrated twin, and the files a user takes home."""

import copy
from pathlib import Path

import torch

from rl_det.data import Dataset
from rl_det.detectors import Detector, save_state
from rl_det.detectors.cache import EncodedDataset
from rl_det.evaluate import evaluate
from rl_det.metrics.calibration import correct_detections, fit_recalibration
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.validation import detections, mean_ap

SIGMA = 0.5
KEEP_BIAS = 2.0
EVALUATED_CANDIDATES = 128
"""Pairs of a proposal and a class that NMS chooses from; all methods alike."""
LOSS_OF_ORDER = 5e-4
"""How much validation AP a recalibration may cost before it is left out."""
