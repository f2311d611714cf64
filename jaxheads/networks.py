"""What a network of one's own is made of, so that all questions can be asked of it; docs/your-own-model.md shows how.

*A network* (`Network`) embeds a batch, lets its stacks run, and maps the last stream to logits. It has:

- `config`, with `vocab_size` and `max_position_embeddings` (None for no limit);
- `streams`, its stacks in the order they run;
- `hidden(batch, run_stack)`, which returns the stream `[B,T,D]` after the last stack, computed by
  `run_stack(stack, x, inputs)` for each of `streams`;
- `features(x)`, what the unembedding reads of the stream (the last norm), and `unembedding`, or None for no logits;
- `with_frozen_statistics(x, whole)` and `embed_tokens(ids)`, where features are linear but for a norm, and positions
  are tokens: direct logit attribution, lenses and circuits read them. Without them these questions are refused.

*A stack* (`Stack`, made of blocks by `stack_of`) is layers of one kind and shape, scanned.

*A block* is a layer: `queries`, `keys_values` and `write` around its `attention`; the protocols `Block` and
`AdditiveBlock` say what each returns. `PreNormBlock`, `PostNormBlock`, `ParallelBlock`, `SandwichBlock` and
`AttentionBlock` are the usual orders of norms, over any norm and MLP that can be called.

*Attention* (`Attention`, made of one's own weights by `attention_of`) has W_Q `[D,N,H]`, W_K and W_V `[D,K,H]`, W_O
`[N,H,D]`, and biases or None. A subclass computes its own scores or pattern in `attend(q, k, v, context, edit)`. Each
value passes through `edit(site, value)`, by which runs are read and changed; `networks.attend` does so.

A network must compute the same for an example alone and in a batch, padded or not, and must draw no random numbers.
"""

from .models.attention.attend import attend
from .models.attention.row_edits import Edit, unchanged
from .models.blocks import (
    AdditiveBlock,
    AttentionBlock,
    Block,
    InputNorm,
    ParallelBlock,
    PostNormBlock,
    PreNormBlock,
    SandwichBlock,
)
from .models.inputs.attention_inputs import AttentionInputs
from .models.inputs.axes import TOKENS
from .models.inputs.batch import Batch
from .models.layers import Attention, Embed, GatedMLP, PlainMLP, layer_norm, rms_norm
from .models.network import Network, RunStack
from .models.norms import with_frozen_statistics
from .models.own_network import attention_of, stack_of
from .models.positions import Rotary
from .models.sites import ATTENTION_SITES, SITES
from .models.stack import Stack
from .models.unembedding import Unembedding

__all__ = [
    # a network, its stacks, their layers
    "Network",
    "RunStack",
    "Stack",
    "stack_of",
    "Block",
    "AdditiveBlock",
    "AttentionBlock",
    "ParallelBlock",
    "PostNormBlock",
    "PreNormBlock",
    "SandwichBlock",
    "InputNorm",
    # attention and its sites
    "Attention",
    "attention_of",
    "attend",
    "Edit",
    "unchanged",
    "SITES",
    "ATTENTION_SITES",
    # what they read and write
    "AttentionInputs",
    "Batch",
    "TOKENS",
    "Unembedding",
    "with_frozen_statistics",
    # layers
    "Embed",
    "GatedMLP",
    "PlainMLP",
    "Rotary",
    "layer_norm",
    "rms_norm",
]
