"""Compare strategies over seeds, and folds, in one table and one picture; each cell runs in its own process."""

import copy
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rl_det import parallel
from rl_det.ap.matching import Matches, match
from rl_det.ap.padding import pad_targets
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget, Recipe, budget_named, in_batches_of, recipe_for
from rl_det.finetuning.caching import CacheLimits
from rl_det.finetuning.compared import NUM_DRAWS, compared_rows, controls_from
from rl_det.finetuning.job import A_JOB, Cell, JobFile, parts_of, strategy_of
from rl_det.finetuning.plan import Plan, plan_run
from rl_det.finetuning.processes import JOB, On, Runner, runner_on
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import check_files, load_results, read_detections
from rl_det.finetuning.warm_start import restore, warm_start
from rl_det.progress import bar, tell
from rl_det.report.comparison import markdown
from rl_det.storage.checksums import read_sealed
from rl_det.storage.files import as_json, check_writable, write_whole
from rl_det.storage.lock import alone_in
from rl_det.storage.run import CHECKPOINTS, COMPARISON, CONFIG, PAGE, RESULTS, check_same_run, remove_run
from rl_det.strategies.catalogue import CATALOGUE, named
from rl_det.strategies.hand_set import HandSetVotes, PostProcessingGrid
from rl_det.strategies.labels import CONTROL
from rl_det.training.trackers import check_tracker


