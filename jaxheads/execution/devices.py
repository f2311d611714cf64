"""Devices: which arrays of a question are split over which axis of a mesh.

The program stays the one that runs on a single device. Its inputs are put in place, and XLA splits the work to match:
examples over the mesh's axis "data", edited copies over "questions", positions over "context" (see `models.spreading`).
Each process of a distributed run makes the same calls with the same inputs, and every process can read every answer.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..models.gathering import marked, resting
from ..models.sharding import automatic, fetch, put
from .placement import Placement

AXES = ("data", "questions", "context", "model")


@dataclass(frozen=True)
class Devices:
    """The devices that a question's arrays go to; without a mesh, wherever JAX puts them."""

    mesh: Mesh | None = None

    @classmethod
    def of(cls, mesh: Mesh | None) -> "Devices":
        """Check a user's mesh; any of the axes "data", "questions", "context" and "model" may be missing.

        Raises:
            ValueError: for another axis, or devices that are not of JAX's default backend.
        """
        if mesh is None:
            return cls()
        if not isinstance(mesh, Mesh):
            raise ValueError(f"devices must be a jax.sharding.Mesh, got a {type(mesh).__name__}")
        if unknown := set(mesh.axis_names) - set(AXES):
            raise ValueError(f"a mesh's axes may be {', '.join(AXES)}; got {', '.join(sorted(unknown))}")
        platforms = {device.platform for device in mesh.devices.flat}
        if platforms != {jax.devices()[0].platform}:
            raise ValueError(
                f"the mesh is made of {', '.join(sorted(platforms))} devices, but JAX computes on "
                f"{jax.devices()[0].platform}; make it of jax.devices(), or choose by JAX_PLATFORMS"
            )
        return cls(automatic(mesh))

    @property
    def multiples(self) -> tuple[int, int]:
        """The numbers that counts of examples and of edited copies must be multiples of."""
        return self._size("data"), self._size("questions")

    def examples(self, tree: Any, axis: int = 0) -> Any:
        """Split arrays with an axis of examples over "data"; the mesh's other axes hold copies."""
        return self._split(tree, "data", axis)

    def copies(self, tree: Any) -> Any:
        """Split arrays with a leading axis of edited copies over "questions"."""
        return self._split(tree, "questions", 0)

    def everywhere(self, tree: Any) -> Any:
        """Put arrays whole on every device."""
        return tree if self.mesh is None else self._put(tree, P())

    def network(self, network: Any, activations: int = 0) -> Any:
        """Return a network as `jaxheads.shard` split it over this very mesh, else placed as the sizes have it.

        Args:
            activations: bytes that a chunk of work takes on each device; see `Placement`.

        Raises:
            ValueError: for one that is split over another mesh.
        """
        if self.mesh is None:
            return network
        meshes = {leaf.sharding.mesh for leaf in jax.tree.leaves(network) if isinstance(leaf.sharding, NamedSharding)}
        if not meshes and Placement.of(network, self.mesh, activations).kind == "gathered":
            network = jax.tree.map(put, network, resting(network, self.mesh))
            return marked(network, self.mesh, self.mesh.axis_names)
        if not meshes:
            return self.everywhere(network)
        if meshes != {self.mesh}:
            raise ValueError(
                f"the model is split over {meshes.pop()}, the sweep over {self.mesh}: give both the same mesh"
            )
        return network

    def fetch(self, array: Array) -> np.ndarray:
        """Return a whole array on every process; where there are several processes, all of them must ask for it."""
        return fetch(array)

    def _size(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape.get(axis, 1)

    def _split(self, tree: Any, name: str, axis: int) -> Any:
        if self.mesh is None:
            return tree
        count = self._size(name)
        for leaf in jax.tree.leaves(tree):
            if leaf.shape[axis] % count:
                raise ValueError(f"{leaf.shape[axis]} can't be split evenly over the mesh's {count} of {name!r}")
        return self._put(tree, P(*(None,) * axis, name) if name in self.mesh.axis_names else P())

    def _put(self, tree: Any, spec: P) -> Any:
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda leaf: put(leaf, sharding), tree)
