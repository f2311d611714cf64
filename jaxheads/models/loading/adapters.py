"""LoRA adapters of PEFT, merged into their base's tensors as these are read (Hu et al. 2021; DoRA, Liu et al. 2024)."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .containers import is_present, listed
from .hf_directory import read_json
from .hf_tokenizer import directory_tokenizer
from .linear_storage import is_conv1d
from .pickles import pickle_tensors
from .safetensors_file import safetensors_tensors
from .weight_files import weight_files

CONFIG = "adapter_config.json"
WEIGHTS: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
    "adapter_model.safetensors": safetensors_tensors,
    "adapter_model.bin": pickle_tensors,
}
"""Readers by the name of an adapter's weight file, in order of preference."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "layer_replication": (),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    "alora_invocation_tokens": (),
    "arrow_config": (),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "velora_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Fields under whose other values the weights mean something else, or the base is another."""

_KIND = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.default)?(\.weight|\.bias)?"
)
_TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter's files.

    Attributes:
        config: the contents of adapter_config.json.
        tensors: by PEFT's names.
        directory: where they lie.
        identity: returns a hash of the weights.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    directory: Path
    identity: Callable[[], str]

    @property
    def base(self) -> str:
        """The model that the adapter was trained on, as its config names it."""
        named = self.config.get("base_model_name_or_path")
        if not isinstance(named, str) or not named:
            raise ValueError(f"{self.directory} names no base model: jh.load(base, adapter={str(self.directory)!r})")
        return named


def is_adapter(directory: Path) -> bool:
    """Whether a directory is an adapter's.

    Raises:
        ValueError: for one that holds a whole model beside it.
    """
    if not is_present(directory / CONFIG):
        return False
    if (whole := weight_files([item.name for item in directory.iterdir()])) is not None:
        raise ValueError(
            f"{directory} holds a whole model ({listed(whole.files)}) and an adapter ({CONFIG}): for the model alone "
            "move the adapter's files away; for the base with the adapter name both, jh.load(base, adapter=…)"
        )
    return True


def open_adapter(directory: Path) -> Adapter:
    """Open a directory that PEFT's save_pretrained wrote.

    Raises:
        FileNotFoundError: where it has no adapter_config.json or no weights.
        ValueError: for an adapter of another kind, or fields under which its weights mean something else.
    """
    config = read_json(directory / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{directory} is an adapter of the kind {shown(kind)}; covered is LORA. Merge it with PEFT")
    for field, values in _NEUTRAL.items():
        if config.get(field) is not None and config[field] not in values:
            raise ValueError(
                f"{directory}: {field}={shown(config[field])} of the adapter is not covered; merge it with PEFT: "
                "PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…)"
            )
    for name, reader in WEIGHTS.items():
        if is_present(directory / name):
            path = directory / name
            return Adapter(config, reader(path), directory, partial(files_identity, [path]))
    present = ", ".join(sorted(item.name for item in directory.iterdir())[:20])
    raise FileNotFoundError(f"{directory} has no {' or '.join(WEIGHTS)}; it holds {present}")


def with_adapter(base: Checkpoint, adapter: Adapter, *, name: str) -> Checkpoint:
    """Return the base with an adapter merged into its weights, in float32, tensor by tensor as they are read.

    Where embeddings are tied and the adapter changes one of the two, they are tied no more: that is what the adapter
    was trained with. PEFT's own merge changes both.

    Raises:
        ValueError: for tensors of the adapter that are not known, incomplete or have no place in the base.
    """
    merge = _Merge(base, adapter)
    for module, parts in merge.modules.items():
        merge.add(module, parts)
    for tensor_name, tensor in merge.replaced.items():
        merge.put(tensor_name, tensor)
    if merge.problems:
        raise ValueError(f"{adapter.directory} does not fit {base.name}: {'; '.join(merge.problems[:8])}")

    def identity() -> str:
        text = f"{base.identity()} {adapter.identity()} {sorted(adapter.config.items(), key=str)}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    return replace(
        base,
        config=merge.config,
        tensors=merge.tensors,
        name=name,
        identity=identity,
        read_tokenizer=partial(_tokenizer, adapter.directory, base),
    )


def _tokenizer(directory: Path, base: Checkpoint) -> Any:
    """Return the adapter's tokenizer, or the base's where the adapter has none."""
    tokenizer, reason = directory_tokenizer(directory, base.config.get("model_type"))
    return (tokenizer, reason) if tokenizer is not None else (base.tokenizer, base.no_tokenizer)


