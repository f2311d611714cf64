"""The page of `experiments.pruned_speed`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import (
    ANY,
    EQUAL,
    MARK,
    POSITIVE,
    SHARE,
    groups,
    interval,
    sentence,
    words,
)

ORDERS = ("importance", "ablation", "random")
MOST = 0.9
"""The largest share of heads that is removed."""


def lost(pruned: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each order and share removed: accuracy, loss, and their differences from the whole model's.

    Differences are taken seed by seed. So is the gain over the random order.
    """
    by_seed: Any = pruned.set_index(["order", "removed", "seed"]).sort_index()
    rows = []
    for order, removed in dict.fromkeys(zip(pruned["order"], pruned["removed"], strict=True)):
        row: dict[str, Any] = {"order": order, "removed": removed}
        here, whole, random = (by_seed.loc[key] for key in ((order, removed), (order, 0.0), ("random", removed)))
        compared = {
            "accuracy": (here["accuracy"], SHARE),
            "accuracy − whole": (here["accuracy"] - whole["accuracy"], ANY),
            "accuracy − random": (here["accuracy"] - random["accuracy"], ANY),
            "loss": (here["loss"], POSITIVE),
            "loss − whole": (here["loss"] - whole["loss"], ANY),
        }
        for name, (values, within) in compared.items():
            of = interval(values.to_numpy(float), within)
            row |= {name: float(of.mean), f"{name} low": float(of.low), f"{name} high": float(of.high)}
        rows.append({**row, "n": len(here)})
    return pd.DataFrame(rows)


def removed(pruned: pd.DataFrame, enough: float) -> pd.DataFrame:
    """Return a row for each order and seed: the share of heads removed while enough of the accuracy is left.

    It is chosen on the choosing examples; "left" is the share of the accuracy that is then left on the others.
    """
    rows = []
    for (order, seed), group in groups(pruned, ["order", "seed"]):
        choosing, reported = group["choosing accuracy"].to_numpy(float), group["accuracy"].to_numpy(float)
        fine = choosing >= enough * choosing[0]
        last = len(fine) - 1 if fine.all() else int((~fine).argmax()) - 1
        left = reported[last] / reported[0]
        rows.append({"order": order, "seed": seed, "removed": group["removed"].to_numpy(float)[last], "left": left})
    return pd.DataFrame(rows)


