"""The tests: units here, in the shape of `amphora`; real programs in `tests.integration`."""

import os

import hypothesis

# No deadline: a slow machine is no failure.  The everyday run is the same each time; the long one explores.
hypothesis.settings.register_profile("everyday", deadline=None, database=None, derandomize=True, max_examples=200)
hypothesis.settings.register_profile("full", deadline=None, database=None, max_examples=5000)
hypothesis.settings.load_profile("full" if os.environ.get("AMPHORA_FULL_TESTS") == "1" else "everyday")
