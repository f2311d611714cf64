"""Heads of a translator, by alignment, gates, one head left, importance and ablation: which are needed?

    python -m experiments.translation_heads [--quick] [--order reverse] [--seeds N] [--steps N] [--out DIR]

After Voita et al. 2019 (arXiv 1905.09418; gates), Michel et al. 2019 (arXiv 1905.10650; one head left, importance),
Kobayashi et al. 2020 (alignment by norms against weights, and its two settings) and Raganato & Tiedemann 2018 (what
encoder heads attend to). Their translators are large, and their data are not available here: ours have 2 + 2 layers of
4 heads and translate by a lexicon into another word order, so that the alignment is known exactly.

Several seeds are trained together. For every cross-attention head we measure the alignment error rate, of the word that
a position outputs (AWO) and of the word it takes as input (AWI), by weights and by norms. Then hard-concrete gates are
trained with rising penalties, all starting from the converged model; penalty 0 shows what the gates' noise alone does.
Last come the loss with only one head left in a layer, and Michel's importance of every head beside the loss without
that head. Heads and penalties are chosen on one half of the sentences and reported on the other. Intervals are over
seeds, which differ in weights and training data; the sentences measured on are the same for all.

Found (results/translation-heads; order reverse, 10 seeds, 95 % intervals over them): in every seed a head of the last
layer aligns the output word (AER 0.000 [0.000, 0.001]; untrained 0.885); for the input word the best AER is 0.82, so
the setting decides. The gain by norms of Kobayashi et al. does not show: norms − weights is +0.001 [-0.000, 0.003] for
the output word, where both are at the floor, and +0.006 [-0.018, 0.029] for the input word, with which no head aligns.
The gates' noise alone, at penalty 0, raises the loss from 0.0003 to 0.0061 nats and costs 0.0006 of the accuracy. At
the strongest penalty, with 0.0009 [-0.0001, 0.0022] less accuracy than at penalty 0, heads survive in Voita's order:
3.4 of 8 are left in the encoder, 6.8 in the decoder, all in cross-attention. With one head left cross-attention loses
most, 0.50 of the accuracy in its last layer and 0.43 in its first, which can't be told apart; the encoder loses at most
0.02. Importance ranks the 24 heads like ablation (Spearman 0.88 [0.83, 0.92]). Training with gates spreads the
alignment over the heads of its layer.

Cost on 2 cores: 9 minutes; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data.tasks import Sample, Translation
from jaxheads.train import Network, ablation_losses, grid, head_importance, learn_gates, scores, train

from . import lab
from .support.translation_heads_page import STACKS, page, picture

SETTINGS = {"AWO": "alignment", "AWI": "alignment_input"}
READINGS: tuple[Literal["weights", "norms"], ...] = ("weights", "norms")
END = 2
"""Id of the token that ends a sentence."""
EVALUATED = 512
"""Fresh sentences that heads are measured on: one half chooses, the other reports."""

KEPT = 0.99
"""Share of the accuracy that a pruned model must keep to be called as good."""

SCORES = jax.jit(scores)


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the task, the training, and the training of the gates.

    Attributes:
        order: order of the target's words: copy, reverse or swap.
        gating: training steps of the gates; 400 when left out.
        strengths: penalties of the gates; the first, 0, is the baseline of the others.
    """

    usual = (10, 1200)
    short = (2, 10)
    out: Path = Path("results/translation-heads")
    rate: float = 2e-3
    order: str = "reverse"
    gating: int | None = None
    strengths: tuple[float, ...] = (0.0, 0.003, 0.03, 0.1, 0.3)

    least: ClassVar = {**lab.TrainingOptions.least, "strengths": 0}

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        Translation(self.order)
        if self.strengths[0] != 0:
            raise ValueError(f"--strengths: expected 0 first, the baseline of the others, got {self.strengths[0]:g}")

    @property
    def gate_steps(self) -> int:
        """Training steps of the gates in this run."""
        return (4 if self.quick else 400) if self.gating is None else self.gating


