"""Whisper at the size of its real inputs; from sound and text to its batches."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.models.families.whisper import WhisperConfig
from jaxheads.models.inputs.audio import HOP, audio_features

from .specs import SPECS
from .specs.spec import compare, pair, small, their_run

WORDS = ["<|endoftext|>", "<unk>", "<|startoftranscript|>", "<|notimestamps|>", "the", "cat", "sat"]
END, _, START, PLAIN, THE, CAT, SAT = range(len(WORDS))


def tokenizer(*, prefix: bool) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {word: WORDS.index(word) for word in (WORDS[START], WORDS[PLAIN], WORDS[END])}
    template = f"{f'{WORDS[START]} {WORDS[PLAIN]} ' if prefix else ''}$A {WORDS[END]}"
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(special.items()))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token=WORDS[END])


def model(*, prefix: bool = True) -> jh.Model:
    return replace(small("whisper").ours, tokenizer=tokenizer(prefix=prefix))


SOUND = np.sin(0.3 * np.arange(10 * HOP))


def test_1500_positions_and_448_targets_are_those_of_transformers():
    both = pair(
        SPECS["whisper"],
        num_mel_bins=80,
        encoder_layers=1,
        decoder_layers=1,
        max_source_positions=1500,
        max_target_positions=448,
    )
    rng = np.random.default_rng(0)
    features = audio_features(0.1 * rng.standard_normal(40_000), mels=80, frames=3000)
    batch = jh.Batch(features=features, targets=rng.integers(4, 37, (1, 448)))
    sites = [f"{name}.{site}" for name in both.ours.stacks for site in ("pattern", "resid_pre")]
    compare(jh.run(both.ours, batch, sites), their_run(both.theirs, batch, 0), both.ours, batch, 0)


def test_a_config_of_transformers_4_is_understood():
    """openai/whisper-base's, as the hub has it."""
    given = {
        "_name_or_path": "openai/whisper-base",
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "architectures": ["WhisperForConditionalGeneration"],
        "attention_dropout": 0.0,
        "begin_suppress_tokens": [220, 50257],
        "bos_token_id": 50257,
        "d_model": 512,
        "decoder_attention_heads": 8,
        "decoder_ffn_dim": 2048,
        "decoder_layerdrop": 0.0,
        "decoder_layers": 6,
        "decoder_start_token_id": 50258,
        "dropout": 0.0,
        "encoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "encoder_layerdrop": 0.0,
        "encoder_layers": 6,
        "eos_token_id": 50257,
        "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]],
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "max_length": 448,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "model_type": "whisper",
        "num_hidden_layers": 6,
        "num_mel_bins": 80,
        "pad_token_id": 50257,
        "scale_embedding": False,
        "suppress_tokens": [1, 2, 7],
        "torch_dtype": "float32",
        "transformers_version": "4.27.0.dev0",
        "use_cache": True,
        "vocab_size": 51865,
    }
    config = WhisperConfig.from_hf(given)
    assert (config.vocab_size, config.max_position_embeddings, config.head) == (51_865, 448, "lm")
    assert config.tie_word_embeddings


def test_the_stacks_are_over_frames_and_targets():
    stacks = small("whisper").ours.stacks
    assert {name: (stack.queries.kind, stack.keys.kind) for name, stack in stacks.items()} == {
        "encoder": ("frames", "frames"),
        "decoder": ("targets", "targets"),
        "cross": ("targets", "frames"),
    }


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        ((1, 5, 14), (1, 3), r"must be \[examples, 5 mels, 16 frames\], got 5 mels and 14 frames"),
        ((1, 80, 16), (1, 3), "got 80 mels and 16 frames"),
        ((1, 5, 16), (1, 13), "takes up to 12 targets; got 13"),
    ],
)
def test_batches_of_another_shape_are_refused(features: Any, targets: Any, message: str):
    with pytest.raises(ValueError, match=message):
        jh.run(model(), jh.Batch(features=np.zeros(features, np.float32), targets=np.full(targets, 4)))


@pytest.mark.parametrize("prefix", [True, False])
def test_audio_and_its_transcripts_become_a_batch(prefix: bool):
    """The start token is there once, whether the tokenizer puts it there or not."""
    tiny = model(prefix=prefix)
    batch = tiny.encode([SOUND, SOUND[:100]], targets=["the cat sat", "cat"], sampling_rate=16_000)
    before = [START, PLAIN] if prefix else [START]
    assert batch.targets is not None
    assert batch.target_mask is not None
    assert batch.targets.tolist() == [[*before, THE, CAT, SAT, END], [*before, CAT, END, END, END]]
    assert batch.target_mask[1].tolist() == [True] * (len(before) + 2) + [False] * 2
    np.testing.assert_array_equal(batch.features, audio_features([SOUND, SOUND[:100]], mels=5, frames=16))
    assert jh.run(tiny, batch).output.shape == (2, len(before) + 4, 37)
    left = tiny.encode([SOUND, SOUND], targets=["the cat", "cat"], side="left")
    assert left.target_mask is not None
    assert left.target_mask[1].tolist() == [False] + [True] * (len(before) + 2)


def test_without_transcripts_the_decoder_gets_its_start_token_and_needs_no_tokenizer():
    tiny = small("whisper").ours
    assert tiny.tokenizer is None
    batch = tiny.encode(SOUND)
    assert batch.targets is not None
    assert batch.targets.tolist() == [[START]]
    with pytest.raises(ValueError, match=r"has no tokenizer"):
        tiny.encode(SOUND, targets="the cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bos": True}, "bos and max_length are for texts"),
        ({"max_length": 3}, "bos and max_length are for texts"),
        ({"sampling_rate": 8000}, "16000 samples a second, got 8000"),
        ({"side": "middle"}, "side must be"),
        ({"targets": ["the", "cat"]}, "one text for each of 1 examples; got 2"),
        ({"targets": "the cat " * 9}, "takes up to 12 targets; got 21"),
    ],
)
def test_what_audio_can_t_be_encoded_with_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        model().encode(SOUND, **options)


def test_text_is_no_audio_and_audio_no_text():
    with pytest.raises(ValueError, match="audio must be mono"):
        model().encode("the cat")
    with pytest.raises(ValueError, match="sampling_rate is for audio"):
        replace(small("llama").ours, tokenizer=tokenizer(prefix=False)).encode("the cat", sampling_rate=16_000)
