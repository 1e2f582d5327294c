"""What only transformers' query detectors promise: three parts that agree with each other and with the library."""

import copy
from typing import Any

import pytest
import torch
from contract.families import EVERY, IMAGES, NUM_CLASSES, restored
from contract.query_families import IS_INSTALLED, OPTIONS, last_linear, lively_query_detector, query_model
from contract.test_detectors import assert_same_detections, target, targets
from torch import Tensor

from rl_det.candidates import nms
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.protocol import Part
from rl_det.detectors.transformers.query import QueryDetector, relative
from rl_det.policies.detections import candidates_ap
from rl_det.types import Detections, Encoded, HeadOutput, concatenate

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="transformers is not installed")
PARTS: tuple[Part, ...] = ("predictor", "head", "all")


@pytest.fixture(scope="module", params=OPTIONS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def parts(family: str) -> dict[Part, QueryDetector]:
    """One model, as a detector of each part."""
    torch.manual_seed(0)
    first = lively_query_detector(family, NUM_CLASSES, IMAGES, "predictor")
    return {part: QueryDetector(first.model, processor=first.processor, part=part) for part in PARTS}


@pytest.fixture(scope="module")
def encodings(parts: dict[Part, QueryDetector]) -> dict[Part, Encoded]:
    return {part: detector.encode(IMAGES) for part, detector in parts.items()}


def library_output(detector: QueryDetector, image: Tensor) -> Any:
    """The library alone: its image processor as it is used on images in [0, 1], and its model."""
    given = detector.processor(images=[image], do_rescale=False, return_tensors="pt")
    with torch.no_grad():
        return detector.plain()(**given)


def clipped(found: Detections, image: Tensor) -> Detections:
    height, width = image.shape[1:]
    sides = torch.tensor([width, height, width, height])
    return Detections(boxes=found["boxes"].clamp(min=0).minimum(sides), labels=found["labels"], scores=found["scores"])


def test_the_three_parts_say_the_same(parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded]) -> None:
    with torch.no_grad():
        outputs = {part: parts[part].head(encodings[part]) for part in PARTS}
    for part in PARTS[1:]:
        for some, others in zip(outputs["predictor"].tensors, outputs[part].tensors, strict=True):
            torch.testing.assert_close(some, others, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_the_head_says_what_the_library_says(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded], part: Part
) -> None:
    detector = parts[part]
    with torch.no_grad():
        output = detector.head(encodings[part])
    for place, image in enumerate(IMAGES):
        own = library_output(detector, image)
        if not detector.anatomy.is_softmax:
            torch.testing.assert_close(output.logits[place], own.logits[0], rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(
                output.logits[place].sigmoid(), own.logits[0].softmax(-1)[:, :-1], rtol=1e-5, atol=1e-6
            )


def test_postprocessed_candidates_hold_the_librarys_detections(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded]
) -> None:
    """With sigmoids, the library keeps the best pairs of all; DETR keeps the best class of each query."""
    detector = parts["head"]
    candidates = detector.propose(encodings["head"], EVERY)
    for place, (image, own) in enumerate(zip(IMAGES, detector.detect(IMAGES), strict=True)):
        some = candidates[place : place + 1]
        if detector.anatomy.is_softmax:
            query, best = some.index[0] // NUM_CLASSES, torch.zeros(len(some.index[0]), dtype=torch.bool)
            for one in query[some.mask[0]].unique():
                best[(query == one).nonzero()[0]] = True  # candidates come in falling order
            some.mask[0] &= best
        (found,) = nms(some, nms_iou=detector.nms_iou, max_detections=len(own["boxes"]))
        own = clipped(own, image)
        sides = own["boxes"][:, 2:] - own["boxes"][:, :2]
        real = (sides >= 1e-2).all(1)
        assert real.sum() > 5
        own = Detections(boxes=own["boxes"][real], labels=own["labels"][real], scores=own["scores"][real])
        kept = found["scores"] >= own["scores"].min() - 1e-6  # without area, a pair makes room for a worse one
        assert_same_detections(Detections(**{name: tensor[kept] for name, tensor in found.items()}), own)  # type: ignore[typeddict-item]


def test_it_detects_what_the_library_detects(parts: dict[Part, QueryDetector]) -> None:
    detector = parts["head"]
    for image, found in zip(IMAGES, detector.detect(IMAGES), strict=True):
        sizes = [tuple(image.shape[1:])]
        (own,) = detector.processor.post_process_object_detection(
            library_output(detector, image), threshold=0.0, target_sizes=sizes
        )
        assert (found["scores"].diff() <= 0).all()
        own["labels"] = own["labels"] + 1
        assert_same_detections(found, own)


def test_an_encoding_does_not_depend_on_its_batch(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded]
) -> None:
    for part in PARTS:
        alone = concatenate((parts[part].encode([image]) for image in IMAGES), len(IMAGES))
        for name, tensor in encodings[part].tensors().items():
            torch.testing.assert_close(alone.tensors()[name], tensor, rtol=1e-4, atol=1e-4)
        assert len(parts[part].encode([*IMAGES, *IMAGES])) == 2 * len(IMAGES)  # more images than feature levels


def total(detector: QueryDetector, encoded: Encoded) -> Tensor:
    return torch.stack(list(detector.loss(encoded, targets(), detector.head(encoded)).values())).sum()


@pytest.mark.parametrize("part", PARTS)
def test_gradients_reach_the_trained_part_alone(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded], part: Part
) -> None:
    detector, model = parts[part], parts[part].plain()
    model.zero_grad()
    output = detector.head(encodings[part])
    (total(detector, encodings[part]) + output.embeddings.square().sum()).backward()
    own = {id(parameter) for parameter in detector.trainable.parameters()}
    reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
    model.zero_grad()
    assert reached <= own
    if part != "all":  # auxiliary and denoising weights take no part in detection
        assert reached == own