def fresh_sentences(task: Translation) -> tuple[Sample, Sample]:
    """Return the sentences that all models are measured on: the half that chooses, and the half that reports."""
    sample = task.sample(jax.random.key(2019), EVALUATED)
    chooses, reports = (jax.tree.map(lambda array, first=first: array[first::2], sample) for first in (0, 1))
    return chooses, reports


def error_rates(model: jh.Model, sample: Sample, setting: str, reading: Literal["weights", "norms"]) -> np.ndarray:
    """Return the alignment error rate of every cross-attention head, `[L,N]`."""
    batch = sample.batch
    assert batch.marks is not None
    end, sure = np.asarray(batch.tokens) == END, np.asarray(batch.marks[SETTINGS[setting]])
    return jh.alignment_error_rate(model, batch, sure, skip=end, of=reading).grid("aer")


def alignments(model: jh.Model, halves: tuple[Sample, Sample], seed: int) -> pd.DataFrame:
    """Return the best cross-attention head by setting and reading, with its AER on the half it was not chosen on."""
    rows = []
    for setting in SETTINGS:
        for reading in READINGS:
            chosen_on, held_out = (error_rates(model, half, setting, reading) for half in halves)
            best = np.unravel_index(chosen_on.argmin(), chosen_on.shape)
            row = {"seed": seed, "setting": setting, "by": reading, "best head": f"L{best[0]}H{best[1]}"}
            row |= {"AER": held_out[best], "mean of heads": held_out.mean()}
            rows.append({**row, "optimism": held_out[best] - chosen_on[best]})
    return pd.DataFrame(rows)


def prune_by_gates(
    model: jh.Model, task: Translation, halves: tuple[Sample, Sample], options: Options, seed: int
) -> tuple[pd.DataFrame, Any]:
    """Train gates at each penalty. Return heads, loss and accuracy left once the gates are decided, and the gates."""
    learnt = learn_gates(
        model,
        task,
        options.gate_steps,
        strengths=options.strengths,
        batch=options.batch,
        rate=3e-4,
        seed=seed,
        directory=options.unfinished / f"gates-{seed}",
        progress=True,
    )
    gates, alive = [learnt.gates(index) for index in range(len(options.strengths))], learnt.alive()
    rows = [{"seed": seed, "penalty": "not gated", **dict.fromkeys(STACKS, 8), **quality(model.network, halves)}]
    for index, strength in enumerate(options.strengths):
        edits = tuple(jh.gate(model, jnp.asarray(value), stack=name) for name, value in gates[index].items())
        left = {name: int(alive[name][index]) for name in STACKS}
        numbers = quality(learnt.network(index), halves, edits)
        rows.append({"seed": seed, "penalty": f"{strength:g}", **left, **numbers})
    return pd.DataFrame(rows), learnt


def quality(network: Network, halves: tuple[Sample, Sample], edits: Any = ()) -> dict[str, float]:
    """Return loss and accuracy on the half that reports, and the accuracy on the half that chooses."""
    (_, choosing), (loss, accuracy) = (SCORES(network, half, edits) for half in halves)
    return {"loss": float(loss), "accuracy": float(accuracy), "accuracy, half that chooses": float(choosing)}


def fewest(gates: pd.DataFrame) -> int | None:
    """Return the number of the penalty that leaves fewest heads with KEPT of the accuracy; None where none prunes.

    The half that chooses decides.
    """
    accuracy = gates["accuracy, half that chooses"].to_numpy()
    heads = gates[list(STACKS)].sum(axis=1).to_numpy()
    index = int(np.where(accuracy >= KEPT * accuracy[0], heads, np.inf).argmin())
    return index - 1 if heads[index] < heads[0] else None


def survivors(model: jh.Model, learnt: Any, index: int, sample: Sample) -> list[str]:
    """Return the heads that one penalty leaves, each with a note on its attention."""
    pruned = jh.Model(learnt.network(index), name=model.name)
    aer = {name: error_rates(pruned, sample, name, "weights") for name in SETTINGS}
    offsets = {name: jh.measure(pruned, sample.batch, "positional_share", stack=name) for name in STACKS[:2]}
    heads = []
    for name, gates in learnt.gates(index).items():
        for layer, head in np.argwhere(gates > 0):
            if name == "cross":
                note = ", ".join(f"{setting} {value[layer, head]:.2f}" for setting, value in aer.items())
            else:
                row = offsets[name].frame.loc[(name, layer, head)]
                note = f"{row['positional_share']:.0%} at offset {int(row['positional_offset']):+d}"
            heads.append(f"{name} L{layer}H{head} ({note})")
    return heads


