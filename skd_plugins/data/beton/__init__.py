"""FFCV's `.beton` files: read with checks, written whole, their JPEGs decoded.

`native/` has the decoder in C, with FFCV's pixels.
"""
