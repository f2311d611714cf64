"""Packages of extras: what needs them names what to install; nothing else misses them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import transformers

from jaxheads import cli, data, view
from jaxheads.data.tasks import images
from jaxheads.extras import EXTRAS, MissingExtraError, extra
from jaxheads.generate import scores
from jaxheads.measure.people.readings import word_controls
from jaxheads.measure.relevance.flow import networkx_flows
from jaxheads.measure.similarity.redundancy import HeadPairs
from jaxheads.models.loading.onnx_file import onnx_checkpoint

ROOT = Path(__file__).parent.parent

# What a plain install lacks, and the world of torch, as if none of it were there.
WITHOUT = """
import importlib.machinery, importlib.metadata, sys
OURS = ("anywidget", "conllu", "jiwer", "networkx", "onnx", "rouge_score", "sacrebleu", "sklearn", "wordfreq")
ABSENT = (*OURS, "torch", "torchvision", "torchaudio")
class Finder:
    find_distributions = importlib.machinery.PathFinder.find_distributions
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in ABSENT:
            return importlib.machinery.PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [own for own in sys.meta_path if own is not importlib.machinery.PathFinder] + [Finder]
"""


@pytest.fixture(params=EXTRAS)
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Block a package's import, with all its modules, and return its name."""
    for name in [own for own in sys.modules if own.partition(".")[0] == request.param]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


def test_what_needs_a_package_says_what_to_install(missing: str, tmp_path: Path):
    treebank = tmp_path / "t.conllu"
    treebank.write_text("1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n")
    scores._rouge_scorer.cache_clear()
    calls = {
        "anywidget": lambda: view.heatmap({"m": np.ones((1, 2))}).widget(),
        "conllu": lambda: data.conllu(treebank),
        "wordfreq": lambda: word_controls([["a"]]),
        "jiwer": lambda: scores.wer("a", ["b"]),
        "rouge_score": lambda: scores.SCORES["rouge1"].of("a", ["b"]),
        "sacrebleu": lambda: scores.chrf("a", ["b"]),
        "networkx": lambda: networkx_flows(np.ones((1, 2, 2)), 1),
        "onnx": lambda: onnx_checkpoint(tmp_path / "x.onnx", name="x"),
        "sklearn": lambda: HeadPairs(
            "z", "decoder", (1, 2), np.eye(2), np.eye(2), np.eye(2), np.ones((2, 2), int), {}
        ).embedding(),
    }
    with pytest.raises(
        MissingExtraError, match=rf"pip install 'jaxheads\[{EXTRAS[missing]}\]' \(or 'jaxheads\[all\]'\)"
    ):
        calls[missing]()


def test_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    images._digits.cache_clear()
    with pytest.raises(MissingExtraError, match="the task of handwritten digits needs the package scikit-learn"):
        images._digits()


def test_a_package_that_lacks_one_of_its_own_is_not_called_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx.no_such_module", None)
    with pytest.raises(MissingExtraError):
        extra("onnx.no_such_module", "this")
    monkeypatch.setattr("importlib.import_module", lambda name: __import__("no_such_package_of_this_name"))
    with pytest.raises(ModuleNotFoundError, match="no_such_package_of_this_name") as error:
        extra("onnx", "this")
    assert not isinstance(error.value, MissingExtraError)


def test_the_command_line_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
):
    def load(source: str) -> None:
        raise MissingExtraError("x.onnx needs the package onnx")

    monkeypatch.setattr("jaxheads.models.load.load", load)
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    assert cli.main(["atlas", "x.onnx", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "jaxheads: x.onnx needs the package onnx\n"


def test_every_extra_is_declared_and_in_all():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in EXTRAS.values():
        assert declared[name][0].startswith(name)
        assert name in declared["all"][0]


def test_images_and_audio_are_encoded_without_torch(tmp_path: Path):
    script = f"""{WITHOUT}
import numpy as np
from jaxheads.models.inputs.audio import audio_features
from jaxheads.models.inputs.images import image_pixels
rng = np.random.default_rng(0)
image, sound = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.standard_normal(4000) / 10
settings = {{"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": 17}}
settings |= {{"image_mean": 0.5, "image_std": 0.5}}
np.save("pixels.npy", image_pixels(image, settings))
np.save("features.npy", audio_features(sound, mels=80, frames=100))
assert "torch" not in sys.modules
"""
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=settings)
    rng = np.random.default_rng(0)
    image, sound = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.standard_normal(4000) / 10
    theirs = transformers.CLIPImageProcessorPil(size=20, crop_size=17, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pixels = theirs(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), np.moveaxis(pixels, 1, -1))
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    features = extractor._np_extract_fbank_features(np.pad(sound, (0, 12_000))[None], "cpu")
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), features, rtol=0, atol=1e-7)


def test_a_plain_install_measures_ablates_and_draws(tmp_path: Path):
    script = f"""{WITHOUT}
import numpy as np, jaxheads as jh
config = {{"model_type": "gpt2", "vocab_size": 37, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}}
model, batch = jh.init(config), jh.Batch(np.random.default_rng(0).integers(0, 37, (4, 6)))
jh.measure(model, batch).plot("entropy").save("heads.png")
jh.ablate(model, batch, jh.loss()).save(".")
"""
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (tmp_path / "heads.png").exists()
