"""Values that the fields of Hugging Face configs may have, by the fields' names, whatever the family."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import shown

_LARGEST = float(np.finfo(np.float32).max)

MOST_LAYERS = 10_000
"""Most layers of a stack, and most register tokens: work on both is done one by one."""


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Attributes:
        expected: that in words.
        fits: whether a value is of this kind.
        size: whether the file's tensors have an axis of this size, or one for each.
    """

    expected: str
    fits: Callable[[Any], bool]
    size: bool = False


def is_whole(value: Any, least: int = 0, most: int = 2**31 - 1) -> bool:
    """Whether a value is a whole number in this range; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= int(value) <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, in float32 too; True and False are none."""
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_real and bool(abs(value) <= _LARGEST)


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0, in float32 too."""
    return is_number(value) and bool(np.float32(value) > 0)


SIZE = Kind("a whole number of at least 1", lambda value: is_whole(value, 1), size=True)
COUNT = Kind("a whole number of at least 1", lambda value: is_whole(value, 1))
LAYERS = Kind(f"a whole number of 1..{MOST_LAYERS:,}", lambda value: is_whole(value, 1, MOST_LAYERS), size=True)
TOKENS = Kind(f"a whole number of 0..{MOST_LAYERS:,}", lambda value: is_whole(value, 0, MOST_LAYERS))
WHOLE = Kind("a whole number", lambda value: is_whole(value, -(2**31)))
NUMBER = Kind("a finite number", is_number)
POSITIVE = Kind("a finite number above 0", is_positive)
SHARE = Kind("a number above 0, at most 1", lambda value: is_positive(value) and value <= 1)
FLAG = Kind("true or false", lambda value: isinstance(value, bool | np.bool_))
NUMBERS = Kind(
    "a list of whole numbers",
    lambda value: isinstance(value, list | tuple) and all(is_whole(number) for number in value),
)
WORD = Kind("a string", lambda value: isinstance(value, str))
SPAN = Kind("a whole number of at least -1", lambda value: is_whole(value, -1), size=True)
WORDS = Kind(
    "a list of strings",
    lambda value: isinstance(value, list | tuple) and all(isinstance(word, str) for word in value),
)
TERMS = Kind("a string or a list of strings", lambda value: WORD.fits(value) or WORDS.fits(value))
FIELDS = Kind("an object", lambda value: isinstance(value, Mapping))

_NAMES: dict[Kind, str] = {
    SIZE: "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim n_embd n_head "
    "n_inner d_model encoder_ffn_dim encoder_attention_heads decoder_ffn_dim decoder_attention_heads dim n_heads "
    "hidden_dim d_kv d_ff num_heads type_vocab_size embedding_size n_embed ffn_dim word_embed_proj_dim d_head "
    "num_mel_bins projection_dim num_channels max_source_positions max_target_positions "
    "n_positions relative_attention_num_buckets moe_intermediate_size shared_expert_intermediate_size num_experts "
    "num_local_experts num_kv_heads ffn_hidden_size d_mlp vocab_size_out projection_size",
    COUNT: "max_position_embeddings relative_attention_max_distance num_hidden_groups rotary_dim window_size "
    "no_rope_layer_interval max_seq_len original_max_position_embeddings num_experts_per_tok decoder_sparse_step "
    "local_attention sliding_window sliding_window_pattern _sliding_window_pattern global_attn_every_n_layers",
    LAYERS: "num_hidden_layers n_layer n_layers encoder_layers decoder_layers num_layers num_decoder_layers",
    TOKENS: "num_register_tokens max_window_layers num_ln_in_parallel_attn",
    WHOLE: "pad_token_id decoder_start_token_id",
    NUMBER: "scale",
    POSITIVE: "rms_norm_eps softmax_scale layer_norm_eps layer_norm_epsilon norm_eps rope_theta rotary_emb_base "
    "rope_local_base_freq global_rope_theta local_rope_theta mlp_ratio query_pre_attn_scalar attn_logit_softcapping "
    "final_logit_softcapping clip_qkv embedding_multiplier attention_multiplier residual_multiplier logits_scaling "
    "norm_epsilon logit_scale swiglu_alpha swiglu_limit",
    SHARE: "rotary_pct partial_rotary_factor",
    FLAG: "relative_attention share_att_key position_biased_input legacy "
    "tie_word_embeddings scale_attn_weights attention_bias mlp_bias scale_embedding use_parallel_residual "
    "norm_bias decoder_bias classifier_bias do_layer_norm_before enable_bias _remove_final_layer_norm qkv_bias "
    "use_swiglu_ffn apply_residual_connection_post_layernorm bias causal use_sliding_window scale_decoder_outputs "
    "vision_use_head norm_topk_prob qk_layernorm scale_attn_by_inverse_layer_idx use_qkv_bias "
    "alibi new_decoder_architecture multi_query parallel_attn gated_mlp unembed_bias use_bias use_qk_norm",
    WORD: "norm_rel_ebd "
    "hidden_act activation_function hidden_activation activation positions norm final_norm feed_forward_proj "
    "classifier_activation classifier_pooling",
    SPAN: "max_relative_positions position_buckets",
    TERMS: "pos_att_type",
    WORDS: "layer_types attention_layers",
    NUMBERS: "mlp_only_layers no_rope_layers",
    FIELDS: "attn_config rope_parameters rope_scaling text_config vision_config text_config_dict vision_config_dict",
}
KINDS: Mapping[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""Kind of each field that a family reads."""

