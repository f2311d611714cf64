import pytest

from jaxheads.models.families import FAMILIES


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_family_is_found_by_its_configs_model_type(model_type: str):
    assert model_type in FAMILIES
    assert FAMILIES[model_type].config_type.model_type == model_type


def test_no_other_family_is_found():
    assert "gpt5" not in FAMILIES
    assert None not in FAMILIES
    with pytest.raises(KeyError):
        FAMILIES["gpt5"]
