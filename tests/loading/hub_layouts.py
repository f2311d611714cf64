"""Checkpoints laid out as the model hub's, made small: their configs word for word, names and formats of their tensors.

`hub_configs.json` holds the configs, of which only sizes are made small here. A layout says what else is peculiar.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..models.specs import SPECS
from ..models.specs.spec import Spec

CONFIGS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("hub_configs.json").read_text())

State = dict[str, torch.Tensor]
Change = Callable[[State], State]


def without(prefix: str) -> Change:
    """Names without their prefix, as the files of bare models have them."""
    return lambda state: {name.removeprefix(prefix): value for name, value in state.items()}


def only(pattern: str) -> Change:
    """The tensors of these names, and no others."""
    return lambda state: {name: value for name, value in state.items() if re.match(pattern, name)}


def dropped(pattern: str) -> Change:
    """All tensors but those of these names."""
    return lambda state: {name: value for name, value in state.items() if not re.match(pattern, name)}


def gamma_beta(state: State) -> State:
    """Norms under TensorFlow's names."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {re.sub(r"LayerNorm\.(weight|bias)$", lambda m: names[m[0]], name): value for name, value in state.items()}


def also(name: str, *shape: int, of: str | None = None) -> Change:
    """A tensor that is not used, in each layer where the name has "{layer}"; or a copy of another."""

    def change(state: State) -> State:
        names = [name.format(layer=layer) for layer in range(2)] if "{layer}" in name else [name]
        added = {each: torch.ones(shape) if of is None else state[of].clone() for each in names}
        return state | added

    return change


def half(state: State) -> State:
    """Half precision."""
    return {name: value.half() for name, value in state.items()}


def position_ids(prefix: str) -> Change:
    """The buffer of positions that models wrote before transformers 4.31."""
    return lambda state: state | {f"{prefix}position_ids": torch.arange(64)[None]}


def mask_buffers(prefix: str) -> Change:
    """The causal masks that decoders wrote."""
    masks = (also(f"{prefix}.bias", 1, 1, 64, 64), also(f"{prefix}.masked_bias"))
    return lambda state: masks[1](masks[0](state))


@dataclass(frozen=True)
class Layout:
    """A checkpoint's files.

    Attributes:
        spec: the family, as in `SPECS`.
        built: the class that the tensors are made with, in `transformers`.
        changes: what is done to the tensors' names and values, one after the other.
        old_file: whether they are a file of torch.save before 1.6, not a safetensors file.
        head: the argument of `jh.load`.
        bare: whether the bare network is what should be loaded.
        warns: what one warning says, if there is one.
        refused: what the error says, if it is refused.
    """

    spec: str
    built: str
    changes: tuple[Change, ...] = ()
    old_file: bool = False
    head: str | None = None
    bare: bool = False
    warns: str = ""
    refused: str = ""


BERT = partial(Layout, "bert", "BertForPreTraining")
GPT2 = partial(Layout, "gpt2", "GPT2LMHeadModel")
ROBERTA = partial(Layout, "roberta", "RobertaForMaskedLM")
T5 = partial(Layout, "t5", "T5ForConditionalGeneration")
LLAMA = partial(Layout, "llama", "LlamaForCausalLM")
BUFFERS = mask_buffers("transformer.h.{layer}.attn")
ROTARY = also("model.layers.{layer}.self_attn.rotary_emb.inv_freq", 3)
DECODER = also("lm_head.decoder.weight", of="roberta.embeddings.word_embeddings.weight")
POSITIONS = position_ids("roberta.embeddings.")

