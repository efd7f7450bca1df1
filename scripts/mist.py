import mist_attack  # noqa: F401
