"""Layers that blocks are made of: activations, attention projections, embeddings, MLPs, norms."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .affine import affine
from .attention.attend import attend
from .attention.row_edits import Edit
from .attention.scoring import Scoring
from .inputs.attention_inputs import AttentionInputs
from .layer_norm import LayerNorm, RMSNorm, standardised
from .positions import Rotary


# Functions of this module, not JAX's own: these are compiled ones, which pickle refuses.
def _gelu_exact(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _relu(x: Array) -> Array:
    return jax.nn.relu(x)


def _silu(x: Array) -> Array:
    return jax.nn.silu(x)


def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


def _sigmoid(x: Array) -> Array:
    return jax.nn.sigmoid(x)


def _identity(x: Array) -> Array:
    return x


def _solu(x: Array) -> Array:
    """Softmax linear units (Elhage et al. 2022)."""
    return x * jax.nn.softmax(x, axis=-1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu_exact,
    "gelu_python": _gelu_exact,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "linear": _identity,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "solu": _solu,
    "swish": _silu,
    "tanh": _tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Return the activation that a Hugging Face config calls `name`; `gelu` (erf) and `gelu_new` (tanh) differ.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; known are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


class Setting(nnx.Variable):
    """A constant of one layer that comes from the config, not from the checkpoint, such as its window."""


class Attention(nnx.Module):
    """Projections of one layer's heads, in one form for all families.

    W_Q `[D,N,H]`, W_K and W_V `[D,K,H]`, W_O `[N,H,D]`; biases b_Q `[N,H]`, b_K and b_V `[K,H]`, b_O `[D]`, or None.

    Args:
        rotary: rotates queries and keys by their positions.
        frequencies, amplitude: frequencies `[F]` and amplitude for `rotary` where layers differ.
        scale: factor on the scores; 1 / sqrt(head size) when left out. An array where layers differ.
        cap: bound of the scores, see `attend`.
        window: number of positions that a query sees, its own included: backwards in a causal stack, in both
            directions otherwise. An array where layers differ.
        bias: whether queries, keys, values and output have biases, or the letters of those that do ("QKV").
        q_norm, k_norm: norms of each head's queries and keys, or of all heads' together, before they rotate.
        clip: largest absolute value of queries, keys and values, before they are normed.
        gain: whether the heads' output is multiplied by a learnt `gain` `[D]` (LayerScale, Touvron et al. 2021); or
            a constant to multiply it by.
        sinks: whether each head has a learnt score without a key, `sinks` `[N]`, see `attend`.

    Attributes:
        key_heads: the key/value head `[N]` that each query head reads, where heads were removed from groups so that
            these differ in size; else None. Keys and values then come one for each query head, `[B,S,N,H]`.
        affine: the function that computes its projections. A copy of a network may have another one, of equal value
            but with other derivatives (relevance propagation).
        in_any_order: whether heads may be computed in another order; of a subclass only if it says so itself.
    """

    in_any_order: ClassVar[bool] = True

    def __init__(
        self,
        model: int,
        heads: int,
        head: int,
        *,
        rngs: nnx.Rngs,
        kv_heads: int | None = None,
        bias: bool | str = False,
        rotary: Rotary | None = None,
        frequencies: Array | None = None,
        amplitude: Array | None = None,
        scale: float | Array | None = None,
        cap: float | None = None,
        window: int | Array | None = None,
        q_norm: nnx.Module | None = None,
        k_norm: nnx.Module | None = None,
        clip: float | None = None,
        gain: bool | float = False,
        sinks: bool = False,
    ):
        kv_heads = heads if kv_heads is None else kv_heads
        if head < 1:
            raise ValueError(f"{heads} heads over a width of {model} have no dimension left for each")
        if heads % kv_heads:
            raise ValueError(f"query heads must be a multiple of key/value heads, got {heads} and {kv_heads}")

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        biased = bias if isinstance(bias, str) else "QKVO" if bias else ""
        shapes = {"Q": (heads, head), "K": (kv_heads, head), "V": (kv_heads, head), "O": (model,)}
        self.W_Q, self.W_O = weight(model, heads, head), weight(heads, head, model)
        self.W_K, self.W_V = weight(model, kv_heads, head), weight(model, kv_heads, head)
        self.b_Q, self.b_K, self.b_V, self.b_O = (
            nnx.Param(jnp.zeros(shapes[letter])) if letter in biased else None for letter in "QKVO"
        )
        self.gain = _new_gain(gain, model)
        self.sinks = nnx.Param(jnp.zeros((heads,))) if sinks else None
        self.q_norm, self.k_norm = q_norm, k_norm
        self.rotary, self.cap, self.clip = rotary, cap, clip
        self.frequencies = None if frequencies is None else Setting(frequencies)
        self.amplitude = None if amplitude is None else Setting(amplitude)
        self.window = window if window is None or isinstance(window, int) else Setting(window)
        self.key_heads: Setting | None = None
        self._scale = head**-0.5 if scale is None else Setting(scale) if isinstance(scale, Array) else scale
        self.affine = affine

    @property
    def scale(self) -> float | Array:
        """The factor on the scores."""
        return self._scale[...] if isinstance(self._scale, Setting) else self._scale

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        """Return queries `[B,T,N,H]`, normed and rotated in families that do so."""
        return self.rotate(_normed(self.q_norm, self._project(x_BTD, self.W_Q, self.b_Q)), positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Return keys (normed and rotated in families that do so) and values, each `[B,S,K,H]`."""
        keys_BSKH = self.rotate(_normed(self.k_norm, self._project(x_BSD, self.W_K, self.b_K)), positions_BS)
        return self.by_reader(keys_BSKH, 2), self.by_reader(self._project(x_BSD, self.W_V, self.b_V), 2)

    def by_reader(self, of_heads: Array, axis: int) -> Array:
        """Return values or weights of key/value heads, with `key_heads` one for each query head that reads them."""
        return of_heads if self.key_heads is None else jnp.take(of_heads, self.key_heads[...], axis=axis)

    def per_head_queries(self, x_NBTD: Array, positions_BT: Array) -> Array:
        """Return queries `[B,T,N,H]`, every head's from its own input."""
        b_Q = None if self.b_Q is None else self.b_Q[...]
        return self.rotate(self._per_head_project(x_NBTD, self.W_Q[...], b_Q, self.q_norm), positions_BT)

    def per_head_keys_values(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Return keys and values, each `[B,S,K,H]`, every head's from its own two inputs."""
        W_K, W_V = (self.by_reader(weight[...], 1) for weight in (self.W_K, self.W_V))
        b_K, b_V = (None if bias is None else self.by_reader(bias[...], 0) for bias in (self.b_K, self.b_V))
        keys_BSKH = self.rotate(self._per_head_project(k_KBSD, W_K, b_K, self.k_norm), positions_BS)
        return keys_BSKH, self._per_head_project(v_KBSD, W_V, b_V, None)

    def attend(self, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, context: AttentionInputs, edit: Edit):
        """Call `attend` with this layer's scale, cap, sinks and window."""
        scoring = self.scoring(context, edit)
        return attend(q_BTNH, k_BSKH, v_BSKH, **scoring._asdict())

    def scoring(self, context: AttentionInputs, edit: Edit) -> Scoring:
        """Return what turns this layer's queries and keys into a pattern."""
        window = self.window if self.window is None or isinstance(self.window, int) else self.window[...]
        mask = context.mask if window is None else context.mask.within(context.queries, context.keys, window)
        return Scoring(mask, self.scale, context.bias, self.cap, None if self.sinks is None else self.sinks[...], edit)

    def output(self, z_BTNH: Array) -> Array:
        """Return the heads' output `[B,T,D]`, the sum over heads of `z_h @ W_O[h]`, plus b_O."""
        bias_D = None if self.b_O is None else self.b_O[...]
        return _scaled(self.affine("btnh,nhd->btd", z_BTNH, self.W_O[...], bias_D), self.gain)

    def per_head_output(self, z_BTNH: Array) -> Array:
        """Return each head's output `z_h @ W_O[h]`, `[N,B,T,D]`, without b_O, which belongs to no head."""
        return _scaled(jnp.einsum("btnh,nhd->nbtd", z_BTNH, self.W_O[...]), self.gain)

    def _project(self, x_BTD: Array, weight_DNH: nnx.Param, bias_NH: nnx.Param | None) -> Array:
        projected = self.affine("btd,dnh->btnh", x_BTD, weight_DNH[...], None if bias_NH is None else bias_NH[...])
        return self._clipped(projected)

    def _per_head_project(self, x_NBTD: Array, weight_DNH: Array, bias_NH: Array | None, norm: Any) -> Array:
        """Return the normed projections `[B,T,N,H]`, every head's from its own input."""
        if not isinstance(norm, JointRMSNorm):
            return _normed(norm, self._clipped(affine("nbtd,dnh->btnh", x_NBTD, weight_DNH, bias_NH)))
        # The norm's size is that of all heads' projections of the head's own input.
        projected_NBTMH = self._clipped(affine("nbtd,dmh->nbtmh", x_NBTD, weight_DNH, bias_NH))
        return jnp.moveaxis(jnp.diagonal(norm(projected_NBTMH), axis1=0, axis2=3), -1, 2)

    def _clipped(self, projected: Array) -> Array:
        return projected if self.clip is None else jnp.clip(projected, -self.clip, self.clip)

    def rotate(self, x_BTNH: Array, positions_BT: Array) -> Array:
        """Return queries or keys rotated by their positions; unchanged without rotary positions."""
        if self.rotary is None:
            return x_BTNH
        of_layer = (None if setting is None else setting[...] for setting in (self.frequencies, self.amplitude))
        return self.rotary(x_BTNH, positions_BT, *of_layer)


def _normed(norm: Any, x_BTNH: Array) -> Array:
    return x_BTNH if norm is None else norm(x_BTNH)


class Embed(nnx.Module):
    """A table of vectors `[V,D]`, looked up by id, in the table's dtype (nnx.Embed keeps the one it was built with)."""

    def __init__(self, count: int, model: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, model)))

    def __call__(self, ids: Array) -> Array:
        return jnp.take(self.embedding[...], ids, axis=0)


