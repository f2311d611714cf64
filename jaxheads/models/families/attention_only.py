"""Attention-only transformers of any size (Elhage et al. 2021): the literature's toys, and models built by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import checked
from ...checks import one_of
from ..blocks import AttentionBlock
from ..inputs.batch import AttentionInputs, Batch
from ..layers import Attention, Embed, Setting, layer_norm, rms_norm
from ..loading.weights import Rule, Table, heads_bias, heads_in, heads_out, norm, same
from ..model import Model
from ..network import RunStack
from ..positions import Rotary, sinusoids
from ..stack import Stack
from .bases.decoder import Decoder
from .bases.reading import refuse_unknown, required

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
NORMS = ("none", "layer_norm", "rms_norm")


@dataclass(frozen=True)
class AttentionOnlyConfig:
    """Config of an attention-only model; Hugging Face has no such family.

    Attributes:
        positions: the kind of positions, from POSITIONS.
        norm: the kind of norm before each layer and before the unembedding, from NORMS.
        bias: whether heads' projections have biases.
        scale: factor on the scores; 1 / sqrt(`d_head`) when left out.
    """

    model_type: ClassVar[str] = "attention_only"

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_head: int
    max_position_embeddings: int
    positions: str
    norm: str
    norm_eps: float
    bias: bool
    scale: float | None
    tie_word_embeddings: bool
    causal: bool
    head: Literal["lm"] = "lm"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "AttentionOnlyConfig":
        """Read a dictionary whose keys are the fields' names.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        refuse_unknown(config, set(cls.__dataclass_fields__) - {"head"})
        vocab, model, layers, heads, context = required(
            config, "vocab_size", "d_model", "n_layers", "n_heads", "max_position_embeddings"
        )
        read = cls(
            vocab_size=vocab,
            d_model=model,
            n_layers=layers,
            n_heads=heads,
            d_head=config.get("d_head") or model // heads,
            max_position_embeddings=context,
            positions=config.get("positions", "learned"),
            norm=config.get("norm", "none"),
            norm_eps=config.get("norm_eps", 1e-5),
            bias=config.get("bias", False),
            scale=config.get("scale"),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            causal=config.get("causal", True),
        )
        one_of("positions", read.positions, POSITIONS)
        one_of("norm", read.norm, NORMS)
        return read


