"""Training: the classes of OpenRLHF, extended for segment advantages and the masked loss."""
