"""A hook of mkdocs: the site also has pages and pictures that lie beside docs/, and links to them work there too."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = {
    "README.md": "index.md",
    **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md")},
    **{
        f"experiments/{name}.md": f"experiments/{name}.md" for name in ("README", "NUMBERS", "LOG", "benchmarks/README")
    },
    **{str(picture.relative_to(ROOT)): str(picture.relative_to(ROOT)) for picture in ROOT.glob("experiments/*.png")},
}
"""Files of the repository, and their places in the site."""
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie beside docs/."""
    for source, place in BESIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site; others stay as they are."""
    place = page.file.src_uri
    source = {place: source for source, place in BESIDE.items()}.get(place, f"docs/{place}")

    def of_site(link: re.Match[str]) -> str:
        target = normpath(PurePosixPath(source).parent / link[1])
        there = BESIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return link[0] if there is None else f"]({relpath(there, PurePosixPath(place).parent)}{link[2] or ''})"

    return LINK.sub(of_site, markdown)
