"""Pruned heads: how much quality is lost, and how much speed is gained?

    python -m experiments.pruned_speed [--quick] [--seeds N] [--steps N] [--batches B …] [--out DIR]

After Michel et al. 2019 (arXiv 1905.10650): section 4 (pruning in order of importance, a tenth of the heads at a time)
and its last part, the speed of a BERT-base without half of its heads.

Quality is measured on small models trained here, 4 layers of 8 heads, from several seeds. The task is the type of each
closing bracket among 40 brackets of 4 types: its best accuracy is 1, and the models end clearly below it. Heads are
removed in order of importance, in order of their ablation effects, and at random. Orders, and the share of heads that
can be removed, are chosen on other examples than they are reported on. At every step the smaller model is really built,
and its loss is compared with that of the gated one. Speed is measured on BERT-base's sizes (12 layers of 12 heads,
width 768); the weights are random, since speed does not depend on them. The models take turns in random order, and
ratios are taken within a turn.

Found: see results/pruned-speed/summary.md, whose findings the run writes.

--quick, under one minute, only shows that it runs.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

import jaxheads as jh
from jaxheads.data.tasks import Dyck, Sample
from jaxheads.train import Network, Trained, gated_scores, grid, pruning_order, remove_heads, scores, train

from . import lab
from .support import pruned_speed_page

METHODS = ("importance", "ablation", "random")
SHARES = tuple(share / 10 for share in range(10))
"""Shares of all heads that are removed: Michel's steps of a tenth."""

TASK = Dyck(types=4, brackets=40)
EVALUATED = 256
"""Fresh examples of each seed that quality is reported on; as many others choose."""

RANDOM_ORDERS = 5
"""Random orders of each seed, whose mean is reported."""

ENOUGH = 0.99
"""Share of the accuracy that must be left."""

PUBLISHED = {16: 17.5, 64: 17.5}
"""Per cent by which BERT-base with half of its heads is faster, by batch (Michel et al. 2019, on speed) [P]."""

POSITIONS = 512
"""Positions of BERT."""

SCORES = jax.jit(scores)


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options of the training and of the timing. A quick run times a small model once.

    Attributes:
        batches: batch sizes that are timed; 1, 4, 16 and 64 when left out.
        tokens: tokens of each timed example.
        repeats: turns of each timing; the range of 6 is an interval of 96.9 % for their median.
    """

    usual = (8, 400)
    short = (1, 3)
    out: Path = Path("results/pruned-speed")
    batch: int = 32
    rate: float = 2e-3
    batches: tuple[int, ...] = ()
    tokens: int = 64
    repeats: int = 6

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if self.tokens > POSITIONS:
            raise ValueError(f"--tokens: expected at most {POSITIONS}, BERT's positions, got {self.tokens}")

    @property
    def timed(self) -> tuple[dict[str, Any], tuple[int, ...], int]:
        """The config that is timed, the batch sizes, and the turns."""
        small = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 384, "num_attention_heads": 12}
        base = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
        sizes = {**(small if self.quick else base), "model_type": "bert", "vocab_size": 30522}
        return sizes, self.batches or ((1, 4) if self.quick else (1, 4, 16, 64)), 1 if self.quick else self.repeats


def orders(network: Network, sample: Sample, seed: int) -> dict[str, list[Any]]:
    """Return the heads in order of removal by method: one order each, and several at random."""
    chosen: dict[str, list[Any]] = {method: [pruning_order(network, sample, method)] for method in METHODS[:2]}
    draws = range(RANDOM_ORDERS * seed, RANDOM_ORDERS * (seed + 1))
    return {**chosen, "random": [pruning_order(network, sample, "random", seed=draw) for draw in draws]}


def quality(trained: Trained, run: int) -> pd.DataFrame:
    """Return loss and accuracy of a run's model as more and more heads are removed, by method.

    The orders, and "choosing accuracy", are of other examples than the rest.
    """
    choosing, sample = (TASK.sample(jax.random.fold_in(jax.random.key(key), run), EVALUATED) for key in (2018, 2019))
    model, rows = trained.model(run), []
    stack = model.stack()
    count = stack.layers * stack.heads
    for method, several in orders(model.network, choosing, run).items():
        gates = np.ones((len(several), len(SHARES), stack.layers, stack.heads), np.float32)
        for draw, order in enumerate(several):
            for number, share in enumerate(SHARES):
                for layer, head in order[: round(share * count)]:
                    gates[draw, number, layer, head] = 0
        flat = jnp.asarray(gates.reshape(-1, stack.layers, stack.heads))
        losses, accuracies = _by_draw(gated_scores(model.network, sample, flat, stack=stack.name), gates)
        choosing_accuracies = _by_draw(gated_scores(model.network, choosing, flat, stack=stack.name), gates)[1]
        for number, share in enumerate(SHARES):
            # The first random order is really removed.
            smaller = remove_heads(model, gates[0, number])
            loss, accuracy = SCORES(smaller.network, sample)
            rows.append(
                {
                    "seed": run,
                    "order": method,
                    "removed": share,
                    "loss": float(losses[:, number].mean()),
                    "accuracy": float(accuracies[:, number].mean()),
                    "choosing accuracy": float(choosing_accuracies[:, number].mean()),
                    "smaller model's loss": float(loss),
                    "gated loss": float(losses[0, number]),
                    "smaller model's accuracy": float(accuracy),
                    "heads a layer": smaller.stack().heads,
                }
            )
    return pd.DataFrame(rows)


def _by_draw(both: Any, gates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and accuracies by draw and share, `[draws,shares]` each."""
    loss, accuracy = (np.asarray(values, np.float64).reshape(gates.shape[:2]) for values in both)
    return loss, accuracy


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
    rng, rows, loads = np.random.default_rng(0), [], []
    for size in batches:
        batch = jh.Batch(rng.integers(0, config["vocab_size"], (size, options.tokens)))
        for model in models.values():
            jax.block_until_ready(output(model.network, batch))
        for repeat in range(repeats):
            loads.append(os.getloadavg()[0])
            for count in rng.permutation(list(models)).tolist():
                model = models[count]
                start = time.perf_counter()
                jax.block_until_ready(output(model.network, batch))
                seconds = time.perf_counter() - start
                rows.append({"batch": size, "heads": count, "repeat": repeat, "seconds": seconds, "load": loads[-1]})
    table = pd.DataFrame(rows)
    sizes = {count: sum(leaf.nbytes for leaf in jax.tree.leaves(model.network)) for count, model in models.items()}
    table["weights, MB"] = [sizes[count] / 2**20 for count in table["heads"]]
    return table


