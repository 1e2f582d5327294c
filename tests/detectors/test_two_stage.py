"""Faster R-CNN's adapter: its log-odds and losses against slow or foreign ones, and the weights that it can start from."""

from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import _api
from torchvision.models.detection.roi_heads import fastrcnn_loss

from rl_det.detectors import DETECTORS, TwoStage, build_detector
from rl_det.detectors.torchvision.two_stage import log_odds, torchvision_faster_rcnn
from rl_det.storage.weights import save_state
from rl_det.types import Encoded, Target

MOBILENET = "fasterrcnn_mobilenet_v3_large_320_fpn"
NUM_CLASSES = 3
FINITE_SCORES = (
    [0.3, -1.2, 2.0, 0.1],
    [0.0, 0.0, 0.0, 0.0],  # ties
    [40.0, 0.0, -3.0, 1.0],  # p of the first rounds to 1 in float32
    [-60.0, 55.0, -60.0, 50.0],
    [300.0, -300.0, 299.0, 0.0],  # p of most underflows
    [20.0, 20.0, -5.0, -5.0],
)


def slow_log_odds(scores: Tensor) -> Tensor:
    """Each class's score against the logsumexp of the others."""
    columns = range(scores.shape[1])
    others = [torch.cat([scores[:, :k], scores[:, k + 1 :]], 1).logsumexp(1) for k in columns]
    return torch.stack([scores[:, k] - others[k] for k in columns], 1)


def test_log_odds_are_those_of_the_softmax_where_it_does_not_saturate() -> None:
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(log_odds(scores), torch.logit(scores.softmax(1)))


@pytest.mark.parametrize("scores", FINITE_SCORES)
def test_log_odds_and_their_gradients_equal_a_float64_reference_also_where_p_saturates(scores: list[float]) -> None:
    single = torch.tensor([scores], requires_grad=True)
    double = torch.tensor([scores], dtype=torch.float64, requires_grad=True)
    got, wanted = log_odds(single), slow_log_odds(double)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    for column in range(len(scores)):
        (gradient,) = torch.autograd.grad(got[0, column], single, retain_graph=True)
        (reference,) = torch.autograd.grad(wanted[0, column], double, retain_graph=True)
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5)


def test_log_odds_keep_ranks_that_probabilities_lose() -> None:
    scores = torch.tensor([[30.0, 0.0], [31.0, 0.0], [32.0, 0.0]])
    assert (scores.softmax(1)[:, 0] == 1).all()
    assert (log_odds(scores)[:, 0].diff() > 0.9).all()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"tiny.*{MOBILENET}.*got 'yolo'") as refusal:
        build_detector("yolo", num_classes=3)
    assert all(name in str(refusal.value) for name in DETECTORS)
    with pytest.raises(ValueError, match=f"{MOBILENET}.*got 'retinanet_resnet50_fpn'"):
        torchvision_faster_rcnn("retinanet_resnet50_fpn", num_classes=3)


@pytest.mark.parametrize("as_type", [Path, str])
def test_local_weights_load_by_path(tmp_path: Path, as_type: type) -> None:
    torch.manual_seed(0)
    saved = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64).plain()
    save_state(saved, tmp_path / "own.safetensors")
    again = build_detector(
        "tiny", num_classes=NUM_CLASSES, input_size=64, weights=as_type(tmp_path / "own.safetensors")
    ).plain()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name


def test_torchvisions_models_take_local_weights_and_refuse_those_of_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = torchvision_faster_rcnn(MOBILENET, num_classes=NUM_CLASSES)
    save_state(saved, tmp_path / "own.pt", torch.float16)
    again = torchvision_faster_rcnn(MOBILENET, num_classes=NUM_CLASSES, weights=tmp_path / "own.pt")
    weight = saved.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(again.roi_heads.box_predictor.cls_score.weight, weight.half().float())
    with pytest.raises(ValueError, match=r"own\.pt: .*same number of classes.*cls_score"):
        torchvision_faster_rcnn(MOBILENET, num_classes=7, weights=str(tmp_path / "own.pt"))


def test_a_failed_download_names_the_weights_their_address_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> NoReturn:
        raise URLError("no network")

    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"DEFAULT of fasterrcnn_mobilenet.*https://.*no network"):
        build_detector(MOBILENET, num_classes=NUM_CLASSES, weights="DEFAULT")


