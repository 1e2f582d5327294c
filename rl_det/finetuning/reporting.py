"""What finished runs have found: one table, joined over seeds, and the page and the picture if they are wanted."""

from collections.abc import Sequence
from pathlib import Path

from rl_det.errors import UserError
from rl_det.finetuning.compared import check_joined, compared_seeds, without_truths
from rl_det.finetuning.results import load_results
from rl_det.finetuning.run_page import page_of_folder, page_of_seeds
from rl_det.progress import tell
from rl_det.report.comparison import markdown, markdown_without_intervals
from rl_det.report.comparison_picture import draw_comparison
from rl_det.storage.files import write_whole


def report(folders: Sequence[Path], *, html: Path | None = None, picture: Path | None = None) -> str:
    """The table of one run, or of runs that differ in their seeds, as text; `html` and `picture` are files to write.

    Raises ValueError for folders that hold no finished run, for runs that may not be joined, and for a file that needs true
    boxes where a run has none.
    """
    if not folders:
        raise UserError("report needs a folder at least")
    runs = [load_results(folder) for folder in folders]
    check_joined(runs)
    lacking = without_truths(runs)
    needing = {"--picture": picture, "--html": html if len(runs) > 1 else None}
    if wanted := [name for name, file in needing.items() if file is not None and lacking]:
        raise UserError(f"{lacking}; a picture needs it: give runs that have it, or leave out {' and '.join(wanted)}")
    if lacking and len(runs) > 1:
        tell(f"warning: {lacking}; so brackets go from the lowest to the highest seed, and are no 95 % intervals")
    compared = compared_seeds(folders) if not lacking and (len(runs) > 1 or picture) else None
    if html is not None:
        page = page_of_folder(runs[0]) if len(runs) == 1 or compared is None else page_of_seeds(compared, folders)
        write_whole(html, page)
    if picture is not None and compared is not None:
        draw_comparison(compared, picture)
    if len(runs) == 1:
        return runs[0].table()
    return (markdown(compared) if compared else markdown_without_intervals([run.to_json() for run in runs])) + "\n"
