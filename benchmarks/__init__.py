"""Measurements: every figure in the documentation is printed by a module of this folder."""
