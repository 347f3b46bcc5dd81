"""The server itself: it starts with the pack, and nothing of it outlives who started it."""


def test_pack_and_companion_load(server):
    log = server.log_text()
    assert "Import times for custom nodes" in log
    for complaint in ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint"):
        assert complaint not in log
