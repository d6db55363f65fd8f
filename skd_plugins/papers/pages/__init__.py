"""Tables, figures and verdicts, written as Markdown, CSV, LaTeX and HTML."""
