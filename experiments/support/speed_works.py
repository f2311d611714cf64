"""The works that `experiments.speed` times, and the weights and inputs of each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

INITIAL = 0.06
"""Standard deviation of the weights: three times GPT-2's, so that heads matter to the objective."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model, of the prompts, and of the pairs that are patched."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50257
    context: int = 1024
    prompts: int = 16
    length: int = 64
    pairs: int = 8
    pair_length: int = 32
    prefix: int = 16
    long: int = 1024


FULL, QUICK = Sizes(), Sizes(2, 2, 32, 101, 64, prompts=4, length=12, pairs=2, pair_length=8, prefix=4, long=40)


@dataclass(frozen=True)
class Work:
    """One thing that all sides do.

    Attributes:
        title: for tables.
        kind: "ablate", "patch", "importance", "forward", "measure" or "write".
        inputs: the name of its inputs.
        site: "z" or "resid_pre", for ablation and patching.
        by: the columns of its table, "head" or "position"; the rows are layers.
        without: sides that do not take part.
    """

    title: str
    kind: str
    inputs: str
    site: str = "z"
    by: str = "head"
    without: tuple[str, ...] = ()


WORKS = {
    "ablate": Work("ablation of all heads, zero", "ablate", "prompts"),
    "patch_z": Work("patching z of all heads", "patch", "pairs"),
    "patch_z_shared_prefix": Work("patching z of all heads, pairs that share a prefix", "patch", "prefixed"),
    "patch_resid_pre": Work("patching resid_pre by layer × position", "patch", "pairs", "resid_pre", "position"),
    "importance": Work("importance of all heads (gradient)", "importance", "prompts"),
    "forward": Work("forward pass, all logits", "forward", "prompts"),
    "measure": Work("all pattern measures (ours); entropy, previous token", "measure", "prompts", without=("nnsight",)),
    "forward_long": Work("forward pass, one long text", "forward", "long"),
    "measure_long": Work("the same measures, one long text", "measure", "long", without=("nnsight",)),
    **{
        f"write_{count}": Work(
            f"writing, greedy, {count} prompts" if count > 1 else "writing, greedy, one prompt",
            "write",
            f"write_{count}",
            without=("transformer_lens", "nnsight"),
        )
        for count in (1, 8, 32)
    },
}

WRITTEN = 32
"""Tokens that are written behind each prompt."""

COLUMNS_COMPARED = 97
"""The step between the columns of a forward pass's logits that are compared."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a work.

    Attributes:
        tokens: token ids, `[E,T]`.
        source: ids of the texts that values are patched in from, `[E,T]`; None where nothing is patched.
        right, wrong: the tokens of the logit difference, `[E]` each.
    """

    tokens: np.ndarray
    source: np.ndarray | None
    right: np.ndarray
    wrong: np.ndarray

    def save(self, path: Path) -> None:
        """Write the inputs to one file."""
        np.savez(path, **{name: value for name, value in vars(self).items() if value is not None})

    @classmethod
    def load(cls, path: Path) -> "Inputs":
        """Read the inputs from the file of `save`."""
        with np.load(path) as arrays:
            return cls(arrays["tokens"], arrays.get("source"), arrays["right"], arrays["wrong"])


def save_weights(sizes: Sizes, seed: int, directory: Path) -> Path:
    """Write random weights as `transformers` saves a GPT-2, once, and return their folder under `directory`."""
    from safetensors.numpy import save_file
    from transformers import GPT2Config

    folder = directory / f"gpt2-{sizes.layers}-{sizes.heads}"
    if folder.exists():
        return folder
    D, rng = sizes.width, np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return INITIAL * rng.standard_normal(shape, dtype=np.float32)

    tensors = {"wte.weight": random(sizes.vocabulary, D), "wpe.weight": random(sizes.context, D)}
    linear = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
    norms = ["ln_f", *(f"h.{layer}.{norm}" for layer in range(sizes.layers) for norm in ("ln_1", "ln_2"))]
    for layer in range(sizes.layers):
        for name, shape in linear.items():
            tensors[f"h.{layer}.{name}.weight"], tensors[f"h.{layer}.{name}.bias"] = random(*shape), random(shape[1])
    for norm in norms:
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = 1 + random(D), random(D)
    GPT2Config(
        vocab_size=sizes.vocabulary,
        n_positions=sizes.context,
        n_embd=D,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["GPT2LMHeadModel"],
    ).save_pretrained(folder)
    named = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_inputs(sizes: Sizes, seed: int, directory: Path) -> dict[str, Path]:
    """Write random prompts, pairs without and with a common prefix, and one long text; return their files by name."""
    rng = np.random.default_rng(seed + 1)

    def draw(examples: int, length: int, shared: int | None = None) -> Inputs:
        tokens, source = rng.integers(0, sizes.vocabulary, (2, examples, length))
        right, wrong = rng.permuted(np.tile(np.arange(sizes.vocabulary), (examples, 1)), axis=1)[:, :2].T
        if shared is None:
            return Inputs(tokens, None, right, wrong)
        source[:, :shared] = tokens[:, :shared]
        return Inputs(tokens, source, right, wrong)

    drawn = {
        "prompts": draw(sizes.prompts, sizes.length),
        "pairs": draw(sizes.pairs, sizes.pair_length, 0),
        "prefixed": draw(sizes.pairs, sizes.pair_length, sizes.prefix),
        "long": draw(1, sizes.long),
        **{name: draw(int(name.removeprefix("write_")), sizes.length) for name in WORKS if name.startswith("write")},
    }
    paths = {name: directory / f"{name}.npz" for name in drawn}
    for name, inputs in drawn.items():
        inputs.save(paths[name])
    return paths
