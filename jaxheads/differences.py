"""Edited runs as differences from the unedited run: bfloat16 products at almost float32's accuracy.

A product with a weight is linear, `W x' = W x + W (x' - x)`. Edited copies share `W x`, of the unedited run, which is
computed in float32, once for all copies. `W (x' - x)` alone is each copy's own: its factors are rounded to bfloat16 and
their products summed in float32. So the rounding is relative to what an edit changes, not to the whole value, whose
rounding is what hides small effects in half precision. All else (norms, softmax, activations) is computed of whole
values in float32.

No model knows of this. `paired` traces a function and computes every operation twice, for the unedited and the edited
values, where an edit reaches it, and once where none does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Primitive, Var

from .precision import DIFFERENCE_TERMS, arithmetic_used


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """A value that an edit reaches, in the unedited and in the edited run."""

    unedited: Any
    edited: Any


Value = Any
"""An array that no edit reaches, or a `Pair`."""

Multiply = Callable[..., Array]
"""The product of two arrays; with `low=True`, of two arrays of bfloat16, summed in float32."""


class Product(Protocol):
    """A way to compute products.

    Attributes:
        everywhere: whether it also computes products that no edit reaches.
        in_loops: the product that is used within loops and branches, which may be traced more than once.
    """

    everywhere: bool

    @property
    def in_loops(self) -> "Product":
        """Return the product within loops and branches."""
        ...

    def __call__(self, multiply: Multiply, left: Value, right: Value, /) -> Value:
        """Return the product of two values."""
        ...


@dataclass(frozen=True)
class DifferenceProduct:
    """The product as the unedited run's plus that of the differences.

    Attributes:
        terms: numbers of bfloat16 that a factor is the sum of. With 1 the difference of a product has a relative error
            of some 2^-9 (less in sums of many), with 2 of some 2^-16, at the cost of three products.
    """

    terms: int = 1
    everywhere = False

    @property
    def in_loops(self) -> Product:
        """Return the product itself."""
        return self

    def __call__(self, multiply: Multiply, left: Value, right: Value, /) -> Value:
        """Return the product of two values, at least one of them a pair; `x' k' = x k + (x' - x) k' + x (k' - k)`."""
        return self.beside(multiply(of_unedited(left), of_unedited(right)), multiply, left, right)

    def beside(self, unedited: Array, multiply: Multiply, left: Value, right: Value) -> Pair:
        """Return the product of two values whose product in the unedited run is known."""
        changes = []
        if isinstance(left, Pair):
            changes.append(self._low(multiply, left.edited - left.unedited, of_edited(right)))
        if isinstance(right, Pair):
            changes.append(self._low(multiply, of_unedited(left), right.edited - right.unedited))
        return Pair(unedited, sum(changes, unedited))

    def _low(self, multiply: Multiply, left: Array, right: Array) -> Array:
        left_terms, right_terms = self._split(left), self._split(right)
        products = [
            multiply(own, other, low=True)
            for first, own in enumerate(left_terms)
            # Products of two small terms are below the error of those that are kept.
            for other in right_terms[: self.terms - first]
        ]
        return sum(products[1:], products[0])

    def _split(self, x: Array) -> list[Array]:
        """Return the terms of an array, the largest first."""
        parts = []
        for _ in range(self.terms - 1):
            # XLA may drop a conversion there and back; it keeps `reduce_precision`.
            part = rounded(x, BFLOAT16_BITS)
            parts.append(part.astype(jnp.bfloat16))
            x = x - part
        return [*parts, x.astype(jnp.bfloat16)]


BFLOAT16_BITS = 7
"""Bits of a bfloat16's mantissa."""


@dataclass(frozen=True)
class AnchoredProduct:
    """A product of differences that is given the unedited run's products with weights, one after the other.

    Attributes:
        product: of differences, which computes all others.
        anchors: products that are `is_anchored`, in the order in which they are computed.
        leading: first two axes of such a product.
    """

    product: DifferenceProduct
    anchors: Iterator[Array]
    leading: tuple[int, ...]
    everywhere = False

    @property
    def in_loops(self) -> Product:
        """Return the product without anchors, which are of each product once."""
        return self.product

    def __call__(self, multiply: Multiply, left: Value, right: Value, /) -> Value:
        """Return the product of two values, at least one of them a pair."""
        if not is_anchored(multiply, left, right, self.leading):
            return self.product(multiply, left, right)
        return self.product.beside(next(self.anchors), multiply, left, right)


def is_anchored(multiply: Multiply, left: Value, right: Value, leading: tuple[int, ...]) -> bool:
    """Return whether a product is one of positions with a weight: one factor is a pair, and it has these first axes."""
    if isinstance(left, Pair) and isinstance(right, Pair):
        return False
    return jax.eval_shape(multiply, of_unedited(left), of_unedited(right)).shape[: len(leading)] == leading