class _Merge:
    """The tensors and the config of a base, as an adapter changes them."""

    def __init__(self, base: Checkpoint, adapter: Adapter):
        self.base, self.settings = base, adapter.config
        self.config, self.tensors = dict(base.config), dict(base.tensors)
        self.problems: list[str] = []
        self.modules: dict[str, dict[str, Tensor]] = {}
        self.replaced: dict[str, Tensor] = {}
        for name, tensor in adapter.tensors.items():
            own = name.removeprefix("base_model.model.").removeprefix("base_model.")
            if match := _KIND.fullmatch(own):
                part = match[2] + (".bias" if match[4] == ".bias" else "")
                self.modules.setdefault(match[1], {})[part] = tensor
            elif ".original_module." not in own:
                own = re.sub(r"\.modules_to_save(\.default)?\.", ".", own)
                self.replaced[own.replace(".base_layer.", ".")] = tensor
        # A new weight or bias of a base comes before what is added to it.
        for name in [name for name in self.replaced if name.rpartition(".")[0] in self.modules]:
            self.put(name, self.replaced.pop(name))
        self._set_task()

    def add(self, module: str, parts: Mapping[str, Tensor]) -> None:
        """Add a module's product of matrices to its weight."""
        embedding = "lora_embedding_A" in parts
        first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        name = self._place(f"{module}.weight")
        known = {first, second, "lora_magnitude_vector"} | (set() if embedding else {"lora_B.bias"})
        if name is None or not {first, second} <= set(parts) <= known:
            self.problems.append(
                f"{module} with {', '.join(sorted(parts))}" + (" is not in it" if name is None else "")
            )
            return
        weight, A, B = self.tensors[name], parts[first], parts[second]
        # PEFT too goes by the module, not by fan_in_fan_out.
        turned = embedding or is_conv1d(str(self.config.get("model_type")), name)
        flat = len(A.shape) == len(B.shape) == 2 and A.shape[0] == B.shape[1]
        if not flat or weight.shape != (B.shape[0], A.shape[1])[:: -1 if turned else 1]:
            self.problems.append(f"{module} is {weight.shape}, its adapter {B.shape} times {A.shape}")
            return
        scaling = self._scaling(module, A.shape[0])
        read = partial(_merged, weight, A, B, scaling, parts.get("lora_magnitude_vector"), turned)
        self.tensors[name] = Tensor(weight.shape, "float32", read)
        if (bias := parts.get("lora_B.bias")) is not None:
            place = self._place(f"{module}.bias")
            if place is None:
                self.problems.append(f"{module} has no bias, and its adapter has")
                return
            self.tensors[place] = Tensor(bias.shape, "float32", partial(_sum, self.tensors[place], bias, scaling))

    def put(self, name: str, tensor: Tensor) -> None:
        """Put a tensor that the adapter has whole (modules_to_save, biases) in the place of the base's."""
        place = self._place(name)
        if place is not None:
            old = self.tensors[place].shape
            rows = len(old) == 2 == len(tensor.shape) and old[1] == tensor.shape[1]
            if rows and old[0] != tensor.shape[0] and self.config.get("vocab_size") == old[0]:
                self.config["vocab_size"] = tensor.shape[0]
        self.tensors[name if place is None else place] = tensor

    def _place(self, name: str) -> str | None:
        """Return the base's name of a tensor, which may have a shorter or a longer prefix; None if it has none."""
        if name in self.tensors:
            return name
        words = name.split(".")
        for start in range(1, len(words) - 1):
            if (shorter := ".".join(words[start:])) in self.tensors:
                return shorter
        longer = [other for other in self.tensors if other.endswith(f".{name}")]
        if len(longer) == 1:
            return longer[0]
        return self._untied(name)

    def _untied(self, name: str) -> str | None:
        """Give a tied unembedding a tensor of its own; return its name, or None for other tensors."""
        if name != "lm_head.weight":
            return None
        words = [
            other
            for other in self.tensors
            if re.fullmatch(r"(.*\.)?(wte|embed_tokens|word_embeddings|embed_in|shared|tok_embeddings)\.weight", other)
        ]
        if len(words) != 1:
            return None
        self.config["tie_word_embeddings"] = False
        self.tensors[name] = self.base.tensors[words[0]]
        return name

    def _scaling(self, module: str, rank: int) -> float:
        patterns = self.settings.get("alpha_pattern") or {}
        own = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)]
        alpha = float(own[0] if own else self.settings.get("lora_alpha", 8))
        return alpha / math.sqrt(rank) if self.settings.get("use_rslora") else alpha / rank

    def _set_task(self) -> None:
        """Name in the config the class whose head the adapter holds."""
        suffix = _TASKS.get(str(self.settings.get("task_type")))
        stated = (self.config.get("architectures") or [None])[0]
        if suffix is None or not isinstance(stated, str) or stated.endswith(suffix):
            return
        stem = re.sub(r"(For\w+|LMHeadModel|Model)$", "", stated)
        self.config["architectures"] = [stem + suffix]
        heads = [
            tensor.shape[0]
            for name, tensor in self.replaced.items()
            if re.fullmatch(r"score\.weight|classifier(\.out_proj)?\.weight", name)
        ]
        if heads:
            self.config["id2label"] = {str(number): f"LABEL_{number}" for number in range(heads[0])}
            self.config["label2id"] = {f"LABEL_{number}": number for number in range(heads[0])}


def _merged(weight: Tensor, A: Tensor, B: Tensor, scaling: float, magnitude: Tensor | None, turned: bool) -> np.ndarray:
    """Return a weight with the product added, and, for DoRA, each output's row brought to its learnt length."""
    delta = np.float32(scaling) * (B.read().astype(np.float32) @ A.read().astype(np.float32))
    stored = weight.read().astype(np.float32)
    changed = (stored.T if turned else stored) + delta
    if magnitude is not None:
        length = magnitude.read().astype(np.float32).reshape(-1, 1)
        changed = changed * (length / np.linalg.norm(changed, axis=1, keepdims=True))
    return changed.T if turned else changed


def _sum(bias: Tensor, more: Tensor, scaling: float) -> np.ndarray:
    return bias.read().astype(np.float32) + np.float32(scaling) * more.read().astype(np.float32)
