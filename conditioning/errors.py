"""The exception types of the conditioning engine: one line, what is wrong, what to do next."""


class ConditioningError(ValueError):
    """An input of the conditioning engine cannot be used as it is."""


class PoseError(ConditioningError):
    """Keypoints, a pose file or a pose network cannot be used as they are."""


class SceneError(ConditioningError):
    """An input of a scene cannot be used; the message names it and says what to do."""
