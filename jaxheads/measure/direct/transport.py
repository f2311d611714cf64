"""Jacobian lens: where what a head writes ends up in the last stream, on average, and which tokens it then raises.

Dimension key: B examples, T positions, L layers, N heads, D model dimension, H head dimension, R rows of a Jacobian.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import head_of
from ...execution.batching import Later, detecting_out_of_memory, is_new, run_chunks
from ...execution.cost import FLOAT
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.answers import token_texts
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ...tables import Column, HeadTable
from ..example_chunks import choose_chunks
from ..streams import Batches, each_batch
from ..weights.factored import ov_circuit
from ..weights.vocabulary import logit_directions, stack_of_last_stream, token_chunks


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """The average effect on the last stream of what the heads of each layer add to the stream.

    Attributes:
        jacobians: `[L,D,D]`, rows by the dimension of the last stream: a vector w that is added in layer l moves the
            last stream by `jacobians[l] @ w`, over all later positions together.
        stack: the heads' stack.
        model: the model.
        positions: the number of positions that the average is over.
        about: how it was made, for provenance.
    """

    jacobians: np.ndarray
    stack: str
    model: Model = field(repr=False)
    positions: int
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def table(self) -> HeadTable:
        """One row a head, of its OV circuit C before and after the lens, without intervals.

        `gain` is `‖C Jᵀ‖ / ‖C‖`: by how much later layers lengthen what the head writes. `direct` is the cosine of the
        two: 1 where what it writes reaches the last stream as it is, 0 where later layers make something else of it.
        """
        ov = ov_circuit(self.model, stack=self.stack)
        gain, cosine = _passed(ov.left, ov.right, jnp.asarray(self.jacobians, jnp.float32))
        columns = {"gain": Column(np.asarray(gain)), "direct": Column(np.asarray(cosine), range=(-1, 1))}
        return HeadTable.from_columns("jacobian_lens", self.stack, columns, self.about)

    @checked(count=at_least(1))
    def read(self, layer: int, vector: ArrayLike, *, count: int = 10) -> pd.DataFrame:
        """Return the tokens that a vector raises and lowers most, `[D]`, added by the heads of a layer.

        Returns:
            One row a token: `end` ("top" or "bottom"), `rank` from 0, `token`, `value`, its logit less the mean of all,
            with the last norm's scale at a stream of unit variance; `direct`, that value if later layers did nothing;
            where the model has a tokenizer the token as `text`.

        Raises:
            ValueError: for an unknown layer, or another shape.
        """
        L, D = self.jacobians.shape[:2]
        written = np.asarray(vector, np.float32)
        if not 0 <= layer < L or written.shape != (D,):
            raise ValueError(f"expected a layer 0..{L - 1} and a vector [{D}]; got {layer} and {list(written.shape)}")
        moved = self.jacobians[layer].astype(np.float32) @ written
        both = jnp.asarray(np.stack([moved, written], axis=1))
        chunks = [np.asarray(_logits(self.model.network, both, ids)) for ids in token_chunks(self.model)]
        value_V2 = np.concatenate(chunks)
        value_V2 = value_V2 - value_V2.mean(axis=0)
        order = np.argsort(-value_V2[:, 0], kind="stable")
        ends = {"top": order[:count], "bottom": order[::-1][:count]}
        tokens = np.concatenate(list(ends.values()))
        columns: dict[str, Any] = {
            "end": np.repeat(list(ends), [len(own) for own in ends.values()]),
            "rank": np.concatenate([np.arange(len(own)) for own in ends.values()]),
            "token": tokens,
            "value": value_V2[tokens, 0],
            "direct": value_V2[tokens, 1],
        }
        if self.model.tokenizer is not None:
            columns["text"] = token_texts(self.model.tokenizer, tokens)
        return pd.DataFrame(columns)

    @checked(components=at_least(1), count=at_least(1))
    def head(self, layer: int, head: int, *, components: int = 3, count: int = 5) -> pd.DataFrame:
        """Return what the strongest directions that a head can write do to the logits, by `read`.

        The directions are those of the OV circuit's largest singular values. A direction has no sign: a head writes it
        or its opposite, so that "top" and "bottom" may change places.

        Returns:
            The rows of `read` for each `component`, and its `share` of the circuit's square norm.

        Raises:
            ValueError: for an unknown head.
        """
        head_of((len(self.jacobians), self.model.stack(self.stack).heads), layer, head)
        circuit = ov_circuit(self.model, stack=self.stack)[layer, head]
        right = np.asarray(np.linalg.qr(np.asarray(circuit.left), mode="r") @ np.asarray(circuit.right))
        _, sizes, directions = np.linalg.svd(right, full_matrices=False)
        shares = np.square(sizes) / max(float(np.square(sizes).sum()), 1e-30)
        frames = [
            self.read(layer, directions[number], count=count).assign(component=number, share=shares[number])
            for number in range(min(components, len(sizes)))
        ]
        return pd.concat(frames, ignore_index=True)


@shares_options(without=("level", "clusters", "seed"))
@checked(skip=at_least(0))
def jacobian_lens(model: Model, batch: Batches, *, skip: int = 16, **options: Unpack[Options]) -> JacobianLens:
    """Average the Jacobian of the last stream by what the heads of each layer add (the J-lens, for heads).

    `J = E ∂h / ∂a`, with a the sum that a layer's heads add to the stream (`attn_out`) and h the last stream before its
    norm: summed over the positions of h, averaged over those of a. The first `skip` positions and each example's last
    are out on both sides, as in the published lens of whole layers. The logit lens reads what a head writes as if later
    layers did nothing; this one lets them act, to first order, on average over the text. Where later layers are linear
    and attend to nothing else it is exact: the product of their `I + A`.

    All layers' Jacobians come from D backward passes of each chunk of examples: hours for a wide model on a CPU.

    Args:
        batch: one batch or any iterable of batches, which is read once.
        skip: positions at the start of each text that are left out; there attention sinks into the first token.
        options: shared by all questions: stack, memory, devices, progress, resume.

    Raises:
        ValueError: for a model without logits, a stack that doesn't write into the last stream, or texts that are not
            longer than `skip + 1` tokens.
    """
    resources, chosen = Resources.of(options), stack_of_last_stream(model, options.get("stack"))
    total, count, examples = np.zeros((chosen.layers, chosen.width, chosen.width)), 0, 0
    with show_progress(None, f"Jacobians of {chosen.layers} layers of {model.name}", resources.progress) as advance:
        for number, one in enumerate(each_batch(batch, "batch")):
            model.check(one)
            counted_BT = _counted(chosen, one, skip)
            journal = resources.journal("jacobian_lens", model, one, chosen.name, skip)
            sums = partial(_sums_of, resources, model, chosen, one, counted_BT)
            total = total + journal.part(f"batch-{number}", sums)
            count, examples = count + int(counted_BT.sum()), examples + len(one)
            advance(len(one))
    if not count:
        raise ValueError(f"no position counts: expected texts of more than {skip + 1} tokens; give a smaller skip")
    about = provenance(model, skip=skip, examples=examples, positions=count)
    return JacobianLens((total / count).astype(np.float32), chosen.name, model, count, about)


def _counted(stack: Stack, batch: Batch, skip: int) -> np.ndarray:
    """Return which positions count, bool `[B,T]`: real ones, but the first `skip` and the last."""
    mask_BT = np.asarray(stack.queries.of(batch).mask)
    place_BT = np.cumsum(mask_BT, axis=1) - 1
    return mask_BT & (place_BT >= skip) & (place_BT < mask_BT.sum(axis=1, keepdims=True) - 1)


def _sums_of(resources: Resources, model: Model, stack: Stack, batch: Batch, counted_BT: np.ndarray) -> np.ndarray:
    """Return the Jacobians summed over a batch's positions, `[L,D,D]`."""
    total = np.zeros((stack.layers, stack.width, stack.width))
    network, devices = resources.network(model), resources.devices
    # the stream before each layer is kept for the backward passes, and one layer's sites are computed again
    kept = FLOAT * 4 * stack.layers * stack.queries.count(batch) * stack.width

    def run(examples: np.ndarray) -> Iterator[Later[None]]:
        counted = counted_BT[examples] & is_new(examples)[:, None]
        with detecting_out_of_memory():
            chunk, weight_BT = devices.examples((batch.take(examples), counted.astype(np.float32)))
            array = _jacobian_sums(network, chunk, weight_BT, stack=stack.name)

        def finish() -> None:
            nonlocal total
            with detecting_out_of_memory():
                total = total + devices.fetch(array).astype(np.float64)

        yield finish

    chunks = choose_chunks(resources, model, stack, batch, example_bytes=kept)
    run_chunks(chunks, len(batch), run)
    return total


