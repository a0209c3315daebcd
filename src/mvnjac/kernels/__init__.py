"""The hot loops, written for the machine; each beside its reference in plain torch (`reference.py`), which says what it means."""