def page(
    training: Mapping[str, Any],
    machine: Mapping[str, Any],
    pruned: pd.DataFrame,
    means: pd.DataFrame,
    kept: pd.DataFrame,
    faster: pd.DataFrame,
) -> str:
    """Return the page for readers.

    Args:
        training: seeds, steps, batch, examples evaluated, random orders, and the share of accuracy that is enough.
        machine: config and tokens that are timed, turns, load, cores, and the gain that is possible.
        pruned: a row for each order, share and seed.
        means: of `lost`.
        kept: of `removed`.
        faster: ratios of times.
    """
    difference = float(np.abs(pruned["smaller model's loss"] - pruned["gated loss"]).max())
    whole: Any = pruned[(pruned["removed"] == 0) & (pruned["order"] == "importance")]
    config = machine["config"]
    below = interval(whole["accuracy"], SHARE).high < 1
    ceiling = "below the ceiling, so that a loss can be seen" if below else "not shown to be below the ceiling"
    return f"""# What is lost when heads are removed, and what is gained

## Quality

The type of each closing bracket, 40 brackets of 4 types (chance 0.25, the best model 1). Decoders of 4 layers of 8
heads, {training["seeds"]} seeds, {training["steps"]} steps of {training["batch"]}. The whole models' accuracy is
{sentence(whole["accuracy"], "seeds", ".3f", SHARE)}, {ceiling}. How more training steps would change what can be
removed was not measured.

Each seed's model is measured on {training["evaluated"]} fresh examples of its own. The orders come from
{training["evaluated"]} others; "random" is the mean of {training["orders"]} orders of each seed. At every step the
smaller model was really built; its loss and the gated model's differ by at most {difference:.1g}. Intervals are of
95 %, over n = {marked_count(training["seeds"])} seeds. {MARK}
{EQUAL}

Accuracy:

{quality_table(means, "accuracy")}

Accuracy less the whole model's, seed by seed:

{quality_table(means, "accuracy − whole")}

Accuracy less that of random orders, seed by seed:

{quality_table(means, "accuracy − random", ("importance", "ablation"))}

{first_loss(means)}

Share of the heads that can be removed with {training["enough"]:.0%} of the accuracy left, in steps of a tenth. It is
chosen on the choosing examples; "left" is the share of the accuracy left on the others.

{removed_table(kept)}

Michel et al. 2019 remove 20 % of a translator's heads and 40 % of BERT's without loss [P].

## Speed

BERT's form, {config["num_hidden_layers"]} layers of {config["num_attention_heads"]} heads, width
{config["hidden_size"]}, random weights, {machine["tokens"]} tokens; the same number of heads is removed from every
layer. Seconds: median of {marked_count(machine["repeats"])} turns. Faster: than the whole model in the same turn;
median, least and most of the turns. If turns were independent, least and most would be an interval of
{100 * (1 - 0.5 ** (machine["repeats"] - 1)):.1f} % for the median. Counted in multiplications, half of the heads make
the layers {machine["possible"]:.0f} % faster. Published: BERT-base without half of its heads on a GPU, Michel et al.
2019.

{noise(machine)}

{lab.markdown(faster.assign(turns=faster["turns"].map(marked_count)))}
"""


def quality_table(means: pd.DataFrame, name: str, orders: tuple[str, ...] = ORDERS) -> str:
    """Return one number as Markdown, a row a share and a column an order."""
    cells: dict[float, dict[str, str]] = {}
    for row in means.to_dict("records"):
        if row["order"] in orders:
            bounds = f"[{row[f'{name} low']:.3f}, {row[f'{name} high']:.3f}]" if row["n"] > 1 else "no interval"
            cells.setdefault(row["removed"], {})[row["order"]] = f"{row[name]:.3f} {bounds}"
    rows = [{"removed": f"{share:.0%}", **row} for share, row in cells.items()]
    return pd.DataFrame(rows).to_markdown(index=False)


def first_loss(means: pd.DataFrame) -> str:
    """Return from which share on each order's accuracy is below the whole model's, with the whole interval."""
    lines = []
    for order, group in groups(means, "order"):
        below = group[group["accuracy − whole high"] < 0]
        share = f"{below['removed'].min():.0%} of the heads removed" if len(below) else "no share"
        lines.append(f"{order} {share}")
    count = means["removed"].nunique() - 1
    return (
        f"The first share at which the interval lies below 0, of {count} without a correction for their number: "
        f"{'; '.join(lines)}."
    )


def removed_table(kept: pd.DataFrame) -> str:
    """Return the shares that can be removed as Markdown."""
    rows = [
        {
            "order": order,
            "removed": words(group["removed"], ".2f", (0.0, MOST)),
            "left": words(group["left"], ".3f", POSITIVE),
            "n": marked_count(len(group)),
        }
        for order, group in groups(kept, "order")
    ]
    return pd.DataFrame(rows).to_markdown(index=False)


def noise(machine: Mapping[str, Any]) -> str:
    """Return how busy the machine was while it timed."""
    load, cores = np.asarray(machine["load"], float), machine["cores"]
    busy = "busy with other work, so seconds are too long, and only ratios within a turn are of use"
    state = "quiet" if np.median(load) <= 1.25 * cores else busy
    return (
        f"The machine has {cores} cores; its load average was {load.min():.1f} to {load.max():.1f} before the turns "
        f"(median {np.median(load):.1f}): it was {state}."
    )