class AttentionOnly(Decoder):
    """A decoder of embeddings, layers of heads that add to the stream, and an unembedding."""

    config_type = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        rotary = Rotary(10000.0, c.d_head) if c.positions == "rotary" else None

        def make_norm(rngs: nnx.Rngs) -> Any:
            kinds = {"none": lambda *_: None, "layer_norm": layer_norm, "rms_norm": rms_norm}
            return kinds[c.norm](c.d_model, c.norm_eps, rngs)

        def block(rngs: nnx.Rngs) -> AttentionBlock:
            attention = Attention(
                c.d_model,
                c.n_heads,
                c.d_head,
                bias=c.bias,
                rotary=rotary,
                scale=c.scale,
                rngs=rngs,
            )
            return AttentionBlock(attention, make_norm(rngs))

        self.embed = Embed(c.vocab_size, c.d_model, rngs=rngs)
        learned = c.positions == "learned"
        self.embed_position = Embed(c.max_position_embeddings, c.d_model, rngs=rngs) if learned else None
        fixed = sinusoids(c.max_position_embeddings, c.d_model) if c.positions == "sinusoidal" else None
        self.sinusoids = None if fixed is None else Setting(jnp.asarray(fixed))
        self.decoder = Stack("decoder", c.n_layers, block, causal=c.causal, rngs=rngs)
        self.final_norm = make_norm(rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.d_model, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens)
        if self.embed_position is not None:
            x_BTD = x_BTD + self.embed_position(batch.positions)
        if self.sinusoids is not None:
            x_BTD = x_BTD + self.sinusoids[...].astype(x_BTD.dtype)[batch.positions]
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=self.config.causal))

    def features(self, x_BTD: Array) -> Array:
        """Return the stream, normed if the model has norms."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    @staticmethod
    def table(config: AttentionOnlyConfig) -> Table:
        """Return the table of the tensors, which are named as the parameters are."""
        here, at = "decoder.blocks", "layers.{layer}"
        rules: list[Rule] = [same("embed.weight", "embed.embedding")]
        if config.positions == "learned":
            rules.append(same("embed_position.weight", "embed_position.embedding"))
        rules += [heads_in(f"{at}.W_{letter}", f"{here}.attention.W_{letter}") for letter in "QKV"]
        rules.append(heads_out(f"{at}.W_O", f"{here}.attention.W_O"))
        if config.bias:
            rules += [heads_bias(f"{at}.b_{letter}", f"{here}.attention.b_{letter}") for letter in "QKV"]
            rules.append(same(f"{at}.b_O", f"{here}.attention.b_O"))
        if config.norm != "none":
            rules += norm(f"{at}.norm", f"{here}.norm", bias=config.norm == "layer_norm")
            rules += norm("final_norm", "final_norm", bias=config.norm == "layer_norm")
        if not config.tie_word_embeddings:
            rules.append(same("unembed.weight", "unembed.embedding"))
        return Table(tuple(rules))


HEAD_WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")
HEAD_BIASES = ("b_Q", "b_K", "b_V", "b_O")


@checked()
def by_hand(
    embed: ArrayLike,
    layers: Sequence[Mapping[str, ArrayLike]],
    unembed: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    scale: float = 1.0,
    causal: bool = True,
    name: str = "by hand",
) -> Model:
    """Build an attention-only model without norms from explicit weights, such as a circuit whose answer is known.

    Args:
        embed: the embedding of each token, `[V,D]`.
        layers: for each layer its heads' W_Q, W_K, W_V `[N,D,H]` and W_O `[N,H,D]`, and, if any layer has them, b_Q,
            b_K, b_V `[N,H]` and b_O `[D]`; all layers have equal sizes.
        unembed: the unembedding of each token, `[V,D]`.
        positions: the embedding of each position, `[context,D]`; without them the context is 2^30.
        scale: factor on the scores.

    Raises:
        ValueError: for no layer, weights that are missing, unknown, not finite, or whose shapes do not fit each other.
    """
    tokens, reads = _array("embed", embed, 2), _array("unembed", unembed, 2)
    if tokens.shape != reads.shape or not layers:
        raise ValueError(
            f"by hand needs embed and unembed of one shape [V,D] and at least one layer; got {tokens.shape}, "
            f"{reads.shape} and {len(layers)} layers"
        )
    biased = any(set(layer) & set(HEAD_BIASES) for layer in layers)
    stacked = _stacked(layers, tokens.shape[1], biased=biased)
    _, heads, _, size = stacked["W_Q"].shape
    positions_PD = None if positions is None else _array("positions", positions, 2)
    config = AttentionOnlyConfig.from_hf(
        {
            "model_type": "attention_only",
            "vocab_size": tokens.shape[0],
            "d_model": tokens.shape[1],
            "n_layers": len(layers),
            "n_heads": heads,
            "d_head": size,
            "max_position_embeddings": 1 << 30 if positions_PD is None else len(positions_PD),
            "positions": "none" if positions_PD is None else "learned",
            "scale": scale,
            "bias": biased,
            "causal": causal,
        }
    )
    values = {"embed.embedding": tokens, "unembed.embedding": reads}
    if positions_PD is not None:
        values["embed_position.embedding"] = positions_PD
    for key, value in stacked.items():
        ordered = np.moveaxis(value, 1, 2) if key in ("W_Q", "W_K", "W_V") else value
        values[f"decoder.blocks.attention.{key}"] = ordered
    hf_config = {"model_type": "attention_only", **{field: getattr(config, field) for field in _fields()}}
    return Model(_filled(config, values), name=name, hf_config=hf_config)


def _filled(config: AttentionOnlyConfig, values: Mapping[str, np.ndarray]) -> AttentionOnly:
    """Build the network with the parameters of these values, by path."""
    graph, state = nnx.split(nnx.eval_shape(lambda: AttentionOnly(config, rngs=nnx.Rngs(0))))
    filled = []
    for path, variable in nnx.to_flat_state(state):
        value = values[".".join(map(str, path))]
        if value.shape != variable.shape:
            raise ValueError(f"{path[-1]} must have the shape {variable.shape}, got {value.shape}")
        filled.append((path, variable.replace(jnp.asarray(value))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _fields() -> list[str]:
    return [field for field in AttentionOnlyConfig.__dataclass_fields__ if field != "head"]


def _stacked(layers: Sequence[Mapping[str, ArrayLike]], model: int, *, biased: bool) -> dict[str, np.ndarray]:
    """Stack each weight over the layers, `[L,…]`; biases are zero in layers without them."""
    known = (*HEAD_WEIGHTS, *HEAD_BIASES)
    for number, layer in enumerate(layers):
        missing, unknown = set(HEAD_WEIGHTS) - set(layer), set(layer) - set(known)
        if missing or unknown:
            raise ValueError(f"layer {number} lacks {sorted(missing)} and does not know {sorted(unknown)}")
    N, _, H = _array("W_Q", layers[0]["W_Q"], 3).shape
    shapes = {"W_O": (N, H, model), "b_O": (model,)} | {f"b_{letter}": (N, H) for letter in "QKV"}
    shapes |= {f"W_{letter}": (N, model, H) for letter in "QKV"}
    stacked = {}
    for key in known if biased else HEAD_WEIGHTS:
        arrays = [_array(key, layer.get(key, np.zeros(shapes[key])), len(shapes[key])) for layer in layers]
        wrong = [array.shape for array in arrays if array.shape != shapes[key]]
        if wrong:
            raise ValueError(f"{key} of every layer must have the shape {shapes[key]}, got {wrong[0]}")
        stacked[key] = np.stack(arrays)
    return stacked


def _array(name: str, value: ArrayLike, axes: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.ndim != axes or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers with {axes} axes, none of them empty; got {array.shape}")
    return array
