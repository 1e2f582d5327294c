"""Reading image files: every Pillow mode becomes RGB in [0, 1], upright; damaged files are named."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from rl_det.data.check import DataError
from rl_det.data.images import ImageLimits, read_header, read_image

RED, GREY = (255, 0, 0), (51, 51, 51)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def plain(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (6, 4), colour)  # type: ignore[arg-type]


def with_transparent_palette() -> Image.Image:
    image = plain("RGB", RED).quantize(4)
    image.info["transparency"] = bytes([128, 255, 255, 255])  # half seen: Pillow keeps these as bytes
    return image


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        pytest.param(plain("RGB", RED), "x.png", RED, id="rgb"),
        pytest.param(plain("L", 51), "x.png", GREY, id="greyscale"),
        pytest.param(plain("L", 51), "x.jpg", GREY, id="greyscale-jpeg"),
        pytest.param(plain("LA", (51, 0)), "x.png", GREY, id="greyscale-with-alpha"),
        pytest.param(plain("1", 1), "x.png", (255, 255, 255), id="bilevel"),
        pytest.param(plain("RGB", RED).quantize(4), "x.png", RED, id="palette"),
        pytest.param(with_transparent_palette(), "x.png", RED, id="transparent-palette"),
        pytest.param(plain("RGBA", (255, 0, 0, 0)), "x.png", RED, id="rgba"),
        pytest.param(plain("CMYK", (0, 255, 255, 0)), "x.tif", RED, id="cmyk"),
        pytest.param(Image.fromarray(np.full((4, 6), 13107, np.uint16)), "x.png", GREY, id="16-bit-greyscale"),
    ],
)
def test_every_mode_is_read_as_rgb_in_0_to_1(tmp_path: Path, image: Image.Image, name: str, colour: tuple[int]) -> None:
    path = saved(image, tmp_path / name)
    pixels = read_image(path, "image 1")
    assert read_header(path, "image 1")[:2] == (6, 4)
    assert pixels.shape == (3, 4, 6)
    assert pixels.dtype == torch.float32
    expected = torch.tensor(colour).view(3, 1, 1) / 255
    torch.testing.assert_close(pixels, expected.expand_as(pixels), atol=0.005, rtol=0)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(tmp_path: Path, name: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner at the top left
    stored = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    stored |= {6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1)}
    image, exif = Image.fromarray(np.ascontiguousarray(stored[orientation](upright))), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(image, tmp_path / name, exif=exif)
    assert read_header(path, "image 1")[:2] == (32, 16)
    white = read_image(path, "image 1").mean(0) > 0.5
    assert torch.equal(white, torch.from_numpy(upright[..., 0] > 0))


@pytest.mark.parametrize("read", [read_header, read_image])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, read: object, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.png: image 7 of train\.json: "):
        read(tmp_path / "x.png", "image 7 of train.json")  # type: ignore[operator]


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif"])
def test_a_truncated_file_opens_by_its_header_and_is_named_when_decoded(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / name)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=rf"{name}: image 7: "):
        read_image(path, "image 7")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png: image 7: there is no such image file"):
        read_header(tmp_path / "x.png", "image 7")


def test_a_picture_of_floats_is_refused_because_its_range_is_unknown(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.full((4, 6), 0.5, np.float32)), tmp_path / "x.tif")
    with pytest.raises(DataError, match="no known range"):
        read_image(path, "image 7")


@pytest.mark.parametrize(
    ("size", "limits", "message"),
    [
        ((400, 3), ImageLimits(), "400 x 3 pixels are longer than max_aspect=50 times their width"),
        ((3, 400), ImageLimits(), "3 x 400 pixels are longer than max_aspect=50"),
        ((20, 20), ImageLimits(max_pixels=399), "20 x 20 pixels are more than max_pixels=399; raise it"),
    ],
)
def test_an_image_beyond_the_limits_is_refused_by_name(
    tmp_path: Path, size: tuple[int, int], limits: ImageLimits, message: str
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", size).save(path)
    with pytest.raises(DataError, match=f"a.png: image 1: {message}"):
        read_header(path, "image 1", limits)
    wide = ImageLimits(max_pixels=1200, max_aspect=400.0)
    assert read_header(path, "image 1", wide)[:2] == size


def test_a_huge_picture_is_refused_by_its_header_and_a_higher_limit_lets_it_in(tmp_path: Path) -> None:
    path, before = tmp_path / "a.png", Image.MAX_IMAGE_PIXELS
    Image.new("1", (20_000, 9_500)).save(path)  # 190 megapixels: above twice Pillow's own limit
    with pytest.raises(DataError, match=r"a\.png: image 1: too large.*raise max_pixels"):
        read_header(path, "image 1")
    try:
        assert read_header(path, "image 1", ImageLimits(max_pixels=200_000_000))[:2] == (20_000, 9_500)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: image 1: not an image: it is a folder, a device or a pipe"):
        read_header(tmp_path / "a.png", "image 1")
