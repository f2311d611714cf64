"""The tokens that one head's circuits pair, found without ever holding all pairs.

Dimension key: V vocabulary, C tokens of a piece of it, N query heads, K key/value heads, D model dimension, H head
dimension.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...models.model import Model
from ...models.network import Network
from ...models.norms import unit_stream
from .vocabulary import last_stack, raising, vocabulary

CIRCUITS = ("ov", "qk")
NUMBERS = 1 << 24
"""Of one piece of a circuit over pairs of tokens: 64 MB."""


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """The token pairs at both ends of one head's circuit.

    Attributes:
        frame: one row a pair: `end` ("top" or "bottom"), `rank` from 0, ids `first` and `second`, `value`; where the
            model has a tokenizer the tokens as `first_text` and `second_text`.
    """

    frame: pd.DataFrame
    circuit: str
    layer: int
    head: int


def token_pairs(
    model: Model,
    circuit: Literal["ov", "qk"],
    layer: int,
    head: int,
    *,
    count: int = 10,
    offset: int = 1,
    stack: str | None = None,
) -> TokenPairs:
    """The pairs of tokens that one head's circuit gives the largest and the smallest numbers (Elhage et al. 2021).

    "ov": looking at `first` raises the logit of `second` by `value`: W_V and W_O of what the layer's norm makes of the
    token alone; the last norm counts by its scale, as that of a stream of unit variance. "qk": a query at `first` gives
    a key at `second`, `offset` positions before it, the score `value`: with the head's biases, norms and scale, each
    stream holding its token alone. A cap on scores or logits is left out: it changes no order.

    Exact over all V × V pairs. Each row's largest number is found piece by piece; a pair among the `count` largest can
    only be in one of the `count` rows that have the largest, and those alone are looked at again.

    Args:
        layer, head: which head.
        count: how many pairs of each end.
        offset: see `jh.qk_circuit`.
        stack: the only one when left out.

    Raises:
        ValueError: for an unknown circuit, a head that is not there, a count that is not in 1..V, cross-attention; and
            where tokens have no embedding or logits of their own, as in `jh.eigenvalue_copying`.
    """
    if circuit not in CIRCUITS:
        raise ValueError(f"circuit must be one of {', '.join(CIRCUITS)}; got {circuit!r}")
    part = last_stack(model, stack, logits=circuit == "ov")
    if not (0 <= layer < part.layers and 0 <= head < part.heads):
        raise ValueError(f"layers are 0..{part.layers - 1} and heads 0..{part.heads - 1}; got ({layer}, {head})")
    if part.is_cross:
        raise ValueError("in cross-attention keys and values read another sequence's stream, not its tokens")
    pieces = [
        _sides(model.network, ids, layer, head, offset=offset, stack=part.name, circuit=circuit)
        for ids in vocabulary(model)
    ]
    left_VH, right_VH = (np.concatenate([np.asarray(piece[side]) for piece in pieces]) for side in (0, 1))
    if not 1 <= count <= len(left_VH):
        raise ValueError(f"count must lie in 1..{len(left_VH)}, got {count}")
    ends = [_end(left_VH, right_VH, count, end) for end in ("top", "bottom")]
    frame = pd.concat(ends, ignore_index=True)
    if model.tokenizer is not None:
        for side in ("first", "second"):
            frame[f"{side}_text"] = [model.tokenizer.decode([token]) for token in frame[side].tolist()]
    return TokenPairs(frame, circuit, layer, head)


@partial(jax.jit, static_argnames=("stack", "circuit", "offset"))
def _sides(
    network: Network, ids_C: Array, layer: Array, head: Array, *, offset: int, stack: str, circuit: str
) -> tuple[Array, Array]:
    """Of each token what it is on either side of one head's circuit, `[C,H]` twice."""
    [part] = [one for one in network.stacks if one.name == stack]
    block, group = part.block(layer), head // (part.heads // part.kv_heads)
    words_1CD = network.embed_tokens(ids_C)[None]
    places_1C = jnp.zeros((1, len(ids_C)), jnp.int32)
    key_1CKH, value_1CKH = block.keys_values(words_1CD, places_1C)
    if circuit == "qk":
        query_1CNH = block.queries(words_1CD, places_1C + offset).astype(jnp.float32)
        return query_1CNH[0, :, head] * block.attention.scale, key_1CKH[0, :, group].astype(jnp.float32)
    assert network.unembedding is not None, "last_stack has seen to it"
    W_O = part.weights.W_O[layer, head]
    written_HD = block.head_contribution(W_O, unit_stream(W_O)).astype(jnp.float32)
    reads_CD = raising(network, network.unembedding.weight[ids_C], words_1CD).astype(jnp.float32)
    value_CH = value_1CKH[0, :, group].astype(jnp.float32)
    if block.attention.b_V is not None:  # the same whatever the token
        value_CH = value_CH - block.attention.b_V[...][group].astype(jnp.float32)[None]
    return value_CH, jnp.einsum("cd,hd->ch", reads_CD, written_HD)


def _end(left_VH: np.ndarray, right_VH: np.ndarray, count: int, end: str) -> pd.DataFrame:
    """The `count` entries of `left @ right.T` at one end, the outermost first."""
    sign = 1.0 if end == "top" else -1.0
    left_VH = np.float32(sign) * left_VH
    step = max(1, NUMBERS // len(right_VH))
    best = [(left_VH[at : at + step] @ right_VH.T).max(axis=1) for at in range(0, len(left_VH), step)]
    rows = np.sort(np.argsort(-np.concatenate(best), kind="stable")[:count])
    values = np.concatenate([left_VH[rows[at : at + step]] @ right_VH.T for at in range(0, count, step)])
    flat = np.argpartition(-values, count - 1, axis=None)[:count]
    flat = flat[np.argsort(-values.reshape(-1)[flat], kind="stable")]
    row, second = np.unravel_index(flat, values.shape)
    found = {"rank": np.arange(count), "first": rows[row], "second": second, "value": sign * values[row, second]}
    return pd.DataFrame({"end": end, **found})
