"""The command `rl-det`: finetune, supervised, compare, check, report, detect, onnx. Every setting of the library is a flag."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tyro

from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages
from rl_det.detectors.loading import Device
from rl_det.errors import UserError
from rl_det.finetuning.budget import BUDGETS, DIGIT_RECIPE, PHOTO_RECIPE, Budget, Recipe
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.finetune import finetune
from rl_det.finetuning.inspection import inspect
from rl_det.finetuning.processes import On
from rl_det.finetuning.reporting import report
from rl_det.finetuning.request import DataFlags, Request
from rl_det.finetuning.results import Results
from rl_det.finetuning.tuned import load_tuned
from rl_det.parallel import check_alone
from rl_det.policies.build import PolicyName
from rl_det.program import ProgramFlags, one_line, program
from rl_det.progress import bar
from rl_det.report.detections import draw_and_write, image_files, pictures_of
from rl_det.report.figures import form_of
from rl_det.settings import SEEDS, at_least, check_settings, within
from rl_det.storage.run import CONFIG
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy
from rl_det.strategies.supervised import Supervised
from rl_det.strategies.surrogate import Surrogate

Flags = TypeVar("Flags")
StrategyName = Literal["ppo", "reinforce", "surrogate", "labels", "supervised"]


@dataclass(frozen=True, kw_only=True)
class RunFlags(Request, ProgramFlags):
    """The flags of every command that trains."""

    seed: int = 0
    """The seed of everything that fine-tuning draws."""
    out: Path | None = None
    """The run's folder; left out: one in runs/, named after the run."""
    resume: bool = False
    """Continue a stopped run with the same flags, if there is one."""
    overwrite: bool = False
    """Replace the run in the folder, if there is one."""
    limits: tyro.conf.AvoidSubcommands[Budget | None] = None
    """The budget's numbers; each can be set by itself."""
    recipe: tyro.conf.AvoidSubcommands[Recipe | None] = None
    """How to train a detector of the data from labels, in a warm start and as the control; each number can be set by
    itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, seed=SEEDS)

    def run(self, *strategies: Strategy, baselines: bool = True) -> Results:
        """Open the data and the detector, tune, and print the table."""
        data, detector = self.open()
        results = finetune(
            detector,
            data,
            *strategies,
            budget=self.limits or self.budget,
            recipe=self.recipe,
            seed=self.seed,
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            baselines=baselines,
            **self.keywords(),
        )
        print(results.table(), end="")
        return results


@dataclass(frozen=True, kw_only=True)
class PolicyFlags(RunFlags):
    """The flags of every command that tunes the head."""

    policy: PolicyName | None = None
    """The policy of all strategies; left out: each strategy's own (voting where proposals overlap, else adjust)."""
    reward: str | None = None
    """The reward of all strategies that have one; left out: each strategy's own (pool_ap)."""

    def shared(self, *strategies: Strategy) -> list[Strategy]:
        """The strategies with the given flags that they have fields for; ValueError for a flag that none has a field for."""
        given = {name: getattr(self, name) for name in ("policy", "reward") if getattr(self, name) is not None}
        for name, value in given.items():
            if not any(hasattr(strategy, name) for strategy in strategies):
                names = ", ".join(strategy.name for strategy in strategies)
                raise UserError(f"{name} must go with a strategy that has one; got {value} with {names}")
        return [
            _with(strategy, {name: value for name, value in given.items() if hasattr(strategy, name)})
            for strategy in strategies
        ]


