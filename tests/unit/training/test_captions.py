"""Captions: what is read from a file, and what a template makes of it."""

import pytest

from training.captions import MAX_CAPTION_BYTES, check_template, compose_caption, read_caption


@pytest.mark.parametrize(
    ("template", "caption", "trigger", "expected"),
    [
        ("{trigger}, {caption}", "a woman at sea", "zoe", "zoe, a woman at sea"),
        ("{trigger}, {caption}", "", "zoe", "zoe"),
        ("{trigger}, {caption}", "a woman at sea", "", "a woman at sea"),
        ("{trigger}, {caption}", "", "", ""),
        ("wearing {trigger}, {caption}", "a man", "", "a man"),
        ("wearing {trigger}, {caption}", "a man", "redcoat", "wearing redcoat, a man"),
        # the trigger is there already: as a word of its own, in any case, not inside another
        ("{trigger}, {caption}", "photo of Zoe, smiling", "zoe", "photo of Zoe, smiling"),
        ("{trigger}, {caption}", "zoelike hair", "zoe", "zoe, zoelike hair"),
        ("{trigger}, {caption}", "a zoe person", "zoe person", "a zoe person"),
        # text of the user is never taken for template or pattern
        ("{trigger}, {caption}", "holds {trigger} and {x}", "zoe", "zoe, holds {trigger} and {x}"),
        ("{trigger}, {caption}", r"back\slash \1 .*", "c++ (x)", r"c++ (x), back\slash \1 .*"),
        ("{trigger}, {caption}", "a, b, , c,", "t", "t, a, b, , c"),
        ("a photo, {caption}, by me", "x", "t", "a photo, x, by me"),
        ("{trigger} only", "ignored t", "t", "t only"),
        ("{category}: {caption}", "x", "", "attire: x"),
        ("fixed text", "", "", "fixed text"),
    ],
)
def test_compose(template, caption, trigger, expected):
    assert compose_caption(template, caption, trigger, "attire") == expected


@pytest.mark.parametrize("bad", ["{name}", "{caption.__class__}", "{0}", "{}", "{trigger!r}"])
def test_unknown_placeholder_is_named(bad):
    with pytest.raises(ValueError, match=r"knows \{trigger\}, \{caption\}"):
        check_template(f"x {bad}")


TEXT = "Zo\u00eb, na\u00efve caf\u00e9"


@pytest.mark.parametrize(
    ("data", "expected", "remark"),
    [
        (TEXT.encode(), TEXT, ""),
        (b"\xef\xbb\xbf" + TEXT.encode(), TEXT, ""),
        (TEXT.encode("utf-16"), TEXT, "UTF-16"),
        (TEXT.encode("cp1252"), TEXT, "Windows-1252"),
        (b"", "", ""),
        (b" \r\n\t ", "", ""),
        (b"one\r\ntwo,\n\n three  four \n", "one, two, three four", ""),
        (b"tab\there \x07bell", "tab here bell", ""),
        (b"\x00\x01\x02binary", "", "not text"),
        (b"a" * (MAX_CAPTION_BYTES + 1), "", "64 KB"),
    ],
)
def test_read(tmp_path, data, expected, remark):
    (tmp_path / "a.txt").write_bytes(data)
    text, said = read_caption(tmp_path / "a.txt")
    assert text == expected
    assert remark in said and bool(said) == bool(remark)
