"""From a recipe to a trained network: `engine` is the loop, `build` makes its parts, `plan` is ``--dry-run``."""
