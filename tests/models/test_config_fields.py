"""Values of config fields: every one that is no size, number, word or flag is refused by its name, in every family."""

from typing import Any

import pytest

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.config_fields import KINDS, NULLABLE

from .test_configs import config_of

HOSTILE: tuple[Any, ...] = ("8", "", True, None, [1], [[]], {}, {"a": []}, -1, 0, 0.5, 1e-60, 10**400, b"8")
HOSTILE += (float("nan"), float("inf"), float("-inf"))
APART = {"image_size", "patch_size", "num_labels", "eos_token_id"}
"""Fields whose values are checked by their own readers."""
NEUTRAL = {
    ("m2m_100", "tie_word_embeddings"),
    ("mpnet", "relative_attention_num_buckets"),
    ("whisper", "scale_embedding"),
    ("gpt_neo", "intermediate_size"),
    ("mpt", "logit_scale"),
}
"""Fields that may be null, in these families."""
ZEROS = {("qwen2_moe", "sliding_window"), ("deberta", "type_vocab_size"), ("deberta-v2", "type_vocab_size")}
"""Fields for which 0 means that there is none."""
DERIVED = {
    "head",
    "pooler",
    "rotary",
    "local_rotary",
    "final_norm",
    "gated",
    "activation",
    "text",
    "vision",
    "dense_layers",
}


def read(family: str, config: dict[str, Any]) -> Any:
    return FAMILIES[family].config_type.from_hf(config)


@pytest.mark.parametrize("family", [*FAMILIES])
def test_a_value_of_another_kind_is_refused_by_name(family: str):
    config = config_of(family)
    read(family, config)
    tried = 0
    for name in KINDS.keys() & {*config, "rms_norm_eps", "rope_theta", "layer_types", "architectures"}:
        for value in HOSTILE:
            refusal = _refusal(family, {**config, name: value})
            unread = name not in config and ("not understood" in refusal or "passed over" in refusal)
            if value == 0 and (family, name) in ZEROS:
                continue
            if unread or (family, name) in NEUTRAL or KINDS[name].fits(value) or (value is None and name in NULLABLE):
                continue
            assert name in _refusal(family, {**config, name: value}), f"{name}={value!r}"
            tried += 1
    assert tried > 25


def _refusal(family: str, config: dict[str, Any]) -> str:
    """The message of the ValueError, or of the warning; empty if there is none."""
    try:
        read(family, config)
    except (ValueError, UserWarning) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("family", [*FAMILIES])
def test_every_field_that_is_read_has_a_kind(family: str):
    fields = FAMILIES[family].config_type.__dataclass_fields__
    classwide = {name for name, field in fields.items() if "ClassVar" in str(field.type)}
    assert set(fields) - classwide - APART - DERIVED <= KINDS.keys()


@pytest.mark.parametrize("name", ["image_size", "patch_size", "num_labels", "id2label"])
@pytest.mark.parametrize("value", ["8", True, [1, 2, 3], [], [None, 2], -1, 0.5, 10**30, float("nan"), [8.0, 8.0]])
def test_sizes_of_images_and_labels_are_checked(name: str, value: Any):
    config = {key: entry for key, entry in config_of("vit").items() if key not in ("id2label", "label2id")}
    assert name in _refusal("vit", {**config, name: value})


@pytest.mark.parametrize("value", ["x", [1], True, -1, float("nan")])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "modernbert", "clip", "gemma3", "qwen3"])
def test_what_should_be_an_object_is_refused(family: str, value: Any):
    for name in ("rope_parameters", "text_config", "vision_config"):
        refusal = _refusal(family, {**config_of(family), name: value})
        assert name in refusal


@pytest.mark.parametrize("value", ["x", [1], True, -1, 0, float("nan"), float("inf"), 10**400, {}])
@pytest.mark.parametrize("name", ["factor", "rope_theta", "low_freq_factor", "original_max_position_embeddings"])
def test_parameters_of_rotary_positions_are_numbers_above_0(name: str, value: Any):
    whole = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
    whole["original_max_position_embeddings"] = 32
    config = config_of("llama")
    read("llama", {**config, "rope_parameters": whole})
    assert name in _refusal("llama", {**config, "rope_parameters": {**whole, name: value}})


@pytest.mark.parametrize("value", [[1], [["LlamaForCausalLM"]], {"a": 1}, 7])
@pytest.mark.parametrize("name", ["architectures", "model_type"])
def test_names_of_architectures_are_strings(name: str, value: Any):
    with pytest.raises(ValueError, match=r"architectures must be a list of names|is of the family"):
        jh.init({**config_of("llama"), name: value})


def test_heads_that_leave_no_dimension_and_positions_without_end_are_refused():
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads, got 24 and 7"):
        jh.init({**config_of("bert"), "num_attention_heads": 7})
    with pytest.raises(ValueError, match="holds no patch of patch_size"):
        jh.init({**config_of("vit"), "patch_size": 999})
    with pytest.raises(ValueError, match="a table of 2,147,483,647 sinusoidal positions"):
        jh.init({**config_of("marian"), "max_position_embeddings": 2**31 - 1})
    with pytest.raises(
        ValueError, match=r"num_hidden_layers must be a whole number of 1\.\.10,000, or null, got 10000000"
    ):
        jh.init({**config_of("qwen3"), "num_hidden_layers": 10**7})


@pytest.mark.parametrize("dtype", [int, bool, "int8", "uint8", complex, "text", None, object, "float64"])
def test_weights_are_held_in_floating_types_only(dtype: Any, tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16"):
        jh.init(config_of("llama"), dtype=dtype)
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        jh.load(tmp_path / "not looked for", dtype=dtype)
