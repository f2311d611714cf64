"""Path patching and the circuit it finds: the second half of `experiments.ioi`, by the paper's own procedure.

Wang et al. 2022 (arXiv 2211.00593, section 3) go backwards from the logits. Heads that act on them directly at END are
name movers (or, with the other sign, negative name movers). Heads that act on the name movers' queries at END are the
S-inhibition heads. Heads that act on the S-inhibition heads' values at S2 are duplicate-token and induction heads, and
heads that act on the keys of those after S1 are previous-token heads. At each step every head is a sender whose output
is taken from an ABC prompt, and the direct paths to the receivers alone are patched (MLPs recomputed).

The circuit is all that was found. Faithful is a circuit that, with every other head replaced by its mean over ABC
prompts of the same template and position, still prefers IO to S: F(C) against F(M), and against random sets of as many
heads.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import IOIPrompts
from jaxheads.statistics import bootstrap_mean, bootstrap_ratio
from jaxheads.tables import HeadTable

MOST = 4
"""Heads of a role, at most: the paper has 2 to 4 of most roles."""
LEAST = 0.02
"""The least share of the whole difference that a head of a role moves, on the prompts it is chosen on."""
RANDOM_SETS = 20

Heads = list[tuple[int, int]]


@dataclass(frozen=True)
class Step:
    """One step backwards: what sends to these receivers is of this role.

    Attributes:
        sign: 1 where the head works for the answer (its paths from an ABC prompt move the run towards it).
    """

    role: str
    table: HeadTable
    sign: int


@dataclass(frozen=True)
class Circuit:
    """What was found.

    Attributes:
        steps: each path patching, one row a sender.
        heads: the heads of each role, chosen on one half of the prompts, with effects on the other.
        faithfulness: the circuit and what it is measured against, on the other half.
    """

    steps: tuple[Step, ...]
    heads: pd.DataFrame
    faithfulness: pd.DataFrame


def find_circuit(
    model: jh.Model,
    prompts: IOIPrompts,
    corrupted: IOIPrompts,
    unedited_E: np.ndarray,
    reference: dict[str, Any],
    chosen: np.ndarray,
    held: np.ndarray,
    seed: int,
    *,
    resume: Path | None,
    progress: bool,
) -> Circuit:
    """Go backwards from the logits, then ask how faithful what was found is.

    Args:
        unedited_E: the logit difference of each prompt.
        reference: what `jaxheads.ablate` is told of the ABC prompts that means are taken over.
        chosen, held: numbers of the prompts that heads are chosen on, and of those they are judged on.
    """
    clean, corrupt = (jh.Batch(each.tokens, each.mask) for each in (prompts, corrupted))
    objective = jh.logit_difference(prompts.indirect_object, prompts.subject)
    patch = partial(jh.paths, model, clean, corrupt, objective, seed=seed, resume=resume, progress=progress)
    shared = model.stack().heads // model.stack().kv_heads
    pick = partial(strongest, chosen=chosen)
    logits = patch("logits")
    steps = [Step("name mover", logits, 1), Step("negative name mover", logits, -1)]
    found = {step.role: pick(step) for step in steps}
    backwards = (
        ("S-inhibition", "name mover", "q", prompts.end, 1),
        ("duplicate token or induction", "S-inhibition", "v", prompts.s2, 1),
        ("previous token", "duplicate token or induction", "k", prompts.s1 + 1, 1),
    )
    for role, receives, kind, positions, sign in backwards:
        heads = [(layer, head) for layer, head in found.get(receives, []) if layer > 0]
        if not heads:
            break
        receivers: Any = sorted({(kind, layer, head if kind == "q" else head // shared) for layer, head in heads})
        steps.append(Step(role, patch(receivers, positions=positions), sign))
        found[role] = pick(steps[-1])
    circuit = sorted({head for heads in found.values() for head in heads})
    frame = pd.DataFrame([row for step in steps for row in _rows(step, found[step.role], held, seed)])
    faithful = faithfulness(
        model, clean, objective, unedited_E, circuit, reference, held, seed, resume=resume, progress=progress
    )
    return Circuit(tuple(steps), frame, faithful)


def strongest(step: Step, chosen: np.ndarray) -> Heads:
    """The heads of a role: those that move the largest shares of the whole difference, on the chosen prompts."""
    assert step.table.per_example is not None
    share_LN = step.sign * np.asarray(step.table.per_example[1], np.float64)[chosen].mean(axis=0)
    share_LN = np.where(np.isnan(share_LN), -np.inf, share_LN)
    order = np.argsort(-share_LN, axis=None, kind="stable")[:MOST]
    pairs = [divmod(int(cell), share_LN.shape[1]) for cell in order]
    return [pair for pair in pairs if share_LN[pair] >= LEAST]


def _rows(step: Step, heads: Heads, held: np.ndarray, seed: int) -> list[dict[str, Any]]:
    assert step.table.per_example is not None
    effects_ELN = np.asarray(step.table.per_example[0], np.float64)[held]
    rows = []
    for layer, head in heads:
        interval = bootstrap_mean(effects_ELN[:, layer, head], seed=seed)
        bounds = dict(zip(("effect", "effect_low", "effect_high"), map(float, interval), strict=True))
        rows.append({"role": step.role, "layer": layer, "head": head, **bounds})
    return rows


def faithfulness(
    model: jh.Model,
    clean: jh.Batch,
    objective: jh.Objective,
    unedited_E: np.ndarray,
    circuit: Heads,
    reference: dict[str, Any],
    held: np.ndarray,
    seed: int,
    *,
    resume: Path | None,
    progress: bool,
) -> pd.DataFrame:
    """F of the whole model, of the circuit, of no head at all and of random circuits of the same size (held out)."""
    stack, rng = model.stack(), np.random.default_rng(seed)
    everything = [(layer, head) for layer in range(stack.layers) for head in range(stack.heads)]
    draws = [rng.choice(len(everything), len(circuit), replace=False) for _ in range(RANDOM_SETS)]
    kept = {"circuit": set(circuit), "no head": set()}
    kept |= {f"random {n}": {everything[cell] for cell in draw} for n, draw in enumerate(draws)}
    sets = {name: [head for head in everything if head not in keep] for name, keep in kept.items()}
    table = jh.ablate(
        model, clean, objective, "mean", per_position=True, sets=sets, seed=seed, resume=resume, progress=progress,
        **reference,
    )  # fmt: skip
    assert table.per_example is not None
    effects_ES = np.asarray(table.per_example, np.float64)[held]
    clean_E = unedited_E[held]
    rows = {
        "whole model, F(M)": clean_E,
        f"circuit of {len(circuit)} heads, F(C)": clean_E + effects_ES[:, 0],
        "no head, F(∅)": clean_E + effects_ES[:, 1],
        f"random circuits of {len(circuit)} heads (mean of {RANDOM_SETS})": clean_E + effects_ES[:, 2:].mean(axis=1),
    }
    none_E = clean_E + effects_ES[:, 1]
    found = []
    for name, values_E in rows.items():
        mean = bootstrap_mean(values_E, seed=seed)
        share = bootstrap_ratio(values_E - none_E, clean_E - none_E, seed=seed)
        row: dict[str, Any] = {"what": name}
        for label, interval in (("logit difference", mean), ("share of the whole", share)):
            row |= dict(zip((label, f"{label}, low", f"{label}, high"), map(float, interval), strict=True))
        found.append(row)
    return pd.DataFrame(found).set_index("what")
