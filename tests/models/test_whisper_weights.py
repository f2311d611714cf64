"""Whisper base with its real weights: equal to `transformers`, and its alignment heads align."""

import wave
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import WhisperConfig, WhisperForConditionalGeneration

import jaxheads as jh
from jaxheads.models.inputs.audio import RATE
from jaxheads.models.loading.checkpoint import Checkpoint
from jaxheads.models.loading.sources import open_checkpoint

from .huggingface import TOLERANCE

pytestmark = pytest.mark.weights

SPEECH = Path(__file__).parent.parent / "data" / "speech.wav"
SAID = " Seven old fishing boats are waiting in the harbor this morning."


def speech() -> np.ndarray:
    with wave.open(str(SPEECH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / 32768


@pytest.fixture(scope="module")
def whisper() -> jh.Model:
    model = jh.load("whisper-base")
    model.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    return model


@pytest.fixture(scope="module")
def batch(whisper: jh.Model) -> jh.Batch:
    return whisper.encode(speech(), targets=SAID, sampling_rate=RATE)


@pytest.fixture(scope="module")
def run(whisper: jh.Model, batch: jh.Batch) -> jh.Run:
    return jh.run(whisper, batch, "cross.pattern")


def in_torch(checkpoint: Checkpoint) -> WhisperForConditionalGeneration:
    config: Any = WhisperConfig(**checkpoint.config)
    model = WhisperForConditionalGeneration._from_config(config, attn_implementation="eager").eval().double()
    state = {name: torch.tensor(tensor.read().astype(np.float64)) for name, tensor in checkpoint.tensors.items()}
    assert model.load_state_dict(state, strict=False) == (["proj_out.weight"], [])
    return model


def test_encoder_and_decoder_are_those_of_transformers(batch: jh.Batch, run: jh.Run):
    """In float64: the encoder's last norm lets roundings of float32 grow, in torch as well, to a few 1e-5."""
    sites = ("encoder.resid_pre", "encoder.resid_post", "decoder.resid_pre", "decoder.pattern", "cross.pattern")
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax's norms know float32 at least
        model = jh.load("whisper-base", dtype=np.float64)
        exact = jh.run(model, batch, sites)
        memory = np.asarray(model.network.memory(exact.seen["encoder.resid_post"][-1]))
    given = {
        "input_features": torch.tensor(np.asarray(batch.features, np.float64)),
        "decoder_input_ids": torch.tensor(np.asarray(batch.targets)),
    }
    with torch.no_grad():
        out = in_torch(open_checkpoint("whisper-base"))(**given, output_hidden_states=True, output_attentions=True)
    pairs = {
        "logits": (exact.output, out.logits),
        "logits in float32": (run.output, out.logits),
        "memory": (memory, out.encoder_last_hidden_state),
        "encoder": (exact.seen["encoder.resid_pre"], torch.stack(out.encoder_hidden_states[:-1])),
        "decoder": (exact.seen["decoder.resid_pre"], torch.stack(out.decoder_hidden_states[:-1])),
        "decoder's patterns": (exact.seen["decoder.pattern"], torch.stack(out.decoder_attentions)),
        "cross patterns": (exact.seen["cross.pattern"], torch.stack(out.cross_attentions)),
    }
    away = {name: float(np.abs(np.asarray(a) - b.numpy()).max() / b.abs().max()) for name, (a, b) in pairs.items()}
    assert max(away.values()) < TOLERANCE, away


def test_it_hears_what_was_said(whisper: jh.Model, batch: jh.Batch):
    """A token of the sentence is likelier by more than a factor of e than with the same sound backwards."""
    backwards = whisper.encode(speech()[::-1], targets=SAID)
    first = len(whisper.tokenizer.prefix_tokens)

    def likelihood(given: jh.Batch) -> float:
        assert given.targets is not None
        log_p_TV = jax.nn.log_softmax(jh.run(whisper, given).output[0, first - 1 : -1])
        return float(np.take_along_axis(np.asarray(log_p_TV), np.asarray(given.targets)[0, first:, None], 1).mean())

    assert likelihood(batch) - likelihood(backwards) > 1


def test_the_listed_alignment_heads_align(whisper: jh.Model, run: jh.Run):
    """Rank correlation of a target token's place with the centre of mass, over the frames that have sound, of the
    attention at the position that predicts it. Others align as well: those listed were chosen for their timestamps."""
    assert whisper.hf_config is not None
    first, frames = len(whisper.tokenizer.prefix_tokens), -(-len(speech()) // 320)
    p_LNTS = np.asarray(run.seen["cross.pattern"])[:, 0, :, first - 1 : -2, :frames]
    centres_LNT = p_LNTS @ np.arange(frames) / p_LNTS.sum(axis=-1)
    places = np.arange(centres_LNT.shape[-1])
    agreement_LN = np.array([[spearmanr(centres, places)[0] for centres in layer] for layer in centres_LNT])
    listed_LN = np.zeros(agreement_LN.shape, bool)
    listed_LN[tuple(np.array(whisper.hf_config["alignment_heads"]).T)] = True
    assert listed_LN.sum() == 8
    listed, others = agreement_LN[listed_LN], agreement_LN[~listed_LN]
    assert np.median(listed) > np.median(others) + 0.2, agreement_LN.round(2)
    assert listed.min() > 0.8, agreement_LN.round(2)
