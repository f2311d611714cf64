"""Progress: a bar on a terminal and in a notebook, lines in a log elsewhere, nothing where it is turned off."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from jaxheads import progress as module
from jaxheads.models.loading.hub_progress import BYTES, bars_of_the_hub
from jaxheads.progress import progress


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "JAXHEADS_PROGRESS"):
        monkeypatch.delenv(name, raising=False)


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


def test_in_a_log_there_is_a_line_at_the_start_one_a_minute_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO, "jaxheads")
    monkeypatch.setattr(module, "EACH", 0.05)
    with progress(2000, "counting", True) as advance:
        advance(500, "loss 3")
        while len(caplog.messages) < 3:
            time.sleep(0.01)
        advance(1500)
    first, *between, last = caplog.messages
    assert first == "counting: started"
    assert between[0].startswith("counting: 500 of 2,000, 25 %, 0:00:00 passed, about 0:00:00 left, loss 3")
    assert last.startswith("counting: finished, 2,000 of 2,000, 100 %, 0:00:00 passed")
    assert {record.name for record in caplog.records} == {"jaxheads"}


def test_a_run_that_is_stopped_says_so(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "jaxheads")

    def stopped() -> None:
        with progress(None, "fetching", True, unit="bytes") as advance:
            advance(1_500_000)
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        stopped()
    assert caplog.messages[-1] == "fetching: stopped, 1.5 MB, 0:00:00 passed"


@pytest.mark.parametrize(("show", "environment"), [(False, ""), (None, ""), (None, "0")])
def test_what_was_not_asked_for_or_is_quick_is_silent(
    show: bool | None, environment: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO, "jaxheads")
    monkeypatch.setenv("JAXHEADS_PROGRESS", environment)
    if environment or show is False:
        monkeypatch.setattr(module, "PATIENCE", 0)
    with progress(3, "counting", show) as advance:
        advance(3)
        time.sleep(0.05)
    assert not caplog.messages


def test_what_takes_longer_is_shown_unasked(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    caplog.set_level(logging.INFO, "jaxheads")
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with progress(3, "counting", None) as advance:
        while not caplog.messages:
            time.sleep(0.01)
        advance(3)
    assert [message.split(",")[0] for message in caplog.messages] == ["counting: started", "counting: finished"]


def test_the_end_is_told_where_the_work_ends_while_the_first_line_is_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO, "jaxheads")
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    begun, write = threading.Event(), module.LOGGER.info

    def slowly(*words: object) -> None:
        write(*words)
        if not begun.is_set():
            begun.set()
            time.sleep(0.2)

    monkeypatch.setattr(module.LOGGER, "info", slowly)
    with progress(3, "counting", None) as advance:
        begun.wait()
        advance(3)
    assert [message.split(",")[0] for message in caplog.messages] == ["counting: started", "counting: finished"]


LOGGED = """
import logging, sys
{settings}
from jaxheads.progress import progress
with progress(3, "counting", True) as advance:
    advance(3)
"""


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ("", 2),
        ("logging.basicConfig(level='INFO')", 2),
        ("logging.basicConfig()", 0),
        ("logging.getLogger('jaxheads').addHandler(logging.NullHandler())", 0),
    ],
)
def test_lines_go_where_the_user_s_logging_says_and_else_to_standard_error(settings: str, lines: int):
    command = [sys.executable, "-c", LOGGED.format(settings=settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == lines
    assert done.stderr.count("counting") == lines


def test_a_download_from_the_hub_is_one_progress_of_bytes(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "jaxheads")
    with bars_of_the_hub("fetching owner/name") as bars:
        files = bars(total=3, name="huggingface_hub.files")
        arriving = bars(total=0, name=BYTES, unit="B")
        files.update(1)
        assert not caplog.messages, "what is in the cache is no download"
        arriving.total = 4_000_000
        arriving.update(1_000_000)
        arriving.update(3_000_000)
        arriving.close()
    assert caplog.messages[0] == "fetching owner/name: started"
    assert caplog.messages[-1].startswith("fetching owner/name: finished, 4.0 MB of 4.0 MB, 100 %")


WITHOUT_TORCH = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name.split(".")[0] == "torch" else find(name, *package)
"""

IN_A_NOTEBOOK = [
    f"{WITHOUT_TORCH}\nimport sys\nsys.modules['ipywidgets'] = None",
    "import jaxheads as jh\nmodel = jh.load('glassllm-en')\nbatch = model.encode(['hello there'] * 4)\n"
    "import huggingface_hub.file_download",
    "table = jh.ablate(model, batch, jh.loss(), 'zero', progress=True)",
    "table = jh.ablate(model, batch, jh.loss(), 'zero', progress=False)",
]


@pytest.mark.weights
def test_a_notebook_shows_a_bar_without_ipywidgets_and_no_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [nbformat.v4.new_code_cell(cell) for cell in IN_A_NOTEBOOK]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
    setting, loading, asked, silent = (cell.outputs for cell in notebook.cells)
    assert not setting
    assert not loading, "importing and loading greet nobody"
    [bar] = asked
    assert "ablate: " in bar.data["text/html"]
    assert "100%" in bar.data["text/html"] or "━━━" in bar.data["text/html"]
    assert not silent


QUIET = f"""
{WITHOUT_TORCH}
import jaxheads as jh
model = jh.load("glassllm-en")
jh.run(model, model.encode(["hello there"]))
"""


@pytest.mark.weights
def test_importing_and_loading_greet_nobody():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRANSFORMERS", "HF_"))}
    command = [sys.executable, "-W", "default", "-c", QUIET]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
