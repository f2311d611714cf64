"""The page and the figure of the translator's heads."""

from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.statistics import rank_correlation
from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import (
    MARK,
    POSITIVE,
    beyond,
    bounds,
    groups,
    interval,
    words,
)

STACKS = ("encoder", "decoder", "cross")

VOITA = pd.DataFrame(
    [(48, 48, 48, 29.6), (14, 31, 30, 29.62), (12, 21, 25, 29.36), (8, 13, 15, 29.06), (5, 9, 12, 28.90)],
    columns=["encoder", "decoder", "cross", "BLEU"],
)
"""Voita et al.'s Table 2, WMT English–Russian, gates learnt from a trained model: heads left, and BLEU [P]."""

KOBAYASHI = {("AWO", "weights"): 47.7, ("AWO", "norms"): 41.4, ("AWI", "weights"): 29.8, ("AWI", "norms"): 25.0}
"""AER of the best layer, per cent (Kobayashi et al. 2020) [P]."""

MEAN_SHARE = (0.0, float(np.nextafter(1, 2)))
"""Range of a share that was itself counted over many examples: one that is 0 or 1 is no single yes or no."""

CHANGE = (-1.0, 1.0)
"""Range of differences of shares, and of correlations."""


def alignment_summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the AER of the best heads over seeds, beside the published and the untrained one."""
    rows, untrained = [], dict(groups(tables["untrained"], ["setting", "by"]))
    for key, heads in groups(tables["alignment"], ["setting", "by"]):
        row = {
            "setting": key[0],
            "by": key[1],
            "n": marked_count(len(heads)),
            "best head": words(heads["AER"], ".3f", MEAN_SHARE),
        }
        row |= {
            "optimism": f"{heads['optimism'].mean():.3f}",
            "mean of heads": words(heads["mean of heads"], ".3f", MEAN_SHARE),
        }
        row |= {"untrained, best head": words(untrained[key]["AER"], ".3f", MEAN_SHARE)}
        rows.append({**row, "Kobayashi et al., best layer, % [P]": KOBAYASHI[key]})
    return pd.DataFrame(rows)


def norms_against_weights(alignment: pd.DataFrame) -> pd.DataFrame:
    """Return the AER by norms less that by weights, paired by seed, beside the published gaps."""
    rows = []
    for setting, heads in groups(alignment, "setting"):
        weights, norms = (heads[heads["by"] == by].set_index("seed") for by in ("weights", "norms"))
        row = {"setting": setting, "n": marked_count(len(norms))}
        row |= {
            f"norms − weights, {name}": words(norms[column] - weights[column], "+.3f", CHANGE)
            for name, column in (("best head", "AER"), ("mean of heads", "mean of heads"))
        }
        published = (KOBAYASHI[setting, "norms"] - KOBAYASHI[setting, "weights"]) / 100
        rows.append({**row, "Kobayashi et al., best layer [P]": f"{published:+.3f}"})
    return pd.DataFrame(rows)


def gap_in_words(alignment: pd.DataFrame) -> str:
    """Return in which settings the best head's gap between norms and weights can be told from 0, and its sign."""
    told = []
    for setting, heads in groups(alignment, "setting"):
        weights, norms = (heads[heads["by"] == by].set_index("seed")["AER"] for by in ("weights", "norms"))
        gap = interval(norms - weights, CHANGE)
        if beyond(gap):
            told.append(f"{setting} ({'norms worse' if gap.mean > 0 else 'norms better'})")
    return f"The best head's gap can be told from 0 in: {', '.join(told) or 'neither setting'}."


def gate_summary(gates: pd.DataFrame) -> pd.DataFrame:
    """Return heads left and quality at each penalty, over seeds."""
    rows = []
    for penalty, models in groups(gates, "penalty"):
        row = {"penalty": penalty, "n": marked_count(len(models))}
        row |= {stack: words(models[stack], ".1f", (0, 8)) for stack in STACKS}
        row |= {"loss, nats": words(models["loss"], ".4f", POSITIVE)}
        rows.append({**row, "accuracy": words(models["accuracy"], ".4f", MEAN_SHARE)})
    return pd.DataFrame(rows)


def order_of_survival(gates: pd.DataFrame) -> str:
    """Return what the strongest penalty says of the order of the stacks, and whether the quality holds there."""
    last: Any
    free: Any
    last, free = (gates[gates["penalty"] == penalty].set_index("seed") for penalty in (gates["penalty"].iloc[-1], "0"))
    whole: Any = gates[gates["penalty"] == "not gated"].set_index("seed")
    lines = [
        f"- at the strongest penalty, {more} − {fewer}: {words(last[more] - last[fewer], '+.1f', (-8, 8))} heads"
        for fewer, more in (("encoder", "decoder"), ("decoder", "cross"))
    ]
    lines += [
        f"- accuracy at {name}: {words(after['accuracy'] - before['accuracy'], '+.4f', CHANGE)}; "
        f"loss: {words(after['loss'] - before['loss'], '+.4f')} nats"
        for name, after, before in (
            ("penalty 0 − that of the model before gating", free, whole),
            ("the strongest penalty − at penalty 0", last, free),
        )
    ]
    return "\n".join(lines)


def left_summary(one_left: pd.DataFrame) -> pd.DataFrame:
    """Return the change of the accuracy with one head of a layer left, over seeds."""
    rows = []
    for (stack, layer), seeds in groups(one_left, ["stack", "layer"]):
        row = {
            "stack": stack,
            "layer": layer,
            "n": marked_count(len(seeds)),
            "change": words(seeds["lost"], "+.3f", CHANGE),
        }
        rows.append({**row, "optimism": f"{seeds['optimism'].mean():.3f}"})
    return pd.DataFrame(rows)


