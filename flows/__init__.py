"""The jobs: one module per flow; Ray and MLflow live only here."""
