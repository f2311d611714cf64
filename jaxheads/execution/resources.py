"""Resources: what a question may use and leave behind, and the options by which a user says so.

`Options` lists the keywords that every question shares, for type checkers and editors. `shares_options` writes them,
from `OPTIONS`, into the signature and the docstring that `help()` shows: they are documented here alone.
"""

import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from ..arguments import check_kind, checked, settled
from ..checks import nearest, seed
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network
from ..precision import DIFFERENCE_TERMS, Arithmetic, arithmetic_used, available, products
from ..programs import platform
from ..statistics import check_level
from .asked import asking, parts_of
from .devices import Devices
from .identity import fingerprint
from .journal import Journal
from .placement import Placement

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_MEMORY = 1 << 30

OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "stack": (str | None, None, "the name of the stack whose heads are asked about; the only stack when left out."),
    "level": (float, 0.95, "the confidence level of the intervals over examples, between 0 and 1."),
    "clusters": (
        ArrayLike | None,
        None,
        "labels `[E]` of examples that depend on each other (one document, one template); intervals are then over "
        "clusters. The batches of a stream bring their own as the field `clusters`.",
    ),
    "seed": (int, 0, "the seed of everything drawn at random: donors, splits."),
    "memory": (int, DEFAULT_MEMORY, "bytes for the activations of one chunk of work, on each device."),
    "devices": (
        jax.sharding.Mesh | None,
        None,
        'a mesh to spread the work over: examples over its axis "data", edited copies over "questions", positions of '
        'long texts over "context", weights over "model" (see `jaxheads.shard`); JAX\'s default device when left out. '
        "A model too large for one device rests in shares on all of them, and each layer is gathered when it runs.",
    ),
    "arithmetic": (
        Arithmetic | None,
        None,
        'of products of float32: "full" computes them in float32 on every platform; "fast" as JAX does by default, on '
        'a TPU with factors rounded to bfloat16; "differences", for sweeps that run edited copies, the unedited run '
        "in full and what edits change with bfloat16 factors (errors of effects below 1 %, wherever factors of "
        'bfloat16 are fast); "fine differences" with two numbers of bfloat16 a factor (errors near 1e-5). Weights of '
        "16 bits are then held in float32. Differences are full where nothing is edited, and on a CPU without "
        'products of bfloat16. "emulated bfloat16" and "emulated tf32" round factors as "fast" does on a TPU or GPU, '
        'to see its errors. "full" when left out, unless `jax_default_matmul_precision` is set.',
    ),
    "progress": (
        bool | None,
        None,
        "whether a bar is shown on a terminal or in a notebook, and lines in a log (logger `jaxheads`): one at the "
        "start, one a minute, one at the end. Left out, what takes longer than some seconds is shown.",
    ),
    "resume": (
        str | os.PathLike | None,
        None,
        "a directory for finished parts (parquet): a later call with the same question goes on from them. A question "
        "is known by its inputs, the weights as they are, the code and closures of what it calls, versions and numeric "
        "settings. An object whose content can't be read, such as an open file, needs an attribute `identity`.",
    ),
}
"""The shared options by name: type, default, and what `help()` says."""


class Options(TypedDict, total=False):
    """The keywords that every question shares; `OPTIONS` explains them."""

    stack: str | None
    level: float
    clusters: ArrayLike | None
    seed: int
    memory: int
    devices: jax.sharding.Mesh | None
    arithmetic: Arithmetic | None
    progress: bool | None
    resume: str | os.PathLike | None


@dataclass(frozen=True)
class Resources:
    """Memory, devices, progress and the journal's directory as one value.

    Attributes:
        memory: bytes for the activations of one chunk of work, on each device.
        devices: where arrays go.
        progress: whether a bar is shown; None for what takes long.
        resume: where finished parts are kept; None for nowhere.
    """

    memory: int = DEFAULT_MEMORY
    devices: Devices = field(default_factory=Devices)
    progress: bool | None = None
    resume: str | os.PathLike | None = None
    _networks: dict[int, Network] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, options: Options) -> "Resources":
        """Read and check what a user asked for; raises ValueError for a level, memory or mesh that can't be."""
        for name, check in _RULES.items():
            if name in options:
                check(options[name])
        devices = Devices.of(options.get("devices"))
        memory = int(options.get("memory", DEFAULT_MEMORY))
        return cls(memory, devices, options.get("progress"), options.get("resume"))

    def network(self, model: Model) -> Network:
        """Return the model's network on the devices, put there once; for differences in float32."""
        if id(model) not in self._networks:
            network = self.devices.network(model.network, self.memory)
            # All but the products of differences is computed in float32, whatever the weights are stored in.
            self._networks[id(model)] = _widened(network) if arithmetic_used() in DIFFERENCE_TERMS else network
        return self._networks[id(model)]

    def placement(self, model: Model) -> Placement:
        """Return where the model's weights are while a question runs."""
        return Placement.of(model.network, self.devices.mesh, self.memory)

    def journal(self, name: str, model: Model, *identity: Any) -> Journal:
        """Return the journal of one question: `identity` holds all that its answer depends on beside the model.

        Raises:
            TypeError: for something whose content can't be read, if parts are to be kept.
        """
        if self.resume is None:
            return Journal(None)
        question = fingerprint(model, *identity)
        return Journal(parts_of(Path(self.resume).expanduser(), name, question, model), question)


