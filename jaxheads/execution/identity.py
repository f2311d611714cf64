"""Identity of a question: a hash of everything that its answer depends on, code, weights and settings included.

A directory for finished parts may serve many questions, over weeks, from scripts that change between two runs. So a
function counts by its code, defaults, closure and the globals it uses, not by its name; weights count as they are now,
not as they were loaded. Functions of installed packages count by their own code and the version of the package.
"""

import copyreg
import dataclasses
import functools
import hashlib
import inspect
import sys
import sysconfig
import weakref
from collections.abc import Iterable, Iterator, Mapping, Set
from importlib import metadata
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from ..models.model import Model
from ..models.sharding import fetch
from ..provenance import numerics, version


def identity_of(value: Any) -> str:
    """Return a hash (16 hex digits) of a value's content alone; raises as `fingerprint` does."""
    return _Hasher().of(value).hex()[:16]


def fingerprint(*values: Any) -> str:
    """Return a hash (16 hex digits) of values, with the versions and numeric settings that results depend on.

    Arrays, models, trees of them, words, functions and objects of any class may be given. An object with an attribute
    `identity`, a string, counts by it and by its class.

    Raises:
        TypeError: for an object whose content can't be read, such as a lock or an open file.
    """
    return identity_of((numerics(), values))


_PLAIN = (str, int, float, complex, bytes, bool, type(None), type(...), type(NotImplemented), range)
_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()


def content_sha256(name: str, *arrays: np.ndarray) -> str:
    """Return a hash (64 hex digits) of a name and of arrays' shapes, types and content."""
    return _sha256(name.encode(), *(part for array in arrays for part in _parts(array))).hex()


class _Hasher:
    """A walk through values. Objects are visited once: one that holds itself counts by the order of the visits."""

    def __init__(self) -> None:
        # The values are kept beside their hashes: another object must not get the address of one that is gone.
        self.visited: dict[int, tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        """Return the hash of one value."""
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            return _sha256(type(value).__name__.encode(), repr(value).encode())
        if id(value) in self.visited:
            return self.visited[id(value)][1]
        self.visited[id(value)] = value, f"visit {len(self.visited)}".encode()
        result = self._content(value)
        self.visited[id(value)] = value, result
        return result

    def each(self, kind: str, values: Iterable[Any]) -> bytes:
        """Return the hash of several values in their order; `kind` tells them from others with the same content."""
        return _sha256(kind.encode(), *map(self.of, values))

    def _content(self, value: Any) -> bytes:
        if isinstance(value, Tracer):
            raise TypeError("resume: a value that is being traced (jit, vmap, grad) has no content yet to know it by")
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, Model):
            return self.each("model", (value.config, value.network))
        own = None if isinstance(value, type) else inspect.getattr_static(value, "identity", None)
        if isinstance(own, str | property):
            return self.each("identity", (type(value), own if isinstance(own, str) else value.identity))
        if isinstance(value, Mapping):
            return self._unordered("mapping", value.items())
        if isinstance(value, Set):
            return self._unordered("set", value)
        if isinstance(value, list | tuple):
            return self.each(type(value).__qualname__, value)
        if isinstance(value, type | ModuleType | CodeType) or callable(value):
            return self._code(value)
        return self._instance(value)

    def _unordered(self, kind: str, values: Iterable[Any]) -> bytes:
        return _sha256(kind.encode(), *sorted(map(self.of, values)))

    def _array(self, value: jax.Array | np.ndarray | np.generic) -> bytes:
        if isinstance(value, jax.Array):
            return _of_array(value)
        if value.dtype == object:
            return self.each(f"objects {value.shape}", np.asarray(value).reshape(-1))
        return _sha256(*_parts(np.asarray(value)))

    def _code(self, value: Any) -> bytes:
        """Return the hash of code: of a function, a class, a module, or an object that can be called."""
        if isinstance(value, ModuleType):
            return self.each("module", (value.__name__, _package_version(value.__name__)))
        if isinstance(value, type):
            return self.each("class", self._class(value))
        if isinstance(value, CodeType):
            # Not the constants of docstrings' lines, file names and numbers of lines: they change no result.
            parts = value.co_code, value.co_names, value.co_varnames, value.co_consts, value.co_exceptiontable
            return self.each("code", parts)
        if isinstance(value, FunctionType):
            return self.each("function", self._function(value))
        if isinstance(value, MethodType):
            return self.each("method", (value.__func__, value.__self__))
        if isinstance(value, functools.partial):
            return self.each("partial", (value.func, value.args, value.keywords))
        if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None):
            return self.each("builtin", (value.__module__, value.__qualname__))
        if (wrapped := getattr(value, "__wrapped__", None)) is not None and not hasattr(value, "__dataclass_fields__"):
            return self.each("wrapper", (type(value), wrapped))
        return self._instance(value)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        yield function.__code__
        yield function.__defaults__
        yield function.__kwdefaults__
        yield [_cell(cell) for cell in function.__closure__ or ()]
        if _is_installed(function.__module__):
            yield function.__module__, function.__qualname__, _package_version(function.__module__)
            return
        names = set(_names(function.__code__))
        used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        for name, value in used.items():
            yield name, value
            if isinstance(value, ModuleType) and not _is_installed(value.__name__):
                yield {attribute: vars(value)[attribute] for attribute in sorted(names & vars(value).keys())}

    def _class(self, kind: type) -> Iterator[Any]:
        yield kind.__qualname__
        if _is_installed(kind.__module__):
            yield kind.__module__, _package_version(kind.__module__)
            return
        yield kind.__bases__
        for name, value in sorted(vars(kind).items()):
            inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            inner = value.func if isinstance(value, functools.cached_property) else inner
            # What Python and dataclasses write into a class follows from the rest of it.
            hidden = name.startswith("__") or name == "_abc_impl" or inspect.isdatadescriptor(value)
            if isinstance(inner, FunctionType) or not hidden:
                yield name, inner

    def _instance(self, value: Any) -> bytes:
        """Return the hash of an object by its class and content."""
        if isinstance(value, nnx.Variable):
            return self.each("variable", (type(value), value.get_value()))
        if isinstance(value, nnx.Pytree):
            fields = {name: field for name, field in vars(value).items() if not name.startswith("_pytree__")}
            return self.each("module", (type(value), fields))
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return self.each("dataclass", (type(value), fields))
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(
                f"resume: can't tell the content of a {kind}, so finished parts could answer another question. Give it "
                "(or the object that holds it) an attribute `identity`, a string that changes whenever its answers "
                "would, or leave resume= out"
            ) from error
        if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], Mapping):
            # What was computed once and kept is no content: it is there after the first use only.
            state = {name: field for name, field in reduced[2].items() if not _is_cached(type(value), name)}
            reduced = (*reduced[:2], state, *map(_listed, reduced[3:]))
        return self.each("object", (type(value), reduced))


