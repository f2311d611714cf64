"""Arithmetic of sweeps: how far are effects from float64, with full products, differences, and rounded factors?

    python -m experiments.precision [--quick] [--models NAME …] [--prompts N] [--out DIR]

Ablation of every head, by zero. Language models of the zoo, on prompts with an indirect object (its logit against the
subject's) where the tokenizer has the names, else on the loss of prose. The weights are held in float32, bfloat16 and
float16; each is compared with float64 on the very weights that it holds, so that the errors are those of the
arithmetic. A CPU does not round factors of float32: what a TPU ("emulated bfloat16") and a GPU ("emulated tf32") make
of the arithmetic "fast" is emulated, by rounding the factors of every product.

An effect's error is relative to that effect, example by example. Signs count among effects of at least a thousandth of
the largest. Ranks are those of the heads' mean sizes.

Found: see results/precision/summary.md.

--quick takes a tiny model and two prompts, and only shows that it runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import ioi_prompts, passages

from . import lab

ARITHMETICS = ("full", "fine differences", "differences", "emulated tf32", "emulated bfloat16")
OF_DTYPES = {"float32": ARITHMETICS, "bfloat16": ARITHMETICS[:3], "float16": ARITHMETICS[:3]}
"""Arithmetics of each dtype of weights. Those of 16 bits are multiplied as they are: nothing is rounded further."""

COUNTED = 1e-3
"""The size of an effect, as a share of the largest, from which on its sign counts."""

PROSE_TOKENS = 24


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes the smallest model and two prompts.

    Attributes:
        models: names of language models of the zoo, or their folders.
        prompts: number of prompts.
        seed: of the prompts.
    """

    out: Path = Path("results/precision")
    models: tuple[str, ...] = ("smollm2-135m", "glassllm-en")
    prompts: int = 4
    seed: int = 0

    @property
    def asked(self) -> tuple[tuple[str, ...], int]:
        """The models and the number of prompts of this run."""
        return (self.models[-1:], 2) if self.quick else (self.models, self.prompts)


def prompts_of(model: jh.Model, count: int, seed: int) -> tuple[jh.Batch, jh.Objective, str]:
    """Return prompts, the objective, and both in words."""
    try:
        bos = model.tokenizer("a")["input_ids"][:1] == [model.tokenizer.bos_token_id]
        prompts = ioi_prompts(model.tokenizer, examples=count, seed=seed, bos=bos)
    except ValueError:  # too few of the names are single tokens
        return model.encode(passages()[:count], max_length=PROSE_TOKENS), jh.loss(), "loss of prose"
    objective = jh.logit_difference(prompts.indirect_object, prompts.subject, positions=prompts.end)
    return jh.Batch(prompts.tokens, prompts.mask), objective, "indirect object − subject"


def effects(model: jh.Model, batch: jh.Batch, objective: jh.Objective, arithmetic: Any = None) -> np.ndarray:
    """Return the effect of ablating every head, `[E,L,N]`."""
    table = jh.ablate(model, batch, objective, "zero", arithmetic=arithmetic)
    assert table.per_example is not None
    return table.per_example


def in_float64(model: jh.Model, batch: jh.Batch, objective: jh.Objective) -> np.ndarray:
    """Return the effects in float64 on the weights as the model holds them."""

    def wide(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    with jax.enable_x64(True):
        return effects(replace(model, network=jax.tree.map(wide, model.network)), batch, objective)


def errors(own_ELN: np.ndarray, exact_ELN: np.ndarray) -> dict[str, float]:
    """Return the errors of effects against those in float64."""
    size_ELN = np.abs(exact_ELN)
    relative = np.abs(own_ELN - exact_ELN)[size_ELN > 0] / size_ELN[size_ELN > 0]
    counted = size_ELN >= COUNTED * size_ELN.max()
    own, exact = (pd.Series(np.abs(values.mean(axis=0)).ravel()) for values in (own_ELN, exact_ELN))
    return {
        "median error": float(np.median(relative)),
        "95 % of errors below": float(np.quantile(relative, 0.95)),
        "wrong signs": float(np.mean((np.sign(own_ELN) != np.sign(exact_ELN))[counted])),
        "rank agreement": float(own.corr(exact, method="spearman")),
    }


def rows_of(name: str, dtype: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each arithmetic, of one model with weights of one dtype."""
    model = jh.load(name, dtype=jnp.dtype(dtype))
    batch, objective, asked = prompts_of(model, count, seed)
    exact = in_float64(model, batch, objective)
    for arithmetic in OF_DTYPES[dtype]:
        own = effects(model, batch, objective, arithmetic)
        row = {"model": Path(name).name, "asked": asked, "weights": dtype, "arithmetic": arithmetic}
        yield row | errors(own, exact)
        print(f"{name}, {dtype}, {arithmetic}: median error {errors(own, exact)['median error']:.2g}", flush=True)


def run(options: Options) -> lab.Results:
    """Ask all questions; a stopped run goes on where it was."""
    models, count = options.asked
    rows: list[dict[str, Any]] = []
    for name in models:
        for dtype in OF_DTYPES:
            rows += options.keep(rows_of, name, dtype, count, options.seed)
    table = pd.DataFrame(rows)
    return lab.Results(page(table, count), {"prompts": count, "seed": options.seed}, {"errors": table})


def page(table: pd.DataFrame, count: int) -> str:
    """Return the page."""
    shown = table.copy()
    for name in ("median error", "95 % of errors below", "wrong signs"):
        shown[name] = [f"{100 * value:.2g} %" for value in table[name]]
    shown["rank agreement"] = [f"{value:.4f}" for value in table["rank agreement"]]
    worst = table[table["arithmetic"] == "differences"]["median error"].max()
    return f"""# Arithmetic of sweeps: errors of effects against float64

Ablation of every head by zero, {count} prompts a model. The error of an effect is relative to it, example by example;
signs count among effects of at least {COUNTED:g} of the largest; rank agreement is Spearman's, of the heads' mean
sizes. Float64 takes the weights that the model holds. "emulated": the factors of all products are rounded as a TPU
(bfloat16) or a GPU (TF32) rounds those of float32 by default; on this CPU, "fast" is full.

**What to choose:** differences, wherever bfloat16 is fast: a median error of {100 * worst:.1g} % at most here. "full",
the default, where time does not matter or where effects of effects are compared. Never "fast" for single effects.

{lab.markdown(shown)}
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
