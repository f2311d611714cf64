"""`jaxheads atlas` on a directory of every family and on every model of the zoo, with inputs that fit it.

Ablations, pictures and further draws of nulls are the same for all decoders: `test_atlas.py` has them. Here most are
left out for time.
"""

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads import cli
from jaxheads.models.loading.zoo import ZOO
from jaxheads.report import atlas, inputs, sources

from ..models.specs import SPECS

WORDS = [f"w{number}" for number in range(33)]
WITH_ABLATIONS = ("bloom",)
WITH_PAGE = ("bert", "bloom", "clip", "llava", "t5", "vit", "whisper")
COUNT = 8


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A text, a folder of images and a folder of recordings, 8 examples each."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    (folder / "text.txt").write_text("\n\n".join(" ".join(rng.choice(WORDS, 8)) for _ in range(COUNT)))
    (folder / "images").mkdir()
    (folder / "audio").mkdir()
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        with wave.open(str(folder / "audio" / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(rng.integers(-9000, 9000, 2000).astype("<i2").tobytes())
        (folder / "audio" / f"{number}.txt").write_text(" ".join(rng.choice(WORDS, 6)))
    return {"text": folder / "text.txt", "images": folder / "images", "audio": folder / "audio"}


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(atlas, "heatmaps", lambda table, folder: [])
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)


@pytest.fixture(autouse=True)
def _two_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each null twice, not four times."""
    monkeypatch.setattr(inputs, "DRAWS", 2)


def no_ablations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "ablations", lambda *arguments, **options: ([], []))


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token a word, which ends texts where the family needs that."""
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>", "eos_token": "</s>"}
    words = ["<pad>", "<bos>", "<unk>", *WORDS, "</s>"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if SPECS[name].ended:
        ended: Any = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", words.index("</s>"))])
        inner.post_processor = ended
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def write_directory(name: str, folder: Path) -> None:
    """Write a tiny checkpoint of a family as the hub holds it, with what its inputs need."""
    spec = SPECS[name]
    more: dict[str, Any] = {"decoder_start_token_id": 0} if name == "t5" else {}
    spec.build(**more).save_pretrained(folder)
    if spec.image:
        height, width, _ = spec.image
        settings = {"size": {"height": height, "width": width}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        kind = {"image_processor_type": "ViTImageProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps({**kind, **settings}))


def run(model: str, given: dict[str, Path], out: Path, *more: str) -> None:
    sizes = ["--examples", "2", "--measured", "8"]
    words = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    assert cli.main(["atlas", model, *words, *sizes, "--out", str(out), *more]) == 0


@pytest.mark.parametrize("name", SPECS)
def test_a_directory_of_every_family(name: str, given: dict[str, Path], tmp_path: Path, monkeypatch: Any, capsys: Any):
    if name not in WITH_ABLATIONS:
        no_ablations(monkeypatch)
    write_directory(name, tmp_path / "model")
    # Tokenizers of families differ, and have tests of their own.
    model = replace(jh.load(tmp_path / "model"), tokenizer=tokenizer(name))
    monkeypatch.setattr("jaxheads.models.load.load", lambda source: model)
    kinds = {stream.queries.kind for stream in model.network.streams}
    fields = {"frames": "audio", "patches": "images", "tokens": "text"}
    paged = [] if name in WITH_PAGE else ["--no-page"]
    inputs = {fields[kind]: given[fields[kind]] for kind in fields if kind in kinds}
    run(str(tmp_path / "model"), inputs, tmp_path, *paged)
    assert (tmp_path / "heads.html").exists() == (name in WITH_PAGE)
    for stack_name, stack in model.stacks.items():
        folder = tmp_path / stack_name if len(model.stacks) > 1 else tmp_path
        table = jh.HeadTable.load(folder / "atlas")
        assert (table.stack, table.shape) == (stack_name, (stack.layers, stack.heads))
        assert np.isfinite(table.grid("entropy")).all()
        tokens = "frames" not in kinds and not stack.is_cross and stack.queries.kind in ("tokens", "targets")
        repeats = tokens and not name.startswith("clip")
        assert ("induction" in table.metrics) == repeats
        assert "measured on 8 " in (folder / "summary.md").read_text()
        assert ("prose_loss" in table.metrics) == (name in WITH_ABLATIONS)
    assert "## Roles" in capsys.readouterr().out


@pytest.mark.weights
@pytest.mark.filterwarnings("ignore:mpnet-base has no tensor of the head")
@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo(name: str, given: dict[str, Path], tmp_path: Path, monkeypatch: Any):
    no_ablations(monkeypatch)
    monkeypatch.setattr(sources, "LONGEST", 4)
    model = jh.load(name)
    monkeypatch.setattr("jaxheads.models.load.load", lambda source: model)
    kinds = {stream.queries.kind for stream in model.network.streams}
    # Whisper's encoder looks at 1,500 frames: minutes. A tiny one passes above.
    asked = "cross" if "cross" in model.stacks else "all"
    # The inputs that come with the package fit images and audio; texts are short ones.
    run(name, {} if kinds & {"patches", "frames"} else {"text": given["text"]}, tmp_path, "--stack", asked, "--no-page")
    stack = model.stack(asked if asked != "all" else None)
    assert jh.HeadTable.load(tmp_path / "atlas").shape == (stack.layers, stack.heads)


def test_inputs_that_a_model_does_not_read_are_refused_by_name(given: dict[str, Path], tmp_path: Path, capsys: Any):
    write_directory("gpt2", tmp_path / "model")
    words = ["atlas", str(tmp_path / "model"), "--images", str(given["images"]), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    assert "images: " in capsys.readouterr().err
    assert cli.main([*words[:2], "--stack", "encoder", "--out", str(tmp_path / "out")]) == 1
    assert "has the stacks decoder; got 'encoder'" in capsys.readouterr().err


def test_recordings_need_their_words_and_their_form(given: dict[str, Path], tmp_path: Path):
    (tmp_path / "audio").mkdir()
    for number in range(COUNT):
        name = f"{number}.wav"
        (tmp_path / "audio" / name).write_bytes((given["audio"] / name).read_bytes())
    write_directory("whisper", tmp_path / "model")
    model = replace(jh.load(tmp_path / "model"), tokenizer=tokenizer("whisper"))
    with pytest.raises(ValueError, match=r"expected NAME.txt beside each NAME.wav"):
        atlas.atlas(model, stack="decoder", audio=tmp_path / "audio")
    with wave.open(str(tmp_path / "audio" / "0.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(bytes(400))
    with pytest.raises(ValueError, match=r"0\.wav: expected one channel of 16 bits at 16000 a second, got 2 of 16"):
        atlas.atlas(model, stack="encoder", audio=tmp_path / "audio")
