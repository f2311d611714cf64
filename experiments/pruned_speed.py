"""Pruned heads: the quality that is lost, and the speed that is gained.

    python -m experiments.pruned_speed [--quick] [--seeds N] [--steps N] [--batches B …] [--out DIR]

After Michel et al. 2019 (arXiv 1905.10650): section 4 (pruning in order of importance, a tenth of the heads at a time)
and its last part, the speed of a BERT-base without half of its heads.

Quality is measured on small models trained here on the agreement grammar, 4 layers of 8 heads, from several seeds.
Heads are removed in order of importance, in order of their ablation effects, and at random. At every step the smaller
model is really built, and its loss is compared with that of the gated one. Speed is measured on BERT-base's sizes (12
layers of 12 heads, width 768); the weights are random, since speed does not depend on them. The models take turns, and
ratios are taken within a turn.

Found (results/pruned-speed; 3 seeds): on this task 90 % of the 32 heads can be removed without loss, by importance and
by ablation alike; at random 57 % [19, 95]. One grammatical rule needs few heads: Michel's 20 and 40 % are of
translators and BERT. The smaller models agree with the gated ones (losses to 2e-7). BERT-base without half of its heads
is faster by 34, 22, 21 and 20 % at batches of 1, 4, 16 and 64 (published: 17.5 % at 16 and 64); by FLOPs a fifth is
possible. Single turns differ by up to 20 %, on a quiet machine: the page gives ranges.

Cost on 2 cores: 3 minutes; --quick, under one minute, only shows that it runs.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

import jaxheads as jh
from experiments import lab
from jaxheads.data.tasks import Agreement, Sample
from jaxheads.train import Network, Trained, gated_scores, grid, pruning_order, remove_heads, scores, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("importance", "ablation", "random")
SHARES = tuple(share / 10 for share in range(10))
"""Shares of all heads that are removed: Michel's steps of a tenth."""

PUBLISHED = {16: 17.5, 64: 17.5}
"""Per cent by which BERT-base with half of its heads is faster, by batch (Michel et al. 2019, on speed) [P]."""

SCORES = jax.jit(scores)


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options of the training and of the timing. A quick run times a small model once.

    Attributes:
        batches: batch sizes that are timed; 1, 4, 16 and 64 when left out.
        tokens: tokens of each timed example.
        repeats: turns of each timing.
    """

    usual = (3, 400)
    short = (1, 3)
    out: Path = Path("results/pruned-speed")
    batch: int = 64
    rate: float = 2e-3
    batches: tuple[int, ...] = ()
    tokens: int = 64
    repeats: int = 5

    @property
    def timed(self) -> tuple[dict[str, Any], tuple[int, ...], int]:
        """The config that is timed, the batch sizes, and the turns."""
        small = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 384, "num_attention_heads": 12}
        base = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
        sizes = {**(small if self.quick else base), "model_type": "bert", "vocab_size": 30522}
        return sizes, self.batches or ((1, 4) if self.quick else (1, 4, 16, 64)), 1 if self.quick else self.repeats


def quality(trained: Trained, sample: Sample, run: int) -> pd.DataFrame:
    """Return loss and accuracy of a run's model as more and more heads are removed, by method."""
    model, rows = trained.model(run), []
    stack = model.stack()
    count = stack.layers * stack.heads
    for method in METHODS:
        order = pruning_order(model.network, sample, method, seed=run)
        gates = np.ones((len(SHARES), stack.layers, stack.heads), np.float32)
        for number, share in enumerate(SHARES):
            for layer, head in order[: round(share * count)]:
                gates[number, layer, head] = 0
        gated_losses, gated_accuracies = gated_scores(model.network, sample, jnp.asarray(gates), stack=stack.name)
        for number, share in enumerate(SHARES):
            smaller = remove_heads(model, gates[number])
            loss, accuracy = SCORES(smaller.network, sample)
            rows.append(
                {
                    "seed": run,
                    "order": method,
                    "removed": share,
                    "loss": float(loss),
                    "accuracy": float(accuracy),
                    "gated loss": float(gated_losses[number]),
                    "gated accuracy": float(gated_accuracies[number]),
                    "heads a layer": smaller.stack().heads,
                }
            )
    return pd.DataFrame(rows)


@jax.jit
def output(network: Network, batch: jh.Batch) -> Array:
    """Return the model's output."""
    return jh.run(jh.Model(network), batch).output


