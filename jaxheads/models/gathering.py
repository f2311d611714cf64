"""Weights that rest in shares on all devices of a mesh, and are whole only in the layer that runs.

A device holds its share of every parameter; a layer's are gathered when it runs, and forgotten after it (ZeRO's third
stage, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023). Where many tokens run together this moves less than heads that
are split over devices: a gather moves the layer's weights once, whatever the tokens, and no product of a layer waits
for another device.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

SMALL = 256
"""A parameter this many times smaller than the network's largest rests whole: to gather it costs more than to hold."""


@dataclass(frozen=True)
class Gather:
    """The place of each parameter while it is used.

    Attributes:
        mesh: the axes of the mesh whose devices hold shares of the parameters. Which devices these are, the arrays say:
            a rehearsal puts others in their place.
        specs: the spec of each leaf of a tree in use, in the order of `jax.tree.leaves`; None leaves it as it rests.
    """

    mesh: AbstractMesh
    specs: tuple[P | None, ...]

    def __reduce__(self) -> Any:
        # Parameters that are pickled come back on one device.
        return _nothing, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Gather":
        return self

    def of(self, tree: Any) -> Any:
        """Return the tree as it is used: XLA gathers here what rests in shares."""
        leaves, structure = jax.tree.flatten(tree)
        used = [
            leaf if spec is None else jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))
            for leaf, spec in zip(leaves, self.specs, strict=True)
        ]
        return jax.tree.unflatten(structure, used)


def _nothing() -> None:
    return None


def used(gather: Gather | None, tree: Any) -> Any:
    """Return a tree of parameters as it is used: gathered, if it rests in shares."""
    return tree if gather is None else gather.of(tree)


def gathering_axes(mesh: Mesh, axis: str = "model") -> tuple[str, ...]:
    """Return the axes over which parameters rest in shares: all but that over which heads are split."""
    return tuple(str(name) for name in mesh.axis_names if name != axis)


def resting_spec(shape: tuple[int, ...], spec: P, mesh: Mesh, axes: Collection[str], largest: int) -> P:
    """Return a spec that also splits a parameter over other axes of the mesh, where it is large and divides evenly.

    Args:
        shape: of the parameter, in one layer.
        spec: of the parameter in use, for these axes.
        axes: of the mesh, that the parameter rests in shares over.
        largest: the number of entries of the network's largest parameter, in one layer.
    """
    if not axes or SMALL * math.prod(shape) < largest:
        return spec
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    taken = {
        name for entry in entries if entry is not None for name in (entry if isinstance(entry, tuple) else (entry,))
    }
    free = tuple(name for name in axes if name not in taken)
    # Where no axis of the parameter divides evenly over all devices, it is split over fewer.
    for count in range(len(free), 0, -1):
        shares = math.prod(mesh.shape[name] for name in free[:count])
        whole = [number for number, size in enumerate(shape) if entries[number] is None and size % shares == 0]
        if shares > 1 and whole:
            entries[max(whole, key=lambda number: shape[number])] = free[:count] if count > 1 else free[0]
            break
    return P(*entries)


def resting(network: Any, mesh: Mesh) -> Any:
    """Return the sharding at rest of every leaf of a network that is not split, in shares over all axes of the mesh.

    Leaves may be abstract (`jax.eval_shape`).
    """
    blocks = _of_blocks(network)
    layer_shapes = {id(leaf): leaf.shape[id(leaf) in blocks :] for leaf in jax.tree.leaves(network)}
    largest = max(map(math.prod, layer_shapes.values()))
    axes = tuple(map(str, mesh.axis_names))

    def sharding(leaf: Any) -> NamedSharding:
        spec = resting_spec(layer_shapes[id(leaf)], P(), mesh, axes, largest)
        return NamedSharding(mesh, P(None, *spec) if id(leaf) in blocks else spec)

    return jax.tree.map(sharding, network)


def marked(network: Any, mesh: Mesh, axes: Iterable[str]) -> Any:
    """Return a network whose programs gather what its leaves' shardings split over these axes, layer by layer."""
    network, axes = jax.tree.map(lambda leaf: leaf, network), set(axes)
    # Without a kind of device: a rehearsal is for another one.
    abstract = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types)
    blocks = _of_blocks(network)
    for stack in network.stacks:
        stack.gather = Gather(abstract, tuple(_spec_in_use(leaf, axes, 1) for leaf in jax.tree.leaves(stack.blocks)))
    leaves = jax.tree.leaves(network)
    network.gather = Gather(
        abstract, tuple(None if id(leaf) in blocks else _spec_in_use(leaf, axes, 0) for leaf in leaves)
    )
    return network


def bytes_in_use(network: Any) -> tuple[int, int]:
    """Return the bytes of the largest layer's weights, and of all weights outside of layers."""
    layers = [sum(bytes_of(leaf) // len(leaf) for leaf in jax.tree.leaves(stack.blocks)) for stack in network.stacks]
    blocks = _of_blocks(network)
    return max(layers), sum(bytes_of(leaf) for leaf in jax.tree.leaves(network) if id(leaf) not in blocks)


def bytes_of(leaf: Any) -> int:
    """Return the bytes of an array, which may be abstract."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _of_blocks(network: Any) -> set[int]:
    """Return which leaves of a network, by `id`, are those of its layers, with an axis of layers."""
    return {id(leaf) for stack in network.stacks for leaf in jax.tree.leaves(stack.blocks)}


def _spec_in_use(leaf: Any, axes: set[str], skipped: int) -> P | None:
    """Return a leaf's spec without these axes, and without its first `skipped` entries; None if it is the same."""
    entries = tuple(getattr(leaf.sharding, "spec", ()))[skipped:]
    kept = [
        tuple(n for n in (entry if isinstance(entry, tuple) else (entry,)) if n not in (None, *axes))
        for entry in entries
    ]
    specs = [names if len(names) > 1 else names[0] if names else None for names in kept]
    return None if tuple(specs) == entries else P(*specs)
