"""Independent oracles: mpmath at 50 digits by differences, and R's lavaan, live or frozen. See README.md in this folder."""
