"""mT5."""

from hypothesis import strategies as st

from . import t5
from .spec import Spec

SPEC = Spec(
    architectures=("MT5ForConditionalGeneration", "MT5Model"),
    sizes=t5.SPEC.sizes,
    outputs=t5.outputs,
    vary=st.fixed_dictionaries(
        {"feed_forward_proj": st.sampled_from(["gated-gelu", "gated-silu", "relu"])},
        optional={"architecture": st.just("MT5Model")},
    ),
    inputs="seq2seq",
    # Gated MLPs of unscaled attention: at .2 the rounding of transformers itself reaches 5e-6 of a pattern in float64.
    spread=0.15,
)
