"""Starting a recipe's training on several processes, on this machine, on several, or under SLURM."""