def speeds(options: Options) -> pd.DataFrame:
    """Return the seconds of each forward pass, by batch size and heads left in every layer, and the weights' size."""
    config, batches, repeats = options.timed
    whole = jh.init(config)
    heads = whole.stack().heads
    models = {count: keep_heads(whole, count) for count in (heads * quarters // 4 for quarters in (4, 3, 2, 1))}
    rng, rows = np.random.default_rng(0), []
    for size in batches:
        batch = jh.Batch(rng.integers(0, config["vocab_size"], (size, options.tokens)))
        for model in models.values():
            jax.block_until_ready(output(model.network, batch))
        for repeat in range(repeats):
            for count, model in models.items():
                start = time.perf_counter()
                jax.block_until_ready(output(model.network, batch))
                seconds = time.perf_counter() - start
                rows.append({"batch": size, "heads": count, "repeat": repeat, "seconds": seconds})
    table = pd.DataFrame(rows)
    sizes = {count: sum(leaf.nbytes for leaf in jax.tree.leaves(model.network)) for count, model in models.items()}
    table["weights, MB"] = [sizes[count] / 2**20 for count in table["heads"]]
    return table


def keep_heads(model: jh.Model, count: int) -> jh.Model:
    """Return a model with only the first heads of every layer."""
    stack = model.stack()
    gates = np.zeros((stack.layers, stack.heads), np.float32)
    gates[:, :count] = 1
    return model if count == stack.heads else remove_heads(model, gates)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each batch size and number of heads: the median time, and the gain in speed within a turn."""
    whole = table["heads"].max()
    rows = []
    for size in dict.fromkeys(table["batch"]):
        turns = table[table["batch"] == size].pivot(index="repeat", columns="heads", values="seconds")
        for count in sorted(turns.columns, reverse=True):
            faster = (turns[whole] / turns[count] - 1).to_numpy(float) * 100
            rows.append(
                {
                    "batch": size,
                    "heads left of each layer": count,
                    "seconds": float(np.median(turns[count])),
                    "faster, %": float(np.median(faster)),
                    "least": faster.min(),
                    "most": faster.max(),
                    "published [P]": PUBLISHED.get(size) if count == whole // 2 else None,
                    "weights, MB": table.loc[table["heads"] == count, "weights, MB"].iloc[0],
                }
            )
    return pd.DataFrame(rows)


def run(options: Options) -> lab.Results:
    """Time the large models; train the small ones and prune them."""
    seeds, steps = options.trained
    timed = speeds(options)
    task = Agreement()
    trained = train(
        task.model_config(n_layer=4, n_head=8),
        task,
        steps,
        batch=options.batch,
        init_scale=3.0,
        checkpoints=[steps],
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
        progress=True,
    )
    sample = task.sample(jax.random.key(2019), 256)
    pruned = pd.concat([quality(trained, sample, run) for run in range(seeds)], ignore_index=True)
    about = {**options.about, "tokens": options.tokens}
    tables, figures = {"quality": pruned, "speed": timed}, {"pruned": picture(pruned, ratios(timed))}
    return lab.Results(page(options, pruned, timed), about, tables, figures)


def picture(pruned: pd.DataFrame, faster: pd.DataFrame) -> "Figure":
    """Draw accuracy by heads removed, and the gain in speed by heads left."""
    figure, (left, right) = lab.panels(2, (9, 3.5))
    for number, method in enumerate(METHODS):
        chosen: Any = pruned[pruned["order"] == method]
        lab.points_and_mean(left, chosen, "removed", "accuracy", color=f"C{number}", label=method)
    left.set_xlabel("share of heads removed")
    left.set_ylabel("accuracy")
    for number, size in enumerate(dict.fromkeys(faster["batch"])):
        chosen = faster[faster["batch"] == size]
        heads, gain = chosen["heads left of each layer"], chosen["faster, %"]
        right.plot(heads, gain, color=f"C{number}", marker="o", label=f"batch {size}")
    right.set_xlabel("heads left in each layer")
    right.set_ylabel("faster than the whole model, %")
    for axes in (left, right):
        axes.legend(fontsize=7)
    return figure


def removed_without_loss(pruned: pd.DataFrame, method: str) -> list[float]:
    """Return, for each seed, the share of the heads that can be removed before accuracy falls below 99 %."""
    shares = []
    seed: Any
    for _, seed in pruned[pruned["order"] == method].groupby("seed"):
        enough = seed["accuracy"].to_numpy() >= 0.99 * seed["accuracy"].iloc[0]
        steps = len(enough) if enough.all() else int((~enough).argmax())
        shares.append(seed["removed"].to_numpy()[:steps].max())
    return shares


def page(options: Options, pruned: pd.DataFrame, timed: pd.DataFrame) -> str:
    """Return the page for readers."""
    seeds, steps = options.trained
    config, _, repeats = options.timed
    mean: Any = pruned.groupby(["removed", "order"])["accuracy"].mean()
    table = mean.unstack("order")[list(METHODS)]
    difference = float(np.abs(pruned["loss"] - pruned["gated loss"]).max())
    removed = [f"{method} {lab.with_interval(removed_without_loss(pruned, method), '.0%')}" for method in METHODS]
    return f"""# What is lost when heads are removed, and what is gained

## Quality

Agreement grammar; decoders of 4 layers of 8 heads, {seeds} seeds, {steps} steps of {options.batch}. Accuracy of the
verb's number on 256 fresh sentences (chance 0.5), means over seeds. At every step the smaller model was really built;
its loss and the gated model's differ by at most {difference:.1g}.

{lab.markdown(table, ".3f")}

Share of the heads removed with 99 % of the accuracy left, by order, mean over seeds and interval: {"; ".join(removed)}.
Michel et al. 2019 remove 20 % of a translator's heads and 40 % of BERT's without loss [P].

## Speed

BERT's form, {config["num_hidden_layers"]} layers of {config["num_attention_heads"]} heads, width
{config["hidden_size"]}, random weights, {options.tokens} tokens; the same number of heads is removed from every layer.
Seconds: median of {repeats} turns. Faster: than the whole model in the same turn; median, least and most of the turns.
Published: BERT-base without half of its heads on a GPU, Michel et al. 2019.

{lab.markdown(ratios(timed))}
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
