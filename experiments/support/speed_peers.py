"""PyTorch, TransformerLens and nnsight as sides of `experiments.speed`.

Each is used as its documentation shows, and in every other way known to be faster; the fastest counts. All run whole
forward passes of the same `transformers` GPT-2, without gradients where none are needed, on all cores.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .speed_machine import fastest_product
from .speed_worker import Way
from .speed_works import COLUMNS_COMPARED, WRITTEN, Inputs, Work

LAST_ONLY = {"use_cache": False, "logits_to_keep": 1}
"""Arguments of `transformers`' forward pass: no cache of keys and values, logits of the last position only."""

Index = tuple[slice | int, ...]
"""Index of a cell in its site's values."""
EditedRun = Callable[[str, int, Index, Any], Tensor]
"""`edited_run(site, layer, index, value)`: the objective `[E]` with the site's values at an index replaced."""


class TorchSide:
    """The base of all sides: inputs as tensors, one edited run after the other, and the objective."""

    def __init__(self, weights: Path):
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self.model: Any = GPT2LMHeadModel.from_pretrained(weights).eval()
        self.layers, self.heads = self.model.config.n_layer, self.model.config.n_head
        self.head_size = self.model.config.n_embd // self.heads

    def ways(self, work: Work, inputs: Inputs) -> Mapping[str, Way]:
        """Return the ways to do a work, by name."""
        self.tokens = torch.from_numpy(inputs.tokens)
        self.source = None if inputs.source is None else torch.from_numpy(inputs.source)
        self.right, self.wrong = torch.from_numpy(inputs.right), torch.from_numpy(inputs.wrong)
        with torch.no_grad():
            self.model(self.tokens, **LAST_ONLY)  # threads started, memory touched
        plain = {"importance": self.importance, "forward": self.forward, "measure": self.measures}
        ways = {**plain, "write": self.writing}.get(work.kind, partial(self.sweeps, work))()
        return {name: _numpy(way, gradient=work.kind == "importance") for name, way in ways.items()}

    @abstractmethod
    def sweeps(self, work: Work) -> Mapping[str, Callable[[], Tensor]]:
        """Return ways to ablate or patch: effects `[E,L,N]` or `[E,L,T]`."""

    @abstractmethod
    def importance(self) -> Mapping[str, Callable[[], Tensor]]:
        """Return ways to compute |sum of z times its gradient| for each head, `[E,L,N]`."""

    @abstractmethod
    def forward(self) -> Mapping[str, Callable[[], Tensor]]:
        """Return ways to compute all logits `[E,T,V]`; only a few of their columns are compared."""

    def measures(self) -> Mapping[str, Callable[[], Tensor]]:
        """Return ways to compute entropy and previous-token score of all heads, `[E,L,2N]`."""
        raise NotImplementedError

    def writing(self) -> Mapping[str, Callable[[], Tensor]]:
        """Return the way to write greedily by `transformers`: tokens `[E,1,W]`."""
        self.model.generation_config.eos_token_id = None
        settings: Any = {"attention_mask": torch.ones_like(self.tokens), "do_sample": False, "pad_token_id": 0}
        write = partial(self.model.generate, self.tokens, max_new_tokens=WRITTEN, **settings)
        return {"generate": lambda: write()[:, None, -WRITTEN:]}

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """Return numbers of the work that are known before it is done: none."""
        del work, inputs
        return {}

    @staticmethod
    def measured(patterns: list[Tensor]) -> Tensor:
        """Return entropy and previous-token score from each layer's patterns `[E,N,T,T]`."""
        entropy = [-(p * p.clamp(min=1e-37).log()).sum(dim=-1).mean(dim=-1) for p in patterns]
        previous = [p.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1) for p in patterns]
        return torch.cat([torch.stack(entropy, dim=1), torch.stack(previous, dim=1)], dim=-1)

    def matmul(self) -> float:
        """Return the rate of `torch.mm`."""

        def multiply(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
            return partial(torch.mm, torch.from_numpy(a), torch.from_numpy(b))

        return fastest_product(multiply)

    def difference(self, logits_EV: Tensor) -> Tensor:
        """Return the logit difference, `[E]`."""
        example = torch.arange(len(logits_EV))
        return logits_EV[example, self.right] - logits_EV[example, self.wrong]

    def columns(self, work: Work) -> list[Index]:
        """Return the index of each column of a work's table in its site's values, `[E,T,N * H]` or `[E,T,D]`."""
        if work.by == "position":
            return [(slice(None), position) for position in range(self.tokens.shape[1])]
        return [(slice(None), slice(None), self.head_slice(head)) for head in range(self.heads)]

    def head_slice(self, head: int) -> slice:
        """Return the slice of one head in z, `[…,N * H]`."""
        return slice(head * self.head_size, (head + 1) * self.head_size)

    def one_by_one(self, work: Work, edited_run: EditedRun, source: list[Tensor] | None, baseline: Tensor) -> Tensor:
        """Run the model once for each cell; return the table of effects, `[E,L,C]`."""
        columns = self.columns(work)
        values = [
            [edited_run(work.site, layer, index, 0 if source is None else source[layer][index]) for index in columns]
            for layer in range(self.layers)
        ]
        return torch.stack([torch.stack(row, dim=1) for row in values], dim=1) - baseline[:, None, None]

    def by_head(self, products: list[Tensor]) -> Tensor:
        """Return |sum over positions and a head's dimensions| of each layer's `[E,T,N * H]`, `[E,L,N]`."""
        heads = [x.reshape(*x.shape[:2], self.heads, -1).sum(dim=(1, 3)).abs() for x in products]
        return torch.stack(heads, dim=1)


def _numpy(way: Callable[[], Tensor], *, gradient: bool) -> Way:
    def run() -> np.ndarray:
        with torch.set_grad_enabled(gradient):
            return way().detach().float().numpy()

    return run


class PyTorch(TorchSide):
    """PyTorch alone: `transformers` and forward hooks."""

    def sweeps(self, work: Work) -> Mapping[str, Callable[[], Tensor]]:
        return {"hooks, last logits": partial(self._sweep, work)}

    def importance(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"hooks and autograd.grad": self._importance}

    def forward(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"model(tokens)": lambda: self.model(self.tokens, use_cache=False).logits[:, :, ::COLUMNS_COMPARED]}

    def measures(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"output_attentions, last logits": self._measure}

    def _measure(self) -> Tensor:
        self.model.set_attn_implementation("eager")  # the fast ones give no patterns
        return self.measured(list(self.model(self.tokens, output_attentions=True, **LAST_ONLY).attentions))

    def _sweep(self, work: Work) -> Tensor:
        source = None if self.source is None else self._site_values(self.source, work.site)[0]
        return self.one_by_one(work, self._edited_run, source, self._objective(self.tokens))

    def _objective(self, tokens: Tensor) -> Tensor:
        return self.difference(self.model(tokens, **LAST_ONLY).logits[:, -1])

    def _edited_run(self, site: str, layer: int, index: Index, value: Any) -> Tensor:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            arguments[0][index] = value

        handle = self._module(site, layer).register_forward_pre_hook(hook)
        try:
            return self._objective(self.tokens)
        finally:
            handle.remove()

    def _site_values(self, tokens: Tensor, site: str) -> tuple[list[Tensor], Tensor]:
        """Return the site's values in every layer, and the objective."""
        values: list[Tensor] = []
        hooks = [
            self._module(site, layer).register_forward_pre_hook(lambda _, arguments: values.append(arguments[0]))
            for layer in range(self.layers)
        ]
        objective = self._objective(tokens)
        for hook in hooks:
            hook.remove()
        return values, objective

    def _module(self, site: str, layer: int) -> Any:
        block = self.model.transformer.h[layer]
        return block.attn.c_proj if site == "z" else block

    def _importance(self) -> Tensor:
        values, objective = self._site_values(self.tokens, "z")
        gradients = torch.autograd.grad(objective.sum(), values)  # of z alone: no gradients of weights
        return self.by_head([z * gradient for z, gradient in zip(values, gradients, strict=True)])


class TransformerLens(TorchSide):
    """TransformerLens: `TransformerBridge`, its hooks, and its own patching functions."""

    dtype = torch.float32

    def __init__(self, weights: Path):
        super().__init__(weights)
        bridge = import_module("transformer_lens.model_bridge").TransformerBridge
        self.patching = import_module("transformer_lens.patching")
        self.attribution = import_module("transformer_lens.tools.analysis.attribution_patching")
        self.model = bridge.boot_transformers(str(weights), device="cpu", dtype=self.dtype)

    def sweeps(self, work: Work) -> Mapping[str, Callable[[], Tensor]]:
        documented = self._ablate if work.kind == "ablate" else self._patch
        return {"as documented": partial(documented, work), "last logits": partial(self._sweep, work, LAST_ONLY)}

    def importance(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"as documented": self._documented_importance, "last logits": self._importance}

    def forward(self) -> Mapping[str, Callable[[], Tensor]]:
        return {
            "as documented": lambda: self.model(self.tokens)[:, :, ::COLUMNS_COMPARED],
            "no cache": lambda: self.model(self.tokens, use_cache=False)[:, :, ::COLUMNS_COMPARED],
        }

    def measures(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"run_with_cache": self._from_cache, "patterns only": self._from_patterns}

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """Return the bytes of the cache of `run_with_cache`, which measures are taken from."""
        del inputs
        if work.kind != "measure":
            return {}
        with torch.no_grad():
            _, cache = self.model.run_with_cache(self.tokens)
        storages = [value.untyped_storage() for value in cache.values() if isinstance(value, Tensor)]
        return {"held": sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())}

    def _from_cache(self) -> Tensor:
        _, cache = self.model.run_with_cache(self.tokens)
        return self.measured([cache["pattern", layer] for layer in range(self.layers)])

    def _from_patterns(self) -> Tensor:
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(self.layers)]
        _, cache = self.model.run_with_cache(self.tokens, names_filter=names, **LAST_ONLY)
        return self.measured([cache[name] for name in names])

    def columns(self, work: Work) -> list[Index]:
        """Return the index of each column of a work's table; z is `[E,T,N,H]` here."""
        if work.by == "head":
            return [(slice(None), slice(None), head) for head in range(self.heads)]
        return super().columns(work)

    def _ablate(self, work: Work) -> Tensor:
        return self._sweep(work, {})

    def _patch(self, work: Work) -> Tensor:
        names = {"z": "get_act_patch_attn_head_out_all_pos", "resid_pre": "get_act_patch_resid_pre"}
        _, cache = self.model.run_with_cache(self.source, names_filter=self._names(work.site))
        results = getattr(self.patching, names[work.site])(
            self.model,
            self.tokens,
            cache,
            lambda logits: self.difference(logits[:, -1]),
            reduce="none",
            baseline=True,
        )
        return torch.moveaxis(results.effect(), -1, 0)

    def _sweep(self, work: Work, options: Mapping[str, Any]) -> Tensor:
        source = None
        if self.source is not None:
            names = self._names(work.site)
            _, cache = self.model.run_with_cache(self.source, names_filter=names, **options)
            source = [cache[name] for name in names]
        baseline = self.difference(self.model(self.tokens, **options)[:, -1])
        return self.one_by_one(work, partial(self._edited_run, options), source, baseline)

    def _edited_run(self, options: Mapping[str, Any], site: str, layer: int, index: Index, value: Any) -> Tensor:
        def hook(x: Tensor, hook: Any) -> Tensor:
            del hook
            x[index] = value
            return x

        logits = self.model.run_with_hooks(self.tokens, fwd_hooks=[(self._names(site)[layer], hook)], **options)
        return self.difference(logits[:, -1])

    def _documented_importance(self) -> Tensor:
        names = ["hook_embed", *self._names("z")]
        results = self.attribution.cache_activation_and_gradient(
            self.model, self.tokens, lambda logits: self.difference(logits[:, -1]).sum(), names_filter=names
        )
        return self._products(results.activations, results.gradients)

    def _importance(self) -> Tensor:
        """Compute importance by hooks, which let the model compute the last logits only."""
        names = ["hook_embed", *self._names("z")]
        values: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def keep(into: dict[str, Tensor], name: str, x: Tensor, hook: Any) -> None:
            del hook
            into[name] = x

        forward = [(name, partial(keep, values, name)) for name in names]
        backward = [(name, partial(keep, gradients, name)) for name in names]
        with self.model.hooks(fwd_hooks=forward, bwd_hooks=backward):
            objective = self.difference(self.model(self.tokens, **LAST_ONLY)[:, -1]).sum()
            torch.autograd.grad(objective, values["hook_embed"])
        return self._products(values, gradients)

    def _products(self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        return self.by_head([values[name] * gradients[name] for name in self._names("z")])

    def _names(self, site: str) -> list[str]:
        """Return the hook's name in each layer."""
        hook = "attn.hook_z" if site == "z" else "hook_resid_pre"
        return [f"blocks.{layer}.{hook}" for layer in range(self.layers)]


class TransformerLensInBfloat16(TransformerLens):
    """TransformerLens with weights and activations in bfloat16."""

    dtype = torch.bfloat16


class NNsight(TorchSide):
    """nnsight: a trace of each cell, with or without the layers before it, or of all cells of a layer as rows."""

    def __init__(self, weights: Path):
        super().__init__(weights)
        self.nnsight: Any = import_module("nnsight")
        self.traced: Any = self.nnsight.NNsight(self.model)

    def sweeps(self, work: Work) -> Mapping[str, Callable[[], Tensor]]:
        return {
            "a trace a cell": partial(self._sweep, work, skip=False),
            "a trace a cell, layers before it skipped": partial(self._sweep, work, skip=True),
            "a trace a layer, layers before it skipped": partial(self._layers, work),
        }

    def importance(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"as documented": self._importance, "weights frozen": partial(self._importance, frozen=True)}

    def forward(self) -> Mapping[str, Callable[[], Tensor]]:
        return {"model.trace(tokens)": self._forward}

    def _forward(self) -> Tensor:
        with self.traced.trace(self.tokens, use_cache=False):
            logits = self.traced.output.logits.save()
        return logits[:, :, ::COLUMNS_COMPARED]

    def _sweep(self, work: Work, *, skip: bool) -> Tensor:
        source = None if self.source is None else self._site_values(self.source, work.site)[0]
        streams, baseline = self._site_values(self.tokens, "resid_post")
        return self.one_by_one(work, partial(self._edited_run, streams if skip else []), source, baseline)

    def _edited_run(self, streams: list[Tensor], site: str, layer: int, index: Index, value: Any) -> Tensor:
        with self.traced.trace(self.tokens, **LAST_ONLY):
            for before, stream in enumerate(streams[:layer]):
                self.traced.transformer.h[before].skip(stream.clone())  # the edit changes the last of them in place
            self._input(site, layer)[index] = value
            logits = self.traced.output.logits.save()
        return self.difference(logits[:, -1])

    def _layers(self, work: Work) -> Tensor:
        source = None if self.source is None else self._site_values(self.source, work.site)[0]
        streams, baseline = self._site_values(self.tokens, "resid_post")
        rows = [self._layer(work, layer, streams, source) for layer in range(self.layers)]
        return torch.stack(rows, dim=1) - baseline[:, None, None]

    def _layer(self, work: Work, layer: int, streams: list[Tensor], source: list[Tensor] | None) -> Tensor:
        """Return the objective `[E,C]` of one layer's cells."""
        columns, E = self.columns(work), len(self.tokens)
        with self.traced.trace(self.tokens.repeat(len(columns), 1), **LAST_ONLY):
            for before, stream in enumerate(streams[:layer]):
                self.traced.transformer.h[before].skip(stream.repeat(len(columns), 1, 1))
            x = self._input(work.site, layer)
            for number, index in enumerate(columns):
                x[number * E : (number + 1) * E][index] = 0 if source is None else source[layer][index]
            logits = self.traced.output.logits.save()
        return torch.stack([self.difference(cell[:, -1]) for cell in logits.split(E)], dim=1)

    def _site_values(self, tokens: Tensor, site: str) -> tuple[list[Tensor], Tensor]:
        """Return the site's values in every layer, and the objective."""
        with self.traced.trace(tokens, **LAST_ONLY):
            if site == "resid_post":
                values = self.nnsight.save([block.output for block in self.traced.transformer.h])
            else:
                values = self.nnsight.save([self._input(site, layer).clone() for layer in range(self.layers)])
            logits = self.traced.output.logits.save()
        return values, self.difference(logits[:, -1])

    def _input(self, site: str, layer: int) -> Any:
        block = self.traced.transformer.h[layer]
        return block.attn.c_proj.input if site == "z" else block.input

    def _importance(self, *, frozen: bool = False) -> Tensor:
        self.model.requires_grad_(not frozen)
        with self.traced.trace(self.tokens, **LAST_ONLY):
            if frozen:
                self.traced.transformer.drop.output.requires_grad_()
            values = self.nnsight.save([self._input("z", layer) for layer in range(self.layers)])
            objective: Any = self.difference(self.traced.output.logits[:, -1]).sum()
            with objective.backward():
                gradients = self.nnsight.save([z.grad for z in reversed(values)])
        self.model.zero_grad()
        return self.by_head([z * gradient for z, gradient in zip(values, reversed(gradients), strict=True)])
