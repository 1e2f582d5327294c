"""An image and boxes -> a picture on matplotlib's axes."""

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor


def draw_image(axes: Axes, image: Float[Tensor, "3 H W"], title: str = "") -> None:
    """An image in [0, 1], without ticks."""
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(force=True))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)


def draw_boxes(
    axes: Axes,
    boxes: Float[Tensor, "N 4"],
    colours: Sequence[object] | str,
    *,
    texts: Sequence[str] = (),
    width: float = 1.2,
) -> None:
    """Boxes in one colour, or each in its own; `texts`, if any, stand above them."""
    each = [colours] * len(boxes) if isinstance(colours, str) else colours
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top,
                fill=False, edgecolor=each[number], linewidth=width,
            )
        )  # fmt: skip
        if texts:
            axes.text(left, top - 1, texts[number], color=each[number], fontsize=7, va="bottom")
