"""Chefer, Gur & Wolf's relevance: attention weighted by its gradient, accumulated from layer to layer.

"chefer" is *Generic Attention-model Explainability* (ICCV 2021): `R ← R + Ā R` with `Ā = mean over heads of (∇A ⊙ A)⁺`
and R = I at the input. "chefer-lrp" is *Transformer Interpretability Beyond Attention Visualization* (CVPR 2021), with
the relevance of the attention weights by LRP (α = 1) in place of A: `Ā = mean of (∇A ⊙ R^A)⁺`. Both papers' code leaves
rows as they are, without dividing them by their sums.

The CVPR paper's rules are those of its code: z⁺ at linear maps, identity at norms, activations and the softmax, halves
at products, and one at the logit. Its rescaling of the two sides of a residual sum is left out: the sum conserves
relevance without it. Its code adds 1e-9 to a denominator (`safe_divide`), which at the least float32 changes nothing
where a score is near 0; here the pass by rules is computed in float64 instead.

Dimension key: E examples, L layers, N heads, T targets, S sources.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.stack import Stack
from .backward_pass import Watch
from .batch_objective import Attributions, BatchObjective
from .rules import CHEFER


class Maps(NamedTuple):
    """Weighted attention of one stack.

    Attributes:
        mean: Ā, `[E,L,T,S]`.
        heads: each head's share of N Ā, summed over queries and keys, `[E,L,N]`.
    """

    mean: np.ndarray
    heads: np.ndarray


def weighted_attention(pattern_BNTS: Array, cotangent_BNTS: Array) -> tuple[Array, Array]:
    """Return the mean over heads of `(∇A ⊙ A)⁺`, and each head's sum."""
    positive = jnp.maximum(pattern_BNTS.astype(jnp.float32) * cotangent_BNTS.astype(jnp.float32), 0)
    return positive.mean(axis=1), positive.sum(axis=(2, 3))


def pattern_gradient(pattern_BNTS: Array, cotangent_BNTS: Array) -> Array:
    """Return ∇A in float32."""
    del pattern_BNTS
    return cotangent_BNTS.astype(jnp.float32)


def pattern_relevance(pattern_BNTS: Array, cotangent_BNTS: Array) -> Array:
    """Return R of the attention weights, by the rules that gave their cotangent."""
    return pattern_BNTS.astype(jnp.float32) * cotangent_BNTS.astype(jnp.float32)


def chefer_maps(objective: BatchObjective, stacks: tuple[Stack, ...]) -> tuple[np.ndarray, dict[str, Maps]]:
    """Return the objective `[E]` and each stack's maps, by the ICCV paper; patterns stay in their layer."""
    watch = tuple(Watch(stack.name, "pattern", weighted_attention) for stack in stacks)
    result = objective.backward(watch=watch)
    return np.asarray(result.value), {
        stack.name: Maps(*(np.moveaxis(values, 1, 0) for values in read))
        for stack, read in zip(stacks, result.read, strict=True)
    }


def chefer_lrp_maps(objective: BatchObjective, stacks: tuple[Stack, ...]) -> tuple[np.ndarray, dict[str, Maps]]:
    """Return the objective `[E]` and each stack's maps, by the CVPR paper, from patterns of all layers.

    It takes two backward passes, one by rules and one by true derivatives.
    """
    by_rules = tuple(Watch(stack.name, "pattern", pattern_relevance) for stack in stacks)
    by_gradient = tuple(Watch(stack.name, "pattern", pattern_gradient) for stack in stacks)
    gradients, relevances = objective.backward(watch=by_gradient), objective.backward(rules=CHEFER, watch=by_rules)
    maps = {}
    for stack, gradient_LBNTS, relevance_LBNTS in zip(stacks, gradients.read, relevances.read, strict=True):
        positive_BLNTS = np.moveaxis(np.maximum(gradient_LBNTS * relevance_LBNTS, 0), 1, 0)
        maps[stack.name] = Maps(positive_BLNTS.mean(axis=2), positive_BLNTS.sum(axis=(3, 4)))
    return np.asarray(gradients.value), maps


def watched_numbers(objective: BatchObjective, *, lrp: bool) -> int:
    """Return how many numbers an example keeps in each layer for its maps."""
    stacks, batch = objective.model.network.stacks, objective.batch
    largest = max(stack.queries.count(batch) * stack.keys.count(batch) for stack in stacks)
    return 2 * largest * max(stack.heads for stack in stacks) if lrp else largest


def attribute(objective: BatchObjective, rows_ET: np.ndarray, stack: str | None, *, lrp: bool) -> Attributions:
    """Attribute an objective by either paper.

    Args:
        rows_ET: each position's weight in the answer; an example's sum to 1.
        stack: whose heads; None for none.
        lrp: by the CVPR paper.
    """
    network = objective.model.network
    value, maps = (chefer_lrp_maps if lrp else chefer_maps)(objective, network.stacks)
    heads = None if stack is None else maps[stack].heads
    first, last = network.streams[0], network.streams[-1]
    if last.cross is None:
        tokens = [accumulate(*example) for example in zip(maps[last.name].mean, rows_ET, strict=True)]
        return Attributions(value, {last.name: np.stack(tokens)}, heads)
    encoder, decoder, cross = (maps[member.name].mean for member in (first, last, last.cross))
    examples = [accumulate_across(*example) for example in zip(encoder, decoder, cross, rows_ET, strict=True)]
    sources, targets = (np.stack(positions) for positions in zip(*examples, strict=True))
    return Attributions(value, {first.name: sources, last.name: targets}, heads)


def accumulate(mean_LTT: np.ndarray, row_T: np.ndarray) -> np.ndarray:
    """Return a row of `(I + Ā_L) … (I + Ā_1)`, `[T]`: rule 6 of the ICCV paper, R ← R + Ā R from R = I.

    Uniform attention with gradient 1 in two layers gives 3/n each, and 1 more for the row itself.
    """
    row = np.asarray(row_T, np.float64)
    for layer_TT in mean_LTT[::-1]:
        row = row + row @ layer_TT
    return row


def accumulate_across(
    encoder_LSS: np.ndarray, decoder_LTT: np.ndarray, cross_LTS: np.ndarray, row_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return relevance of source positions `[S]` and of the decoder's own inputs `[T]`, by rules 6, 7 and 10.

    `R_ts ← R_ts + R̄_ttᵀ Ā R̄_ss` at cross-attention, where R̄ is I plus the rows of R − I divided by their sums
    (equations 8 and 9); a row of zeros stays zeros.
    """
    S, T = encoder_LSS.shape[-1], decoder_LTT.shape[-1]
    source_SS = np.eye(S)
    for layer_SS in encoder_LSS:
        source_SS = source_SS + layer_SS @ source_SS
    target_TT, across_TS = np.eye(T), np.zeros((T, S))
    for layer_TT, layer_TS in zip(decoder_LTT, cross_LTS, strict=True):
        target_TT, across_TS = target_TT + layer_TT @ target_TT, across_TS + layer_TT @ across_TS
        across_TS = across_TS + _normalise(target_TT).T @ layer_TS @ _normalise(source_SS)
    return row_T @ across_TS, row_T @ target_TT


def _normalise(relevance_TT: np.ndarray) -> np.ndarray:
    """Return R̄: I plus the rows of R − I divided by their sums."""
    eye_TT = np.eye(len(relevance_TT))
    added_TT = relevance_TT - eye_TT
    sums_T1 = added_TT.sum(axis=1, keepdims=True)
    return eye_TT + np.where(sums_T1 > 0, added_TT / np.where(sums_T1 > 0, sums_T1, 1), 0)
