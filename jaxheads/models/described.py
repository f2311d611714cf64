"""Models and runs in a line or two, as a notebook or a Python shell shows them."""

from typing import Any

import jax
from flax import nnx

from .stack import Stack


def model_words(model: Any) -> str:
    """Describe a model: its name, family and size, each stack's heads, and its tokenizer or the lack of one."""
    arrays = jax.tree.leaves(nnx.state(model.network, nnx.Param))
    dtypes = ", ".join(sorted({str(array.dtype) for array in arrays}))
    size = f"{sum(array.size for array in arrays):,} parameters ({dtypes})"
    unembedding = model.network.unembedding
    head = "no logits" if unembedding is None else f"logits of {unembedding.weight.shape[0]:,}"
    tokenizer = model.no_tokenizer if model.tokenizer is None else type(model.tokenizer).__name__
    lines = [f"Model {model.name}: {type(model.network).__name__}, {size}, {head}"]
    lines += [f"  {_stack_words(stack)}" for stack in model.network.stacks]
    return "\n".join([*lines, f"  {'no ' if model.tokenizer is None else ''}tokenizer: {tokenizer}"])


def run_words(run: Any) -> str:
    """Describe a run: its model, and the shape of the output and of each captured site."""
    shapes = {"output": run.output, **run.seen}
    of = "" if run.source is None else f" of {run.source.name}"
    return f"Run{of}: " + ", ".join(f"{name} {_shape(value)}" for name, value in shapes.items())


def _stack_words(stack: Stack) -> str:
    grouped = "" if stack.kv_heads == stack.heads else f" ({stack.kv_heads} key/value heads)"
    return (
        f"{stack.name}: {stack.layers} layers × {stack.heads} heads{grouped} of {stack.head_size}, width {stack.width}"
    )


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"[{', '.join(map(str, shape))}]"
