"""Widgets of Training Options reach the job as the settings they stand for."""

import importlib

import pytest


@pytest.fixture
def options(pack):
    module = importlib.import_module(f"{pack.__name__}.nodes.training_options")
    return lambda **widgets: module.TroupeTrainingOptions.execute(**widgets).args[0]


def test_a_card_is_a_budget_and_changes_no_weights(options, pack):
    training = importlib.import_module(f"{pack.__name__}.training")
    assert "budget_gb" not in options()["memory"]
    assert options(yaml="memory: {budget_gb: 10}")["memory"]["budget_gb"] == 10
    for size in training.CARDS_GB:
        assert options(memory_card=f"{size} GB")["memory"]["budget_gb"] == size
    assert options(memory_card="8 GB", yaml="memory: {budget_gb: 7}")["memory"]["budget_gb"] == 7
    assert not training.setting("memory.budget_gb").identity
    # 8 bit is less exact: never chosen by a card, only by its own widget
    assert options(memory_card="8 GB")["memory"]["base_weights"] == "full"
    assert options(memory_base_weights="int8")["memory"]["base_weights"] == "int8"


def test_blocks_are_compiled_on_request(options):
    assert options()["memory"]["compile"] == "off"
    assert options(memory_compile="blocks")["memory"]["compile"] == "blocks"
