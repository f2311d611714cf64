"""What jaxheads is put beside in `experiments.speed`: PyTorch itself, TransformerLens and nnsight.

Each is used as its own documentation shows, and in every other way known to be faster; the fastest counts. All run
whole forward passes of the same `transformers` GPT-2, without gradients where none are needed, on all cores.
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
from transformers import GPT2LMHeadModel

from experiments.speed_worker import Way, fastest_product
from experiments.speed_works import COLUMNS_COMPARED, Inputs, Work

LAST_ONLY = {"use_cache": False, "logits_to_keep": 1}
"""Arguments of `transformers`' forward pass: no keys and values for later, logits of the last position only."""

Where = tuple[slice | int, ...]
Edited = Callable[[str, int, Where, Any], Tensor]
"""`edited(site, layer, where, value)`: the objective `[E]` with the site's values `where` replaced."""


class TorchSide:
    """What the sides share: inputs as tensors, one edited run after the other, and the objective."""

    def __init__(self, weights: Path):
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self.model: Any = GPT2LMHeadModel.from_pretrained(weights).eval()
        self.layers, self.heads = self.model.config.n_layer, self.model.config.n_head
        self.size = self.model.config.n_embd // self.heads

    def ways(self, work: Work, inputs: Inputs) -> Mapping[str, Way]:
        """By the kind of work."""
        self.tokens = torch.from_numpy(inputs.tokens)
        self.source = None if inputs.source is None else torch.from_numpy(inputs.source)
        self.right, self.wrong = torch.from_numpy(inputs.right), torch.from_numpy(inputs.wrong)
        with torch.no_grad():
            self.model(self.tokens, **LAST_ONLY)  # threads started, memory touched
        plain = {"importance": self.importance, "forward": self.forward, "measure": self.measures}
        found = plain.get(work.kind, partial(self.sweeps, work))()
        return {name: _numpy(way, gradient=work.kind == "importance") for name, way in found.items()}

    @abstractmethod
    def sweeps(self, work: Work) -> Mapping[str, Callable[[], Tensor]]:
        """Ways of ablating and patching: effects `[E,L,N]` or `[E,L,T]`."""

    @abstractmethod
    def importance(self) -> Mapping[str, Callable[[], Tensor]]:
        """Ways of getting |sum of z times its gradient| for each head, `[E,L,N]`."""

    @abstractmethod
    def forward(self) -> Mapping[str, Callable[[], Tensor]]:
        """Ways of getting all logits `[E,T,V]`, and of those some columns."""

    def measures(self) -> Mapping[str, Callable[[], Tensor]]:
        """Ways of getting entropy and previous-token score of all heads, `[E,L,2N]`."""
        raise NotImplementedError

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """Nothing."""
        del work, inputs
        return {}

    @staticmethod
    def measured(patterns: list[Tensor]) -> Tensor:
        """Entropy and previous-token score from each layer's patterns `[E,N,T,T]`."""
        entropy = [-(p * p.clamp(min=1e-37).log()).sum(dim=-1).mean(dim=-1) for p in patterns]
        previous = [p.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1) for p in patterns]
        return torch.cat([torch.stack(entropy, dim=1), torch.stack(previous, dim=1)], dim=-1)

    def matmul(self) -> float:
        """Of `torch.mm`."""

        def multiply(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
            return partial(torch.mm, torch.from_numpy(a), torch.from_numpy(b))

        return fastest_product(multiply)

    def difference(self, logits_EV: Tensor) -> Tensor:
        """The objective, `[E]`."""
        example = torch.arange(len(logits_EV))
        return logits_EV[example, self.right] - logits_EV[example, self.wrong]

    def columns(self, work: Work) -> list[Where]:
        """Where each column of a work's table is in its site's values, `[E,T,N * H]` or `[E,T,D]`."""
        if work.by == "position":
            return [(slice(None), position) for position in range(self.tokens.shape[1])]
        return [(slice(None), slice(None), self.part(head)) for head in range(self.heads)]

    def part(self, head: int) -> slice:
        """One head's part of z, `[…,N * H]`."""
        return slice(head * self.size, (head + 1) * self.size)

    def one_by_one(self, work: Work, edited: Edited, source: list[Tensor] | None, unedited: Tensor) -> Tensor:
        """A run for each cell: the table of effects, `[E,L,C]`."""
        places = self.columns(work)
        values = [
            [edited(work.site, layer, at, 0 if source is None else source[layer][at]) for at in places]
            for layer in range(self.layers)
        ]
        return torch.stack([torch.stack(row, dim=1) for row in values], dim=1) - unedited[:, None, None]

    def by_head(self, products: list[Tensor]) -> Tensor:
        """|sum over positions and a head's dimensions| of each layer's `[E,T,N * H]`: `[E,L,N]`."""
        heads = [x.reshape(*x.shape[:2], self.heads, -1).sum(dim=(1, 3)).abs() for x in products]
        return torch.stack(heads, dim=1)


def _numpy(way: Callable[[], Tensor], *, gradient: bool) -> Way:
    def run() -> np.ndarray:
        with torch.set_grad_enabled(gradient):
            return way().detach().numpy()

    return run


class PyTorch(TorchSide):
    """`transformers` and forward hooks."""

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
        source = None if self.source is None else self._kept(self.source, work.site)[0]
        return self.one_by_one(work, self._edited, source, self._objective(self.tokens))

    def _objective(self, tokens: Tensor) -> Tensor:
        return self.difference(self.model(tokens, **LAST_ONLY).logits[:, -1])

    def _edited(self, site: str, layer: int, where: Where, value: Any) -> Tensor:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            arguments[0][where] = value

        handle = self._module(site, layer).register_forward_pre_hook(hook)
        try:
            return self._objective(self.tokens)
        finally:
            handle.remove()

    def _kept(self, tokens: Tensor, site: str) -> tuple[list[Tensor], Tensor]:
        """The site's values in every layer, and the objective."""
        kept: list[Tensor] = []
        hooks = [
            self._module(site, layer).register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
            for layer in range(self.layers)
        ]
        objective = self._objective(tokens)
        for hook in hooks:
            hook.remove()
        return kept, objective

    def _module(self, site: str, layer: int) -> Any:
        block = self.model.transformer.h[layer]
        return block.attn.c_proj if site == "z" else block

    def _importance(self) -> Tensor:
        kept, objective = self._kept(self.tokens, "z")
        gradients = torch.autograd.grad(objective.sum(), kept)  # of these only: no gradients of weights
        return self.by_head([z * gradient for z, gradient in zip(kept, gradients, strict=True)])


class TransformerLens(TorchSide):
    """`TransformerBridge`, its hooks, and its own patching functions."""

    def __init__(self, weights: Path):
        super().__init__(weights)
        bridge = import_module("transformer_lens.model_bridge").TransformerBridge
        self.patching = import_module("transformer_lens.patching")
        self.attribution = import_module("transformer_lens.tools.analysis.attribution_patching")
        self.model = bridge.boot_transformers(str(weights), device="cpu")

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
        """Bytes of the cache that `run_with_cache` gives, where that is what is measured from."""
        del inputs
        if work.kind != "measure":
            return {}
        with torch.no_grad():
            _, cache = self.model.run_with_cache(self.tokens)
        storages = [value.untyped_storage() for value in cache.values() if isinstance(value, Tensor)]
        return {"held": sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())}

    def _from_cache(self) -> Tensor:
        _, cache = self.model.run_with_cache(self.tokens)
        return self.measured([cache["pattern", layer] for layer in self._all()])

    def _from_patterns(self) -> Tensor:
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in self._all()]
        _, cache = self.model.run_with_cache(self.tokens, names_filter=names, **LAST_ONLY)
        return self.measured([cache[name] for name in names])

    def columns(self, work: Work) -> list[Where]:
        """z is `[E,T,N,H]` here."""
        if work.by == "head":
            return [(slice(None), slice(None), head) for head in range(self.heads)]
        return super().columns(work)

    def _ablate(self, work: Work) -> Tensor:
        return self._sweep(work, {})

    def _patch(self, work: Work) -> Tensor:
        names = {"z": "get_act_patch_attn_head_out_all_pos", "resid_pre": "get_act_patch_resid_pre"}
        _, cache = self.model.run_with_cache(self.source, names_filter=[self._name(work.site, n) for n in self._all()])
        found = getattr(self.patching, names[work.site])(
            self.model,
            self.tokens,
            cache,
            lambda logits: self.difference(logits[:, -1]),
            reduce="none",
            baseline=True,
        )
        return torch.moveaxis(found.effect(), -1, 0)

    def _sweep(self, work: Work, how: Mapping[str, Any]) -> Tensor:
        source = None
        if self.source is not None:
            names = [self._name(work.site, layer) for layer in self._all()]
            _, cache = self.model.run_with_cache(self.source, names_filter=names, **how)
            source = [cache[name] for name in names]
        unedited = self.difference(self.model(self.tokens, **how)[:, -1])
        return self.one_by_one(work, partial(self._edited, how), source, unedited)

    def _edited(self, how: Mapping[str, Any], site: str, layer: int, where: Where, value: Any) -> Tensor:
        def hook(x: Tensor, hook: Any) -> Tensor:
            del hook
            x[where] = value
            return x

        logits = self.model.run_with_hooks(self.tokens, fwd_hooks=[(self._name(site, layer), hook)], **how)
        return self.difference(logits[:, -1])

    def _documented_importance(self) -> Tensor:
        names = ["hook_embed", *(self._name("z", layer) for layer in self._all())]
        found = self.attribution.cache_activation_and_gradient(
            self.model, self.tokens, lambda logits: self.difference(logits[:, -1]).sum(), names_filter=names
        )
        return self._products(found.activations, found.gradients)

    def _importance(self) -> Tensor:
        """The same by hooks, so that the model can be told to give the last logits only."""
        names = ["hook_embed", *(self._name("z", layer) for layer in self._all())]
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
        return self.by_head([values[name] * gradients[name] for name in map(partial(self._name, "z"), self._all())])

    def _name(self, site: str, layer: int) -> str:
        return f"blocks.{layer}.{'attn.hook_z' if site == 'z' else 'hook_resid_pre'}"

    def _all(self) -> range:
        return range(self.layers)


