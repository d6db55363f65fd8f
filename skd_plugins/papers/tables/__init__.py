"""The 34 tables and figures as data, and the published numbers."""
