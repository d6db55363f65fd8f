"""What every folder uses: errors, whole files, locks, typed arguments, progress, what a result was made with.

Imports nothing else of the package.
"""
