"""Measurements against ellipses of known axes, hand-counted masks and scikit-image."""

import numpy as np
import pytest
from skimage.measure import perimeter_crofton, regionprops

from xbuslib.evaluation.measure import lesion


def ellipse(a, b, degrees, pixel=(1.0, 1.0), shape=(300, 400), centre=(190.3, 140.6)):
    """(H, W) mask of an ellipse of semi-axes a, b (in units of `pixel`), turned clockwise on the screen."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    x, y = (x - centre[0]) * pixel[0], (y - centre[1]) * pixel[1]
    turn = np.radians(degrees)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


ELLIPSES = [(80, 40, 0, (1, 1)), (80, 40, 30, (1, 1)), (80, 40, 63, (1, 1)), (60, 45, 90, (1, 1)), (12, 5, 45, (1, 1)),
            (40, 25, 155, (1, 1)), (10, 5, 20, (0.1, 0.1)), (8, 4, 50, (0.1, 0.06)), (3, 1.5, 110, (0.05, 0.1)),
            (7, 3, 75, (0.04, 0.09))]


@pytest.mark.parametrize("a, b, degrees, pixel", ELLIPSES)
def test_diameters_within_one_pixel(a, b, degrees, pixel):
    found = lesion(ellipse(a, b, degrees, pixel), None if pixel == (1, 1) else pixel)
    assert found.unit == ("px" if pixel == (1, 1) else "mm")
    assert abs(found.longest_diameter - 2 * a) <= min(pixel)
    assert abs(found.orthogonal_diameter - 2 * b) <= min(pixel)
    assert found.area == pytest.approx(np.pi * a * b, rel=0.01)
    turn = np.radians(degrees)  # the extents of a turned ellipse
    assert abs(found.width - 2 * np.hypot(a * np.cos(turn), b * np.sin(turn))) <= pixel[0]
    assert abs(found.height - 2 * np.hypot(a * np.sin(turn), b * np.cos(turn))) <= pixel[1]


@pytest.mark.parametrize("a, b, degrees, pixel", ELLIPSES)
def test_angle_and_orientation(a, b, degrees, pixel):
    found = lesion(ellipse(a, b, degrees, pixel), pixel)
    angle = min(degrees % 180, 180 - degrees % 180)
    assert found.angle_degrees == pytest.approx(angle, abs=5)  # of a stout ellipse many diameters are nearly longest
    if angle != 45:
        assert found.orientation == ("parallel" if angle < 45 else "not parallel")
        assert found.taller_than_wide == (angle > 45) == (found.aspect > 1)


@pytest.mark.parametrize("a, b, degrees, pixel", ELLIPSES)
def test_lines_are_as_long_as_the_diameters_and_cross_at_right_angles(a, b, degrees, pixel):
    found = lesion(ellipse(a, b, degrees, pixel), pixel)
    longest, orthogonal = (np.diff(np.array(line) * pixel, axis=0)[0]
                           for line in (found.longest_line, found.orthogonal_line))
    assert np.linalg.norm(longest) == pytest.approx(found.longest_diameter, abs=0.03)
    assert np.linalg.norm(orthogonal) == pytest.approx(found.orthogonal_diameter, abs=0.03)
    assert abs(longest @ orthogonal) < 0.01 * found.longest_diameter * found.orthogonal_diameter
    middle = np.mean(found.longest_line, axis=0)
    assert np.abs(middle - (190.3, 140.6)).max() < 4  # pixels, for the same reason


@pytest.mark.parametrize("a, b, degrees, pixel", ELLIPSES)
def test_regularity_of_ellipses(a, b, degrees, pixel):
    """A convex outline has solidity 1; the form factor follows from Ramanujan's perimeter."""
    found = lesion(ellipse(a, b, degrees, pixel), pixel)
    h = ((a - b) / (a + b)) ** 2
    perimeter = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
    assert found.solidity == pytest.approx(1, abs=0.01)
    assert found.circularity == pytest.approx(4 * np.pi * np.pi * a * b / perimeter**2, rel=0.03)


@pytest.mark.parametrize("tail", [1, 2])
def test_a_thin_part_counts_whole_in_every_length(tail):
    """A square of 40 pixels with a tail of 80: 120 wide, and 120 to the square's far corner."""
    mask = np.zeros((60, 140), bool)
    mask[10:50, 10:50] = mask[10:10 + tail, 50:130] = True
    found = lesion(mask)
    assert found.width == pytest.approx(120, abs=1) and found.height == pytest.approx(40, abs=1)
    assert found.longest_diameter == pytest.approx(np.hypot(120, 40 - tail), abs=3)
    line = np.zeros((20, 220), bool)
    line[10, 10:210] = line[7:14, 10:17] = True
    assert lesion(line).longest_diameter == pytest.approx(200, abs=1)


def star(teeth, depth):
    """A disc of radius 60 whose edge goes in and out."""
    y, x = np.mgrid[:200, :200] - 100.0
    return np.hypot(x, y) <= 60 * (1 + depth * np.cos(teeth * np.arctan2(y, x)))


