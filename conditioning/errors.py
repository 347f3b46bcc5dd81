"""The exception types of the conditioning engine: one line, what is wrong, what to do next."""


class ConditioningError(ValueError):
    """An input of the conditioning engine cannot be used as it is."""


class PoseError(ConditioningError):
    """Keypoints, a pose file or a pose network cannot be used as they are."""
