"""Copying as logits show it: Olsson et al.'s evaluator on random tokens, and Wang et al.'s score on names.

Dimension key: B examples of a piece, T query positions, S source positions, P positions of names, L layers, N query
heads, K key/value heads, H head dimension, D model dimension, F what the unembedding reads.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.norms import unit_stream
from ...models.stack import Stack, take_rows
from ...tables import HeadTable
from ..weights.vocabulary import last_stack, raising
from .chunks import chosen_stack, direct_stacks, head_table, pieces_of

RESCALED = ("full", "half")


def logit_copying(
    model: Model,
    batch: Batch,
    *,
    rescaled: Literal["full", "half"] = "full",
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
) -> HeadTable:
    """How far a head raises the logit of the token that it looks at, among those of the sequence (Olsson et al. 2022,
    "head activation evaluators"): from −1 to 1.

    A query gives each source s the weight `A`, and directly adds `A · (v_s W_O) · u_t` to the logit of token t. Of that
    the mean over the vocabulary is taken off, and only what is raised counts (ReLU). r is the raise of `t = token of s`
    over the raise of all distinct tokens of the sequence, both summed over real queries and sources. A head that
    copies has r = 1; one that raises all alike 1 over the number of tokens; one that only lowers what it looks at 0.

    The last norm counts by its scale, as that of a stream of unit variance: every query weighs the same.

    Args:
        batch: in the paper 10 examples of 25 random tokens, the most and the least common ones left out.
        rescaled: "full" is `2 r − 1`, all of r's range to −1 … 1. "half" is `min(4 r, 2) − 1`, r from 0 to ½ to −1 … 1:
            the paper's wording as we have it at second hand. Both give 1 for a head that copies.
        stack: the only one when left out.
        level, seed: of the bootstrap over examples.
        memory: bytes for one piece of examples.

    Returns:
        Column `copying`; NaN where a head raises nothing.

    Raises:
        ValueError: as `jh.direct_parts`; for cross-attention, or positions that are no tokens.
    """
    if rescaled not in RESCALED:
        raise ValueError(f"rescaled must be one of {', '.join(RESCALED)}; got {rescaled!r}")
    part = _tokens_of(model, batch, chosen_stack(model, stack, direct_stacks(model)))
    T = part.queries.count(batch)
    found = []
    for rows, new in pieces_of(len(batch), 4 * part.heads * T * (4 * T + part.layers * part.head_size), memory):
        found.append(np.asarray(_raised(model.network, batch.take(rows), stack=part.name), np.float64)[:, :new])
    own_BLN, all_BLN = np.concatenate(found, axis=1)
    ratio = own_BLN / np.where(all_BLN > 0, all_BLN, np.nan)
    score = 2 * ratio - 1 if rescaled == "full" else np.minimum(4 * ratio, 2) - 1
    about = {"rescaled": rescaled, "examples": len(batch)}
    return head_table("logit_copying", model, part.name, {"copying": score}, about, level=level, seed=seed)


def name_copying(
    model: Model,
    batch: Batch,
    names: ArrayLike,
    *,
    top: int = 5,
    negative: bool = False,
    norm_of: int | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
) -> HeadTable:
    """How often a head's OV circuit puts a name among the first tokens when it looks at that name (Wang et al. 2022,
    section 3.1, "copy score"): a share from 0 to 1.

    The stream after the first layer where a name stands, a norm, W_V and its bias, W_O, the last norm and the
    unembedding: a sample counts where the name's own token is among the `top` largest logits.

    Args:
        names: token ids. Every real position of the batch that has one of them is a sample.
        top: 5 in the paper.
        negative: with −W_OV, for heads that suppress names.
        norm_of: the layer whose norm is taken. None: the head's own. 1: that of the paper's code, for all heads.
        stack, level, seed, memory: as in `logit_copying`.

    Returns:
        Column `copying`, the mean over examples that have a name; NaN for those without.

    Raises:
        ValueError: for names that are no tokens or stand nowhere; a layer that is not there; a model without logits at
            every position, cross-attention, or positions that are no tokens.
    """
    part = _tokens_of(model, batch, last_stack(model, stack))
    if not model.network.at_every_position:
        raise ValueError(f"{model.name} is a classifier: its logits are of classes, not of names")
    if norm_of is not None and not 0 <= norm_of < part.layers:
        raise ValueError(f"norm_of is a layer, 0..{part.layers - 1}, or None; got {norm_of}")
    rows_BP, weight_BP = _where(part, batch, names)
    size = 4 * rows_BP.shape[1] * part.heads * (2 * part.width + 4096)
    found = []
    for piece, new in pieces_of(len(batch), size, memory):
        each = _among_first(
            model.network, batch.take(piece), jnp.asarray(rows_BP[piece]),
            stack=part.name, top=top, sign=-1.0 if negative else 1.0, norm_of=norm_of,
        )  # fmt: skip
        found.append(np.asarray(each, np.float64)[:new])
    hits_BLNP = np.concatenate(found)
    count_B = weight_BP.sum(axis=1)
    share_BLN = (hits_BLNP * weight_BP[:, None, None]).sum(axis=3) / np.where(count_B > 0, count_B, np.nan)[
        :, None, None
    ]
    about = {
        "top": top,
        "negative": negative,
        "norm_of": norm_of,
        "samples": int(count_B.sum()),
        "examples": len(batch),
    }
    return head_table("name_copying", model, part.name, {"copying": share_BLN}, about, level=level, seed=seed)


def _tokens_of(model: Model, batch: Batch, part: Stack) -> Stack:
    """The stack, if its positions are tokens of the vocabulary that it looks at itself."""
    model.check(batch)
    if part.is_cross or part.queries.kind not in ("tokens", "targets") or model.network.unembedding is None:
        raise ValueError(
            f"copying is of tokens that a stack looks at and whose logits it raises; not so in the {part.name} of "
            f"{model.name}"
        )
    if not model.network.at_every_position:
        raise ValueError(f"{model.name} is a classifier: its logits are of classes, not of tokens")
    return part


def _where(part: Stack, batch: Batch, names: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Positions of names `[B,P]`, filled up with any, and 1 for those that are names."""
    ids = np.unique(np.asarray(names))
    if ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"names must be token ids, at least one, got {np.asarray(names).dtype} {ids[:8].tolist()}")
    side = part.queries.of(batch)
    named_BT = np.isin(np.asarray(side.ids), ids) & np.asarray(side.mask)
    if not named_BT.any():
        raise ValueError(f"none of the names {ids[:8].tolist()} stands anywhere in the batch")
    most = named_BT.sum(axis=1).max()
    rows_BP = np.argsort(~named_BT, axis=1, kind="stable")[:, :most].astype(np.int32)
    return rows_BP, np.take_along_axis(named_BT, rows_BP, axis=1).astype(np.float64)