LAYOUTS: dict[str, Layout] = {
    "gpt2": GPT2((BUFFERS, without("transformer.")), old_file=True),
    "gpt2-medium": GPT2((BUFFERS, without("transformer.")), warns="n_special, predict_special_tokens"),
    "distilgpt2": GPT2((BUFFERS, also("lm_head.weight", of="transformer.wte.weight")), old_file=True),
    "microsoft/DialoGPT-small": GPT2((BUFFERS, also("lm_head.weight", of="transformer.wte.weight"), half)),
    "stanford-crfm/battlestar-gpt2-small-x49": GPT2((BUFFERS,)),
    "an old GPT-2 in full": GPT2((BUFFERS,), warns="emb_size, is_gpu, n_special, predict_special_tokens"),
    "bert-base-uncased": BERT((gamma_beta,), old_file=True),
    "bert-base-multilingual-cased": BERT((also("cls.predictions.decoder.bias", of="cls.predictions.bias"),)),
    "bert-large-cased": BERT((gamma_beta, position_ids("bert.embeddings."))),
    "prajjwal1/bert-tiny": BERT(old_file=True),
    "google/bert_uncased_L-2_H-128_A-2": BERT((gamma_beta,)),
    "allenai/scibert_scivocab_uncased": BERT((gamma_beta,), old_file=True),
    "emilyalsentzer/Bio_ClinicalBERT": BERT(),
    "DeepPavlov/rubert-base-cased": BERT((without("bert."),), bare=True),
    "sentence-transformers/all-MiniLM-L6-v2": BERT(
        (only("bert"), without("bert."), position_ids("embeddings.")), bare=True
    ),
    "BAAI/bge-small-en-v1.5": BERT((only("bert"), without("bert."), half), bare=True),
    "facebook/contriever": BERT(
        (only("bert"), dropped(r"bert\.pooler"), without("bert."), position_ids("embeddings.")), head="none", bare=True
    ),
    "princeton-nlp/sup-simcse-bert-base-uncased": BERT((only("bert"), position_ids("bert.embeddings.")), bare=True),
    "nlptown/bert-base-multilingual-uncased-sentiment": BERT(
        (only("bert"), also("classifier.weight", 5, 24), also("classifier.bias", 5)), head="none", bare=True
    ),
    "a BERT in full": BERT(warns=r"passed over \(xla_device\)"),
    "a TensorFlow BERT": BERT(),
    "a BERT with relative positions": BERT(refused="position_embedding_type='relative_key_query'"),
    "a quantised BERT": BERT((only("bert"),), refused="quantization_config|made-up"),
    "roberta-base": ROBERTA(
        (DECODER, also("roberta.pooler.dense.weight", 24, 24), position_ids("roberta.embeddings."))
    ),
    "distilroberta-base": ROBERTA((DECODER, POSITIONS), old_file=True),
    "xlm-roberta-base": Layout("xlm_roberta", "XLMRobertaForMaskedLM", (DECODER,)),
    "camembert-base": Layout("camembert", "CamembertForMaskedLM", (DECODER, POSITIONS)),
    "microsoft/codebert-base": Layout("roberta", "RobertaModel", old_file=True, bare=True),
    "sentence-transformers/paraphrase-distilroberta-base-v1": Layout(
        "roberta", "RobertaModel", (position_ids("embeddings."), half), bare=True
    ),
    "vinai/bertweet-base": ROBERTA((also("lm_head.decoder.bias", of="lm_head.bias"),)),
    "distilbert-base-uncased": Layout("distilbert", "DistilBertForMaskedLM", old_file=True),
    "sentence-transformers/msmarco-distilbert-base-v4": Layout("distilbert", "DistilBertModel", bare=True),
    "an old DistilBERT in full": Layout("distilbert", "DistilBertForMaskedLM", warns="xla_device"),
    "albert-base-v1": Layout("albert", "AlbertForMaskedLM", old_file=True),
    "albert-base-v2": Layout(
        "albert", "AlbertForMaskedLM", (also("albert.pooler.weight", 24, 24), also("albert.pooler.bias", 24))
    ),
    "albert-xxlarge-v2": Layout("albert", "AlbertForPreTraining", (position_ids("albert.embeddings."),)),
    "microsoft/mpnet-base": Layout("mpnet", "MPNetForMaskedLM"),
    "sentence-transformers/all-mpnet-base-v2": Layout(
        "mpnet", "MPNetModel", (position_ids("embeddings."),), bare=True, warns="no tensor of the head"
    ),
    "sentence-transformers/multi-qa-mpnet-base-dot-v1": Layout("mpnet", "MPNetModel", bare=True, old_file=True),
    "t5-small": T5((also("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", 8, 4),)),
    "an old T5": T5(
        (also("encoder.embed_tokens.weight", of="shared.weight"), also("lm_head.weight", of="shared.weight")),
        old_file=True,
        warns="xla_device",
    ),
    "google/t5-v1_1-small": T5(old_file=True),
    "google/flan-t5-small": T5((also("decoder.embed_tokens.weight", of="shared.weight"),)),
    "google/mt5-small": Layout("mt5", "MT5ForConditionalGeneration", old_file=True),
    "Salesforce/codet5-small": T5(),
    "facebook/bart-base": Layout("bart", "BartModel", bare=True),
    "facebook/bart-large-cnn": Layout("bart", "BartForConditionalGeneration", (half,), old_file=True),
    "Helsinki-NLP/opus-mt-en-de": Layout("marian", "MarianMTModel", old_file=True),
    "facebook/opt-125m": Layout("opt", "OPTForCausalLM", (half,)),
    "facebook/opt-350m": Layout("opt", "OPTForCausalLM", (without("model."), half), old_file=True),
    "facebook/opt-1.3b (2022)": Layout("opt", "OPTForCausalLM", warns="output_projection"),
    "bigscience/bloom-560m": Layout("bloom", "BloomForCausalLM", (without("transformer."), half)),
    "bigscience/bloom (slow)": Layout("bloom", "BloomModel", bare=True),
    "EleutherAI/pythia-70m": Layout(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        (
            mask_buffers("gpt_neox.layers.{layer}.attention"),
            also("gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq", 1),
            half,
        ),
    ),
    "EleutherAI/gpt-neox-20b": Layout("gpt_neox", "GPTNeoXForCausalLM", (half,), old_file=True),
    "databricks/dolly-v2-3b": Layout("gpt_neox", "GPTNeoXForCausalLM", warns="custom_pipelines"),
    "EleutherAI/gpt-j-6b": Layout("gptj", "GPTJForCausalLM", (BUFFERS, half), old_file=True),
    "EleutherAI/gpt-neo-125m": Layout(
        "gpt_neo", "GPTNeoForCausalLM", (mask_buffers("transformer.h.{layer}.attn.attention"),), old_file=True
    ),
    "decapoda-research/llama-7b-hf": LLAMA((ROTARY, half), old_file=True, warns="max_sequence_length"),
    "huggyllama/llama-7b": LLAMA((ROTARY, half), warns="max_sequence_length"),
    "hf-internal-testing/tiny-random-LlamaForCausalLM": LLAMA(old_file=True),
    "meta-llama/Llama-2-7b-hf": LLAMA((ROTARY, half)),
    "meta-llama/Llama-3.2-1B": LLAMA(),
    "HuggingFaceTB/SmolLM2-135M": LLAMA((also("lm_head.weight", of="model.embed_tokens.weight"),)),
    "openlm-research/open_llama_3b": LLAMA((ROTARY, half), old_file=True),
    "a Llama in full": LLAMA(warns="xla_device"),
    "mistralai/Mistral-7B-v0.1": Layout("mistral", "MistralForCausalLM", old_file=True),
    "mistralai/Mistral-7B-Instruct-v0.3": Layout("mistral", "MistralForCausalLM"),
    "Qwen/Qwen2-0.5B": Layout("qwen2", "Qwen2ForCausalLM"),
    "Qwen/Qwen2.5-0.5B-Instruct": Layout("qwen2", "Qwen2ForCausalLM"),
    "Qwen/Qwen3-0.6B": Layout("qwen3", "Qwen3ForCausalLM", (also("lm_head.weight", of="model.embed_tokens.weight"),)),
    "google/gemma-2b": Layout("gemma", "GemmaForCausalLM"),
    "google/gemma-2-2b": Layout("gemma2", "Gemma2ForCausalLM"),
    "answerdotai/ModernBERT-base": Layout("modernbert", "ModernBertForMaskedLM"),
    "facebook/dinov2-small": Layout("dinov2", "Dinov2Model", bare=True),
    "facebook/dinov2-with-registers-small": Layout(
        "dinov2_with_registers",
        "Dinov2WithRegistersModel",
        bare=True,
        warns="interpolate_",
    ),
    "google/vit-base-patch16-224-in21k": Layout("vit", "ViTModel", bare=True),
    "google/vit-base-patch16-224": Layout("vit", "ViTForImageClassification", old_file=True),
    "openai/clip-vit-base-patch32": Layout(
        "clip",
        "CLIPModel",
        (position_ids("text_model.embeddings."), position_ids("vision_model.embeddings.")),
        warns="xla_device",
    ),
    "openai/whisper-tiny": Layout("whisper", "WhisperForConditionalGeneration"),
}

