"""What is lost when heads are taken away, and what is gained: quality against heads removed, and the measured speed.

    python -m experiments.pruned_speed [--quick] [--seeds N] [--steps N] [--batches B …] [--out DIR]

After Michel et al. 2019 (arXiv 1905.10650): section 4 (pruning in order of importance, a tenth of the heads at a time)
and the last part of it, the speed of a BERT-base half of whose heads are gone for good.

Quality is that of small models trained here on the agreement grammar, 4 layers of 8 heads, from several seeds; heads go
in order of importance, of what each costs by itself, and at random, and at every step the smaller model is really made
and gives what the gated one gives. Speed is that of BERT-base's sizes (12 layers of 12 heads, width 768): it does not
depend on what the weights are, so they are random. Sides take turns; ratios are taken within a turn.

Found (results/pruned-speed; 3 seeds): on this task 90 % of the 32 heads go without loss, by importance and by ablation
alike; at random 57 % [19, 95]. One grammatical rule needs few heads: Michel's 20 and 40 % are of translators and BERT.
The smaller models give what the gated ones give (losses to 2e-7). Half of BERT-base's heads gone make it faster by
34, 22, 21 and 20 % at batches of 1, 4, 16 and 64 (published: 17.5 % at 16 and 64); by FLOPs a fifth is to be had.
Single turns lie up to 20 % apart, on a quiet machine: the page gives ranges.

Cost on 2 cores: 3 minutes; --quick, under one, only shows that it runs.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from matplotlib.figure import Figure

import jaxheads as jh
from experiments.lab import command_line, publish
from jaxheads.data.tasks import Agreement, Sample
from jaxheads.models.network import Network, forward
from jaxheads.statistics import t_mean
from jaxheads.train import Trained, gated_scores, grid, pruning_order, remove_heads, scores, train

METHODS = ("importance", "ablation", "random")
SHARES = tuple(share / 10 for share in range(10))
"""Of all heads, taken away: Michel's steps of a tenth."""

PUBLISHED = {16: 17.5, 64: 17.5}
"""Per cent by which BERT-base with half of its heads is faster, by batch (Michel et al. 2019, on speed) [P]."""

SCORES = jax.jit(scores)


@dataclass(frozen=True)
class Options:
    """What is trained and timed.

    Attributes:
        quick: few steps of one seed, a small model, one repeat.
        seeds, steps: how many; 3 and 400 when left out.
        batches: sizes that are timed; 1, 4, 16 and 64 when left out.
        tokens: of each timed example.
        repeats: of each timing.
    """

    quick: bool = False
    seeds: int | None = None
    steps: int | None = None
    batches: tuple[int, ...] = ()
    tokens: int = 64
    repeats: int = 5
    batch: int = 64
    rate: float = 2e-3
    out: Path = Path("results/pruned-speed")

    @property
    def trained(self) -> tuple[int, int]:
        """Seeds and steps."""
        return self.seeds or (1 if self.quick else 3), self.steps or (3 if self.quick else 400)

    @property
    def timed(self) -> tuple[dict[str, Any], tuple[int, ...], int]:
        """The config that is timed, batches and repeats."""
        small = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 384, "num_attention_heads": 12}
        base = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
        sizes = {**(small if self.quick else base), "model_type": "bert", "vocab_size": 30522}
        return sizes, self.batches or ((1, 4) if self.quick else (1, 4, 16, 64)), 1 if self.quick else self.repeats


def quality(made: Trained, sample: Sample, run: int) -> pd.DataFrame:
    """Loss and accuracy as more and more heads are gone, by method; `apart` is the smaller model's logits against the
    gated one's."""
    model, rows = made.model(run), []
    stack = model.stack()
    count = stack.layers * stack.heads
    for method in METHODS:
        order = pruning_order(model.network, sample, method, seed=run)
        gates = np.ones((len(SHARES), stack.layers, stack.heads), np.float32)
        for number, share in enumerate(SHARES):
            for layer, head in order[: round(share * count)]:
                gates[number, layer, head] = 0
        losses, rights = gated_scores(model.network, sample, jnp.asarray(gates), stack=stack.name)
        for number, share in enumerate(SHARES):
            smaller = remove_heads(model, gates[number])
            loss, right = SCORES(smaller.network, sample)
            rows.append(
                {"seed": run, "order": method, "removed": share, "loss": float(loss), "accuracy": float(right),
                 "gated loss": float(losses[number]), "gated accuracy": float(rights[number]),
                 "heads a layer": smaller.stack().heads}
            )  # fmt: skip
    return pd.DataFrame(rows)


@jax.jit
def output(network: Network, batch: jh.Batch) -> Array:
    """The model's output."""
    return network.output(forward(network, batch)[0], batch)


