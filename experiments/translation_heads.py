"""Heads of a translator: which are needed? Alignment heads, pruning by gates, one head left, importance and ablation.

    python -m experiments.translation_heads [--quick] [--order reverse] [--seeds N] [--steps N] [--out DIR]

After Voita et al. 2019 (arXiv 1905.09418; gates), Michel et al. 2019 (arXiv 1905.10650; one head left, importance),
Kobayashi et al. 2020 (alignment by norms against weights, and its two settings) and Raganato & Tiedemann 2018 (what
encoder heads attend to). Their translators are large, and their data are not available here: ours have 2 + 2 layers of
4 heads and translate by a lexicon into another word order, so that the alignment is known exactly.

Several seeds are trained together. For every cross-attention head we measure the alignment error rate, of the word that
a position outputs (AWO) and of the word it takes as input (AWI), by weights and by norms; the best head is chosen on
one half of the examples and reported on the other. Then hard-concrete gates are trained with rising penalties, all
starting from the converged model. Last come the loss with only one head left in a layer, and Michel's importance of
every head beside the loss without that head.

Found (results/translation-heads; order reverse, 3 seeds): in every seed a head of the last layer aligns the output word
without error (AER 0.000 to 0.001; untrained 0.88); for the input word the best AER is 0.80, so the setting decides.
Norms give the same to 0.02. Heads survive in Voita's order: at the strongest penalty 2.7 of 8 heads are left in the
encoder, 6.7 in the decoder and 7.3 in cross-attention, with 0.995 of the words right. With one head left the last
cross-attention layer loses most (0.54 of the accuracy), the encoder at most 0.03: Michel's order. Importance ranks the
24 heads like ablation (Spearman 0.90). Training with gates spreads the alignment over the heads of its layer: the best
AER is then 0.04 to 0.06 where heads could be removed; in one seed of three no head was removed without a loss.

Cost on 2 cores: 3 minutes; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxheads as jh
from experiments import lab
from jaxheads.data.tasks import Sample, Translation
from jaxheads.statistics import rank_correlation
from jaxheads.train import Network, ablation_losses, grid, head_importance, learn_gates, scores, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STACKS = ("encoder", "decoder", "cross")
SETTINGS = {"AWO": "alignment", "AWI": "alignment_input"}
READINGS: tuple[Literal["weights", "norms"], ...] = ("weights", "norms")
END = 2
"""Id of the token that ends a sentence."""
EVALUATED = 256
"""Fresh sentences that heads are measured on."""

SCORES = jax.jit(scores)

VOITA = pd.DataFrame(
    [(48, 48, 48, 29.6), (14, 31, 30, 29.62), (12, 21, 25, 29.36), (8, 13, 15, 29.06), (5, 9, 12, 28.90)],
    columns=["encoder", "decoder", "cross", "BLEU"],
)
"""Voita et al.'s Table 2, WMT English–Russian, gates learnt from a trained model: heads left, and BLEU [P]."""

KOBAYASHI = {"AWO": (47.7, 41.4), "AWI": (29.8, 25.0)}
"""AER of the best layer by weights and by norms, per cent (Kobayashi et al. 2020) [P]."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the task, the training, and the training of the gates.

    Attributes:
        order: order of the target's words: copy, reverse or swap.
        gating: training steps of the gates; 400 when left out.
        strengths: penalties of the gates.
    """

    usual = (3, 1200)
    short = (1, 10)
    out: Path = Path("results/translation-heads")
    rate: float = 2e-3
    order: str = "reverse"
    gating: int | None = None
    strengths: tuple[float, ...] = (0.003, 0.03, 0.1, 0.3)

    @property
    def gate_steps(self) -> int:
        """Training steps of the gates in this run."""
        return self.gating or (4 if self.quick else 400)


def fresh_sentences(task: Translation) -> Sample:
    """Return the sentences that all models are measured on."""
    return task.sample(jax.random.key(2019), EVALUATED)