def _with(strategy: Strategy, settings: dict[str, Any]) -> Strategy:
    """The strategy with these settings; what its class refuses of them is a mistake of the user's."""
    try:
        return dataclasses.replace(strategy, **settings)  # type: ignore[type-var]
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags(PolicyFlags):
    """Tune the detector by the named strategies, and compare them with the warm start and the control."""

    strategies: tuple[StrategyName, ...] = ("ppo",)
    """The strategies, in the order of the table."""
    ppo: PPO = field(default_factory=PPO)
    """Proximal policy optimisation."""
    reinforce: Reinforce = field(default_factory=Reinforce)
    """The score-function estimator."""
    surrogate: Surrogate = field(default_factory=Surrogate)
    """A differentiable surrogate of AP."""
    labels: Labels = field(default_factory=lambda: Labels(name="labels", policy=None))
    """Continued supervised training of the head, with settings of its own."""
    supervised: Supervised = field(default_factory=Supervised)
    """Supervised training of the whole detector."""

    def chosen(self) -> list[Strategy]:
        """The strategies, with the flags that they share. Raises ValueError for settings of a strategy that does not run."""
        usual = type(self)()
        for name in get_args(StrategyName):
            if name not in self.strategies and getattr(self, name) != getattr(usual, name):
                raise UserError(
                    f"settings of {name} must go with --strategies {name}; got --strategies {' '.join(self.strategies)}"
                )
        return self.shared(*(getattr(self, name) for name in self.strategies))


@dataclass(frozen=True, kw_only=True)
class SupervisedFlags(RunFlags):
    """Train the whole detector from labels; a validation figure stops training and selects the weights."""

    supervised: Supervised = field(default_factory=Supervised)
    """The training."""


@dataclass(frozen=True, kw_only=True)
class CompareFlags(Request, ProgramFlags):
    """Run each strategy and seed in its own process, and compare them; with folds, every image is tested once."""

    strategies: tuple[str, ...] | None = None
    """Names of `rl_det.strategies.catalogue`, the control among them, or all; left out: the control, the same with hand-set
    votes, smooth-AP, and PPO, without votes where proposals have none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds; every strategy runs with each."""
    folds: int | None = None
    """Divide all images into so many folds, each with its own warm start, and test every image once; left out: the data's
    own test split."""
    reward: str = "pool_ap"
    """The reward of the strategies that have one."""
    workers: int = os.cpu_count() or 1
    """The number of processes at a time on a machine; its cores are divided among them."""
    on: On = "processes"
    """Where they run: in processes of this machine, or on the Ray cluster of RAY_ADDRESS (without it, on a local Ray)."""
    out: Path | None = None
    """The folder; left out: one in runs/, named after the comparison."""
    resume: bool = False
    """Go on with the comparison that the folder holds: results of the same configuration, data and weights are reused."""
    overwrite: bool = False
    """Run a strategy and seed again if the folder holds it with another configuration, other data or other weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, seeds=SEEDS, workers=at_least(1), folds=at_least(2, usual="5"))

    def folder(self) -> Path:
        """The default folder, named after the comparison."""
        data = "digit_scenes" if self.data is None else self.data.resolve().name
        folds = "" if self.folds is None else f"-{self.folds}folds"
        return self.out or Path("runs") / f"compare-{data}-{Path(self.detector).stem}-{self.budget}{folds}"


@dataclass(frozen=True, kw_only=True)
class CheckFlags(DataFlags, ProgramFlags):
    """Read a data set once: list all faults of all files, count what it holds, and draw some images with their boxes."""

    path: tyro.conf.Positional[Path]
    """A folder in COCO's, YOLO's or Pascal VOC's layout, or an annotation file."""
    strict: bool = False
    """Count boxes that would be repaired (clipped or dropped) as faults."""
    picture: Path | None = None
    """The picture to write; left out: one beside you, named after the folder."""


@dataclass(frozen=True, kw_only=True)
class ReportFlags(ProgramFlags):
    """Print the table of finished runs: one run's, or several seeds' means with intervals over seeds and test images."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs of the same strategies."""
    picture: Path | None = None
    """A PNG to draw: each row's AP over the control's, with its interval."""
    html: Path | None = None
    """A page to write: one run's, as its own report.html but without the images; or that of several runs side by side."""


