"""Masks and probability maps in pictures of more than 8 bits, distinguished by the whole folder; arrays of no value."""

import numpy as np
import pytest
from PIL import Image

from xbuslib.data import predictions
from xbuslib.errors import StudyError

LESION = np.zeros((32, 32), bool)
LESION[10:20, 8:16] = True


def read(folder, **arrays):
    """The predictions of one picture a case; float32 as TIFF, else PNG."""
    for case, values in arrays.items():
        suffix = "tif" if values.dtype == np.float32 else "png"
        Image.fromarray(values).save(folder / f"{case}.{suffix}")
    return predictions.read(folder, dict.fromkeys(arrays, (32, 32)), 32)


@pytest.mark.parametrize("value", [np.float32(0.3), np.uint16(19661)])  # 0.3 of 65535 is 19660.5
def test_a_faint_map_of_two_values_is_no_mask(value, tmp_path):
    found = read(tmp_path, a=LESION * value)
    assert found.kind == "probability maps" and np.allclose(found.maps[0], LESION * 0.3, atol=1e-5)
    assert "read as probability maps" in found.notes[0]


@pytest.mark.parametrize("value", [np.uint16(1), np.uint16(255), np.uint16(65535), np.float32(1), np.float32(255)])
def test_masks_of_more_than_8_bits(value, tmp_path):
    found = read(tmp_path, a=LESION * value, empty=LESION * value * 0)
    assert found.kind == "masks" and np.array_equal(found.maps, [LESION, LESION * 0])
    assert not any("probability" in note for note in found.notes)


def test_a_map_of_nearly_nothing_among_maps_is_no_mask(tmp_path):
    """0 and 1 of 65535 beside a map of three values."""
    found = read(tmp_path, a=LESION.astype(np.uint16), b=LESION * np.uint16(60000) + np.uint16(5))
    assert found.maps[0].max() == pytest.approx(1 / 65535) and found.kind == "probability maps"


def test_masks_of_8_bits_beside_maps_stay_masks(tmp_path):
    alone = read(tmp_path, a=LESION.astype(np.uint8) * 128)
    assert alone.kind == "masks" and not any("probability" in note for note in alone.notes)
    found = read(tmp_path, a=LESION.astype(np.uint8) * 128, b=LESION * np.uint16(60000))
    assert np.array_equal(found.maps[0], LESION) and found.maps[1].max() == pytest.approx(60000 / 65535)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0)])
def test_an_array_without_a_value_is_refused(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(StudyError, match=r"a.npy is an array of shape .*, which holds no value"):
        predictions.read(tmp_path, {"a": (32, 32)}, 32)
