"""Refuse impossible arguments of all environments, in one sentence and before anything is encoded."""

from gymnasium.vector import AutoresetMode

from rl_det.errors import UserError
from rl_det.settings import at_least, check_argument, within


def check_counts(num_envs: int, samples_per_image: int, num_candidates: int, pool_images: int) -> None:
    """Raise UserError if a count is none, or leaves no environment, no candidate or no pool."""
    counts = {"num_candidates": (num_candidates, 64), "pool_images": (pool_images, 32)}
    for name, (count, usual) in counts.items():
        check_argument(name, count, int, at_least(1), usual=usual)
    for name, count in {"num_envs": num_envs, "samples_per_image": samples_per_image}.items():
        check_argument(name, count, int)
    if num_envs < 1 or samples_per_image < 1 or num_envs % samples_per_image:
        raise UserError(
            f"num_envs must be a positive multiple of samples_per_image; got {num_envs} and {samples_per_image}"
        )


def check_choices(nms_iou: object, credit: object, autoreset_mode: object, render_mode: object) -> None:
    """Raise UserError for an overlap, a truth value or a mode that is none."""
    check_argument("nms_iou", nms_iou, float | None, within("[0, 1]"), usual=0.5)
    check_argument("credit", credit, bool, usual=True)
    if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
        raise UserError(f"autoreset_mode must be one of AutoresetMode; got {autoreset_mode!r}; DISABLED is usual")
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"render_mode must be 'rgb_array' or None; got {render_mode!r}")