@dataclass(frozen=True, kw_only=True)
class DetectFlags(DataFlags, ProgramFlags):
    """Run a tuned detector on images: write pictures with boxes, and detections as COCO results JSON."""

    detector: tyro.conf.Positional[Path]
    """A folder that a run exported."""
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, or folders of them."""
    data: Path | None = None
    """A data set, whose images are taken instead; the JSON then has its image and category ids, as pycocotools reads them."""
    split: Split = "test"
    """The split of the data set."""
    out: Path = Path("detections")
    """The folder to write to."""
    threshold: float = 0.5
    """The pictures show detections of at least this score; the JSON has all detections."""
    device: Device = "auto"
    """The device of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, threshold=within("[0, 1]"))
        for name in ("test_data", "keep_difficult"):
            if getattr(self, name):
                raise UserError(
                    f"detect has no use for {name}: the images' own data set is --data, and boxes are not read"
                )


@dataclass(frozen=True, kw_only=True)
class OnnxFlags(ProgramFlags):
    """Write a tuned detector, its module and its post-processing as one ONNX file, from an image to its detections."""

    detector: tyro.conf.Positional[Path]
    """A folder that a run exported."""
    file: tyro.conf.Positional[Path]
    """The file to write."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images; left out: any. DETR, Conditional and Deformable DETR need it."""

    def __post_init__(self) -> None:
        check_settings(self, image_size=at_least(1, usual="480 640"))


def run_finetune(flags: FinetuneFlags) -> None:
    """`rl-det finetune`."""
    flags.run(*flags.chosen())


def run_supervised(flags: SupervisedFlags) -> None:
    """`rl-det supervised`."""
    flags.run(flags.supervised)


def run_compare(flags: CompareFlags) -> None:
    """`rl-det compare`."""
    request = Request(**{f.name: getattr(flags, f.name) for f in dataclasses.fields(Request)})
    out = flags.folder()
    if not (flags.resume or flags.overwrite) and any(out.glob(f"*/{CONFIG}")):
        raise UserError(
            f"{out}: holds a comparison already; --resume goes on with it, --overwrite runs again what differs, "
            "and another folder (--out) leaves it alone"
        )
    compare(
        request,
        strategies=flags.strategies,
        seeds=flags.seeds,
        folds=flags.folds,
        reward=flags.reward,
        workers=flags.workers,
        on=flags.on,
        out=out,
        overwrite=flags.overwrite,
    )
    print((out / "comparison.md").read_text(encoding="utf-8"), end="")
    print(f"The comparison, its picture, its page and all runs are in {out}")


def run_check(flags: CheckFlags) -> None:
    """`rl-det check`."""
    picture = flags.picture or Path(f"{flags.path.resolve().stem}-check.png")
    form_of(picture)  # before all is read
    found = inspect(
        flags.path,
        strict=flags.strict,
        limits=flags.limits_of_images,
        keep_difficult=flags.keep_difficult,
        test=flags.test_data,
    )
    print(found.text(flags.path), end="")
    found.draw(picture)
    print(f"the picture is {picture}")
    if not found.is_sound:
        raise SystemExit(1)


def run_report(flags: ReportFlags) -> None:
    """`rl-det report`."""
    print(report(flags.folders, html=flags.html, picture=flags.picture), end="")
    if flags.html is not None:
        print(f"the page is {flags.html}")


def run_detect(flags: DetectFlags) -> None:
    """`rl-det detect`."""
    tuned = load_tuned(flags.detector, device=flags.device)
    if (flags.data is None) != bool(flags.images):
        raise UserError("detect needs an image at least, or --data; not both")
    files, image_ids, category_ids = image_files(flags.images) if flags.images else [], None, tuned.category_ids
    if flags.data is not None:
        files, image_ids, category_ids = _of_data(flags, tuned.classes)
    pictures = pictures_of(files, flags.out, flags.limits_of_images)
    with bar("detect", len(files)) as shown:
        written = draw_and_write(
            tuned.detect,
            tuned.classes,
            category_ids,
            pictures,
            flags.out,
            flags.threshold,
            image_ids=image_ids,
            limits=flags.limits_of_images,
            on_image=shown.advance,
        )
    print(f"the pictures and {written.name} are in {flags.out}")


