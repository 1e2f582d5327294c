"""A header and rows -> a table that a notebook shows."""

from collections.abc import Sequence

from IPython.display import Markdown


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """The first column to the left, the others to the right; floats with two digits."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *[[_text(value) for value in row] for row in rows]]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))  # type: ignore[no-untyped-call]


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
