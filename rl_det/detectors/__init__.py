"""Images -> frozen encodings -> a trainable head's logits and boxes, in one Protocol for several families."""

from pathlib import Path

from rl_det.detectors.protocol import Detector
from rl_det.detectors.torchvision.one_stage import OneStage
from rl_det.detectors.torchvision.tiny import tiny
from rl_det.detectors.torchvision.two_stage import FASTER_RCNNS, TwoStage, torchvision_faster_rcnn
from rl_det.storage.weights import load_state, save_state, state_file

__all__ = ["DETECTORS", "Detector", "OneStage", "TwoStage", "build_detector", "load_state", "save_state"]

DETECTORS: tuple[str, ...] = ("tiny", *FASTER_RCNNS)


def build_detector(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> Detector:
    """The detector of this name; `num_classes` without the background, `input_size` the shorter side after resizing.

    `weights` is None or "none" (random), the file of a state_dict (a string is one by its suffix), or for torchvision's
    models a name of its own, such as "DEFAULT". Raises ValueError for an unknown name, and for weights that do not fit.
    """
    if name not in DETECTORS:
        raise ValueError(f"the detector must be one of {', '.join(DETECTORS)}; got {name!r}")
    if name != "tiny":
        return TwoStage(torchvision_faster_rcnn(name, num_classes=num_classes, input_size=input_size, weights=weights))
    model = tiny(num_classes) if input_size is None else tiny(num_classes, input_size=input_size)
    file = state_file(weights)
    if file is not None:
        load_state(model, file)
    elif weights not in (None, "none"):
        raise ValueError(f"the weights of tiny must be 'none' or a file (.pt, .pth, .safetensors); got {weights!r}")
    return TwoStage(model.eval())
