"""The imports of a sweep's fork server, which every job's process then has already."""

from s15erav3.cli import quick

with quick.importing():
    from s15erav3.sweeps import child  # noqa: F401
