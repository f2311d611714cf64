"""The parts that blocks are put together from: activations, attention projections, MLPs, norms."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .attention import Edit, attend
from .positions import Rotary

_gelu_exact = partial(jax.nn.gelu, approximate=False)
_gelu_tanh = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu_exact,
    "gelu_python": _gelu_exact,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation a Hugging Face config means by `name`; `gelu` (erf) and `gelu_new` (tanh) are two functions.

    Raises:
        ValueError: for a name that is not known, with those that are.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; known are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


class Attention(nnx.Module):
    """The projections of one layer's heads, in the one form that every family shares.

    W_Q `[D,N,H]`, W_K and W_V `[D,K,H]`, W_O `[N,H,D]`; biases b_Q `[N,H]`, b_K and b_V `[K,H]`, b_O `[D]`, or None.
    `scale` multiplies the scores; `rotary`, where there is one, turns queries and keys.
    """

    def __init__(
        self,
        model: int,
        heads: int,
        head: int,
        *,
        rngs: nnx.Rngs,
        kv_heads: int | None = None,
        bias: bool = False,
        out_bias: bool = False,
        rotary: Rotary | None = None,
        scale: float | None = None,
    ):
        kv_heads = heads if kv_heads is None else kv_heads
        if heads % kv_heads:
            raise ValueError(f"query heads must be a multiple of key/value heads, got {heads} and {kv_heads}")

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.W_Q, self.W_O = weight(model, heads, head), weight(heads, head, model)
        self.W_K, self.W_V = weight(model, kv_heads, head), weight(model, kv_heads, head)
        self.b_Q = nnx.Param(jnp.zeros((heads, head))) if bias else None
        self.b_K = nnx.Param(jnp.zeros((kv_heads, head))) if bias else None
        self.b_V = nnx.Param(jnp.zeros((kv_heads, head))) if bias else None
        self.b_O = nnx.Param(jnp.zeros((model,))) if out_bias else None
        self.rotary = rotary
        self.scale = head**-0.5 if scale is None else scale

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        """Queries `[B,T,N,H]`, rotated where the family rotates."""
        return self._turn(_project(x_BTD, self.W_Q, self.b_Q), positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Keys (rotated where the family rotates) and values, each `[B,S,K,H]`."""
        return self._turn(_project(x_BSD, self.W_K, self.b_K), positions_BS), _project(x_BSD, self.W_V, self.b_V)

    def queries_apart(self, x_NBTD: Array, positions_BT: Array) -> Array:
        """Queries `[B,T,N,H]` of heads that each read an input of their own."""
        return self._turn(_project_apart(x_NBTD, self.W_Q, self.b_Q), positions_BT)

    def keys_values_apart(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Keys and values, each `[B,S,K,H]`, of heads that read an input of their own for their keys, and another for
        their values."""
        keys_BSKH = self._turn(_project_apart(k_KBSD, self.W_K, self.b_K), positions_BS)
        return keys_BSKH, _project_apart(v_KBSD, self.W_V, self.b_V)

    def attend(self, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, mask_BTS: Array, edit: Edit):
        """`attend` with this layer's scale."""
        return attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS, scale=self.scale, edit=edit)

    def output(self, z_BTNH: Array) -> Array:
        """What the heads write, `[B,T,D]`: the sum over heads of `z_h @ W_O[h]`, plus b_O."""
        out_BTD = jnp.einsum("btnh,nhd->btd", z_BTNH, self.W_O[...])
        return out_BTD if self.b_O is None else out_BTD + self.b_O[...][None, None]

    def output_apart(self, z_BTNH: Array) -> Array:
        """What each head writes, `z_h @ W_O[h]`, `[N,B,T,D]`; b_O is no head's."""
        return jnp.einsum("btnh,nhd->nbtd", z_BTNH, self.W_O[...])

    def _turn(self, x_BTNH: Array, positions_BT: Array) -> Array:
        return x_BTNH if self.rotary is None else self.rotary(x_BTNH, positions_BT)


def _project(x_BTD: Array, weight_DNH: nnx.Param, bias_NH: nnx.Param | None) -> Array:
    y_BTNH = jnp.einsum("btd,dnh->btnh", x_BTD, weight_DNH[...])
    return y_BTNH if bias_NH is None else y_BTNH + bias_NH[...][None, None]


def _project_apart(x_NBTD: Array, weight_DNH: nnx.Param, bias_NH: nnx.Param | None) -> Array:
    y_BTNH = jnp.einsum("nbtd,dnh->btnh", x_NBTD, weight_DNH[...])
    return y_BTNH if bias_NH is None else y_BTNH + bias_NH[...][None, None]


class Embed(nnx.Module):
    """A table of vectors `[V,D]`, looked up by id, in the table's own dtype (nnx.Embed's stays as it was built)."""

    def __init__(self, count: int, model: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, model)))

    def __call__(self, ids: Array) -> Array:
        return jnp.take(self.embedding[...], ids, axis=0)


class PlainMLP(nnx.Module):
    """`down(act(up(x)))`."""

    def __init__(self, model: int, hidden: int, act: str, *, rngs: nnx.Rngs, bias: bool = True):
        self.up = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(hidden, model, use_bias=bias, rngs=rngs)
        self.act = activation(act)

    def __call__(self, x_BTD: Array) -> Array:
        return self.down(self.act(self.up(x_BTD)))


class GatedMLP(nnx.Module):
    """`down(act(gate(x)) * up(x))` (Shazeer 2020)."""

    def __init__(self, model: int, hidden: int, act: str, *, rngs: nnx.Rngs, bias: bool = False):
        self.gate = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.up = nnx.Linear(model, hidden, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(hidden, model, use_bias=bias, rngs=rngs)
        self.act = activation(act)

    def __call__(self, x_BTD: Array) -> Array:
        return self.down(self.act(self.gate(x_BTD)) * self.up(x_BTD))


def layer_norm(model: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm by the two-pass variance: the one-pass form loses digits where the mean is large."""
    return nnx.LayerNorm(model, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def rms_norm(model: int, epsilon: float, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """RMSNorm with a learnt scale (Zhang & Sennrich 2019)."""
    return nnx.RMSNorm(model, epsilon=epsilon, rngs=rngs)
