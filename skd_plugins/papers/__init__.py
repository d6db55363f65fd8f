"""Every table and figure of both papers: ``skd reproduce``.

`tables` says what each needs and what was published, `runs` trains and evaluates, `measures` has the papers' own
quantities, `pages` writes tables, figures and verdicts.
"""