def test_downloaded_weights_keep_their_predictor_only_for_their_own_number_of_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    state = torchvision_faster_rcnn(MOBILENET, num_classes=90).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    known = torchvision_faster_rcnn(MOBILENET, num_classes=90, weights="COCO_V1", input_size=64)
    fresh = torchvision_faster_rcnn(MOBILENET, num_classes=NUM_CLASSES, weights="COCO_V1", input_size=64)
    own = state["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(known.roi_heads.box_predictor.cls_score.weight, own)
    assert len(fresh.roi_heads.box_predictor.cls_score.weight) == NUM_CLASSES + 1
    assert torch.equal(fresh.roi_heads.box_head.fc6.weight, state["roi_heads.box_head.fc6.weight"])
    assert fresh.roi_heads.score_thresh == 0.0
    assert fresh.transform.min_size == (64,)


@pytest.mark.parametrize("name", ["tiny", MOBILENET])
def test_an_unknown_name_of_weights_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=rf"weights of {name} must be 'none'.*\.safetensors.*got 'COCO_V9'"):
        build_detector(name, num_classes=NUM_CLASSES, weights="COCO_V9")


def detector() -> TwoStage:
    torch.manual_seed(0)
    built = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)
    assert isinstance(built, TwoStage)
    for layer in (built.model.roi_heads.box_predictor.cls_score, built.model.roi_heads.box_predictor.bbox_pred):
        nn.init.normal_(layer.weight, std=0.3)
    return built


REFERENCE = (  # in resized pixels, twice the user's
    ((10, 10, 30, 30), (12, 10, 32, 30), (60, 60, 80, 80), (10, 10, 30, 18)),
    ((0, 0, 20, 20), (40, 40, 60, 58), (30, 0, 50, 20), (0, 0, 20, 20)),
)
MASK = ((True, True, True, True), (True, True, True, False))
LABELS = ((2, 2, 0, 0), (1, 3, 0))  # of the proposals that are no padding
MATCHED = ((10, 10, 30, 30), (10, 10, 30, 30), (0, 0, 20, 22), (40, 40, 60, 60))


def encoded() -> Encoded:
    features = torch.rand(2, 4, 64, 5, 5, generator=torch.Generator().manual_seed(1))
    return Encoded(
        features=(features,),
        reference=torch.tensor(REFERENCE, dtype=torch.float32),
        mask=torch.tensor(MASK),
        input_size=torch.full((2, 2), 96.0),
        image_size=torch.full((2, 2), 48.0),
    )


def target(boxes: list[tuple[int, int, int, int]], labels: list[int], crowds: list[bool] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / 2,
        labels=torch.tensor(labels, dtype=torch.long),
        area=torch.ones(len(labels)),
        iscrowd=torch.tensor(crowds or [False] * len(labels), dtype=torch.bool),
        image_id=0,
    )


def objects() -> list[Target]:
    return [target([(10, 10, 30, 30)], [2]), target([(40, 40, 60, 60), (0, 0, 20, 22)], [3, 1])]


def losses(built: TwoStage, some: Encoded, targets: list[Target]) -> dict[str, Tensor]:
    return built.loss(some, targets, built.head(some))


def test_the_losses_are_torchvisions_own_on_proposals_matched_by_hand() -> None:
    built, some = detector(), encoded()
    heads = built.model.roi_heads
    real = some.mask.flatten()
    scores, deltas = heads.box_predictor(heads.box_head(some.features[0].flatten(0, 1)[real]))
    reference, labels = some.reference.flatten(0, 1)[real], torch.tensor(sum(LABELS, ()))
    wanted = torch.zeros_like(reference)
    wanted[labels > 0] = heads.box_coder.encode_single(
        torch.tensor(MATCHED, dtype=torch.float32), reference[labels > 0]
    )
    classifier, box = fastrcnn_loss(scores, deltas, [labels], [wanted])
    got = losses(built, some, objects())
    assert box > 0
    torch.testing.assert_close(got["loss_classifier"], classifier)
    torch.testing.assert_close(got["loss_box_reg"], box)


def test_background_in_a_crowd_is_left_out_as_if_it_were_padding() -> None:
    built, some = detector(), encoded()
    crowded = [target([(10, 10, 30, 30), (58, 58, 90, 90)], [2, 1], [False, True]), objects()[1]]
    without = Encoded(
        **{**vars(some), "mask": some.mask.index_put((torch.tensor(0), torch.tensor(2)), torch.tensor(False))}
    )
    got, wanted = losses(built, some, crowded), losses(built, without, objects())
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name])
    assert got["loss_classifier"] != losses(built, some, objects())["loss_classifier"]


def test_an_object_in_a_crowd_still_counts_and_so_does_background_half_in_one() -> None:
    built, some = detector(), encoded()
    crowded = [
        target([(10, 10, 30, 30), (10, 19, 40, 30), (60, 60, 70, 80)], [2, 1, 1], [False, True, True]),
        objects()[1],
    ]
    got, wanted = losses(built, some, crowded), losses(built, some, objects())
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name])


def test_padding_has_no_loss_and_no_gradient() -> None:
    built, some = detector(), encoded()
    features = some.features[0].requires_grad_()
    total = torch.stack(list(losses(built, some, objects()).values())).sum()
    (gradient,) = torch.autograd.grad(total, features)
    assert (gradient[some.mask].flatten(1).abs().sum(1) > 0).all()
    assert (gradient[~some.mask] == 0).all()
