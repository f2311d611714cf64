"""A transformer as a graph of nodes, run node by node in float64: what edges are checked against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxheads as jh
from jaxheads.models.inputs.attention_inputs import AttentionInputs
from jaxheads.models.norms import scale_and_bias

from ..models.huggingface import VOCABULARY
from ..models.huggingface import small_model as usual_model
from ..models.specs.spec import small
from . import naive


def small_model(family: str) -> jh.Model:
    """Of either order: MLPs after their layer's heads, beside them, none."""
    if family in ("gpt_neox", "gemma2", "olmo2", "qwen3"):
        return small(family).ours
    if family == "attention_only":
        config = {
            "model_type": "attention_only",
            "vocab_size": VOCABULARY,
            "d_model": 24,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 16,
            "positions": "rotary",
            "norm": "layer_norm",
        }
        return naive.changed(
            jh.init(config, seed=0), lambda path, weight: weight * 8 if path.split(".")[-1].startswith("W_") else weight
        )
    return usual_model(family)


def normed(x_BTNH: np.ndarray, norm: Any) -> np.ndarray:
    """RMSNorm of each head's queries or keys, or of all heads' together, by the number of its scales."""
    if norm is None:
        return x_BTNH
    inner = getattr(norm, "norm", norm)
    scale = np.asarray(inner.scale[...]).reshape(-1, x_BTNH.shape[-1])
    axes = (-1,) if len(scale) == 1 else (-2, -1)
    return x_BTNH / np.sqrt((x_BTNH**2).mean(axis=axes, keepdims=True) + float(inner.epsilon)) * scale


@dataclass(frozen=True)
class Slow:
    """The graph's forward pass, node by node in float64, weights changed edge by edge.

    Attributes:
        edges: `weight[sender, receiver]`, by name; 0 where left out.
        change: what an edge of weight 1 adds to its receiver's input, by sender: fixed, or (`other`) what the sender
            said in another run less what it says in this one.
        stack: whose stream it is.
    """

    model: jh.Model
    batch: jh.Batch
    edges: Mapping[tuple[str, str], float]
    change: Mapping[str, np.ndarray] | None = None
    other: Mapping[str, np.ndarray] = field(default_factory=dict)
    stack: str | None = None

    def run(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits `[B,T,V]`, and what every sender said."""
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            double = naive.changed(self.model, lambda _, weight: np.asarray(weight, np.float64))
            return self._run(double)

    def _run(self, model: jh.Model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        network, asked, said = model.network, model.stack(self.stack).name, {}

        def run_stack(stack: Any, x: Any, context: AttentionInputs) -> Any:
            if stack.name != asked:
                return stack.run(x, context)[0]
            x = said["embed"] = np.asarray(x)
            for layer in range(stack.layers):
                x = self._layer(stack, layer, context, x, said)
            return jnp.asarray(self._heard("logits" if stack.name == network.streams[-1].name else "memory", x, said))

        features = network.features(network.hidden(self.batch, run_stack))
        return np.asarray(network.unembedding.logits(features)), said

    def _heard(self, receiver: str, x: np.ndarray, said: Mapping[str, np.ndarray]) -> np.ndarray:
        for sender, own in said.items():
            if weight := self.edges.get((sender, receiver)):
                x = x + weight * (self.other[sender] - own if self.change is None else self.change[sender])
        return x

    def _layer(self, stack: Any, layer: int, context: Any, x: np.ndarray, said: dict[str, Any]) -> np.ndarray:
        block, weights = stack.block(layer), jax.tree.map(np.asarray, vars(stack.weights))
        attention, prefix = block.attention, "cross." if stack.is_cross else ""

        def project(kind: str, head: int) -> np.ndarray:
            if prefix and kind != "q":
                heard = np.asarray(context.memory)
            else:
                heard = np.asarray(block.normed(jnp.asarray(self._heard(f"{prefix}{kind} {layer}.{head}", x, said))))
            weight, bias = weights[f"W_{kind.upper()}"][layer], weights[f"b_{kind.upper()}"]
            every = np.einsum("btd,ndh->btnh", heard, weight) + (0 if bias is None else bias[layer])
            made = normed(every, getattr(attention, f"{kind}_norm", None))[:, :, head]
            if attention.rotary is None or kind == "v":
                return made
            return np.asarray(attention.rotary(jnp.asarray(made)[:, :, None], context.queries))[:, :, 0]

        window = 10**6 if attention.window is None else int(attention.window[...])
        shared = {(kind, head): project(kind, head) for kind in "kv" for head in range(stack.kv_heads)}
        now = {}
        for head in range(stack.heads):
            key = head * stack.kv_heads // stack.heads
            scores = project("q", head) @ shared["k", key].transpose(0, 2, 1) * attention.scale
            scores = scores + (0 if context.bias is None else np.asarray(context.bias)[:, head])
            if attention.cap is not None:
                scores = attention.cap * np.tanh(scores / attention.cap)
            near = np.asarray(context.queries)[:, :, None] - np.asarray(context.keys)[:, None] < window
            scores = np.where(np.asarray(context.visible) & near, scores, -1e30)
            raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
            pattern = raised / raised.sum(axis=-1, keepdims=True)
            now[f"{prefix}head {layer}.{head}"] = pattern @ shared["v", key] @ weights["W_O"][layer, head]
        if hasattr(block, "attention_out_norm"):  # a norm of all heads' sum: each has its share, by the sum's size
            norm, whole = block.attention_out_norm, np.sum(list(now.values()), axis=0)
            size = np.sqrt((whole**2).mean(axis=-1, keepdims=True) + float(norm.epsilon))
            now = {name: own / size * np.asarray(scale_and_bias(norm)[0]) for name, own in now.items()}
        beside = self._heard(f"mlp {layer}", x, said)
        said.update(now)
        x = x + sum(now.values()) + (0 if weights["b_O"] is None else weights["b_O"][layer])
        if stack.cross is not None:
            return self._layer(stack.cross, layer, context.cross, x, said)
        if block.mlp_reads == "none":
            return x
        heard = jnp.asarray(beside if block.mlp_reads == "beside" else self._heard(f"mlp {layer}", x, said))
        said[f"mlp {layer}"] = np.asarray(block.feed_forward(heard))
        return x + said[f"mlp {layer}"]
