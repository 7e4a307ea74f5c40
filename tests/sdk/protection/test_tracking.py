from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dartblur.coverage import Coverage
from dartblur.detections import Detections
from dartblur.errors import InputError
from dartblur.protection.tracking import Tracker

FACE = (100.0, 80.0, 140.0, 130.0)
STEP = 1 / 25


def faces(*boxes: tuple[float, ...] | np.ndarray, score: float = 0.9) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), score, np.float32))


def moved(box: tuple[float, ...], x: float, y: float = 0.0) -> tuple[float, ...]:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def step(tracker: Tracker, found: Detections, time: float) -> tuple[Detections, Coverage]:
    return tracker.update(found, time, tracker.predict(time))


def inside(box: tuple[float, ...] | np.ndarray, others: np.ndarray) -> bool:
    """Whether a box lies wholly in one of the others; a thousandth of a pixel doesn't count."""
    one = np.asarray(box)
    return bool(((others[:, :2] <= one[:2] + 1e-3) & (others[:, 2:] >= one[2:] - 1e-3)).all(1).any())


def mostly_inside(box: np.ndarray, others: np.ndarray) -> bool:
    """Whether at least 80 % of a box lies in one of the others."""
    sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
    return bool((sides.clip(0).prod(1) >= 0.8 * (box[2:] - box[:2]).prod() - 1e-3).any())


def uncovered(box: tuple[float, ...], found: Detections, held: Coverage) -> float:
    """Share of a box that lies in no box of a frame."""
    x0, y0, x1, y1 = box
    x, y = np.meshgrid(np.linspace(x0, x1, 40), np.linspace(y0, y1, 40))
    left = np.ones(x.shape, bool)
    for other in np.concatenate([found.boxes, held.boxes]):
        left &= ~((x >= other[0]) & (x <= other[2]) & (y >= other[1]) & (y <= other[3]))
    return float(left.mean())


def test_one_sure_detection_is_held_for_as_long_as_said() -> None:
    tracker = Tracker(hold=0.5, threshold=0.5)
    found, held = step(tracker, faces(FACE), 0.0)
    assert found.ids is not None
    assert found.ids.tolist() == [1]
    assert len(held) == 0
    sides = []
    for number in range(1, 30):
        time = number / 30
        predicted = tracker.predict(time)
        found, held = tracker.update(Detections.empty(), time, predicted)
        assert len(found) == 0
        if time > 0.5 + 1e-9:
            assert len(predicted) == len(held) == 0, time
            continue
        assert np.array_equal(held.boxes, predicted.boxes), "a backend knows its patches by the same numbers"
        assert held.ids.tolist() == [1]
        assert held.reasons == ("held",)
        assert inside(FACE, held.boxes)
        sides.append(held.boxes[0, 2] - held.boxes[0, 0])
    assert len(sides) == 15
    assert (np.diff(sides) > 0).all(), "it grows with its age"


def test_predicting_changes_nothing_and_goes_any_number_of_frames_ahead() -> None:
    tracker = Tracker(threshold=0.5)
    step(tracker, faces(FACE, moved(FACE, 200)), 0.0)
    first = tracker.predict(0.1)
    for time in (0.2, 0.9, 5.0, -3.0, 0.1):
        tracker.predict(time)
    again = tracker.predict(0.1)
    assert np.array_equal(first.boxes, again.boxes)
    assert first.ids.tolist() == again.ids.tolist() == [1, 2]


def test_a_face_found_after_the_prediction_is_held_all_the_same() -> None:
    """With several frames under way the prediction knows nothing of the faces of the frame before."""
    tracker = Tracker(threshold=0.5)
    early = [tracker.predict(number * STEP) for number in range(3)]
    tracker.update(faces(FACE), 0.0, early[0])
    for number in (1, 2):
        assert len(early[number]) == 0
        _, held = tracker.update(Detections.empty(), number * STEP, early[number])
        assert held.ids.tolist() == [1]
        assert inside(FACE, held.boxes)