def compare(
    request: Request,
    *,
    strategies: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    folds: int | None = None,
    reward: str = "pool_ap",
    budget: Budget | None = None,
    workers: int = os.cpu_count() or 1,
    on: On = "processes",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run the cells without results, then compare all; write `comparison.json`, `.md`, `.png` and `report.html` to `out`.

    `strategies` are names of the catalogue; left out, the usual ones for this detector.
    With `folds`, every image is tested once (`rl_det.data.folds`): each fold has its own warm start, and a cell is a
    strategy with a seed in a fold. A cell's results are reused only if they are of the same configuration, data and
    weights. Otherwise ValueError names the difference, unless `overwrite` runs the cell again. A folder of another number
    of folds is refused, and so is one in which another comparison works. A stopped cell resumes. The cores are divided
    among `workers` processes; `on="ray"` runs them on a Ray cluster. Every strategy that leaves post-processing as it was
    has a second row, with fitted post-processing, as in `finetune`.
    """
    parallel.check_alone("a comparison, which starts its own processes,")
    check_tracker(request.track)
    _check_numbers(workers, seeds)
    check_writable(out)
    with alone_in(out, "comparison"):
        _check_folds(out, folds)
        data, detector = request.open()
        strategies = named(strategies, detector)
        parts = parts_of(data, folds)
        if folds is not None and detector.is_trained:
            _warn_of_known_images(request, data)
        cells = [Cell(name, seed, fold) for fold in parts for seed in seeds for name in strategies]
        plans = _plans(request, detector, parts, cells, reward=reward, budget=budget, recipe=recipe_for(data), out=out)
        runner = runner_on(on, workers)  # before anything is made
        waiting = [cell for cell in cells if not _is_done(out / cell.folder, plans[cell], overwrite=overwrite)]
        if waiting and folds is not None:
            replace(plans[waiting[0]], data=data).check_images()
        for fold in parts:
            _encode_fold(fold, waiting, plans, out)
        jobs = [
            JobFile(request=request, budget=plans[cell].budget, strategy=cell.strategy, reward=reward, seed=cell.seed,
                    encodings=_encodings(out, cell.fold), out=out / cell.folder, fold=cell.fold, num_folds=folds)
            for cell in waiting
        ]  # fmt: skip
        _run(jobs, runner, at_a_time=workers if on == "processes" else len(jobs), num_cells=len(cells))
        facts = {"data": data.name, "detector": request.detector, "budget": request.budget, "reward": reward}
        return _joined(out, strategies, seeds, parts, facts)


def _check_numbers(workers: int, seeds: Sequence[int]) -> None:
    if workers < 1:
        raise UserError(f"workers must be at least 1; got {workers}; the number of cores is usual")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be different numbers, one at least; got {tuple(seeds)}; 0 1 2 are usual")


def _warn_of_known_images(request: Request, data: Splits) -> None:
    """Warn that a detector which comes trained on the data's classes may have been trained on the images of the folds."""
    tell(
        f"warning: {request.detector} comes trained on the classes of {data.name}, on images that are not known; none of "
        "them may be among the images of the folds, or all figures flatter"
    )


def _plans(
    request: Request,
    detector: Detector,
    parts: Mapping[int | None, Splits],
    cells: Sequence[Cell],
    *,
    reward: str,
    budget: Budget | None,
    recipe: Recipe,
    out: Path,
) -> dict[Cell, Plan]:
    """The plan of each cell's run; ValueError if one cannot be, before any image is decoded."""
    budget, recipe = in_batches_of(request.batch_size, budget or budget_named(request.budget), recipe)
    plans = {}
    for cell in cells:
        strategy = strategy_of(cell.strategy, reward)
        plans[cell] = plan_run(
            detector,
            parts[cell.fold],
            [strategy],
            _budget_of(cell.strategy, budget),
            recipe,
            cell.seed,
            baselines=False,
            out=out / cell.folder,
            frozen=request.frozen_for(strategy),
        )
        plans[cell].limits = CacheLimits(memory=request.cache_memory, disk=request.cache_disk)
    return plans


def _run(jobs: Sequence[JobFile], runner: Runner, *, at_a_time: int, num_cells: int) -> None:
    """Run so many jobs at a time, under a bar of all cells; an error of one, or a signal, stops them all."""
    with bar("compare", num_cells) as shown, ThreadPoolExecutor(max(1, at_a_time)) as pool:
        shown.advance(num_cells - len(jobs))

        def one(job: JobFile) -> None:
            runner.run(job)
            shown.advance(1)

        try:
            list(pool.map(one, jobs))  # an error of one ends the others' waiting, not their work
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _joined(
    out: Path,
    strategies: Sequence[str],
    seeds: Sequence[int],
    parts: Mapping[int | None, Splits],
    facts: dict[str, str],
) -> dict[str, Any]:
    """Compare the results of all cells, and write what is compared."""
    cells = [(seed, fold) for seed in seeds for fold in parts]
    runs = {name: [_results(out / Cell(name, *cell).folder) for cell in cells] for name in strategies}
    rows = {row: name for name in strategies for row in _rows_of(runs[name])}
    compared = _compared(out, runs, rows, seeds, parts, facts)
    folders = {
        row: {str(seed): [out / Cell(name, seed, fold).folder for fold in parts] for seed in seeds}
        for row, name in rows.items()
    }
    _write(out, compared, folders)
    return compared


def _write(out: Path, compared: dict[str, Any], folders: Mapping[str, Mapping[str, list[Path]]]) -> None:
    """Write the numbers, the table, the picture and the page; `folders` has each row's runs by seed."""
    from rl_det.finetuning.run_page import comparison_page  # matplotlib is slow to import
    from rl_det.report.comparison_picture import draw_comparison

    write_whole(out / COMPARISON, as_json(compared))
    write_whole(out / "comparison.md", markdown(compared) + "\n")
    draw_comparison(compared, out / "comparison.png")
    write_whole(out / PAGE, comparison_page(compared, folders))


def _budget_of(name: str, budget: Budget) -> Budget:
    """The budget of a strategy's cells: nothing is fitted on top of what is post-processing itself."""
    by_hand = isinstance(CATALOGUE[name], HandSetVotes | PostProcessingGrid)
    return replace(budget, fit_evaluations=0) if by_hand else budget


def _check_folds(out: Path, num_folds: int | None) -> None:
    """Raise ValueError for a folder that holds a comparison of another number of folds."""
    for file in sorted(out.glob(f"*/{JOB}")):
        there = read_sealed(file, A_JOB).get("num_folds")
        if there != num_folds:
            kept, asked = (f"{number} folds" if number else "no folds" for number in (there, num_folds))
            raise UserError(f"{out}: holds a comparison of {kept}; got {asked}; take another folder (--out)")


def _encodings(out: Path, fold: int | None) -> Path:
    """The folder of the encodings that all cells of a fold share."""
    return out / "encodings" / ("" if fold is None else f"fold{fold}")


def _is_done(folder: Path, plan: Plan, *, overwrite: bool) -> bool:
    """Whether the folder holds the whole results of this same run.

    ValueError for another run's, unless it may be replaced.
    """
    if not (folder / CONFIG).exists():
        return False
    try:
        check_same_run(folder, plan.identity)
    except UserError:
        if not overwrite:
            raise
        remove_run(folder)
        return False
    return (folder / RESULTS).exists() and _is_whole(folder)


def _is_whole(folder: Path) -> bool:
    """Whether results and detections are as they were written; else one line says that they are made anew."""
    try:
        results = load_results(folder)
        check_files(results)
        for name in results.rows:
            read_detections(folder, name)
    except UserError as error:
        tell(f"{error}; the results are made anew from the run's checkpoints")
        return False
    return True


def _encode_fold(fold: int | None, waiting: Sequence[Cell], plans: Mapping[Cell, Plan], out: Path) -> None:
    """Encode for the cells of a fold, if one of them waits."""
    if first := next((cell for cell in waiting if cell.fold == fold), None):
        began = [out / cell.folder / CHECKPOINTS for cell in plans if cell.fold == fold]
        _encode(plans[first], _encodings(out, fold), began)


def _encode(plan: Plan, folder: Path, began: Sequence[Path]) -> None:
    """Make the warm start, and the encodings that all cells of a fold share; the plan's detector does not change.

    It is the one from which cells of the fold have begun, by their checkpoints.
    """
    own = replace(plan, detector=copy.deepcopy(plan.detector), encodings=folder, remake=True, encoded={})
    if not own.detector.is_trained:
        recipe = own.recipe.scaled(own.budget.warm_start_share)
        restore(own.detector, own.data, recipe, began)
        warm_start(own.detector, own.data, recipe, own.limits)
    own.encode("train")
    own.encode("val")


def _compared(
    out: Path,
    runs: Mapping[str, Sequence[dict[str, Any]]],
    rows: Mapping[str, str],
    seeds: Sequence[int],
    parts: Mapping[int | None, Splits],
    facts: dict[str, str],
) -> dict[str, Any]:
    """Every strategy's figures for each seed and fold, and its AP and differences from the controls with intervals."""
    truths = {
        fold: pad_targets([part.test[index].target for index in range(len(part.test))]) for fold, part in parts.items()
    }

    def matches_of(row: str, cell: Cell) -> Matches:
        found = read_detections(out / cell.folder, row)
        return match(found, truths[cell.fold], num_classes=len(parts[cell.fold].classes))

    cells = [(seed, fold) for seed in seeds for fold in parts]
    matches = {
        row: [[matches_of(row, Cell(name, seed, fold)) for fold in parts] for seed in seeds]
        for row, name in rows.items()
    }
    of_rows = {row: runs[name] for row, name in rows.items()}
    methods = compared_rows(of_rows, matches, controls_from(CONTROL), num_draws=NUM_DRAWS)
    of_folds = {"folds": len(parts), "runs": [{"seed": seed, "fold": fold} for seed, fold in cells]}
    return {
        **facts,
        "seeds": list(seeds),
        **(of_folds if None not in parts else {}),
        "images": {"test": sum(len(part.test) for part in parts.values())},
        "methods": methods,
    }


def _results(folder: Path) -> dict[str, Any]:
    return read_sealed(folder / RESULTS, "the results of a run")


def _rows_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The rows that all runs of a strategy have: its own, and that with fitted post-processing where all could be fitted."""
    return [row for row in runs[0]["methods"] if all(row in run["methods"] for run in runs)]
