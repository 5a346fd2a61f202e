"""Schema of every setting, defined once: type, range, choices and a one-line description.

``check`` validates a config against it, ``describe`` prints it.
"""
