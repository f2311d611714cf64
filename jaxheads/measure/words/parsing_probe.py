"""Clark's attention-only probe: trees from the attention of all heads together.

Clark et al. (2019, arXiv 1906.04341, section 5.1): the probability that word j is the head of word i is the softmax
over j of Σ w[l,n] A[l,n,i,j] + u[l,n] A[l,n,j,i], with two weights a head.

Dimension key: B sentences of a batch, L layers, N heads, W words.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...checks import one_of
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.stack import Stack
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ..patterns.word_pooling import check_over
from ..per_example import silent
from .documents import Documents
from .parse import Parse, scored
from .trees import Method, gold_heads, heads_of
from .word_patterns import read_patterns


@shares_options()
def parsing_probe(
    model: Model,
    sentences: Sentences,
    method: Method = "max",
    *,
    half: Literal[0, 1] = 1,
    penalty: float = 1e-4,
    steps: int = 100,
    **options: Unpack[Options],
) -> Parse:
    """Parse sentences by the attention of all heads together: two weights a head, learnt on the other half.

    The probe sees attention alone, no words and no positions (Clark et al. 2019, section 5.1). The root is given, as in
    `parse`. What random weights give is its baseline: their attention knows where words are, and no syntax.

    Args:
        method: "max": each word's likeliest head; "mst": the likeliest tree.
        half: the half of the documents that is parsed; the other one trains.
        penalty: added to the mean −log p of a word's head: half of the weights' squares times this.
        steps: of L-BFGS at most; the problem is convex. Patterns are kept as 16 bits as far as `memory` goes, and made
            anew beyond.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        As `parse`, with `weights` `[2,L,N]`: of a dependent's attention to its head, and of a head's to its dependent.

    Raises:
        ValueError: for a sentence without a tree or with several roots, fewer than 4 documents, a stack whose positions
            are not tokens, no step, or a penalty below 0.
        MissingExtraError: without networkx, for "mst".
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    check_over("words", stack, model.name)
    one_of("method", method, get_args(Method))
    if steps < 1 or penalty < 0:
        raise ValueError(f"steps must be 1 or more and penalty 0 or more, got {steps} and {penalty}")
    from scipy.optimize import minimize

    documents = Documents.of(sentences, options.get("seed", 0))
    gold = [gold_heads(one) for one in sentences]
    learning, parsing = (
        _Patterns(silent(resources), model, stack, sentences, np.flatnonzero(documents.half_E == own))
        for own in (1 - half, half)
    )
    words = sum(int((gold[index] >= 0).sum()) for index in learning.sentence_numbers)
    shape = (2, stack.layers, stack.heads)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total, slope = penalty / 2 * float(weights @ weights), penalty * weights
        for indices, pattern in learning:
            heads_BW = _padded([gold[index] for index in indices], pattern.shape[-1])
            value, gradient = _gradient()(jnp.asarray(weights.reshape(shape), jnp.float32), pattern, heads_BW)
            total, slope = total + float(value) / words, slope + np.asarray(gradient, np.float64).reshape(-1) / words
        advance(1)
        return total, slope

    label = f"parsing probe of {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(None, label, resources.progress) as advance:
        fitted = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    weights_2LN = np.asarray(fitted.x).reshape(shape)
    parsed = {}
    for indices, pattern in parsing:
        lengths_B = np.array([len(gold[index]) for index in indices])
        scores_BWW = np.asarray(_log_probabilities()(weights_2LN.astype(np.float32), pattern, lengths_B))
        for index, scores_WW in zip(indices, scores_BWW, strict=True):
            W = len(gold[index])
            scores = scores_WW[:W, :W].astype(np.float64)
            parsed[index] = heads_of(np.exp(scores) if method == "max" else scores, int(gold[index].argmin()), method)
    details: dict[str, Any] = {
        "method": method,
        "half": half,
        "penalty": penalty,
        "sentences": len(parsed),
    }
    details |= {"files": dict(sentences.files), "seed": options.get("seed", 0), "level": options.get("level", 0.95)}
    about = provenance(model, stack=stack.name, steps=int(fitted.nit), trained_on=len(learning.batches.kept), **details)
    return replace(scored(parsed, gold, documents, options.get("level", 0.95), about), weights=weights_2LN)


@dataclass
class _Patterns:
    """Patterns of all heads over words, batch by batch, as often as they are asked for."""

    resources: Resources
    model: Model
    stack: Stack
    sentences: Sentences
    own: np.ndarray

    def __post_init__(self) -> None:
        self.batches = SentenceBatches(self.model, self.sentences.take(self.own.tolist()))
        self.sentence_numbers = self.own[self.batches.kept].tolist()
        self._kept: dict[int, tuple[list[int], np.ndarray]] = {}
        self._room = self.resources.memory

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the numbers of a batch's sentences, and their patterns `[B,L,N,W,W]` in 16 bits."""
        if len(self._kept) == len(self.batches):
            yield from self._kept.values()
            return
        for number, (indices, batch) in enumerate(self.batches):
            if number not in self._kept:
                found: list[np.ndarray] = []
                read_patterns(
                    self.resources,
                    self.model,
                    self.stack,
                    batch,
                    None,
                    lambda _, part, found=found: found.append(part.astype(np.float16)),
                    int(indices[0]),
                )
                entry = self.own[indices].tolist(), np.concatenate(found)
                if entry[1].nbytes <= self._room:
                    self._room -= entry[1].nbytes
                    self._kept[number] = entry
                yield entry
            else:
                yield self._kept[number]


def _padded(heads: list[np.ndarray], width: int) -> np.ndarray:
    """Return the heads of a batch's words, `[B,W]`; -1 for roots, -2 beyond the last word."""
    padded = np.full((len(heads), width), -2)
    for row, own in zip(padded, heads, strict=True):
        row[: len(own)] = own
    return padded


def _scores(weights_2LN: Array, pattern_BLNWW: Array, lengths_B: Array) -> Array:
    """Return the log-probability of each word (row) to have each other one (column) as its head, `[B,W,W]`."""
    pattern_BLNWW = pattern_BLNWW.astype(jnp.float32)
    to_head, to_dependent = weights_2LN
    score_BWW = jnp.einsum("bknij,kn->bij", pattern_BLNWW, to_head)
    score_BWW += jnp.einsum("bknij,kn->bji", pattern_BLNWW, to_dependent)
    W = score_BWW.shape[-1]
    candidate_BWW = (jnp.arange(W)[None] < lengths_B[:, None])[:, None] & ~jnp.eye(W, dtype=bool)[None]
    return jax.nn.log_softmax(jnp.where(candidate_BWW, score_BWW, -1e9), axis=-1)


@cache
def _log_probabilities() -> Any:
    return compiled(_scores)


@cache
def _gradient() -> Any:
    def loss(weights_2LN: Array, pattern_BLNWW: Array, heads_BW: Array) -> Array:
        log_BWW = _scores(weights_2LN, pattern_BLNWW, (heads_BW > -2).sum(axis=1))
        own_BW = jnp.take_along_axis(log_BWW, jnp.maximum(heads_BW, 0)[..., None], axis=-1)[..., 0]
        counted_BW = heads_BW >= 0
        return -jnp.where(counted_BW, own_BW, 0.0).sum()

    return compiled(jax.value_and_grad(loss))
