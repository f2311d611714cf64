"""Adds to the site what is not in docs/: README, results, notebooks, the gallery and the reference.

mkdocs calls the functions that begin with `on_`. Links between files of the repository stay as they are there, and are
turned here into links between pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
SHIM = "assets/javascripts/iframe-worker.js"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that are files beside docs/, by their path in the repository."""
PACKAGES = (
    "circuits",
    "data",
    "edits",
    "evidence",
    "networks",
    "objectives",
    "patterns",
    "plots",
    "statistics",
    "tables",
    "train",
    "weights",
)
"""Packages with a page of the reference each, beside the groups of `jaxheads` itself."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages that are generated in the navigation."""
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"][1:1] = list(reference())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the pictures of results."""
    files.append(File.generated(config, SHIM, abs_src_path=str(ROOT / "docs/site/iframe-worker.js")))
    for path, page in PAGES.items():
        _add(files, config, page, (ROOT / path).read_text(encoding="utf-8"))
    for path in sorted((ROOT / "results").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path.name == "summary.md" or path.parent.name == "results":
            _add(files, config, path.relative_to(ROOT).as_posix(), text)
    for suffix in ("png", "svg"):
        for path in sorted((ROOT / "results").rglob(f"*.{suffix}")):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _add_notebook(files, config, path)
    _add(files, config, "gallery.md", gallery())
    for page, text in reference().items():
        _add(files, config, page, text)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    source = next((path for path, own in PAGES.items() if own == page.file.src_uri), None)
    if source is None:
        generated = page.file.src_uri.split("/")[0] in ("results", "notebooks")
        source = page.file.src_uri if generated else f"docs/{page.file.src_uri}"
    here = posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if not (ROOT / target).exists():
            return link[1]  # mkdocs says that it leads nowhere
        if target.endswith(".ipynb"):
            target = target.removesuffix(".ipynb") + ".md"
        return posixpath.relpath(PAGES.get(target, target.removeprefix("docs/")), here or ".")

    return LINK.sub(turned, markdown)


def gallery() -> str:
    """The page of all results: each with its title, its first sentences and its first picture."""
    lines = ["# Gallery", "", "Every committed page of results, with the command that makes it on the page.", ""]
    for path in sorted((ROOT / "results").rglob("summary.md")):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(ROOT).as_posix()
        title = next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
        lines += [f"## [{title}]({place})", "", _first_paragraph(text), ""]
        pictures = sorted(path.parent.glob("*.png"))
        if pictures:
            picture = pictures[0].relative_to(ROOT).as_posix()
            lines += [f"[![{title}]({picture}){{ width=520 }}]({place})", ""]
    return "\n".join(lines)


def _first_paragraph(text: str) -> str:
    """The first paragraph after the title that is not a table or a picture, without its links."""
    for paragraph in text.split("\n\n")[1:]:
        if not paragraph.lstrip().startswith(("|", "!", "#", "-", "```", "*Made")):
            return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph).strip()
    return ""


def reference() -> dict[str, str]:
    """The pages of the reference, by their place: one for each group of names in `jaxheads`, one for each package."""
    text = (ROOT / "jaxheads/__init__.pyi").read_text(encoding="utf-8")
    listed = text[text.index("__all__ = [") :]
    pages, group = {}, ""
    for comment, name in re.findall(r'^    (?:# (.*)|"(\w+)",)$', listed, re.MULTILINE):
        if comment:
            group = comment
        elif name not in PACKAGES:
            pages.setdefault(_place(group), [f"# {group[0].upper()}{group[1:]}"]).append(f"::: jaxheads.{name}")
    for package in PACKAGES:
        # The page's own title is the anchor of the package, so that it is not printed twice.
        pages[f"reference/jaxheads-{package}.md"] = [
            f"# jaxheads.{package} {{ #jaxheads.{package} }}",
            f"::: jaxheads.{package}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}",
        ]
    return {place: "\n\n".join(lines) + "\n" for place, lines in pages.items()}


def _place(group: str) -> str:
    return f"reference/{re.sub(r'[^a-z]+', '-', group.lower()).strip('-')}.md"


def _add(files: Files, config: MkDocsConfig, place: str, text: str) -> None:
    files.append(File.generated(config, place, content=text))


def _add_notebook(files: Files, config: MkDocsConfig, path: Path) -> None:
    """Add a notebook as a page, with its pictures beside it."""
    stem = f"notebooks/{path.stem}"
    notebook = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": path.stem})
    _add(files, config, f"{stem}.md", text)
    for name, content in resources.get("outputs", {}).items():
        files.append(File.generated(config, f"notebooks/{name}", content=content))
