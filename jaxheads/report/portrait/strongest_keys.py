"""The strongest keys of every query of every head on a set of texts, from one pass over them.

Dimension key: B examples, L layers, N heads, T query positions, S key positions, K kept keys.

Sums follow HeadVis (Luger, Kamath et al. 2026) as computed by Neuronpedia: the entropy counts every row, the induction
score drops weights below .01 and sums over the keys after every earlier copy, the query itself included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.answers import token_texts
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack
from ...programs import compiled

KEPT = 8
"""Keys of each query that are kept."""

CHUNK = 4
"""Texts that run together."""

LEAST_COPY = 0.01
"""Smallest weight that counts for HeadVis's induction score."""


@dataclass(frozen=True, eq=False)
class Text:
    """One text, and where every head looks from each of its positions.

    Attributes:
        ids: token ids of the queries, `[T]`.
        tokens: their texts.
        special: whether a position holds a special token, such as [CLS], or is the first, `[T]`.
        weights: the largest weights of each query, sorted, `[L,N,T,K]` float16.
        keys: where they are, `[L,N,T,K]` uint16.
        sums: by HeadVis's names, sums over the text `[L,N]`, and under "repeats" the number of repeated tokens.
    """

    ids: np.ndarray
    tokens: list[str]
    special: np.ndarray
    weights: np.ndarray
    keys: np.ndarray
    sums: dict[str, np.ndarray]

    @property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest weight outside special positions of each head, `[L,N]`, and its query."""
        outside = np.where(self.special[self.keys] | self.special[:, None], np.float16(0), self.weights).max(axis=-1)
        return outside.max(axis=-1), outside.argmax(axis=-1)


def texts_of(model: Model, stack: Stack, batches: Sequence[Batch]) -> Iterator[Text]:
    """Yield each text of batches whose queries and keys are the same tokens, padded on the right."""
    kept = min(KEPT, *(stack.keys.count(batch) for batch in batches))
    specials = set(model.tokenizer.all_special_ids)
    for batch in batches:
        for at in range(0, len(batch), CHUNK):
            chunk = batch.take(np.arange(at, min(at + CHUNK, len(batch))))
            positions = stack.queries.of(chunk)
            ids, mask = np.asarray(positions.ids), np.asarray(positions.mask)
            after_BTS, repeats_B = _after_copies(ids, mask)
            read = _read(model.network, chunk, jnp.asarray(after_BTS), stack=stack.name, kept=kept)
            weights, keys, sums = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, 1), read)
            for row, length in enumerate(mask.sum(axis=1)):
                own = ids[row, :length]
                yield Text(
                    ids=own,
                    tokens=[str(text) for text in token_texts(model.tokenizer, own)],
                    special=np.isin(own, list(specials)) | (np.arange(length) == 0),
                    weights=weights[row, :, :, :length],
                    keys=keys[row, :, :, :length],
                    sums={name: values[row] for name, values in sums.items()}
                    | {"positions": np.asarray(length), "repeats": repeats_B[row]},
                )


def _after_copies(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether a key follows an earlier copy of the query's token, `[B,T,S]`, and the number of repeats `[B]`."""
    real = mask[:, :, None] & mask[:, None, :]
    copies = (ids[:, :, None] == ids[:, None, :]) & real & np.tri(ids.shape[1], k=-1, dtype=bool)[None]
    after = np.zeros_like(copies)
    after[:, :, 1:] = copies[:, :, :-1]
    return after & real, copies.any(axis=2).sum(axis=1)


@partial(compiled, static_argnames=("stack", "kept"))
def _read(
    network: Network, batch: Batch, after_BTS: Array, *, stack: str, kept: int
) -> tuple[Array, Array, dict[str, Array]]:
    """Return the largest weights and their keys `[L,B,N,T,K]`, and HeadVis's sums `[L,B,N]`."""
    mask_BT = network.stack(stack).queries.of(batch).mask
    real = (mask_BT[:, :, None] & mask_BT[:, None, :])[:, None]
    T = mask_BT.shape[1]
    apart = jnp.abs(jnp.arange(T)[:, None] - jnp.arange(T)[None, :]).astype(jnp.float32)[None, None]

    def read(seen: Sites) -> tuple[Array, Array, dict[str, Array]]:
        pattern = jnp.where(real, seen["pattern"].astype(jnp.float32), 0.0)
        weights, keys = jax.lax.top_k(pattern, kept)
        copied = jnp.where((pattern >= LEAST_COPY) & after_BTS[:, None], pattern, 0.0)
        sums = {
            "self_attention_score": jnp.trace(pattern, axis1=-2, axis2=-1),
            "prev_token_score": jnp.trace(pattern, offset=-1, axis1=-2, axis2=-1),
            "pattern_entropy": -jax.scipy.special.xlogy(pattern, pattern).sum((-2, -1)),
            "qk_distance": (pattern * apart).sum((-2, -1)),
            "qk_distance_variance": (pattern * apart**2).sum((-2, -1)),
            "induction_score": copied.sum((-2, -1)),
        }
        return weights.astype(jnp.float16), keys.astype(jnp.uint16), sums

    return forward(network, batch, (), {stack: read})[1][stack]
