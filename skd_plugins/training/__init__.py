"""From a recipe to a trained network: what its fields become, the one loop, the run's folder, `--dry-run`."""
