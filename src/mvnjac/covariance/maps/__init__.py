"""Linear maps between the parameters of a covariance and whitened coordinates: in closed form, or by autograd."""
