"""Save Film on the real page: also a film that no browser plays can be looked at."""

import pytest
from PIL import Image

from tests.browser.rows import row, side_by_side


@pytest.mark.parametrize("preset", ["h264_draft", "prores"])
@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_film_plays_on_the_node(editor, server, preset, vue):
    Image.new("RGB", (128, 72), (200, 120, 90)).save(server.input_dir / "film_preview.png")
    sketch = row()
    sketch.node("load", "LoadImage", image="film_preview.png")
    sketch.node("shot", "TroupeShot", duration=1, inputs={"image": ("load", "IMAGE")})
    film = {"shots.shot0": ("shot", "shot")}
    sketch.node("film", "TroupeTimeline", fps=12 + vue, inputs=film)
    sketch.node(
        "save",
        "TroupeSaveVideo",
        filename_prefix="browser/film",
        preset=preset,
        inputs={"video": ("film", "video")},
    )
    editor.load(editor.build(sketch, side_by_side(sketch)))
    editor.page.evaluate(
        "async vue => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue);"
        " app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [40, 60];"
        " app.canvas.setDirty(true, true); app.queuePrompt(0); }",
        vue,
    )
    shown = editor.page.wait_for_function(
        "() => { const film = [...document.querySelectorAll('video')]"
        ".find(v => v.readyState > 0 && v.currentSrc);"
        " return film && [film.currentSrc, film.videoWidth, film.duration]; }",
        timeout=240_000,
    ).json_value()
    assert shown[1:] == [128, pytest.approx(1, abs=0.1)]
    assert ("troupe_preview_" in shown[0]) == (preset == "prores")
