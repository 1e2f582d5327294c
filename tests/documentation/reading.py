"""The pages of docs/ as the tests read them: their blocks of code, their tables and their links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of code of docs/PAGE.md in this language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


def without_code(text: str) -> str:
    """A page's text without its blocks and pieces of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of tables in Markdown, but for the rules under headers."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