def _sha256(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _parts(array: np.ndarray) -> tuple[bytes, bytes]:
    return f"{array.dtype}{array.shape}".encode(), np.ascontiguousarray(array).tobytes()


_KNOWN: dict[int, tuple[Any, bytes]] = {}


def _of_array(array: jax.Array) -> bytes:
    """Return the hash of an array of JAX, computed once: its content can't change, only which array a weight is."""
    number = id(array)
    if number not in _KNOWN:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data, kind = jax.random.key_data(array), str(jax.random.key_impl(array))
        else:
            data, kind = array, str(array.dtype)
        result = _sha256(kind.encode(), *_parts(fetch(data)))
        _KNOWN[number] = weakref.ref(array, lambda _: _KNOWN.pop(number, None)), result
    return _KNOWN[number][1]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code and the functions in it look up outside of themselves."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def _listed(items: Any) -> Any:
    # Pickling gives the items of lists and dicts as iterators.
    return items if items is None or callable(items) else list(items)


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module belongs to Python, to an installed package or to jaxheads: its version stands for its code."""
    name = (module or "builtins").partition(".")[0]
    if name in sys.stdlib_module_names or name == "jaxheads":
        return name != "__main__"
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    # Of any environment: one that shows the packages of another, a user's own folder, Debian's.
    if path.is_relative_to(_STDLIB) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    # `pip install --target`. What is installed as editable lies elsewhere than its metadata.
    owners = metadata.packages_distributions().get(name, ())
    folders = (Path(str(metadata.distribution(owner).locate_file(""))) for owner in owners)
    return any(path.is_relative_to(folder.resolve()) for folder in folders)


@functools.cache
def _package_version(module: str | None) -> str:
    name = (module or "builtins").partition(".")[0]
    if name in sys.stdlib_module_names:
        return sys.version
    return version(name) or str(getattr(sys.modules.get(name), "__version__", "unknown"))