def test_a_prediction_made_some_frames_ago_holds_unless_the_face_was_found_elsewhere_since() -> None:
    for way, holds in ((2, True), (60, False)):
        tracker = Tracker(threshold=0.5)
        step(tracker, faces(FACE), 0.0)
        early = [tracker.predict(number * STEP) for number in (1, 2)]
        tracker.update(faces(moved(FACE, way)), STEP, early[0])
        _, held = tracker.update(Detections.empty(), 2 * STEP, early[1])
        mine = held.boxes[held.ids == 1]
        assert inside(moved(FACE, way), mine)
        assert np.array_equal(mine, early[1].boxes) == holds


@pytest.mark.parametrize("pace", [0, 8, 12, 16])
def test_a_face_that_sets_off_is_held_as_well_with_several_frames_under_way(pace: int) -> None:
    tracker = Tracker(threshold=0.5)
    at = [moved(FACE, pace * max(0, number - 5)) for number in range(10)]
    early = [tracker.predict(number * STEP) for number in range(3)]
    for number, box in enumerate(at):
        seen = faces(box) if number < 8 else Detections.empty()
        _, held = tracker.update(seen, number * STEP, early[number])
        early.append(tracker.predict((number + 3) * STEP))
        assert number < 8 or inside(box, held.boxes)


def test_a_face_that_was_seen_once_may_have_any_speed() -> None:
    tracker = Tracker(threshold=0.5)
    step(tracker, faces(FACE), 0.0)
    _, held = step(tracker, Detections.empty(), 1 / 12)
    assert inside(moved(FACE, 10, -5), held.boxes)


def test_a_face_that_sets_off_suddenly_stays_covered() -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(50):
        step(tracker, faces(moved(FACE, 20 * max(0, number - 47))), number * STEP)
    for number in range(50, 56):
        _, held = step(tracker, Detections.empty(), number * STEP)
        assert inside(moved(FACE, 20 * (number - 47)), held.boxes), number


def test_two_frames_in_no_time_do_not_make_a_box_as_large_as_the_sky() -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(10):
        step(tracker, faces(FACE), number * STEP)
    step(tracker, faces(moved(FACE, 20)), 9 * STEP + 0.0015)
    _, held = step(tracker, Detections.empty(), 10 * STEP)
    assert held.boxes[0, 2] - held.boxes[0, 0] < 40 * 12


def test_a_part_of_a_face_tells_no_speed() -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(20):
        step(tracker, faces(FACE), number * STEP)
    step(tracker, faces((100, 110, 140, 130)), 20 * STEP)
    for number in range(21, 30):
        _, held = step(tracker, Detections.empty(), number * STEP)
        assert inside(FACE, held.boxes), "the whole is held, too"
    sides = held.boxes[:, 2:] - held.boxes[:, :2]
    assert sides.max() < 50 * 4


def test_a_face_where_a_larger_one_has_just_been_is_no_part_of_that() -> None:
    tracker, large, small = Tracker(threshold=0.5), (0, 0, 100, 200), (10, 0, 40, 40)
    for number in range(5):
        step(tracker, faces(large), number * STEP)
    found, _ = step(tracker, faces((0, 70, 100, 270), small), 5 * STEP)
    assert found.ids is not None
    assert found.ids.tolist() == [1, 2]
    _, held = step(tracker, Detections.empty(), 6 * STEP)
    assert inside(small, held.boxes[held.ids == 2])


def test_what_lies_in_a_face_that_was_told_apart_is_a_part_of_it() -> None:
    tracker, large, small, eye = Tracker(threshold=0.5), (0, 0, 100, 200), (10, 0, 40, 40), (15, 10, 25, 20)
    for number in range(5):
        step(tracker, faces(large), number * STEP)
    found, _ = step(tracker, faces((0, 70, 100, 270), small, eye), 5 * STEP)
    assert found.ids is not None
    assert found.ids.tolist() == [1, 2, 2]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_certain_face_in_a_faint_larger_one_is_held_as_long_as_by_itself(together: bool, known: bool) -> None:
    """Whether the larger one is found with it, only before it, or both."""
    tracker, faint, certain = Tracker(threshold=0.5), (0, 0, 100, 100), (20, 20, 60, 70)
    if known or not together:
        step(tracker, faces(faint, score=0.51), 0.0)
    boxes = np.array([certain, faint] if together else [certain], np.float32)
    step(tracker, Detections(boxes, np.array([1.0, 0.51], np.float32)[: len(boxes)]), STEP)
    for number in range(2, 25):
        _, held = step(tracker, Detections.empty(), number * STEP)
        assert inside(certain, held.boxes), number


