"""Every node, held against what users see and what ComfyUI's executor calls."""

import inspect
import json
import re

from tools.inprocess import ROOT
from tools.locales import TARGET, as_text, named_inputs, node_definitions

SECTIONS = {"training", "pose", "scene", "video"}
SHIPPED = """
TroupeLoadDataset TroupeDatasetFromImages TroupeTrainLora
TroupeDetectPose TroupeLoadPose TroupeSavePose TroupeDrawPose TroupePoseRegions
TroupeLoadIPAdapter TroupeCharacter TroupeAttire TroupeBackground TroupeApplyReference
TroupeComposeScene TroupeShot TroupeTimeline TroupeSaveVideo
""".split()  # names that workflow files depend on: never renamed, never dropped


def faults_of(node) -> list[str]:
    """What is wrong with one node, in words."""
    schema = node.GET_SCHEMA()
    return [f"{schema.node_id}: {text}" for text in [*_texts(schema), *_signature(node, schema)]]


def _texts(schema) -> list[str]:
    found = []
    if not re.fullmatch(r"Troupe[A-Z]\w+", schema.node_id):
        found.append("its id lacks the prefix Troupe")
    if not schema.display_name or "troupe" in schema.display_name.lower():
        found.append(f"display name {schema.display_name!r}")
    menu, _, section = schema.category.partition("/")
    if menu != "troupe" or section not in SECTIONS:
        found.append(f"category {schema.category!r}")
    if len(schema.description) < 40:
        found.append("no real description")
    found += [f"input {n} has no tooltip" for n, i in named_inputs(schema.inputs) if not i.tooltip]
    for output in schema.outputs:
        if not output.display_name or not output.tooltip:
            found.append(f"output {output.id} lacks a display name or a tooltip")
    page = ROOT / "web" / "docs" / f"{schema.node_id}.md"
    if not page.exists() or len(page.read_text("utf-8")) < 200:
        found.append("no help page in web/docs")
    return found


def _signature(node, schema) -> list[str]:
    """execute gets every input by keyword; an optional one may be missing from a prompt."""
    parameters = inspect.signature(node.execute).parameters
    inputs = {item.id: item for item in schema.inputs}
    found = []
    if set(parameters) != set(inputs):
        found.append(f"execute takes {sorted(parameters)}, inputs are {sorted(inputs)}")
    for name, item in inputs.items():
        needs_value = parameters.get(name) and parameters[name].default is inspect.Parameter.empty
        if item.optional and needs_value:
            found.append(f"optional input {name} has no default in execute")
    optional = [item.optional for item in schema.inputs]
    if optional != sorted(optional):
        found.append("a required input stands after an optional one; new inputs are appended")
    return found


def test_every_node_is_complete(pack):
    faults = [text for node in pack.nodes.NODES for text in faults_of(node)]
    assert not faults, "\n".join(faults)


def test_shipped_names_are_there_once(pack):
    ids = [node.GET_SCHEMA().node_id for node in pack.nodes.NODES]
    assert len(ids) == len(set(ids))
    assert not set(SHIPPED) - set(ids)


def test_help_pages_belong_to_nodes(pack):
    ids = {node.GET_SCHEMA().node_id for node in pack.nodes.NODES}
    assert {page.stem for page in (ROOT / "web" / "docs").glob("*.md")} <= ids


def test_the_english_locale_is_up_to_date(pack):
    assert TARGET.read_text("utf-8") == as_text(node_definitions(pack)), (
        "run: python -m tools.locales"
    )


def test_other_locales_translate_nodes_that_exist(pack):
    english = json.loads(TARGET.read_text("utf-8"))
    for path in sorted(TARGET.parent.parent.glob("*/nodeDefs.json")):
        for node_id, texts in json.loads(path.read_text("utf-8")).items():
            assert node_id in english, f"{path}: {node_id}"
            assert set(texts.get("inputs", {})) <= set(english[node_id]["inputs"])


def test_widget_defaults_agree_with_execute(pack):
    """A prompt without an optional widget runs as one with the widget untouched."""
    for node in pack.nodes.NODES:
        schema = node.GET_SCHEMA()
        parameters = inspect.signature(node.execute).parameters
        for item in schema.inputs:
            shown = getattr(item, "default", None)
            if item.optional and shown is not None and item.id in parameters:
                taken = parameters[item.id].default
                assert taken == shown, f"{schema.node_id}.{item.id}: {shown!r}, execute {taken!r}"


def test_words_that_people_type_find_a_node(pack):
    schemas = [node.GET_SCHEMA() for node in pack.nodes.NODES]
    words = "video combine, transition, load video, face, style, bucket, concept, train lora"
    for word in words.split(", "):
        assert any(word in schema.search_aliases for schema in schemas), word


def test_names_of_widgets_are_words(pack):
    for node_id, texts in node_definitions(pack).items():
        for name, about in texts["inputs"].items():
            assert "_" not in about["name"], f"{node_id}.{name}"
