"""One folder for several processes: the main process has it, every other one has a copy of its own, of which nothing stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rl_det import parallel


@contextmanager
def mirrored(folder: Path, *patterns: str) -> Iterator[Path]:
    """The folder in the main process; in others, a temporary folder with copies of the files that match the patterns.

    So all processes go on from the same files, on whatever machine they are, and one alone writes.
    """
    if parallel.world_size() == 1:
        yield folder
        return
    files = parallel.of_main(
        lambda: {
            str(file.relative_to(folder)): file.read_bytes() for pattern in patterns for file in folder.glob(pattern)
        }
    )
    with TemporaryDirectory() as own:
        if not parallel.is_main():
            for name, content in files.items():
                (Path(own) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(own) / name).write_bytes(content)
        files.clear()  # all of a run's checkpoints
        yield folder if parallel.is_main() else Path(own)