@pytest.mark.parametrize("part", PARTS)
def test_training_steps_change_the_trained_part_alone_and_the_frozen_part_does_not_depend_on_it(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded], part: Part
) -> None:
    detector, encoded = parts[part], encodings[part]
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    optimizer = torch.optim.SGD(detector.trainable.parameters(), lr=1e-3)
    with restored(detector):
        for _ in range(2):
            optimizer.zero_grad()
            total(detector, encoded).backward()
            optimizer.step()
        optimizer.zero_grad()
        after = detector.plain().state_dict()
        changed = {tensor.data_ptr() for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        own = {parameter.data_ptr() for parameter in detector.trainable.parameters()}
        assert changed
        assert changed <= own
        again = detector.encode(IMAGES)
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in encoded.tensors().items())
        torch.testing.assert_close(detector.head(again).logits, _library_logits(detector), rtol=1e-4, atol=1e-4)


def _library_logits(detector: QueryDetector) -> Tensor:
    return torch.stack([detector._logits(library_output(detector, image).logits)[0] for image in IMAGES])


@pytest.mark.parametrize("part", PARTS)
def test_it_keeps_the_queries_with_the_highest_logit(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded], part: Part
) -> None:
    detector, limit = parts[part], 5
    with torch.no_grad():
        every, some = detector.head(encodings[part]), detector.head(detector.encode(IMAGES, limit))
    best = every.logits.amax(-1).topk(limit, dim=1).indices.sort(1).values
    rows = torch.arange(len(IMAGES))[:, None]
    for ours, wanted in zip(some.tensors, every.tensors, strict=True):
        torch.testing.assert_close(ours, wanted[rows, best], rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_librarys_own_of_the_last_layer(
    parts: dict[Part, QueryDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library gives the same loss for labels, if only the last layer counts."""
    detector = parts["head"]
    monkeypatch.setattr(detector.model.config, "auxiliary_loss", False)
    encoded = detector.encode(IMAGES[:1])
    (ours,) = detector.loss(encoded, targets()[:1], detector.head(encoded)).values()
    one = targets()[0]
    labels = [relative(one.boxes, one.labels, torch.tensor([48.0, 48.0]))]
    given = detector.processor(images=IMAGES[:1], do_rescale=False, return_tensors="pt")
    with torch.no_grad():
        own = detector.plain()(**given, labels=labels).loss
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_same_for_an_output_that_lacks_what_the_losses_take(
    parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded]
) -> None:
    detector, encoded = parts["head"], encodings["head"]
    output = detector.head(encoded)
    copied = HeadOutput(*(tensor.detach().clone() for tensor in output.tensors))
    (given,), (again,) = (detector.loss(encoded, targets(), one).values() for one in (output, copied))
    torch.testing.assert_close(given, again)


def test_a_training_pass_gives_the_librarys_loss_and_works_without_objects(
    parts: dict[Part, QueryDetector],
) -> None:
    detector = parts["all"]
    with restored(detector):
        labels = [{"boxes": target().boxes, "labels": target().labels}] * len(IMAGES)
        losses, _, output = detector.training_pass(IMAGES, labels)
        assert losses["loss"].isfinite()
        assert output.logits.isfinite().all()
        losses["loss"].backward()
        detector.plain().zero_grad()


def test_a_copy_detects_the_same(parts: dict[Part, QueryDetector], encodings: dict[Part, Encoded]) -> None:
    detector = parts["head"]
    output = detector.head(encodings["head"])  # is remembered, with its graph
    again = copy.deepcopy(detector)
    torch.testing.assert_close(again.head(encodings["head"]).logits, output.logits, rtol=0, atol=0)
    assert again.plain() is not detector.plain()


def test_large_images_keep_the_processors_own_size() -> None:
    """The default of DETR: the shorter side 800, or less where the longer one would pass 1333."""
    detector = QueryDetector(query_model("detr", NUM_CLASSES), part="predictor")
    encoded = detector.encode([torch.rand(3, 30, 40), torch.rand(3, 30, 90)])
    assert encoded.input_size.tolist() == [[800, 1066], [444, 1333]]


def test_boxes_of_d_fine_that_are_inside_out_are_empty_and_no_training_stops_at_them() -> None:
    detector = lively_query_detector("d_fine", NUM_CLASSES, IMAGES)
    encoded = detector.encode(IMAGES)
    before = detector.head(encoded)
    layer = last_linear(detector.anatomy.regressor)
    with torch.no_grad():
        layer.bias.view(4, -1)[0, 0] += 100.0  # the left side, as far to the right as it goes
        layer.bias.view(4, -1)[2, 0] += 100.0  # the right side, as far to the left
    output = detector.head(encoded)
    sides = output.boxes[..., 2:] - output.boxes[..., :2]
    assert (sides >= 0).all()
    assert (sides[..., 0] == 0).all(), "all are inside out"
    torch.testing.assert_close(output.boxes[..., [1, 3]], before.boxes[..., [1, 3]])
    candidates = detector.propose(encoded, 20)
    found = candidates_ap(candidates, PostProcessingSettings(nms_iou=1.0), targets(), num_classes=NUM_CLASSES)
    assert found == 0
    (loss,) = detector.loss(encoded, targets(), output).values()
    loss.backward()
    assert loss.isfinite()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    labels = [{"boxes": one.boxes, "labels": one.labels} for one in targets()]
    assert all(loss.isfinite() for loss in detector.training_losses(IMAGES, labels).values())
