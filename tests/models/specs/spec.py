"""The same random weights in `transformers` and in jaxheads, and what both make of the same inputs.

`transformers` runs every example by itself, without padding: what it then gives must be ours with padding on either
side. Heads are removed there by zeroing what the output projection reads.
"""

import functools
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from hypothesis import strategies as st

import jaxheads as jh

from ..huggingface import Pair, assert_close

Heads = Mapping[str, Sequence[tuple[int, int]]]
"""By stack, (layer, head) pairs."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """One family.

    Attributes:
        architectures: class names in `transformers`; the first is taken for the laws.
        sizes: config fields of a tiny model.
        named: config fields that are always checked as well, by what they show.
        vary: draws other config fields, and perhaps "architecture"; what an option does must show.
        outputs: from their model to the modules that read each layer's z, by stack, in the order of layers.
        inputs: "tokens", "seq2seq" (tokens and targets), "pixels", "features" or "pairs" (of texts and images).
        lengths: of the examples: tokens, and targets.
        ended: whether texts end with the config's end token.
        image: height, width and channels of the images.
        spread: standard deviation of the weights: so large that a wrong epsilon or activation shows.
        prepare: changes a model before it runs, where `transformers` is known to be wrong.
        skip: names of parameters that keep what `transformers` initialises them to (sinusoidal tables).
    """

    architectures: tuple[str, ...]
    sizes: Settings
    outputs: Callable[[Any], Mapping[str, Sequence[Any]]]
    named: Mapping[str, Settings] = field(default_factory=dict)
    vary: st.SearchStrategy[dict[str, Any]] = field(default_factory=lambda: st.just({}))
    inputs: str = "tokens"
    lengths: tuple[tuple[int, ...], tuple[int, ...]] = ((7, 4, 1), (3, 5, 2))
    ended: bool = False
    image: tuple[int, ...] = ()
    spread: float = 0.2
    prepare: Callable[[Any], None] = lambda model: None
    skip: tuple[str, ...] = ()

    def build(self, architecture: str | None = None, seed: int = 0, **config: Any) -> Any:
        """A random `transformers` model with eager attention."""
        cls = getattr(transformers, architecture or self.architectures[0])
        settings = cls.config_class(**{**self.sizes, **config})
        model = cls._from_config(settings, attn_implementation="eager").eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if not any(part in name for part in self.skip):
                    noise = torch.randn(value.shape, generator=generator)
                    drawn = self.spread * noise if value.ndim > 1 else 0.3 * noise
                    value.copy_(drawn + (value.ndim == 1 and not name.endswith("bias") and _is_scale(name)))
        self.prepare(model)
        return model

    def batch(self, model: Any, side: str = "right", seed: int = 0) -> jh.Batch:
        """Random inputs of a `transformers` model, padded on one side."""
        rng = np.random.default_rng(seed)
        if self.inputs == "pixels":
            return jh.Batch(pixels=rng.standard_normal((2, *self.image), np.float32))
        if self.inputs == "features":
            return self._audio(model, rng, side)
        texts = model.config.get_text_config()
        vocabulary = texts.vocab_size
        tokens, mask = _padded(rng, self.lengths[0], vocabulary, side)
        if self.ended:
            ends = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
            tokens[np.arange(len(tokens)), ends] = texts.eos_token_id
        if self.inputs == "pairs":
            return jh.Batch(tokens, mask, pixels=rng.standard_normal((len(tokens), *self.image), np.float32))
        types = rng.integers(0, getattr(model.config, "type_vocab_size", None) or 1, tokens.shape)
        if self.inputs == "tokens":
            return jh.Batch(tokens, mask, types)
        targets, target_mask = _padded(rng, self.lengths[1], vocabulary, side)
        return jh.Batch(tokens, mask, targets=targets, target_mask=target_mask)

    def _audio(self, model: Any, rng: np.random.Generator, side: str) -> jh.Batch:
        shape = (len(self.lengths[1]), model.config.num_mel_bins, 2 * model.config.max_source_positions)
        features = rng.standard_normal(shape, np.float32)
        targets, mask = _padded(rng, self.lengths[1], model.config.vocab_size, side)
        return jh.Batch(features=features, targets=targets, target_mask=mask)


def _is_scale(name: str) -> bool:
    return name.endswith("weight") or "lambda" in name or "layer_scale" in name


def _padded(rng: np.random.Generator, lengths: Sequence[int], vocabulary: int, side: str) -> tuple[np.ndarray, ...]:
    """Random ids (also where there is padding: it must not matter; none is one that a family takes for padding)."""
    T, lengths_B1 = max(lengths), np.array(lengths)[:, None]
    mask = np.arange(T) < lengths_B1 if side == "right" else np.arange(T) >= T - lengths_B1
    return rng.integers(4, vocabulary, mask.shape), mask


def pair(spec: Spec, architecture: str | None = None, **config: Any) -> Pair:
    """A random model, and the same loaded from the files that `transformers` writes."""
    theirs = spec.build(architecture, **config)
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return Pair(theirs, jh.load(directory))


@functools.cache
def small(name: str) -> Pair:
    """A family's pair for the laws (shared: nothing may change it)."""
    from . import SPECS

    return pair(SPECS[name])


