"""Chefer, Gur & Wolf's relevance: attention weighted by its gradient, gathered from layer to layer.

"chefer" is *Generic Attention-model Explainability* (ICCV 2021): `R ← R + Ā R` with `Ā = mean over heads of (∇A ⊙ A)⁺`
and R = I at the input. "chefer-lrp" is *Transformer Interpretability Beyond Attention Visualization* (CVPR 2021): the
same with the relevance of the attention weights by LRP (α = 1) in the place of A, `Ā = mean of (∇A ⊙ R^A)⁺`. Both
papers' code leaves rows as they are, without dividing them by their sums.

Of the CVPR paper's rules, as its code has them: z⁺ at linear maps, identity at norms, activations and the softmax,
halves at products, and one at the logit. Its rescaling of the two sides of a residual sum is left out: the sum
conserves relevance without it.

Dimension key: E examples, L layers, N heads, T targets, S sources.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.stack import Stack
from .backward import Question, Watch
from .rules import CHEFER


class Maps(NamedTuple):
    """Of one stack: Ā `[E,L,T,S]`, and each head's part of N Ā, summed over queries and keys, `[E,L,N]`."""

    mean: np.ndarray
    heads: np.ndarray


def weighed(pattern_BNTS: Array, slope_BNTS: Array) -> tuple[Array, Array]:
    """`(∇A ⊙ A)⁺`: its mean over heads, and each head's sum."""
    positive = jnp.maximum(pattern_BNTS.astype(jnp.float32) * slope_BNTS.astype(jnp.float32), 0)
    return positive.mean(axis=1), positive.sum(axis=(2, 3))


def slopes(pattern_BNTS: Array, slope_BNTS: Array) -> Array:
    """∇A."""
    del pattern_BNTS
    return slope_BNTS.astype(jnp.float32)


def relevances(pattern_BNTS: Array, slope_BNTS: Array) -> Array:
    """R of the attention weights, by the rules that made their cotangent."""
    return pattern_BNTS.astype(jnp.float32) * slope_BNTS.astype(jnp.float32)


def chefer_maps(question: Question, stacks: tuple[Stack, ...]) -> tuple[np.ndarray, dict[str, Maps]]:
    """The objective `[E]` and each stack's maps, by the ICCV paper. Patterns do not leave their layer."""
    watch = tuple(Watch(stack.name, "pattern", weighed) for stack in stacks)
    values, parts = [], []
    for real, piece in question.pieces(_largest(question, stacks)):
        found = piece.backward(watch=watch)
        values.append(found.value[:real])
        parts.append([Maps(*(np.moveaxis(one, 1, 0)[:real] for one in read)) for read in found.read])
    return np.concatenate(values), _by_stack(stacks, parts)


def chefer_lrp_maps(question: Question, stacks: tuple[Stack, ...]) -> tuple[np.ndarray, dict[str, Maps]]:
    """The same by the CVPR paper: one way back by rules, one by true derivatives; both leave all layers' patterns."""
    by_rules = tuple(Watch(stack.name, "pattern", relevances) for stack in stacks)
    true = tuple(Watch(stack.name, "pattern", slopes) for stack in stacks)
    values, parts = [], []
    for real, piece in question.pieces(2 * _largest(question, stacks) * max(stack.heads for stack in stacks)):
        found, ruled = piece.backward(watch=true), piece.backward(rules=CHEFER, watch=by_rules)
        values.append(found.value[:real])
        positive = [np.maximum(one * other, 0) for one, other in zip(found.read, ruled.read, strict=True)]
        parts.append(
            [
                Maps(*(np.moveaxis(one, 1, 0)[:real] for one in (map_.mean(axis=2), map_.sum(axis=(3, 4)))))
                for map_ in positive
            ]
        )
    return np.concatenate(values), _by_stack(stacks, parts)


def _largest(question: Question, stacks: tuple[Stack, ...]) -> int:
    """Numbers in a pattern."""
    return max(stack.queries.count(question.batch) * stack.keys.count(question.batch) for stack in stacks)


def _by_stack(stacks: tuple[Stack, ...], parts: list[list[Maps]]) -> dict[str, Maps]:
    return {
        stack.name: Maps(*(np.concatenate(one) for one in zip(*(part[at] for part in parts), strict=True)))
        for at, stack in enumerate(stacks)
    }


def gathered(mean_LTT: np.ndarray, row_T: np.ndarray) -> np.ndarray:
    """A row of `(I + Ā_L) … (I + Ā_1)`, `[T]`: rule 6 of the ICCV paper, R ← R + Ā R from R = I.

    Uniform attention with gradient 1, two layers: 3/n each, and 1 more for the row itself.
    """
    row = np.asarray(row_T, np.float64)
    for layer_TT in mean_LTT[::-1]:
        row = row + row @ layer_TT
    return row


def gathered_across(
    encoder_LSS: np.ndarray, decoder_LTT: np.ndarray, cross_LTS: np.ndarray, row_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Relevance of source positions `[S]` and of the decoder's own inputs `[T]`, by rules 6, 7 and 10.

    `R_ts ← R_ts + R̄_ttᵀ Ā R̄_ss` at cross-attention, where R̄ is I plus the rows of R − I divided by their sums
    (equations 8 and 9); a row of zeros stays zeros.
    """
    S, T = encoder_LSS.shape[-1], decoder_LTT.shape[-1]
    source_SS = np.eye(S)
    for layer_SS in encoder_LSS:
        source_SS = source_SS + layer_SS @ source_SS
    target_TT, across_TS = np.eye(T), np.zeros((T, S))
    for own_TT, cross_TS in zip(decoder_LTT, cross_LTS, strict=True):
        target_TT, across_TS = target_TT + own_TT @ target_TT, across_TS + own_TT @ across_TS
        across_TS = across_TS + _normal(target_TT).T @ cross_TS @ _normal(source_SS)
    return row_T @ across_TS, row_T @ target_TT


def _normal(own_TT: np.ndarray) -> np.ndarray:
    added = own_TT - np.eye(len(own_TT))
    sums = added.sum(axis=1, keepdims=True)
    return np.eye(len(own_TT)) + np.where(sums > 0, added / np.where(sums > 0, sums, 1), 0)
