"""Compiled programs of a long-lived process: the least recently used are forgotten, so that memory stays flat.

JAX keeps a program for every shape that a function has met, for good: some hundred memory mappings and up to 34 MB
each. Linux allows a process 65,530 mappings, and one more ends it. So functions of whole batches are compiled by
`compiled` in place of `jax.jit`, which keeps at most `KEPT` programs over all of them; what JAX itself holds beside
(single operations on arrays of a new shape, traces) is cleared from time to time.
"""

import ctypes
import functools
import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, NamedSharding
from numpy.typing import ArrayLike

from .compile_cache import keep_by_default
from .emulation import RoundedProduct, with_product
from .precision import EMULATED_BITS, arithmetic_used, products

R = TypeVar("R")
T = TypeVar("T")

KEPT = 128
"""Programs that are kept, those used last."""

CLEARED_AFTER = 256
"""New programs after which everything that JAX holds is cleared."""

MAPPINGS_AFTER = 32
"""New programs after which the process's memory mappings are counted."""

logger = logging.getLogger(__name__)

REHEARSAL: ContextVar[Callable[["Compiled", tuple[Any, ...], dict[str, Any]], Any] | None]
REHEARSAL = ContextVar("rehearsal", default=None)
"""What is called in place of every program, by function, arguments and keywords; None where programs run."""

DEVICE: ContextVar[Any] = ContextVar("device", default=None)
"""The first of the devices that a rehearsal is for; None where programs run."""


_NO_VALUES = (
    "expected parameters with values, got shapes alone (jh.init(…, shapes_only=True)), which nothing can be computed "
    "with; plan the question (jh.plan) or rehearse it (jh.rehearse)"
)


def platform() -> str:
    """Return the platform that programs are made for: JAX's default one, or that of a rehearsal."""
    return jax.default_backend() if DEVICE.get() is None else DEVICE.get().platform


