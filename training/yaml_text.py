"""YAML from people who are not to be trusted with all of YAML."""

from typing import Any

FREE_VALUES = 1000  # that aliases may stand for, beside one for each character of the text


def load_yaml(text: str) -> Any:
    """The value of a YAML text, as `yaml.safe_load`, but never larger than it looks.

    An alias stands for a whole value, and aliases of aliases make a few lines of text billions of
    values ("billion laughs"); they are counted before anything is built.

    Raises:
        yaml.YAMLError: not YAML, or too many values.
        ValueError: a date or a number that is none.
        RecursionError: nested too deep, or within itself.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > len(text) + FREE_VALUES:
            raise yaml.YAMLError("its aliases stand for too many values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values `node` stands for. A node within itself never ends: RecursionError."""
    key = id(node)
    if key not in known:
        inside = node.value if isinstance(node.value, list) else ()
        pairs = (entry if isinstance(entry, tuple) else (entry,) for entry in inside)
        known[key] = 1 + sum(_values(child, known) for pair in pairs for child in pair)
    return known[key]
