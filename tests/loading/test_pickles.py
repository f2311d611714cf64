import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from jaxheads.models.loading.hf_directory import directory_checkpoint
from jaxheads.models.loading.pickles import pickle_tensors


@pytest.mark.parametrize("as_zip", [True, False])
def test_every_view_of_a_storage_is_read_as_torch_reads_it(tmp_path, as_zip):
    base = torch.arange(24.0)
    state = OrderedDict(
        plain=base.reshape(4, 6),
        transposed=base.reshape(4, 6).T,
        offset=base[5:],
        strided=base.reshape(4, 6)[1::2, ::3],
        expanded=torch.ones(1).expand(3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        half=base.half(),
        brain=base.bfloat16(),
        long=torch.arange(3),
        boolean=torch.tensor([True, False]),
    )
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=as_zip)
    tensors = pickle_tensors(tmp_path / "x.bin")
    assert tensors.keys() == state.keys()
    for name, expected in state.items():
        got = tensors[name].read()
        assert tensors[name].shape == got.shape == tuple(expected.shape)
        assert tensors[name].dtype == str(got.dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got.astype(np.float64), expected.detach().double().numpy(), strict=True)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_module_s_state_dict_with_its_metadata(tmp_path, as_zip):
    module = torch.nn.Linear(3, 2)
    path = tmp_path / "pytorch_model.bin"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=as_zip)
    (tmp_path / "config.json").write_text("{}")
    tensors = directory_checkpoint(tmp_path, name="x").tensors
    np.testing.assert_array_equal(tensors["weight"].read(), module.weight.detach().numpy())


def archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(16))
    return path


class Touch:
    """Unpickled by the standard unpickler, this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class MakeDirectory(Touch):
    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("evil", [Touch, MakeDirectory])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, evil, protocol):
    trace = tmp_path / "it ran"
    path = archive(tmp_path / "x.bin", pickle.dumps({"a": evil(trace)}, protocol=protocol))
    with pytest.raises(ValueError, match=r"refused: its pickle names (pathlib|posix|nt|__builtin__)\."):
        pickle_tensors(path)
    assert not trace.exists()
    with zipfile.ZipFile(path) as file:
        pickle.loads(file.read("archive/data.pkl"))
    assert trace.exists(), "the pickle wasn't malicious: this test showed nothing"


@pytest.mark.parametrize(
    "name",
    [b"builtins\neval", b"os\nsystem", b"torch\nload", b"torch._utils\n__builtins__", b"collections\nabc"],
)
def test_other_globals_are_refused_by_name(tmp_path, name):
    path = archive(tmp_path / "x.bin", b"\x80\x02c" + name + b"\n.")
    with pytest.raises(ValueError, match=name.decode().replace("\n", r"\.")):
        pickle_tensors(path)


STORAGE = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"


@pytest.mark.parametrize(("offset", "shape", "stride"), [(0, 5, 1), (2, 3, 1), (0, 2, 4), (3, 2, 1)], ids=str)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, offset, shape, stride):
    view = b"K%c(K%ct(K%ct" % (offset, shape, stride)
    data = b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n" + STORAGE + view + b"tRs."
    with pytest.raises(ValueError, match="leaves its storage"):
        pickle_tensors(archive(tmp_path / "x.bin", data))


def test_the_same_handmade_pickle_within_its_storage_is_read(tmp_path):
    data = b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n" + STORAGE + b"K\x01(K\x03t(K\x01ttRs."
    np.testing.assert_array_equal(pickle_tensors(archive(tmp_path / "x.bin", data))["a"].read(), np.zeros(3))


@pytest.mark.parametrize("evil", [Touch, MakeDirectory])
def test_a_malicious_pickle_of_the_old_format_runs_nothing(tmp_path, evil):
    trace, path = tmp_path / "it ran", tmp_path / "x.bin"
    torch.save({"a": evil(trace)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"refused: its pickle names (pathlib|posix|nt|__builtin__)\."):
        pickle_tensors(path)
    assert not trace.exists()


@pytest.mark.parametrize("kept", [20, 100, 0.5, 0.99, -1])
def test_a_file_of_the_old_format_cut_off_anywhere_is_named(tmp_path, kept):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(500), "b": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=r"x\.bin"):
        pickle_tensors(path)


def test_an_old_file_whose_storages_are_not_those_of_its_tensors_is_refused(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.full((500,), 7.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    values = content.index(np.full(500, 7, np.float32).tobytes())
    path.write_bytes(content[: values - 8] + (499).to_bytes(8, "little") + content[values:])
    with pytest.raises(ValueError, match="should hold 2000 bytes, and has 499 values"):
        pickle_tensors(path)


@pytest.mark.parametrize("kept", [0.2, 0.9])
def test_a_file_cut_off_is_named(tmp_path, kept):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(2000)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"x\.bin is cut off"):
        pickle_tensors(path)


def test_flipped_bytes_of_a_storage_are_noticed(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.full((2000,), 7.0)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.full(9, 7, np.float32).tobytes(), np.full(9, 8, np.float32).tobytes(), 1))
    with pytest.raises(ValueError, match=r"x\.bin is corrupt"):
        pickle_tensors(path)["a"].read()


def test_what_is_no_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "model": {"a": torch.ones(2)}}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"2 of its 2 entries.*epoch \(int\), model \(dict\)"):
        pickle_tensors(tmp_path / "x.bin")
    torch.save([1, 2], tmp_path / "y.bin")
    with pytest.raises(ValueError, match="holds a list, expected a state dict"):
        pickle_tensors(tmp_path / "y.bin")
