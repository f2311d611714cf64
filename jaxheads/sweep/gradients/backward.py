"""Backward passes: the derivative of the objective by the weight of an edit, and how many examples fit one.

Dimension key: B examples of a chunk, L layers, T query positions, N heads (K at `k` and `v`, 1 in the stream).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax import Array

from ...execution.batching import Chunks
from ...execution.cost import gradient_bytes
from ...execution.resources import Resources
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.sites import SITES, SiteEdit, has_heads
from ...models.stack import Stack, take_rows
from ...objectives import Reads, read_out
from ...programs import compiled
from ..cached_run import Value


@partial(compiled, static_argnames=("stack", "sites", "value"))
def run_sites(
    network: Network,
    batch: Batch,
    reads: Reads,
    edits: Sequence[SiteEdit] = (),
    *,
    stack: str,
    sites: tuple[str, ...],
    value: Value,
) -> tuple[Array, dict[str, Array]]:
    """Return the objective `[B]` of a run, and these sites of a stack, each with a leading layer axis."""
    x_BTD, kept = forward(network, batch, edits, {stack: lambda values: {site: values[site] for site in sites}})
    return value(read_out(network, take_rows(x_BTD, reads.rows), reads), reads), kept[stack]


@partial(compiled, static_argnames=("value", "remat"))
def weight_gradient(
    network: Network,
    batch: Batch,
    reads: Reads,
    edit: SiteEdit,
    frozen: Sequence[SiteEdit] = (),
    *,
    value: Value,
    remat: bool = False,
) -> tuple[Array, Array]:
    """Return the objective `[B]`, and its derivative by every number in `edit.weight`, at the weights that it has.

    Args:
        frozen: edits that are made after that one; they are constants.
        remat: keep only the stream between layers, and compute all else again on the way back. Otherwise products with
            weights are kept as well.
    """
    # The weight is differentiated, not the activation. An edit adds `weight * source` to a site, so the chain rule
    # already takes the product of source and gradient and its sum over H: L*B*T*N numbers come back in place of
    # L*B*T*N*H, and they are the slopes at which the very edit of a sweep sets out.
    #
    # Even without remat only products with weights are kept, not what lies between them: for GPT-2 small that takes a
    # third of the memory of keeping everything, and on CPU no more time.
    policies = jax.checkpoint_policies
    policy = policies.nothing_saveable if remat else policies.dots_with_no_batch_dims_saveable

    def total(weight: Array) -> tuple[Array, Array]:
        edits = (replace(edit, weight=weight), *frozen)

        def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            return stack.run(x_BTD, context, edits, wrap=partial(jax.checkpoint, policy=policy, prevent_cse=False))[0]

        rows_BRD = take_rows(network.hidden(batch, run_stack), reads.rows)
        value_B = value(read_out(network, rows_BRD, reads), reads)
        # Examples of a batch do not mix, so the gradient of their sum holds the gradient of each.
        return value_B.sum(), value_B

    gradient, value_B = jax.grad(total, has_aux=True)(edit.weight)
    return value_B, gradient


def edit_weights(stack: Stack, site: str, batch: Batch) -> np.ndarray:
    """Return zeros for an edit's weight: one for each layer, example, position and head of a site."""
    *axes, _ = stack.site_shape(site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    return np.zeros((stack.layers, *axes, 1), np.float32)


def slopes_by_position(site: str, slopes: Array) -> np.ndarray:
    """Return the gradient by `edit_weights` as `[B,L,T,N]` float64; N is 1 at a site without heads."""
    slopes_LB = fetch(slopes).astype(np.float64)[..., 0]
    if SITES[site] == "BNTS":
        slopes_LB = np.swapaxes(slopes_LB, 2, 3)
    return np.moveaxis(slopes_LB if has_heads(site) else slopes_LB[..., None], 0, 1)


def gradient_chunks(
    network: Network, stack: Stack, batch: Batch, reads: Reads, resources: Resources, more_bytes: int = 0
) -> tuple[Chunks, bool]:
    """Return the chunks that examples are differentiated in, and whether `weight_gradient` needs remat.

    Args:
        stack: the stack that is edited.
        more_bytes: that an example holds beside its forward and backward pass.
    """
    # Remat costs a second forward pass, so it is a last resort: for models of which not even one example fits without.
    plain = gradient_bytes(network, batch, reads, remat=False) + more_bytes
    remat = plain > resources.memory
    chunks = Chunks.fitting(
        len(batch),
        tokens=max(stream.queries.count(batch) for stream in network.streams),
        copy_bytes=gradient_bytes(network, batch, reads, remat=True) + more_bytes if remat else plain,
        memory=resources.memory,
        multiples=(resources.devices.multiples[0], 1),
    )
    return chunks, remat