ALIASES = {
    "n_ctx": "n_positions",
    "n_embed": "hidden_size",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "encoder_layers",
    "decoder_vocab_size": "vocab_size",
}
"""Sizes that some configs give under a second name."""


def small_config(name: str) -> dict[str, Any]:
    """A checkpoint's config, its sizes made those of the family's spec, ids of tokens brought into the vocabulary."""
    sizes = SPECS[LAYOUTS[name].spec].sizes
    return _small(CONFIGS[name], sizes)


def _small(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(sizes) | {old: sizes[new] for old, new in ALIASES.items() if new in sizes and old not in sizes}
    small: dict[str, Any] = {}
    for key, value in config.items():
        inner = known.get(key)
        if isinstance(value, dict) and isinstance(inner, Mapping):
            small[key] = _small(value, inner)
        else:
            small[key] = inner if inner is not None and value is not None else value
        if key.endswith("_token_id") and isinstance(small[key], int):
            small[key] = min(small[key], known.get("vocab_size", 10**9) - 1)
    return small


def theirs(name: str) -> tuple[Any, State]:
    """The checkpoint in `transformers`, and its tensors under the names that it writes."""
    layout = LAYOUTS[name]
    spec: Spec = replace(SPECS[layout.spec], sizes={})
    known = {key: value for key, value in small_config(name).items() if key not in ("architectures", "torch_dtype")}
    model = spec.build(layout.built, **known)
    if half in layout.changes:
        for value in model.parameters():  # not the buffers, which no file holds
            value.data = value.data.half().float()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return model, load_file(f"{directory}/model.safetensors")


def write(directory: Path, name: str, state: State) -> None:
    """Write the files."""
    layout = LAYOUTS[name]
    for change in layout.changes:
        state = change(state)
    (directory / "config.json").write_text(json.dumps(small_config(name), indent=2))
    if layout.old_file:
        torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, directory / "model.safetensors")
