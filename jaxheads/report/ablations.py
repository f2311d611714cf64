"""Ablations of the atlas in two stages: a screen of every head, then its leaders and others again on fresh examples.

What leads a screen of hundreds of heads on few examples leads partly by luck. So the numbers that are reported of
leading heads come from other and longer examples, which did not choose them. A random sample of the other heads is
asked again, too: it shows how large an effect is ordinary.

Dimension key: E examples, L layers, N heads, S heads asked again.
"""

from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from ..data.prompts import IOIPrompts, ioi_prompts
from ..execution.resources import Options
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..objectives import Objective, logit_difference, loss
from ..statistics import false_discovery, mean_p_values
from ..sweep.exact.ablate import ablate
from ..tables import Column, HeadTable
from .inputs import random_repeats

SCREENED_WINDOW, ASKED_AGAIN_WINDOW = 24, 64
"""Largest number of prose tokens in one example of the screen, a sweep of all heads, and of the second stage."""

LEADERS, SAMPLE = 12, 8
"""Heads asked again: those with the largest effects in the screen, and some drawn at random from the others."""

ALIGNED = 8
"""Corrupted prompts for each prompt with an indirect object, whose mean is taken position by position."""

REFERENCE = 32
"""Examples whose mean replaces a head's output, where they are drawn or cut for it."""


@dataclass(frozen=True)
class Stage:
    """Inputs of one stage, and the reference that means are taken over, by group where there are any.

    Attributes:
        description: the inputs in words.
        groups, reference_groups: labels of examples, as `ablate` takes them.
    """

    description: str
    batch: Batch
    objective: Objective
    reference: Batch
    groups: np.ndarray | None = None
    reference_groups: np.ndarray | None = None


@dataclass(frozen=True)
class Ablation:
    """One ablation of every head.

    Attributes:
        name: the column of its effects.
        objective: what is measured, in words.
        screen: the inputs on which every head is ablated.
        again: fresh inputs for the heads that lead the screen, and for others.
    """

    name: str
    objective: str
    screen: Stage
    again: Stage


def ablations(model: Model, text: list[Batch], *, examples: int, seed: int) -> tuple[list[Ablation], list[str]]:
    """Return the ablations that fit this model, and the reasons why others are left out."""
    network = model.network
    if network.unembedding is None or not model.causal or len(model.stacks) > 1 or network.classes_of is not None:
        kind = "has several stacks" if len(model.stacks) > 1 else "is an encoder"
        if network.unembedding is None or network.classes_of is not None:
            kind = "has no language-model head"
        return [], [f"ablations (they need a decoder's next-token loss or logit difference): {model.name} {kind}"]
    fitting = [_prose_ablation(text, examples, seed), _repeats_ablation(model, examples, seed)]
    try:
        fitting.append(_ioi_ablation(model, examples, seed))
    except ValueError as reason:
        return fitting, [f"the indirect-object prompts: {reason}"]
    return fitting, []


def screen(model: Model, ablation: Ablation, **options: Unpack[Options]) -> HeadTable:
    """Ablate every head; return the table `ablate-NAME` of `jaxheads.ablate`."""
    stage = ablation.screen
    table = ablate(model, stage.batch, stage.objective, "mean", **_reference(stage), **options)
    return replace(table, name=f"ablate-{ablation.name.replace('_', '-')}")


