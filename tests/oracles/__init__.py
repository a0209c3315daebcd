"""Independent oracles: mpmath at 80 digits by differences, and R's lavaan, live or frozen. See README.md in this folder."""
