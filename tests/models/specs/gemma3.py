"""Gemma 3's language model in its checkpoints that also see images."""

from hypothesis import strategies as st

from . import gemma3_text
from .spec import Spec

VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def outputs(model):
    language = getattr(model, "model", model).language_model
    return {"decoder": [layer.self_attn.o_proj for layer in language.layers]}


def nested(drawn):
    """The language model's fields where they belong."""
    own = {name: drawn[name] for name in ("architecture",) if name in drawn}
    text = {name: value for name, value in drawn.items() if name != "architecture"}
    own["tie_word_embeddings"] = text.get("tie_word_embeddings", True)
    return {**own, "text_config": {**gemma3_text.SPEC.sizes, **text}}


SPEC = Spec(
    architectures=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    sizes={
        "text_config": gemma3_text.SPEC.sizes,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 0,  # of the ids that are never drawn
    },
    outputs=outputs,
    vary=gemma3_text.VARY.map(nested) | st.just({"architecture": "Gemma3Model"}),
)