def rounded(x: Array, bits: int) -> Array:
    """Return an array of float32 whose mantissas are rounded to this number of bits."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)


def paired(function: Callable[[Any], Any], product: Product = DifferenceProduct()) -> Callable[[Any, Any], Any]:
    """Return a function of an unedited and an edited argument, which returns `function` of the edited one.

    The result is that of `function`, but for the rounding of `product`. Under `vmap` over edited arguments whatever
    depends on the unedited one alone is computed once. A loop whose number of steps an edit changes, and a branch that
    it chooses, are computed whole for both arguments. Where the unedited value isn't finite, the edited one isn't.
    """

    def run(unedited: Any, edited: Any) -> Any:
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(edited)
        leaves = map(Pair, jax.tree.leaves(unedited), jax.tree.leaves(edited))
        out = evaluate(jaxpr.jaxpr, jaxpr.consts, list(leaves), product)
        return jax.tree.unflatten(jax.tree.structure(shapes), [of_edited(value) for value in out])

    return run


def as_differences(function: Callable[[Any], Any], unedited: Any) -> Callable[[Any], Any]:
    """Return the function, with the arithmetic that was asked for: by differences from its value for `unedited`."""
    terms = DIFFERENCE_TERMS.get(arithmetic_used())
    return function if terms is None else partial(paired(function, DifferenceProduct(terms)), unedited)


def of_unedited(value: Value) -> Array:
    """Return a value as the unedited run has it."""
    return value.unedited if isinstance(value, Pair) else value


def of_edited(value: Value) -> Array:
    """Return a value as the edited run has it."""
    return value.edited if isinstance(value, Pair) else value


def evaluate(jaxpr: Jaxpr, consts: Sequence[Value], args: Sequence[Value], product: Product) -> list[Value]:
    """Return the results of a jaxpr."""
    known: dict[Var, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))

    def read(variable: Any) -> Value:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(variable) for variable in equation.invars], product)
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: JaxprEqn, args: list[Value], product: Product) -> list[Value]:
    """Return the results of one equation."""
    name = equation.primitive.name
    if not product.everywhere and not any(isinstance(arg, Pair) for arg in args):
        return _bind(equation, args)
    if equation.primitive is ANCHORED:
        return _anchored(equation, args, product)
    if name in _PRODUCTS and _multiplies(equation, args):
        return [product(partial(_multiply, equation, args[2:]), *args[:2])]
    if name in _CALLS and (rule := _RULES.get(equation.params.get("name", ""))) and isinstance(args[0], Pair):
        return rule(args[0])
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
        return evaluate(jaxpr, consts, args, product)
    if name in _CONTROL:
        results = _CONTROL[name](equation, args, product.in_loops)
        if results is not None:
            return results
    return _each_side(equation, args)


def _each_side(equation: JaxprEqn, args: list[Value]) -> list[Value]:
    """Return the results for the unedited and the edited arguments, each computed whole."""
    unedited = _bind(equation, [of_unedited(arg) for arg in args])
    if not any(isinstance(arg, Pair) for arg in args):
        return unedited
    return list(map(Pair, unedited, _bind(equation, [of_edited(arg) for arg in args])))


def _bind(equation: JaxprEqn, args: Sequence[Array]) -> list[Array]:
    # The context is that of the equation's trace: the mesh, the precision of products that it leaves open.
    with equation.ctx.manager:
        results = equation.primitive.bind(*args, **equation.primitive.get_bind_params(equation.params))
    return results if equation.primitive.multiple_results else [results]


ANCHORED = Primitive("anchored")
"""A function within a paired one, with the products of its unedited run; see `anchors.anchored`."""

ANCHORED.multiple_results = True
ANCHORED.def_abstract_eval(lambda *_, jaxpr, anchors: [variable.aval for variable in jaxpr.outvars])


def _anchored(equation: JaxprEqn, args: list[Value], product: Product) -> list[Value]:
    jaxpr, count = equation.params["jaxpr"], equation.params["anchors"]
    assert isinstance(product, DifferenceProduct), "anchors are made for differences alone"
    end = count + len(jaxpr.constvars)
    inputs = [arg if isinstance(arg, Pair) else Pair(arg, arg) for arg in args[end:]]
    leading = inputs[0].unedited.shape[:2]
    return evaluate(jaxpr, args[count:end], inputs, AnchoredProduct(product, iter(args[:count]), leading))


_RULES: dict[str, Callable[[Pair], list[Value]]] = {}
"""Functions of one array that have a shorter way to the edited value beside the unedited one, by name."""


def of_pairs(rule: Callable[[Array, Array], Any]) -> Callable[[Callable[[Array], Any]], Callable[[Array], Any]]:
    """Have a function of one array computed by a rule where an edit reaches it.

    Args:
        rule: function of the unedited and the edited array that returns both values, in two tuples.
    """

    def decorate(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        def called(x: Array) -> Any:
            return function(x)

        called.__name__ = f"{function.__module__}.{function.__qualname__}"
        _RULES[called.__name__] = lambda pair: list(map(Pair, *rule(pair.unedited, pair.edited)))
        return jax.jit(called)

    return decorate


_PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
"""Primitives that are linear in each of their first two arguments."""

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that only call a function, and the parameter that holds it."""