class PlainMLP(nnx.Module):
    """The MLP `down(act(up(x)))`; with `gain`, times a learnt `[D]` or a constant.

    With `norm`, it is `down(norm(act(up(x))))` (SoLU). `act` may be a function.
    """

    def __init__(
        self,
        model: int,
        hidden: int,
        act: str | Callable[[Array], Array],
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        gain: bool | float = False,
        norm: Any = None,
    ):
        self.up = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(hidden, model, use_bias=bias, rngs=rngs)
        self.norm = norm
        self.act = activation(act) if isinstance(act, str) else act
        self.gain = _new_gain(gain, model)

    @property
    def inputs(self) -> tuple[nnx.Linear, ...]:
        """Matrices that read x."""
        return (self.up,)

    def __call__(self, x_BTD: Array) -> Array:
        return _scaled(self.down(_normed(self.norm, self.act(self.up(x_BTD)))), self.gain)


class GatedMLP(nnx.Module):
    """The MLP `down(act(gate(x)) * up(x))` (Shazeer 2020); with `gain`, times a learnt `[D]` or a constant."""

    def __init__(
        self, model: int, hidden: int, act: str, *, rngs: nnx.Rngs, bias: bool = False, gain: bool | float = False
    ):
        self.gate = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.up = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(hidden, model, use_bias=bias, rngs=rngs)
        self.act = activation(act)
        self.gain = _new_gain(gain, model)

    @property
    def inputs(self) -> tuple[nnx.Linear, ...]:
        """Matrices that read x."""
        return self.gate, self.up

    def __call__(self, x_BTD: Array) -> Array:
        return _scaled(self.down(self.act(self.gate(x_BTD)) * self.up(x_BTD)), self.gain)