def timings(options: Options) -> list[dict[Any, Any]]:
    """Return the rows of `speeds`."""
    return speeds(options).to_dict("records")


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
                    "turns": len(faster),
                    "published [P]": PUBLISHED.get(size) if count == whole // 2 else None,
                    "weights, MB": table.loc[table["heads"] == count, "weights, MB"].iloc[0],
                }
            )
    return pd.DataFrame(rows)


def possible(config: dict[str, Any], tokens: int) -> float:
    """Return by how many per cent half of the heads would make the layers faster, counted in multiplications."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    attention, rest = 4 * width**2 + 2 * tokens * width, 2 * width * inner
    return 100 * ((attention + rest) / (attention / 2 + rest) - 1)


def run(options: Options) -> lab.Results:
    """Time the large models; train the small ones and prune them."""
    seeds, steps = options.trained
    timed = pd.DataFrame(options.keep(timings, options))
    trained = train(
        TASK.model_config(n_layer=4, n_head=8),
        TASK,
        steps,
        batch=options.batch,
        init_scale=3.0,
        checkpoints=[steps],
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
        progress=True,
        directory=options.unfinished / "training",
    )
    pruned = pd.concat([quality(trained, run) for run in range(seeds)], ignore_index=True)
    lost, kept = pruned_speed_page.lost(pruned), pruned_speed_page.removed(pruned, ENOUGH)
    config, _, repeats = options.timed
    training = {**options.about, "evaluated": EVALUATED, "orders": RANDOM_ORDERS, "enough": ENOUGH}
    machine = {"config": config, "tokens": options.tokens, "repeats": repeats, "load": timed["load"]}
    faster = ratios(timed)
    machine |= {"possible": possible(config, options.tokens), "cores": os.cpu_count()}
    text = pruned_speed_page.page(training, machine, pruned, lost, kept, faster)
    tables = {"quality": pruned, "lost": lost, "removed": kept, "speed": timed}
    about = {**options.about, "evaluated": EVALUATED, "tokens": options.tokens}
    return lab.Results(text, about, tables, {"pruned": picture(lost, faster)})


def picture(lost: pd.DataFrame, faster: pd.DataFrame) -> "jh.plots.Picture":
    """Draw accuracy by heads removed, and the gain in speed by heads left, both with intervals."""
    figure, (left, right) = jh.plots.panels(2, (9, 3.5))
    for number, method in enumerate(METHODS):
        chosen: Any = lost[lost["order"] == method]
        x, mean = 100 * chosen["removed"] + (number - 1), chosen["accuracy"]
        error = np.stack([mean - chosen["accuracy low"], chosen["accuracy high"] - mean])
        left.errorbar(x, mean, np.nan_to_num(error), color=jh.plots.color(number), label=method, capsize=2, linewidth=1)
    left.set_xlabel("heads removed, %")
    left.set_ylabel("accuracy (interval over seeds)")
    sizes = dict.fromkeys(faster["batch"])
    for number, size in enumerate(sizes):
        chosen = faster[faster["batch"] == size]
        heads, gain = chosen["heads left of each layer"] + 0.12 * (number - len(sizes) / 2), chosen["faster, %"]
        error = np.stack([gain - chosen["least"], chosen["most"] - gain])
        right.errorbar(heads, gain, error, color=jh.plots.color(number), marker="o", label=f"batch {size}", capsize=2)
    right.set_xlabel("heads left in each layer")
    right.set_ylabel("faster than the whole model, %")
    for axes in (left, right):
        axes.legend(fontsize=7)
    return figure


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
