"""The error of everything that reads or makes an adapter."""


class AdapterError(ValueError):
    """An adapter, or a model for one, is not what was expected; the text names both."""
