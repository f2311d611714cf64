"""Token pairs with the largest and smallest entries of one head's circuit, found without holding all pairs.

Dimension key: V vocabulary, C tokens of a chunk of it, N query heads, K key/value heads, D model dimension, H head
dimension.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...arguments import checked
from ...checks import head_of, one_of
from ...models.inputs.answers import token_texts
from ...models.model import Model
from ...models.network import Network
from ...models.norms import unit_stream
from ...programs import compiled
from .vocabulary import logit_directions, stack_of_last_stream, token_chunks

CIRCUITS = ("ov", "qk")
ENTRIES = 1 << 24
"""Most entries of a circuit that are held at once: 64 MB."""


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Token pairs at both ends of one head's circuit.

    Attributes:
        frame: one row a pair: `end` ("top" or "bottom"), `rank` from 0, ids `first` and `second`, `value`; where the
            model has a tokenizer the tokens as `first_text` and `second_text`; and the model's name.
        circuit: "ov" or "qk".
        layer, head: the head.
    """

    frame: pd.DataFrame
    circuit: str
    layer: int
    head: int


@checked()
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
    """Find the token pairs with the largest and smallest entries of one head's circuit (Elhage et al. 2021).

    "ov": attending to `first` raises the logit of `second` by `value`: W_V and W_O applied to the layer's norm of the
    token alone; the last norm counts by its scale, as for a stream of unit variance. "qk": a query at `first` gives
    a key at `second`, `offset` positions before it, the score `value`: with the head's biases, norms and scale, each
    stream holding its token alone. A cap on scores or logits is left out: it changes no order.

    Exact over all V × V pairs. Each row's largest entry is computed chunk by chunk; a pair among the `count` largest
    can only be in one of the `count` rows with the largest, and only those are computed again.

    Args:
        circuit: "ov" or "qk".
        layer, head: the head.
        count: how many pairs of each end.
        offset: see `jh.qk_circuit`.
        stack: the head's stack; the only one when left out.

    Raises:
        ValueError: for an unknown circuit or head, a count that is not in 1..V, cross-attention; and where tokens have
            no embedding or logits of their own, as in `jh.eigenvalue_copying`.
    """
    one_of("circuit", circuit, CIRCUITS)
    chosen = stack_of_last_stream(model, stack, logits=circuit == "ov")
    head_of((chosen.layers, chosen.heads), layer, head)
    if chosen.is_cross:
        raise ValueError("in cross-attention keys and values read another sequence's stream, not its tokens")
    chunks = [
        _token_factors(
            model.network, ids, jnp.int32(layer), jnp.int32(head), offset=offset, stack=chosen.name, circuit=circuit
        )
        for ids in token_chunks(model)
    ]
    left_VH, right_VH = (np.concatenate([np.asarray(chunk[side]) for chunk in chunks]) for side in (0, 1))
    if not 1 <= count <= len(left_VH):
        raise ValueError(f"count must lie in 1..{len(left_VH)}, got {count}")
    ends = [_pairs_at_end(left_VH, right_VH, count, end) for end in ("top", "bottom")]
    frame = pd.concat(ends, ignore_index=True)
    if model.tokenizer is not None:
        for side in ("first", "second"):
            frame[f"{side}_text"] = token_texts(model.tokenizer, frame[side].to_numpy())
    return TokenPairs(frame.assign(model=model.name), circuit, layer, head)


@partial(compiled, static_argnames=("stack", "circuit", "offset"))
def _token_factors(
    network: Network, ids_C: Array, layer: Array, head: Array, *, offset: int, stack: str, circuit: str
) -> tuple[Array, Array]:
    """Return each token's vector on the left and on the right side of one head's circuit, `[C,H]` twice."""
    chosen = network.stack(stack)
    block, group = chosen.block(layer), head // (chosen.heads // chosen.kv_heads)
    words_1CD = network.embed_tokens(ids_C)[None]
    positions_1C = jnp.zeros((1, len(ids_C)), jnp.int32)
    key_1CKH, value_1CKH = block.keys_values(words_1CD, positions_1C)
    if circuit == "qk":
        query_1CNH = block.queries(words_1CD, positions_1C + offset).astype(jnp.float32)
        return query_1CNH[0, :, head] * block.attention.scale, key_1CKH[0, :, group].astype(jnp.float32)
    assert network.unembedding is not None, "stack_of_last_stream requires logits"
    W_O = chosen.weights.W_O[layer, head]
    output_HD = block.head_contribution(W_O, unit_stream(W_O)).astype(jnp.float32)
    directions_CD = logit_directions(network, network.unembedding.weight[ids_C], words_1CD).astype(jnp.float32)
    value_CH = value_1CKH[0, :, group].astype(jnp.float32)
    if block.attention.b_V is not None:
        # every token's value has the bias: it raises logits whichever token is attended to
        value_CH = value_CH - block.attention.by_reader(block.attention.b_V[...], 0)[group].astype(jnp.float32)[None]
    return value_CH, jnp.einsum("cd,hd->ch", directions_CD, output_HD)


def _pairs_at_end(left_VH: np.ndarray, right_VH: np.ndarray, count: int, end: str) -> pd.DataFrame:
    """Return the `count` entries of `left @ right.T` at one end, the outermost first."""
    sign = 1.0 if end == "top" else -1.0
    left_VH = np.float32(sign) * left_VH
    size = max(1, ENTRIES // len(right_VH))
    largest = [(left_VH[at : at + size] @ right_VH.T).max(axis=1) for at in range(0, len(left_VH), size)]
    rows = np.sort(np.argsort(-np.concatenate(largest), kind="stable")[:count])
    values = np.concatenate([left_VH[rows[at : at + size]] @ right_VH.T for at in range(0, count, size)])
    flat = np.argpartition(-values, count - 1, axis=None)[:count]
    flat = flat[np.argsort(-values.reshape(-1)[flat], kind="stable")]
    row, second = np.unravel_index(flat, values.shape)
    columns = {"rank": np.arange(count), "first": rows[row], "second": second, "value": sign * values[row, second]}
    return pd.DataFrame({"end": end, **columns})