NULLABLE = frozenset(
    "pos_att_type d_mlp vocab_size_out final_norm "
    "num_key_value_heads head_dim n_inner num_decoder_layers word_embed_proj_dim d_head scale sliding_window "
    "sliding_window_pattern _sliding_window_pattern global_attn_every_n_layers rope_theta rotary_emb_base "
    "rope_local_base_freq global_rope_theta local_rope_theta attn_logit_softcapping final_logit_softcapping "
    "clip_qkv partial_rotary_factor hidden_activation layer_types rope_parameters rope_scaling text_config_dict "
    "vision_config_dict pad_token_id decoder_start_token_id num_hidden_layers n_embed n_layer n_head "
    "mlp_only_layers no_rope_layers num_kv_heads ffn_hidden_size num_ln_in_parallel_attn "
    "softmax_scale attn_config projection_size".split()
)
"""Fields for which null means that there is none, or the default."""

TOKEN_IDS = frozenset(("pad_token_id", "decoder_start_token_id"))
"""Fields of special tokens that are read of every family's config."""

_WIDTHS = (
    ("hidden_size", "num_attention_heads"),
    ("hidden_size", "n_head"),
    ("hidden_size", "num_heads"),
    ("n_embd", "n_head"),
    ("d_model", "encoder_attention_heads"),
    ("d_model", "decoder_attention_heads"),
    ("d_model", "n_heads"),
    ("dim", "n_heads"),
)
"""Fields of a stream's width and of the number of heads that share it, unless a field gives the head's own size."""


def check_fields(config: Mapping[str, Any], read: Iterable[str] = KINDS) -> None:
    """Check the values of the fields that a family reads, or of all fields that any family reads.

    Raises:
        ValueError: for values of another kind, all in one message; for null where a value is needed; for a width that
            is no multiple of the number of heads.
    """
    stated = [name for name in KINDS if name in config and name in set(read)]
    family = config.get("model_type", "?")
    absent = [name for name in stated if config[name] is None and name not in NULLABLE]
    if absent:
        raise ValueError(f"the {family} config lacks {', '.join(absent)}: null is no value")
    wrong = [
        f"{name} must be {KINDS[name].expected}{', or null' * (name in NULLABLE)}, got {shown(config[name])}"
        for name in stated
        if config[name] is not None and not KINDS[name].fits(config[name])
    ]
    if wrong:
        raise ValueError(f"the {family} config has values that can't be: {'; '.join(wrong)}")
    for width, heads in _WIDTHS:
        own_size = config.get("head_dim") is not None or config.get("d_head") is not None
        given = {width, heads} <= set(stated) and None not in (config[width], config[heads])
        if given and not own_size and config[width] % config[heads]:
            raise ValueError(f"{width} must be a multiple of {heads}, got {config[width]} and {config[heads]}")


def largest_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields that give sizes of tensors or count them, also those of the configs within a config."""
    sizes = {name: value for name, value in config.items() if name in KINDS and KINDS[name].size and is_whole(value)}
    for inner in ("text_config", "vision_config"):
        if isinstance(config.get(inner), Mapping):
            sizes |= {f"{inner}.{name}": size for name, size in largest_sizes(config[inner]).items()}
    return sizes
