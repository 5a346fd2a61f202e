"""Keep the experts of a DeepSeek-V3 style language model busy, and measure what it costs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("s15erav3")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
