"""Path patching and the circuit that it finds: the second half of `experiments.ioi`, by the paper's procedure.

Wang et al. 2022 (arXiv 2211.00593, section 3) go backwards from the logits. Heads that act on the logits directly at
END are name movers (or, with the other sign, negative name movers). Heads that act on the name movers' queries at END
are S-inhibition heads. Heads that act on the S-inhibition heads' values at S2 are duplicate-token and induction heads,
and heads that act on the keys of these after S1 are previous-token heads. At each step every head is a sender: its
output is taken from an ABC prompt, and only its direct paths to the receivers are patched (MLPs recomputed).

The circuit consists of all these heads. It is faithful if it still prefers IO to S when every other head is replaced by
its mean over ABC prompts of the same template and position: F(C) against F(M), and against random sets of equal size.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import IOIPrompts
from jaxheads.statistics import false_discovery, mean_interval, mean_p_values, ratio_interval

from .. import lab

MOST = 4
"""The most heads of a role; the paper has 2 to 4 of most roles."""
LEAST = 0.02
"""The least share of the whole difference that a head of a role moves, on the prompts it is chosen on."""
RANDOM_SETS = 20

Heads = list[tuple[int, int]]


@dataclass(frozen=True)
class Step:
    """One step backwards: the effects of all senders on the receivers, and the role of the strongest.

    Attributes:
        sign: 1 for heads that work for the answer (their paths from an ABC prompt move the run towards that prompt).
    """

    role: str
    table: jh.HeadTable
    sign: int


@dataclass(frozen=True)
class Circuit:
    """A circuit and how it was found.

    Attributes:
        steps: the path patchings, one row a sender.
        heads: the heads of each role, chosen on one half of the prompts, with effects on the other.
        faithfulness: the circuit and its references, on the other half.
    """

    steps: tuple[Step, ...]
    heads: pd.DataFrame
    faithfulness: pd.DataFrame

    def of_role(self, role: str) -> Heads:
        """Return the heads of a role."""
        rows = self.heads[self.heads["role"] == role]
        return [(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)]

    def roles_of(self, head: tuple[int, int]) -> str:
        """Return the roles that path patching gave to a head, in words; "–" for none."""
        rows = self.heads[(self.heads["layer"] == head[0]) & (self.heads["head"] == head[1])]
        return ", ".join(rows["role"]) or "–"


def find_circuit(
    model: jh.Model,
    prompts: IOIPrompts,
    corrupted: IOIPrompts,
    unedited_E: np.ndarray,
    reference: dict[str, Any],
    chosen_on: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    *,
    resume: Path | None,
    progress: bool,
) -> Circuit:
    """Go backwards from the logits, then measure how faithful the circuit is.

    Args:
        unedited_E: the logit difference of each prompt.
        reference: arguments of `jh.ablate` for the ABC prompts that means are taken over.
        chosen_on, held_out: numbers of the prompts that heads are chosen on, and of the other prompts.
    """
    clean, corrupt = (jh.Batch(source.tokens, source.mask, clusters=source.template) for source in (prompts, corrupted))
    objective = jh.logit_difference(prompts.indirect_object, prompts.subject)
    patch = partial(jh.paths, model, clean, corrupt, objective, seed=seed, resume=resume, progress=progress)
    group_size = model.stack().heads // model.stack().kv_heads
    strongest = partial(strongest_heads, chosen_on=chosen_on)
    logits = patch("logits")
    steps = [Step("name mover", logits, 1), Step("negative name mover", logits, -1)]
    roles = {step.role: strongest(step) for step in steps}
    backwards = (
        ("S-inhibition", "name mover", "q", prompts.end, 1),
        ("duplicate token or induction", "S-inhibition", "v", prompts.s2, 1),
        ("previous token", "duplicate token or induction", "k", prompts.s1 + 1, 1),
    )
    for role, receiving_role, site, positions, sign in backwards:
        heads = [(layer, head) for layer, head in roles.get(receiving_role, []) if layer > 0]
        if not heads:
            break
        receivers: Any = sorted({(site, layer, head if site == "q" else head // group_size) for layer, head in heads})
        steps.append(Step(role, patch(receivers, positions=positions), sign))
        roles[role] = strongest(steps[-1])
    circuit = sorted({head for heads in roles.values() for head in heads})
    frame = pd.DataFrame([row for step in steps for row in _rows(step, roles[step.role], chosen_on, held_out)])
    faithful = faithfulness(
        model, clean, objective, unedited_E, circuit, reference, held_out, seed, resume=resume, progress=progress
    )
    return Circuit(tuple(steps), frame, faithful)


def strongest_heads(step: Step, chosen_on: np.ndarray) -> Heads:
    """Return the heads of a role: those that move the largest shares of the whole difference."""
    assert step.table.per_example is not None
    share_LN = step.sign * np.asarray(step.table.per_example[1], np.float64)[chosen_on].mean(axis=0)
    share_LN = np.where(np.isnan(share_LN), -np.inf, share_LN)
    order = np.argsort(-share_LN, axis=None, kind="stable")[:MOST]
    pairs = [divmod(int(cell), share_LN.shape[1]) for cell in order]
    return [pair for pair in pairs if share_LN[pair] >= LEAST]


def _rows(step: Step, heads: Heads, chosen_on: np.ndarray, held_out: np.ndarray) -> list[dict[str, Any]]:
    assert step.table.per_example is not None
    effects_ELN, labels_E = np.asarray(step.table.per_example[0], np.float64), step.table.clusters
    labels = None if labels_E is None else labels_E[held_out]
    rows = []
    for layer, head in heads:
        when_chosen, values_E = effects_ELN[chosen_on, layer, head].mean(), effects_ELN[held_out, layer, head]
        bounds = lab.bounds("effect", mean_interval(values_E, clusters=labels, within=(-np.inf, np.inf)))
        optimism = np.sign(when_chosen) * (when_chosen - bounds["effect"])
        p = float(mean_p_values(values_E, clusters=labels))
        rows.append({"role": step.role, "layer": layer, "head": head, **bounds, "optimism": optimism, "q": p})
    for row, q in zip(rows, false_discovery([row["q"] for row in rows]), strict=True):
        row["q"] = float(q)
    return rows


def faithfulness(
    model: jh.Model,
    clean: jh.Batch,
    objective: jh.Objective,
    unedited_E: np.ndarray,
    circuit: Heads,
    reference: dict[str, Any],
    held_out: np.ndarray,
    seed: int,
    *,
    resume: Path | None,
    progress: bool,
) -> pd.DataFrame:
    """Return F of the whole model, of the circuit, of no head and of random circuits of the same size (held out)."""
    stack, rng = model.stack(), np.random.default_rng(seed)
    everything = [(layer, head) for layer in range(stack.layers) for head in range(stack.heads)]
    draws = [rng.choice(len(everything), len(circuit), replace=False) for _ in range(RANDOM_SETS)]
    kept = {"circuit": set(circuit), "no head": set()}
    kept |= {f"random {n}": {everything[cell] for cell in draw} for n, draw in enumerate(draws)}
    sets = {name: [head for head in everything if head not in keep] for name, keep in kept.items()}
    table = jh.ablate(
        model,
        clean,
        objective,
        "mean",
        per_position=True,
        sets=sets,
        seed=seed,
        resume=resume,
        progress=progress,
        **reference,
    )
    assert table.per_example is not None
    effects_ES = np.asarray(table.per_example, np.float64)[held_out]
    labels = None if clean.clusters is None else np.asarray(clean.clusters)[held_out]
    whole_E = unedited_E[held_out]
    none_E = whole_E + effects_ES[:, 1]
    sizes = f"{len(circuit)} heads"
    values = {
        "whole model, F(M)": whole_E,
        f"circuit of {sizes}, F(C)": whole_E + effects_ES[:, 0],
        "no head, F(∅)": none_E,
        f"random circuits of {sizes} (mean of {RANDOM_SETS})": whole_E + effects_ES[:, 2:].mean(axis=1),
    }
    rows = []
    for name, values_E in values.items():
        mean = mean_interval(values_E, clusters=labels, within=(-np.inf, np.inf))
        share = ratio_interval(values_E - none_E, whole_E - none_E, clusters=labels)
        rows.append({"what": name, **lab.bounds("logit difference", mean), **lab.bounds("share of the whole", share)})
    return pd.DataFrame(rows).set_index("what")