def last_cross_layer(one_left: pd.DataFrame) -> str:
    """Return the gap between the two layers of cross-attention, and what it allows to say of Michel's order."""
    cross: Any = one_left[one_left["stack"] == "cross"].pivot(index="seed", columns="layer", values="lost")
    gap = cross[cross.columns[-1]] - cross[cross.columns[0]]
    told = "is told from 0" if beyond(interval(gap)) else "can't be told from 0"
    return f"Last cross-attention layer − first: {words(gap, '+.3f', CHANGE)}, n = {marked_count(len(gap))}; it {told}."


def picture(tables: dict[str, pd.DataFrame]) -> "jh.plots.Picture":
    """Draw heads and loss as the penalty grows, and importance against ablation."""
    figure, (gates, losses, ablation) = jh.plots.panels(3, (13, 3.5))
    table = tables["gates"]
    penalties = list(dict.fromkeys(table["penalty"]))
    at = np.arange(len(penalties))
    for number, stack in enumerate(STACKS):
        _with_bars(gates, at, [table.loc[table["penalty"] == penalty, stack] for penalty in penalties], stack, (0, 8))
        heads = tables["importance"][tables["importance"]["stack"] == stack]
        ablation.scatter(heads["importance"], heads["loss without"], s=12, label=stack, color=jh.plots.color(number))
    _with_bars(losses, at, [table.loc[table["penalty"] == penalty, "loss"] for penalty in penalties], None, POSITIVE)
    for axes in (gates, losses):
        axes.set_xticks(at, penalties, fontsize=7)
        axes.set_xlabel("penalty λ")
    gates.set_ylabel("heads left of 8")
    gates.legend(fontsize=7)
    losses.set_ylabel("loss with decided gates, nats")
    losses.set_ylim(bottom=0)
    ablation.set_xlabel("importance |∂ loss / ∂ gate|, nats")
    ablation.set_ylabel("loss without the head, nats")
    ablation.set_xscale("log")
    ablation.set_yscale("symlog", linthresh=1e-2)
    return figure


def _with_bars(axes: Any, at: np.ndarray, values: list[Any], label: str | None, within: tuple[float, float]) -> None:
    """Draw means over seeds with their intervals."""
    means = [interval(seeds, within) for seeds in values]
    centre, low, high = (np.array([float(getattr(mean, end)) for mean in means]) for end in ("mean", "low", "high"))
    bars = np.nan_to_num(np.stack([centre - low, high - centre]))
    axes.errorbar(at, centre, yerr=bars, marker="o", capsize=2, label=label)


def page(options: Any, tables: dict[str, pd.DataFrame], left: dict[int, list[str]]) -> str:
    """Return the page for readers."""
    _, steps = options.trained
    correlations: Any = [
        rank_correlation(heads["importance"].to_numpy(), heads["loss without"].to_numpy())
        for _, heads in groups(tables["importance"], "seed")
    ]
    spread = interval(correlations, CHANGE)
    kept = "\n".join(f"- seed {seed}: {', '.join(heads) or 'no head could be removed'}" for seed, heads in left.items())
    return f"""# Which heads a translator needs

Translators trained here: encoder and decoder of two layers of 4 heads, width 64; {steps} steps of {options.batch}
sentences. Task: translation by a lexicon, order {options.order}. Measured on fresh sentences; what is chosen (a head, a
penalty) is chosen on one half of them and reported on the other, and "optimism" is how much better it was on the first.
Heads are numbered from 0. n: seeds; intervals: 95 %, over seeds, for these sentences. {MARK}

## Alignment

AER of the best cross-attention head and mean AER of all 8. AWO: alignment with the word that a position outputs; AWI:
with the word it takes as input.

{lab.markdown(alignment_summary(tables))}

Do norms align better than weights, as Kobayashi et al. 2020 found (German–English, the best of 6 layers, heads
averaged)? Negative: norms are better.

{lab.markdown(norms_against_weights(tables["alignment"]))}

{gap_in_words(tables["alignment"])} In AWO both are at the floor, and nothing can be said of their order. In AWI no head
aligns with the input word, by either reading, so the gap compares two ways of not aligning. That the published gain
does not show here is no evidence against it: the task, the size of the models and the averaging over heads differ.

## Gates

Heads left of 8 in each stack, with gates decided; {options.gate_steps} steps for each penalty, starting from the
trained model ("not gated"). At penalty 0 nothing asks for fewer heads: its loss is what training with the gates' noise
does by itself, and the others are to be compared with it.

{lab.markdown(gate_summary(tables["gates"]))}

{order_of_survival(tables["gates"])}

Published by Voita et al. 2019, Table 2 (WMT, 48 heads in each stack, starting from the trained model) [P]:

{lab.markdown(VOITA, "g")}

The fewest heads with 99 % of the accuracy before gating, and what they attend to (AER of both settings; the commonest
offset), by seed:

{kept}

## One head left

Accuracy with only the best single head of one layer left, minus that of the whole model. Michel et al. 2019 lost most
in the last cross-attention layer, 13.56 BLEU [P], and at most 1.31 (encoder, layer 1) and 1.55 (cross, layer 5)
elsewhere [S].

{lab.markdown(left_summary(tables["one-left"]))}

{last_cross_layer(tables["one-left"])}

## Importance against ablation

Spearman's correlation, over the 24 heads of a model, of Michel's importance with the rise of the loss without the head:
{spread.mean:.2f} {bounds(spread)}, n = {marked_count(len(correlations))} (least {min(correlations):.2f}). Both are
measured on the same sentences.
"""
