"""Which heads does a translator need? Alignment heads, gates that close, one head left, importance against ablation.

    python -m experiments.translation_heads [--quick] [--order reverse] [--seeds N] [--steps N] [--out DIR]

After Voita et al. 2019 (arXiv 1905.09418; gates), Michel et al. 2019 (arXiv 1905.10650; one head left, importance),
Kobayashi et al. 2020 (alignment by norms against weights, and both of its settings) and Raganato & Tiedemann 2018 (what
encoder heads look at). Their translators are large and their data is not here: ours have 2 + 2 layers of 4 heads and
translate by a lexicon, in another order, so that the alignment is known exactly.

Trained from several seeds at once. Of every cross-attention head the alignment error rate, of the word that a row gives
(AWO) and of the word it reads (AWI), by weights and by norms; the best head is chosen on one half of the examples and
reported on the other. Then hard-concrete gates with rising penalties, all trained at once from the converged model; the
loss with only one head left in a layer; and Michel's importance of every head beside what its removal costs.

Found (results/translation-heads; order reverse, 3 seeds): in every seed a head of the last layer aligns the word that
its row gives without error (AER 0.000 to 0.001; untrained 0.88); of the word read the best is 0.80, so the setting
decides. By norms it is the same to 0.02. Heads survive in Voita's order: at the strongest penalty 2.7 of 8 are left in
the encoder, 6.7 in the decoder, 7.3 in cross-attention, with 0.995 of the words right. With one head left the last
cross-attention layer loses most (0.54 of the accuracy), the encoder 0.03 at most: Michel's order. Importance ranks the
24 heads as their removal does (Spearman 0.90). Training with gates spreads the alignment over the heads of its layer:
the best AER is then 0.04 to 0.06 where heads could go; in one seed of three none went without a loss.

Cost on 2 cores: 3 minutes; --quick, under one, only shows that it runs.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxheads as jh
from experiments.lab import command_line, publish
from jaxheads.data.tasks import Sample, Translation
from jaxheads.models.network import Network
from jaxheads.statistics import rank_correlation, t_mean
from jaxheads.train import ablation_losses, grid, head_importance, learn_gates, scores, train

STACKS = ("encoder", "decoder", "cross")
SETTINGS = {"AWO": "alignment", "AWI": "alignment_input"}
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
class Options:
    """What is trained.

    Attributes:
        quick: few steps of few seeds.
        order: of the target's words: copy, reverse or swap.
        seeds, steps: how many; 3 and 1,200 when left out.
        gating: steps of gates; 400 when left out.
        strengths: the penalties.
    """

    quick: bool = False
    order: str = "reverse"
    seeds: int | None = None
    steps: int | None = None
    gating: int | None = None
    strengths: tuple[float, ...] = (0.003, 0.03, 0.1, 0.3)
    batch: int = 32
    rate: float = 2e-3
    out: Path = Path("results/translation-heads")

    @property
    def trained(self) -> tuple[int, int, int]:
        """Seeds, steps, and steps of gates."""
        short = (1, 10, 4) if self.quick else (3, 1200, 400)
        return self.seeds or short[0], self.steps or short[1], self.gating or short[2]


def fresh(task: Translation) -> Sample:
    """What everything is measured on."""
    return task.sample(jax.random.key(2019), EVALUATED)


def alignments(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """The best cross-attention head by each setting and reading: its AER on the half that it was not chosen on."""
    batch, rows = sample.batch, []
    assert batch.marks is not None
    half = np.arange(len(batch)) < len(batch) // 2
    for setting, mark in SETTINGS.items():
        for of in ("weights", "norms"):
            sure, end = np.asarray(batch.marks[mark]), np.asarray(batch.tokens) == 2
            chosen, told = (
                jh.alignment_error_rate(
                    model,
                    batch.take(np.flatnonzero(part)),
                    sure[part],
                    skip=end[part],
                    of=of,  # type: ignore[arg-type]
                )
                for part in (half, ~half)
            )
            layer, head = np.unravel_index(chosen.grid("aer").argmin(), chosen.shape)
            row = told.frame.loc[("cross", layer, head)]
            rows.append(
                {"seed": seed, "setting": setting, "by": of, "best head": f"L{layer}H{head}", "AER": row["aer"],
                 "low": row["aer_low"], "high": row["aer_high"], "mean of heads": told.grid("aer").mean(),
                 "optimism": told.grid("aer")[layer, head] - chosen.grid("aer").min()}
            )  # fmt: skip
    return pd.DataFrame(rows)


def gated(model: jh.Model, task: Translation, sample: Sample, options: Options, seed: int) -> tuple[pd.DataFrame, Any]:
    """Heads left and what is left of the accuracy at each penalty, with gates decided; and the gates."""
    _, _, steps = options.trained
    made = learn_gates(
        model, task, steps, strengths=options.strengths, batch=options.batch, rate=3e-4, seed=seed, progress=True
    )
    before, rows = SCORES(model.network, sample), []
    rows.append({"seed": seed, "penalty": 0.0, **dict.fromkeys(STACKS, 8), "loss": before[0], "accuracy": before[1]})
    for index, strength in enumerate(options.strengths):
        gates, alive = made.gates(index), made.alive()
        edits = tuple(jh.gate(model, jnp.asarray(value), stack=name) for name, value in gates.items())
        loss, right = SCORES(made.network(index), sample, edits)
        left = {name: int(alive[name][index]) for name in STACKS}
        rows.append({"seed": seed, "penalty": strength, **left, "loss": float(loss), "accuracy": float(right)})
    return pd.DataFrame(rows).astype({"loss": float, "accuracy": float}), made


def survivors(model: jh.Model, made: Any, table: pd.DataFrame, sample: Sample) -> list[str]:
    """Of the fewest heads that still get 99 % of the accuracy: each with what it does."""
    enough = table[table["accuracy"] >= 0.99 * table["accuracy"].iloc[0]]
    index = int(enough[list(STACKS)].sum(axis=1).to_numpy().argmin()) - 1
    if index < 0:
        return []
    batch = sample.batch
    assert batch.marks is not None
    end, network = np.asarray(batch.tokens) == 2, made.network(index)
    pruned = jh.Model(network, name=model.name)
    aer = {
        name: jh.alignment_error_rate(pruned, batch, np.asarray(batch.marks[mark]), skip=end).grid("aer")
        for name, mark in SETTINGS.items()
    }
    seen = {name: jh.measure(pruned, batch, "positional_share", stack=name) for name in ("encoder", "decoder")}
    found = []
    for name, gates in made.gates(index).items():
        for layer, head in np.argwhere(gates > 0):
            if name == "cross":
                what = ", ".join(f"{setting} {value[layer, head]:.2f}" for setting, value in aer.items())
            else:
                row = seen[name].frame.loc[(name, layer, head)]
                what = f"{row['positional_share']:.0%} at offset {int(row['positional_offset']):+d}"
            found.append(f"{name} L{layer}H{head} ({what})")
    return found


@partial(jax.jit, static_argnames="stack")
def accuracies(network: Network, sample: Sample, gates_GLN: jax.Array, stack: str) -> jax.Array:
    """Of each set of gates, `[G]`."""
    model = jh.Model(network)
    return jax.lax.map(lambda gates: scores(network, sample, (jh.gate(model, gates, stack=stack),))[1], gates_GLN)


def one_left(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """Accuracy lost with only the best single head of a layer left (Michel et al. 2019, Tables 2 and 3)."""
    before, rows = float(SCORES(model.network, sample)[1]), []
    for name, stack in model.stacks.items():
        gates = np.ones((stack.layers, stack.heads, stack.layers, stack.heads), np.float32)
        for layer in range(stack.layers):
            gates[layer, :, layer] = np.eye(stack.heads)
        found = accuracies(model.network, sample, jnp.asarray(gates.reshape(-1, *gates.shape[2:])), name)
        lost = np.asarray(found).reshape(stack.layers, stack.heads) - before
        for layer, each in enumerate(lost):
            best = int(each.argmax())
            rows.append({"seed": seed, "stack": name, "layer": layer, "best head": best, "lost": float(each[best])})
    return pd.DataFrame(rows)


OF_HEADS = {
    "importance": jax.jit(head_importance, static_argnames="stack"),
    "loss without": jax.jit(ablation_losses, static_argnames="stack"),
}


def importances(model: jh.Model, sample: Sample, seed: int) -> pd.DataFrame:
    """Michel's importance of each head, and by how much the loss rises without it."""
    frames = []
    for name, stack in model.stacks.items():
        layer, head = np.indices((stack.layers, stack.heads)).reshape(2, -1)
        found = {
            column: np.asarray(function(model.network, sample, stack=name)).reshape(-1)
            for column, function in OF_HEADS.items()
        }
        frames.append(pd.DataFrame({"seed": seed, "stack": name, "layer": layer, "head": head, **found}))
    return pd.concat(frames, ignore_index=True)


