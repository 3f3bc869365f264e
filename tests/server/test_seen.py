"""What painting sees of a shot: the same whether all passes are held or some at a time, and so are the metrics of the take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from medm.correspondence import analyse
from medm.correspondence.facts import CLEAR, confidence, gather_facts
from medm.diffusion import rendering
from medm.diffusion.models import ControlInput, Model
from medm.diffusion.plan import ModelFacts, Plan, plan
from medm.diffusion.rendering import render_take
from medm.diffusion.seen import Seen, flows_to_prev, look_at
from medm.evaluate import measure, read_take
from medm.settings import RenderSettings
from medm.shot import Shot

LENGTH = 26
CONTROLS = (ControlInput(("normal", "depth", "lineart"), 5, 1.0), ControlInput(("segmentation",), 3, 0.5))


@pytest.fixture(scope="module")
def shot(tmp_path_factory) -> Shot:
    """A mover that hides some of a wall and lets it go again, sky, and a camera that comes closer; with a cut."""
    scene = synthetic.Scene(
        [
            synthetic.Rectangle(101, lambda t: synthetic.at(0.15 * t - 2.0, 0.0, -3.0, turn=(0.0, 0.03 * t, 0.0)), half=(0.5, 0.6)),
            synthetic.Rectangle(202, lambda _: synthetic.at(0.0, -0.5, -5.0), half=(3.0, 1.2)),
        ],
        camera=lambda t: synthetic.camera(synthetic.at(0.02 * t, 0.0, -0.03 * t), 64, 48),
        length=LENGTH,
        cuts=(17,),
    )
    return Shot.open(synthetic.write_shot(tmp_path_factory.mktemp("seen") / "shot", scene, objects=True))


def seen(shot: Shot, settings: RenderSettings, read: int | None, flows: bool = True) -> Seen:
    return look_at(shot, settings, CONTROLS, torch.device("cpu"), read=read, flows=flows)


@pytest.mark.parametrize("read", [1, 8, LENGTH])
@pytest.mark.parametrize("harmonisation", ["key", "weighted"])
def test_a_few_frames_at_a_time_are_seen_as_all_at_once(shot: Shot, harmonisation: str, read: int) -> None:
    settings = RenderSettings.model_validate({"harmonisation": harmonisation})
    whole, parts = seen(shot, settings, None), seen(shot, settings, read)
    for name in ("codes", "birth_frame", "birth_xy"):
        np.testing.assert_array_equal(getattr(parts.found.codes, name), getattr(whole.found.codes, name))
    for name in ("flow_to_prev", "flow_to_next", "occluded"):
        np.testing.assert_array_equal(getattr(parts.found, name), getattr(whole.found, name))
    np.testing.assert_array_equal(parts.object_id, whole.object_id)
    np.testing.assert_array_equal(whole.object_id, shot.gbuffer().object_id)
    for own, other in zip(parts.controls, whole.controls, strict=True):
        assert own.dtype == torch.float16 and torch.equal(own, other)
    by_keys = harmonisation == "key"
    assert (whole.weights is None, whole.clear is None) == (parts.weights is None, parts.clear is None) == (by_keys, not by_keys)
    for name in ("clear",) if by_keys else ("weights",):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_weights_are_confidence_but_for_a_factor_of_each_code(shot: Shot) -> None:
    weighted, keyed = seen(shot, RenderSettings(harmonisation="weighted"), 8), seen(shot, RenderSettings(), 8)
    codes = keyed.found.codes
    best = np.zeros(codes.count, np.float32)
    np.maximum.at(best, codes.codes, weighted.weights)
    relative = weighted.weights / best[codes.codes]
    trust = confidence(gather_facts(codes, shot.gbuffer(), shot.cameras), codes)
    most = np.zeros(codes.count, np.float32)
    np.maximum.at(most, codes.codes, trust)
    np.testing.assert_allclose(relative, trust / most[codes.codes], rtol=1e-4)
    np.testing.assert_array_equal(keyed.clear, relative >= CLEAR)


@pytest.mark.parametrize("settings", [RenderSettings(w=0.0), RenderSettings(harmonisation="global")])
def test_who_asks_for_nothing_keeps_nothing(shot: Shot, settings: RenderSettings) -> None:
    found = seen(shot, settings, 8, flows=False)
    assert (found.weights, found.clear) == (None, None)
    assert len(found.found.flow_to_prev) == len(found.found.flow_to_next) == 0


@pytest.mark.parametrize("read", [None, 1, 7, 100])
def test_flows_are_read_again_as_they_were(shot: Shot, read: int | None) -> None:
    again = list(flows_to_prev(shot, read))
    np.testing.assert_array_equal(np.stack(again), analyse(shot, shot.gbuffer()).flow_to_prev)


def test_a_take_measures_the_same_whether_flows_were_kept(
    shot: Shot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    def with_free(gigabytes: float) -> tuple[Plan, dict[str, object]]:
        plans = list[Plan]()

        def plan_of(shot: Shot, settings: RenderSettings, model: Model) -> Plan:
            free = int(gigabytes * 1e9)
            facts = ModelFacts.loaded(model)
            plans.append(plan(len(shot), 48, 64, facts, "cpu", settings, free_device=free, free_host=free))
            return plans[0]

        monkeypatch.setattr(rendering, "plan_of", plan_of)
        document = render_take(shot, RenderSettings(steps=2, final_harmonisation="off"), tmp_path / f"{gigabytes}")
        return plans[0], document

    (plenty, whole), (little, windowed) = with_free(4.0), with_free(0.0)
    assert plenty.fits and plenty.flows and plenty.window is None
    assert not little.fits and not little.flows and little.read == 16 and little.window == 8, "and it is painted all the same"
    assert set(whole["metrics"]) == set(windowed["metrics"]) == {"warping_error", "code_spread", "sharpness"}
    frames = [read_take(shot, tmp_path / name) for name in ("4.0", "0.0")]
    found = analyse(shot, shot.gbuffer())
    for document, clip in zip((whole, windowed), frames, strict=True):
        assert document["metrics"] == measure(clip, found, shot.gbuffer().object_id)
