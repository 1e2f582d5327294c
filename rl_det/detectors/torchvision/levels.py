"""Feature maps of several levels: are they finite, their sizes, one length for images of all sizes, what lies around places."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

Size = tuple[int, int]
"""Height and width."""


def as_levels(maps: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
    """The maps of a backbone, which gives one alone or several by name."""
    return [maps] if isinstance(maps, Tensor) else list(maps.values())


def largest_sizes(transform: GeneralizedRCNNTransform) -> set[Size]:
    """The sizes of the largest images that the transform makes, padding included: a wide one and a tall one."""
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        sizes = {(height, width)}
    else:
        shorter, longer = min(max(transform.min_size), transform.max_size), transform.max_size
        sizes = {(shorter, longer), (longer, shorter)}
    step = transform.size_divisible
    return {(-(-height // step) * step, -(-width // step) * step) for height, width in sizes}


def sound(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps of B images, of which one that is not finite somewhere is NaN everywhere: so whatever is pooled says so."""
    broken = torch.stack([~level.isfinite().flatten(1).all(1) for level in maps.values()]).any(0)
    if not broken.any():
        return maps
    rows = broken[:, None, None, None]
    return {
        name: torch.where(rows, torch.nan, level) for name, level in maps.items()
    }  # which keeps the layout in memory


@torch.no_grad()
def map_sizes(backbone: nn.Module, size: Size) -> list[Size]:
    """The sizes of a backbone's maps for an image of this size; only shapes are computed, if its layers can do so."""
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    try:
        with torch.device("meta"):  # for what it makes on its way
            on_meta = {name: tensor.to("meta") for name, tensor in state.items()}
            maps = functional_call(backbone, on_meta, (torch.empty(1, 3, *size),))
    except (RuntimeError, NotImplementedError):  # it keeps a tensor elsewhere, or cannot do without data
        maps = backbone(next(iter(state.values())).new_zeros(1, 3, *size))
    return [(level.shape[2], level.shape[3]) for level in as_levels(maps)]


def flattened(maps: Float[Tensor, "B C H W"], length: int) -> Float[Tensor, "B C L"]:
    """The places in one row, row after row of the map, with zeros up to this length."""
    places = maps.flatten(2)
    assert places.shape[2] <= length
    return F.pad(places, (0, length - places.shape[2]))


def cut_out(places: Float[Tensor, "B C L"], size: Size) -> Float[Tensor, "B C H W"]:
    """The map of this size that `flattened` made a row of, in single precision."""
    maps: Tensor = places[..., : size[0] * size[1]].unflatten(2, size)
    return maps.float()


def by_sizes(sizes: Int[Tensor, "B S 2"]) -> Iterator[tuple[Int[Tensor, " b"], tuple[Size, ...]]]:
    """The images of equal sizes together: their rows, and the sizes."""
    groups: dict[tuple[Size, ...], list[int]] = {}
    for row, own in enumerate(sizes.tolist()):
        groups.setdefault(tuple((height, width) for height, width in own), []).append(row)
    for own_sizes, rows in groups.items():
        yield torch.tensor(rows, device=sizes.device), own_sizes


def places_of_anchors(
    sizes: Sequence[Size], anchors_per_place: Sequence[int], device: torch.device
) -> Int[Tensor, " N"]:
    """The place of each anchor, for maps of these sizes; places are counted through all levels."""
    first, places = 0, []
    for (height, width), each in zip(sizes, anchors_per_place, strict=True):
        own = first + torch.arange(height * width, device=device)
        places.append(own[:, None].expand(-1, each).flatten())
        first += height * width
    return torch.cat(places)


def windows(
    levels: Sequence[Float[Tensor, "B C _ _"]], places: Int[Tensor, "B P"], layer: nn.Conv2d
) -> Float[Tensor, "B P C h w"]:
    """What the layer sees at each place: the maps of all levels, cut to its kernel's size, zeros beyond their borders.

    The layer must keep the size of its maps, as torchvision's do.
    """
    high, wide = layer.kernel_size
    seen = levels[0].new_zeros(*places.shape, levels[0].shape[1], high, wide)
    first = 0
    for level in levels:
        own = (places >= first) & (places < first + level.shape[2] * level.shape[3])
        image, place = own.nonzero()[:, 0], places[own] - first
        padded = F.pad(level, (wide // 2, wide // 2, high // 2, high // 2))
        around = padded.unfold(2, high, 1).unfold(3, wide, 1)  # [B, C, H, W, h, w], a view
        seen[own] = around[image, :, place // level.shape[3], place % level.shape[3]]
        first += level.shape[2] * level.shape[3]
    return seen


def at_places(levels: Sequence[Float[Tensor, "B _ _ _"]], places: Int[Tensor, "B P"], size: int) -> Tensor:
    """The features of each place [B, P, size]; levels with fewer channels have zeros behind them."""
    rows = [F.pad(level.flatten(2).transpose(1, 2), (0, size - level.shape[1])) for level in levels]
    return at_rows(torch.cat(rows, 1), places)


def at_rows(table: Float[Tensor, "B N K"], rows: Int[Tensor, "B P"]) -> Float[Tensor, "B P K"]:
    """These rows of each image's table."""
    return table.gather(1, rows[..., None].expand(-1, -1, table.shape[2]))