def run(options: Options) -> None:
    """Train, ask everything of every seed, write."""
    task = Translation(options.order)
    seeds, steps, _ = options.trained
    made = train(
        task.model_config(), task, steps, batch=options.batch, init_scale=3.0, checkpoints=[0, steps], progress=True,
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
    )  # fmt: skip
    sample, tables, left = fresh(task), {}, {}
    for seed in range(seeds):
        model = made.model(seed)
        gates, learnt = gated(model, task, sample, options, seed)
        found = {
            "alignment": alignments(model, sample, seed),
            "untrained": alignments(made.model(seed, 0), sample, seed),
            "gates": gates,
            "one-left": one_left(model, sample, seed),
            "importance": importances(model, sample, seed),
        }
        left[seed] = survivors(model, learnt, gates, sample)
        for name, table in found.items():
            tables.setdefault(name, []).append(table)
        print(f"seed {seed}: accuracy {gates['accuracy'].iloc[0]:.3f}; left {left[seed]}", flush=True)
    write(options, {name: pd.concat(each, ignore_index=True) for name, each in tables.items()}, left)


def write(options: Options, tables: dict[str, pd.DataFrame], left: dict[int, list[str]]) -> None:
    """Tables, the picture, the page."""
    seeds, steps, gating = options.trained
    about = {
        "order": options.order, "seeds": seeds, "steps": steps, "gating": gating, "batch": options.batch,
        "rate": options.rate, "strengths": list(options.strengths), "survivors": left,
    }  # fmt: skip
    publish(options.out, page(options, tables, left), about, tables, {"heads": picture(tables)})


