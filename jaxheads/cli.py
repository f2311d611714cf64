"""The command line: `jaxheads atlas`, `page`, `measure`, `ablate`, `patch`, `compare`, `runs` and `zoo`.

JAX and all that computes are imported by the command that needs them: help and the zoo's list open at once.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from .commands.options import QUESTIONS, Compare, OnData, Page, check, config_path, from_file
from .commands.runs import Runs, runs
from .extras import MissingExtraError
from .files import check_writable, disk_is_full
from .interrupts import leave, terminable


@dataclass(frozen=True)
class Atlas:
    """Every head of a model, measured, ablated and named."""

    model: Annotated[str, tyro.conf.Positional] = "smollm2-135m"
    """A zoo name (see `jaxheads zoo`), a hub id, a local directory, or a .gguf file. The default is
    SmolLM2-135M-Instruct, quantised to 4 bits."""

    stack: str = "all"
    """The stack of a model that has several, such as the encoder, decoder or cross of an encoder–decoder. With all,
    each has a folder of its own."""

    text: Path | None = None
    """Prose to measure on: a UTF-8 file, passages apart by blank lines. Without it, the package's own."""

    sentences: Path | None = None
    """A treebank in CoNLL-U: heads may then earn the names of syntactic relations and of entities, too."""

    images: Path | None = None
    """Folder of images, for a model that reads them. Without it, crops of one photograph."""

    audio: Path | None = None
    """Folder of recordings NAME.wav (mono, 16 bits, 16 kHz), each with its words in NAME.txt, for a model that reads
    audio. Without it, a reading of ten sentences, which is fetched once (20 MB)."""

    out: Path | None = None
    """Directory to write to; ./atlas-MODEL/ when left out."""

    examples: int = 8
    """Examples of each ablation; the time of a run grows with their number."""

    measured: int = 32
    """Sequences of repeated random tokens, or crops of the photograph, to measure on."""

    seed: int = 0
    """Seed of everything random."""

    page: bool = True
    """Write heads.html, too: one file that shows every head, to open in a browser."""

    distributed: bool = False
    """One of several processes, each started with this same command (see docs/clusters.md)."""


@dataclass(frozen=True)
class Zoo:
    """Models that can be had without a hub: what they are, from where, how large."""


KINDS = {"atlas": Atlas, "page": Page, "zoo": Zoo, **QUESTIONS, "compare": Compare, "runs": Runs}
"""The commands by name."""


def _commands(defaults: Mapping[str, OnData]) -> Any:
    """Return the union of the commands that tyro reads, some with other defaults."""
    stated: dict[str, Any] = {name: {"default": default} for name, default in defaults.items()}
    kinds = [Annotated[kind, tyro.conf.subcommand(name, **stated.get(name, {}))] for name, kind in KINDS.items()]
    return tyro.conf.OmitSubcommandPrefixes[Union[tuple(kinds)]]  # noqa: UP007 - built at run time


