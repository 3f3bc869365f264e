"""What the frames agree on, inside the sampler and in the end, with a tiny autoencoder of random weights: as lossy as one can be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

import tiny_models
from medm.correspondence import Codes
from medm.diffusion.agreement import Agreement, harmonise_result
from medm.diffusion.deblurring import LEAST, MOST, deblurred, key_detail, lost
from medm.diffusion.memory import Chunk
from medm.diffusion.models import Model
from medm.diffusion.windows import Carry
from medm.harmonize import Harmonizer
from medm.settings import RenderSettings

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.write(folder / "sd")
    loaded = Model.load(RenderSettings(model=str(folder / "sd")))
    tiny_models.write_tiny_autoencoder(folder / "vae_tiny")
    return replace(loaded, tiny=AutoencoderTiny.from_pretrained(folder / "vae_tiny"))


@pytest.fixture
def latents(model) -> torch.Tensor:
    return torch.randn(LENGTH, model.latent_channels, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))


def panned(speed: int = 2, weighted: bool = False) -> Harmonizer:
    """Codes of a wall that moves `speed` pixels a frame; weighted: later frames count more."""
    columns = np.arange(WIDTH) + speed * np.arange(LENGTH)[:, None]
    span = int(columns.max()) + 1
    codes = np.arange(HEIGHT)[:, None] * span + columns[:, None, :]
    weights = np.linspace(0.1, 1, codes.size).reshape(codes.shape) if weighted else None
    return Harmonizer(codes, HEIGHT * span, weights=weights)


def distinct() -> Harmonizer:
    """Codes that no two pixels share: there is nothing to agree on."""
    count = LENGTH * HEIGHT * WIDTH
    return Harmonizer(np.arange(count).reshape(LENGTH, HEIGHT, WIDTH), count)


def agree(model: Model, harmonizer: Harmonizer, clean: torch.Tensor, chunk: int = 2, progress=None, **settings) -> torch.Tensor:
    agreement = Agreement(model, harmonizer, RenderSettings(**settings), Chunk(chunk))
    if progress is not None:
        agreement.progress = progress
    return agreement(clean)


def mixed(harmonizer: Harmonizer, frames: torch.Tensor, harmonisation: str) -> torch.Tensor:
    if harmonisation == "local":
        smooth = harmonizer.local(frames, 1.5, 4)
        return smooth + harmonizer.keyed(frames - smooth)
    return harmonizer.keyed(frames) if harmonisation == "key" else harmonizer.global_mean(frames)


@pytest.mark.parametrize("harmonisation", ["key", "global", "weighted", "local"])
@pytest.mark.parametrize("encoding", ["plain", "fidelity"])
@pytest.mark.parametrize("tiny", [False, True])
def test_latents_agree_by_the_formula_however_few_frames_the_autoencoder_sees(model, latents, harmonisation, encoding, tiny):
    harmonizer = panned(weighted=harmonisation == "weighted")
    frames = model.decode(latents, tiny)
    expected = model.encode(mixed(harmonizer, frames, harmonisation), tiny)
    if encoding == "fidelity":
        expected = latents + expected - model.encode(frames, tiny)
    options = {"harmonisation": harmonisation, "encoding": encoding, "tiny_autoencoder": tiny, "local_sigma": 1.5, "local_width": 4}
    for chunk in (1, 2, LENGTH):
        before = latents.clone()
        got = agree(model, harmonizer, latents, chunk, **options)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(latents, before)


def test_the_ways_differ(model, latents):
    ways = [agree(model, panned(), latents, harmonisation=way, tiny_autoencoder=False) for way in ("key", "global", "local")]
    ways.append(agree(model, panned(weighted=True), latents, harmonisation="weighted", tiny_autoencoder=False))
    ways += [agree(model, panned(), latents, encoding="plain", tiny_autoencoder=tiny) for tiny in (False, True)]
    for index, one in enumerate(ways):
        for other in ways[:index]:
            assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("harmonisation", ["key", "global", "local"])
def test_fidelity_encoding_loses_nothing_where_nothing_changes(model, latents, harmonisation):
    harmonizer = distinct()
    kept = agree(model, harmonizer, latents, harmonisation=harmonisation, encoding="fidelity")
    torch.testing.assert_close(kept, latents, atol=1e-6, rtol=0)
    lossy = agree(model, harmonizer, latents, harmonisation=harmonisation, encoding="plain")
    assert (lossy - latents).abs().mean() > 0.1  # or the test would say nothing


@pytest.mark.parametrize("harmonisation", ["key", "local"])
def test_an_agreement_can_be_stopped_every_few_frames(model, latents, harmonisation):
    told = []
    agree(model, panned(), latents, 2, lambda fraction, phase: told.append(fraction), harmonisation=harmonisation)
    assert told == sorted(told)
    assert len(told) == 2 * math.ceil(LENGTH / 2)  # decoded, and encoded


@pytest.mark.parametrize("harmonisation", ["key", "local"])
def test_windows_hand_on_what_key_frames_showed(model, monkeypatch, harmonisation):
    """With an autoencoder that changes nothing. A still picture in two windows, whose frames were painted quite differently."""
    monkeypatch.setattr(model, "decode", lambda latents, tiny: latents)
    monkeypatch.setattr(model, "encode", lambda frames, tiny: frames)
    count = HEIGHT * WIDTH
    picture = np.arange(count, dtype=np.int32).reshape(HEIGHT, WIDTH)
    codes = Codes(np.repeat(picture[None], 5, axis=0), count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))
    carry = Carry(codes, [(0, 3), (2, 5)])
    settings = RenderSettings(harmonisation=harmonisation, local_sigma=1.5, local_width=4)
    details = []
    for first, last, own in carry:
        painted = torch.rand(last - first, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(first)) + 0.1 * first
        harmonizer = Harmonizer(own.codes, own.count)
        got = Agreement(model, harmonizer, settings, Chunk(2), carry)(painted)
        details.append(got - harmonizer.local(painted, 1.5, 4) if harmonisation == "local" else got)
    for frame in (*details[0], *details[1]):
        torch.testing.assert_close(frame, details[0][0], atol=1e-3, rtol=0)  # handed on in half precision


def test_every_guided_step_hands_on_its_own_values(model, monkeypatch):
    """A still picture in two windows, two guided steps in each: what frames agreed on at one step is nothing to the other."""
    monkeypatch.setattr(model, "decode", lambda latents, tiny: latents)
    monkeypatch.setattr(model, "encode", lambda frames, tiny: frames)
    count = HEIGHT * WIDTH
    picture = np.arange(count, dtype=np.int32).reshape(HEIGHT, WIDTH)
    codes = Codes(np.repeat(picture[None], 5, axis=0), count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))
    carry = Carry(codes, [(0, 3), (2, 5)])
    values = iter((0.1, 0.2, 0.5, 0.6))
    got = []
    for first, last, own in carry:
        agreement = Agreement(model, Harmonizer(own.codes, own.count), RenderSettings(), Chunk(2), carry)
        for _ in range(2):
            frames = agreement(torch.full((last - first, 3, HEIGHT, WIDTH), next(values)))
            got.append((float(frames.min()), float(frames.max())))
    expected = [(value, value) for value in (0.1, 0.2, 0.1, 0.2)]
    np.testing.assert_allclose(got, expected, atol=1e-3)  # handed on in half precision


class Large(torch.Tensor):
    """Frames of which no two fit where they are to go."""

    def to(self, *args, **options) -> torch.Tensor:
        if len(self) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return self.as_subclass(torch.Tensor).to(*args, **options)


def test_fewer_frames_are_decoded_where_they_do_not_fit_beside_the_harmoniser(model, latents, monkeypatch):
    expected = agree(model, panned(), latents, encoding="plain")
    decode = type(model).decode
    monkeypatch.setattr(model, "decode", lambda latents, tiny: decode(model, latents, tiny).as_subclass(Large))
    agreement = Agreement(model, panned(), RenderSettings(encoding="plain"), Chunk(4))
    torch.testing.assert_close(agreement(latents), expected, atol=1e-5, rtol=1e-5)
    assert agreement.chunk.frames == 1


def test_local_harmonisation_keeps_no_repository_that_it_does_not_use(model, latents, monkeypatch):
    asked = []
    keyed = Harmonizer.keyed_repository
    monkeypatch.setattr(Harmonizer, "mean_repository", lambda *_: pytest.fail("of no use"))
    monkeypatch.setattr(Harmonizer, "keyed_repository", lambda *args: asked.append(args) or keyed(*args))
    agree(model, panned(), latents, harmonisation="local")
    assert len(asked) == 1  # of the key frames' detail


# -- in the end --------------------------------------------------------------------------------------------------------


def clip() -> torch.Tensor:
    return torch.rand(LENGTH, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


ONE_OBJECT = torch.zeros(LENGTH, HEIGHT, WIDTH, dtype=torch.int32)


@pytest.mark.parametrize("change", [{"w": 0.0}, {"final_harmonisation": "off"}])
def test_without_guidance_or_final_harmonisation_frames_stay_as_they_are(change):
    frames = clip()
    assert torch.equal(harmonise_result(frames.clone(), panned(), RenderSettings(**change), ONE_OBJECT), frames)


@pytest.mark.parametrize(("final", "mix"), [("mean", Harmonizer.global_mean), ("feathered", Harmonizer.feathered_mean)])
@pytest.mark.parametrize("w", [1.0, 0.3])
def test_the_mean_counts_w_times(final, mix, w):
    frames, harmonizer = clip(), panned()
    got = harmonise_result(frames.clone(), harmonizer, RenderSettings(final_harmonisation=final, w=w, deblur=0.0), ONE_OBJECT)
    torch.testing.assert_close(got, frames + w * (mix(harmonizer, frames) - frames))


@pytest.mark.parametrize("final", ["mean", "feathered", "detail"])
def test_less_and_less_guidance_leaves_the_frames_more_and_more_as_they_are(final):
    frames = clip()
    changes = [
        (harmonise_result(frames.clone(), panned(), RenderSettings(final_harmonisation=final, w=w, deblur=0.4), ONE_OBJECT) - frames).abs()
        for w in (1e-3, 1e-5)
    ]
    assert 0 < changes[0].max() < 0.01
    assert changes[1].max() < 1e-4
    expected = deblurred(frames + 0.25 * (panned().global_mean(frames) - frames), ONE_OBJECT, 0.1)
    got = harmonise_result(frames.clone(), panned(), RenderSettings(final_harmonisation="mean", w=0.25, deblur=0.4), ONE_OBJECT)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("final", ["mean", "feathered"])
def test_local_harmonisation_is_local_in_the_end_too_by_the_mean_and_the_feathered_mean_alike(final):
    settings = RenderSettings(harmonisation="local", local_sigma=1.5, local_width=4, final_harmonisation=final, deblur=0.0)
    frames = clip()
    expected = panned().local(frames, 1.5, 4)
    torch.testing.assert_close(harmonise_result(frames.clone(), panned(), settings, ONE_OBJECT), expected)


def test_with_the_mean_and_w_1_all_pixels_of_a_code_are_equal():
    harmonizer = panned(speed=1)
    got = harmonise_result(clip(), harmonizer, RenderSettings(final_harmonisation="mean", w=1.0, deblur=0.0), ONE_OBJECT)
    for t in range(1, LENGTH):
        torch.testing.assert_close(got[t, :, :, :-t], got[0, :, :, t:], atol=1e-6, rtol=0)


def test_detail_keeps_each_frames_finest_pattern_and_takes_the_flicker_out():
    """Under a camera at rest: stripes a pixel wide that jump by a pixel every frame, over brightness that jumps."""
    stripes = 0.1 * (-1.0) ** (torch.arange(WIDTH) + torch.arange(LENGTH)[:, None])
    brightness = torch.tensor([0.2, -0.1, 0.3, 0.0, -0.2])
    frames = (stripes + brightness[:, None])[:, None, None, :].expand(LENGTH, 3, HEIGHT, WIDTH).contiguous()
    got = harmonise_result(frames.clone(), panned(speed=0), RenderSettings(final_harmonisation="detail", deblur=0.0), ONE_OBJECT)
    inside = got[..., 8:-8]
    means = inside.mean((1, 2, 3))
    torch.testing.assert_close(means, brightness.mean().expand(LENGTH), atol=1e-3, rtol=0)
    pattern = inside - means[:, None, None, None]
    kept = (pattern * stripes[:, None, None, 8:-8]).mean((1, 2, 3)) / 0.01
    # the mean over 5 frames has a fifth of the stripes left; a box of 3 pixels takes a third, and upside down, of what that changes
    torch.testing.assert_close(kept, torch.tensor([1 + (sign * 0.2 - 1) * -1 / 3 for sign in (1, -1, 1, -1, 1)]), atol=1e-3, rtol=0)


def test_half_precision_stays_half():
    got = harmonise_result(clip().half(), panned(), RenderSettings(), ONE_OBJECT)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), harmonise_result(clip(), panned(), RenderSettings(), ONE_OBJECT), atol=4e-3, rtol=0)


# -- deblurring --------------------------------------------------------------------------------------------------------


def wave(length: float, height: int = 40, width: int = 60) -> tuple[torch.Tensor, float]:
    """A picture (1, 1, H, W) of a slanted wave so many pixels long, and the factor of the Laplacian's eigenvalue: -4 pi^2 / length^2."""
    y, x = torch.meshgrid(torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij")
    across = 2 * math.pi / length
    return torch.sin(across * (0.8 * x + 0.6 * y))[None, None], -(across**2)


@pytest.mark.parametrize("variance", [0.1, 0.17, 0.4])
def test_deblurring_undoes_a_blur_of_that_variance_to_second_order(variance):
    """Blurred by a Gaussian a wave keeps exp(-v k^2 / 2): of what is lost only the fourth order stays lost."""
    ids = torch.zeros(1, 40, 60, dtype=torch.int32)
    left = []
    for length in (24.0, 12.0):
        sharp, eigenvalue = wave(length)
        blurred = sharp * math.exp(variance * eigenvalue / 2)
        inner = (..., slice(2, -2), slice(2, -2))
        lost, left_over = (float((picture - sharp)[inner].abs().max()) for picture in (blurred, deblurred(blurred, ids, variance)))
        assert left_over < 0.06 * lost
        left.append(left_over)
    assert 12 < left[1] / left[0] < 20  # twice the frequency: 16 times as much


def test_outlines_get_no_halo():
    """Two objects, each of one colour: with an outline between them nothing changes, without it there is an overshoot."""
    frames = torch.zeros(1, 3, 16, 16)
    frames[..., 8:] = 0.5
    ids = torch.zeros(1, 16, 16, dtype=torch.int32)
    assert deblurred(frames, ids, 0.3).max() > 0.55
    ids[..., 8:] = 7
    assert torch.equal(deblurred(frames, ids, 0.3), frames)


def test_constants_and_slopes_stay_as_they_are():
    ids = torch.zeros(2, 16, 16, dtype=torch.int32)
    constant = torch.full((2, 3, 16, 16), 0.4)
    assert torch.equal(deblurred(constant, ids, 0.3), constant)
    slope = (torch.arange(16.0) + 2 * torch.arange(16.0)[:, None]).expand(2, 3, 16, 16) / 64
    torch.testing.assert_close(deblurred(slope, ids, 0.3)[..., 1:-1, 1:-1], slope[..., 1:-1, 1:-1])
    assert deblurred(slope.half(), ids, 0.3).dtype == torch.float16


def textured(length: int) -> torch.Tensor:
    """(length, 3, H, W): the same smooth texture in every frame."""
    picture = wave(9.0, HEIGHT, WIDTH)[0] + wave(14.0, HEIGHT, WIDTH)[0].flip(-1)
    return 0.3 * picture.float().expand(length, 3, HEIGHT, WIDTH).clone()


def at_rest(length: int, clear: np.ndarray | None = None) -> Harmonizer:
    """Codes of a wall that does not move."""
    count = HEIGHT * WIDTH
    return Harmonizer(np.repeat(np.arange(count).reshape(1, HEIGHT, WIDTH), length, axis=0), count, clear=clear)


def blurred(frames: torch.Tensor, variance: float) -> torch.Tensor:
    """Blurred along both axes; what is out of the frame looks like its border."""
    taps = torch.tensor([variance / 2, 1 - variance, variance / 2])
    edged = torch.nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate").reshape(-1, 1, HEIGHT + 2, WIDTH + 2)
    return torch.nn.functional.conv2d(edged, (taps[:, None] * taps)[None, None]).reshape(frames.shape)


@pytest.mark.parametrize("variance", [0.2, 0.3, 0.4])
def test_the_blur_is_found_by_what_the_key_frame_shows(variance):
    length = 40  # of the frames whose gradients are taken none is the key frame
    ids = torch.zeros(length, HEIGHT, WIDTH, dtype=torch.int32)
    sharp = textured(length)
    assert lost(blurred(sharp, variance), key_detail(sharp, at_rest(length), ids), at_rest(length), ids) == pytest.approx(
        variance, rel=0.15
    )


def test_no_less_and_no_more_is_deblurred_than_is_sure_and_safe():
    length = 40
    ids = torch.zeros(length, HEIGHT, WIDTH, dtype=torch.int32)
    keys = key_detail(textured(length), at_rest(length), ids)
    assert lost(textured(length), keys, at_rest(length), ids) == LEAST
    assert lost(0.5 * textured(length), keys, at_rest(length), ids) == MOST
    assert lost(torch.zeros(length, 3, HEIGHT, WIDTH), keys, at_rest(length), ids) == MOST
    outlines = torch.arange(HEIGHT * WIDTH, dtype=torch.int32).reshape(HEIGHT, WIDTH).expand(length, HEIGHT, WIDTH)
    keys = key_detail(textured(length), at_rest(length), outlines)  # no pixel has neighbours of its object
    assert lost(0.5 * textured(length), keys, at_rest(length), outlines) == LEAST


def test_only_points_that_the_first_key_frame_is_the_key_of_are_compared():
    """Half of the wall is seen clearly in the first frame only: how sharp the middle one shows it says nothing."""
    length = 40
    ids = torch.zeros(length, HEIGHT, WIDTH, dtype=torch.int32)
    clear = np.ones((length, HEIGHT, WIDTH), np.bool_)
    clear[1:, :, : WIDTH // 2] = False
    frames = textured(length)
    shown = blurred(frames, 0.3)
    shown[..., : WIDTH // 2] *= 0.5
    assert lost(shown, key_detail(frames, at_rest(length, clear), ids), at_rest(length, clear), ids) == pytest.approx(0.3, rel=0.1)
    assert lost(shown, key_detail(frames, at_rest(length), ids), at_rest(length), ids) == MOST


@pytest.mark.parametrize(("change", "amount"), [({}, MOST), ({"deblur": 0.05}, 0.05), ({"harmonisation": "global"}, LEAST)])
def test_the_windows_of_a_shot_are_deblurred_alike(change, amount):
    """The frames of the first window agree on a texture, but for the sharper key frame; the second is told by the first."""
    count = HEIGHT * WIDTH
    picture = np.arange(count, dtype=np.int32).reshape(HEIGHT, WIDTH)
    codes = Codes(np.repeat(picture[None], 20, axis=0), count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))
    settings = RenderSettings(**change)
    carry = Carry(codes, [(0, 12), (8, 20)])
    for index, (first, last, own) in enumerate(carry):
        frames = textured(last - first)
        if index == 0:
            frames *= 0.5
            frames[6] *= 2.0
        harmonise_result(frames, Harmonizer(own.codes, own.count), settings, torch.zeros(frames[:, 0].shape, dtype=torch.int32), carry)
        assert carry.deblur == amount
