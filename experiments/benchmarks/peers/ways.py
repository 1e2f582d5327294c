"""Other programs that compute COCO's AP, each driven in its fastest exact way, for comparison.

Install them with the `bench` extra. Every peer has two jobs. What depends on the true boxes alone is prepared beforehand;
what must be done again for new detections is timed:

    image_ap(prepare_images(truths, num_classes), detections)                        -> AP of each image by itself, [B]
    evaluate(data_set, load(data_set, detections)), data_set = prepare_data_set(...) -> COCO's twelve figures, [12]

None of them is made for AP per image. So B images become one with a category for each (image, label) (`pseudo_image`), which
beats one evaluation per image, and slices of a data set where a peer has them. A batch of 16 to 256 images makes little
difference. Only the area range "all" and 100 detections are asked for, where a peer lets one choose.

Beyond what a peer's manual says, two of our own ideas are lent to it; without them, it is slower:

* `few_points`: precision at the recalls that can be reached, instead of at 101 points (`pseudo_image.pseudo_image`);
* `from_matches`: the peer matches, and AP follows in numpy by our formula (`pseudo_image.ap_of_outcomes`). Only where a peer
  gives its matches as arrays, if in a private function.
"""

from peers.arrays import Hotcoco, Ultrafast, Vernier
from peers.dictionaries import FasterCocoEval, Pycocotools, Torchmetrics
from peers.peer import Peer

UNAIDED: tuple[Peer, ...] = (
    Pycocotools(few_points=False, from_matches=False),
    FasterCocoEval(few_points=False),
    Torchmetrics(few_points=False),
    Hotcoco(few_points=False),
    Vernier(few_points=False),
    Ultrafast(few_points=False, from_matches=False),
)
"""The pseudo image, and from there each peer's own AP at COCO's 101 points."""

LENT: tuple[Peer, ...] = (Pycocotools(), FasterCocoEval(), Torchmetrics(), Hotcoco(), Vernier(), Ultrafast())
"""Each with all the help there is."""
