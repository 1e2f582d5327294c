"""Small query detectors of transformers with lively random weights, for the contract's tests."""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from rl_det.detectors.protocol import Part
from rl_det.detectors.transformers.anatomy import Anatomy
from rl_det.detectors.transformers.query import QueryDetector

IS_INSTALLED = importlib.util.find_spec("transformers") is not None
SIZES = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
SQUARE = {
    "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32],
    "num_denoising": 4,
}  # fmt: skip
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "detr": ("Detr", {}),
    "detr_auxiliary": ("Detr", {"auxiliary_loss": True}),
    "conditional_detr": ("ConditionalDetr", {}),
    "deformable_detr": ("DeformableDetr", {"num_feature_levels": 3}),
    "deformable_detr_two_stage": (
        "DeformableDetr",
        {"num_feature_levels": 3, "two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 20},
    ),
    "rt_detr": ("RTDetr", SQUARE),
    "rt_detr_v2": ("RTDetrV2", SQUARE),
    "d_fine": ("DFine", SQUARE | {"eval_idx": -1, "hidden_size": 32}),
}
"""Each family's model type and what is special in its configuration."""
VARIANTS = ("detr_auxiliary", "deformable_detr_two_stage")
"""Second configurations of a model type, which only test_query_detectors asks."""
QUERY_FAMILIES = tuple(family for family in OPTIONS if family not in VARIANTS) if IS_INSTALLED else ()


def query_model(family: str, num_classes: int) -> Any:
    """The library's model with its own random weights."""
    library: Any = importlib.import_module("transformers")
    name, options = OPTIONS[family]
    stages = ["stage4"] if name in ("Detr", "ConditionalDetr") else ["stage2", "stage3", "stage4"]
    kind = library.ResNetConfig if "Detr" in name and not name.startswith("RT") else library.RTDetrResNetConfig
    config = getattr(library, f"{name}Config")(
        backbone_config=kind(**SIZES, out_features=stages),
        d_model=32,
        num_queries=20,
        num_labels=num_classes,
        **LAYERS,
        **HEADS,
        **options,
    )
    return getattr(library, f"{name}ForObjectDetection")(config)


@torch.no_grad()
def lively_query_detector(family: str, num_classes: int, images: list[Tensor], part: Part = "head") -> QueryDetector:
    """Untrained queries all say the same, and some weights start at zero; these do not, and spread classes and boxes."""
    model = query_model(family, num_classes)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=3.0)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Linear):
            sharp = 3.0 if name.split(".")[-1].startswith(("q_", "k_")) else 1.0
            nn.init.normal_(module.weight, std=sharp * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if "BatchNorm" in type(module).__name__:
            module.weight.fill_(1.0)
    detector = QueryDetector(model, input_size=64, part=part)
    spread(detector, detector.anatomy, images)
    return detector


def spread(detector: QueryDetector, anatomy: Anatomy, images: list[Tensor]) -> None:
    """Class scores with a spread of 2 around -1, and boxes that also reach the images' borders."""
    for layer, size in ((anatomy.classifier, 2.0), (last_linear(anatomy.regressor), 3.0)):
        given: list[Tensor] = []
        with layer.register_forward_hook(lambda _, __, output, given=given: given.append(output)):
            detector.detect(images)
        said = torch.cat([output.flatten(0, 1) for output in given])
        scale = size / said.std(0).mean()
        layer.weight *= scale
        layer.bias *= scale
        layer.bias -= scale * said.mean(0) + (1.0 if layer is anatomy.classifier else 0.0)
    if anatomy.is_softmax:  # most queries of a trained DETR see no object
        anatomy.classifier.bias[-1] += 4.0


def last_linear(module: nn.Module) -> nn.Linear:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
