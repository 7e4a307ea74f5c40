"""How good a detector or a blur is."""
