"""Copying measured by logits: Olsson et al.'s evaluator on random tokens, and Wang et al.'s score on names.

Dimension key: B examples of a chunk, T query positions, S source positions, P positions of names, L layers, N query
heads, K key/value heads, H head dimension, D model dimension, F features that the unembedding reads.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.inputs.query_rows import block_rows
from ...models.model import Model
from ...models.network import Network, forward
from ...models.norms import unit_stream
from ...models.row_chunks import in_row_chunks
from ...models.stack import Sites, Stack, take_rows
from ...programs import compiled, to_device
from ...tables import HeadTable
from ..per_example import mean_table, per_example
from ..weights.vocabulary import logit_directions, stack_of_last_stream
from .last_stream import direct_stack, direct_stacks

RESCALED = ("full", "half")


@shares_options()
def logit_copying(
    model: Model,
    batch: Batch | Texts,
    *,
    rescaled: Literal["full", "half"] = "full",
    **options: Unpack[Options],
) -> HeadTable:
    """Measure how far a head raises the logit of the token it attends to, among the sequence's tokens: −1 to 1.

    A query attends to source s with weight `A`, and adds `A · (v_s W_O) · u_t` directly to the logit of token t
    (Olsson et al. 2022, "head activation evaluators"). The mean over the vocabulary is subtracted, and only positive
    changes count (ReLU). r is the change at `t = token of s` over the change at all distinct tokens of the sequence,
    both summed over real queries and sources. A head that copies has r = 1; one that raises all tokens alike, 1 over
    their number; one that only lowers the tokens it attends to, 0.

    The last norm counts by its scale, as for a stream of unit variance: every query has equal weight.

    Args:
        batch: in the paper 10 examples of 25 random tokens, the most and the least common ones left out.
        rescaled: "full" is `2 r − 1`, all of r's range to −1 … 1. "half" is `min(4 r, 2) − 1`, r from 0 to ½ to −1 … 1:
            the paper's wording as we have it at second hand. Both give 1 for a head that copies.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        Column `copying`; NaN where a head raises nothing.

    Raises:
        ValueError: as `jh.direct_parts`; for cross-attention, or positions that are no tokens.
    """
    one_of("rescaled", rescaled, RESCALED)
    resources, chosen = Resources.of(options), direct_stack(model, options.get("stack"), direct_stacks(model))
    _check_tokens(model, batch, chosen)
    [batch] = Lengths(model).alike(batch)
    T = chosen.queries.count(batch)
    at_once = 4 * T * block_rows(1, chosen.heads, T, T)
    size = forward_bytes(chosen, batch) + FLOAT * chosen.heads * (at_once + T * chosen.layers * chosen.head_size)

    def compute(examples: np.ndarray) -> dict[str, Array]:
        return _raised(resources.network(model), resources.devices.examples(batch.take(examples)), stack=chosen.name)

    raised = per_example(
        "logit_copying",
        ("attended", "all"),
        compute,
        model,
        batch,
        resources,
        example_bytes=size,
        identity=chosen.name,
    )
    attended_BLN, all_BLN = raised["attended"], raised["all"]
    ratio = attended_BLN / np.where(all_BLN > 0, all_BLN, np.nan)
    score = 2 * ratio - 1 if rescaled == "full" else np.minimum(4 * ratio, 2) - 1
    about = {"rescaled": rescaled, "examples": len(batch)}
    return mean_table(
        "logit_copying", model, chosen.name, {"copying": score}, about, options, batch, ranges={"copying": (-1, 1)}
    )


@shares_options()
@checked(top=at_least(1))
def name_copying(
    model: Model,
    batch: Batch | Texts,
    names: ArrayLike,
    *,
    top: int = 5,
    negative: bool = False,
    norm_of: int | None = None,
    **options: Unpack[Options],
) -> HeadTable:
    """Measure how often a head's OV circuit ranks a name it attends to among the first tokens: a share from 0 to 1.

    This is the "copy score" of Wang et al. 2022, section 3.1. The stream after the first layer at a name goes through
    a norm, W_V and its bias, W_O, the last norm and the unembedding: a sample counts where the name's own token is
    among the `top` largest logits.

    Args:
        names: token ids. Every real position of the batch that has one of them is a sample.
        top: 5 in the paper.
        negative: use −W_OV, for heads that suppress names.
        norm_of: the layer whose norm is applied. None: the head's own. 1: that of the paper's code, for all heads.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        Column `copying`, the mean over examples that have a name; NaN for those without.

    Raises:
        ValueError: for names that are no tokens or are not in the batch; an unknown layer; a model without logits at
            every position, cross-attention, or positions that are no tokens.
    """
    resources, chosen = Resources.of(options), stack_of_last_stream(model, options.get("stack"))
    _check_tokens(model, batch, chosen)
    [batch] = Lengths(model).alike(batch)
    if norm_of is not None and not 0 <= norm_of < chosen.layers:
        raise ValueError(f"norm_of is a layer, 0..{chosen.layers - 1}, or None; got {norm_of}")
    rows_BP, is_name_BP = _name_positions(chosen, batch, names)
    # ranks look at 4,096 columns of the vocabulary at a time
    sample_numbers = chosen.heads * (2 * chosen.width + 4096)
    size = forward_bytes(chosen, batch) + FLOAT * rows_BP.shape[1] * sample_numbers
    sign = -1.0 if negative else 1.0
    run = partial(_among_first, stack=chosen.name, top=top, sign=sign, norm_of=norm_of)

    def compute(examples: np.ndarray) -> dict[str, Array]:
        chunk, rows = resources.devices.examples((batch.take(examples), to_device(rows_BP[examples])))
        return {"hits": run(resources.network(model), chunk, rows)}

    identity = (chosen.name, rows_BP, repr((top, negative, norm_of)))
    hits = per_example(
        "name_copying", ("hits",), compute, model, batch, resources, example_bytes=size, identity=identity
    )
    hits_BLNP = hits["hits"]
    count_B = is_name_BP.sum(axis=1)
    divisor_B = np.where(count_B > 0, count_B, np.nan)
    share_BLN = (hits_BLNP * is_name_BP[:, None, None]).sum(axis=3) / divisor_B[:, None, None]
    samples = int(count_B.sum())
    about = {"top": top, "negative": negative, "norm_of": norm_of, "samples": samples, "examples": len(batch)}
    return mean_table(
        "name_copying", model, chosen.name, {"copying": share_BLN}, about, options, batch, ranges={"copying": (0, 1)}
    )


def _check_tokens(model: Model, batch: Batch, stack: Stack) -> None:
    """Raise ValueError unless the stack's keys are tokens whose logits the model gives at every position."""
    model.check(batch)
    if stack.is_cross or stack.queries.kind not in ("tokens", "targets") or model.network.unembedding is None:
        raise ValueError(
            f"copying is of tokens that a stack attends to and whose logits it raises; not so in the {stack.name} of "
            f"{model.name}"
        )
    if model.network.classes_of is not None:
        raise ValueError(f"{model.name} is a classifier: its logits are of classes, not of tokens")