COMMANDS = _commands({})


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 for an error (printed in one line), 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with terminable():
            path = config_path(words) if words and words[0] in QUESTIONS else None
            commands = COMMANDS if path is None else _commands({words[0]: from_file(QUESTIONS[words[0]], path)})
            _run(tyro.cli(commands, prog="jaxheads", args=words), words[0])
    except KeyboardInterrupt:
        print("\njaxheads: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        if arguments is None:
            leave(130)
        return 130
    except Exception as error:
        if not isinstance(error, ValueError | OSError | MissingExtraError) and not disk_is_full(error):
            raise
        print(f"jaxheads: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: Any, command: str) -> None:
    if isinstance(options, Zoo):
        _zoo()
    elif isinstance(options, Compare):
        _compare(options)
    elif isinstance(options, Runs):
        runs(options)
    elif isinstance(options, Page):
        _page(options)
    elif isinstance(options, OnData):
        check(options, command)
        from .commands.questions import ask

        ask(options, command)
    else:
        _atlas(options)


def _page(options: Page) -> None:
    from .commands.pages import make_page

    given = {name: getattr(options, name) for name in ("text", "images", "audio", "seed")}

    def make_atlas(model: str, out: Path) -> None:
        _atlas(Atlas(model, out=out, page=False, **given))

    print(f"open {make_page(options, make_atlas)}")


def _compare(options: Compare) -> None:
    if not 0 < options.level < 1:
        raise ValueError(f"--level must lie between 0 and 1, got {options.level}")
    if len(options.folders) < 2:
        raise ValueError(f"compare expects two folders or more, got {len(options.folders)}")
    from .commands.compare import compare, page, save

    comparisons = compare(options.folders, options.level)
    print(page(comparisons))
    if options.out is not None:
        print(f"\n{len(save(comparisons, options.out))} files in {options.out}")


def _atlas(options: Atlas) -> None:
    """Make the atlas of a model, save it and print it; in several processes, the first one writes."""
    _check_atlas(options)
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from .models.load import load
    from .report.atlas import atlas

    if options.distributed:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"--distributed: {error} Each process names them, see docs/clusters.md") from error
    devices = Mesh(np.array(jax.devices()), ("data",)) if jax.device_count() > 1 else None
    first = jax.process_index() == 0
    out = options.out or Path(f"atlas-{Path(options.model).name.removesuffix('.gguf')}")
    unfinished = out / ".unfinished"
    check_writable(out)
    sentences = _sentences_of(options)
    model = load(options.model)
    stacks = list(model.stacks) if options.stack == "all" else [model.stack(options.stack).name]
    results = []
    for name in stacks:
        result = atlas(
            model,
            stack=name,
            text=options.text,
            sentences=sentences if _reads_words(model.stack(name)) else None,
            images=options.images,
            audio=options.audio,
            examples=options.examples,
            measured=options.measured,
            seed=options.seed,
            devices=devices,
            progress=first,
            resume=unfinished,
        )
        if first:
            folder = out / name if len(stacks) > 1 else out
            written = result.save(folder)
            print(f"{result.text()}\n{len(written)} files in {folder}")
            results.append(result)
    if first and options.page:
        from .commands.pages import page_of_atlas

        print(f"open {page_of_atlas(model, results, options, out)}")
    if first:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sentences_of(options: Atlas) -> Any:
    """Return the labelled sentences that are asked for, or None; raises ValueError, with the flag's name."""
    from .data import conllu

    try:
        return None if options.sentences is None else conllu(options.sentences)
    except ValueError as error:
        raise ValueError(f"--sentences: {error}") from error


def _reads_words(stack: Any) -> bool:
    return stack.queries.kind == "tokens" and not stack.is_cross


def _check_atlas(options: Atlas) -> None:
    """Raise ValueError, with the flag's name, for what the atlas would refuse after the model was fetched."""
    from .checks import seed, whole

    whole("--examples", options.examples, 1)
    whole("--measured", options.measured, 1)
    seed("--seed", options.seed)
    if not options.stack.strip():
        raise ValueError("--stack must be a stack of the model, or all; got ''")
    if not options.model.strip():
        raise ValueError("MODEL must be a zoo name, a hub id, a directory or a .gguf file, got ''")
    for flag, folder in (("--images", options.images), ("--audio", options.audio)):
        if folder is not None and not folder.expanduser().is_dir():
            raise ValueError(f"{flag} must be a folder; {folder} is none")
    if options.text is not None and not options.text.expanduser().is_file():
        raise ValueError(f"--text must be a UTF-8 file, passages apart by blank lines; {options.text} is none")
    if options.sentences is not None and not options.sentences.expanduser().is_file():
        raise ValueError(f"--sentences must be a file in CoNLL-U; {options.sentences} is none")


def _zoo() -> None:
    """Print the zoo as a Markdown table."""
    from tabulate import tabulate

    from .models.loading.zoo import zoo_table

    titles = {"megabytes": "MB"}
    rows = [{**row, "cached": "yes" if row["cached"] else "no"} for row in zoo_table()]
    named = [{titles.get(column, column): value for column, value in row.items()} for row in rows]
    print(tabulate(named, headers="keys", tablefmt="pipe"))


if __name__ == "__main__":
    sys.exit(main())
