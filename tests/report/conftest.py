"""The browser for tests of pages, and a small model with its atlas."""

from pathlib import Path

import pytest

import jaxheads as jh
from jaxheads.report.atlas import Atlas, atlas
from jaxheads.report.portrait import AtlasTables, Portrait, portrait

from ..browser import browser, opened
from .small_models import TEXT, small_decoder, with_roles

__all__ = ["browser", "opened"]


@pytest.fixture(scope="session")
def prose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prose") / "nine.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def small() -> jh.Model:
    return small_decoder()


@pytest.fixture(scope="session")
def small_atlas(small: jh.Model, prose_file: Path) -> Atlas:
    return atlas(small, text=prose_file, examples=2, measured=8)


@pytest.fixture(scope="session")
def drawn(small: jh.Model, small_atlas: Atlas, prose_file: Path) -> Portrait:
    """The portrait of the small model, one of whose heads is given a role."""
    tables = AtlasTables.of(small_atlas)
    named = AtlasTables(with_roles(tables.table, {(1, 0): "induction"}), tables.effects, tables.again)
    return portrait(small, named, text=prose_file)
