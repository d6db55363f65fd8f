"""Verdicts, tables and figures of an artefact, written as Markdown, CSV, LaTeX, HTML and pictures."""
