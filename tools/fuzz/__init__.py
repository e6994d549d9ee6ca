"""Fuzzing of everything that reads files from outside: ``python -m tools.fuzz`` (``docs`` in ``__main__``).

==============  ===========================================================================================
``cases``       an input: the files of a folder in one string of bytes
``guard``       the oracle: an error of ours or success, in bounds, nothing written, started or called
``targets``     what is read, and how
``seeds``       the corpus: every case that was ever found, made by code
``mutate``      changes that know JSON, safetensors, PNG and zip
==============  ===========================================================================================
"""
