"""Pictures: the right pixels in the right places, and videos that play."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from medm.pictures import contact_sheet, horizontal_scan, liveliest_column, scan_comparison, side_by_side, write_video


def waves(length: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([128 + 80 * np.sin((x + 2 * t) / 9), 128 + 80 * np.sin(y / 7), 60 + x], -1) for t in range(length)]
    return np.array(frames).astype(np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_video_plays_and_keeps_its_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = waves()[:, : size[0], : size[1]]
    write_video(tmp_path / "v.mp4", frames, 23.976)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)  # type: ignore[arg-type]
        assert stream.codec_context.pix_fmt == "yuv420p"
        read = np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert read.shape == (6, 48, 64, 3)
    difference = read[:, : size[0], : size[1]].astype(int) - frames
    assert np.abs(difference).mean() < 4
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 2.5


def test_a_video_is_made_picture_by_picture(tmp_path: Path) -> None:
    """The same pictures from a generator, of which only one is there at a time. (The encoder does not always write the same bytes.)"""
    write_video(tmp_path / "whole.mp4", waves(), 24)
    write_video(tmp_path / "drawn.mp4", (frame for frame in waves()), 24)
    whole, drawn = (decoded(tmp_path / name) for name in ("whole.mp4", "drawn.mp4"))
    assert whole.shape == drawn.shape == (6, 48, 64, 3)
    assert np.abs(whole - drawn).mean() < 1


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_a_scan_is_one_strip_of_every_frame() -> None:
    frames = waves()
    scan = np.asarray(horizontal_scan(frames, column=30))
    assert scan.shape == (48, 6 * 20, 3)
    np.testing.assert_array_equal(scan[:, 40:60], frames[2, :, 30:50])


def test_a_scan_at_the_edge_and_of_a_long_clip() -> None:
    frames = waves()
    np.testing.assert_array_equal(np.asarray(horizontal_scan(frames, column=1000))[:, :20], frames[0, :, 44:64])
    long = np.zeros((400, 16, 32, 3), np.uint8)
    assert horizontal_scan(long).size == (1600, 16)
    assert horizontal_scan(np.zeros((2000, 8, 8, 3), np.uint8)).size == (2000, 8)


def test_the_scan_goes_where_something_is() -> None:
    frames = np.full((3, 48, 96, 3), 90, np.uint8)
    frames[:, :, 50:60] = np.random.default_rng(0).integers(0, 255, (48, 10, 3))
    assert 40 <= liveliest_column(frames) <= 50


def test_comparison_shows_the_same_place_of_all() -> None:
    page = np.asarray(scan_comparison({"one": waves(), "the other": waves()[:, ::-1]}, column=10))
    margin, label = 12, 24
    top = margin + label
    np.testing.assert_array_equal(page[top : top + 48, margin : margin + 20], waves()[0, :, 10:30])
    left = margin + 6 * 20 + margin  # beside it
    np.testing.assert_array_equal(page[top : top + 48, left : left + 20], waves()[0, ::-1, 10:30])
    assert (page[margin : margin + label] > 150).any()  # the label is there


def test_long_scans_stand_one_above_the_other() -> None:
    long = np.repeat(waves(1), 60, axis=0)
    page = np.asarray(scan_comparison({"one": long, "the other": long[:, ::-1]}, column=10))
    margin = label = 2 * 12 + 1  # text of 1200 / 48 = 25 pixels
    top = margin + 2 * label + 48 + margin + 2 * label
    np.testing.assert_array_equal(page[top : top + 48, margin : margin + 20], long[0, ::-1, 10:30])


def test_contact_sheet_spreads_over_the_clip() -> None:
    frames = np.broadcast_to(np.arange(60, 84, dtype=np.uint8)[:, None, None, None], (24, 48, 64, 3))
    page = np.asarray(contact_sheet({"a": frames}, columns=4))
    shown = {60, 68, 75, 83}
    assert shown <= set(page[12 + 24 + 20].ravel().tolist())
    assert page.shape[1] == 2 * 12 + 4 * 64 + 3 * 4
    assert np.asarray(contact_sheet({"short": frames[:2], "long": frames}, columns=4)).shape[1] == page.shape[1]


def test_side_by_side_keeps_the_pixels() -> None:
    clips = {"a label that is much too long for its picture": waves(), "b": waves(5)[:, ::-1]}
    page = side_by_side(clips)
    assert page.shape == (5, 48 + 2 * 12 + 16, 2 * 64 + 3 * 8, 3)
    np.testing.assert_array_equal(page[3, 32:80, 8:72], waves()[3])
    np.testing.assert_array_equal(page[3, 32:80, 80:144], waves()[3, ::-1])


def test_four_clips_make_a_square() -> None:
    page = side_by_side({name: waves() + offset for offset, name in enumerate("abcd")})
    assert page.shape == (6, 2 * (48 + 24 + 8) + 8, 2 * 72 + 8, 3)
    np.testing.assert_array_equal(page[2, 112:160, 80:144], waves()[2] + 3)
