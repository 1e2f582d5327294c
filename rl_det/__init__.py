"""rl_det raises the mAP, or another task metric, of an object detector that is already trained.

    data = rl_det.open_data("path/to/folder")
    detector = rl_det.load_detector("fasterrcnn_resnet50_fpn_v2", data, weights="mine.pt")
    result = rl_det.finetune(detector, data, rl_det.PPO(), budget="short", out="runs/first", resume=True)
    print(result.table())
    result.best.export("better/")
    detections = rl_det.load_tuned("better/").detect(images)

Names are imported only when they are used, so that `import rl_det.ap` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rl_det.version import __version__

if TYPE_CHECKING:
    from rl_det.data.images import ImageLimits
    from rl_det.data.open import digit_scenes, open_data
    from rl_det.data.splits import Splits
    from rl_det.detectors.loading import load_detector
    from rl_det.finetuning.budget import Budget
    from rl_det.finetuning.comparison import compare
    from rl_det.finetuning.finetune import finetune
    from rl_det.finetuning.results import Results, load_results
    from rl_det.finetuning.tuned import Tuned, load_tuned
    from rl_det.policies.exploration import Exploration
    from rl_det.strategies.hand_set import HandSetVotes, PostProcessingGrid
    from rl_det.strategies.labels import Labels
    from rl_det.strategies.postprocessing import PostProcessing
    from rl_det.strategies.ppo import PPO
    from rl_det.strategies.reinforce import Reinforce
    from rl_det.strategies.supervised import Supervised
    from rl_det.strategies.surrogate import Surrogate
    from rl_det.training.loop import Callback

_ROOMS = {
    "Budget": "finetuning.budget",
    "Callback": "training.loop",
    "Exploration": "policies.exploration",
    "HandSetVotes": "strategies.hand_set",
    "ImageLimits": "data.images",
    "Labels": "strategies.labels",
    "PPO": "strategies.ppo",
    "PostProcessing": "strategies.postprocessing",
    "PostProcessingGrid": "strategies.hand_set",
    "Reinforce": "strategies.reinforce",
    "Results": "finetuning.results",
    "Splits": "data.splits",
    "Supervised": "strategies.supervised",
    "Surrogate": "strategies.surrogate",
    "Tuned": "finetuning.tuned",
    "compare": "finetuning.comparison",
    "digit_scenes": "data.open",
    "finetune": "finetuning.finetune",
    "load_detector": "detectors.loading",
    "load_results": "finetuning.results",
    "load_tuned": "finetuning.tuned",
    "open_data": "data.open",
}

__all__ = [
    "PPO",
    "Budget",
    "Callback",
    "Exploration",
    "HandSetVotes",
    "ImageLimits",
    "Labels",
    "PostProcessing",
    "PostProcessingGrid",
    "Reinforce",
    "Results",
    "Splits",
    "Supervised",
    "Surrogate",
    "Tuned",
    "__version__",
    "compare",
    "digit_scenes",
    "finetune",
    "load_detector",
    "load_results",
    "load_tuned",
    "open_data",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
