"""What the subcommands of `skd` do that is nobody else's: doctor, demo, list, data, release, weights."""
