"""Captions: true, varied, and made of words that `vocabulary` knows."""

import re

from demo.world import Draws, caption, draw_caption, draw_sample, draw_scene, palette, specs
from demo.world.captions import NAMES, describe_cloth, vocabulary
from demo.world.specs import Cloth


def _scenes(count):
    for seed in range(count):
        draws = Draws.for_sample(seed, "train")
        yield draw_scene(draws), draws


def test_the_plain_caption_says_everything():
    sample = draw_sample(4)
    text = caption(sample.scene, sample.pose.action)
    character, attire = sample.scene.character, sample.scene.attire
    for word in (character.hair_colour, attire.upper.colour, attire.upper.kind, attire.shoes):
        assert word in text
    assert text == caption(sample.scene, sample.pose.action)
    assert caption(sample.scene, "dancing", name="zoe").startswith("zoe, ")


def test_captions_never_say_what_is_not_there():
    for scene, draws in _scenes(400):
        text = draw_caption(scene, "walking", draws)
        cloths = [scene.attire.upper] + ([scene.attire.lower] if scene.attire.lower else [])
        colours = {c for cloth in cloths for c in (cloth.colour, cloth.colour2)}
        # Orange and yellow name nothing but clothes and shoes.
        for colour in ("orange",):
            if colour in text:
                assert colour in colours | {scene.attire.shoes}
        if "striped" in text or "stripes" in text:
            assert any(cloth.pattern == "stripes" for cloth in cloths)
        if re.search(r"\b(dress|gown)\b", text.replace("dressed", "")):
            assert scene.attire.upper.kind == "dress"
        if "glasses" in text or "spectacles" in text:
            assert scene.character.mark == "glasses"
        assert not re.search(r"\ba [aeiou]", text), text
        assert "{" not in text and "  " not in text and ", ," not in text, text


def test_captions_vary_and_leave_things_out():
    sample = draw_sample(8)
    texts = {draw_caption(sample.scene, "sitting", Draws(i)) for i in range(200)}
    assert len(texts) > 150
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) < 8 and max(lengths) > 25
    assert any(text.split(",")[0] in NAMES for text in texts)


def test_cloth_is_described_by_kind_colour_and_pattern():
    assert describe_cloth(Cloth("shirt", "blue", "stripes", "white")) == (
        "a blue and white striped shirt"
    )
    assert describe_cloth(Cloth("coat", "orange")) == "an orange coat"
    assert describe_cloth(Cloth("trousers", "red")) == "red trousers"


def test_the_vocabulary_is_complete():
    known = set(re.findall(r"[a-z]+", " ".join(vocabulary())))
    known |= set(palette.CLOTH) | set(specs.BACKGROUND_TONES)
    for scene, draws in _scenes(600):
        words = set(re.findall(r"[a-z]+", draw_caption(scene, "arms up", draws)))
        assert words <= known, words - known
