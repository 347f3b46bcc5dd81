"""The client against a real server: results, refusals, failures, progress, interruption."""

from pathlib import Path

import pytest
from PIL import Image

from tools.client import ExecutionError, ExecutionInterrupted, HttpError, PromptError
from tools.events import Events

from .test_nano import node, picture_graph


def image_graph(name: str) -> dict:
    return {
        "load": node("LoadImage", image=name),
        "save": node("SaveImage", images=["load", 0], filename_prefix="a folder/copy"),
    }


def test_upload_run_view(server, tmp_path):
    Image.new("RGB", (24, 16), "teal").save(tmp_path / "a picture.png")
    name = server.client.upload_image(tmp_path / "a picture.png", subfolder="client tests")
    assert name == "client tests/a picture.png"
    (saved,) = server.client.run(image_graph(name))["save"]["images"]
    assert saved["subfolder"] == "a folder"
    assert (server.output_dir / "a folder" / saved["filename"]).read_bytes() == (
        server.client.view(**saved)
    )


def test_a_refused_prompt_names_node_and_input(server):
    with pytest.raises(PromptError, match="no-such-image.png") as refused:
        server.client.run(image_graph("no-such-image.png"))
    assert list(refused.value.node_errors) == ["load"]
    with pytest.raises(PromptError, match="NoSuchNode"):
        server.client.queue({"1": node("NoSuchNode")})


def test_one_bad_branch_refuses_the_whole_prompt(server):
    Image.new("RGB", (8, 8)).save(server.input_dir / "small.png")
    graph = image_graph("small.png")
    graph["bad"] = node("SaveImage", images=["load", 7], filename_prefix="bad")
    with pytest.raises(PromptError):
        server.client.queue(graph)
    assert not list(server.output_dir.glob("bad*"))


def test_a_failing_node_is_named(server):
    (server.models_dir / "checkpoints" / "broken.safetensors").write_bytes(b"not a model")
    graph = picture_graph()
    graph["base"]["inputs"]["ckpt_name"] = "broken.safetensors"
    with pytest.raises(ExecutionError) as failed:
        server.client.run(graph)
    assert failed.value.node_type == "CheckpointLoaderSimple"
    assert failed.value.message and failed.value.traceback


def test_progress_and_interrupt(server):
    graph = picture_graph("something slow", seed=11)
    graph["sample"]["inputs"]["steps"] = 500
    with Events(server.url) as events:
        prompt_id = server.client.queue(graph, client_id=events.client_id)
        third = events.wait_for(lambda e: e.type == "progress" and e.data["value"] >= 3)
        assert third.data["max"] == 500 and third.data["node"] == "sample"
        server.client.interrupt(prompt_id)
        with pytest.raises(ExecutionInterrupted):
            server.client.wait(prompt_id)
        events.wait_for(lambda e: e.type == "execution_interrupted")
        with pytest.raises(TimeoutError, match="No such event"):
            events.wait_for(lambda e: e.type == "never", timeout=0.2)
    assert server.client.run(picture_graph("next", seed=12))["save"]["images"]


def test_giving_up_stops_the_prompt(server):
    graph = picture_graph("too slow", seed=13)
    graph["sample"]["inputs"]["steps"] = 2000
    prompt_id = server.client.queue(graph)
    with pytest.raises(TimeoutError, match="not done after 1 s"):
        server.client.wait(prompt_id, timeout=1)
    with pytest.raises(ExecutionInterrupted):
        server.client.wait(prompt_id, timeout=60)


def test_a_prompt_taken_out_of_the_queue_is_told(server):
    slow = picture_graph("first", seed=14)
    slow["sample"]["inputs"]["steps"] = 2000
    first = server.client.queue(slow)
    second = server.client.queue(picture_graph("second", seed=15))
    server.client.cancel(second)
    with pytest.raises(ExecutionInterrupted, match="no longer in the queue"):
        server.client.wait(second)
    server.client.cancel(first)
    with pytest.raises(ExecutionInterrupted):
        server.client.wait(first)


def test_paths_outside_are_not_served(server, tmp_path):
    (tmp_path / "secret.txt").write_text("secret", "utf-8")
    with pytest.raises(HttpError):
        server.client.view("../secret.txt", subfolder=str(Path("..") / tmp_path.name))
