"""Reading of Hugging Face configs, in which every field must be understood, harmless or refused."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ....checks import shown
from ...loading.config_fields import FIELDS, TOKEN_IDS, check_fields
from ...loading.transformers_import import config_fields_of

HARMLESS = frozenset(
    # names, files, versions
    "model_type architectures _name_or_path name_or_path transformers_version torch_dtype dtype _commit_hash "
    "auto_map unsloth_fixed _attn_implementation _attn_implementation_internal attn_implementation "
    # generation and its special tokens
    "use_cache bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id mask_token_id "
    "decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens "
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
    "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences output_scores return_dict_in_generate exponential_decay_length_penalty remove_invalid_values "
    "tokenizer_class prefix task_specific_params transformers.js_config "
    # training: initialisation, dropout, losses, labels
    "initializer_range initializer_factor attention_dropout hidden_dropout_prob attention_probs_dropout_prob "
    "attn_pdrop embd_pdrop resid_pdrop classifier_dropout gradient_checkpointing finetuning_task problem_type "
    "id2label label2id num_labels _num_labels pruned_heads output_past "
    "router_aux_loss_coef router_jitter_noise output_router_logits "
    # what is returned, and how it is sharded or chunked
    "output_attentions output_hidden_states return_dict use_return_dict torchscript use_bfloat16 tf_legacy_loss "
    "chunk_size_feed_forward pretraining_tp is_encoder_decoder tie_encoder_decoder cross_attention_hidden_size "
    "tie_word_embeddings".split()  # the last in families without an unembedding of words: the others read it
)
"""Fields that change nothing that is computed here."""

SUMMARY = frozenset(f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout"))
"""Fields of heads that sum up a sequence, which language models write and do not use."""

CHANGING: Mapping[str, Any] = {
    # read by transformers once, or of any family's config although its class does not list them
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "is_causal": None,
    "use_bidirectional_attention": False,
    "sliding_window": None,
    "attention_chunk_size": None,
    "attention_window": None,
    "layer_types": None,
    "attention_bias": False,
    "mlp_bias": False,
    "qkv_bias": False,
    "use_swiglu_ffn": False,
    "num_register_tokens": 0,
    "intermediate_size": None,
    "per_layer_config": None,
    "head_dim": None,
    "partial_rotary_factor": 1.0,
    "rotary_pct": 1.0,
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_interleaved": False,
    "text_config": None,
    "vision_config": None,
    "quantization_config": None,
    # BART's before transformers 4
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
    # of code that comes with a checkpoint
    "alibi": False,
    "use_alibi": False,
    "qk_norm": False,
    "use_qk_norm": False,
    "qk_layernorm": False,
    "clip_qkv": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": None,
    "logits_scaling": 1.0,
    "logit_scale": None,
    "num_experts": None,
    "num_local_experts": None,
}
"""Fields that change what is computed in some family, at the value that changes nothing. They are never passed over."""

_OLD_NAMES = {"t5withlmheadmodel": "t5forconditionalgeneration"}
"""Current class names of old ones, in small letters."""


class UncoveredArchitecture(ValueError):
    """Error for an architecture that a family does not cover.

    Attributes:
        heads: the family's name of each head that it covers, by the class name of its architecture.
    """

    def __init__(self, message: str, heads: Mapping[str, str]):
        super().__init__(message)
        self.heads = dict(heads)


def refuse_unknown(
    config: Mapping[str, Any], understood: Iterable[str], *, neutral: Mapping[str, Any] | None = None
) -> None:
    """Raise ValueError unless every field is understood, harmless, or at its only supported value.

    A field that transformers' own class of this config does not know either is passed over with a warning, unless it
    is one of `CHANGING`. The values of fields that are understood are checked too, see `check_fields`.

    Args:
        config: the contents of a config.json.
        understood: the fields that the family reads.
        neutral: fields that are supported at one value only (`{"is_decoder": False}`).
    """
    neutral = {"pruned_heads": {}, "is_encoder_decoder": False, "pretraining_tp": 1, **(neutral or {})}
    family = config.get("model_type", "?")
    understood = set(understood)
    if unknown := sorted(map(str, set(config) - understood - HARMLESS - set(neutral))):
        _pass_over(config, unknown)
    for name, value in neutral.items():
        if name in config and config[name] != value and config[name] is not None:
            raise ValueError(f"the {family} config says {name}={shown(config[name])}; supported is {value!r} only")
    check_fields(config, understood - set(neutral) | TOKEN_IDS)


def _pass_over(config: Mapping[str, Any], unknown: list[str]) -> None:
    """Warn of fields that transformers does not know; raise ValueError for those that it does, but jaxheads not."""
    family = config.get("model_type", "?")
    unknown = [name for name in unknown if name not in CHANGING or config[name] not in (None, CHANGING[name])]
    known = config_fields_of(family) if set(unknown) - set(CHANGING) else None
    refused, passed_over = [], []
    for name in unknown:
        if known is None or name in CHANGING:
            refused.append(name)
        elif name not in known:
            passed_over.append(name)
        elif (other := known[name]) is None or config[name] != config.get(other):
            refused.append(name)
    if refused:
        raise ValueError(
            f"the {family} config has fields that are not understood: {', '.join(refused)}. A field may change what "
            "the model computes, so none is passed over; remove it if it means nothing"
        )
    if passed_over:
        warnings.warn(
            f"the {family} config has fields that transformers does not read, and jaxheads neither: they are passed "
            f"over ({', '.join(passed_over)})",
            stacklevel=4,
        )


def required(config: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the values of these fields.

    Raises:
        ValueError: for missing fields; the message names all of them.
    """
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise ValueError(f"the {config.get('model_type', '?')} config lacks {', '.join(missing)}")
    return [config[name] for name in names]


def head_of(config: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    """Return the checkpoint's head by its first architecture; the first in `heads` if it names none.

    The names of old releases, and those of TensorFlow's and Flax's classes, stand for the current ones.

    Args:
        heads: the family's name of each head, by the class name of its architecture.

    Raises:
        UncoveredArchitecture: for an architecture that is not covered.
        ValueError: for what is no list of names.
    """
    stated = config.get("architectures") or [next(iter(heads))]
    if not isinstance(stated, list | tuple) or not isinstance(stated[0], str):
        raise ValueError(f"architectures must be a list of names, got {shown(stated)}")
    architecture = stated[0]
    name = architecture.removeprefix("TF").removeprefix("Flax").lower()
    name = _OLD_NAMES.get(name, name)
    for covered, head in heads.items():
        if covered.lower() == name:
            return head
    bare = '; head="none" of jh.load leaves the head out' if "none" in heads.values() else ""
    raise UncoveredArchitecture(
        f"architecture {architecture} is not covered; of {config.get('model_type')}: {', '.join(heads)}{bare}", heads
    )


def inner_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the config within a field; an empty one where the field is absent or null.

    Raises:
        ValueError: for a field that holds something else.
    """
    value = config.get(name)
    if value is not None and not FIELDS.fits(value):
        raise ValueError(f"{name} must be {FIELDS.expected}, got {shown(value)}")
    return dict(value or {})