def speeds(options: Options) -> pd.DataFrame:
    """Seconds of a forward pass, by batch and heads that are left in every layer; the weights' size."""
    config, batches, repeats = options.timed
    whole = jh.init(config)
    stack = whole.stack()
    left = [stack.heads * quarters // 4 for quarters in (4, 3, 2, 1)]
    models = {count: _with_heads(whole, count) for count in left}
    rng, rows = np.random.default_rng(0), []
    for size in batches:
        batch = jh.Batch(rng.integers(0, config["vocab_size"], (size, options.tokens)))
        for count in left:
            jax.block_until_ready(output(models[count].network, batch))
        for repeat in range(repeats):
            for count in left:
                began = time.perf_counter()
                jax.block_until_ready(output(models[count].network, batch))
                seconds = time.perf_counter() - began
                rows.append({"batch": size, "heads": count, "repeat": repeat, "seconds": seconds})
    table = pd.DataFrame(rows)
    sizes = {count: sum(leaf.nbytes for leaf in jax.tree.leaves(model.network)) for count, model in models.items()}
    table["weights, MB"] = [sizes[count] / 2**20 for count in table["heads"]]
    return table


def _with_heads(model: jh.Model, count: int) -> jh.Model:
    stack = model.stack()
    gates = np.zeros((stack.layers, stack.heads), np.float32)
    gates[:, :count] = 1
    return model if count == stack.heads else remove_heads(model, gates)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """One row a batch and number of heads: the median time, and how much faster than the whole model, in a turn."""
    whole = table["heads"].max()
    rows = []
    for size in dict.fromkeys(table["batch"]):
        turns = table[table["batch"] == size].pivot(index="repeat", columns="heads", values="seconds")
        for count in sorted(turns.columns, reverse=True):
            faster = (turns[whole] / turns[count] - 1).to_numpy(float) * 100
            rows.append(
                {"batch": size, "heads left of each layer": count, "seconds": float(np.median(turns[count])),
                 "faster, %": float(np.median(faster)), "least": faster.min(), "most": faster.max(),
                 "published [P]": PUBLISHED.get(size) if count == whole // 2 else None,
                 "weights, MB": table.loc[table["heads"] == count, "weights, MB"].iloc[0]}
            )  # fmt: skip
    return pd.DataFrame(rows)


def run(options: Options) -> None:
    """Train, prune, time, write."""
    seeds, steps = options.trained
    timed = speeds(options)
    task = Agreement()
    made = train(
        task.model_config(n_layer=4, n_head=8), task, steps, batch=options.batch, init_scale=3.0,
        checkpoints=[steps], runs=grid(range(seeds), rate=[options.rate], cosine=[steps]), progress=True,
    )  # fmt: skip
    sample = task.sample(jax.random.key(2019), 256)
    pruned = pd.concat([quality(made, sample, run) for run in range(seeds)], ignore_index=True)
    about = {"seeds": seeds, "steps": steps, "batch": options.batch, "rate": options.rate, "tokens": options.tokens}
    text = page(options, pruned, timed)
    publish(options.out, text, about, {"quality": pruned, "speed": timed}, {"pruned": picture(pruned, ratios(timed))})


def picture(pruned: pd.DataFrame, faster: pd.DataFrame) -> Figure:
    """Accuracy against heads removed, and speed against heads left."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(METHODS):
        own: Any = pruned[pruned["order"] == method]
        left.scatter(own["removed"], own["accuracy"], s=8, color=f"C{number}", alpha=0.5)
        mean = own.groupby("removed")["accuracy"].mean()
        left.plot(mean.index, mean, color=f"C{number}", label=method)
    left.set_xlabel("share of heads removed")
    left.set_ylabel("accuracy")
    left.legend(fontsize=7)
    for number, size in enumerate(dict.fromkeys(faster["batch"])):
        some = faster[faster["batch"] == size]
        right.plot(
            some["heads left of each layer"], some["faster, %"], color=f"C{number}", marker="o", label=f"batch {size}"
        )
    right.set_xlabel("heads left in each layer")
    right.set_ylabel("faster than the whole model, %")
    right.legend(fontsize=7)
    return figure


def page(options: Options, pruned: pd.DataFrame, timed: pd.DataFrame) -> str:
    """What was found, for a reader."""
    seeds, steps = options.trained
    config, _, repeats = options.timed
    mean: Any = pruned.groupby(["removed", "order"])["accuracy"].mean()
    table = mean.unstack("order")[list(METHODS)].reset_index()
    apart = float(np.abs(pruned["loss"] - pruned["gated loss"]).max())
    without = []
    for method in METHODS:
        each = []
        own: Any
        for _, own in pruned[pruned["order"] == method].groupby("seed"):
            kept = own["accuracy"].to_numpy() >= 0.99 * own["accuracy"].iloc[0]
            each.append(own["removed"].to_numpy()[: len(kept) if kept.all() else int((~kept).argmax())].max())
        values = np.asarray(each, float)
        center, low, high = map(float, t_mean(values)) if seeds > 1 else (values[0], np.nan, np.nan)
        without.append(f"{method} {center:.0%} [{low:.0%}, {high:.0%}]")
    return f"""# What is lost when heads go, and what is gained

## Quality

Agreement grammar, decoders of 4 layers of 8 heads, {seeds} seeds, {steps} steps of {options.batch}; accuracy of the
verb's number on 256 fresh sentences (chance 0.5), means over seeds. At every step the smaller model was really made;
its loss and the gated model's differ by {apart:.1g} at most.

{table.to_markdown(index=False, floatfmt=".3f")}

Removed with 99 % of the accuracy left, by order, mean over seeds and interval: {"; ".join(without)}.
Michel et al. 2019 take 20 % of a translator's heads and 40 % of BERT's without loss [P].

## Speed

BERT's form, {config["num_hidden_layers"]} layers of {config["num_attention_heads"]} heads, width
{config["hidden_size"]}, random weights, {options.tokens} tokens; the same number of heads taken from every layer.
Median of {repeats} turns; faster: than the whole model in the same turn, with the least and the most of them.
Published: half of BERT-base's heads, Michel et al. 2019, on a GPU.

{ratios(timed).to_markdown(index=False, floatfmt=".3g")}
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("pruned_speed", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
