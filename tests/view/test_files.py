"""Files of views: arrays as text, one document without a network, a bundle that is up to date."""

import base64
import json
import re
import zlib

import numpy as np
import pytest

from jaxheads import view
from jaxheads.view import bundle
from jaxheads.view.document import inlined


def unpacked(packed: dict) -> np.ndarray:
    """The numbers that JavaScript reads."""
    data = base64.b64decode(packed["data"])
    data = zlib.decompress(data) if packed["deflated"] else data
    if packed["bits"] == 32:
        return np.frombuffer(data, "<f4").reshape(packed["shape"]).astype(np.float64)
    codes, last = np.frombuffer(data, f"<u{packed['bits'] // 8}").reshape(packed["shape"]), 2 ** packed["bits"] - 2
    values = packed["low"] + (packed["high"] - packed["low"]) * (codes / last) ** packed["power"]
    return np.where(codes > last, np.nan, values)


@pytest.mark.parametrize(("bits", "within"), [(8, 0.5 / 254), (16, 0.5 / 65534), (32, 1e-7)])
@pytest.mark.parametrize("deflated", [False, True])
def test_numbers_come_back(bits, within, deflated: bool):
    values = np.random.default_rng(0).uniform(-1, 3, (4, 5))
    values[1, 2] = np.nan
    back = unpacked(view.packed(values, bits, deflated=deflated))
    np.testing.assert_allclose(back, values, rtol=0, atol=within * 4 + 1e-7)


def test_a_power_keeps_small_weights():
    weights = np.array([0.0, 1 / 512, 0.01, 1.0])
    assert abs(unpacked(view.packed(weights, 8, power=2))[1] * 512 - 1) < 0.05
    assert abs(unpacked(view.packed(weights, 8))[1] * 512 - 1) > 0.5


def test_equal_numbers_and_none_at_all():
    np.testing.assert_array_equal(unpacked(view.packed([2.0, 2.0])), [2, 2])
    np.testing.assert_array_equal(unpacked(view.packed([np.nan])), [np.nan])
    with pytest.raises(ValueError, match="infinity in 1 places"):
        view.packed([np.inf])


def test_the_bundle_is_that_of_the_sources():
    assert bundle.script() == bundle.bundled(), "run `python -m jaxheads.view`"


def test_a_text_can_not_end_the_script():
    text = "</script><script>alert(1)</script>\u2028&amp;<!--"
    html = view.document(text, [{"kind": "heatmap", "title": text}])
    [data] = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert json.loads(data)["title"] == text
    assert not set(data) & set("<>&\u2028")
    assert "alert(1)</script>" not in html
    assert "<title>&lt;/script&gt;" in html


def test_numbers_of_numpy_are_plain_and_other_things_are_named():
    assert inlined({"row": np.int64(3), "share": np.float32(0.5), "kept": np.bool_(True)}) == (
        '{"row":3,"share":0.5,"kept":true}'
    )
    with pytest.raises(TypeError, match="plain values and packed arrays, got ndarray"):
        inlined({"x": np.zeros(2)})


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        inlined({"x": float("nan")})
