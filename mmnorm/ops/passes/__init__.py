"""The four passes over the data, in several implementations with the same functions."""
