"""Prompts by frame: what is a range and what is a part of the prompt, and how much each counts when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", ((0, ""),)),
        ("gold, matt, 40 years old", ((0, "gold, matt, 40 years old"),)),
        ("a clock at 12:30, 40: dusk", ((0, "a clock at 12:30, 40: dusk"),)),  # begins with no number
        ("0: dawn, 40: dusk", ((0, "dawn"), (40, "dusk"))),
        ("40: dusk,0:dawn", ((0, "dawn"), (40, "dusk"))),
        (" 1001 : red clay, matt , 1040:gold, 3 rings", ((1001, "red clay, matt"), (1040, "gold, 3 rings"))),
        ("0: train, 12:30, late, 24: night", ((0, "train, 12:30, late"), (24, "night"))),
        ("-10: a, 0: b", ((-10, "a"), (0, "b"))),
        ("0: ratio 1: 2, 8: other", ((0, "ratio 1: 2"), (8, "other"))),
        ("9999999999: no frame of Blender's", ((0, "9999999999: no frame of Blender's"),)),
        ("7: only", ((7, "only"),)),
    ],
)
def test_a_range_begins_where_a_number_and_a_colon_follow_a_comma(text, keys):
    assert PromptSchedule.parse(text).keys == keys


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0: dawn, 40:", "frame 40 has none"),
        ("0: , 40: dusk", "frame 0 has none"),
        ("0: a, 8: b, 0: c", "frame 0 has two"),
        ("1.5: a", r"1\.5 is no frame; frames are whole numbers"),
        (" -.5 : a, 8: b", r"-\.5 is no frame"),
    ],
)
def test_a_frame_with_no_prompt_or_two_is_refused(text, says):
    with pytest.raises(BadInput, match=says):
        PromptSchedule.parse(text)


def test_prompts_are_blended_linearly_between_their_frames_and_hold_outside():
    schedule = PromptSchedule.parse("0: dawn, 40: dusk, 50: dawn")
    assert schedule.prompts == ("dawn", "dusk")
    expected = [[1, 0], [1, 0], [0.75, 0.25], [0, 1], [0.5, 0.5], [1, 0], [1, 0]]
    np.testing.assert_allclose(schedule.weights([-5, 0, 10, 40, 45, 50, 99]), expected)


@given(st.dictionaries(st.integers(-50, 50), st.sampled_from("abcd"), min_size=1), st.lists(st.integers(-100, 100)))
def test_weights_of_a_frame_sum_to_one_and_at_most_two_prompts_count(prompts, frames):
    schedule = PromptSchedule.parse(", ".join(f"{frame}: {prompt}" for frame, prompt in prompts.items()))
    weights = schedule.weights(frames)
    assert weights.shape == (len(frames), len(schedule.prompts))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert (weights >= 0).all() and ((weights > 0).sum(axis=1) <= 2).all()
    for frame, prompt in prompts.items():
        assert schedule.weights([frame])[0, schedule.prompts.index(prompt)] == 1.0
