"""The pages for people who come from other packages: what they do there and here gives the same numbers.

These packages need torch and more, so their environment is one of its own: `make test-peers`.
"""

from pathlib import Path

import jax
import pytest

from tests.test_readme import ROOT, run_in_order

PAGES = {"transformerlens": "transformer_lens", "nnsight": "nnsight", "bertviz": "bertviz"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_numbers_are_equal(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(PAGES[page], reason="`make test-peers` installs the packages that these pages are beside")
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run_in_order(ROOT / f"docs/coming-from/{page}.md")
