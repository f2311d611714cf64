"""The command line: `jaxheads atlas` and `jaxheads zoo`."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from jax.sharding import Mesh


@dataclass(frozen=True)
class Atlas:
    """Every head of a model, measured, ablated and named."""

    model: Annotated[str, tyro.conf.Positional] = "smollm2-135m"
    """A zoo name (see `jaxheads zoo`), a hub id, a local directory, or a .gguf file."""

    text: Path | None = None
    """Prose to measure on: a UTF-8 file, passages apart by blank lines. Without it, the package's own."""

    out: Path | None = None
    """Where to write; results/atlas-MODEL when left out."""

    examples: int = 8
    """Of each ablation; the time of a run grows with them."""

    measured: int = 32
    """Sequences of repeated random tokens to measure on."""

    seed: int = 0
    """Of everything random."""

    distributed: bool = False
    """One of several processes, each started with this same command (see the README)."""


@dataclass(frozen=True)
class Zoo:
    """Models that can be had without a hub: what they are, from where, how large."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, 1 for an error (told in one line), 130 when interrupted."""
    command = tyro.cli(
        tyro.conf.OmitSubcommandPrefixes[
            Annotated[Atlas, tyro.conf.subcommand("atlas")] | Annotated[Zoo, tyro.conf.subcommand("zoo")]
        ],
        prog="jaxheads",
        args=arguments,
    )
    _keep_compilations()
    try:
        if isinstance(command, Zoo):
            _zoo()
        else:
            _atlas(command)
    except (ValueError, OSError) as error:
        print(f"jaxheads: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\njaxheads: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _atlas(options: Atlas) -> None:
    from .models.load import load
    from .report.atlas import atlas

    if options.distributed:
        jax.distributed.initialize()
    devices = Mesh(np.array(jax.devices()), ("data",)) if jax.device_count() > 1 else None
    first = jax.process_index() == 0
    out = options.out or Path("results") / f"atlas-{Path(options.model).name.removesuffix('.gguf')}"
    unfinished = out / ".unfinished"
    model = load(options.model)
    found = atlas(
        model,
        text=options.text,
        examples=options.examples,
        measured=options.measured,
        seed=options.seed,
        devices=devices,
        progress=first,
        resume=unfinished,
    )
    if not first:
        return
    written = found.save(out)
    shutil.rmtree(unfinished, ignore_errors=True)
    print(found.text())
    print(f"{len(written)} files in {out}")


def _zoo() -> None:
    import pandas as pd

    from .models.loading.zoo import zoo_table

    rows = [{**row, "cached": "yes" if row["cached"] else "no"} for row in zoo_table()]
    print(pd.DataFrame(rows).rename(columns={"megabytes": "MB"}).to_markdown(index=False))


def _keep_compilations() -> None:
    """Compiled programs outlive the process: a second run of the same shapes does not compile."""
    cache = Path(os.environ.get("JAXHEADS_CACHE") or Path("~/.cache/jaxheads")).expanduser() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    sys.exit(main())
