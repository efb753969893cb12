"""Facts of serve/triton_models that need no server; test_served.py and test_load.py ask a real one."""

import subprocess
import sys

# Triton's own module exists inside its server alone
STUCK = """
import sys, time, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
from kdx.serve.triton_models.requests import ended_when_stuck

with ended_when_stuck(30):
    pass
print("went on", flush=True)
with ended_when_stuck(0.2):
    time.sleep(60)
"""


def test_an_instance_that_is_stuck_ends_itself_and_tells_where() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stdout == "went on\n" and done.returncode == 1
    assert 'File "<string>", line 10' in done.stderr
