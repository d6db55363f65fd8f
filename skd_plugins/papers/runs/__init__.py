"""The trainings and evaluations that tables and figures share: planned once, run anywhere, kept in a store."""