def _name_positions(stack: Stack, batch: Batch, names: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of names `[B,P]`, filled up with other positions, and 1 for names, 0 for fillers."""
    ids = np.unique(np.asarray(names))
    if ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"names must be token ids, at least one, got {np.asarray(names).dtype} {ids[:8].tolist()}")
    tokens = stack.queries.of(batch)
    named_BT = np.isin(np.asarray(tokens.ids), ids) & np.asarray(tokens.mask)
    if not named_BT.any():
        raise ValueError(f"none of the names {ids[:8].tolist()} is anywhere in the batch")
    most = named_BT.sum(axis=1).max()
    rows_BP = np.argsort(~named_BT, axis=1, kind="stable")[:, :most].astype(np.int32)
    return rows_BP, np.take_along_axis(named_BT, rows_BP, axis=1).astype(np.float64)


@partial(compiled, static_argnames="stack")
def _raised(network: Network, batch: Batch, *, stack: str) -> dict[str, Array]:
    """Return by how much the logits of the tokens attended to, and of all tokens, are raised, `[B,L,N]` each."""
    chosen = network.stack(stack)
    ids_BT, real_BT = chosen.queries.ids(batch), chosen.queries.of(batch).mask
    assert network.unembedding is not None
    rows_BTF = network.unembedding.weight[ids_BT] - network.unembedding.weight.mean(axis=0)[None, None]

    x_BTD, kept = forward(network, batch, read={stack: _Received(real_BT, chosen)})
    direction_BTD = logit_directions(network, rows_BTF.reshape(-1, rows_BTF.shape[-1]), x_BTD).reshape(x_BTD.shape)
    direction_BTD, first_BT = direction_BTD.astype(jnp.float32), jax.vmap(_is_first)(ids_BT, real_BT)
    rows = block_rows(len(batch), chosen.heads, *[ids_BT.shape[1]] * 2)

    def layer(inputs: tuple[Array, tuple[Array, Array]]) -> tuple[Array, Array]:
        number, (attention_BNS, v_BSKH) = inputs
        W_O = chosen.weights.W_O[number]
        output_NHD = chosen.block(number).head_contribution(W_O, unit_stream(W_O)).astype(jnp.float32)
        v_BSNH = jnp.repeat(v_BSKH, chosen.heads // chosen.kv_heads, axis=2)
        logit_BTNH = jnp.einsum("nhd,btd->btnh", output_NHD, direction_BTD)
        attended_BSN = jax.nn.relu(jnp.einsum("bsnh,bsnh->bsn", v_BSNH, logit_BTNH))

        def all_raised(v_BsNH: Array) -> Array:
            raised_BNsT = jax.nn.relu(jnp.einsum("bsnh,btnh->bnst", v_BsNH, logit_BTNH))
            return jnp.moveaxis(jnp.where(first_BT[:, None, None], raised_BNsT, 0).sum(axis=3), 1, 2)

        all_BSN, attention_BSN = in_row_chunks(all_raised, rows, v_BSNH), jnp.moveaxis(attention_BNS, 1, 2)
        return (attention_BSN * attended_BSN).sum(axis=1), (attention_BSN * all_BSN).sum(axis=1)

    attended_LBN, all_LBN = jax.lax.map(layer, (jnp.arange(chosen.layers), kept[stack]))
    return {"attended": jnp.moveaxis(attended_LBN, 0, 1), "all": jnp.moveaxis(all_LBN, 0, 1)}


@dataclass(frozen=True)
class _Received:
    """A `RowReader` that returns the attention each key gets from real queries, `[B,N,S]`, and the keys' values."""

    real_BT: Array
    stack: Stack

    def start(self) -> tuple[Array, Array]:
        (B, T), stack = self.real_BT.shape, self.stack
        return jnp.zeros((B, stack.heads, T)), jnp.zeros((B, T, stack.kv_heads, stack.head_size))

    def add(self, sums: tuple[Array, Array], sites: Sites, first: Array | int) -> tuple[Array, Array]:
        pattern_BNtS, T = sites["pattern"].astype(jnp.float32), self.real_BT.shape[1]
        rows_t = first + jnp.arange(pattern_BNtS.shape[2])
        real_Bt = self.real_BT[:, jnp.minimum(rows_t, T - 1)] & (rows_t < T)[None]
        received_BNS = jnp.where(real_Bt[:, None, :, None], pattern_BNtS, 0).sum(axis=2)
        return sums[0] + received_BNS, sites["v"].astype(jnp.float32)

    def finish(self, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        return sums


def _is_first(ids_T: Array, real_T: Array) -> Array:
    """Return which positions are the first real one with their token, bool `[T]`."""
    T = len(ids_T)
    # Each token's first column in the sorted text: a comparison of all pairs of tokens would be [T,T].
    number_T = jnp.searchsorted(jnp.sort(ids_T), ids_T)
    first_T = jnp.full(T, T).at[number_T].min(jnp.where(real_T, jnp.arange(T), T))
    return real_T & (first_T[number_T] == jnp.arange(T))


@partial(compiled, static_argnames=("stack", "top", "sign", "norm_of"))
def _among_first(
    network: Network, batch: Batch, rows_BP: Array, *, stack: str, top: int, sign: float, norm_of: int | None
) -> Array:
    """Return whether each sample's own token is among the first, `[B,L,N,P]`."""
    chosen = network.stack(stack)
    last = network.streams[-1].members[-1].name
    kept = forward(network, batch, read={last: lambda seen: take_rows(seen["resid_post"], rows_BP)})[1]
    x_BPD, target_BP = kept[last][0], jnp.take_along_axis(chosen.queries.ids(batch), rows_BP, axis=1)
    unembedding = network.unembedding
    assert unembedding is not None

    def layer(number: Array) -> Array:
        block: Any = chosen.block(number)
        normed_BPD = (block if norm_of is None else chosen.block(norm_of)).normed(x_BPD)
        v_BPKH = block.attention.keys_values(normed_BPD, jnp.zeros_like(rows_BP))[1]
        z_BPNH = sign * jnp.repeat(v_BPKH, chosen.heads // chosen.kv_heads, axis=2)
        out_NBPD = block.attention.per_head_output(z_BPNH)
        features_NBPF = jax.vmap(network.features)(block.head_contribution(out_NBPD, out_NBPD))
        rank_NBP = jax.vmap(lambda features: unembedding.rank(features, target_BP))(features_NBPF)
        return jnp.moveaxis(rank_NBP < top, 0, 1)

    return jnp.moveaxis(jax.lax.map(layer, jnp.arange(chosen.layers)), 1, 0)
