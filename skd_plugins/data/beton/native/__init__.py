"""The compiled decoder's source, `crop.c`, and how it is built. `decode` uses it."""