def _new_gain(gain: bool | float, model: int) -> nnx.Param | Setting | None:
    """Return a learnt gain `[D]` for True, a constant one for a number, None for False or 1."""
    if isinstance(gain, bool):
        return nnx.Param(jnp.ones((model,))) if gain else None
    return None if gain == 1 else Setting(jnp.full((model,), gain))


def _scaled(x: Array, gain_D: nnx.Param | Setting | None) -> Array:
    return x if gain_D is None else x * gain_D[...].astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)


def layer_norm(model: int, epsilon: float, rngs: nnx.Rngs, *, bias: bool = True) -> nnx.LayerNorm:
    """Return a LayerNorm with a learnt scale and, with `bias`, a learnt bias."""
    return LayerNorm(model, epsilon, rngs, bias=bias)


class FixedLayerNorm(nnx.LayerNorm):
    """LayerNorm without a learnt scale or bias, in float32 at least (OLMo); its `scale` is 1."""

    def __init__(self, model: int, epsilon: float, rngs: nnx.Rngs):
        super().__init__(model, epsilon=epsilon, use_scale=False, use_bias=False, use_fast_variance=False, rngs=rngs)
        own: Any = self
        own.scale = nnx.data(Setting(jnp.ones((model,))))

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        del mask
        return standardised(x, self.epsilon).astype(x.dtype)


