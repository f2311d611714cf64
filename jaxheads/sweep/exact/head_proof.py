"""Causal proof of a head that serves a relation: the head ablated, and its edges of that relation knocked out.

Dimension key: E sentences, B sentences of a batch, T tokens, S sets of heads.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Unpack

import numpy as np
import pandas as pd

from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...masked_losses import masked_loss, predicts_masked
from ...measure.words.edges import relation_edges
from ...models.inputs.batch import Batch
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, loss
from ...progress import progress as show_progress
from ...statistics import mean_interval
from .ablate import ablate
from .knock_out import knock_out

REFERENCE = 64
"""Sentences whose mean replaces an ablated head."""

EDITS = ("ablated", "edge", "other_edge")


@shares_options()
def head_proof(
    model: Model,
    sentences: Sentences,
    head: tuple[int, int],
    relation: str,
    objective: Objective | Callable[[Batch], Objective] | None = None,
    *,
    labels: str = "deprel",
    direction: Literal["to_head", "to_dependent"] = "to_dependent",
    controls: int | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Ablate a head, and forbid it its edges of one relation, beside other heads of its layer and other edges.

    What the head is said to serve is the objective. Left out, it is what the model predicts where the head looks: of a
    causal model the loss of the token that follows each querying word; of a masked language model that of the querying
    words themselves, which are masked, all those of a sentence together. The head is to be chosen on other sentences
    than these.

    Args:
        head: layer and head.
        relation, labels, direction: as in `relation_edges`: which edges are the relation's.
        objective: one for all batches, or a function that returns a batch's.
        controls: heads of the same layer beside it, drawn by `seed`; all of them when left out.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        A row for the head and for each control, by layer and head, and a row "difference" of the head less the mean
        of its controls, sentence by sentence. `ablated` is the effect of the head's mean over other sentences, as in
        `ablate`; `edge` that of knocking out the relation's edges, as in `knock_out`; `other_edge` that of as many
        edges from the same words to others that are visible, drawn at random. Each has its interval over documents
        (`_low`, `_high`, `_n`). `gold` is the head's row.

    Raises:
        ValueError: for a head that there is not, a layer without another head, no sentence whose relation has a visible
            edge and another word to look at, or no objective for a model that predicts no words.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    seed, level = options.get("seed", 0), options.get("level", 0.95)
    heads = _with_controls(stack, head, controls, seed)
    if objective is None and not stack.causal and not predicts_masked(model):
        raise ValueError(f"objective: {model.name} predicts neither next nor masked tokens; give what the head serves")
    batches = SentenceBatches(model, sentences)
    # One reference for all batches: a small last batch would have next to no mean of its own.
    inner = {**options, "progress": False}
    reference = model.encode(sentences.take(batches.kept[:REFERENCE].tolist()))
    effects: dict[str, list[np.ndarray]] = {name: [] for name in EDITS}
    documents: list[str] = []
    with show_progress(len(batches.kept), f"proof of head {head[0]}.{head[1]}", resources.progress) as advance:
        for indices, whole in batches:
            edges = relation_edges(whole, relation, labels=labels, direction=direction)
            edges, others, where = _edges(stack, whole, edges, (seed, int(indices[0])))
            if not stack.causal and objective is None:
                # An unknown word has no token of its own to predict.
                where &= ~np.isin(np.asarray(whole.tokens), model.tokenizer.all_special_ids)
            kept = np.flatnonzero(edges.any(axis=(1, 2)) & (where.any(axis=1) | (objective is not None)))
            advance(len(indices))
            if not kept.size:
                continue
            batch, asked = _asked(model, whole.take(kept), where[kept], objective)
            tables = (
                ablate(model, batch, asked, sets=heads, reference=reference, per_position=False, **inner),
                knock_out(model, batch, asked, edges=edges[kept], sets=heads, **inner),
                knock_out(model, batch, asked, edges=others[kept], sets=heads, **inner),
            )
            for name, table in zip(EDITS, tables, strict=True):
                assert table.per_example is not None, "a batch is small"
                effects[name].append(table.per_example.reshape(len(kept), len(heads)))
            documents += [sentences[index].document or f"sentence {index}" for index in indices[kept].tolist()]
    if not documents:
        raise ValueError(f"no sentence has a {relation} edge that head {head} sees, and another word to look at")
    return _frame(head, heads, {name: np.concatenate(own) for name, own in effects.items()}, documents, level)


def _asked(
    model: Model, batch: Batch, where_BT: np.ndarray, objective: Objective | Callable[[Batch], Objective] | None
) -> tuple[Batch, Objective]:
    """Return the batch and its objective; left out, the loss of the tokens at `where`, which are masked if need be."""
    if objective is not None:
        return batch, _objective_of(objective, batch)
    if model.causal:
        return batch, loss(where_BT)
    masked = masked_loss(where_BT)
    # Settled here: the reference of an ablation is whole text.
    return masked.completed(model, batch), masked.resolved(model)


def _objective_of(objective: Objective | Callable[[Batch], Objective], batch: Batch) -> Objective:
    # An objective can be called, too: with a model.
    return objective if hasattr(objective, "reads") else objective(batch)  # type: ignore[return-value,call-arg]


def _with_controls(
    stack: Stack, head: tuple[int, int], controls: int | None, seed: int
) -> dict[str, list[tuple[int, int]]]:
    """Return sets of one head each by name: the head first, then its controls."""
    layer, number = head
    if not (0 <= layer < stack.layers and 0 <= number < stack.heads):
        raise ValueError(f"head must be (layer, head) within {stack.layers} × {stack.heads}, got {head}")
    if stack.heads < 2 or (controls is not None and controls < 1):
        raise ValueError(f"controls: expected 1 or more other heads of the layer; it has {stack.heads - 1}")
    others = np.random.default_rng(seed).permutation([other for other in range(stack.heads) if other != number])
    chosen = sorted(others[:controls].tolist())
    return {f"{layer}.{other}": [(layer, other)] for other in [number, *chosen]}


def _edges(
    stack: Stack, batch: Batch, gold_BTT: np.ndarray, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the relation's edges that are visible, as many others of the same queries, and what the queries predict.

    In a causal model that is the next token, else the query itself.

    A query that sees no other word but itself and the relation's has no edge at all.
    """
    words_BT, T = np.asarray(batch.words), gold_BTT.shape[1]
    own_BTT = words_BT[:, :, None] == words_BT[:, None]
    possible_BTT = (words_BT >= 0)[:, :, None] & (words_BT >= 0)[:, None] & ~own_BTT
    if stack.causal:
        possible_BTT &= np.tri(T, dtype=bool)
    gold_BTT = gold_BTT & possible_BTT
    # As many other edges for each query: with fewer, the control would take less of the pattern away.
    count_BT = gold_BTT.sum(axis=2)
    free_BTT = possible_BTT & ~gold_BTT
    drawn_BTT = np.where(free_BTT, np.random.default_rng(seed).random(free_BTT.shape), 2.0)
    rank_BTT = drawn_BTT.argsort(axis=2).argsort(axis=2)
    others_BTT = free_BTT & (rank_BTT < count_BT[:, :, None])
    # A query without another edge has no control, so that its own edge is left out as well.
    gold_BTT = gold_BTT & others_BTT.any(axis=2, keepdims=True)
    querying_BT = np.asarray(gold_BTT.any(axis=2))
    if not stack.causal:
        return gold_BTT, others_BTT, querying_BT
    # A word of several pieces predicts what follows it from its last one.
    last_BT = np.concatenate([words_BT[:, :-1] != words_BT[:, 1:], np.ones((len(words_BT), 1), bool)], axis=1)
    where_BT = np.zeros_like(querying_BT)
    where_BT[:, 1:] = (querying_BT & last_BT)[:, :-1] & np.asarray(batch.mask)[:, 1:]
    return gold_BTT, others_BTT, where_BT


def _frame(
    head: tuple[int, int],
    heads: Mapping[str, list[tuple[int, int]]],
    effects: Mapping[str, np.ndarray],
    documents: list[str],
    level: float,
) -> pd.DataFrame:
    """Return the effects of each head with their intervals, and of the head less its controls."""
    columns = {}
    for name, effect_ES in effects.items():
        own_ES = effect_ES.astype(np.float64)
        rows_ES = np.concatenate([own_ES, own_ES[:, :1] - own_ES[:, 1:].mean(axis=1, keepdims=True)], axis=1)
        # Effects of exactly 0 or 1 are no shares, which would have another interval.
        interval = mean_interval(rows_ES, clusters=np.array(documents), level=level, within=(-np.inf, np.inf))
        columns |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        columns[f"{name}_n"] = interval.n
    index = pd.Index([*heads, "difference"], name="head")
    return pd.DataFrame(columns, index=index).assign(gold=index == f"{head[0]}.{head[1]}")
