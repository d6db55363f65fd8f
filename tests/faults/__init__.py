"""Campaigns of faults: what the package does when processes die, disks fill, files rot and users mistype.

`python -m tests.faults` runs them all at full length and writes docs/reliability.md; tests/test_faults_*.py run a few
cases of each.
"""
