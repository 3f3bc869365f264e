"""From the zip to the first take, as somebody who has just downloaded it: at most six clicks and no terminal, each photographed."""

from __future__ import annotations

import pytest

from new_user import build_package, first_take

pytestmark = pytest.mark.window

CLICKS = 6


def test_from_the_zip_to_the_first_take(blend, tmp_path):
    strips = []
    clicks = first_take(
        build_package(),
        blend,
        tmp_path,
        lambda window: strips.extend(
            window.get("[len(s.elements) for scene in bpy.data.scenes if scene.sequence_editor for s in scene.sequence_editor.strips]")
        ),
    )
    print(f"{len(clicks)} clicks: {', '.join(clicks)}; photographed in {tmp_path / 'photos'}")
    assert len(clicks) <= CLICKS
    assert 3 in strips
