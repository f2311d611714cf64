"""The site of the documentation: it builds without a warning, its blocks run, it has every public name."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

import jaxheads as jh
from tests.test_readme import ROOT, run_in_order

DOCS = ROOT / "docs"
PAGES = ["see-heads", "generate", "what-heads-do", "does-it-matter", "how-heads-form", "how-sure", "models-and-runs"]
"""Pages whose blocks run in order on a model of the zoo."""

ERRORS: dict[str, Callable[[jh.Model], object]] = {
    "no model 'glassllm'": lambda model: jh.load("glassllm"),
    "takes up to 128 tokens; got 3003": lambda model: model.encode("word " * 3000),
    "clean and corrupt must have the same shape and the same padding": lambda model: jh.patch(
        model, ["The rain fell on"], ["Rain"], jh.logit(" the")
    ),
    "is 8 tokens of glassllm-en": lambda model: jh.ablate(model, ["The rain"], jh.logit(" thermodynamics")),
    "hits nothing": lambda model: jh.zero_heads(model, [(99, 1)]),
    "has the sites resid_pre, q, k, v": lambda model: jh.run(model, ["a"], capture=("patern",)),
    "'inducton' is not known": lambda model: jh.measure(model, ["a b"], "inducton"),
    "need at least 2 examples each, so that no example is its own mean": lambda model: jh.ablate(
        model, ["The rain fell"], jh.loss(), "mean"
    ),
    "expected at least 4 examples, two for each half": lambda model: jh.held_out(
        jh.measure(model, ["a b", "c d"], "entropy")
    ),
}
"""Messages that docs/errors.md quotes, and calls that raise them."""


@pytest.mark.weights
@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        run_in_order(DOCS / f"{page}.md")


@pytest.mark.weights
@pytest.mark.parametrize("message", ERRORS)
def test_the_errors_are_as_the_page_quotes_them(message: str):
    assert message in (DOCS / "errors.md").read_text(encoding="utf-8").replace("\n", " ")
    with pytest.raises(ValueError, match=re.escape(message)):
        ERRORS[message](jh.load("glassllm-en"))


def test_the_site_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Links and anchors between pages are followed, and all names of the reference are found."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    build(config)
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    links = re.compile(r'(?:<script[^>]*src|<link rel="(?:stylesheet|preconnect)"[^>]*href)="(https?:[^"]*)')
    fetched = [link for text in pages.values() for link in links.findall(text)]
    assert not fetched, "the site fetches nothing from a network"
    reference = "".join(text for path, text in pages.items() if path.parent.name == "reference")
    missing = [name for name in jh.__all__ if f'id="jaxheads.{name}"' not in reference]
    assert not missing, f"the reference lacks {missing}"
    gallery = pages[tmp_path / "site/gallery.html"]
    for page in (ROOT / "results").rglob("summary.md"):
        assert page.relative_to(ROOT).with_suffix(".html").as_posix() in gallery
