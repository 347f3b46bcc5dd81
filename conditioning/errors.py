"""The one exception type of regions, references and composition."""


class SceneError(ValueError):
    """An input of a scene cannot be used; the message names it and says what to do."""
