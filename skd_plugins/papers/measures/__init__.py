"""Quantities that only the papers use: gradients, mistakes, superclasses, embeddings."""
