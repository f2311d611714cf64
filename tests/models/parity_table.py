"""How far every family is from `transformers`, by dtype: writes results/parity.md and results/families.md.

    python -m tests.models.parity_table [DIRECTORY]

Small random models with scaled-up weights, every architecture of every family. The reference is `transformers` (eager
attention) in float32 with the weights that the dtype leaves; beside each error of ours stands that of `transformers`
itself in that dtype.
"""

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch
from rich.progress import track

import jaxheads as jh
from jaxheads.files import write_together
from jaxheads.provenance import made_by

from .specs import SPECS
from .specs.spec import Spec, small, their_run

DTYPES = {
    "float32": (jnp.float32, torch.float32),
    "bfloat16": (jnp.bfloat16, torch.bfloat16),
    "float16": (jnp.float16, torch.float16),
}
REAL = {
    "llama": ("smollm2-135m", "glassllm-en", "glassllm-pt"),
    "bert": ("minilm-l6", "antiberty", "bert-mlm-tiny"),
    "distilbert": ("distilbert-base-cased",),
    "mpnet": ("mpnet-base",),
    "dinov2": ("dinov2-small",),
    "whisper": ("whisper-base",),
}
"""By family, the zoo's models that the tests compare with their own references."""


class Errors(NamedTuple):
    """Largest differences from the reference, relative to the largest value where that exceeds 1."""

    output: float
    pattern: float


def differences(found: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Errors:
    def largest(ours: np.ndarray, reference: np.ndarray) -> float:
        return float(np.abs(ours - reference).max() / max(1.0, np.abs(reference).max()))

    patterns = [largest(found[name], theirs[name]) for name in theirs if name.endswith("pattern")]
    return Errors(largest(found["output"], theirs["output"]), max(patterns))


def our_run(model: jh.Model, batch: jh.Batch, example: int, dtype: Any) -> dict[str, np.ndarray]:
    """As `their_run` gives it; asserts that every site is of the model's dtype."""
    alone = batch.take([example])
    sites = [f"{name}.{site}" for name, stack in model.stacks.items() for site in stack.sites]
    run = jh.run(model, alone, sites)
    upcast = {site: str(value.dtype) for site, value in run.seen.items() if value.dtype != dtype}
    assert not upcast, upcast
    output = np.asarray(run.output.astype(jnp.float32))[0]
    found = {}
    if output.ndim > 1 or model.network.classes_of == "token":
        output = output[np.asarray(model.network.streams[-1].queries.of(alone).mask)[0]]
    for name, stack in model.stacks.items():
        asks, seen = (np.asarray(axis.of(alone).mask)[0] for axis in (stack.queries, stack.keys))
        pattern = np.asarray(run.seen[f"{name}.pattern"].astype(jnp.float32))[:, 0]
        found[f"{name if len(model.stacks) > 1 else ''}.pattern"] = pattern[:, :, asks][..., seen]
    return {"output": output, **found}


def compared(spec: Spec, architecture: str, dtype: str) -> tuple[Errors, Errors, int]:
    """Errors of ours and of theirs, and how many numbers were compared."""
    ours_in, theirs_in = DTYPES[dtype]
    low = spec.build(architecture).to(theirs_in)
    low.config._experts_implementation = "eager"  # the grouped one takes no matrices this small in half precision
    reference = copy.deepcopy(low).to(torch.float32)
    with tempfile.TemporaryDirectory() as directory:
        reference.save_pretrained(directory)
        model = jh.load(directory, dtype=ours_in)
    batch = spec.batch(reference)
    ours, theirs, count = [], [], 0
    for example in range(len(batch)):
        expected = {name: value for name, value in their_run(reference, batch, example).items() if "resid" not in name}
        count += sum(value.size for value in expected.values())
        ours.append(differences(our_run(model, batch, example, ours_in), expected))
        theirs.append(differences(their_run(low, batch, example), expected))
    return Errors(*np.max(ours, axis=0)), Errors(*np.max(theirs, axis=0)), count


def of_family(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its row in either table."""
    spec = SPECS[name]
    errors: dict[str, Any] = {"family": name}
    count = 0
    for dtype in DTYPES:
        found = [compared(spec, architecture, dtype) for architecture in spec.architectures]
        ours, theirs = (Errors(*np.max([one[part] for one in found], axis=0)) for part in (0, 1))
        errors |= {f"{dtype} output": ours.output, f"{dtype} patterns": ours.pattern}
        if dtype == "float32":
            count = sum(one[2] for one in found)
        else:
            errors[f"{dtype} output, transformers"] = theirs.output
            errors[f"{dtype} patterns, transformers"] = theirs.pattern
    stacks = small(name).ours.stacks.items()
    about = {
        "family": name,
        "architectures": ", ".join(spec.architectures),
        "stacks": ", ".join(stack for stack, _ in stacks),
        "blocks": ", ".join(dict.fromkeys(type(stack.blocks).__name__ for _, stack in stacks)),
        "numbers compared": count,
        "largest error, output": errors["float32 output"],
        "largest error, patterns": errors["float32 patterns"],
        "real weights run": ", ".join(REAL.get(name, ())) or "none to be had",
    }
    return errors, about


def main(directory: Path) -> None:
    """Compare all, then write both pages."""
    jax.config.update("jax_default_matmul_precision", "highest")
    rows = [of_family(name) for name in track(SPECS, "comparing", transient=True)]
    parity, families = (pd.DataFrame([row[part] for row in rows]).set_index("family") for part in (0, 1))
    made = made_by("python -m tests.models.parity_table")
    write_together(
        {
            directory / "parity.md": _page("Parity with `transformers`, by dtype", parity, PARITY, made),
            directory / "families.md": _page("The families", families, FAMILIES, made),
        }
    )


PARITY = """Largest difference of the output (logits, or the last hidden state of bare models) and of every attention
pattern from `transformers` (eager attention) in float32, relative to the largest value where that exceeds 1, over all
architectures of a family: small random models with scaled-up weights, each example by itself. In 16 bits the weights
are rounded first, and the reference computes with the rounded ones in float32; beside ours stands what `transformers`
itself differs by in that dtype. Every site of ours was asserted to be of the model's dtype."""

FAMILIES = """What is covered and how far it is from `transformers` in float32 (see parity.md). The test suite also
draws other configs of each family, with padding on either side, compares one ablation in each stack and each layer's
residual stream, and holds all of it to 1e-5. Real weights: models of `jaxheads zoo` that the tests compare with an
independent reference."""


def _page(title: str, table: pd.DataFrame, text: str, made: str) -> bytes:
    shown = table.to_markdown(floatfmt=".1e", intfmt=",")
    return f"# {title}\n\n{text}\n\n{shown}\n\n{made}\n".encode()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
