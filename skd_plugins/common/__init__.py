"""What every folder uses: errors, files, locks, typed arguments, progress, and the record of a result's origin.

Imports nothing else of the package.
"""
