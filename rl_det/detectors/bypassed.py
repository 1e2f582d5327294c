"""What a user's own model does in methods or hooks of its own that an adapter does not run."""

from torch import nn

LIBRARIES = ("torchvision", "transformers")
METHODS = ("forward", "postprocess_detections", "postprocess")
"""Methods of a model and of its parts in whose place an adapter does the work, to have every candidate."""
METHODS_OF = {"": METHODS[:2], "roi_heads": METHODS[:2], "transform": METHODS[2:]}
"""The parts whose methods do not run; all others run whole."""


def bypassed(model: nn.Module) -> list[str]:
    """The names of what does not run: methods that a subclass of a library's, or the object itself, replaces, and hooks."""
    parts = {name: getattr(model, name, None) if name else model for name in METHODS_OF}
    return [
        f"{name or type(model).__name__}.{own}"
        for name, part in parts.items()
        if isinstance(part, nn.Module)
        for own in _own(part, METHODS_OF[name])
    ]


def _own(part: nn.Module, methods: tuple[str, ...]) -> list[str]:
    kinds = type(part).__mro__
    library = next((kind for kind in kinds if kind.__module__.partition(".")[0] in LIBRARIES), type(part))
    replaced = [
        name
        for name in methods
        if hasattr(library, name) and (name in vars(part) or getattr(type(part), name) is not getattr(library, name))
    ]
    hooks = "forward" in methods and (part._forward_hooks or part._forward_pre_hooks)
    return [*replaced, *(["hooks"] if hooks else [])]
