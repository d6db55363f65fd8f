"""What only the papers measure: gradients, common mistakes, superclasses, embeddings."""