@partial(jax.jit, static_argnames="stack")
def accuracies(network: Network, sample: Sample, gates_GLN: jax.Array, stack: str) -> jax.Array:
    """Return the accuracy with each set of gates, `[G]`."""
    model = jh.Model(network)
    return jax.lax.map(lambda gates: scores(network, sample, (jh.gate(model, gates, stack=stack),))[1], gates_GLN)


def one_left(model: jh.Model, halves: tuple[Sample, Sample], seed: int) -> pd.DataFrame:
    """Return the accuracy lost with only the best single head of a layer left (Michel et al. 2019, Tables 2 and 3).

    The best head is chosen on one half of the sentences; the loss is that of the other.
    """
    before, rows = [float(SCORES(model.network, half)[1]) for half in halves], []
    for name, stack in model.stacks.items():
        gates = np.ones((stack.layers, stack.heads, stack.layers, stack.heads), np.float32)
        for layer in range(stack.layers):
            gates[layer, :, layer] = np.eye(stack.heads)
        sets = jnp.asarray(gates.reshape(-1, *gates.shape[2:]))
        choosing_LN, lost_LN = (
            np.asarray(accuracies(model.network, half, sets, name)).reshape(stack.layers, stack.heads) - whole
            for half, whole in zip(halves, before, strict=True)
        )
        for layer, best in enumerate(choosing_LN.argmax(axis=1)):
            lost = float(lost_LN[layer, best])
            row = {"seed": seed, "stack": name, "layer": layer, "best head": int(best), "lost": lost}
            rows.append({**row, "optimism": float(choosing_LN[layer, best]) - lost})
    return pd.DataFrame(rows)


HEAD_NUMBERS = {
    "importance": jax.jit(head_importance, static_argnames="stack"),
    "loss without": jax.jit(ablation_losses, static_argnames="stack"),
}


def importances(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """Return Michel's importance of each head, and the rise of the loss without the head."""
    frames = []
    for name, stack in model.stacks.items():
        layer, head = np.indices((stack.layers, stack.heads)).reshape(2, -1)
        numbers = {
            column: np.asarray(function(model.network, sample, stack=name)).reshape(-1)
            for column, function in HEAD_NUMBERS.items()
        }
        frames.append(pd.DataFrame({"seed": seed, "stack": name, "layer": layer, "head": head, **numbers}))
    return pd.concat(frames, ignore_index=True)


def run(options: Options) -> lab.Results:
    """Train the translators and take every measure of every seed."""
    task = Translation(options.order)
    seeds, steps = options.trained
    trained = train(
        task.model_config(),
        task,
        steps,
        batch=options.batch,
        init_scale=3.0,
        checkpoints=[0, steps],
        directory=options.unfinished / "translators",
        progress=True,
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
    )
    halves, tables, left = fresh_sentences(task), {}, {}
    for seed in range(seeds):
        model = trained.model(seed)
        gates, learnt = prune_by_gates(model, task, halves, options, seed)
        of_seed = {
            "alignment": alignments(model, halves, seed),
            "untrained": alignments(trained.model(seed, 0), halves, seed),
            "gates": gates,
            "one-left": one_left(model, halves, seed),
            "importance": importances(model, halves[1], seed),
        }
        index = fewest(gates)
        left[seed] = [] if index is None else survivors(model, learnt, index, halves[1])
        for name, table in of_seed.items():
            tables.setdefault(name, []).append(table)
        print(f"seed {seed}: accuracy {gates['accuracy'].iloc[0]:.3f}; {len(left[seed])} heads left", flush=True)
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    about = {**options.about, "order": options.order, "gating": options.gate_steps}
    about |= {"strengths": list(options.strengths), "survivors": left}
    return lab.Results(page(options, tables, left), about, tables, {"heads": picture(tables)})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
