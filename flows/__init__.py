"""The jobs: one module per flow; Ray and MLflow live only here."""

import os

# Nobody's use of this project is reported anywhere. Set before any library that would is imported, in the
# driver and in every worker.
for _name, _value in (
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _value)
