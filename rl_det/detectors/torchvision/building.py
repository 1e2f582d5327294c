"""Build torchvision's detectors by name, with random weights, a file's, or torchvision's own."""

from pathlib import Path
from typing import Any

from torchvision.models import get_model, get_model_weights

from rl_det.detectors.family import Family
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.storage.weights import SUFFIXES, load_state, state_file


def build_by_name(family: Family, name: str, *, num_classes: int, weights: str | Path | None, **options: Any) -> Any:
    """The family's model of this name; `num_classes` excludes the background, `options` are those of torchvision's builder.

    `weights` is None or "none" (random), a torchvision name such as "DEFAULT" or "COCO_V1" (downloaded; the predictor is
    random if the number of classes differs), or the file of a state_dict. The score threshold is set to zero, because
    ranking needs every detection. To get torchvision's threshold back, set `score_thresh` of `model.roi_heads`, if it has
    them, or of `model`. Raises ValueError for unknown names, and for weights that cannot be loaded or do not fit.
    """
    if name not in family.names:
        raise UserError(f"the detector must be one of {', '.join(family.names)}; got {name!r}")
    file = state_file(weights)
    if file is not None or weights in (None, "none"):
        model = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes + 1, **options)
        if file is not None:
            load_state(model, file, tell=tell)
    else:
        model = _pretrained(name, str(weights), options)
        if family.classes_known(model.state_dict()) != num_classes:
            family.replace_predictor(model, num_classes)
    getattr(model, "roi_heads", model).score_thresh = 0.0
    return model.eval()


def shorter_side(input_size: int | None) -> dict[str, int]:
    """torchvision's options for this shorter side; none for the builder's own."""
    return {} if input_size is None else {"min_size": input_size, "max_size": 2 * input_size}


def _pretrained(name: str, weights: str, options: dict[str, Any]) -> Any:
    known = get_model_weights(name).__members__
    if weights not in known:
        raise UserError(
            f"the weights of {name} must be 'none', one of {', '.join(known)}, "
            f"or a file ({', '.join(SUFFIXES)}); got {weights!r}"
        )
    try:
        return get_model(name, weights=known[weights], **options)
    except (OSError, RuntimeError) as error:  # no network, a full disk, a broken download
        raise UserError(
            f"the weights {weights} of {name} must be downloadable from {known[weights].url}; got {error}; "
            "fetch the file by other means and give its path, or start from random ones (weights none)"
        ) from error
