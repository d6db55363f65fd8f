"""The subcommands of `skd` that build on all other parts: doctor, demo, list, data, write, release, weights."""
