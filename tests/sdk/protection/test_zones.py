from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dartblur.errors import InputError
from dartblur.protection.zones import Zone, Zones, parse_zone

CASES = settings(deadline=None)
sides = st.integers(1, 4096)
ranges = st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True).map(sorted)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0,0,640,480", (0, 0, 640, 480)),
        ("10%,0,50%,100%", (64, 0, 320, 480)),
        (" 1.5 , 2 ,3, 4.25", (1.5, 2, 3, 4.25)),
        ("0,50%,320,480", (0, 240, 320, 480)),
        ("12.5 %,0%,100%,.5%", (80, 0, 640, 2.4)),
        ("0,0,100%,100%", (0, 0, 640, 480)),
    ],
)
def test_zones_are_read(text: str, box: tuple[float, ...]) -> None:
    zone = parse_zone(text)
    assert zone.box(640, 480) == pytest.approx(box)
    assert parse_zone(str(zone)) == zone
    Zones([text], [zone]).check(640, 480)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2,3",
        "1,2,3,4,5",
        "1,2,3,",
        "a,b,c,d",
        "0;0;10;10",
        "nan,0,10,10",
        "0,0,inf,10",
        "0,0,1e3,10",
        "-1,0,10,10",
        "0,0,10px,10",
        "0,0,%,10",
        "0,0,10%%,10",
        "0,0,1_0,10",
        "0,0,１０,10",
        "0,0,10,10\n0,0,1,1",
        "0,0,." + ",10",
        "0,0,101%,100%",
        "10,0,10,10",
        "20,0,10,10",
        "0,5,10,5",
        "50%,0,20%,10",
        "0,0," + "9" * 400 + ",10",
    ],
)
def test_malformed_text_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"^zone '.*: expected ") as caught:
        parse_zone(text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    assert repr(text)[:70] in message


@pytest.mark.parametrize("other", [None, 3, [0, 0, 10, 10], b"0,0,1,1"])
def test_what_is_not_text_is_named(other: object) -> None:
    with pytest.raises(InputError, match="expected x0,y0,x1,y1 in pixels or percent"):
        parse_zone(other)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected x0,y0,x1,y1 in pixels or percent"):
        Zones(never=[other])  # type: ignore[list-item]


def test_a_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(InputError, match="always: expected a list of zones, got the text '0,0,10,10'"):
        Zones(always="0,0,10,10")


@pytest.mark.parametrize("edges", [(float("nan"), 0, 1, 1), (0, 0, float("inf"), 1), (-1, 0, 1, 1), (1, 0, 1, 1)])
def test_a_zone_checks_itself(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError, match=r"^zone "):
        Zone(edges)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,641,480", "zone 0,0,641,480: expected it inside the picture, which is 640x480 pixels"),
        ("700,0,800,480", "zone 700,0,800,480: expected it inside"),
        ("0,0,10,480.5", "zone 0,0,10,480.5: expected it inside"),
        ("50%,0,320,480", "zone 50%,0,320,480: expected x0 < x1 and y0 < y1 in a picture of 640x480 pixels"),
        ("0,400,10,50%", "zone 0,400,10,50%: expected x0 < x1 and y0 < y1"),
    ],
)
def test_zones_that_do_not_fit_the_picture_are_named(text: str, message: str) -> None:
    for zones in (Zones(always=[text]), Zones(never=[text])):
        with pytest.raises(InputError, match=f"^{message}"):
            zones.check(640, 480)


def test_no_zones_cover_nothing_and_allow_nothing() -> None:
    zones = Zones()
    zones.check(1, 1)
    assert zones.boxes(640, 480).shape == (0, 4)
    assert zones.boxes(640, 480).dtype == np.float32
    assert zones.allowed(np.zeros((0, 4), np.float32), 640, 480).shape == (0,)
    assert zones.allowed(np.array([[1, 1, 5, 5]], np.float32), 640, 480).tolist() == [True]
    assert zones == Zones([], [])
    assert hash(zones) == hash(Zones())


@pytest.mark.parametrize(
    ("box", "is_covered"),
    [
        ((110, 110, 190, 190), False),
        ((100, 100, 200, 200), False),
        ((99, 110, 190, 190), True),
        ((110, 110, 190, 200.1), True),
        ((150, 150, 350, 180), True),  # in two zones, in neither wholly
        ((0, 0, 640, 480), True),
        ((600, 10, 660, 50), False),  # what reaches over the border can't be seen
        ((590, 10, 660, 50), True),
        ((650, 10, 700, 50), True),  # nothing of it is in the picture
        ((np.nan, 110, 190, 190), True),
        ((110, np.nan, np.nan, 190), True),
        ((-np.inf, -np.inf, np.inf, np.inf), True),
        ((190, 190, 110, 110), True),
        ((150, 150, 150, 160), True),
    ],
)
def test_faces_are_left_clear_only_wholly_in_one_never_zone(box: tuple[float, ...], is_covered: bool) -> None:
    zones = Zones(never=["100,100,200,200", "200,100,400,200", "600,0,100%,60"])
    assert zones.allowed(np.array([box], np.float32), 640, 480).tolist() == [is_covered]


@CASES
@given(sides, sides, ranges, ranges)
def test_percent_zones_fit_every_picture(width: int, height: int, across: list[int], down: list[int]) -> None:
    (left, right), (top, bottom) = ([edge / 10_000 for edge in edges] for edges in (across, down))
    percent = ",".join(f"{100 * edge:.2f}%" for edge in (left, top, right, bottom))
    zones = Zones(always=[percent])
    zones.check(width, height)
    x0, y0, x1, y1 = zones.boxes(width, height)[0].tolist()
    assert 0 <= x0 <= left * width + 1e-6 < right * width <= x1 + 1e-6
    assert 0 <= y0 <= top * height + 1e-6 < bottom * height <= y1 + 1e-6
    assert x1 <= width
    assert y1 <= height
    assert max(left * width - x0, top * height - y0, x1 - right * width, y1 - bottom * height) < 1 + 1e-6


@CASES
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)), max_size=4),
    st.lists(st.tuples(*[st.floats(-20, 120, width=32)] * 4), max_size=8),
)
def test_what_is_left_clear_lies_in_a_never_zone_to_the_last_pixel(
    rectangles: list[tuple[int, int, int, int]], rows: list[tuple[float, ...]]
) -> None:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    zones = Zones(never=[f"{x},{y},{x + w},{y + h}" for x, y, w, h in rectangles])
    covered = zones.allowed(boxes, 100, 100)
    for box, is_covered in zip(boxes.clip(0, 100), covered, strict=True):
        x0, y0, x1, y1 = box
        homes = [x <= x0 and y <= y0 and x1 <= x + w and y1 <= y + h for x, y, w, h in rectangles]
        assert is_covered == (not any(homes) or x0 >= x1 or y0 >= y1)


@CASES
@given(ranges, ranges, st.booleans(), st.booleans())
def test_text_and_zone_are_the_same_both_ways(across: list[int], down: list[int], wide: bool, high: bool) -> None:
    edges = across[0] / 100, down[0] / 100, across[1] / 100, down[1] / 100
    zone = Zone(edges, (wide, high, wide, high))
    assert parse_zone(str(zone)) == zone
