"""Some hundred damaged data sets: each is refused by file and entry, or repaired and counted, or read as if nothing were wrong.

Nothing else may come out: no other error, no hang, no full memory. A case is drawn from its number,
so `case(kind, number)`
shows what a failing message names.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rl_det.data.check import DataError, Findings
from rl_det.data.folder import read_folder

CASES = 90
"""Of each kind."""
SECONDS = 20
"""The longest that one case may take."""
MEMORY = 2 * 2**30
"""The most memory that all cases of one kind may take, in bytes."""
SPLITS = {"train": 2, "val": 1, "test": 1}
BOXES = [(0, (1, 2, 9, 8)), (1, (4, 0, 20, 5)), (0, (0, 0, 20, 10))]
"""Class and corners of each image's objects, in images of 20 x 10."""

Content = dict[str, bytes]
"""The files of a folder."""
Case = tuple[Content, bool]
"""A folder, and whether the change may have made another data set that is fair."""


def encoded(form: str, seed: int) -> bytes:
    """A picture of noise, so that any byte of the file counts."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def names() -> Iterator[tuple[str, int, str]]:
    """Split, number and name of each image."""
    for split, count in SPLITS.items():
        for number in range(count):
            yield split, number, f"{split}{number}.png"


IMAGES = {name: encoded("PNG", place) for place, (_, _, name) in enumerate(names())}


def coco_document(split: str) -> dict[str, Any]:
    own = [name for each, _, name in names() if each == split]
    return {
        "info": {"year": 2024},
        "images": [{"id": key, "file_name": name, "width": 20, "height": 10} for key, name in enumerate(own)],
        "annotations": [
            {
                "id": 10 * image + place,
                "image_id": image,
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
            for image in range(len(own))
            for place, (label, (left, top, right, bottom)) in enumerate(BOXES)
        ],
        "categories": [
            {"id": 1, "name": "cat", "supercategory": "pet"},
            {"id": 2, "name": "dog", "supercategory": "pet"},
        ],
    }


def coco(train: Any = None) -> Content:
    """COCO's layout; `train` is the document of train.json, or its bytes."""
    documents = {f"{split}.json": json.dumps(coco_document(split)).encode() for split in SPLITS}
    if train is not None:
        documents["train.json"] = train if isinstance(train, bytes) else json.dumps(train).encode()
    return documents | {f"images/{name}": content for name, content in IMAGES.items()}


YAML = {
    "train": "images/train",
    "val": "images/val",
    "test": "images/test",
    "names": ["cat", "dog"],
    "nc": 2,
    "path": ".",
}
LINES = "".join(
    f"{label} {(left + right) / 40} {(top + bottom) / 20} {(right - left) / 20} {(bottom - top) / 10}\n"
    for label, (left, top, right, bottom) in BOXES
)


def yolo(description: bytes | None = None, labels: bytes | None = None) -> Content:
    """YOLO's layout."""
    files = {"data.yaml": yaml.safe_dump(YAML).encode() if description is None else description}
    for split, _, name in names():
        files[f"images/{split}/{name}"] = IMAGES[name]
        files[f"labels/{split}/{Path(name).stem}.txt"] = LINES.encode()
    if labels is not None:
        files["labels/train/train0.txt"] = labels
    return files


def voc_document(name: str) -> str:
    objects = "".join(
        f"<object><name>{('cat', 'dog')[label]}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, (left, top, right, bottom) in BOXES
    )
    sides = "<size><width>20</width><height>10</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{name}</filename>{sides}{objects}</annotation>"


def voc(document: bytes | None = None, list_file: bytes | None = None) -> Content:
    """Pascal VOC's layout."""
    files: Content = {f"JPEGImages/{name}": content for name, content in IMAGES.items()}
    for _, _, name in names():
        files[f"Annotations/{Path(name).stem}.xml"] = voc_document(name).encode()
    for split in SPLITS:
        own = [Path(name).stem for each, _, name in names() if each == split]
        files[f"ImageSets/Main/{split}.txt"] = "\n".join(own).encode()
    if document is not None:
        files["Annotations/train0.xml"] = document
    if list_file is not None:
        files["ImageSets/Main/train.txt"] = list_file
    return files