class NNsight(TorchSide):
    """Traces: of one cell at a time, without the layers before it (`skip`), and of a layer's cells as rows."""

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
        source = None if self.source is None else self._kept(self.source, work.site)[0]
        streams, unedited = self._kept(self.tokens, "resid_post")
        edited = partial(self._edited, streams if skip else [])
        return self.one_by_one(work, edited, source, unedited)

    def _edited(self, streams: list[Tensor], site: str, layer: int, where: Where, value: Any) -> Tensor:
        with self.traced.trace(self.tokens, **LAST_ONLY):
            for before, stream in enumerate(streams[:layer]):
                self.traced.transformer.h[before].skip(stream.clone())  # the last of them is what the edit changes
            self._input(site, layer)[where] = value
            logits = self.traced.output.logits.save()
        return self.difference(logits[:, -1])

    def _layers(self, work: Work) -> Tensor:
        source = None if self.source is None else self._kept(self.source, work.site)[0]
        streams, unedited = self._kept(self.tokens, "resid_post")
        rows = [self._layer(work, layer, streams, source) for layer in range(self.layers)]
        return torch.stack(rows, dim=1) - unedited[:, None, None]

    def _layer(self, work: Work, layer: int, streams: list[Tensor], source: list[Tensor] | None) -> Tensor:
        """The objective `[E,C]` of one layer's cells."""
        places, E = self.columns(work), len(self.tokens)
        with self.traced.trace(self.tokens.repeat(len(places), 1), **LAST_ONLY):
            for before, stream in enumerate(streams[:layer]):
                self.traced.transformer.h[before].skip(stream.repeat(len(places), 1, 1))
            x = self._input(work.site, layer)
            for number, where in enumerate(places):
                x[number * E : (number + 1) * E][where] = 0 if source is None else source[layer][where]
            logits = self.traced.output.logits.save()
        return torch.stack([self.difference(part[:, -1]) for part in logits.split(E)], dim=1)

    def _kept(self, tokens: Tensor, site: str) -> tuple[list[Tensor], Tensor]:
        """The site's values in every layer, and the objective."""
        with self.traced.trace(tokens, **LAST_ONLY):
            if site == "resid_post":
                kept = self.nnsight.save([block.output for block in self.traced.transformer.h])
            else:
                kept = self.nnsight.save([self._input(site, layer).clone() for layer in range(self.layers)])
            logits = self.traced.output.logits.save()
        return kept, self.difference(logits[:, -1])

    def _input(self, site: str, layer: int) -> Any:
        block = self.traced.transformer.h[layer]
        return block.attn.c_proj.input if site == "z" else block.input

    def _importance(self, *, frozen: bool = False) -> Tensor:
        self.model.requires_grad_(not frozen)
        with self.traced.trace(self.tokens, **LAST_ONLY):
            if frozen:
                self.traced.transformer.drop.output.requires_grad_()
            kept = self.nnsight.save([self._input("z", layer) for layer in range(self.layers)])
            objective: Any = self.difference(self.traced.output.logits[:, -1]).sum()
            with objective.backward():
                gradients = self.nnsight.save([z.grad for z in reversed(kept)])
        self.model.zero_grad()
        return self.by_head([z * gradient for z, gradient in zip(kept, reversed(gradients), strict=True)])