def ask_again(model: Model, ablation: Ablation, screened: HeadTable, **options: Unpack[Options]) -> HeadTable:
    """Ablate the heads that lead a screen, and others drawn at random, on the fresh inputs.

    Returns:
        The table `again-NAME` over all heads, NaN where a head was not asked: `effect` with its interval, and extras
        `asked` ("leader" or "sample"), `screened`, the effect in the screen, `optimism`, by how much that was larger in
        its own direction, and `q` of the leaders (two-sided, Benjamini & Hochberg 1995).
    """
    shape, stage = screened.shape, ablation.again
    order = np.argsort(-np.abs(screened.values.reshape(-1)), kind="stable")
    leaders = order[: min(LEADERS, -(-len(order) // 2))]
    others = np.random.default_rng(options.get("seed", 0)).permutation(order[len(leaders) :])[:SAMPLE]
    asked_S = np.concatenate([leaders, others])
    heads = [tuple(int(index) for index in np.unravel_index(number, shape)) for number in asked_S]
    sets = {f"{layer}.{head}": [(layer, head)] for layer, head in heads}
    table = ablate(model, stage.batch, stage.objective, "mean", sets=sets, **_reference(stage), **options)
    assert table.per_example is not None, "all examples of a single batch are kept"

    def spread(values: np.ndarray, elsewhere: object = np.nan) -> np.ndarray:
        grid = np.full((*values.shape[:-1], screened.values.size), elsewhere, dtype=values.dtype)
        grid[..., asked_S] = values
        return grid.reshape(*values.shape[:-1], *shape)

    p_S = mean_p_values(table.per_example, clusters=table.clusters)
    leads_S = np.arange(len(asked_S)) < len(leaders)
    screened_S = screened.values.reshape(-1)[asked_S]
    column = Column(
        *(spread(table.grid(f"effect{end}").astype(float)) for end in ("", "_low", "_high")),
        n=spread(table.grid("effect_n"), 0),
        per_example=spread(table.per_example),
    )
    extras = {
        "asked": spread(np.where(leads_S, "leader", "sample").astype(object), ""),
        "screened": spread(screened_S),
        "optimism": spread(np.sign(screened_S) * (screened_S - table.values)),
        "q": spread(false_discovery(np.where(leads_S, p_S, np.nan))),
    }
    about = {**table.provenance, "screened_on": ablation.screen.description, "asked_on": stage.description}
    name = f"again-{ablation.name.replace('_', '-')}"
    return HeadTable.from_columns(
        name, table.stack, {"effect": column}, about, squeeze=True, extras=extras, clusters=table.clusters
    )


def _reference(stage: Stage) -> dict[str, Any]:
    return {"reference": stage.reference, "groups": stage.groups, "reference_groups": stage.reference_groups}


def _prose_ablation(text: list[Batch], examples: int, seed: int) -> Ablation:
    tokens, mask, labels = (
        np.concatenate([np.asarray(getattr(batch, name)) for batch in text]) for name in ("tokens", "mask", "clusters")
    )
    windows = Batch(tokens, mask, clusters=labels)
    # Whole passages go to the screen, to the second stage, or to the reference of both.
    passages = np.random.default_rng(seed).permutation(np.unique(labels))
    screened = min(examples, max(2, len(passages) // 4))
    again = min(2 * examples, max(2, len(passages) // 3))
    parts = np.split(passages, [screened, screened + again])

    def stage(number: int, length: int) -> Stage:
        cut = _longest(windows, parts[number], length)
        reference = _longest(windows, parts[2], length, most=REFERENCE)
        words = f"the first {cut.tokens.shape[1]} tokens of {len(cut)} windows of prose"
        return Stage(words, cut, loss(), reference)

    return Ablation("prose_loss", "next-token loss", stage(0, SCREENED_WINDOW), stage(1, ASKED_AGAIN_WINDOW))


def _longest(windows: Batch, passages: np.ndarray, length: int, most: int | None = None) -> Batch:
    """Return the longest window of each passage, cut to a length; the longest `most` of them."""
    labels, mask = np.asarray(windows.clusters), np.asarray(windows.mask)
    sizes = np.minimum(mask.sum(axis=1), length)
    best = [np.flatnonzero(labels == passage)[np.argmax(sizes[labels == passage])] for passage in passages]
    chosen = np.array(sorted(best, key=lambda row: -sizes[row])[:most])
    taken = windows.take(np.sort(chosen))
    width = int(sizes[chosen].max())
    return Batch(taken.tokens[:, :width], taken.mask[:, :width])


def _repeats_ablation(model: Model, examples: int, seed: int) -> Ablation:
    def stage(count: int, shortest: int, longest: int, seed: int) -> Stage:
        drawn = random_repeats(model, count, shortest, longest, seed)
        # Every position of the longest segment has as many examples.
        reference = random_repeats(model, REFERENCE, longest, longest, seed + 1)
        return Stage(
            f"{count} random segments of {shortest} to {longest} tokens said twice",
            Batch(drawn.tokens, drawn.mask),
            loss(drawn.second),
            Batch(reference.tokens, reference.mask),
        )

    first, again = stage(examples, 7, 11, seed + 2), stage(4 * examples, 12, 16, seed + 4)
    return Ablation("repeat_loss", "next-token loss on the second half", first, again)


def _ioi_ablation(model: Model, examples: int, seed: int) -> Ablation:
    bos = model.tokenizer.bos_token_id is not None

    def stage(count: int, seed: int) -> Stage:
        prompts = ioi_prompts(model.tokenizer, examples=count, seed=seed, bos=bos)
        corrupted = [prompts.corrupted(seed + 1 + number) for number in range(ALIGNED)]
        return Stage(
            f"{count} prompts; means by template, over {ALIGNED} with three other names for each",
            _prompts(prompts),
            logit_difference(prompts.indirect_object, prompts.subject),
            Batch(*(np.concatenate([getattr(c, name) for c in corrupted]) for name in ("tokens", "mask"))),
            prompts.template,
            np.tile(prompts.template, ALIGNED),
        )

    words = "logit difference of indirect object and subject"
    return Ablation("ioi_logit_difference", words, stage(examples, seed), stage(4 * examples, seed + 1000))


def _prompts(prompts: IOIPrompts) -> Batch:
    # Both orders of a frame share their words.
    return Batch(prompts.tokens, prompts.mask, clusters=prompts.template // 2)