@pytest.mark.parametrize("fps", [1.5, 25, 25.4])
def test_a_hold_that_reaches_the_next_frame_does_so_for_a_faint_face(fps: float) -> None:
    for hold in (1.2 / fps, 1.0):
        tracker = Tracker(threshold=0.5, hold=hold)
        step(tracker, Detections.empty(), 0.0)
        step(tracker, Detections.empty(), 1 / fps)
        step(tracker, faces(FACE, score=0.51), 2 / fps)
        _, held = step(tracker, Detections.empty(), 3.1 / fps)
        assert inside(FACE, held.boxes)


def test_a_part_of_a_face_that_stays_is_no_other_face() -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(5):
        found, _ = step(tracker, faces(FACE, (105, 85, 125, 105), (107, 87, 117, 97)), number * STEP)
        assert found.ids is not None
        assert found.ids.tolist() == [1, 1, 1]


def test_a_small_face_that_trembles_by_a_pixel_is_not_held_as_one_that_runs() -> None:
    random = np.random.default_rng(0)
    tracker = Tracker(threshold=0.5)
    for number in range(50):
        step(tracker, faces(np.array([50, 50, 60, 60]) + random.choice([-1, 0, 1], 4)), number * STEP)
    for number in range(50, 60):
        _, held = step(tracker, Detections.empty(), number * STEP)
    assert len(held) == 1
    assert held.boxes[0, 2] - held.boxes[0, 0] < 20


def test_a_weak_detection_beside_the_face_does_not_draw_its_track_away() -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(20):
        step(tracker, faces(FACE), number * STEP)
    for number in range(20, 23):
        found, _ = step(tracker, faces(moved(FACE, 4, 8), score=0.2), number * STEP)
        assert len(found) == 1
    for number in range(23, 30):
        _, held = step(tracker, Detections.empty(), number * STEP)
        assert uncovered(FACE, Detections.empty(), held) < 0.02


def test_weak_detections_continue_tracks_and_start_none() -> None:
    tracker = Tracker(threshold=0.5)
    found, held = step(tracker, faces(FACE, score=0.2), 0.0)
    assert len(found) == len(held) == 0
    step(tracker, faces(FACE), STEP)
    both = Detections(np.array([moved(FACE, 300), moved(FACE, 1)], np.float32), np.array([0.3, 0.2], np.float32))
    found, held = step(tracker, both, 2 * STEP)
    assert found.ids is not None
    assert found.ids.tolist() == [1]
    assert found.boxes.tolist() == both.boxes[1:].tolist()
    assert inside(FACE, held.boxes), "weak boxes are badly placed: the face is held as well"
    for number in range(3, 60):  # for longer than the hold
        found, _ = step(tracker, faces(FACE, score=0.2), number * STEP)
        assert len(found) == 1


def test_a_weak_detection_at_a_distance_is_another_thing() -> None:
    tracker = Tracker(threshold=0.5)
    step(tracker, faces(FACE), 0.0)
    found, held = step(tracker, faces(moved(FACE, 30), score=0.3), STEP)
    assert len(found) == 0
    assert inside(FACE, held.boxes)


def test_detections_stay_sorted_and_each_has_an_id_of_its_own() -> None:
    tracker = Tracker(threshold=0.5)
    boxes = np.array([moved(FACE, 100 * number) for number in range(4)], np.float32)
    step(tracker, Detections(boxes[::-1], np.array([0.9, 0.8, 0.7, 0.6], np.float32)), 0.0)
    scores = np.array([0.95, 0.9, 0.4, 0.3], np.float32)
    found, _ = step(tracker, Detections(boxes, scores), STEP)
    assert found.scores.tolist() == scores.tolist()
    assert found.ids is not None
    assert found.ids.tolist() == [4, 3, 2, 1]


def test_ids_are_never_used_again() -> None:
    tracker = Tracker(hold=0.1, threshold=0.5)
    seen: list[int] = []
    for number in range(20):
        found, _ = step(tracker, faces(FACE, moved(FACE, 300)), number * 0.5)
        step(tracker, Detections.empty(), number * 0.5 + 0.2)
        if number % 5 == 4:
            tracker.clear()
        assert found.ids is not None
        seen += found.ids.tolist()
    assert len(seen) == len(set(seen)) == 40


