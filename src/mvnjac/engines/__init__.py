"""One unit of work, run by: this process, processes beside it, Ray. The results are bitwise the same."""
