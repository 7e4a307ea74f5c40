"""What runs a model: one module for each kind of device."""
