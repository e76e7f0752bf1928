"""onnxruntime is imported by these tests: without its telemetry."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
