"""Findings: an error names file and entry in one line and survives a worker; repairs and warnings are told."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from rl_det.data import check
from rl_det.data.check import DataError, Findings, is_number


def test_an_error_names_file_and_entry_and_is_a_value_error() -> None:
    fault = DataError(Path("data/train.json"), "annotation 17", "bbox is missing")
    assert isinstance(fault, ValueError)
    assert str(fault) == "data/train.json: annotation 17: bbox is missing"


def test_an_error_keeps_its_words_on_the_way_back_from_a_worker() -> None:
    fault = DataError(Path("x.jpg"), "image 3", "truncated")
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)
    assert str(DataError(str(fault))) == str(fault)  # how torch's DataLoader raises it again


def test_an_error_is_one_line_whatever_a_file_is_called() -> None:
    told = str(DataError(Path("a\nERROR: fake\x1b[2J.png"), "image \u202e3", "gone\r"))
    assert told == r"a\nERROR: fake\x1b[2J.png: image \u202e3: gone\r"


def test_the_first_fault_is_raised_with_the_number_of_the_others() -> None:
    findings = Findings()
    findings.settle()
    findings.fault(Path("a.json"), "image 1", "is gone")
    with pytest.raises(DataError, match=r"^a\.json: image 1: is gone$"):
        findings.settle()
    findings.fault(Path("a.json"), "image 2", "is gone")
    findings.fault(Path("b.json"), "image 3", "is gone")
    with pytest.raises(DataError, match=r"^a\.json: image 1: is gone \(and 2 more faults; `rl-det check` lists all\)$"):
        findings.settle()


def test_a_million_faults_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "KEPT_FAULTS", 2)
    findings = Findings()
    for number in range(9):
        findings.fault(Path("a.txt"), f"line {number}", "is wrong")
    assert len(findings.faults) == 2
    with pytest.raises(DataError, match=r"line 0: is wrong \(and 8 more faults"):
        findings.settle()


def test_repairs_of_a_file_are_told_in_one_line_and_are_faults_if_strict(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("a.json")
    for strict in (False, True):
        findings = Findings(strict=strict)
        findings.repair(file, "clipped", ["annotation 1", "annotation 2"])
        findings.repair(file, "outside", [])
        findings.repair(file, "empty", ["annotation 5"])
        if strict:
            assert [fault.args[1] for fault in findings.faults] == ["annotation 1", "annotation 2", "annotation 5"]
            assert not findings.told()
        else:
            findings.warn("look here\n")
            findings.settle()
            assert capsys.readouterr().err.splitlines() == [
                "warning: a.json: boxes that had to be repaired: 2 clipped, 1 dropped without a size",
                r"warning: look here\n",
            ]


@pytest.mark.parametrize(
    "value",
    [None, True, "3", [3], float("nan"), float("inf"), -float("inf"), 10**400],
    ids=lambda value: str(value)[:9],
)
def test_what_is_no_finite_json_number_is_told_apart(value: Any) -> None:
    assert not is_number(value)


@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_a_finite_json_number_is_one(value: float) -> None:
    assert is_number(value)
