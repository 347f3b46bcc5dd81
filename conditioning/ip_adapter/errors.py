"""The exception type of the IP-Adapter part."""

from ..errors import SceneError


class IPAdapterError(SceneError):
    """Adapter, encoder, reference or model do not fit; the message says which and what to do."""