@contextmanager
def without(outputs: Mapping[str, Sequence[Any]], heads: Heads, counts: Mapping[str, int]):
    """While it lasts, the modules that read z read zeros of these heads. One module may serve several layers."""
    with ExitStack() as stack:
        for name, modules in outputs.items():
            for module in set(modules):
                layers = [layer for layer, one in enumerate(modules) if one is module]
                calls = iter(range(10**9))

                def cut(_, args, layers=layers, calls=calls, name=name):
                    layer, z = layers[next(calls) % len(layers)], args[0].clone()
                    size = z.shape[-1] // counts[name]
                    for where, head in heads.get(name, ()):
                        if where == layer:
                            z[..., head * size : (head + 1) * size] = 0
                    return (z, *args[1:])

                handle = module.register_forward_pre_hook(cut)
                stack.callback(handle.remove)
        yield


def their_run(model: Any, batch: jh.Batch, example: int) -> dict[str, Any]:
    """Of one example by itself: output `[T,V]`, and by stack patterns `[L,N,T,S]` and what each layer reads
    `[L,T,D]`."""
    with torch.no_grad():
        out = model(**_inputs(model, batch, example), output_attentions=True, output_hidden_states=True)
    names = ("logits_per_image", "image_embeds", "text_embeds", "logits", "prediction_logits", "last_hidden_state")
    found: dict[str, Any] = {"output": next(out[name] for name in names if name in out)[0].float().numpy()}
    for stack, given, prefix in _their_stacks(out):
        found[f"{stack}.pattern"] = torch.stack([one[0].float() for one in given[f"{prefix}attentions"]]).numpy()
        if f"{prefix}hidden_states" in given:
            found[f"{stack}.resid_pre"] = torch.stack(
                [one[0].float() for one in given[f"{prefix}hidden_states"][:-1]]
            ).numpy()
    return found


def _their_stacks(out: Any) -> list[tuple[str, Any, str]]:
    """Of each stack its name, where its attentions are, and what their names there begin with."""
    if "encoder_attentions" in out:
        return [("encoder", out, "encoder_"), ("decoder", out, "decoder_"), ("cross", out, "cross_")]
    if "text_model_output" in out:
        return [(name, out[f"{name}_model_output"], "") for name in ("text", "vision")]
    return [("", out, "")]


def _inputs(model: Any, batch: jh.Batch, example: int) -> dict[str, torch.Tensor]:
    takes = inspect.signature(model.forward).parameters
    given: dict[str, Any] = {}
    for name, ids, mask in (
        ("input_ids", batch.tokens, batch.mask),
        ("decoder_input_ids", batch.targets, batch.target_mask),
    ):
        if ids is not None and mask is not None:
            given[name] = np.asarray(ids[example])[np.asarray(mask[example])][None]
    if batch.tokens is not None and "token_type_ids" in takes and hasattr(model.config, "type_vocab_size"):
        given["token_type_ids"] = np.asarray(batch.token_types[example])[np.asarray(batch.mask[example])][None]
    if batch.pixels is not None:
        given["pixel_values"] = np.moveaxis(np.asarray(batch.pixels[example]), -1, 0)[None]
    if batch.features is not None:
        given["input_features"] = np.asarray(batch.features[example])[None]
    tensors = {name: torch.tensor(value) for name, value in given.items()}
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def compare(ours: jh.Run, theirs: Mapping[str, Any], model: jh.Model, batch: jh.Batch, example: int) -> None:
    """Output, patterns and streams of one example at its real positions."""
    last = model.network.streams[-1].queries.of(batch)
    real = np.asarray(last.mask)[example]
    output = np.asarray(ours.output)[example]
    if batch.tokens is not None and batch.pixels is not None:
        output = output[example : example + 1]  # compared with its own text only, as theirs is
    at_positions = output.ndim > 1 or model.network.classes_of == "token"
    assert_close(output[real] if at_positions else output, theirs["output"])
    for name, stack in model.stacks.items():
        prefix = name if f"{name}.pattern" in theirs else ""
        asks, seen = (np.asarray(axis.of(batch).mask)[example] for axis in (stack.queries, stack.keys))
        pattern = np.asarray(ours.seen[f"{name}.pattern"])[:, example]
        assert_close(pattern[:, :, asks][..., seen], theirs[f"{prefix}.pattern"])
        assert np.abs(pattern[:, :, asks][..., ~seen]).max(initial=0) == 0
        if f"{prefix}.resid_pre" in theirs and f"{name}.resid_pre" in ours.seen:
            assert_close(np.asarray(ours.seen[f"{name}.resid_pre"])[:, example][:, asks], theirs[f"{prefix}.resid_pre"])
