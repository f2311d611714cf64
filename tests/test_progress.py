"""The bar shows on a terminal and only there."""

import pytest

from jaxheads.progress import progress


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("show", [True, False])
def test_silent_without_a_terminal(show: bool, capfd: pytest.CaptureFixture[str]):
    with progress(3, "counting", show) as advance:
        advance()
        advance(2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("total", [3, None])
def test_forced_it_counts_on_stderr(total: int | None, capfd: pytest.CaptureFixture[str]):
    with progress(total, "counting [heads]", True, force=True) as advance:
        advance()
        advance(2)
    out, err = capfd.readouterr()
    assert out == ""
    assert "counting [heads]" in err
    assert "3/3" in err if total else "3/?" in err


def test_an_error_passes_through():
    with pytest.raises(KeyError), progress(3, "counting", True):
        raise KeyError("stopped")
