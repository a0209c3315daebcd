"""Linear maps between parameters of a covariance and whitened coordinates: in closed form, or by automatic differentiation."""
