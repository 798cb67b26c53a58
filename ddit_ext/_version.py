"""The one place that holds the version; CMakeLists.txt and pyproject.toml read it here."""

__version__ = "0.2.0"