def alignments(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """Return the best cross-attention head by setting and reading, with its AER on the half it was not chosen on."""
    batch, rows = sample.batch, []
    assert batch.marks is not None
    end = np.asarray(batch.tokens) == END
    half = np.arange(len(batch)) < len(batch) // 2
    for setting, mark in SETTINGS.items():
        sure = np.asarray(batch.marks[mark])
        for reading in READINGS:
            chosen_on, held_out = (
                jh.alignment_error_rate(model, batch.take(np.flatnonzero(part)), sure[part], skip=end[part], of=reading)
                for part in (half, ~half)
            )
            layer, head = np.unravel_index(chosen_on.grid("aer").argmin(), chosen_on.shape)
            row = held_out.frame.loc[("cross", layer, head)]
            rows.append(
                {
                    "seed": seed,
                    "setting": setting,
                    "by": reading,
                    "best head": f"L{layer}H{head}",
                    "AER": row["aer"],
                    "low": row["aer_low"],
                    "high": row["aer_high"],
                    "mean of heads": held_out.grid("aer").mean(),
                    "optimism": held_out.grid("aer")[layer, head] - chosen_on.grid("aer").min(),
                }
            )
    return pd.DataFrame(rows)


def prune_by_gates(
    model: jh.Model, task: Translation, sample: Sample, options: Options, seed: int
) -> tuple[pd.DataFrame, Any]:
    """Train gates at each penalty. Return heads and accuracy left once the gates are decided, and the gates."""
    learnt = learn_gates(
        model,
        task,
        options.gate_steps,
        strengths=options.strengths,
        batch=options.batch,
        rate=3e-4,
        seed=seed,
        progress=True,
    )
    loss, accuracy = SCORES(model.network, sample)
    rows = [{"seed": seed, "penalty": 0.0, **dict.fromkeys(STACKS, 8), "loss": loss, "accuracy": accuracy}]
    for index, strength in enumerate(options.strengths):
        gates, alive = learnt.gates(index), learnt.alive()
        edits = tuple(jh.gate(model, jnp.asarray(value), stack=name) for name, value in gates.items())
        loss, accuracy = SCORES(learnt.network(index), sample, edits)
        left = {name: int(alive[name][index]) for name in STACKS}
        rows.append({"seed": seed, "penalty": strength, **left, "loss": loss, "accuracy": accuracy})
    return pd.DataFrame(rows).astype({"loss": float, "accuracy": float}), learnt


def survivors(model: jh.Model, learnt: Any, table: pd.DataFrame, sample: Sample) -> list[str]:
    """Return the fewest heads that keep 99 % of the accuracy, each with a note on its attention."""
    enough = table[table["accuracy"] >= 0.99 * table["accuracy"].iloc[0]]
    index = int(enough[list(STACKS)].sum(axis=1).to_numpy().argmin()) - 1
    if index < 0:
        return []
    batch = sample.batch
    assert batch.marks is not None
    end = np.asarray(batch.tokens) == END
    pruned = jh.Model(learnt.network(index), name=model.name)
    aer = {
        name: jh.alignment_error_rate(pruned, batch, np.asarray(batch.marks[mark]), skip=end).grid("aer")
        for name, mark in SETTINGS.items()
    }
    offsets = {name: jh.measure(pruned, batch, "positional_share", stack=name) for name in ("encoder", "decoder")}
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


def one_left(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """Return the accuracy lost with only the best single head of a layer left (Michel et al. 2019, Tables 2 and 3)."""
    before, rows = float(SCORES(model.network, sample)[1]), []
    for name, stack in model.stacks.items():
        gates = np.ones((stack.layers, stack.heads, stack.layers, stack.heads), np.float32)
        for layer in range(stack.layers):
            gates[layer, :, layer] = np.eye(stack.heads)
        alone_G = accuracies(model.network, sample, jnp.asarray(gates.reshape(-1, *gates.shape[2:])), name)
        lost_LN = np.asarray(alone_G).reshape(stack.layers, stack.heads) - before
        for layer, lost_N in enumerate(lost_LN):
            best = int(lost_N.argmax())
            rows.append({"seed": seed, "stack": name, "layer": layer, "best head": best, "lost": float(lost_N[best])})
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
        progress=True,
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
    )
    sample, tables, left = fresh_sentences(task), {}, {}
    for seed in range(seeds):
        model = trained.model(seed)
        gates, learnt = prune_by_gates(model, task, sample, options, seed)
        of_seed = {
            "alignment": alignments(model, sample, seed),
            "untrained": alignments(trained.model(seed, 0), sample, seed),
            "gates": gates,
            "one-left": one_left(model, sample, seed),
            "importance": importances(model, sample, seed),
        }
        left[seed] = survivors(model, learnt, gates, sample)
        for name, table in of_seed.items():
            tables.setdefault(name, []).append(table)
        print(f"seed {seed}: accuracy {gates['accuracy'].iloc[0]:.3f}; left {left[seed]}", flush=True)
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    about = {**options.about, "order": options.order, "gating": options.gate_steps}
    about |= {"strengths": list(options.strengths), "survivors": left}
    return lab.Results(page(options, tables, left), about, tables, {"heads": picture(tables)})


def picture(tables: dict[str, pd.DataFrame]) -> "Figure":
    """Draw the heads that are left as the penalty grows, and importance against ablation."""
    figure, (gates, ablation) = lab.panels(2, (9, 3.5))
    strengths = sorted(set(tables["gates"]["penalty"].tolist()))
    for number, stack in enumerate(STACKS):
        mean: Any = tables["gates"].groupby("penalty")[stack].mean()
        gates.plot(np.arange(len(strengths)), np.asarray(mean), marker="o", label=stack, color=f"C{number}")
        heads = tables["importance"][tables["importance"]["stack"] == stack]
        ablation.scatter(heads["importance"], heads["loss without"], s=12, label=stack, color=f"C{number}")
    gates.set_xticks(np.arange(len(strengths)), [f"{strength:g}" for strength in strengths])
    gates.set_xlabel("penalty λ")
    gates.set_ylabel("heads left of 8")
    ablation.set_xlabel("importance |∂ loss / ∂ gate|")
    ablation.set_ylabel("loss without the head, nats")
    ablation.set_xscale("log")
    ablation.set_yscale("symlog", linthresh=1e-2)
    gates.legend(fontsize=7)
    return figure


def alignment_summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the AER of the best heads over seeds, beside the published and the untrained one."""
    by_reading: Any = tables["alignment"].groupby(["setting", "by"])["AER"]
    summary: Any = by_reading.agg(["mean", "min", "max"]).reset_index()
    pairs = zip(summary["setting"], summary["by"], strict=True)
    summary["published, best layer, % [P]"] = [
        KOBAYASHI[setting][READINGS.index(reading)] for setting, reading in pairs
    ]
    untrained: Any = tables["untrained"].groupby(["setting", "by"])["AER"].mean()
    summary["untrained"] = np.asarray(untrained)
    return summary


def page(options: Options, tables: dict[str, pd.DataFrame], left: dict[int, list[str]]) -> str:
    """Return the page for readers."""
    seeds, steps = options.trained
    penalties: Any = tables["gates"].groupby("penalty")[[*STACKS, "loss", "accuracy"]].mean()
    lost: Any = tables["one-left"].groupby(["stack", "layer"])["lost"].agg(["mean", "min", "max"])
    correlations: Any = [
        rank_correlation(heads["importance"].to_numpy(), heads["loss without"].to_numpy())
        for _, heads in tables["importance"].groupby("seed")
    ]
    kept = "\n".join(f"- seed {seed}: {', '.join(heads) or 'none pruned without loss'}" for seed, heads in left.items())
    return f"""# Which heads a translator needs

Encoder and decoder of two layers of 4 heads, width 64; {seeds} seeds, {steps} steps of {options.batch} sentences. Task:
translation by a lexicon, order {options.order}. Measured on {EVALUATED} fresh sentences; heads are numbered from 0.

## Alignment

AER of the best cross-attention head, chosen on one half of the sentences and reported on the other; mean and range
over seeds. AWO: alignment with the word that a position outputs; AWI: with the word it takes as input. Published:
Kobayashi et al. 2020, German–English, the best of 6 layers, heads averaged. That is another task, so only the sign of
the gap between norms and weights can be compared.

{lab.markdown(alignment_summary(tables), ".3f")}

## Gates

Heads left of 8 in each stack, with gates decided, means over seeds; {options.gate_steps} steps for each penalty,
starting from the trained model.

{lab.markdown(penalties)}

Published by Voita et al. 2019, Table 2 (WMT, 48 heads in each stack, starting from the trained model) [P]:

{lab.markdown(VOITA, "g")}

The fewest heads with 99 % of the accuracy, and what they attend to (AER of both settings; the commonest offset):

{kept}

## One head left

Accuracy with only the best single head of one layer left, minus that of the whole model; mean and range over seeds.
Michel et al. 2019 lost most in the last cross-attention layer, 13.56 BLEU [P], and at most 1.31 (encoder, layer 1) and
1.55 (cross, layer 5) elsewhere [S].

{lab.markdown(lost, ".3f")}

## Importance against ablation

Spearman's correlation, over the 24 heads of a model, of Michel's importance with the rise of the loss without the head:
{lab.with_interval(correlations)} over seeds ({", ".join(f"{value:.2f}" for value in correlations)}).
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
