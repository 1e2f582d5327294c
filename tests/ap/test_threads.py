"""Rows shared out among threads: each is done once, and the results are those of one thread."""

from threading import get_ident

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile

from rl_det.ap import threads
from rl_det.ap.leave_one_out import leave_one_out
from rl_det.ap.matching import match
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.sorting import room_for_sort, sort_falling


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 7, 100])
def test_each_row_is_done_once(size: int, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "crew", threads.Crew(size))
    done = np.zeros(num_rows, dtype=np.int64)

    def work(first: int, end: int, room: list[int], more: int) -> None:
        assert set(room) <= {get_ident()}, "another thread's room"
        room.append(get_ident())
        done[first:end] += more

    threads.share_out(work, num_rows, list, 1)
    assert (done == 1).all()


def test_what_fails_in_a_helper_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "crew", threads.Crew(3))

    def fail(first: int, end: int, room: object) -> None:
        raise ArithmeticError("as asked for")

    with pytest.raises(ArithmeticError, match="as asked for"):
        threads.share_out(fail, 8, tuple)


def test_the_results_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    detections, truths = hostile(0, num_images=30)
    monkeypatch.setattr(threads, "crew", threads.Crew(1))
    expected = leave_one_out(detections, truths, num_classes=NUM_CLASSES)
    ranked = RankingPool(match(detections, truths, num_classes=NUM_CLASSES)).class_ap
    monkeypatch.setattr(threads, "crew", threads.Crew(4))
    for _ in range(5):
        for got, wanted in zip(leave_one_out(detections, truths, num_classes=NUM_CLASSES), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(
            RankingPool(match(detections, truths, num_classes=NUM_CLASSES)).class_ap, ranked, strict=True
        )


@pytest.mark.parametrize("size", [0, 1, 2, 12, 13, 24, 25, 200, 1000])
@pytest.mark.parametrize("values", [2, 50, 10**6])
def test_the_sort_is_stable_and_falls(size: int, values: int) -> None:
    scores = np.random.default_rng(size).integers(0, values, size).astype(float)
    room = room_for_sort(size)
    room.scores[:], room.order[:] = scores, np.arange(size)
    sort_falling(room, size)
    np.testing.assert_array_equal(room.order, np.argsort(-scores, kind="stable"))
    np.testing.assert_array_equal(room.scores, scores[room.order])


def test_a_thread_keeps_its_room_and_no_other_thread_gets_it() -> None:
    @threads.kept
    def room(size: int) -> list[int]:
        return [size]

    own = room(3)
    assert room(3) is own
    with threads.Crew(2).helpers as helper:
        assert helper.submit(room, 3).result() is not own
    assert room(4) == [4]
    assert room(3) == [3]