GARBAGE: tuple[Any, ...] = (
    None, True, "", "x", "\0", "../x", "/etc/passwd", "/dev/zero", "a" * 5000, "\ud800", "\x1b[31m\n", [], [[]],
    [None], {}, {"a": []},
    -1, -(2**70), 2**63, 10**400, 1e308, -1e308, float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
WORDS = (
    "", "x", "nan", "inf", "-inf", "1e999", "-1e308", "1_0", "0x10", "-1", "1.5e", "--1", "\u0661x", "\0", "99",
    "1e30", "1,5", "🦊", "1" * 5000,
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some changed, cut out, put in, or cut off."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(result)) if result else 0
        kind = rng.randrange(5)
        if kind == 0 and result:
            result[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del result[place : place + rng.choice((1, 5, 50))]
        elif kind == 2:
            result[place:place] = rng.choice(
                (b"\0", b"[", b"{", b'"', b"-", b"9" * 30, b"\xff\xfe", b"<", b"&a;", b"*a", b"\n", b"e999")
            )
        elif kind == 3:
            result[place:place] = result[place : place + rng.choice((3, 30))]
        else:
            del result[place:]
    return bytes(result)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def with_garbage(document: Any, rng: random.Random) -> Any:
    """The document with one value replaced, removed or given twice."""
    document = deepcopy(document)
    way = rng.choice(list(places(document)))
    if not way:
        return rng.choice(GARBAGE)
    parent = document
    for key in way[:-1]:
        parent = parent[key]
    kind = rng.randrange(6)
    if kind == 0 and isinstance(parent, dict):
        del parent[way[-1]]
    elif kind == 1 and isinstance(parent, list):
        parent.append(deepcopy(parent[way[-1]]))
    else:
        parent[way[-1]] = rng.choice(GARBAGE)
    return document


def coco_values(rng: random.Random) -> Case:
    return coco(with_garbage(coco_document("train"), rng)), False


def coco_bytes(rng: random.Random) -> Case:
    content = json.dumps(coco_document("train")).encode()
    whole: tuple[bytes, ...] = (
        b"", b"[" * 100_000, b'{"images":' * 50_000, content[:-1] + b',"images":[]}', b"\xef\xbb\xbf" + content,
        content.decode().encode("utf-16"),
        b"null", b"[]", b"{}", b"9" * 10_000, b'"' + b"x" * 10**6 + b'"', content + content,
    )  # fmt: skip
    return coco(rng.choice(whole) if rng.random() < 0.2 else damaged(content, rng)), True


def coco_names(rng: random.Random) -> Case:
    """File names as no program should write them."""
    document = coco_document("train")
    name = document["images"][0]["file_name"]
    document["images"][0]["file_name"] = rng.choice((
        f"../images/{name}", f"images/../images/{name}", f"/etc/{name}x", "/etc/passwd", "/dev/zero",
        "/proc/self/mem", "C:\\x\\y.png", "\\\\host\\x.png",
        "https://[/x", "https://host/a?d=%00", "//", ".", "..", "images", "images/", "\0", f"{name}\0",
        f"x\0/{name}", f"{name}/x", "a/" * 3000 + name,
        "x" * 300, "\ud800.png", "loop.png", "out.png", "pipe.png", "train.json", "fol\nder.png", "\x1b[2Jx.png",
        " ", f"{name} ", f" {name}", "%2e%2e/x",
        "/data/local-files/?d=../../etc/passwd", "file:///etc/passwd", name.upper(), "images\\" + name + "\\", "::",
        "a:", "~/x.png", "$HOME/x.png",
        "loop/x.png", "out/x.png", "nowhere.png",
    ))  # fmt: skip
    return coco(document), False


def coco_shapes(rng: random.Random) -> Case:
    """Segmentations of every form, most of them wrong, where the box or the area is to be taken from them."""
    document = coco_document("train")
    for entry in rng.sample(document["annotations"], rng.choice((1, 1, 6))):
        for field in rng.choice((("bbox",), ("area",), ("bbox", "area"))):
            del entry[field]
        number = rng.choice(
            (
                lambda: rng.uniform(-50, 50),
                lambda: rng.uniform(0, 20),
                lambda: rng.choice((1e308, -1e9, 2**31, 1e18, 0)),
            )
        )
        counts = [rng.randrange(-1, 120) for _ in range(rng.randrange(6))]
        entry["segmentation"] = rng.choice((
            [[number() for _ in range(rng.randrange(14))] for _ in range(rng.randrange(1, 4))],
            [[number() for _ in range(rng.choice((6, 8)))]],
            {"counts": counts, "size": [10, 20]},
            {"counts": [*counts, 200 - sum(counts)], "size": [10, 20]},
            {"counts": [100, 2**32, 100], "size": [10, 20]},
            {"counts": "".join(chr(rng.randrange(48, 112)) for _ in range(rng.randrange(40))), "size": [10, 20]},
            {"counts": "".join(chr(rng.randrange(1, 256)) for _ in range(9)), "size": [10, 20]},
            {"counts": "oooooooooo", "size": [10, 20]},
            {"counts": [200], "size": [20, 10]},
            {"counts": [1], "size": [2**31, 2**31]},
            {"size": [10, 20]},
            rng.choice(GARBAGE),
            [rng.choice(GARBAGE)],
            [[rng.choice(GARBAGE)] * 6],
        ))  # fmt: skip
    return coco(document), True


def yolo_lines(rng: random.Random) -> Case:
    """One word or one line that is wrong."""
    lines = [line.split() for line in LINES.splitlines()]
    line = rng.choice(lines)
    kind = rng.randrange(4)
    if kind == 0:
        line.append(rng.choice(("0.5", *WORDS)))
    elif kind == 1:
        del line[rng.randrange(len(line))]
    elif kind == 2:
        line[1:] = [repr(rng.uniform(-0.2, 1.2)) for _ in range(rng.choice((3, 6, 7, 8, 400)))]
    else:
        line[rng.randrange(len(line))] = rng.choice(WORDS)
    return yolo(labels="\n".join(map(" ".join, lines)).encode()), kind == 2


def yolo_bytes(rng: random.Random) -> Case:
    whole = (
        b"\xff\xfe0\0",
        b"\0" * 1000,
        b"9" * 10**6,
        b"0 " * 10**6,
        (b"0 0.5 0.5 " + b"0.5 " * 7 + b"\n") * 1000,
        b"\r" * 100,
        IMAGES["train0.png"],
    )
    return yolo(labels=rng.choice(whole) if rng.random() < 0.2 else damaged(LINES.encode(), rng)), True


def bomb(reference: str) -> str:
    """Lists of lists of lists, all of them the same; nine to the ninth when they are written out."""
    levels = [f"l{level}: &l{level} {reference.format(', '.join([f'*l{level - 1}'] * 9))}\n" for level in range(1, 10)]
    return "l0: &l0 {x: 1}\n" + "".join(levels)


def yolo_yaml(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        document = with_garbage(YAML, rng)
        return yolo(yaml_of(document)), isinstance(document, dict) and document.get("names") != YAML["names"]
    fair = yaml.safe_dump(YAML)
    whole: tuple[str, ...] = (
        bomb("[{}]") + fair + "names2: *l9\n", bomb("[{}]") + "names: *l9\ntrain: images/train\n",
        bomb("[{}]") + "train: *l9\nnames: [cat, dog]\n",
        bomb("{{<<: [{}]}}") + fair, "a: &a [*a]\n" + fair, "names: &a [*a]\ntrain: images/train\n",
        "? [a, b]\n: 1\n" + fair, "? {a: b}\n: 1\n" + fair,
        fair + fair, "---\n" + fair + "---\n" + fair, "!!python/object/apply:os.system ['true']",
        "x: !!python/name:os.system\n" + fair,
        "x: !!int ''\n" + fair, "x: !!float x\n" + fair, "x: !!bool maybe\n" + fair, "x: !!timestamp x\n" + fair,
        "x: !!binary '*'\n" + fair,
        "x: !!set [a]\n" + fair, "x: !!omap {a: b}\n" + fair, "x: !!pairs 3\n" + fair, "x: 1:99:99:99\n" + fair,
        "x: 2001-99-99\n" + fair,
        "x: " + "9" * 10_000 + "\n" + fair, "x: " + "[" * 3000 + "\n", "x: " + "{a: " * 3000 + "\n", "- " * 3000,
        "%YAML 9.9\n---\n" + fair, "*a", "&a", "=: 1\n" + fair,
        "names: [cat, dog]\ntrain: [" + "images/train, " * 500 + "]\n", "<<: 3\n" + fair,
        "x: &a !!str y\nx2: *b\n" + fair,
    )  # fmt: skip
    return yolo(rng.choice(whole).encode() if rng.random() < 0.6 else damaged(fair.encode(), rng)), True


def yaml_of(document: Any) -> bytes:
    try:
        return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return repr(document).encode("utf-8", "replace")


ENTITIES = '<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{other};" * 10}">' for other, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


def voc_xml(rng: random.Random) -> Case:
    fair = voc_document("train0.png")
    if rng.random() < 0.4:
        tag = rng.choice(
            (
                "name",
                "difficult",
                "xmin",
                "ymin",
                "xmax",
                "ymax",
                "width",
                "height",
                "filename",
                "bndbox",
                "size",
                "annotation",
            )
        )
        old = f"<{tag}>{fair.split(f'<{tag}>')[1].split(f'</{tag}>')[0]}</{tag}>"
        word = rng.choice(WORDS).replace("\0", "")
        new = rng.choice(("", f"<{tag}/>", old + old, f"<{tag}>{word}</{tag}>", f"<{tag}><b>1</b></{tag}>"))
        return voc(fair.replace(old, new, 1).encode()), tag in ("name", "annotation")
    whole: tuple[str, ...] = (
        f"<!DOCTYPE a [{ENTITIES}]>" + fair.replace("cat", "&k;"),
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + fair.replace("cat", "&a;"),
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///dev/zero">]>' + fair,
        '<!DOCTYPE a SYSTEM "http://host/x.dtd">' + fair, fair.replace("cat", "&a;"),
        "<a>" * 200_000, "<a>" * 200_000 + "</a>" * 200_000,
        "<annotation>" + "<object>" * 50_000 + "</object>" * 50_000 + "</annotation>", "<annotation/>",
        '<?xml version="1.0" encoding="utf-7"?>' + fair, '<?xml version="1.0" encoding="x"?>' + fair,
        '<?xml version="9.0"?>' + fair,
        "<annotation " + "".join(f'a{number}="" ' for number in range(10_000)) + "/>", "<!--" + "-" * 1000,
        "<?x" * 100, "<annotation><![CDATA[" + "x" * 10**6,
        fair.replace("annotation", "x:annotation"), fair.replace("<annotation", "<annotation xmlns='x'", 1),
        fair + fair, "", "\0", "<annotation>" + "<object/>" * 20_000 + "</annotation>",
    )  # fmt: skip
    if rng.random() < 0.2:
        lines = (
            b"\xff",
            b"\0",
            b"../Annotations/train0",
            b"/etc/passwd",
            b"train0\ntrain0",
            b"",
            b"x" * 5000,
            b"train0 x y z",
            b"a" * 10**6,
        )
        return voc(list_file=rng.choice(lines)), True
    return voc(rng.choice(whole).encode() if rng.random() < 0.6 else damaged(fair.encode(), rng)), True


def huge_png(width: int, height: int) -> bytes:
    """A PNG file whose header promises a huge picture."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def image_files(rng: random.Random) -> Case:
    """A damaged image file, in any form and under any name."""
    form = rng.choice(
        ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000")
    )
    content = encoded(form, rng.randrange(100))
    kind = rng.randrange(6)
    if kind == 0:
        content = content[: rng.randrange(len(content))]
    elif kind in (1, 2):
        content = damaged(content, rng)
    elif kind == 3:
        head = bytearray(content)
        for _ in range(3):
            head[rng.randrange(min(80, len(head)))] = rng.randrange(256)
        content = bytes(head)
    elif kind == 4:
        svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='20' height='10'/>"
        content = rng.choice((
            b"", b"\0" * 1000, svg, b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n",
            content * 2, huge_png(2**31 - 1, 2**31 - 1), huge_png(60_000, 60_000), huge_png(9000, 9000),
            huge_png(0, 10), huge_png(1, 8000), huge_png(20, 10),
        ))  # fmt: skip
    layout = rng.choice((coco(), yolo(), voc()))
    place = next(name for name in layout if name.endswith("train0.png"))
    if rng.random() < 0.3 and "JPEGImages/train0.png" in layout:
        del layout[place]
        place = place.replace(".png", rng.choice((".jpg", ".JPEG", ".webp", ".tif", ".heic", ".gif")))
    return layout | {place: content}, True


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "coco_values": coco_values,
    "coco_bytes": coco_bytes,
    "coco_names": coco_names,
    "coco_shapes": coco_shapes,
    "yolo_lines": yolo_lines,
    "yolo_bytes": yolo_bytes,
    "yolo_yaml": yolo_yaml,
    "voc_xml": voc_xml,
    "image_files": image_files,
}


def case(kind: str, number: int) -> Case:
    """The folder of one case."""
    return KINDS[kind](random.Random(f"{kind} {number}"))


def write(root: Path, content: Content) -> Path:
    """The folder with these files, a link that leads out, one that leads to itself, and a pipe that nobody writes to."""
    for name, own in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(own)
    folder = root / "images" if (root / "images").is_dir() else root / "JPEGImages"
    for place in (folder, root):
        (place / "loop.xyz").symlink_to("loop.xyz")
    if (root / "train.json").exists():  # of the other layouts all files of a folder count
        (folder / "out.png").symlink_to("/etc/passwd")
        (folder / "out").symlink_to("/etc")
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "loop").symlink_to("loop")
        (folder / "nowhere.png").symlink_to("nowhere")
        os.mkfifo(folder / "pipe.png")
    return root


Result = dict[str, list[Any]]


def opened(root: Path) -> tuple[Result | None, list[DataError], list[str]]:
    """All that is read, or the faults, and what is told; every image is decoded."""
    findings = Findings()
    result: Result = {}
    try:
        folder = read_folder(root, findings)
        if findings.faults:
            return None, findings.faults, []
        for split, images in folder.splits.items():
            result[split] = [images.classes, images.category_ids]
            for index in range(len(images)):
                sample = images[index]
                check_fair(sample.target, sample.image, len(images.classes))
                target = sample.target
                columns = target.boxes, target.labels, target.area, target.iscrowd
                result[split].append((target.image_id, sample.image.shape, *(column.tolist() for column in columns)))
    except DataError as fault:
        return None, [fault], []
    return result, [], [*findings.told(), *folder.notes]


def check_fair(target: Any, image: torch.Tensor, num_classes: int) -> None:
    """What holds for every sample."""
    height, width = image.shape[1:]
    boxes = target.boxes
    assert torch.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1  # noqa: PT018
    assert torch.isfinite(boxes).all() and (boxes >= 0).all()  # noqa: PT018
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((target.labels >= 1) & (target.labels <= num_classes)).all()
    assert torch.isfinite(target.area).all() and (target.area >= 0).all()  # noqa: PT018


def check_named(fault: DataError, root: Path) -> None:
    """A fault names a file of the data set and an entry in one line that can be printed."""
    path, entry, message = fault.args
    assert Path(path).is_relative_to(root)
    assert entry and message  # noqa: PT018
    assert str(fault).isprintable()
    assert len(str(fault)) < 22_000, "names of 5000 letters come twice at most"


@contextmanager
def limits() -> Iterator[None]:
    """No more memory than now and `MEMORY`; an alarm rings after `SECONDS`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    held = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData")), None)
    before, old = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGALRM, ring)
    if held is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture(scope="module")
def fair() -> dict[str, Result]:
    """What is read of the layouts when nothing is wrong."""
    results = {}
    for layout, content in (("coco", coco()), ("yolo", yolo()), ("voc", voc())):
        with tempfile.TemporaryDirectory() as root:
            result, faults, told = opened(write(Path(root), content))
            assert result is not None, faults
            assert not told
            results[layout] = result
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_is_refused_by_file_and_entry_or_repaired_and_counted_or_read_as_it_was(
    kind: str, fair: dict[str, Result], tmp_path: Path
) -> None:
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with limits():
        for number in range(CASES):
            content, may_differ = case(kind, number)
            root = write(tmp_path / str(number), content)
            signal.alarm(SECONDS)
            try:
                result, faults, told = opened(root)
            except Exception as error:
                raise AssertionError(f"case({kind!r}, {number}) ended in {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
            for fault in faults:
                check_named(fault, root)
            unchanged = result in fair.values()
            known = bool(faults or told or unchanged or may_differ)
            assert known, f"case({kind!r}, {number}) was read as another data set without a word"
            outcomes["refused" if faults else "told" if told else "unchanged" if unchanged else "another"] += 1
            shutil.rmtree(root)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY
    assert outcomes["refused"] >= CASES / 5, outcomes
    print(kind, dict(outcomes))
