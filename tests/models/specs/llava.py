"""The language model of LLaVA: Llama's, Mistral's or Qwen's in a checkpoint that also sees images."""

from hypothesis import strategies as st

from . import llama, mistral, qwen2
from .gemma3 import outputs
from .spec import Spec

VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SIZES = {
    "text_config": {"model_type": "llama", **llama.SIZES},
    "vision_config": VISION,
    "image_token_index": 0,  # of the ids that are never drawn
}


def nested(family, spec):
    """Configs of a family as the language model's."""
    settings = spec.vary.map(lambda drawn: {name: value for name, value in drawn.items() if name != "architecture"})
    return settings.map(lambda drawn: {"text_config": {"model_type": family, **spec.sizes, **drawn}})


TEXTS = nested("llama", llama.SPEC) | nested("mistral", mistral.SPEC) | nested("qwen2", qwen2.SPEC)

SPEC = Spec(
    architectures=("LlavaForConditionalGeneration", "LlavaModel"),
    sizes=SIZES,
    outputs=outputs,
    named={"bare": {"text_config": {"model_type": "mistral", **mistral.SPEC.sizes}}},
    vary=TEXTS | st.just({"architecture": "LlavaModel"}),
)
