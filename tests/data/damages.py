"""Damages to a folder of data, drawn by number: other bytes, values, names, shapes and images."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import yaml
from data.sound_folders import IMAGES, LINES, YAML, Case, coco, coco_document, encoded, voc, voc_document, yolo

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
