"""Ablations: does the world help, and is it the world that does? A grid of trained arms, compared and told in words."""