@pytest.mark.parametrize("speed", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("turn", [-30, 0, 30])
@pytest.mark.parametrize("rate", [10, 30])
def test_a_held_box_covers_a_face_that_goes_on_turns_or_stops(speed: float, turn: float, rate: int) -> None:
    """Speed in widths of the face a second."""
    tracker = Tracker(hold=1.0, threshold=0.5)
    way = speed * 40
    last = rate  # frames in which it is found
    for number in range(last + 1):
        found, _ = step(tracker, faces(moved(FACE, way * number / rate)), number / rate)
        assert found.ids is not None
        assert found.ids.tolist() == [1]
    at = moved(FACE, way * last / rate)
    direction = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    for number in range(1, rate + 1):
        _, held = step(tracker, Detections.empty(), (last + number) / rate)
        on = way * number / rate
        assert inside(moved(at, on * direction[0], on * direction[1]), held.boxes), number
        assert inside(at, held.boxes), "it may have stopped"
    assert held.boxes[0, 2] - held.boxes[0, 0] < 40 * (2.5 + 2.2 * speed), "it doesn't fly away"


@pytest.mark.parametrize("size", [8, 20, 60])
def test_fast_faces_whose_boxes_do_not_overlap_keep_their_ids(size: int) -> None:
    tracker = Tracker(threshold=0.5)
    for number in range(10):
        x = 1.4 * size * number
        found, _ = step(tracker, faces((x, 50, x + size, 50 + size)), number * STEP)
        assert found.ids is not None
        assert found.ids.tolist() == [1], number
    x = 1.4 * size * 10
    _, held = step(tracker, Detections.empty(), 10 * STEP)
    assert inside((x, 50, x + size, 50 + size), held.boxes), "its speed is known"


def test_a_new_face_beside_a_missed_one_does_not_uncover_it() -> None:
    for distance in np.arange(4, 100, 4):
        tracker = Tracker(threshold=0.5)
        for number in range(5):
            step(tracker, faces(FACE), number * STEP)
        for number in range(5, 15):
            found, held = step(tracker, faces(moved(FACE, float(distance))), number * STEP)
            # Up to 40 % of the box may be taken for a movement.
            assert uncovered(FACE, found, held) <= (0.41 if distance <= 16 else 0), distance


@pytest.mark.parametrize("missing", [(), (1,), (0, 1)])
def test_faces_that_cross_stay_covered(missing: tuple[int, ...]) -> None:
    """While they overlap, those in `missing` are not found."""
    tracker = Tracker(threshold=0.5)
    for number in range(61):
        places = [moved(FACE, 4 * number), moved(FACE, 240 - 4 * number, 6)]
        meeting = abs(places[0][0] - places[1][0]) < 40
        shown = [place for index, place in enumerate(places) if not (meeting and index in missing)]
        found, held = step(tracker, faces(*shown), number * STEP)
        for place in places:
            assert uncovered(place, found, held) < 0.1, number


@pytest.mark.parametrize("leap", [-1e6, -5.0, -STEP, 0.0, 1e-9, 7.0, 1e9, math.nan, math.inf])
@pytest.mark.parametrize("missed", [0, 10])
def test_a_leap_of_the_clock_loses_no_face(leap: float, missed: int) -> None:
    tracker = Tracker(hold=1.0, threshold=0.5)
    time = 100.0
    for _ in range(10):
        step(tracker, faces(FACE), time)
        time += STEP
    for _ in range(missed):
        step(tracker, Detections.empty(), time)
        time += STEP
    time += leap
    held_for = 0
    for number in range(60):
        _, held = step(tracker, Detections.empty(), time + number * STEP)
        if not len(held):
            break
        assert np.isfinite(held.boxes).all()
        assert inside(FACE, held.boxes)
        held_for += 1
    # The leap counts as one step, like the one before it.
    assert 25 - missed - 2 <= held_for <= 25 - missed + 2


def test_a_clock_that_stands_still_ends_tracks_in_the_end() -> None:
    tracker = Tracker(hold=1.0, threshold=0.5)
    step(tracker, faces(FACE), 0.0)
    held = [len(step(tracker, Detections.empty(), 0.0)[1]) for _ in range(50)]
    assert held[0] == 1
    assert held[-1] == 0


@settings(deadline=None)
@given(st.lists(st.floats(0.002, 0.3), min_size=4, max_size=20))
def test_irregular_times_keep_a_moving_face(steps: list[float]) -> None:
    tracker = Tracker(hold=1.0, threshold=0.5)
    times = np.cumsum(steps)
    for time in times:
        found, _ = step(tracker, faces(moved(FACE, 80 * time)), float(time))
        assert found.ids is not None
        assert found.ids.tolist() == [1]
    _, held = step(tracker, Detections.empty(), float(times[-1]) + 0.1)
    assert inside(moved(FACE, 80 * times[-1]), held.boxes)


def test_without_hold_nothing_is_held_but_ids_go_on() -> None:
    tracker = Tracker(hold=0, threshold=0.5)
    for number in range(5):
        found, held = step(tracker, faces(moved(FACE, number)), number * STEP)
        assert found.ids is not None
        assert found.ids.tolist() == [1]
        assert len(held) == 0
        assert len(tracker.predict((number + 1) * STEP)) == 0
    step(tracker, Detections.empty(), 5 * STEP)
    found, _ = step(tracker, faces(FACE), 6 * STEP)
    assert found.ids is not None
    assert found.ids.tolist() == [2]


@pytest.mark.parametrize("hold", [0.0, 0.5, 2.0])
def test_what_the_self_check_finds_is_covered_from_then_on(hold: float) -> None:
    tracker = Tracker(hold=hold, threshold=0.5)
    step(tracker, Detections.empty(), 9.8)
    step(tracker, Detections.empty(), 10.0)
    early = tracker.predict(10.1)
    tracker.suspect(np.array([FACE], np.float32), 9.8)
    _, held = tracker.update(Detections.empty(), 10.1, early)
    assert held.reasons == ("check",)
    assert inside(FACE, held.boxes)
    assert tracker.predict(10.2).reasons == ("check",)
    tracker.suspect(np.array([moved(FACE, 3)], np.float32), 10.1)
    assert inside(tracker.predict(10.2).boxes[0], held.boxes), "what was seen earlier may be farther off"
    lasts = max(hold, 1.0)
    assert held.ids.tolist() == tracker.predict(10.2).ids.tolist() == [1], "suspected again, it is the same face"
    for number in range(2, 40):
        time = 10 + number / 10
        _, held = step(tracker, Detections.empty(), time)
        assert len(held) == (time <= 10.1 + lasts + 1e-6), time


def test_a_suspected_face_that_is_found_becomes_an_ordinary_one() -> None:
    tracker = Tracker(hold=0, threshold=0.5)
    step(tracker, Detections.empty(), 0.0)
    tracker.suspect(np.array([FACE], np.float32), 0.0)
    found, held = step(tracker, faces(FACE, score=0.3), 0.1)
    assert found.ids is not None
    assert found.ids.tolist() == [1], "weak will do: there is a face"
    _, held = step(tracker, Detections.empty(), 0.2)
    assert held.reasons == ("held",)
    _, held = step(tracker, Detections.empty(), 1.0)
    assert len(held) == 1, "the second that was promised"
    _, held = step(tracker, Detections.empty(), 1.1)
    assert len(held) == 0


def test_frames_that_were_under_way_when_all_was_forgotten_stay_covered() -> None:
    tracker = Tracker(threshold=0.5)
    step(tracker, faces(FACE), 0.0)
    under_way = tracker.predict(STEP)
    tracker.clear()
    assert len(tracker.predict(STEP)) == 0
    _, held = tracker.update(Detections.empty(), STEP, under_way)
    assert np.array_equal(held.boxes, under_way.boxes)
    _, held = step(tracker, Detections.empty(), 2 * STEP)
    assert len(held) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": -1.0, "threshold": 0.5}, "hold: expected a number of seconds from 0, got -1"),
        ({"hold": math.nan, "threshold": 0.5}, "hold: expected"),
        ({"hold": math.inf, "threshold": 0.5}, "hold: expected"),
        ({"threshold": 0.0}, "threshold: expected a number between 0 and 1, got 0"),
        ({"threshold": math.nan}, "threshold: expected"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tracker(**options)


boxes = st.tuples(
    st.floats(-100, 2000), st.floats(-100, 1000), st.floats(0.1, 800), st.floats(0.1, 800), st.floats(0.01, 1)
)
frames = st.lists(st.tuples(st.lists(boxes, max_size=6), st.floats(-10, 10)), min_size=1, max_size=12)


# A part of where a face was expected, which this leaves out as it goes on.
@example([([(0, 0, 1, 1, 1.0), (0, 0, 3, 5, 1.0)], 0.0), ([(0, 0, 1, 1, 1.0), (0, 2, 3, 4, 1.0)], 0.0)], 1.0, False)
# A faint face, of whose hold a quarter is shorter than a frame.
@example([([(0, 0, 1, 1, 0.5)], 0.0)], 0.00390625, False)
@settings(max_examples=200, deadline=None)
@given(frames, st.floats(0, 3), st.booleans())
def test_any_input_leaves_every_face_covered_that_was_covered(
    given_frames: list[tuple[list[tuple[float, ...]], float]], hold: float, suspects: bool
) -> None:
    """Whatever boxes and times come: after a frame, each face that counted lies in a box held for the next one."""
    tracker = Tracker(hold=hold, threshold=0.5)
    for rows, time in given_frames:
        rows = sorted(rows, key=lambda row: -row[4])
        all_boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
        scores = np.array([row[4] for row in rows], np.float32)
        predicted = tracker.predict(time)
        found, held = tracker.update(Detections(all_boxes, scores), time, predicted)
        assert found.ids is not None
        assert (found.scores >= 0.5).sum() == (scores >= 0.5).sum(), "all sure ones count"
        assert (found.ids >= 1).all()
        for box, number in zip(held.boxes, held.ids, strict=True):
            # Nothing came between prediction and update.
            assert (predicted.boxes[predicted.ids == number] == box).all(1).any()
        strong_ids = set(found.ids[found.scores >= 0.5].tolist())
        lost = set(predicted.ids.tolist()) - set(held.ids.tolist()) - strong_ids
        assert not lost, "none ends between prediction and update"
        if suspects:
            tracker.suspect(all_boxes, time)
        next_one = tracker.predict(time + 0.001)
        assert np.isfinite(next_one.boxes).all()
        if hold >= 1e-3 + 1e-9:
            for box in found.boxes:
                assert mostly_inside(box, next_one.boxes)
        if suspects:
            for box in all_boxes:
                assert inside(box, next_one.boxes)


@pytest.mark.parametrize("seed", range(5))
def test_with_one_detection_in_five_missing_at_random_no_face_comes_out(seed: int) -> None:
    """Faces that wander as people do, boxes that tremble."""
    random = np.random.default_rng(seed)
    tracker = Tracker(threshold=0.5)
    centres, sides = random.uniform(0, 2000, (12, 2)), random.uniform(15, 120, 12)
    speeds = np.zeros((12, 2))
    was_covered = np.zeros(12, bool)
    for number in range(120):
        speeds += random.normal(0, 1.5, (12, 2)) * math.sqrt(STEP) - speeds * STEP
        centres += speeds * sides[:, None] * STEP
        true = np.concatenate([centres - sides[:, None] / 2, centres + sides[:, None] / 2], 1)
        seen = true + random.normal(0, 0.03, (12, 4)) * sides[:, None]
        kept = random.random(12) >= 0.2
        found, held = step(tracker, faces(*seen[kept]), number * STEP)
        for index, box in enumerate(true):
            grown = 0.1 * sides[index] * np.array([-1, -1, 1, 1])  # the box scale
            shown = Detections(found.boxes + np.float32(grown), found.scores)
            covered = uncovered(tuple(box), shown, held) <= 0.1
            assert covered or not was_covered[index], (number, index)
            was_covered[index] |= covered


def test_memory_is_bounded() -> None:
    random = np.random.default_rng(0)
    tracker = Tracker(hold=1.0, threshold=0.5)
    for number in range(500):
        corner = random.uniform(0, 1000, (10, 2))
        step(tracker, faces(*np.concatenate([corner, corner + 30], 1)), number * STEP)
        assert len(tracker.predict(number * STEP)) <= 2 * 10 * 26
    for number in range(30):
        step(tracker, Detections.empty(), (500 + number) * STEP)
    assert len(tracker.predict(530 * STEP)) == 0
