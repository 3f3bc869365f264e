"""Flow estimated on pictures: its direction and precision on motion that is known, and what other programs' files say."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from medm.datasets.flo import read_flo, write_flo
from medm.errors import BadInput
from medm.evaluation.motion import dis, endpoint_errors, from_folder

MOTION = (3.0, -1.5)
"""Pixels right and down a frame."""


def moving_texture(length: int = 4, width: int = 128, height: int = 96) -> np.ndarray:
    """(T, H, W, 3) uint8: a smooth random texture that moves by MOTION a frame."""
    noise = np.random.default_rng(3).random((height + 64, width + 64, 3), dtype=np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 2.0)
    texture = (texture - texture.min()) / (texture.max() - texture.min()) * 255
    frames = []
    for t in range(length):
        shift = np.array([[1, 0, 32 - MOTION[0] * t], [0, 1, 32 - MOTION[1] * t]], np.float32)
        frames.append(cv2.warpAffine(texture, shift, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP))
    return np.stack(frames).round().clip(0, 255).astype(np.uint8)


def exact(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texture's flow to the frame before, and which pixels enter the frame."""
    length, height, width = frames.shape[:3]
    flow = np.broadcast_to(-np.array(MOTION, np.float32), (length, height, width, 2)).copy()
    y, x = np.mgrid[:height, :width]
    there = np.stack([x, y], -1) + flow
    outside = ((there < -0.5) | (there >= [width - 0.5, height - 0.5])).any(-1)
    outside[0] = True
    return flow, outside


def test_dis_finds_the_motion_of_a_texture() -> None:
    frames = moving_texture()
    flow, occluded = exact(frames)
    errors = endpoint_errors(dis(frames), flow, occluded)
    assert errors.epe < 0.2
    assert errors.portions[1] < 0.02
    assert errors.portions[5] < 0.005
    assert endpoint_errors(dis(frames[::-1]), flow, occluded).epe > 5  # backwards in time it is off by twice the motion


def test_a_clip_that_flickers_leads_the_estimator_astray() -> None:
    frames = moving_texture()
    flow, occluded = exact(frames)
    random = np.random.default_rng(0)
    anew = np.stack([cv2.GaussianBlur(random.random(frame.shape, np.float32), (0, 0), 3.0) for frame in frames])  # another pattern each
    flicker = (0.4 * frames + 0.6 * 255 * (anew - anew.min()) / np.ptp(anew)).astype(np.uint8)
    steady, astray = (endpoint_errors(dis(clip), flow, occluded) for clip in (frames, flicker))
    assert astray.epe > 10 * steady.epe
    assert astray.portions[1] > 0.3
    assert astray.portions[1] > astray.portions[3] > astray.portions[5]


def test_errors_of_known_size() -> None:
    exactly = np.zeros((3, 4, 6, 2), np.float32)
    occluded = np.zeros((3, 4, 6), bool)
    occluded[0] = True
    estimated = exactly.copy()
    estimated[1, :, :3] = 3, 4  # half a frame of two is off by 5 px
    errors = endpoint_errors(lambda t: estimated[t], exactly, occluded)
    assert errors.epe == pytest.approx(1.25)
    assert errors.portions == {1: 0.25, 3: 0.25, 5: 0}
    occluded[1, :, :3] = True
    assert endpoint_errors(lambda t: estimated[t], exactly, occluded).epe == 0
    estimated[2] = np.nan  # unknown flow is left out
    assert endpoint_errors(lambda t: estimated[t], exactly, occluded).epe == 0
    occluded[:2] = True
    assert math.isnan(endpoint_errors(lambda t: estimated[t], exactly, occluded).epe)


def test_frames_that_are_all_new_are_not_estimated() -> None:
    asked = []
    occluded = np.ones((3, 4, 6), bool)
    occluded[2] = False
    endpoint_errors(lambda t: asked.append(t) or np.zeros((4, 6, 2), np.float32), np.zeros((3, 4, 6, 2), np.float32), occluded)
    assert asked == [2]


def test_frames_too_small_for_dis_have_no_estimate() -> None:
    frames = np.zeros((2, 8, 64, 3), np.uint8)
    assert np.isnan(dis(frames)(1)).all()


def test_flow_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(0, 9, (5, 7, 2)).astype(np.float32)
    flow[2, 3] = np.nan
    write_flo(tmp_path / "a.flo", flow)
    assert (tmp_path / "a.flo").read_bytes()[:12] == b"PIEH\x07\0\0\0\x05\0\0\0"
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo"))[:2], flow[:2])  # another reader of the format


def test_flow_of_another_program_is_measured(tmp_path: Path) -> None:
    frames = moving_texture(3)
    flow, occluded = exact(frames)
    for number in (11, 12):
        cv2.writeOpticalFlow(str(tmp_path / f"00{number}.flo"), flow[1] + np.float32(0.6))
    estimate = from_folder(tmp_path, [10, 11, 12], (128, 96))
    assert endpoint_errors(estimate, flow, occluded).epe == pytest.approx(0.6 * math.sqrt(2), rel=1e-5)


def test_flow_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"lacks 0002\.flo and 1 more: the flow from that frame to the one before it"):
        from_folder(tmp_path, [1, 2, 3], (8, 8))
    write_flo(tmp_path / "0002.flo", np.zeros((4, 6, 2), np.float32))
    with pytest.raises(BadInput, match=r"0002\.flo is 6x4, but the shot is 8x8"):
        from_folder(tmp_path, [1, 2], (8, 8))(1)
    (tmp_path / "0002.flo").write_bytes((tmp_path / "0002.flo").read_bytes()[:-4])
    with pytest.raises(BadInput, match=r"0002\.flo is damaged: it says 6x4 pixels and has 200 bytes"):
        read_flo(tmp_path / "0002.flo")
    (tmp_path / "0002.flo").write_bytes(b"no flow at all")
    with pytest.raises(BadInput, match=r"0002\.flo is not a \.flo file"):
        read_flo(tmp_path / "0002.flo")
    with pytest.raises(BadInput, match=r"cannot be read: No such file"):
        read_flo(tmp_path / "gone.flo")