@partial(jax.jit, static_argnames="stack")
def _raised(network: Network, batch: Batch, *, stack: str) -> Array:
    """Raises of the token looked at, and of all: `[2,B,L,N]`."""
    [part] = [one for one in network.stacks if one.name == stack]
    side = part.queries.of(batch)
    ids_BT, real_BT = part.queries.ids(batch), side.mask
    assert network.unembedding is not None
    rows_BTF = network.unembedding.weight[ids_BT] - network.unembedding.weight.mean(axis=0)[None, None]

    def read(seen: Any) -> tuple[Array, Array]:
        looked_BNS = jnp.where(real_BT[:, None, :, None], seen["pattern"], 0).sum(axis=2)
        return looked_BNS.astype(jnp.float32), seen["v"]

    x_BTD, kept = forward(network, batch, read={stack: read})
    raise_BTD = raising(network, rows_BTF.reshape(-1, rows_BTF.shape[-1]), x_BTD).reshape(x_BTD.shape)
    same_BTT = (ids_BT[:, :, None] == ids_BT[:, None, :]) & real_BT[:, None, :]
    first_BT = real_BT & (jnp.argmax(same_BTT, axis=2) == jnp.arange(ids_BT.shape[1])[None])

    def layer(at: tuple[Array, tuple[Array, Array]]) -> Array:
        number, (looked_BNS, v_BSKH) = at
        W_O = part.weights.W_O[number]
        written_NHD = part.block(number).head_contribution(W_O, unit_stream(W_O)).astype(jnp.float32)
        v_BSNH = jnp.repeat(v_BSKH.astype(jnp.float32), part.heads // part.kv_heads, axis=2)
        read_BNHT = jnp.einsum("nhd,btd->bnht", written_NHD, raise_BTD.astype(jnp.float32))
        raised_BNST = jax.nn.relu(jnp.einsum("bsnh,bnht->bnst", v_BSNH, read_BNHT))
        own_BNS = jnp.diagonal(raised_BNST, axis1=2, axis2=3)
        all_BNS = jnp.where(first_BT[:, None, None], raised_BNST, 0).sum(axis=3)
        return jnp.stack([(looked_BNS * each).sum(axis=2) for each in (own_BNS, all_BNS)])

    found_L2BN = jax.lax.map(layer, (jnp.arange(part.layers), kept[stack]))
    return jnp.moveaxis(found_L2BN, 0, 2)


@partial(jax.jit, static_argnames=("stack", "top", "sign", "norm_of"))
def _among_first(
    network: Network, batch: Batch, rows_BP: Array, *, stack: str, top: int, sign: float, norm_of: int | None
) -> Array:
    """Whether each sample's own token is among the first, `[B,L,N,P]`."""
    [part] = [one for one in network.stacks if one.name == stack]
    last = network.streams[-1].members[-1].name
    kept = forward(network, batch, read={last: lambda seen: take_rows(seen["resid_post"], rows_BP)})[1]
    x_BPD, own_BP = kept[last][0], jnp.take_along_axis(part.queries.ids(batch), rows_BP, axis=1)
    unembedding = network.unembedding
    assert unembedding is not None

    def layer(number: Array) -> Array:
        block: Any = part.block(number)
        normed_BPD = (block if norm_of is None else part.block(norm_of)).normed(x_BPD)
        v_BPKH = block.attention.keys_values(normed_BPD, jnp.zeros_like(rows_BP))[1]
        z_BPNH = sign * jnp.repeat(v_BPKH, part.heads // part.kv_heads, axis=2)
        out_NBPD = block.attention.per_head_output(z_BPNH)
        features_NBPF = jax.vmap(network.features)(block.head_contribution(out_NBPD, out_NBPD))
        rank_NBP = jax.vmap(lambda features: unembedding.rank(features, own_BP))(features_NBPF)
        return jnp.moveaxis(rank_NBP < top, 0, 1)

    return jnp.moveaxis(jax.lax.map(layer, jnp.arange(part.layers)), 1, 0)
