"""The one exception the film engine raises for what a user can put right."""


class VideoError(ValueError):
    """A shot, a timeline or an encoder setting that cannot become a film; says what to change."""
