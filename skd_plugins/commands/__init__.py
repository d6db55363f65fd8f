"""The subcommands of `skd` that build on all other parts. Their files load no torch, so that their help is quick."""