class PerHeadLayerNorm(nnx.LayerNorm):
    """LayerNorm of each head's queries or keys `[…,N,H]`, without a bias; every head has its own `scale` (StableLM)."""

    def __init__(self, heads: int, head: int, epsilon: float, rngs: nnx.Rngs):
        super().__init__(head, epsilon=epsilon, use_scale=False, use_bias=False, use_fast_variance=False, rngs=rngs)
        self.scale = nnx.data(nnx.Param(jnp.ones((heads, head))))

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        del mask
        wide = standardised(x, self.epsilon)
        own: Any = self
        scale_NH = own.scale[...].astype(wide.dtype)
        return (wide * scale_NH.reshape((1,) * (x.ndim - 2) + scale_NH.shape)).astype(x.dtype)


class JointRMSNorm(nnx.Module):
    """RMSNorm over the queries or keys of all heads together, `[…,N,H]` (OLMo 2)."""

    def __init__(self, heads: int, head: int, epsilon: float, rngs: nnx.Rngs):
        self.norm = rms_norm(heads * head, epsilon, rngs)

    def __call__(self, x: Array) -> Array:
        return self.norm(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)


class SkippedNorm(nnx.Module):
    """A norm that some layers of a stack lack: with `on` False the stream passes unchanged."""

    def __init__(self, norm: Any, on: Array):
        self.norm = norm
        self.on = Setting(on)

    def __call__(self, x_BTD: Array) -> Array:
        return jnp.where(self.on[...], self.norm(x_BTD), x_BTD)


def rms_norm(model: int, epsilon: float, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Return an RMSNorm with a learnt scale (Zhang & Sennrich 2019)."""
    return RMSNorm(model, epsilon, rngs)


class OffsetRMSNorm(nnx.Module):
    """RMSNorm that multiplies by 1 + `scale`, as Gemma stores it (`scale` begins at 0), in float32 at least."""

    def __init__(self, size: int, epsilon: float):
        self.scale = nnx.Param(jnp.zeros((size,)))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        scale = 1 + self.scale[...].astype(wide.dtype)
        return (wide * scale.reshape((1,) * (x.ndim - 1) + scale.shape)).astype(x.dtype)


class UnitNorm(nnx.Module):
    """A norm that divides `x` by its Euclidean length."""

    def __call__(self, x: Array) -> Array:
        return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True))