def shares_options(*, without: Iterable[str] = (), copies: bool = False) -> Callable[[F], F]:
    """Return a decorator that writes the shared options into a function's signature and docstring.

    The function ends in `**options: Unpack[Options]`; among its arguments its docstring has `options: shared by
    all questions: …`, which gives way to the options themselves.

    Args:
        without: options that the function does not take: it refuses them, like unknown ones, with a TypeError. A
            function without a level has no intervals, and takes no clusters.
        copies: whether the function runs edited copies, which alone can be computed as differences.
    """
    without = {*without, *(["clusters"] if "level" in without else [])}
    names = [name for name in OPTIONS if name not in without]

    def decorate(function: F) -> F:
        own = checked()(function)

        @functools.wraps(own)
        def sharing(*arguments: Any, **named: Any) -> Any:
            check_options(sharing, named)
            arguments, named = with_clusters(own, *settled(own, arguments, named))
            asked = asking(own.__name__, bound_arguments(own, arguments, named))
            with asked, products(available(named.get("arithmetic"), platform(), copies=copies)):
                return own(*arguments, **named)

        document(sharing, names)
        return sharing  # type: ignore[return-value]  # the same signature

    return decorate


def check_options(function: Any, named: Mapping[str, Any]) -> None:
    """Check the shared options among a function's keywords.

    Raises:
        TypeError: for a keyword that the function does not take, which `**options` would let through.
        ValueError: for an option that is not of its kind, or not in its range.
    """
    known = function.__signature__.parameters
    for name, value in named.items():
        if name not in known:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{nearest(name, known)}")
        if name not in OPTIONS:
            continue
        check_kind(name, value, OPTIONS[name][0])
        _RULES.get(name, lambda _: None)(value)


def _widened(network: Network) -> Network:
    """Return a network whose weights of 16 bits are float32."""

    def wide(leaf: Any) -> Any:
        if leaf.dtype not in (jnp.bfloat16, jnp.float16):
            return leaf
        # A rehearsal has shapes in place of arrays.
        return leaf.astype(jnp.float32) if isinstance(leaf, jax.Array) else leaf.update(dtype=jnp.float32)

    return jax.tree.map(wide, network)


def _check_memory(memory: int) -> None:
    if memory < 1:
        raise ValueError(f"memory must be a positive number of bytes, got {memory}")


def _check_resume(directory: str | os.PathLike | None) -> None:
    if directory is not None and Path(directory).expanduser().exists() and not Path(directory).expanduser().is_dir():
        raise ValueError(f"resume must be a directory, which may not exist yet; {os.fspath(directory)} is a file")


_RULES: Mapping[str, Callable[[Any], object]] = {
    "level": check_level,
    "seed": lambda value: seed("seed", value),
    "memory": _check_memory,
    "devices": Devices.of,
    "resume": _check_resume,
}


def with_clusters(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the labels `clusters` from the arguments of a question to its batch, the second argument.

    Raises:
        ValueError: for labels that don't fit the batch, or labels beside a stream.
    """
    named = dict(named)
    labels = named.pop("clusters", None)
    if labels is None:
        return arguments, named
    bound = inspect.signature(function).bind(*arguments, **named)
    name = list(bound.arguments)[1]
    batch = bound.arguments[name]
    if not isinstance(batch, Batch):
        raise ValueError("clusters: expected a single batch beside them; the batches of a stream bring their own field")
    bound.arguments[name] = batch.clustered(labels)
    return bound.args, bound.kwargs


def bound_arguments(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name; positional ones that the function does not have are left out."""
    bound = inspect.signature(function).bind_partial(*arguments, **named).arguments
    options = bound.pop("options", {})
    return {**bound, **(options if isinstance(options, dict) else {})}


def document(function: Any, names: Iterable[str] = tuple(OPTIONS), *, returns: Any = None) -> None:
    """Write these options into a function's `__signature__` and `__doc__`, in place of `**options`.

    Args:
        returns: the type that the signature gives as the answer's, if not the function's own.
    """
    names = list(names)
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=OPTIONS[name][1], annotation=OPTIONS[name][0])
        for name in names
        if name not in signature.parameters
    ]
    answer = signature.return_annotation if returns is None else returns
    function.__signature__ = signature.replace(parameters=[*own, *shared], return_annotation=answer)
    text = inspect.getdoc(function) or ""
    entry = re.search(r"^( *)options: shared by all questions.*$", text, re.MULTILINE)
    if entry is not None:
        wrap = functools.partial(
            textwrap.fill, width=112, initial_indent=entry[1], subsequent_indent=entry[1] + 4 * " "
        )
        lines = [wrap(f"{name}: {OPTIONS[name][2]}") for name in names]
        function.__doc__ = text[: entry.start()] + "\n".join(lines) + text[entry.end() :]
