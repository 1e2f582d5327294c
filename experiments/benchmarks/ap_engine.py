"""How exact and how fast is the AP engine, beside pycocotools and every other program that computes COCO's AP?

    python -m pip install -e '.[bench]'
    python experiments/benchmarks/ap_engine.py --json

One process, one thread, medians of interleaved repeats in CPU time; about 10 minutes and 6 GB on two cores without a GPU.
What it printed last, and where, is in experiments/benchmarks/README.md. `peers/ways.py` says how the peers are used. The
two ratios of AP per image are geometric means over 1, 20 and 80 classes:

* `ratio_fastest_peer`: against the fastest peer at each number of classes, each by its own algorithm;
* `ratio_fastest_peer_lent`: the same, where each is lent our own algorithm as far as it can take it.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

import json  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from statistics import geometric_mean, median  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402
from peers.dictionaries import Pycocotools  # noqa: E402
from peers.ways import LENT, UNAIDED  # noqa: E402
from rich import print_json  # noqa: E402
from scenes import hostile, typical  # noqa: E402
from tqdm import tqdm  # noqa: E402

from rl_det.ap.average_precision import image_ap  # noqa: E402
from rl_det.ap.batch import DetectionBatch, TruthBatch  # noqa: E402
from rl_det.ap.data_set import coco_figures  # noqa: E402
from rl_det.ap.leave_one_out import leave_one_out  # noqa: E402
from rl_det.ap.matching import match  # noqa: E402
from rl_det.ap.ranking_pool import RankingPool  # noqa: E402

CLASSES = (1, 20, 80)
BATCH = 64  # images; the peers are no faster with more or fewer


@dataclass(frozen=True, kw_only=True)
class Config:
    cases: int = 30_000
    """Hostile images that are compared with pycocotools."""
    repeats: int = 15
    """Of each measurement."""
    pool_images: int = 5_000
    """Of the ranking pool and of the data set; 80 classes, 100 detections an image."""
    pool_edits: int = 300
    seed: int = 0
    json: bool = False
    """Print plain JSON, and no progress."""


def compare(config: Config) -> dict[str, Any]:
    """The largest difference from pycocotools: of any hostile image's AP, and of any figure of a batch as one data set."""
    rng, peer = np.random.default_rng(config.seed), Pycocotools(few_points=False, from_matches=False)
    worst, worst_figure, cases = 0.0, 0.0, 0
    for batch in tqdm(range(-(-config.cases // BATCH)), desc="exact?", disable=config.json):
        num_classes = int(rng.integers(1, 9))
        detections, truths = hostile(rng, BATCH, num_classes)
        expected = peer.image_ap(peer.prepare_images(truths, num_classes), detections)
        worst = max(worst, difference(image_ap(match(detections, truths, num_classes=num_classes))[0], expected))
        cases += BATCH
        if batch % 10 == 0:
            data_set = peer.prepare_data_set(truths, num_classes)
            figures = peer.evaluate(data_set, peer.load(data_set, detections))
            own = np.array(list(coco_figures(detections, truths, num_classes=num_classes).values()))
            worst_figure = max(worst_figure, difference(own, np.where(figures < 0, np.nan, figures)))
    return {"cases": cases, "max_abs_diff": worst, "max_abs_diff_figures": worst_figure}


def difference(values: np.ndarray, expected: np.ndarray) -> float:
    """The largest; infinite if one is NaN where the other is not."""
    if (np.isnan(values) != np.isnan(expected)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(values - expected)).max(initial=0))


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way, in turns; a call that does not count goes before each, so that caches are its own."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            way()
            start = process_time()
            way()
            times[name].append(process_time() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def per_image(config: Config) -> dict[str, Any]:
    """AP of each image by itself, and leave-one-out, in microseconds an image, for each number of classes."""
    table: dict[str, dict[str, float]] = {}
    for num_classes in tqdm(CLASSES, desc="per image", disable=config.json):
        d, t = typical(np.random.default_rng(config.seed), BATCH, num_classes)
        ways: dict[str, Callable[[], Any]] = {
            "rl_det": lambda d=d, t=t, c=num_classes: image_ap(match(d, t, num_classes=c)),  # type: ignore[misc]
            "leave_one_out": lambda d=d, t=t, c=num_classes: leave_one_out(d, t, num_classes=c),  # type: ignore[misc]
        }
        for suffix, peers in (("", UNAIDED), (" lent", LENT)):
            for peer in peers:
                images = peer.prepare_images(t, num_classes)
                ways[peer.name + suffix] = lambda peer=peer, images=images, d=d: peer.image_ap(images, d)  # type: ignore[misc]
        for name, seconds in interleaved(ways, config.repeats).items():
            table.setdefault(name, {})[str(num_classes)] = 1e6 * seconds / BATCH
    own = table.pop("rl_det")
    loo = {classes: us / own[classes] for classes, us in table.pop("leave_one_out").items()}
    return {
        "per_image_us": own,
        "peers_us": table,
        "ratio_pycocotools_tuned": ratio(own, [table["pycocotools"]]),
        "ratio_pycocotools_tuned_lent": ratio(own, [table["pycocotools lent"]]),
        "ratio_fastest_peer": ratio(own, [us for name, us in table.items() if not name.endswith("lent")]),
        "ratio_fastest_peer_lent": ratio(own, list(table.values())),
        "loo_over_one_ap": max(loo.values()),
        "loo_over_one_ap_by_classes": loo,
    }


def ratio(own: Mapping[str, float], peers: list[dict[str, float]]) -> float:
    """How many times the fastest of the peers takes, geometric mean over the numbers of classes."""
    return geometric_mean(min(peer[classes] for peer in peers) / us for classes, us in own.items())


def pool_edits(config: Config, d: DetectionBatch, t: TruthBatch) -> dict[str, Any]:
    """`what_if` in microseconds an edit: all 100 scores of an image changed, one of them changed, and other detections."""
    rng, edits = np.random.default_rng(config.seed), config.pool_edits
    pool = RankingPool(match(d, t, num_classes=CLASSES[-1]))
    images = rng.permutation(len(d))[:edits]
    own, truths = d[images], t[images]
    logits = np.log(own.scores / (1 - own.scores))
    one = own.scores.copy()
    one[np.arange(edits), rng.integers(0, one.shape[1], edits)] = rng.uniform(size=edits)
    edited = {
        "rescored": replace(own, scores=1 / (1 + np.exp(-logits - rng.normal(0, 0.5, logits.shape)))),
        "one detection": replace(own, scores=one),
        "other detections": typical(rng, edits, CLASSES[-1])[0],
    }
    matches = {name: match(batch, truths, num_classes=CLASSES[-1]) for name, batch in edited.items()}
    ways = {name: lambda found=found: pool.what_if(images, found) for name, found in matches.items()}
    us = {name: 1e6 * seconds / edits for name, seconds in interleaved(ways, config.repeats).items()}
    return {
        "pool_what_if_us": us["rescored"], "pool_what_if_us_by_edit": us, "pool_images": len(d),
        "pool_classes": CLASSES[-1], "pool_detections": int(d.mask.sum()),
    }  # fmt: skip


def whole_data_set(config: Config, d: DetectionBatch, t: TruthBatch) -> dict[str, Any]:
    """COCO's twelve figures of all images, from arrays; peers that take a dictionary per box are asked once."""
    ways: dict[str, Callable[[], Any]] = {"rl_det": lambda: coco_figures(d, t, num_classes=CLASSES[-1])}
    slow: dict[str, Callable[[], Any]] = {}
    for peer in UNAIDED:
        truths = peer.prepare_data_set(t, CLASSES[-1])
        group = ways if peer.name in ("hotcoco", "vernier", "ultrafast-pycocotools") else slow
        group[peer.name] = lambda peer=peer, truths=truths: peer.evaluate(truths, peer.load(truths, d))  # type: ignore[misc]
    seconds = interleaved(ways, min(5, config.repeats))
    for name, way in slow.items():
        start = process_time()
        way()
        seconds[name] = process_time() - start
    own = seconds.pop("rl_det")
    return {
        "dataset_seconds": own,
        "dataset_peers_seconds": seconds,
        "dataset_ratio_pycocotools": seconds["pycocotools"] / own,
        "dataset_ratio_fastest_peer": min(seconds.values()) / own,
    }


def main(config: Config) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of peers, about many detections
    d, t = typical(np.random.default_rng(config.seed), config.pool_images, CLASSES[-1])
    results = {
        **compare(config),
        **per_image(config),
        **pool_edits(config, d, t),
        **whole_data_set(config, d, t),
    }
    if config.json:
        print(json.dumps(results))
    else:
        print_json(data=results)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