@partial(compiled, static_argnames="stack")
def _jacobian_sums(network: Network, batch: Batch, weight_BT: Array, *, stack: str) -> Array:
    """Return the Jacobians summed over positions, `[L,D,D]`, rows by the dimension of the last stream."""
    L, D = network.stack(stack).layers, network.stack(stack).width
    dtype = network.stack(stack).blocks.attention.W_O[...].dtype

    def last_stream(shift_LD: Array) -> Array:
        # One shift for all positions: its gradient is the sum over the positions that it is added at.
        weight_LBT1 = jnp.broadcast_to(weight_BT[None, :, :, None], (L, *weight_BT.shape, 1)).astype(dtype)
        edit = SiteEdit(jnp.arange(L), weight_LBT1, shift_LD[:, None, None].astype(dtype), "attn_out", stack, "add")

        def run_stack(own: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            return own.run(x_BTD, context, (edit,), wrap=jax.checkpoint)[0]

        x_BTD = network.hidden(batch, run_stack)
        return (x_BTD.astype(jnp.float32) * weight_BT[..., None]).sum(axis=(0, 1))

    _, pull_back = jax.vjp(last_stream, jnp.zeros((L, D)))
    rows_RLD = jax.lax.map(lambda row: pull_back(jax.nn.one_hot(row, D))[0], jnp.arange(D))
    return jnp.moveaxis(rows_RLD, 1, 0)


@compiled
def _logits(network: Network, vectors_D2: Array, ids_C: Array) -> Array:
    """Return the logits of some tokens that vectors of the last stream raise, `[C,2]`."""
    assert network.unembedding is not None, "stack_of_last_stream requires logits"
    directions_CD = logit_directions(network, network.unembedding.weight[ids_C], vectors_D2.T)
    return directions_CD.astype(jnp.float32) @ vectors_D2


@compiled
def _passed(left_LNDH: Array, right_LNHD: Array, jacobians_LDD: Array) -> tuple[Array, Array]:
    """Return the norm after the lens over that before it, and the cosine of both circuits, `[L,N]` each."""

    def layer(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        left_NDH, right_NHD, jacobian_DD = inputs
        small_NHD = jnp.linalg.qr(left_NDH, mode="r") @ right_NHD
        moved_NHD = jnp.einsum("nhd,ed->nhe", small_NHD, jacobian_DD)
        before_N, after_N = (jnp.linalg.norm(half, axis=(-2, -1)) for half in (small_NHD, moved_NHD))
        product_N = (small_NHD * moved_NHD).sum(axis=(-2, -1))
        return after_N / before_N, product_N / (before_N * after_N)

    return jax.lax.map(layer, (left_LNDH, right_LNHD, jacobians_LDD))
