"""How long a generated example takes says nothing on a busy machine."""

from hypothesis import settings

settings.register_profile("chorus", deadline=None)
settings.load_profile("chorus")
