"""For all tests: onnxruntime reads this when it is imported, and then sends nothing anywhere."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
