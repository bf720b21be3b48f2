"""The benchmarks, a file each; ``task.Task`` says what one is."""
