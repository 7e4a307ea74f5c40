"""Settings that must be there before any library is loaded."""

import os

# Threads that wait without spinning: on a busy machine, spinning makes every step many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
