"""Rules of layer-wise relevance propagation, as derivatives of the model's own operations.

A rule distributes the relevance of an operation's output over its inputs. With the relevance of a value defined as the
value times its cotangent, R(x) = x · ∂, a rule is a derivative other than the true one, and propagation is a gradient
through a copy of the network with these derivatives: `with_rules` makes the copy, `RuledEdit` has the rules of
attention, as edits at its sites. No value of the network changes.

| rule | operation | derivative |
|---|---|---|
| ε | `y = x W + b` | that of y, times y / (y + ε sign y); the true one at ε = 0 |
| αβ | `y = x W + b` | positive and negative terms `x_i W_ij` share α and 1 − α of the relevance, each in proportion |
| uniform | a product of two activations | half of the true one, for each: each gets half of the relevance |
| identity | an activation, a norm | y / x: relevance passes through elementwise |

Sources: Bach et al. 2015 (ε, αβ); Achtibat et al. 2024 (AttnLRP, arXiv 2402.05602: uniform, identity); Ali et al. 2022
(CP-LRP: attention weights and the spread of a norm as constants). AttnLRP's own code, `lxt.efficient`, takes the spread
of norms as constant, too.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...arguments import checked
from ...models.experts import RoutedMLP
from ...models.layers import Attention, GatedMLP, OffsetRMSNorm, UnitNorm, affine

NetworkT = TypeVar("NetworkT", bound=nnx.Module)


@checked()
@dataclass(frozen=True)
class Rules:
    """Choice of the propagation rule for each kind of operation.

    Attributes:
        linear: "epsilon", or "alpha_beta", which also distributes the bias's share over the inputs.
        epsilon: of the ε rule. At 0 the true derivative is used: no division needs ε to keep it from 0.
        alpha: of the αβ rule, in which α + β = 1 and both parts count as positive: 1 is the z⁺ rule.
        norm: "linear" takes a norm's spread as constant: centring and scaling are then linear, and a norm's bias keeps
            its share. "identity" passes relevance elementwise, which is large and of both signs where a LayerNorm
            amplifies an input near 0.
        softmax: "gradient" is x · ∂ (Achtibat et al., Proposition 3.1: it does not conserve, a bias takes the rest);
            "constant" takes attention weights as constants (CP-LRP); "identity" passes relevance to the scores.
        gate: of a gated MLP, and of the weights of experts: "uniform" halves, or "constant": all to what is gated
            (CP-LRP's code).
        start: the relevance of each logit that is read starts at its "value" times its share in the objective, or at
            this share ("one": Chefer et al. 2021).
    """

    linear: Literal["epsilon", "alpha_beta"] = "epsilon"
    epsilon: float = 0.0
    alpha: float = 1.0
    norm: Literal["linear", "identity"] = "linear"
    softmax: Literal["gradient", "constant", "identity"] = "gradient"
    gate: Literal["uniform", "constant"] = "uniform"
    start: Literal["value", "one"] = "value"

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.alpha < 0:
            raise ValueError(f"epsilon and alpha must be 0 or more, got {self.epsilon} and {self.alpha}")

    @property
    def plain_linear(self) -> bool:
        """Whether linear maps keep their true derivative."""
        return self.linear == "epsilon" and self.epsilon == 0

    @property
    def divides_by_small_numbers(self) -> bool:
        """Whether a rule divides by numbers of either sign that may be near 0, without a numerator that is, too.

        These are the identity rule at a norm (its input) and at the softmax (the scores), and a logit with relevance 1
        under plain linear maps. Relevance then has large terms of both signs that nearly cancel, and rounding in
        float32 shows in the third digit; propagation by such rules is computed in float64. The other quotients are
        bounded: an activation is 0 where its input is, ε keeps its denominator from 0, and terms of one sign only add.
        """
        return "identity" in (self.norm, self.softmax) or (self.start == "one" and self.linear == "epsilon")


ATTNLRP = Rules()
CPLRP = Rules(softmax="constant", gate="constant")
CHEFER = Rules(linear="alpha_beta", alpha=1.0, norm="identity", softmax="identity", start="one")
HALVES = Rules(linear="alpha_beta", alpha=0.5)


@jax.custom_vjp
def uniform_rule(x: Array) -> Array:
    """Return an operand of a product; its cotangent is halved."""
    return x


uniform_rule.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent / 2,))


@jax.custom_vjp
def identity_rule(x: Array, y: Array) -> Array:
    """Return `y`, an elementwise function of `x`; its relevance passes to x, and is lost where x is 0."""
    del x
    return y


def _identity_forward(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return y, (x, y)


def _identity_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, y = saved
    return _divide(cotangent * y, x), jnp.zeros_like(y)


identity_rule.defvjp(_identity_forward, _identity_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def epsilon_rule(epsilon: float, y: Array) -> Array:
    """Return the result of a linear map; `ε / (|y| + ε)` of its relevance is dropped."""
    del epsilon
    return y


def _epsilon_backward(epsilon: float, y: Array, cotangent: Array) -> tuple[Array]:
    size = jnp.abs(y)
    return (cotangent * (size / (size + epsilon)),)


epsilon_rule.defvjp(lambda _, y: (y, y), _epsilon_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def alpha_beta_rule(alpha: float, subscripts: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """Apply `affine` with the αβ rule; where an output has no terms of one sign, that sign's relevance is lost."""
    del alpha
    return affine(subscripts, x, weight, bias)


def _alpha_beta_forward(alpha: float, subscripts: str, x: Array, weight: Array, bias: Array | None):
    y = alpha_beta_rule(alpha, subscripts, x, weight, bias)
    return y, (x, weight, bias, y)


def _alpha_beta_backward(
    alpha: float, subscripts: str, saved: Any, cotangent: Array
) -> tuple[Array, Array, Array | None]:
    x, weight, bias, y = saved
    positive, negative = jnp.maximum(weight, 0), jnp.minimum(weight, 0)

    def product(x: Array, weight: Array) -> Array:
        return jnp.einsum(subscripts, x, weight)

    def pull_back(weights: tuple[Array, Array], share: float) -> Array:
        """Return x's cotangent for a share of the relevance; weights are those of x above 0 and of x below 0."""
        above, pull_above = jax.vjp(partial(product, weight=weights[0]), jnp.maximum(x, 0))
        below, pull_below = jax.vjp(partial(product, weight=weights[1]), jnp.minimum(x, 0))
        proportion = _divide(share * cotangent * y, above + below)
        return jnp.where(x > 0, pull_above(proportion)[0], pull_below(proportion)[0])

    # positive terms x W have factors of equal sign, negative terms factors of opposite sign
    x_cotangent = pull_back((positive, negative), alpha)
    if alpha != 1:
        x_cotangent = x_cotangent + pull_back((negative, positive), 1 - alpha)
    return x_cotangent, jnp.zeros_like(weight), None if bias is None else jnp.zeros_like(bias)


alpha_beta_rule.defvjp(_alpha_beta_forward, _alpha_beta_backward)


@jax.custom_vjp
def from_one(y: Array) -> Array:
    """Return a logit; its relevance is its cotangent, without its value."""
    return y


from_one.defvjp(lambda y: (y, y), lambda y, cotangent: (_divide(cotangent, y),))


def ruled_affine(rules: Rules, subscripts: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """Apply `affine` with the rule for linear maps."""
    if rules.linear == "alpha_beta":
        return alpha_beta_rule(rules.alpha, subscripts, x, weight, bias)
    y = affine(subscripts, x, weight, bias)
    return epsilon_rule(rules.epsilon, y) if rules.epsilon else y


def _divide(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0."""
    return jnp.where(b == 0, jnp.zeros_like(a), a / jnp.where(b == 0, jnp.ones_like(b), b))


class RuledNorm(nnx.Module):
    """A norm with its propagation rule."""

    def __init__(self, norm: Any, rule: str):
        self.norm, self.rule = norm, rule

    def __call__(self, x: Array) -> Array:
        y = self.norm(jax.lax.stop_gradient(x))
        if self.rule == "identity":
            return identity_rule(x, y)
        linear = self._linear(x.astype(jnp.float32)).astype(y.dtype)
        return linear + jax.lax.stop_gradient(y - linear)

    def _linear(self, x: Array) -> Array:
        """Apply the norm in float32 with its spread as a constant."""
        norm = self.norm
        if isinstance(norm, nnx.LayerNorm):
            x = x - x.mean(axis=-1, keepdims=True)
        if isinstance(norm, UnitNorm):
            return x * jax.lax.stop_gradient(jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True)))
        spread = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + norm.epsilon)
        x = x * jax.lax.stop_gradient(spread)
        if norm.scale is not None:
            scale = _last_axis(norm.scale[...], x)
            x = x * (1 + scale if isinstance(norm, OffsetRMSNorm) else scale)
        bias = getattr(norm, "bias", None)
        return x if bias is None else x + _last_axis(bias[...], x)


def _last_axis(weight_D: Array, x: Array) -> Array:
    """Return a weight of the last axis, or of each head `[N,H]`, in float32 with as many axes as `x`."""
    return weight_D.astype(jnp.float32).reshape((1,) * (x.ndim - weight_D.ndim) + weight_D.shape)


class RuledLinear(nnx.Module):
    """A linear layer with its propagation rule."""

    def __init__(self, linear: nnx.Linear, rules: Rules):
        self.linear, self.rules = linear, rules

    def __call__(self, x: Array) -> Array:
        bias = None if self.linear.bias is None else self.linear.bias[...]
        return ruled_affine(self.rules, "...d,dh->...h", x, self.linear.kernel[...], bias)


class RuledUp(nnx.Module):
    """The up-projection of a gated MLP, which gets half of the product's relevance."""

    def __init__(self, up: Any):
        self.up = up

    def __call__(self, x: Array) -> Array:
        return uniform_rule(self.up(x))


NORMS = (nnx.LayerNorm, nnx.RMSNorm, OffsetRMSNorm, UnitNorm)


def with_rules(network: NetworkT, rules: Rules | None) -> NetworkT:
    """Return a copy of a network whose norms, activations, linear maps and gated MLPs have propagation rules.

    Its values are the network's own. Without rules, return the network itself.
    """
    if rules is None:
        return network
    copy = jax.tree.unflatten(jax.tree.structure(network), jax.tree.leaves(network))
    _attach(copy, rules)
    return copy


def with_frozen_norms(network: NetworkT) -> NetworkT:
    """Return a copy of a network whose norms have derivatives as if their statistics were constants."""
    copy = jax.tree.unflatten(jax.tree.structure(network), jax.tree.leaves(network))
    _freeze(copy)
    return copy


def _freeze(module: Any) -> None:
    """Replace the norms of a module, in place."""
    for name, member in list(vars(module).items()):
        if isinstance(member, NORMS):
            setattr(module, name, RuledNorm(member, "linear"))
        elif isinstance(member, nnx.Module):
            _freeze(member)


def _attach(module: Any, rules: Rules) -> None:
    """Replace operations of a module by ones with rules, in place."""
    for name, member in list(vars(module).items()):
        if isinstance(member, NORMS):
            setattr(module, name, RuledNorm(member, rules.norm))
        elif isinstance(member, nnx.Linear):
            if not rules.plain_linear:
                setattr(module, name, RuledLinear(member, rules))
        elif name == "act":
            setattr(module, name, partial(_ruled_activation, member))
        elif isinstance(member, nnx.Module):
            _attach(member, rules)
    if isinstance(module, Attention) and not rules.plain_linear:
        module.affine = partial(ruled_affine, rules)
    if isinstance(module, RoutedMLP):
        module.weigh = partial(_ruled_weigh, rules.gate)
    if isinstance(module, GatedMLP):
        module.act = partial(_ruled_gate, module.act, rules.gate)
        if rules.gate == "uniform":
            gated: Any = module
            gated.up = RuledUp(module.up)


def _ruled_activation(act: Any, x: Array) -> Array:
    return identity_rule(x, act(jax.lax.stop_gradient(x)))


def _ruled_gate(act: Any, rule: str, x: Array) -> Array:
    return uniform_rule(act(x)) if rule == "uniform" else jax.lax.stop_gradient(act(x))


def _ruled_weigh(rule: str, weight: Array, x: Array) -> Array:
    if rule == "uniform":
        return uniform_rule(weight) * uniform_rule(x)
    return jax.lax.stop_gradient(weight) * x


class RuledEdit:
    """Rules of attention's two products and its softmax in one layer, as edits that change no value."""

    def __init__(self, rules: Rules | None):
        self.rules = rules
        self.scores: Array | None = None

    def after_producer(self, site: str, value: Array) -> Array:
        """Apply the rule of the operation that produced the value: the softmax, at `pattern`."""
        if site == "scores":
            self.scores = value
        if site != "pattern" or self.rules is None or self.rules.softmax != "identity":
            return value
        assert self.scores is not None, "attention has scores before it has a pattern"
        return identity_rule(self.scores, jax.lax.stop_gradient(value))

    def before_consumer(self, site: str, value: Array) -> Array:
        """Apply the rule of the operation that consumes the value: the two products."""
        if self.rules is None or site not in ("q", "k", "v", "pattern"):
            return value
        if self.rules.softmax != "constant":
            return uniform_rule(value)
        return jax.lax.stop_gradient(value) if site == "pattern" else value
