"""The kinds of hostile input that ``benchmarks/fuzz.py`` gives to the library, and how an end is judged."""
