"""Tools of the project that do not travel in the package."""