def run_onnx(flags: OnnxFlags) -> None:
    """`rl-det onnx`."""
    written = load_tuned(flags.detector, device="cpu").to_onnx(flags.file, image_size=flags.image_size)
    print(f"the ONNX file is {written}")


def _of_data(flags: DetectFlags, classes: Sequence[str]) -> tuple[list[Path], dict[Path, list[int]], tuple[int, ...]]:
    """The files of a data set's split, the image ids of each, and its category ids for the detector's classes."""
    assert flags.data is not None
    splits = flags.open_folder(flags.data)
    missing = [name for name in classes if name not in splits.classes]
    if missing:
        raise UserError(f"{flags.data}: must have the detector's classes; {', '.join(missing)} is not among its own")
    images = splits[flags.split]
    assert isinstance(images, AnnotatedImages)
    image_ids: dict[Path, list[int]] = {}
    for own in images.images:
        image_ids.setdefault(own.file, []).append(own.image_id)
    ids = dict(zip(splits.classes, splits.category_ids, strict=True))
    return list(image_ids), image_ids, tuple(ids[name] for name in classes)


COMMANDS: dict[str, tuple[type, Callable[..., None]]] = {
    "finetune": (FinetuneFlags, run_finetune),
    "supervised": (SupervisedFlags, run_supervised),
    "compare": (CompareFlags, run_compare),
    "check": (CheckFlags, run_check),
    "report": (ReportFlags, run_report),
    "detect": (DetectFlags, run_detect),
    "onnx": (OnnxFlags, run_onnx),
}
"""The commands. A new command is one pair here."""


def parse(flags_type: type[Flags], arguments: Sequence[str] | None = None, prog: str | None = None) -> Flags:
    """The flags of a command; `--budget` and `--data` set the defaults of the budget's and the recipe's numbers.

    Raises `UsageError`, in one line, for wrong flags.
    """
    defaults = _defaults(flags_type, arguments)
    given: dict[str, Any] = {} if defaults is None else {"default": defaults}
    with one_line(prog):
        flags: Flags = tyro.cli(flags_type, args=arguments, prog=prog, **given)
    return flags


def _defaults(flags_type: type[Flags], arguments: Sequence[str] | None) -> Flags | None:
    """The flags that follow from `--budget` and `--data`; None where none do."""
    if not issubclass(flags_type, RunFlags):
        return None
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--budget", choices=tuple(BUDGETS), default="full")
    early.add_argument("--data")
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:  # which tyro says better
        return None
    recipe = DIGIT_RECIPE if known.data is None else PHOTO_RECIPE
    return flags_type(budget=known.budget, limits=BUDGETS[known.budget], recipe=recipe)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command's entry point."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in COMMANDS:
        flags_type, run = COMMANDS[given[0]]
        resumes = "resume" in {f.name for f in dataclasses.fields(flags_type)}
        with program(again="--resume" if resumes else "", arguments=given):
            if not issubclass(flags_type, RunFlags):
                check_alone(f"rl-det {given[0]}")
            run(parse(flags_type, given[1:], prog=f"rl-det {given[0]}"))
        return
    commands = {name: _command(flags, run) for name, (flags, run) in COMMANDS.items()}
    with program(again="", arguments=given), one_line("rl-det"):
        tyro.extras.subcommand_cli_from_dict(commands, prog="rl-det", description=__doc__, args=given)


def _command(flags_type: type, run: Callable[..., None]) -> Callable[..., None]:
    """A function with one parameter whose fields are the command's flags, without a prefix."""

    def command(flags: object) -> None:
        run(flags)

    command.__annotations__ = {"flags": Annotated[flags_type, tyro.conf.arg(name="")], "return": None}
    command.__doc__ = flags_type.__doc__
    return command


if __name__ == "__main__":
    main()
