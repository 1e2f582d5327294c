"""Votes among candidates, hard or soft non-maximum suppression, and recalibration, with one setting for all images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.candidates.nms import has_area, nms
from rl_det.candidates.soft_nms import Settings, soft_nms
from rl_det.candidates.votes import Votes, voted
from rl_det.settings import at_least, check_entries, check_settings, positive, within
from rl_det.types import Candidates, Detections


@dataclass(frozen=True, kw_only=True)
class PostProcessingSettings:
    """The settings of post-processing. There is no score threshold: a threshold never improves AP."""

    nms_iou: float
    """The IoU above which the lower of two detections of one class is removed."""
    sigma: float = np.inf
    """Soft-NMS multiplies overlapping probabilities by exp(-IoU^2 / sigma); infinity means hard NMS."""
    max_detections: int = 100
    """The maximum number of detections of an image."""
    votes: Votes = field(default_factory=Votes)
    """What the candidates vote on, before NMS; by default, on nothing."""
    scale: tuple[float, ...] = (1.0,)
    """At the end, the detections' logits become scale * logit + shift, which recalibrates scores and keeps the order within a
    class: one number for all classes, or one for each."""
    shift: tuple[float, ...] = (0.0,)
    """See `scale`."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            nms_iou=within("[0, 1]", usual="0.5"),
            sigma=positive(usual="0.5", infinite=True),
            max_detections=at_least(1),
            scale=positive(),
        )

    @classmethod
    def soft(cls, nms_iou: float, decay: float) -> "PostProcessingSettings":
        """The settings with sigma = 1 / `decay`; a `decay` of 0 is hard NMS."""
        return cls(nms_iou=nms_iou, sigma=np.inf if decay == 0 else 1 / decay)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "PostProcessingSettings":
        """The settings that `plain()` gave. Raises UserError, which names the entry, if one is missing or unknown."""
        check_entries(cls, plain)
        check_entries(Votes, plain["votes"], within="votes.")
        sigma = np.inf if plain["sigma"] is None else plain["sigma"]
        calibration = {name: tuple(plain[name]) for name in ("scale", "shift")}
        return cls(**{**plain, "sigma": sigma, "votes": Votes(**plain["votes"]), **calibration})

    def plain(self) -> dict[str, Any]:
        """The settings in JSON's types, which have no infinity: None is hard NMS."""
        return {**asdict(self), "sigma": None if self.is_hard else self.sigma}

    @property
    def is_hard(self) -> bool:
        """Whether NMS does not change the scores."""
        return bool(np.isinf(self.sigma))

    @property
    def recalibrates(self) -> bool:
        """Whether it changes the scores of the detections that are kept."""
        return (self.scale, self.shift) != ((1.0,), (0.0,))


def detections_of(candidates: Candidates, how: PostProcessingSettings) -> list[Detections]:
    """The detections of each image, best score first; scores are probabilities."""
    if how.is_hard:
        candidates = voted(candidates, how.votes)
        final = None
        if how.recalibrates:
            scale, shift = (_of_labels(own, candidates.labels) for own in (how.scale, how.shift))
            final = scale * candidates.logits + shift
        return nms(candidates, nms_iou=how.nms_iou, max_detections=how.max_detections, recalibrated=final)
    found, device = ranked(candidates, how), candidates.boxes.device
    return [
        Detections(
            boxes=torch.from_numpy(boxes[mask]).to(device),
            labels=torch.from_numpy(labels[mask]).to(device),
            scores=torch.from_numpy(scores[mask].astype(np.float32)).to(device),
        )
        for boxes, labels, scores, mask in zip(found.boxes, found.labels, found.scores, found.mask, strict=True)
    ]


def ranked(candidates: Candidates, how: PostProcessingSettings) -> DetectionBatch:
    """The detections as a padded batch on the host, by (soft) NMS in the engine, each image's best first."""
    candidates = voted(candidates, how.votes)
    probabilities = torch.where(candidates.mask, candidates.logits, 0.0).double().sigmoid().numpy(force=True)
    mask = (candidates.mask & has_area(candidates.boxes)).numpy(force=True)
    boxes, labels = candidates.boxes.numpy(force=True), candidates.labels.numpy(force=True)
    settings = Settings.fixed(len(mask), 0.0, how.nms_iou, how.sigma, how.max_detections)
    found = soft_nms(boxes, labels, probabilities, mask, settings)
    found = replace(found, scores=_recalibrated(found, how))
    order = np.argsort(np.where(found.mask, -found.scores, np.inf), 1, kind="stable")[:, : how.max_detections]
    rows = np.arange(len(found))[:, None]
    return replace(found, **{name: values[rows, order] for name, values in vars(found).items()})


def _recalibrated(found: DetectionBatch, how: PostProcessingSettings) -> Float64[np.ndarray, "R N"]:
    """The probabilities after the recalibration; the very same where that is the identity."""
    scores: Float64[np.ndarray, "R N"] = found.scores
    if how.recalibrates:
        scale, shift = (_of_labels(own, torch.from_numpy(found.labels)).double() for own in (how.scale, how.shift))
        scores = (scale * torch.from_numpy(scores).logit() + shift).sigmoid().numpy()
    return scores


def _of_labels(values: tuple[float, ...], labels: Int[Tensor, "R N"]) -> Float[Tensor, "R N"]:
    """Each candidate's own number, of one for all classes or one for each."""
    every = torch.tensor(values, device=labels.device)
    return every.expand(labels.shape) if len(values) == 1 else every[labels - 1]
