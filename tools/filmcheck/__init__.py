"""Trains the network of :mod:`hilum.filmcheck`."""
