"""The subcommands of `skd` that stand above everything else: doctor, demo, list, data, write, release, weights."""