class Compiled(Generic[R]):
    """A function that compiles for each shape of its arguments; see `compiled`."""

    def __init__(self, function: Callable[..., R], options: dict[str, Any]):
        functools.update_wrapper(self, function)
        self.function, self.options = _entered(function), options
        self._inner: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        leaves = jax.tree.leaves((args, kwargs))
        rehearse = REHEARSAL.get()
        with products(), on_mesh(leaves):
            if rehearse is not None and not any(isinstance(leaf, Tracer) for leaf in leaves):
                return rehearse(self, args, kwargs)
            if any(isinstance(leaf, Tracer) for leaf in leaves):
                return self.inner(*args, **kwargs)
            if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
                raise ValueError(_NO_VALUES)
            return _PROGRAMS.of(self, (arithmetic_used(), *map(_kind, leaves)))(*args, **kwargs)

    @property
    def inner(self) -> Any:
        """The function for calls within other programs, which have no program of their own; one for each arithmetic."""
        # JAX keeps what it has traced by the precision that it knows, not by the arithmetic.
        arithmetic = arithmetic_used()
        if arithmetic not in self._inner:
            self._inner[arithmetic] = self.fresh()
        return self._inner[arithmetic]

    def fresh(self) -> Any:
        """Return a copy that JAX compiles for itself: with its last reference its programs go."""

        @functools.wraps(self.function)
        def copy(*args: Any, **kwargs: Any) -> Any:
            bits = EMULATED_BITS.get(arithmetic_used())
            function = self.function if bits is None else with_product(self.function, RoundedProduct(bits))
            return function(*args, **kwargs)

        return jax.jit(copy, **self.options)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Return what would be compiled, as `jax.jit(function).lower` does."""
        with products():
            return self.inner.lower(*args, **kwargs)

    def cache_size(self) -> int:
        """Return how many programs of this function are kept."""
        return sum(program._cache_size() for program in _PROGRAMS.kept_of(self))


def compiled(function: Callable[..., R], **options: Any) -> Compiled[R]:
    """Compile a function for each shape of its arguments, as `jax.jit` does, and keep only the programs used last.

    Its products of float32 are those of `precision.products`: full, unless the caller or the user says otherwise.

    Args:
        options: `jax.jit`'s, such as `static_argnames`.
    """
    return Compiled(function, options)


def to_device(values: ArrayLike, dtype: Any = None) -> jax.Array:
    """Return an array of JAX, on its default device; `jnp.asarray` would compile a program for every new shape."""
    if isinstance(values, jax.Array):
        return jnp.asarray(values, dtype)
    return jax.device_put(np.asarray(values, dtype))


def on_host(array: jax.Array | np.ndarray) -> np.ndarray | None:
    """Return an array's values; None where they can't be read: while tracing, or on other processes' devices.

    What NumPy computes of small arrays costs no program to compile.
    """
    if isinstance(array, Tracer) or not getattr(array, "is_fully_addressable", True):
        return None
    return np.asarray(array)


def take_examples(tree: T, examples: ArrayLike) -> T:
    """Return the entries at these indices of the first axis of each array of a tree."""

    indices: Any = examples

    def taken(array: Any) -> Any:
        known = None if isinstance(indices, Tracer) else on_host(array)
        return array[indices] if known is None else to_device(known[indices])

    return jax.tree.map(taken, tree)


@contextmanager
def on_mesh(leaves: Iterable[Any]) -> Iterator[None]:
    """Trace and run a program on the mesh of its arguments, whose axes it may then name."""
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)]
    # A program within another runs on the mesh of the outer one.
    placed = [] if any(isinstance(leaf, Tracer) for leaf in leaves) else [leaf.sharding for leaf in arrays]
    meshes = (sharding.mesh for sharding in placed if isinstance(sharding, NamedSharding))
    mesh = next((mesh for mesh in meshes if mesh.size > 1), None)
    if mesh is None:
        yield
        return
    # Without a kind of device: a rehearsal puts others in place of these.
    with jax.sharding.use_abstract_mesh(AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types)):
        yield


def _entered(function: Callable[..., R]) -> Callable[..., R]:
    """Return a function that takes each argument as a program uses it: networks have a method `within_program`."""

    @functools.wraps(function)
    def entered(*args: Any, **kwargs: Any) -> R:
        return function(*map(_used, args), **{name: _used(value) for name, value in kwargs.items()})

    return entered


def _used(argument: Any) -> Any:
    within = getattr(argument, "within_program", None)
    return argument if within is None else within()


def _kind(leaf: Any) -> Any:
    """Return what of an argument decides its program: shape and dtype of an array, or the argument itself."""
    if isinstance(leaf, jax.Array | np.ndarray):
        return leaf.shape, leaf.dtype
    # Numbers are traced: one program serves all values. All else is static: each user's function has its own.
    return type(leaf) if isinstance(leaf, int | float | complex) else leaf


class _Programs:
    """The kept programs of all functions, by function and shapes, the one used last at the end."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[Compiled, Any], Any] = OrderedDict()
        self.lock = threading.Lock()
        self.new = 0

    def of(self, function: Compiled, shapes: Any) -> Any:
        """Return a function's program for these shapes, made if there is none."""
        key = function, shapes
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
            self.new += 1
            keep_by_default()
            if self.new % MAPPINGS_AFTER == 0 and mappings() > _most_mappings() // 3:
                self._clear(f"{mappings():,} memory mappings")
            elif self.new > CLEARED_AFTER:
                self._clear(f"{CLEARED_AFTER} new shapes")
            program = self.kept[key] = function.fresh()
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
            return program

    def kept_of(self, function: Compiled) -> list[Any]:
        """Return all programs of one function."""
        with self.lock:
            return [program for (owner, _), program in self.kept.items() if owner is function]

    def _clear(self, why: str) -> None:
        if isinstance(jnp.add(0, 0), Tracer):
            return  # inside a user's own jit, whose trace still needs what JAX holds
        logger.info("compiled programs are cleared after %s; those still needed compile again", why)
        self.new = 0
        jax.clear_caches()
        gc.collect()
        _return_memory()


_PROGRAMS = _Programs()


def mappings() -> int:
    """Return the number of memory mappings of this process; 0 where the system does not tell."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


@functools.cache
def _most_mappings() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530


def _return_memory() -> None:
    """Give freed memory back to the system, where the C library can: it keeps what the compiler has used."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
