"""What every setting may be, said once: type, range, words, and one line about it.

``check`` judges a config by it, ``describe`` tells it.
"""
