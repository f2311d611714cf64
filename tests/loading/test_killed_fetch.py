"""A download that is killed ends with its process, and its files go."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxheads.models.loading.fetch import fetch

from .test_fetch import GOOD, kept, offer, only_toys

__all__ = ["offer", "only_toys"]  # fixtures

DOWNLOADS = """
import sys
from pathlib import Path
from tests.loading.test_fetch import ENTRY
from jaxheads.models.loading import fetch as fetching
fetching.PIP = fetching.PIP[: fetching.PIP.index("sys.argv")] + '''
import subprocess, time
print(os.getpid(), subprocess.Popen(["sleep", "600"]).pid, file=open(os.environ["TMPDIR"] + "/pids", "w", 1))
open(os.environ["TMPDIR"] + "/half.whl", "wb").write(bytes(10**6))
time.sleep(600)
'''
fetching.fetch_files(ENTRY, Path(sys.argv[1]) / "zoo" / "toy")
"""
"""A program that fetches the toy by a pip that never ends, which has started a process of its own."""


def until(condition):
    for _ in range(400):
        if (value := condition()) is not None:
            return value
        time.sleep(0.05)
    raise AssertionError("nothing happened")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_download_leaves_no_process_and_the_next_call_sweeps(number, tmp_path, offer):
    command = [sys.executable, "-c", DOWNLOADS, str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    whole = until(lambda: next(iter(tmp_path.glob("zoo/.*/half.whl")), None))
    pids = [int(word) for word in (whole.parent / "pids").read_text().split()]
    process.send_signal(number)
    process.wait()
    until(lambda: None if any(map(running, pids)) else True)
    assert kept(tmp_path) == [] or number != signal.SIGINT
    offer(GOOD)
    fetch("toy", tmp_path)
    assert kept(tmp_path) == ["zoo/toy/config.json", "zoo/toy/w.bin"]
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["toy"]


def running(pid: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