def test_regularity_against_scikit_image():
    values = [lesion(star(9, depth)) for depth in (0.0, 0.1, 0.2, 0.3)]
    for depth, found in zip((0.0, 0.1, 0.2, 0.3), values, strict=True):
        own = regionprops(star(9, depth).astype(np.uint8))[0]
        assert found.solidity == pytest.approx(own.solidity, abs=0.02)
        assert found.circularity == pytest.approx(
            4 * np.pi * own.area / perimeter_crofton(star(9, depth), directions=4) ** 2, rel=0.06)
        assert abs(found.longest_diameter - own.feret_diameter_max) <= 2  # its hull has the pixels' corners
    assert np.all(np.diff([found.solidity for found in values]) < 0)
    assert np.all(np.diff([found.circularity for found in values]) < 0)


def test_nothing_gives_nothing():
    assert lesion(np.zeros((50, 60), bool)) is None


def test_the_largest_of_several_regions():
    """8×10 pixels of 0.1×0.2 mm, and two smaller regions, of which one touches by a corner only."""
    mask = np.zeros((100, 120), bool)
    mask[70:80, 90:98] = True
    mask[10:13, 10:14] = True
    mask[80:82, 98:100] = True
    found = lesion(mask, (0.1, 0.2))
    assert (found.regions, found.quadrant, found.touches_edge) == (3, "lower right", False)
    assert found.area == pytest.approx(80 * 0.02) and found.measured_share == pytest.approx(80 / 96)
    assert found.taller_than_wide and found.aspect == pytest.approx(2.0 / 0.8, rel=0.02)


def test_few_pixels_have_no_outline():
    mask = np.zeros((40, 40), bool)
    mask[5, 5] = True
    found = lesion(mask)
    assert (found.longest_diameter, found.orthogonal_diameter, found.area) == (1, 1, 1)
    assert found.solidity is None and found.circularity is None and found.orientation == "not parallel"
    mask[5, 5:20] = True
    assert lesion(mask).longest_diameter == 15 and lesion(mask).circularity is None


def test_a_line_one_pixel_wide_is_measured_as_it_is():
    mask = np.zeros((100, 100), bool)
    mask[5, 2:80] = True
    found = lesion(mask)
    assert (found.longest_diameter, found.orthogonal_diameter, found.orientation) == (78, 1, "parallel")


@pytest.mark.parametrize("part", [np.s_[:30, 20:60], np.s_[70:, 20:60], np.s_[30:60, :20], np.s_[30:60, 80:]])
def test_reaching_the_edge_is_said(part):
    mask = np.zeros((100, 100), bool)
    mask[part] = True
    assert lesion(mask).touches_edge
    inner = np.zeros((102, 102), bool)
    inner[1:-1, 1:-1] = mask
    assert not lesion(inner).touches_edge
    assert lesion(inner).longest_diameter == pytest.approx(lesion(mask).longest_diameter)


def test_holes_count_for_the_area_alone():
    whole, holed = star(5, 0.2), star(5, 0.2)
    holed[90:110, 90:110] = False
    one, other = lesion(whole), lesion(holed)
    assert one.area - other.area == 400
    assert (one.solidity, one.circularity, one.longest_diameter) == (
        other.solidity, other.circularity, other.longest_diameter)


def test_a_circle_is_not_parallel():
    """The lexicon: a round lesion is not parallel in orientation. Radius 30, centred on a pixel."""
    found = lesion(ellipse(30, 30, 0, shape=(100, 100), centre=(50, 50)))
    assert found.height == found.width and found.orientation == "not parallel" and not found.taller_than_wide
    assert found.circularity == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("where, word", [((20, 20), "upper left"), ((20, 220), "upper right"),
                                         ((160, 20), "lower left"), ((160, 220), "lower right")])
def test_the_quadrant_is_that_of_the_frame(where, word):
    mask = np.zeros((240, 320), bool)
    mask[where[0]:where[0] + 30, where[1]:where[1] + 30] = True
    assert lesion(mask).quadrant == word


def test_from_fifty_pixels_on_there_is_an_outline():
    mask = np.zeros((40, 40), bool)
    mask[5:10, 5:15] = True
    assert lesion(mask).circularity is not None
    mask[5, 5] = False
    assert lesion(mask).circularity is None


def test_a_thin_region_keeps_its_own_outline():
    """Smoothing would wipe out fewer than fifty pixels or round them; they are measured as they are."""
    mask = np.zeros((40, 40), bool)
    mask[5:12, 5:12] = True
    found = lesion(mask)
    assert (found.width, found.height) == (7, 7) and found.longest_diameter == pytest.approx(np.hypot(6, 7), abs=0.2)


def test_the_orthogonal_line_lies_between_the_outermost_points():
    """A kite, 120 pixels long: upper corner 40 from its left end, lower one 60: in the middle, 50."""
    mask = np.zeros((100, 160), bool)
    for x in range(121):
        top, bottom = (20 * min(x / 40, (120 - x) / 80), 30 * min(x / 60, (120 - x) / 60))
        mask[50 - round(top):51 + round(bottom), 20 + x] = True
    found = lesion(mask)
    (x_1, y_1), (x_2, y_2) = sorted(found.orthogonal_line, key=lambda point: point[1])
    assert (x_1, y_1, x_2, y_2) == pytest.approx((70, 30, 70, 80), abs=1.5)
    assert found.longest_line[0][1] == pytest.approx(50, abs=1)
    assert all(value == round(value, 2) for point in found.longest_line + found.orthogonal_line for value in point)
    assert 0.97 < found.solidity <= 1
