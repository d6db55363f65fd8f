"""timm's own train.py, unmodified, with a method and its batches put in."""
