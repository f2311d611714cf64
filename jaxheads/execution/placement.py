"""Placement: where a model's weights rest while a question runs over a mesh, chosen from the sizes.

A model that fits each device is whole on each: nothing moves between them. A larger one rests in shares on all
devices, and each layer's weights are gathered when it runs (see `models.gathering`), once for all tokens of a chunk.
Heads that are split over an axis "model" (see `models.sharding`) move the stream instead: what heads write and what the
MLP writes is added up over devices, for every token of every copy. So a sweep, whose copies make many tokens of few
examples, is better off with a gather.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding

from ..models.gathering import bytes_in_use, bytes_of
from ..programs import DEVICE

USABLE = 0.9
"""The share of a device's memory that weights and activations may fill: the rest is the runtime's."""

DEVICE_BYTES = {"TPU v4": 32 << 30, "TPU v5 lite": 16 << 30, "TPU v5": 95 << 30, "TPU v6 lite": 32 << 30}
"""Memory of kinds of devices that can't be asked: those of another process, or of a topology that is not there."""

Kind = Literal["whole", "gathered", "split", "split and gathered"]


@dataclass(frozen=True)
class Placement:
    """The place of a model's weights.

    Attributes:
        kind: "whole": every device holds all weights. "gathered": each holds a share, and a layer's are gathered when
            it runs. "split": each holds some of the heads, of the MLP's hidden units and of the vocabulary. "split and
            gathered": both.
        devices: the number of devices.
        resting: bytes of weights that each device holds.
        layer: bytes of the largest layer, which a gather moves to each device.
        outside: bytes of the weights outside of layers, gathered once in a program.
        width: D, of the stream.
        itemsize: bytes of a number of the stream.
    """

    kind: Kind
    devices: int
    resting: int
    layer: int
    outside: int
    width: int
    itemsize: int

    @classmethod
    def of(cls, network: Any, mesh: Mesh | None, activations: int = 0) -> "Placement":
        """Return a network's placement: as it is split already, else as the sizes have it.

        Args:
            activations: bytes that a chunk of work takes on each device, beside the weights.
        """
        leaves = jax.tree.leaves(network)
        layer, outside = bytes_in_use(network)
        weights, count = sum(map(bytes_of, leaves)), 1 if mesh is None else mesh.size
        stream = network.streams[-1]
        about = {"layer": layer, "outside": outside, "width": stream.width}
        about["itemsize"] = stream.blocks.attention.W_O.dtype.itemsize
        if any(isinstance(leaf.sharding, NamedSharding) and not leaf.sharding.is_fully_replicated for leaf in leaves):
            resting = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
            return cls(_kind(network), leaves[0].sharding.num_devices, resting, **about)
        if (
            mesh is None
            or count == 1
            or weights + activations <= USABLE * device_bytes(DEVICE.get() or mesh.devices.flat[0])
        ):
            return cls("whole", count, weights, **about)
        return cls("gathered", count, -(-weights // count), **about)

    @property
    def bytes(self) -> int:
        """Bytes of weights on each device at the peak, with what is gathered at a time."""
        return self.resting + (self.layer + self.outside if "gathered" in self.kind else 0)

    def reduced(self, tokens: int) -> int:
        """Return the bytes that a layer moves to each device where heads are split, for this many tokens.

        A sum over devices moves its result twice, and a layer has two: of what heads write, and of what the MLP writes.
        """
        return 4 * tokens * self.width * self.itemsize

    def words(self, tokens: int) -> str:
        """Return a sentence on the placement, for tokens that run together on a device."""
        if self.kind == "whole":
            return f"weights ({_size(self.resting)}) are whole on each device"
        sentence = f"weights rest {self.kind}: {_size(self.resting)} on each of {self.devices} devices"
        if "gathered" not in self.kind:
            return f"{sentence}; a layer adds up {_size(self.reduced(tokens))} over devices for {tokens:,} tokens"
        return (
            f"{sentence}; a layer's {_size(self.layer)} are gathered when it runs, for {tokens:,} tokens on a device "
            f"(heads split over devices would add up {_size(self.reduced(tokens))})"
        )


def device_bytes(device: Any) -> int:
    """Return the memory of a device; of a CPU its share of the machine's, where it stands for several devices."""
    if device.platform == "cpu":
        try:
            machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # Windows has no sysconf
            return 1 << 62
        return machine // jax.local_device_count()
    try:
        known = (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # a device of another process, or of a topology, can't be asked
        known = None
    return known or DEVICE_BYTES.get(device.device_kind, 1 << 62)


def _kind(network: Any) -> Kind:
    """Return the kind of a network that is split over a mesh."""
    if network.gather is None:
        return "split"
    specs = [spec for stack in network.stacks for spec in stack.gather.specs if spec is not None]
    return "split and gathered" if any(any(spec) for spec in specs) else "gathered"


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
