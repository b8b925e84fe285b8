"""Encoders of images and sentences, and the cache of their features."""