def _multiplies(equation: JaxprEqn, args: Sequence[Value]) -> bool:
    """Return whether this is a product of float32 whose other arguments (sizes of groups) no edit reaches."""
    avals: list[Any] = [variable.aval for variable in (*equation.invars[:2], *equation.outvars)]
    types = {aval.dtype for aval in avals}
    return types == {jnp.dtype(jnp.float32)} and not any(isinstance(arg, Pair) for arg in args[2:])


def _multiply(equation: JaxprEqn, others: Sequence[Array], left: Array, right: Array, *, low: bool = False) -> Array:
    params = dict(equation.params)
    if low:
        params |= {"precision": None, "preferred_element_type": jnp.dtype(jnp.float32)}
    with equation.ctx.manager:
        return equation.primitive.bind(left, right, *others, **params)


def _scan(equation: JaxprEqn, args: list[Value], product: Product) -> list[Value]:
    own = equation.params
    jaxpr, after_consts = own["jaxpr"], own["num_consts"] + own["num_carry"]
    consts, init, inputs = args[: own["num_consts"]], args[own["num_consts"] : after_consts], args[after_consts:]

    def step(carry: list[Value], inputs: list[Value]) -> tuple[list[Value], list[Value]]:
        results = evaluate(jaxpr.jaxpr, jaxpr.consts, [*consts, *carry, *inputs], product)
        return results[: len(init)], results[len(init) :]

    first = jax.tree.map(lambda x: x[-1 if own["reverse"] else 0], inputs) if own["length"] else inputs
    init = _as_carried(lambda carry: step(carry, first)[0], init)

    def alike_step(carry: list[Value], inputs: list[Value]) -> tuple[list[Value], list[Value]]:
        carry_out, out = step(carry, inputs)
        return _alike(carry_out, carry), out

    settings = {name: own[name] for name in ("length", "reverse", "unroll")}
    carry, out = jax.lax.scan(alike_step, init, inputs, **settings)
    return [*carry, *out]


def _while(equation: JaxprEqn, args: list[Value], product: Product) -> list[Value] | None:
    own = equation.params
    of_condition, of_body = own["cond_nconsts"], own["cond_nconsts"] + own["body_nconsts"]
    condition, body = own["cond_jaxpr"], own["body_jaxpr"]

    def goes_on(carry: list[Value]) -> Value:
        return evaluate(condition.jaxpr, condition.consts, [*args[:of_condition], *carry], product)[0]

    def step(carry: list[Value]) -> list[Value]:
        return evaluate(body.jaxpr, body.consts, [*args[of_condition:of_body], *carry], product)

    init = _as_carried(step, args[of_body:])
    if isinstance(jax.eval_shape(goes_on, init), Pair):
        return None
    return jax.lax.while_loop(goes_on, lambda carry: _alike(step(carry), carry), init)


def _branches(equation: JaxprEqn, args: list[Value], product: Product) -> list[Value] | None:
    index, *operands = args
    if isinstance(index, Pair):
        return None

    def branch(jaxpr: Any) -> Callable[[list[Value]], list[Value]]:
        return lambda operands: evaluate(jaxpr.jaxpr, jaxpr.consts, operands, product)

    branches = [branch(jaxpr) for jaxpr in equation.params["branches"]]
    shapes = [jax.eval_shape(own, operands) for own in branches]
    # A result that an edit reaches in one branch is a pair in all of them.
    shared = [next((x for x in results if isinstance(x, Pair)), results[0]) for results in zip(*shapes, strict=True)]
    alike = [lambda operands, own=own: _alike(own(operands), shared) for own in branches]
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return jax.lax.switch(index, alike, operands)
    # Of a platform's own branches only that one is compiled: another platform may have no compiler for it.
    of = {platform: own for names, own in zip(platforms, alike, strict=True) for platform in names or ("default",)}
    return jax.lax.platform_dependent(operands, **of)


_CONTROL: dict[str, Callable[[JaxprEqn, list[Value], Product], list[Value] | None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _branches,
}
"""Primitives that hold other functions; each returns None where an edit decides what runs."""


def _as_carried(step: Callable[[list[Value]], list[Value]], carry: list[Value]) -> list[Value]:
    """Return what a loop carries at first, with a pair wherever a step returns one."""
    while True:
        widened = _alike(carry, jax.eval_shape(step, carry))
        if jax.tree.structure(widened) == jax.tree.structure(carry):
            return widened
        carry = widened


def _alike(values: Sequence[Value], like: Sequence[Value]) -> list[Value]:
    """Return the values, those as pairs that are pairs in `like`."""
    return [
        Pair(value, value) if isinstance(other, Pair) and not isinstance(value, Pair) else value
        for value, other in zip(values, like, strict=True)
    ]