def picture(tables: dict[str, pd.DataFrame]) -> Figure:
    """Heads that stay as the penalty grows, and importance against ablation."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    gates, cost = figure.subplots(1, 2)
    strengths = sorted(set(tables["gates"]["penalty"].tolist()))
    for number, stack in enumerate(STACKS):
        mean: Any = tables["gates"].groupby("penalty")[stack].mean()
        gates.plot(np.arange(len(strengths)), np.asarray(mean), marker="o", label=stack, color=f"C{number}")
        own = tables["importance"][tables["importance"]["stack"] == stack]
        cost.scatter(own["importance"], own["loss without"], s=12, label=stack, color=f"C{number}")
    gates.set_xticks(np.arange(len(strengths)), [f"{strength:g}" for strength in strengths])
    gates.set_xlabel("penalty λ")
    gates.set_ylabel("heads left of 8")
    cost.set_xlabel("importance |∂ loss / ∂ gate|")
    cost.set_ylabel("loss without the head, nats")
    cost.set_xscale("log")
    cost.set_yscale("symlog", linthresh=1e-2)
    gates.legend(fontsize=7)
    return figure


def page(options: Options, tables: dict[str, pd.DataFrame], left: dict[int, list[str]]) -> str:
    """What was found, for a reader."""
    seeds, steps, gating = options.trained
    by_way: Any = tables["alignment"].groupby(["setting", "by"])["AER"]
    aligned: Any = by_way.agg(["mean", "min", "max"]).reset_index()
    pairs = zip(aligned["setting"], aligned["by"], strict=True)
    published = [KOBAYASHI[setting][by == "norms"] for setting, by in pairs]
    aligned["published, best layer, % [P]"] = published
    untrained: Any = tables["untrained"].groupby(["setting", "by"])["AER"].mean()
    aligned["untrained"] = np.asarray(untrained)
    penalties: Any = tables["gates"].groupby("penalty")[[*STACKS, "loss", "accuracy"]]
    layers: Any = tables["one-left"].groupby(["stack", "layer"])["lost"]
    by_penalty, lost = penalties.mean().reset_index(), layers.agg(["mean", "min", "max"]).reset_index()
    each = [
        rank_correlation(own["importance"].to_numpy(), own["loss without"].to_numpy())
        for _, own in tables["importance"].groupby("seed")
    ]
    agreement, low, high = map(float, t_mean(np.asarray(each, float))) if seeds > 1 else (each[0], np.nan, np.nan)
    kept = "\n".join(f"- seed {seed}: {', '.join(heads) or 'none pruned without loss'}" for seed, heads in left.items())
    return f"""# Which heads a translator needs

Encoder and decoder of two layers of 4 heads, width 64, {seeds} seeds, {steps} steps of {options.batch} sentences; task:
translation by a lexicon, order {options.order}. Measured on {EVALUATED} fresh sentences; heads are numbered from 0.

## Alignment

AER of the best cross-attention head, chosen on one half of the sentences and reported on the other; mean and range
over seeds. AWO: the word that a row gives; AWI: the word it reads. Published: Kobayashi et al. 2020, German–English,
the best of 6 layers, heads averaged: another task, so only the sign of the gap between norms and weights compares.

{aligned.to_markdown(index=False, floatfmt=".3f")}

## Gates

Heads left of 8 a stack, gates decided, means over seeds; {gating} steps for each penalty, from the trained model.

{by_penalty.to_markdown(index=False, floatfmt=".3g")}

Beside it Voita et al. 2019, Table 2 (WMT, 48 heads a stack, from the trained model) [P]:

{VOITA.to_markdown(index=False)}

The fewest heads with 99 % of the accuracy, and what they look at (AER of either setting; the commonest offset):

{kept}

## One head left

Accuracy with only the best single head of one layer left, less that of the whole model; mean and range over seeds.
Michel et al. 2019 lost most in the last cross-attention layer, 13.56 BLEU [P], against 1.31 (encoder, layer 1) and 1.55
(cross, layer 5) elsewhere at most [S].

{lost.to_markdown(index=False, floatfmt=".3f")}

## Importance against ablation

Spearman's correlation over the 24 heads of a model of Michel's importance with the rise of the loss without the head:
{agreement:.2f} [{low:.2f}, {high:.2f}] over seeds ({", ".join(f"{one:.2f}" for one in each)}).
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("translation_heads", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
