from hypothesis import settings

# The same examples in every run, and no assertion on time.
settings.register_profile("ops", derandomize=True, deadline=None)
settings.load_profile("ops")
