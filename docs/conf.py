"""The site of the documents: every page that docs/README.md and docs/adr/README.md name, with a search that works without a server.

    make docs

What these two pages list is the site's table of contents, so that nothing is kept twice; a page that neither names is a warning, and
warnings fail the build, as links and anchors that lead nowhere do.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from pygments.lexers.special import TextLexer

project = "Linewatch"
author = "The Linewatch authors"
copyright = "The Linewatch authors, Apache-2.0"  # noqa: A001
extensions = ["myst_parser"]
root_doc = "docs/README"
include_patterns = ["docs/**.md", "*.md", "benchmarks/README.md", "changelog.d/README.md"]
exclude_patterns = ["README.md"]
suppress_warnings = ["myst.header"]  # pages that begin a section below a list of steps
myst_heading_anchors = 4
myst_linkify_fuzzy_links = False
html_theme = "furo"
html_title = "Linewatch"
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False
html_use_index = False
html_theme_options = {"top_of_page_buttons": []}
_LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+\.md)\)")
_ROOT = Path(__file__).parents[1]


def _contents(app: Any, name: str, source: list[str]) -> None:
    """Give a page of links their table of contents, a part for each bullet that begins in bold."""
    del app
    if name not in (root_doc, "docs/adr/README"):
        return
    folder = PurePosixPath(name).parent
    for bullet in re.split(r"^(?=\* |\d+\. )", source[0], flags=re.MULTILINE)[1:]:
        caption = re.match(r"\* \*\*(.+?)\*\*", bullet)
        pages = [f"/{_normal(folder / link)}" for link in _LINK.findall(bullet)]
        options = [":hidden:", *([f":caption: {caption[1]}"] if caption else [])]
        source[0] += "\n\n```{toctree}\n" + "\n".join([*options, "", *pages]) + "\n```\n"


def _normal(path: PurePosixPath) -> str:
    """A path from the root of the sources, without its suffix."""
    return (_ROOT / path).resolve().relative_to(_ROOT.resolve()).with_suffix("").as_posix()


def _first_page(app: Any, error: Exception | None) -> None:
    """A page at the top of the site that leads to the first one."""
    if error is None and app.builder.format == "html":
        front = '<!doctype html><meta charset="utf-8"><title>Linewatch</title><meta http-equiv="refresh" content="0; url=docs/README.html">'
        (Path(app.outdir) / "index.html").write_text(front)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)  # drawn where the sources are read; the site has the same in text below
    app.connect("source-read", _contents)
    app.connect("build-finished", _first_page)
