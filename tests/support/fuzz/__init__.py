"""Hostile and broken files, without end: driven through real decode processes.

``seeds`` are whole files of every kind, ``mutations`` break them, ``hostile`` writes what breaks
readers by its grammar, ``run`` counts how each ended. Everything follows from a number.
"""
