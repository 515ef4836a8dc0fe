"""The hot loops, one operation a file, each beside its plain reference.

Nothing is imported here until it is asked for: numba, the compiled part and Triton each cost start-up
time that a caller of another one should not pay.
"""
